"""What other SDKs ask for and tell of: answered where they look, and never taken for more."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.core.action_token import MAX_USED, Used
from authz.core.ledger import Put
from authz.core.mode import Mode
from tests.builders import NOW
from tests.edges.world import ADMIN, World, policies

RULES = policies("""
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {id: reading, effect: allow, actions: ["read:*"]}
  - {id: asked, effect: require_approval, actions: ["pay:*"]}
  - {id: counted, effect: allow, actions: ["count:*"], rateLimit: {max_per_minute: 1}}
  - {id: never, effect: deny, actions: ["drop:*"], reason: nothing is dropped, alert: critical}
  - {id: sealed, effect: allow, actions: ["seal:*"], requireActionToken: true}
defaultEffect: deny
""")
CHECK, GOVERNANCE, EVALUATE = "/proxy/check", "/proxy/governance/check", "/api/v1/evaluate"
ASKING = (CHECK, GOVERNANCE, EVALUATE)
AUDIT, RECORD = "/proxy/audit", "/proxy/governance/record"
EVENT, EVENTS = "/api/v1/audit", "/api/v1/audit/batch"
KEYS = {CHECK: "X-API-Key", AUDIT: "X-API-Key", EVALUATE: "X-MeshGuard-API-Key",
        EVENT: "X-MeshGuard-API-Key", EVENTS: "X-MeshGuard-API-Key"}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, RULES)
    yield made
    made.close()


@pytest.fixture(params=[Mode.AUDIT, Mode.BYPASS])
def lenient(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, RULES, mode=request.param)
    yield made
    made.close()


def post(world: World, path: str, body: Any, agent: str = "ann", **headers: str) -> httpx.Response:
    return world.ask("POST", path, headers=world.agent(agent, **headers), json=body)


def told(path: str, **more: Any) -> dict[str, Any]:
    """A body of a path that takes reports."""
    body = {"agentId": "ann", "action": "read:x", "result": "success", **more}
    return {"events": [body]} if path == EVENTS else body


def rows(world: World) -> list[dict[str, Any]]:
    return [row for row in world.rows() if row["source"] != "control"]


# Decisions.


def test_a_check_by_body_is_200_also_for_a_denial(world: World) -> None:
    allowed = post(world, CHECK, {"agentId": "ann", "action": "read:x"})
    assert allowed.status_code == 200
    assert allowed.json()["allowed"] is True
    assert allowed.json()["policy"] == "everybody"
    assert allowed.json()["trustTier"] == "verified"
    denied = post(world, CHECK, {"agentId": "ann", "action": "drop:x"})
    assert denied.status_code == 200
    assert denied.json()["allowed"] is False
    assert denied.json()["reason"] == "nothing is dropped"
    assert denied.headers["x-meshguard-decision"] == "deny"
    assert [(row["decision"], row["source"]) for row in rows(world)] == [
        ("allow", "check"), ("deny", "check"),
    ]  # fmt: skip


def test_a_governance_check_is_as_a_check_without_a_body(world: World) -> None:
    assert post(world, GOVERNANCE, {"action": "read:x"}).status_code == 200
    denied = post(world, GOVERNANCE, {"action": "drop:x", "resource": "r"})
    assert denied.status_code == 403
    assert denied.json()["reason"] == "nothing is dropped"


def test_an_evaluation_is_200_for_whatever_was_decided(world: World) -> None:
    found = {}
    for action in ("read:x", "drop:x", "pay:x", "other:x"):
        answer = post(world, EVALUATE, {"agentId": "ann", "action": action, "timestamp": "now"})
        assert answer.status_code == 200
        assert answer.json()["evaluationId"] == rows(world)[-1]["id"]
        found[action] = answer.json()["decision"]
    assert [one["effect"] for one in found.values()] == [
        "allow", "deny", "approval_required", "deny",
    ]  # fmt: skip
    assert found["drop:x"]["alert"] == "critical"
    assert found["drop:x"]["rule"] == "never"
    assert found["pay:x"]["pendingId"].startswith("pdact_")
    assert post(world, EVALUATE, {"action": "count:x"}).json()["decision"]["effect"] == "allow"
    limited = post(world, EVALUATE, {"action": "count:x"})
    assert (limited.status_code, limited.json()["decision"]["effect"]) == (200, "deny")


def test_a_limit_is_429_where_the_sdk_knows_it(world: World) -> None:
    for path in (CHECK, GOVERNANCE):
        body = {"action": f"count:{path}"}
        post(world, path, body)
        assert post(world, path, body).status_code == 429


@pytest.mark.parametrize("path", ASKING)
def test_who_is_nobody_is_not_decided_about(world: World, path: str) -> None:
    answer = world.ask("POST", path, json={"action": "read:x"})
    assert answer.status_code == 401
    [row] = rows(world)
    assert (row["code"], row["agent_id"]) == ("token_missing", None)


def test_what_a_body_claims_to_be_is_recorded_and_not_believed(world: World) -> None:
    for path in ASKING:
        assert post(world, path, {"agentId": "the-boss", "action": "read:x"}).status_code == 200
    for row in rows(world):
        assert row["agent_id"] == "ann"
        assert row["metadata"]["claimedAgentId"] == "the-boss"


@pytest.mark.parametrize("path", KEYS)
def test_an_api_key_is_the_token_where_there_is_no_other(world: World, path: str) -> None:
    token = world.agent("ann")["Authorization"].removeprefix("Bearer ")
    body = told(path) if path not in ASKING else {"action": "read:x"}
    good = world.ask("POST", path, headers={KEYS[path]: token}, json=body)
    assert good.is_success, good.text
    assert rows(world)[-1]["agent_id"] == "ann"
    for headers in (
        {KEYS[path]: token, "Authorization": "Bearer nothing"},
        {"X-Agent-Key": token},
        {"X-API-Key" if KEYS[path] != "X-API-Key" else "X-MeshGuard-API-Key": token},
        {KEYS[path]: ADMIN["X-Admin-Token"]},
    ):
        assert world.ask("POST", path, headers=headers, json=body).status_code == 401


def test_an_api_key_means_nothing_elsewhere(world: World) -> None:
    token = world.agent("ann")["Authorization"].removeprefix("Bearer ")
    keys = {"X-API-Key": token, "X-MeshGuard-API-Key": token}
    checked = {**keys, "X-MeshGuard-Action": "read:x"}
    assert world.ask("GET", CHECK, headers=checked).status_code == 401
    admin = dict.fromkeys(keys, ADMIN["X-Admin-Token"])
    assert world.ask("GET", "/admin/agents", headers=admin).status_code == 401


@pytest.mark.parametrize("path", ASKING)
@pytest.mark.parametrize("key", ["delegated_by", "delegatedby", "Delegation", "pending_id", "costs",
                                 "provenence", "action_token"])  # fmt: skip
def test_a_slip_of_the_pen_near_what_restricts_is_refused(
    world: World, path: str, key: str
) -> None:
    answer = post(world, path, {"action": "read:x", key: "rel_1"})
    assert answer.status_code == 400
    assert "did you mean" in answer.json()["message"]
    assert rows(world) == []


@pytest.mark.parametrize("path", ASKING)
def test_other_keys_count_for_nothing(world: World, path: str) -> None:
    body: dict[str, Any] = {
        "action": "read:x",
        "sessionId": "s",
        "timestamp": None,
        "toolName": ["x"],
    }
    assert post(world, path, body).status_code == 200


@pytest.mark.parametrize("path", ASKING)
@pytest.mark.parametrize(
    "body",
    [{}, [], "x", {"action": 1}, {"action": ""}, {"action": "a" * 9000}, {"action": ["read:x"]},
     {"action": "read:x", "context": "x"}, {"action": "read:x", "agentId": {}},
     {"action": "read:x", **dict.fromkeys(map(str, range(40)))}],
)  # fmt: skip
def test_a_body_that_is_none_is_400(world: World, path: str, body: Any) -> None:
    assert post(world, path, body).status_code == 400
    assert rows(world) == []


def test_an_approval_counts_here_too(world: World) -> None:
    body = {"action": "pay:x", "resource": "bill"}
    pending = post(world, EVALUATE, body).json()["decision"]["pendingId"]
    world.admin("POST", f"/pending/{pending}/approve", json={"approver": "eve"})
    again = post(world, EVALUATE, {**body, "pendingId": pending})
    assert again.json()["decision"]["effect"] == "allow"


def test_audit_mode_lets_pass_and_says_so(lenient: World) -> None:
    answer = post(lenient, EVALUATE, {"action": "drop:x"})
    assert answer.json()["decision"]["effect"] == "allow"
    assert post(lenient, CHECK, {"action": "drop:x"}).json()["allowed"] is True
    is_audit = answer.json()["mode"] == "audit"
    assert answer.json()["decision"].get("wouldDeny", False) is is_audit
    assert len(rows(lenient)) == (2 if is_audit else 0)


# Reports.


@pytest.mark.parametrize("path", [AUDIT, RECORD, EVENT, EVENTS])
def test_a_report_is_the_agents_word_and_nothing_else(world: World, path: str) -> None:
    answer = post(world, path, told(path, agentId="the-boss"), resource="r")
    assert answer.status_code == 202
    assert answer.json()["recorded"] == 1
    [row] = rows(world)
    assert row["source"] == "client"
    assert row["agent_id"] == "ann"
    assert (row["decision"], row["enforced"], row["code"]) == ("reported",) * 3
    assert (row["policy"], row["rule"], row["rule_index"]) == (None, None, None)
    metadata = row["metadata"]
    assert metadata["claimedAgentId"] == "the-boss"
    assert metadata["reported"]["result"] == "success"


def test_what_it_says_of_a_decision_stays_what_it_says(world: World) -> None:
    body = {"action": "drop:x", "result": "allow", "policy": "everybody", "details": {"a": [1]},
            "delegatedBy": "rel_1", "timestamp": "2020-01-01T00:00:00Z"}  # fmt: skip
    assert post(world, AUDIT, body).status_code == 202
    event = {"action": "drop:x", "result": "blocked", "decision": {"effect": "allow"},
             "durationMs": 1.5, "error": "e", "timestamp": "1999"}  # fmt: skip
    assert post(world, EVENT, event).status_code == 202
    first, second = (row["metadata"]["reported"] for row in rows(world))
    assert first == {"result": "allow", "policy": "everybody", "details": {"a": [1]},
                     "delegatedBy": "rel_1"}  # fmt: skip
    assert second["decision"] == {"effect": "allow"}
    assert second["timestamp"] == "1999"
    assert {row["timestamp"][:4] for row in rows(world)} != {"2020", "1999"}
    stats = world.admin("GET", "/audit/stats").json()
    assert (stats["total"], stats["allowed"]) == (0, 0)
    assert world.admin("GET", "/analytics/overview").json()["totalRequests"] == 0
    entries = world.admin("GET", "/audit?decision=reported").json()["entries"]
    assert len(entries) == 2


def test_events_are_recorded_all_or_none(world: World) -> None:
    good = {"action": "read:x", "result": "success"}
    many = post(world, EVENTS, {"events": [good] * 100})
    assert many.json()["recorded"] == 100
    assert len(rows(world)) == 100
    assert len({row["trace_id"] for row in rows(world)}) == 1
    assert len({row["id"] for row in rows(world)}) == 100
    for bad in (
        [good, {**good, "result": "perhaps"}],
        [good, {**good, "action": "x\u0000y"}],
        [good, {**good, "durationMs": 1e30}],
        [good] * 101,
        [],
    ):
        assert post(world, EVENTS, {"events": bad}).status_code == 400
    assert len(rows(world)) == 100


def test_what_is_long_is_cut_and_said_to_be(world: World) -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    body = {"action": "read:x", "result": "r" * 5000, "details": deep, "policy": "p"}
    assert post(world, AUDIT, body).status_code == 202
    said = rows(world)[0]["metadata"]["reported"]
    assert said["result"].endswith("4488 more characters")
    assert said["leftOut"] == ["details"]
    assert said["policy"] == "p"


@pytest.mark.parametrize("path", [AUDIT, RECORD, EVENT, EVENTS])
def test_nobodys_word_is_refused_in_enforce_mode(world: World, path: str) -> None:
    assert world.ask("POST", path, json=told(path)).status_code == 401
    [row] = rows(world)
    assert (row["code"], row["decision"]) == ("token_missing", "deny")


def test_other_modes_never_block(lenient: World) -> None:
    answer = lenient.ask("POST", AUDIT, json=told(AUDIT))
    assert answer.status_code == 202
    if answer.json()["mode"] == "bypass":
        assert (answer.json()["recorded"], rows(lenient)) == (0, [])
        return
    assert answer.json()["recorded"] == 1
    [row] = rows(lenient)
    assert (row["agent_id"], row["source"], row["stage"]) == (None, "client", "auth")


def test_what_cannot_be_recorded_is_503(world: World) -> None:
    with contextlib.closing(sqlite3.connect(world.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for path in (AUDIT, EVENTS, EVALUATE):
            body = told(path) if path != EVALUATE else {"action": "read:x"}
            answer = post(world, path, body)
            assert answer.status_code == 503
            assert answer.json()["code"] == "audit_unavailable"
            assert answer.headers["retry-after"]
    assert rows(world) == []


# One agent does not use up what all share.


def test_one_agent_uses_so_many_action_tokens_and_others_are_not_kept_from_theirs(
    world: World,
) -> None:
    def sealed(agent: str) -> int:
        asked = {"action": "seal:x", "resource": "r"}
        minted = post(world, "/api/v1/action-tokens", asked, agent)
        token = minted.json()["actionToken"]
        return world.check(agent, "seal:x", resource="r", action_token=token).status_code

    world.audit.begin()
    for number in range(MAX_USED):
        used = Used(NOW + 300, "ann")
        world.state.ledger.put(Put(world.state.used, f"jti-{number}", used))
    world.audit.cancel()
    world.state.ledger.keep(durable=False)
    assert sealed("ann") == 429
    assert sealed("bob") == 200
