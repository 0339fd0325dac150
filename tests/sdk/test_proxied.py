"""`request` and its four shorthands: what reaches the upstream, and what is kept from it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from meshguard import AuthenticationError, MeshGuardError, PolicyDeniedError

from tests.e2e.upstream import echoed
from tests.sdk.gateway import POLICY, Gateway, Judged
from tests.sdk.surface import drives

WAYS = (
    "MeshGuardClient.request", "MeshGuardClient.get", "MeshGuardClient.post",
    "MeshGuardClient.put", "MeshGuardClient.delete",
)  # fmt: skip


@drives(*WAYS)
def test_what_is_allowed_reaches_the_upstream_as_it_was_sent(gateway: Gateway) -> None:
    agent = gateway.agent()
    before = gateway.forwarded()
    sent: list[tuple[str, str, dict[str, Any], str, str]] = [
        # The method, what is called, with what, and the query and body that arrive.
        ("GET", "get", {"params": {"page": "2"}}, "page=2", ""),
        ("POST", "post", {"json": {"title": "x"}}, "", '{"title":"x"}'),
        ("PUT", "put", {"content": b"plain"}, "", "plain"),
        ("DELETE", "delete", {"params": {"force": "no"}}, "force=no", ""),
    ]
    for method, called, kwargs, query, body in sent:
        call = getattr(agent.client, called)
        answer = call("docs/intro", "read:docs", headers={"X-Kept": "kept"}, **kwargs)
        assert answer.status_code == 200
        said = echoed(answer.text)
        assert (said["method"], said["path"]) == (method, "/docs/intro")
        assert (said["query"], said["body"]) == (query, body)
    answer = agent.client.request("PATCH", "/docs/intro", "read:docs", json=[1])
    assert echoed(answer.text)["method"] == "PATCH"
    assert gateway.forwarded() - before == len(sent) + 1
    judged = Judged("read:docs", "allow", "rule_allowed")
    gateway.assert_recorded(agent.client, agent, *[judged] * (len(sent) + 1))
    for row in gateway.rows(agent.client):
        assert (row["source"], row["path"]) == ("proxy", "/proxy/docs/intro")
        assert row["resource"] == "docs/intro"


@drives("MeshGuardClient.get")
def test_nothing_of_ours_reaches_the_upstream_and_the_answer_says_who_decided(
    gateway: Gateway,
) -> None:
    agent = gateway.agent()
    answer = agent.client.get("docs", "read:docs", headers={"X-Kept": "kept"})
    received = echoed(answer.text)["headers"]
    assert received["x-kept"] == "kept"
    ours = ("authorization", "x-meshguard", "x-admin")
    assert [name for name in received if name.startswith(ours)] == []
    assert agent.token not in answer.text
    assert answer.headers["x-meshguard-decision"] == "allow"
    assert answer.headers["x-meshguard-mode"] == gateway.mode
    assert answer.headers["x-meshguard-agent-id"] == agent.id
    assert answer.headers["x-meshguard-trace-id"] == agent.client.trace_id
    assert answer.headers.get("x-meshguard-policy") == (POLICY if gateway.records else None)
    assert "x-meshguard-would-deny" not in answer.headers


@drives(*WAYS[1:])
def test_what_is_denied_never_reaches_the_upstream(gateway: Gateway) -> None:
    agent = gateway.agent()
    before = gateway.forwarded()
    # What is denied may be large, and the connection is used again (CONTRACT §16.7).
    sent: dict[str, dict[str, Any]] = {
        "get": {}, "post": {"content": b"x" * 200_000}, "put": {"json": {}}, "delete": {},
    }  # fmt: skip
    for called, kwargs in sent.items():
        call = getattr(agent.client, called)
        if gateway.blocks:
            with pytest.raises(PolicyDeniedError) as caught:
                call("tables/1", "drop:table", **kwargs)
            error = caught.value
            assert (error.action, error.policy, error.rule, error.reason) == (
                "drop:table", POLICY, "never", "nothing is dropped",
            )  # fmt: skip
        else:
            answer = call("tables/1", "drop:table", **kwargs)
            assert answer.headers["x-meshguard-decision"] == "allow"
            would_deny = "never" if gateway.records else None
            assert answer.headers.get("x-meshguard-would-deny") == would_deny
    assert gateway.forwarded() - before == (0 if gateway.blocks else len(sent))
    gateway.assert_recorded(
        agent.client, agent, *[Judged("drop:table", "deny", "rule_denied")] * len(sent)
    )
    assert agent.client.get("docs", "read:docs").status_code == 200


@drives("MeshGuardClient.get", "MeshGuardClient.post")
def test_names_of_ours_below_proxy_are_answered_and_not_forwarded(gateway: Gateway) -> None:
    agent = gateway.agent()
    before = gateway.forwarded()
    checked = agent.client.get("check", "read:docs").json()
    assert (checked["allowed"], checked["action"]) == (True, "read:docs")
    body = {"agentId": agent.id, "action": "read:docs"}
    assert agent.client.post("governance/check", "read:docs", json=body).json()["allowed"]
    reported = agent.client.post("audit", "read:docs", json={**body, "result": "allow"}).json()
    assert reported["recorded"] == (1 if gateway.records else 0)
    assert gateway.forwarded() == before


@drives(*WAYS)
@pytest.mark.parametrize(
    "path",
    ["../admin/agents", "docs/../../admin/agents", "../api/v1/admin/agents", "/../admin/audit",
     "%2e%2e/admin/agents", "..%2fadmin/agents", ".%2e/admin/agents", "..;/admin/agents",
     "..\\admin\\agents"],
)  # fmt: skip
def test_no_path_leads_an_agent_to_what_is_the_administrators(gateway: Gateway, path: str) -> None:
    """CONTRACT §16.5: the SDK resolves `..` itself, and sends the agent's token there."""
    agent = gateway.agent("privileged")
    agents = len(gateway.admin().list_agents())
    client = agent.client
    resolved = path.startswith(("../", "/../", "docs/../"))
    ways: list[Callable[[], httpx.Response]] = [
        lambda: client.get(path, "read:docs"),
        lambda: client.post(path, "read:docs", json={"name": "mine", "trustTier": "privileged"}),
        lambda: client.put(path, "read:docs", json={"trustTier": "privileged"}),
        lambda: client.delete(path, "read:docs"),
        lambda: client.request("PATCH", path, "read:docs", json={"trustTier": "privileged"}),
    ]
    for way in ways:
        try:
            answer = way()
        except MeshGuardError as error:
            # Nobody, or a method that is not even there.
            refused = isinstance(error, AuthenticationError) or "failed: 405" in str(error)
            assert refused or not resolved
        else:
            # It went to the upstream as a name like any other.
            assert not resolved
            assert "/admin/agents" not in echoed(answer.text)["path"].partition("..")[0]
            assert echoed(answer.text)["method"]
    assert len(gateway.admin().list_agents()) == agents


@drives("MeshGuardClient.get", "MeshGuardClient.request")
def test_the_upstreams_own_credential_takes_the_place_of_the_agents(gateway: Gateway) -> None:
    agent = gateway.agent()
    headers = {"X-MeshGuard-Upstream-Authorization": "Bearer sk-upstream"}
    received = echoed(agent.client.get("docs", "read:docs", headers=headers).text)["headers"]
    assert received["authorization"] == "Bearer sk-upstream"
    assert [name for name in received if name.startswith("x-meshguard")] == []
    assert "sk-upstream" not in str(gateway.rows(agent.client))


@drives("MeshGuardClient.get", "MeshGuardClient.request")
def test_two_credentials_are_none(gateway: Gateway) -> None:
    """The SDK sets its own under one spelling of the name, beside what it is given under others."""
    agent, other = gateway.agent(), gateway.agent("privileged")
    for path in ("docs", "check"):
        headers = {"authorization": f"Bearer {other.token}"}
        if gateway.blocks:
            with pytest.raises(AuthenticationError):
                agent.client.get(path, "read:docs", headers=headers)
        else:
            answer = agent.client.get(path, "read:docs", headers=headers)
            assert agent.token not in answer.text
            assert other.token not in answer.text
    gateway.assert_recorded(
        agent.client, None, *[Judged("read:docs", "deny", "token_malformed")] * 2
    )


@drives("MeshGuardClient.get", "MeshGuardClient.request")
@pytest.mark.parametrize(
    ("path", "received", "query", "resource"),
    [
        ("", "/", "", None),
        ("docs?page=2", "/docs", "page=2", "docs"),
        ("a b/\u00fc", "/a%20b/%C3%BC", "", "a b/\u00fc"),
        ("docs/./intro", "/docs/intro", "", "docs/intro"),
        ("docs/../other", "/other", "", "other"),
        ("checks", "/checks", "", "checks"),
    ],
)
def test_a_path_is_the_same_for_policy_and_upstream(
    gateway: Gateway, path: str, received: str, query: str, resource: str | None
) -> None:
    agent = gateway.agent()
    said = echoed(agent.client.get(path, "read:docs").text)
    assert (said["path"], said["query"]) == (received, query)
    assert [row["resource"] for row in gateway.rows(agent.client)] == (
        [resource] if gateway.records else []
    )
