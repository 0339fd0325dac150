"""§0: where what is published disagrees with itself, and what was decided."""

import json
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
import yaml

from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
    Json,
    admin,
    agent,
    agent_token,
    check,
    counting,
    fresh,
    refusal,
)
from tests.e2e.sidecar import (
    ADMIN_TOKEN,
    JWT_SECRET,
    SAMPLE_POLICIES,
    Sidecar,
    bearer,
    environment,
)


def _authz(sidecar: Sidecar, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, in the sidecar's environment."""
    return subprocess.run(
        [sys.executable, "-m", "authz", *arguments],
        cwd=sidecar.directory,
        env=sidecar.env,
        capture_output=True,
        text=True,
        check=False,
    )


@covers("§0 port")
def test_the_port_is_3100_unless_something_else_is_said(enforcing: Sidecar) -> None:
    env = environment(enforcing.directory, 0, enforcing.upstream.url, PORT="")
    said = subprocess.run(
        [sys.executable, "-m", "authz", "envoy", "config"],
        cwd=enforcing.directory,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [listener] = yaml.safe_load(said)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == 3100


@covers("§0 audit db path", "§9 own file")
def test_the_database_is_where_either_variable_says(pinned: Sidecar, enforcing: Sidecar) -> None:
    for sidecar, name in ((pinned, "DB_PATH"), (enforcing, "AUDIT_DB_PATH")):
        assert Path(sidecar.env[name]).read_bytes()[:16] == b"SQLite format 3\0"


@covers("§0 admin header", "§3 X-Admin-Token")
def test_two_headers_carry_the_admin_token_and_no_other_does(enforcing: Sidecar) -> None:
    good: list[dict[str, str]] = [ADMIN, {"Authorization": f"Bearer {ADMIN_TOKEN}"}]
    for headers in good:
        assert enforcing.get("/admin/agents", headers=headers).status_code == 200
    bad: list[dict[str, str]] = [
        {},
        {"X-MeshGuard-API-Key": ADMIN_TOKEN},
        {"X-API-Key": ADMIN_TOKEN},
        {"X-Admin-Token": ADMIN_TOKEN[:-1]},
        {"X-Admin-Token": ADMIN_TOKEN + "x"},
        {"Authorization": ADMIN_TOKEN},
        {"Authorization": f"Basic {ADMIN_TOKEN}"},
        {"X-Admin-Token": agent_token()},
        agent(tier="privileged"),
    ]
    for headers in bad:
        refusal(enforcing.get("/admin/agents", headers=headers), 401)


@covers("§0 claims")
@pytest.mark.parametrize(
    ("claim", "value", "action", "policy"),
    [
        ("tier", "trusted", "tier:x", "trusted-only"),
        ("trust", "trusted", "tier:x", "trusted-only"),
        ("trustTier", "trusted", "tier:x", "trusted-only"),
        ("orgId", "acme", "org:x", "of-the-org"),
        ("org", "acme", "org:x", "of-the-org"),
    ],
)
def test_either_spelling_of_a_claim_is_read(
    enforcing: Sidecar, claim: str, value: str, action: str, policy: str
) -> None:
    claims = jwt.decode(agent_token(), JWT_SECRET, ["HS256"])
    for name in ("tier", "trust", "trustTier", "orgId", "org"):
        claims.pop(name, None)
    signed = jwt.encode({**claims, claim: value}, JWT_SECRET, "HS256")
    answer = check(enforcing, action, {"Authorization": f"Bearer {signed}"})
    assert (answer.status_code, answer.json()["policy"]) == (200, policy)


@covers("§0 claims")
def test_a_token_of_ours_has_both_spellings_and_the_record_wins_over_it(enforcing: Sidecar) -> None:
    made = admin(
        enforcing, "POST", "/agents", status=201,
        json={"name": "claims", "trustTier": "trusted", "orgId": "acme", "tags": ["conform"]},
    )  # fmt: skip
    claims = jwt.decode(made["token"], JWT_SECRET, ["HS256"])
    assert (claims["sub"], claims["name"], claims["iss"]) == (made["id"], "claims", "meshguard")
    assert claims["tier"] == claims["trustTier"] == "trusted"
    assert (claims["orgId"], claims["tags"]) == ("acme", ["conform"])
    other = bearer(agent_id=made["id"], tier="trusted", org_id="other", tags=())
    assert check(enforcing, "org:x", other).status_code == 200
    admin(enforcing, "PATCH", f"/agents/{made['id']}", json={"trustTier": "verified"})
    assert check(enforcing, "tier:x", other).status_code == 403


@covers("§0 tiers")
@pytest.mark.parametrize("spelling", ["standard", "anonymous", "sandboxed", "Untrusted"])
def test_a_tier_is_echoed_as_it_was_sent(enforcing: Sidecar, spelling: str) -> None:
    sent = {"name": fresh("spelt"), "trustTier": spelling}
    made = admin(enforcing, "POST", "/agents", status=201, json=sent)
    assert made["trustTier"] == spelling
    shown = admin(enforcing, "GET", f"/agents/{made['id']}")
    assert (shown.get("agent") or shown)["trustTier"] == spelling


@covers("§0 403 body", "§2 403")
def test_a_denial_says_everything_that_any_sdk_looks_for(enforcing: Sidecar) -> None:
    answer = check(enforcing, "write:delete", resource="orders", trace_id="trace-403")
    body = refusal(answer, 403)
    assert body["error"] == "Forbidden"
    assert body["message"] == body["reason"] == "deleting is for people"
    assert (body["action"], body["policy"], body["rule"]) == (
        "write:delete", "conformance", "no-deletes",
    )  # fmt: skip
    assert body["decision"] == "deny"
    assert body["traceId"] == body["trace_id"] == "trace-403"


@covers("§0 trace", "§3 X-MeshGuard-Trace-ID", "§3 X-Trace-ID")
@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ({"X-MeshGuard-Trace-ID": "one"}, "one"),
        ({"X-Trace-ID": "two"}, "two"),
        ({"X-Trace-ID": "two", "X-MeshGuard-Trace-ID": "one"}, "one"),
    ],
)
def test_either_trace_header_counts_and_ours_comes_first(
    enforcing: Sidecar, sent: dict[str, str], echoed: str
) -> None:
    who = {**agent(), **sent}
    since = counting(enforcing)
    allowed = check(enforcing, "read:x", who)
    denied = check(enforcing, "write:delete", who)
    forwarded = enforcing.get("/proxy/x", headers=who)
    assert allowed.json()["traceId"] == echoed
    assert denied.json()["trace_id"] == denied.json()["traceId"] == echoed
    for answer in (allowed, denied, forwarded):
        assert answer.headers["x-meshguard-trace-id"] == echoed
    # One id for all that a client does: it is no id of a request.
    rows = since.rows_since()
    assert [row["trace_id"] for row in rows] == [echoed] * 3
    assert len({row["id"] for row in rows}) == 3


@covers("§0 revoked agent")
def test_a_revoked_agent_is_401(enforcing: Sidecar) -> None:
    made = admin(
        enforcing, "POST", "/agents", status=201, json={"name": "gone", "tags": ["conform"]}
    )
    who = {"Authorization": f"Bearer {made['token']}"}
    assert check(enforcing, "read:x", who).status_code == 200
    admin(enforcing, "DELETE", f"/agents/{made['id']}")
    since = counting(enforcing)
    refusal(check(enforcing, "read:x", who), 401)
    refusal(enforcing.get("/proxy/x", headers=who), 401)
    assert since.forwarded() == 0


@covers("§0 rule order")
def test_the_first_rule_decides(enforcing: Sidecar) -> None:
    # `never-reached` would allow it, one rule later.
    assert check(enforcing, "write:delete").json()["rule"] == "no-deletes"
    assert "[shadowed-rule]" in enforcing.log()


@covers("§0 verified delegates")
def test_a_verified_agent_may_delegate_and_one_below_may_not(enforcing: Sidecar) -> None:
    terms: Json = {"targetAgentId": fresh("target"), "scope": ["read:*"]}
    given = enforcing.client.post("/relationships", headers=agent(tier="verified"), json=terms)
    assert given.status_code == 201
    assert given.json()["relationship"]["id"].startswith("rel_")
    low = enforcing.client.post("/relationships", headers=agent(tier="basic"), json=terms)
    assert 400 <= low.status_code < 500


@covers("§0 patch and put", "§1.3 PATCH agents/:id", "§1.3 PUT agents/:id")
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_agent_is_changed_by_either_method_and_the_change_is_audited(
    enforcing: Sidecar, method: str
) -> None:
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": "old", "tags": ["a"]})
    since = counting(enforcing)
    path = f"/agents/{made['id']}"
    changed = admin(
        enforcing, method, path,
        json={"name": "new", "tags": ["b"], "trustTier": "basic", "metadata": {"team": "x"}},
    )  # fmt: skip
    assert changed["updatedAt"].endswith("Z")
    assert (changed["name"], changed["tags"], changed["trustTier"]) == ("new", ["b"], "basic")
    assert changed["metadata"] == {"team": "x"}
    [row] = since.rows_since(control=True)
    metadata = json.loads(row["metadata"])
    assert metadata["before"]["name"] == "old"
    assert metadata["after"]["name"] == "new"
    for bad in ({"trustTier": "emperor"}, {"name": 7}, {"tags": "b"}, {"nme": "x"}):
        body = enforcing.client.request(method, f"/admin{path}", headers=ADMIN, json=bad)
        refusal(body, 400)
    unknown = enforcing.client.request(
        method, "/admin/agents/nobody", headers=ADMIN, json={"name": "x"}
    )
    refusal(unknown, 404)


@covers("§0 policy test")
def test_policies_are_asked_by_position_and_by_option(enforcing: Sidecar) -> None:
    policies = ("--policy", str(SAMPLE_POLICIES), "--tag", "code-review")
    allowed = _authz(enforcing, "policy", "test", "reviewer", "read:x", *policies)
    assert (allowed.returncode, allowed.stdout.startswith("ALLOW (rule: ")) == (0, True)
    denied = _authz(enforcing, "policy", "test", "reviewer", "write:delete", *policies)
    assert denied.returncode == 1
    assert denied.stdout.startswith("DENY (rule: rules[2], policy: code-review-policy)")
    named = _authz(
        enforcing, "policy", "test", "--agent", "reviewer", "--action", "write:delete", *policies
    )
    assert named.returncode == 1
    assert named.stdout.startswith("Decision: DENY\nPolicy: ")
