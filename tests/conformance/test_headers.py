"""§3: every header, what it does and what it must not."""

import json
from typing import Any

import jwt
import pytest

from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
    admin,
    agent,
    agent_token,
    check,
    counting,
    fresh,
    governed,
    refusal,
)
from tests.e2e.sidecar import JWT_SECRET, Sidecar, bearer
from tests.e2e.upstream import echoed


def _received(sidecar: Sidecar, headers: dict[str, str]) -> dict[str, str]:
    """The headers with which an allowed request reached the upstream."""
    answer = sidecar.get("/proxy/x", headers=headers)
    assert answer.status_code == 200, answer.text
    received: dict[str, str] = echoed(answer.text)["headers"]
    return received


@covers("§3 Authorization")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_agents_token_is_a_bearer_token(enforcing: Sidecar, scheme: str) -> None:
    who = {"Authorization": f"{scheme} {agent_token('bearer')}"}
    answer = check(enforcing, "read:x", who)
    assert (answer.status_code, answer.headers["x-meshguard-agent-id"]) == (200, "bearer")
    refusal(check(enforcing, "read:x", {"Authorization": agent_token()}), 401)


@covers("§3 X-MeshGuard-Action", "§3 X-MeshGuard-Resource")
def test_action_and_resource_are_what_the_headers_say(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = agent()
    named = enforcing.get(
        "/proxy/x", headers={**who, **governed(action="open:x", resource="pub/1")}
    )
    assert named.status_code == 200
    other = enforcing.get("/proxy/x", headers={**who, **governed(action="open:x", resource="priv")})
    refusal(other, 403)
    path = enforcing.get("/proxy/pub/2", headers={**who, **governed(action="open:x")})
    assert path.status_code == 200
    rows = since.rows_since()
    assert [(row["action"], row["resource"]) for row in rows] == [
        ("open:x", "pub/1"), ("open:x", "priv"), ("open:x", "pub/2"),
    ]  # fmt: skip


@covers("§3 X-MeshGuard-Meta")
def test_meta_is_the_context_of_conditions(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = agent()
    for meta, status in (
        ('{"env": "staging"}', 200), ('{"env": "production"}', 403), ("{}", 403), ("", 403),
        ("not json", 403), ('["env"]', 403), ('{"env": "staging", "env": "x"}', 403),
    ):  # fmt: skip
        assert check(enforcing, "deploy:x", who, meta=meta).status_code == status, meta
    first = json.loads(since.rows_since()[0]["metadata"])
    assert first["meta"] in ({"env": "staging"}, '{"env": "staging"}')


@covers("§3 X-MeshGuard-Agent-ID")
def test_a_claimed_agent_id_is_recorded_and_never_believed(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    answer = check(enforcing, "read:x", agent("real"), agent_id="somebody else")
    assert answer.status_code == 200
    assert answer.headers["x-meshguard-agent-id"] == "real"
    [row] = since.rows_since()
    assert row["agent_id"] == "real"
    assert json.loads(row["metadata"])["claimedAgentId"] == "somebody else"


@covers("§3 X-API-Key", "§3 X-MeshGuard-API-Key")
def test_api_keys_are_no_credential_of_a_proxied_request_or_an_administrator(
    enforcing: Sidecar,
) -> None:
    since = counting(enforcing)
    for name in ("X-API-Key", "X-MeshGuard-API-Key"):
        key = {name: agent_token()}
        refusal(enforcing.get("/proxy/x", headers=key), 401)
        refusal(enforcing.get("/admin/agents", headers={name: enforcing.env["ADMIN_TOKEN"]}), 401)
    assert since.forwarded() == 0


@covers("§3 X-Agent-Name")
def test_a_name_in_a_header_names_nobody(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = bearer(agent_id="named", name="From the token", tags=("conform",))
    check(enforcing, "read:x", {**who, "X-Agent-Name": "From a header"})
    assert since.rows_since()[0]["agent_name"] == "From the token"


@covers("§3 traceparent")
def test_a_traceparent_goes_on_to_the_upstream(enforcing: Sidecar) -> None:
    sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    received = _received(enforcing, {**agent(), "traceparent": sent})
    assert received["traceparent"].split("-")[1] == sent.split("-")[1]


@covers("§3 X-MeshGuard-Delegation")
def test_a_delegation_is_acted_under_by_its_id(enforcing: Sidecar) -> None:
    source, target = fresh("source"), fresh("target")
    given = enforcing.client.post(
        "/relationships",
        headers=agent(source),
        json={"targetAgentId": target, "scope": ["read:docs/*"]},
    )
    relationship = given.json()["relationship"]["id"]
    since = counting(enforcing)
    covered = check(enforcing, "read:docs/1", agent(target), delegation=relationship)
    assert covered.status_code == 200
    assert since.rows_since()[0]["delegation_id"] == relationship
    refusal(check(enforcing, "read:mail", agent(target), delegation=relationship), 403)
    refusal(check(enforcing, "read:docs/1", agent(), delegation=relationship), 403)
    refusal(check(enforcing, "read:docs/1", agent(target), delegation="rel_none"), 403)


@covers("§3 X-MeshGuard-Action-Token")
def test_an_action_token_is_good_for_one_request(enforcing: Sidecar) -> None:
    who = agent()
    since = counting(enforcing)
    headers = {**who, **governed(action="seal:x", resource="letter")}
    refusal(enforcing.get("/proxy/x", headers=headers), 403)
    minted = enforcing.client.post(
        "/api/v1/action-tokens", headers=who, json={"action": "seal:x", "resource": "letter"}
    )
    assert minted.status_code == 200
    token = minted.json()["actionToken"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert jwt.get_unverified_header(token)["typ"] == "mg-action+jwt"
    assert {"sub", "act", "res", "jti", "iat", "exp"} <= claims.keys()
    assert claims["exp"] - claims["iat"] <= 300
    sent = {**headers, **governed(action_token=token)}
    refusal(enforcing.get("/proxy/x", headers={**sent, **agent()}), 403)
    assert enforcing.get("/proxy/x", headers=sent).status_code == 200
    refusal(enforcing.get("/proxy/x", headers=sent), 403)
    # It identifies nobody, here or anywhere.
    refusal(check(enforcing, "read:x", {"Authorization": f"Bearer {token}"}), 401)
    assert since.forwarded() == 1


@covers("§3 X-MeshGuard-Provenance")
def test_the_lowest_lane_counts_and_none_is_the_lowest(enforcing: Sidecar) -> None:
    who = agent()
    assert check(enforcing, "publish:x", who, provenance="lane=2;source=crm").status_code == 200
    for low in ("lane=2, lane=0;source=web", "lane=1", "nonsense"):
        refusal(check(enforcing, "publish:x", who, provenance=low), 403)
    refusal(check(enforcing, "publish:x", who), 403)
    assert check(enforcing, "read:x", who).status_code == 200


@covers("§3 X-MeshGuard-Cost")
def test_a_declared_cost_makes_it_dearer_and_never_cheaper(enforcing: Sidecar) -> None:
    who = agent()
    for cost, left in (("6", "4"), ("1", "0")):
        answer = check(enforcing, "spend:x", who, cost=cost)
        assert (answer.status_code, answer.headers["x-meshguard-wallet-remaining"]) == (200, left)
    denied = check(enforcing, "spend:x", who)
    assert refusal(denied, 403)["rule"] == "risk-wallet:exhausted"
    assert int(denied.headers["retry-after"]) > 0


@covers("§3 X-MeshGuard-Upstream-Authorization", "§3 stripped before the upstream")
def test_the_upstream_gets_its_own_credential_and_nothing_of_ours(enforcing: Sidecar) -> None:
    ours = governed(
        action="read:x", resource="r", trace_id="t", meta="{}", agent_id="a",
        upstream_authorization="Bearer sk-real", api_key="k", invented="x",
    )  # fmt: skip
    received = _received(enforcing, {**agent(), **ours, "X-Admin-Token": "x", "X-Kept": "1"})
    assert received["authorization"] == "Bearer sk-real"
    assert received["x-kept"] == "1"
    assert [n for n in received if n.startswith(("x-meshguard", "x-admin"))] == []
    assert "authorization" not in _received(enforcing, agent())


@covers("§3 answer: Decision", "§3 answer: Policy", "§3 answer: Trace-Id", "§3 answer: Agent-Id",
        "§3 answer: Mode")  # fmt: skip
def test_answers_carry_who_decided_what(enforcing: Sidecar) -> None:
    who = {**agent("answered"), **governed(trace_id="trace-answer")}
    for path in ("/proxy/check", "/proxy/x"):
        for action, decision in (("read:x", "allow"), ("write:delete", "deny")):
            answer = enforcing.get(path, headers={**who, **governed(action=action)})
            assert answer.headers["x-meshguard-decision"] == decision
            assert answer.headers["x-meshguard-policy"] == "conformance"
            assert answer.headers["x-meshguard-trace-id"] == "trace-answer"
            assert answer.headers["x-meshguard-agent-id"] == "answered"
            assert answer.headers["x-meshguard-mode"] == "enforce"
            assert "x-meshguard-would-deny" not in answer.headers


@covers("§3 answer: Would-Deny", "§3 answer: Mode")
def test_audit_mode_says_what_it_would_deny(auditing: Sidecar) -> None:
    headers: dict[str, Any] = {**agent(), **governed(action="write:delete")}
    for path in ("/proxy/check", "/proxy/x"):
        answer = auditing.get(path, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["x-meshguard-mode"] == "audit"
        assert answer.headers["x-meshguard-decision"] == "allow"
        assert answer.headers["x-meshguard-would-deny"] == "no-deletes"
    answer = check(auditing, "read:x")
    assert "x-meshguard-would-deny" not in answer.headers


@covers("§3 answer: Decision")
def test_an_upstream_cannot_say_what_was_decided(enforcing: Sidecar) -> None:
    answer = enforcing.get("/proxy/status/403", headers=agent())
    assert answer.status_code == 403
    assert answer.headers["x-meshguard-decision"] == "allow"
    assert answer.headers["x-meshguard-policy"] == "conformance"


@covers("§3 X-Admin-Token")
def test_an_admin_token_makes_no_agent(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    refusal(enforcing.get("/proxy/x", headers=ADMIN), 401)
    bearer_of_admin = {"Authorization": f"Bearer {enforcing.env['ADMIN_TOKEN']}"}
    refusal(enforcing.get("/proxy/x", headers=bearer_of_admin), 401)
    assert since.forwarded() == 0
    assert JWT_SECRET not in str(admin(enforcing, "GET", "/agents"))
