"""§1.2: the endpoints that one SDK has each: .NET, AutoGPT, OpenClaw."""

from typing import Any

import httpx

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import (
    Json,
    agent,
    agent_token,
    counting,
    json_object,
    refusal,
)
from tests.e2e.sidecar import Sidecar

NOW = "2026-01-02T03:04:05Z"


def _post_check(sidecar: Sidecar, headers: dict[str, str], **body: Any) -> httpx.Response:
    return sidecar.client.post(
        "/proxy/check", headers=headers, json={"agentId": "whoever", "action": "read:x", **body}
    )


@covers("§1.2 POST /proxy/check", "§3 X-API-Key")
def test_a_posted_check_is_200_also_when_it_denies(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    key = {"X-API-Key": agent_token("net-agent")}
    allowed = _post_check(enforcing, key, resource="r", context={"a": 1})
    assert allowed.status_code == 200
    body = decoders.net_check(json_object(allowed))
    assert (body["allowed"], body["policy"], body["trustTier"]) == (True, "conformance", "verified")
    denied = _post_check(enforcing, key, action="write:delete")
    assert denied.status_code == 200
    body = decoders.net_check(json_object(denied))
    assert (body["allowed"], body["reason"]) == (False, "deleting is for people")
    bearer = _post_check(enforcing, agent(), context={"env": "staging"}, action="deploy:x")
    assert bearer.json()["allowed"] is True
    assert since.forwarded() == 0
    rows = since.rows_since()
    assert [row["agent_id"] for row in rows[:2]] == ["net-agent", "net-agent"]
    assert "whoever" in rows[0]["metadata"]  # claimed, recorded, not believed
    assert [row["decision"] for row in rows] == ["allow", "deny", "allow"]


@covers("§1.2 POST /proxy/check")
def test_a_posted_check_without_a_good_token_is_no_denial(enforcing: Sidecar) -> None:
    for headers in ({}, {"X-API-Key": "nonsense"}, {"X-API-Key": enforcing.env["ADMIN_TOKEN"]}):
        refusal(_post_check(enforcing, headers), 401)
    counted = agent()
    for _ in range(2):
        assert _post_check(enforcing, counted, action="count:x").json()["allowed"] is True
    assert _post_check(enforcing, counted, action="count:x").status_code == 429


@covers("§1.2 POST /proxy/audit")
def test_what_a_client_reports_is_kept_as_its_own_words(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = agent("reporter")
    sent = {"agentId": "somebody-else", "action": "sent:mail", "result": "allow", "resource": "r",
            "details": {"to": "x"}, "policy": "made-up"}  # fmt: skip
    answer = enforcing.client.post("/proxy/audit", headers=who, json=sent)
    assert answer.status_code == 202
    json_object(answer)
    [row] = since.rows_since()
    assert (row["source"], row["agent_id"], row["action"]) == ("client", "reporter", "sent:mail")
    assert row["policy"] != "made-up"
    assert since.forwarded() == 0
    refusal(enforcing.client.post("/proxy/audit", json=sent), 401)
    refusal(enforcing.client.post("/proxy/audit", headers=who, json={"action": 7}), 400)
    refusal(enforcing.client.post("/proxy/audit", headers=who, json=[sent]), 400)


@covers("§1.2 POST /proxy/governance/check")
def test_governance_check_decides_what_its_body_names(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    path = "/proxy/governance/check"
    allowed = enforcing.client.post(
        path, headers=agent(), json={"action": "read:x", "resource": "r"}
    )
    assert allowed.status_code == 200
    assert decoders.text(json_object(allowed), "policy") == "conformance"
    denied = enforcing.client.post(path, headers=agent(), json={"action": "admin:x"})
    assert refusal(denied, 403)["reason"] == "deleting is for people"
    refusal(enforcing.client.post(path, json={"action": "read:x"}), 401)
    assert since.forwarded() == 0
    assert [row["decision"] for row in since.rows_since()] == ["allow", "deny", "deny"]


@covers("§1.2 POST /proxy/governance/record")
def test_governance_record_keeps_what_came_of_it(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    sent = {"action": "read:x", "resource": "r", "status": "done", "result": "3 pages"}
    answer = enforcing.client.post("/proxy/governance/record", headers=agent("auto"), json=sent)
    assert 200 <= answer.status_code < 300
    json_object(answer)
    [row] = since.rows_since()
    assert (row["source"], row["agent_id"], row["action"]) == ("client", "auto", "read:x")
    refusal(enforcing.client.post("/proxy/governance/record", json=sent), 401)
    assert since.forwarded() == 0


def _evaluate(
    sidecar: Sidecar, headers: dict[str, str], action: str, **more: Any
) -> httpx.Response:
    body = {"agentId": "claw", "action": action, "timestamp": NOW, **more}
    return sidecar.client.post("/api/v1/evaluate", headers=headers, json=body)


@covers("§1.2 POST /api/v1/evaluate", "§3 X-MeshGuard-API-Key")
def test_an_evaluation_is_200_whatever_it_decides(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    key = {"X-MeshGuard-API-Key": agent_token("real-claw"), "X-MeshGuard-Agent-Id": "claw"}
    effects = {"read:x": "allow", "write:delete": "deny", "pay:x": "approval_required"}
    for action, effect in effects.items():
        answer = _evaluate(enforcing, key, action, resource="r", context={"k": "v"})
        assert answer.status_code == 200
        body = decoders.openclaw_evaluation(json_object(answer))
        assert body["decision"]["effect"] == effect, body
    assert _evaluate(enforcing, agent(), "read:x").json()["decision"]["effect"] == "allow"
    rows = since.rows_since()
    assert [row["agent_id"] for row in rows[:3]] == ["real-claw"] * 3
    assert since.forwarded() == 0
    # What was not decided is no 2xx, for that blocks the tool.
    refusal(_evaluate(enforcing, {}, "read:x"), 401)
    refusal(_evaluate(enforcing, {"X-MeshGuard-API-Key": "nonsense"}, "read:x"), 401)
    refusal(_evaluate(enforcing, agent(), ""), 400)


@covers("§1.2 POST /api/v1/evaluate")
def test_an_evaluation_in_audit_mode_allows(auditing: Sidecar) -> None:
    answer = _evaluate(auditing, agent(), "write:delete")
    assert answer.status_code == 200
    assert decoders.openclaw_evaluation(json_object(answer))["decision"]["effect"] == "allow"


def _event(**more: Any) -> Json:
    return {"agentId": "claw", "action": "tool:run", "resource": "r", "context": {"a": 1},
            "result": "success", "durationMs": 12.5, "timestamp": NOW, **more}  # fmt: skip


@covers("§1.2 POST /api/v1/audit")
def test_one_event_of_a_client_is_kept(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    key = {"X-MeshGuard-API-Key": agent_token("claw-1")}
    for result in ("success", "failure", "blocked"):
        answer = enforcing.client.post("/api/v1/audit", headers=key, json=_event(result=result))
        assert 200 <= answer.status_code < 300
        json_object(answer)
    rows = since.rows_since()
    assert [(row["source"], row["agent_id"]) for row in rows] == [("client", "claw-1")] * 3
    # Neither the time nor a decision is the client's to make.
    assert all(row["timestamp"] > NOW for row in rows)
    for bad in (_event(result="perhaps"), {"action": "x"}, _event(durationMs="long")):
        refusal(enforcing.client.post("/api/v1/audit", headers=key, json=bad), 400)
    refusal(enforcing.client.post("/api/v1/audit", json=_event()), 401)
    assert [row["decision"] for row in since.rows_since()].count("reported") == 3


@covers("§1.2 POST /api/v1/audit/batch")
def test_events_in_a_batch_are_kept_all_or_none(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = agent("claw-2")
    path = "/api/v1/audit/batch"
    events = [_event(error=f"e{number}") for number in range(50)]
    answer = enforcing.client.post(path, headers=who, json={"events": events})
    assert 200 <= answer.status_code < 300
    json_object(answer)
    assert len(since.rows_since()) == 50
    bad: list[object] = [
        {"events": [*events[:3], {"action": 1}]}, {"events": []}, {"events": "x"}, {}, events,
        {"events": events * 100},
    ]  # fmt: skip
    for body in bad:
        refusal(enforcing.client.post(path, headers=who, json=body), (400, 413))
    assert len(since.rows_since()) == 50
    assert since.forwarded() == 0
