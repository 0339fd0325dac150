"""Enforce mode: what is allowed is forwarded without our secrets, what is denied goes nowhere."""

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import JWT_SECRET, Sidecar, bearer, token
from tests.e2e.upstream import Upstream, echoed


def test_an_allowed_request_is_forwarded_and_recorded(enforcing: Sidecar) -> None:
    answer = enforcing.get(
        "/proxy/docs/intro?page=2", headers=bearer() | {"X-MeshGuard-Trace-ID": "trace-allow"}
    )
    assert answer.status_code == 200
    said = echoed(answer.text)
    assert (said["method"], said["path"], said["query"]) == ("GET", "/docs/intro", "page=2")
    assert answer.headers["x-meshguard-decision"] == "allow"
    assert answer.headers["x-meshguard-policy"] == "code-review-policy"
    assert answer.headers["x-meshguard-trace-id"] == "trace-allow"
    assert answer.headers["x-meshguard-agent-id"] == "reviewer-1"
    assert answer.headers["x-meshguard-mode"] == "enforce"
    assert "x-meshguard-would-deny" not in answer.headers
    row = _row(enforcing, "trace-allow")
    assert row["agent_id"] == "reviewer-1"
    assert row["trust_tier"] == "verified"
    assert row["action"] == "read:docs/intro"
    assert row["resource"] == "docs/intro"
    assert row["method"] == "GET"
    assert row["path"] == "/proxy/docs/intro"
    assert (row["decision"], row["enforced"], row["mode"]) == ("allow", "allow", "enforce")
    assert (row["stage"], row["code"]) == ("policy", "rule_allowed")
    assert (row["policy"], row["rule"], row["rule_index"]) == ("code-review-policy", "rules[0]", 0)
    assert row["policy_version"]
    assert row["latency_us"] >= 0
    assert row["source"] == "proxy"


def test_a_denied_request_never_reaches_the_upstream(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits
    headers = bearer() | {"X-MeshGuard-Action": "write:delete", "X-Trace-ID": "trace-deny"}
    answer = enforcing.client.delete("/proxy/docs/intro", headers=headers)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-meshguard-decision"] == "deny"
    assert answer.headers["x-meshguard-policy"] == "code-review-policy"
    body = answer.json()
    decision_id = body.pop("decisionId")
    assert body == {
        "error": "Forbidden",
        "message": "policy code-review-policy denies write:delete",
        "reason": "policy code-review-policy denies write:delete",
        "code": "rule_denied",
        "stage": "policy",
        "action": "write:delete",
        "policy": "code-review-policy",
        "rule": "rules[2]",
        "decision": "deny",
        "mode": "enforce",
        "traceId": "trace-deny",
        "trace_id": "trace-deny",
    }
    row = _row(enforcing, "trace-deny")
    assert row["id"] == decision_id
    assert (row["decision"], row["enforced"]) == ("deny", "deny")
    assert row["rule_index"] == 2
    assert row["reason"] == body["reason"]
    assert enforcing.upstream.hits == before


@pytest.mark.parametrize(
    ("claims", "action", "status", "code", "policy"),
    [
        ({}, "write:comments", 200, "rule_allowed", "code-review-policy"),
        ({}, "write:code", 403, "default_denied", "code-review-policy"),
        ({}, "admin:users", 403, "rule_denied", "code-review-policy"),
        ({"tags": ()}, "read:docs", 403, "no_policy", "default"),
        ({"tags": (), "tier": "trusted"}, "write:code", 200, "rule_allowed", "trusted-tiers"),
        ({"tags": (), "tier": "elevated"}, "write:code", 200, "rule_allowed", "trusted-tiers"),
        ({"tags": (), "tier": "trusted"}, "read:secrets", 403, "rule_denied", "trusted-tiers"),
        ({"tier": "trusted"}, "read:secrets", 403, "rule_denied", "trusted-tiers"),
        ({"tier": "trusted"}, "write:code", 200, "rule_allowed", "trusted-tiers"),
        (
            {"tags": (), "agent_id": "release-bot"},
            "write:releases/1.0",
            200,
            "rule_allowed",
            "release-bot",
        ),
        (
            {"tags": (), "agent_id": "release-bot"},
            "delete:releases/1.0",
            403,
            "rule_denied",
            "release-bot",
        ),
    ],
)
def test_the_sample_policies_mean_what_they_say(
    enforcing: Sidecar, claims: dict[str, Any], action: str, status: int, code: str, policy: str
) -> None:
    before = enforcing.upstream.hits
    answer = enforcing.client.post(
        "/proxy/x", headers=bearer(**claims) | {"X-MeshGuard-Action": action}, json={"a": 1}
    )
    assert answer.status_code == status
    assert answer.headers["x-meshguard-policy"] == policy
    row = enforcing.rows()[-1]
    assert (row["code"], row["policy"], row["action"]) == (code, policy, action)
    assert enforcing.upstream.hits == before + (status == 200)


def _other(**changes: Any) -> str:
    claims = {"sub": "reviewer-1", "exp": time.time() + 3600, "iss": "meshguard"} | changes
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, JWT_SECRET, "HS256")


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "token_missing"),
        ("Basic dXNlcjpwYXNz", "token_missing"),
        ("Bearer", "token_missing"),
        ("Bearer not-a-token", "token_malformed"),
        ("Bearer " + "a" * 20_000, "token_malformed"),
        ("Bearer " + jwt.encode({"sub": "a"}, "another secret of more than 32 bytes"),
         "token_bad_signature"),
        ("Bearer " + jwt.encode({"sub": "a"}, "", "none"), "token_wrong_algorithm"),
        ("Bearer " + jwt.encode({"sub": "a"}, JWT_SECRET * 2, "HS512"), "token_wrong_algorithm"),
        ("Bearer " + _other(exp=1), "token_expired"),
        ("Bearer " + _other(nbf=time.time() + 10_000), "token_not_yet_valid"),
        ("Bearer " + _other(iss="somebody"), "token_wrong_issuer"),
        ("Bearer " + _other(sub=None), "token_bad_claim"),
        ("Bearer " + _other(exp=None), "token_bad_claim"),
        ("Bearer " + _other(tier="emperor"), "token_bad_claim"),
    ],
)  # fmt: skip
def test_an_unusable_credential_is_401_with_its_own_code(
    enforcing: Sidecar, authorization: str | None, code: str
) -> None:
    before = enforcing.upstream.hits
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = enforcing.get("/proxy/docs", headers=headers)
    assert answer.status_code == 401
    body = answer.json()
    assert (body["error"], body["code"], body["stage"]) == ("unauthorized", code, "auth")
    assert body["message"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
    row = enforcing.rows()[-1]
    assert (row["code"], row["agent_id"], row["decision"]) == (code, None, "deny")
    assert enforcing.upstream.hits == before


def test_the_upstream_sees_none_of_our_headers(enforcing: Sidecar) -> None:
    headers = bearer() | {
        "X-MeshGuard-Action": "read:docs",
        "X-MeshGuard-Resource": "docs",
        "X-MeshGuard-Trace-ID": "t",
        "X-MeshGuard-Agent-ID": "somebody-else",
        "X-MeshGuard-Meta": "{}",
        "X-MeshGuard-Invented": "x",
        "X-Admin-Token": "x",
        "X-Envoy-Retry-On": "5xx",
        "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
        "X-Envoy-Auth-Failure-Mode-Allowed": "true",
        "X-Kept": "kept",
    }
    received = echoed(enforcing.get("/proxy/docs", headers=headers).text)["headers"]
    assert received["x-kept"] == "kept"
    ours = ("x-meshguard-", "x-envoy-", "x-admin-token", "authorization")
    assert [name for name in received if name.startswith(ours)] == []


def test_a_claimed_agent_id_is_recorded_and_never_trusted(enforcing: Sidecar) -> None:
    enforcing.get("/proxy/docs", headers=bearer() | {"X-MeshGuard-Agent-ID": "release-bot"})
    row = enforcing.rows()[-1]
    assert row["agent_id"] == "reviewer-1"
    assert '"claimedAgentId":"release-bot"' in row["metadata"]


def test_the_agents_own_upstream_credential_replaces_its_token(enforcing: Sidecar) -> None:
    headers = bearer() | {"X-MeshGuard-Upstream-Authorization": "Bearer sk-of-the-agent"}
    received = echoed(enforcing.get("/proxy/docs", headers=headers).text)["headers"]
    assert received["authorization"] == "Bearer sk-of-the-agent"
    assert "sk-of-the-agent" not in str(enforcing.rows()[-1])


def test_a_body_and_method_pass_through(enforcing: Sidecar) -> None:
    headers = bearer() | {"X-MeshGuard-Action": "write:comments"}
    answer = enforcing.client.patch("/proxy/pulls/7", headers=headers, content="häß")
    said = echoed(answer.text)
    assert (said["method"], said["path"], said["body"]) == ("PATCH", "/pulls/7", "häß")


def test_a_connection_survives_a_denied_request_with_a_body(enforcing: Sidecar) -> None:
    denied = enforcing.client.post("/proxy/x", headers=bearer(), content=b"x" * 300_000)
    allowed = enforcing.get("/proxy/docs", headers=bearer())
    assert (denied.status_code, allowed.status_code) == (403, 200)


def test_exactly_one_row_a_request(enforcing: Sidecar) -> None:
    before = len(enforcing.rows())
    for headers in (bearer(), {}, bearer(tags=())):
        enforcing.get("/proxy/docs", headers=headers)
    assert len(enforcing.rows()) == before + 3


def test_debug_logs_hold_no_credential(upstream: Upstream) -> None:
    with starter.running(
        upstream, LOG_LEVEL="debug", PROXY_AUTHORIZATION="Bearer sk-of-the-operator"
    ) as sidecar:
        minted = token()
        answer = sidecar.get("/proxy/docs", headers={"Authorization": f"Bearer {minted}"})
        assert answer.status_code == 200
        assert minted not in sidecar.log()
        assert "sk-of-the-operator" not in sidecar.log()


def test_secrets_are_nowhere_on_disk(enforcing: Sidecar) -> None:
    minted = token()
    enforcing.get("/proxy/docs?key=sk-query", headers={"Authorization": f"Bearer {minted}"})
    kept = b"".join(path.read_bytes() for path in enforcing.directory.rglob("*") if path.is_file())
    assert minted.encode() not in kept
    assert b"sk-query" not in kept
    assert JWT_SECRET.encode() not in kept
    envoy = enforcing.child("envoy")
    assert JWT_SECRET.encode() not in Path(f"/proc/{envoy}/environ").read_bytes()


def test_operators_credential_beats_the_agents(upstream: Upstream) -> None:
    secret = "Bearer sk-of-the-operator"
    with starter.running(upstream, PROXY_AUTHORIZATION=secret) as sidecar:
        headers = bearer() | {"X-MeshGuard-Upstream-Authorization": "Bearer sk-of-the-agent"}
        received = echoed(sidecar.get("/proxy/docs", headers=headers).text)["headers"]
        assert received["authorization"] == secret
        assert secret not in sidecar.log()
        assert secret.encode() not in sidecar.database.read_bytes()


def test_an_upstream_cannot_imitate_our_headers() -> None:
    forged = [("X-MeshGuard-Would-Deny", "forged"), ("X-MeshGuard-Policy", "forged")]
    with upstreams.serving(headers=forged) as forging, starter.running(forging) as sidecar:
        answer = sidecar.get("/proxy/docs", headers=bearer())
        assert answer.headers.get_list("x-meshguard-policy") == ["code-review-policy"]
        assert "x-meshguard-would-deny" not in answer.headers


def test_a_pinned_sidecar_serves_one_agent(upstream: Upstream) -> None:
    with starter.running(upstream, SIDECAR_AGENT_ID="reviewer-1") as sidecar:
        mine = sidecar.get("/proxy/docs", headers=bearer())
        other = sidecar.get("/proxy/docs", headers=bearer(agent_id="reviewer-2"))
        assert (mine.status_code, other.status_code) == (200, 401)
        assert other.json()["code"] == "token_wrong_agent"


def _row(sidecar: Sidecar, trace_id: str) -> dict[str, Any]:
    [row] = [row for row in sidecar.rows() if row["trace_id"] == trace_id]
    return row
