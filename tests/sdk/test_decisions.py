"""`check`, `enforce` and `govern`: what they say of an action, and what is kept of it."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from meshguard import (
    AuthenticationError,
    MeshGuardClient,
    MeshGuardError,
    PolicyDeniedError,
    RateLimitError,
)
from meshguard.client import GovernedContext, PolicyDecision

from authz.core.identity import mint
from tests.sdk.gateway import POLICY, Gateway, Judged
from tests.sdk.surface import drives

#: What is denied, with what the SDK is told of it.
DENIED = [
    ("drop:table", POLICY, "never", "nothing is dropped", "rule_denied"),
    ("write:code", POLICY, "default-deny", f"no rule of policy {POLICY} allows write:code",
     "default_denied"),
]  # fmt: skip


def allowed(client: MeshGuardClient, action: str, policy: str) -> PolicyDecision:
    """What the SDK makes of an allow: of the rule it is not told (CONTRACT §16.8)."""
    return PolicyDecision(True, action, "allow", policy, None, None, client.trace_id)


def attempts(client: MeshGuardClient, action: str) -> list[Callable[[], object]]:
    """Ask for it in each way there is."""
    return [
        lambda: client.check(action),
        lambda: client.enforce(action),
        lambda: client.govern(action).__enter__(),
        lambda: client.get("contacts", action),
    ]


def strangers(gateway: Gateway) -> dict[str, str | None]:
    """Tokens that nobody is known by, by the code of why."""
    secret, now = gateway.secret("JWT_SECRET"), time.time()
    claims = {"sub": "agent-x", "exp": now + 60}
    none = jwt.encode(claims, "", algorithm="none")
    revoked = gateway.agent()
    gateway.admin().revoke_agent(revoked.id)
    return {
        "token_missing": None,
        "token_malformed": "no token at all",
        "token_expired": mint(secret, agent_id="agent-x", now=now - 600, ttl_s=300),
        "token_bad_signature": jwt.encode(claims, "some other secret of 32 characters"),
        "token_wrong_algorithm": none,
        "token_wrong_issuer": jwt.encode(claims | {"iss": "https://idp"}, secret),
        "token_bad_claim": jwt.encode({"exp": now + 60}, secret),
        "agent_revoked": revoked.token,
    }


@drives(
    "MeshGuardClient", "MeshGuardClient.check", "MeshGuardClient.enforce",
    "MeshGuardClient.govern", "GovernedContext", "GovernedContext.__enter__",
    "GovernedContext.__exit__", "PolicyDecision",
)  # fmt: skip
def test_what_a_policy_allows_is_allowed(gateway: Gateway) -> None:
    agent = gateway.agent()
    policy = POLICY if gateway.records else "bypassed"
    expected = allowed(agent.client, "read:contacts", policy)
    assert agent.client.check("read:contacts") == expected
    assert agent.client.enforce("read:contacts", "contacts/7") == expected
    with agent.client.govern("read:contacts", resource="contacts/8") as decision:
        assert decision == expected
    with GovernedContext(agent.client, "read:contacts") as decision:
        assert decision == expected
    judged = Judged("read:contacts", "allow", "rule_allowed")
    gateway.assert_recorded(agent.client, agent, *[judged] * 4)
    for row, resource in zip(
        gateway.rows(agent.client), (None, "contacts/7", "contacts/8", None), strict=gateway.records
    ):
        assert (row["resource"], row["source"]) == (resource, "check")
        assert (row["policy"], row["rule"], row["rule_index"]) == (POLICY, "reading", 0)


@drives("MeshGuardClient.check", "PolicyDecision")
@pytest.mark.parametrize(("action", "policy", "rule", "reason", "code"), DENIED)
def test_a_check_tells_of_a_denial(
    gateway: Gateway, action: str, policy: str, rule: str, reason: str, code: str
) -> None:
    agent = gateway.agent()
    said = agent.client.check(action, "orders/1")
    if gateway.blocks:
        trace = agent.client.trace_id
        assert said == PolicyDecision(False, action, "deny", policy, rule, reason, trace)
    else:
        said_of = policy if gateway.records else "bypassed"
        assert said == allowed(agent.client, action, said_of)
    gateway.assert_recorded(agent.client, agent, Judged(action, "deny", code))
    for row in gateway.rows(agent.client):
        assert (row["policy"], row["rule"], row["reason"]) == (policy, rule, reason)
        assert (row["resource"], row["trust_tier"]) == ("orders/1", "verified")


@drives(
    "MeshGuardClient.enforce", "MeshGuardClient.govern", "GovernedContext.__enter__",
    "MeshGuardError",
)  # fmt: skip
@pytest.mark.parametrize(("action", "policy", "rule", "reason", "code"), DENIED)
def test_what_is_denied_is_not_done(
    gateway: Gateway, action: str, policy: str, rule: str, reason: str, code: str
) -> None:
    agent = gateway.agent()
    done = []

    def govern() -> None:
        with agent.client.govern(action):
            done.append(action)

    for attempt in (lambda: agent.client.enforce(action), govern):
        if not gateway.blocks:
            attempt()
            continue
        with pytest.raises(PolicyDeniedError) as caught:
            attempt()
        assert isinstance(caught.value, MeshGuardError)
        error = caught.value
        assert (error.action, error.policy, error.rule, error.reason) == (
            action, policy, rule, reason,
        )  # fmt: skip
        said = f"Action '{action}' denied by policy '{policy}' (rule: {rule}): {reason}"
        assert str(error) == said
    assert done == ([] if gateway.blocks else [action])
    gateway.assert_recorded(agent.client, agent, *[Judged(action, "deny", code)] * 2)


@drives("PolicyDeniedError")
def test_a_denial_is_raised_with_what_is_known_of_it(gateway: Gateway) -> None:
    nobody = gateway.agent(tags=())
    if gateway.blocks:
        with pytest.raises(PolicyDeniedError) as caught:
            nobody.client.enforce("read:contacts")
        # Nothing applies to it, so there is a rule but no policy's name of ours to show.
        assert (caught.value.policy, caught.value.rule) == ("default", "default-deny")
        assert caught.value.reason
        assert caught.value.reason in str(caught.value)
    else:
        assert nobody.client.enforce("read:contacts").allowed
        # The SDK's own words, where a denial says nothing but what was asked.
        assert PolicyDeniedError("a").reason == "Access denied by policy"
    gateway.assert_recorded(nobody.client, nobody, Judged("read:contacts", "deny", "no_policy"))


@drives("MeshGuardClient.govern", "GovernedContext.__exit__")
def test_an_error_of_the_governed_block_is_its_own(gateway: Gateway) -> None:
    agent = gateway.agent()
    with pytest.raises(ZeroDivisionError), agent.client.govern("read:contacts"):
        _ = 1 / 0
    gateway.assert_recorded(agent.client, agent, Judged("read:contacts", "allow", "rule_allowed"))


@drives("MeshGuardClient.check")
def test_a_resource_is_part_of_what_is_decided(gateway: Gateway) -> None:
    agent = gateway.agent()
    assert agent.client.check("send:mail", "public/list").allowed
    assert agent.client.check("send:mail", "private/list").allowed is not gateway.blocks
    assert agent.client.check("send:mail").allowed is not gateway.blocks
    gateway.assert_recorded(
        agent.client, agent,
        Judged("send:mail", "allow", "rule_allowed"),
        *[Judged("send:mail", "deny", "default_denied")] * 2,
    )  # fmt: skip


@drives(
    "MeshGuardClient.check", "MeshGuardClient.enforce", "MeshGuardClient.govern",
    "MeshGuardClient.get", "RateLimitError",
)  # fmt: skip
def test_too_many_is_an_error_of_its_own_and_no_denial(gateway: Gateway) -> None:
    agent = gateway.agent()
    assert agent.client.check("count:calls").allowed
    for attempt in attempts(agent.client, "count:calls"):
        if gateway.blocks:
            with pytest.raises(RateLimitError, match=r"^Rate limit exceeded$"):
                attempt()
        else:
            attempt()
    gateway.assert_recorded(
        agent.client, agent,
        Judged("count:calls", "allow", "rule_allowed"),
        *[Judged("count:calls", "deny", "rate_limited")] * 4,
    )  # fmt: skip


@drives("MeshGuardClient.check")
def test_what_somebody_has_to_approve_is_denied_until_then(gateway: Gateway) -> None:
    agent = gateway.agent()
    said = agent.client.check("pay:bill", "bills/3")
    assert said.allowed is not gateway.blocks
    if gateway.blocks:
        assert (said.policy, said.rule) == (POLICY, "asked")
        assert "approv" in said.reason
    gateway.assert_recorded(agent.client, agent, Judged("pay:bill", "deny", "approval_required"))


@drives(
    "MeshGuardClient.check", "MeshGuardClient.enforce", "MeshGuardClient.govern",
    "MeshGuardClient.get", "AuthenticationError",
)  # fmt: skip
def test_who_is_not_known_is_an_authentication_error(gateway: Gateway) -> None:
    for code, token in strangers(gateway).items():
        client, before = gateway.client(token), gateway.forwarded()
        for attempt in attempts(client, "read:contacts"):
            if gateway.blocks:
                with pytest.raises(AuthenticationError, match=r"^Invalid or expired token$"):
                    attempt()
            else:
                attempt()
        gateway.assert_recorded(client, None, *[Judged("read:contacts", "deny", code)] * 4)
        assert all(row["stage"] == "auth" for row in gateway.rows(client))
        assert gateway.forwarded() - before == (0 if gateway.blocks else 1)


@drives("MeshGuardClient", "MeshGuardClient.check")
def test_the_token_and_the_trace_of_the_demo_can_be_used(gateway: Gateway) -> None:
    """The token the banner prints, and a trace that the caller has chosen."""
    trace = f"chosen-{gateway.mode}"
    client = gateway.client(gateway.demo_token, trace_id=trace)
    assert client.check("read:docs").trace_id == trace
    assert client.check("write:delete").allowed is not gateway.blocks
    rows = gateway.rows(client)
    assert [(row["agent_id"], row["policy"], row["trace_id"]) for row in rows] == [
        ("demo-agent", "code-review-policy", trace)
    ] * (2 if gateway.records else 0)


@drives("MeshGuardClient", "MeshGuardClient.check", "MeshGuardClient.list_policies")
def test_what_it_is_not_told_it_takes_from_the_environment(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = gateway.agent()
    monkeypatch.setenv("MESHGUARD_GATEWAY_URL", f"{gateway.sidecar.url}/")
    monkeypatch.setenv("MESHGUARD_AGENT_TOKEN", agent.token)
    monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", gateway.secret("ADMIN_TOKEN"))
    with MeshGuardClient(timeout=20.0) as client:
        assert client.check("read:contacts").allowed
        assert client.list_policies()
        gateway.assert_recorded(client, agent, Judged("read:contacts", "allow", "rule_allowed"))
    with MeshGuardClient("http://127.0.0.1:9", "t", "a", 1.0, "trace") as client:
        told = (client.gateway_url, client.agent_token, client.admin_token, client.timeout)
        assert (*told, client.trace_id) == ("http://127.0.0.1:9", "t", "a", 1.0, "trace")


@drives("MeshGuardClient.check")
@pytest.mark.parametrize(
    ("action", "error", "said"),
    [
        # Nothing is asked, whatever the mode.
        ("", MeshGuardError, "Request failed: 400 .*X-MeshGuard-Action header is missing"),
        # CONTRACT §16.6: these do not leave the client.
        ("read:\u00fc", UnicodeEncodeError, "ascii"),
        ("read:x\r\nX-Admin-Token: x", httpx.LocalProtocolError, "Illegal header value"),
        (" read:x", httpx.LocalProtocolError, "Illegal header value"),
    ],
)
def test_what_is_no_action_is_an_error(
    gateway: Gateway, action: str, error: type[Exception], said: str
) -> None:
    agent = gateway.agent()
    with pytest.raises(error, match=said):
        agent.client.check(action)
    assert gateway.rows(agent.client) == []


@drives("MeshGuardClient.check")
@pytest.mark.parametrize("action", ["READ:Contacts", "read:../drop:x", "read:*"])
def test_an_action_is_read_one_way(gateway: Gateway, action: str) -> None:
    agent = gateway.agent()
    assert agent.client.check(action).allowed
    for row in gateway.rows(agent.client):
        assert (row["decision"], row["rule"]) == ("allow", "reading")


@drives("MeshGuardClient.close", "MeshGuardClient.__enter__", "MeshGuardClient.__exit__")
def test_a_closed_client_asks_nothing(gateway: Gateway) -> None:
    agent = gateway.agent()
    with gateway.client(agent.token) as client:
        assert client.check("read:contacts").allowed
    agent.client.close()
    for closed in (client, agent.client):
        with pytest.raises(RuntimeError, match="closed"):
            closed.check("read:contacts")
    gateway.assert_recorded(client, agent, Judged("read:contacts", "allow", "rule_allowed"))
    assert gateway.rows(agent.client) == []


def test_an_allow_is_never_made_up(gateway: Gateway) -> None:
    """CONTRACT §16.1: the SDK takes whatever is below 400 for an allow."""
    agent = gateway.agent()
    answers: list[dict[str, Any]] = []
    headers = {"Authorization": f"Bearer {agent.token}", "X-MeshGuard-Action": "drop:table"}
    for path in ("/proxy/check", "/proxy/check/", "/proxy//check", "/proxy/./check"):
        answer = gateway.sidecar.get(path, headers=headers)
        answers.append({"path": path, "status": answer.status_code})
    if gateway.blocks:
        assert [answer for answer in answers if answer["status"] < 400] == []
    else:
        assert answers[0]["status"] == 200
