"""§9: what an entry of the trail says, and to whom."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.conformance import decoders
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
    governed,
)
from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, Sidecar


def _page(sidecar: Sidecar, **query: str) -> Json:
    return admin(sidecar, "GET", "/audit", params=query)


@covers("§9 union", "§9 always there", "§9 result", "§9 meta")
def test_an_entry_is_what_every_sdk_decodes(enforcing: Sidecar) -> None:
    made = admin(
        enforcing, "POST", "/agents", status=201,
        json={"name": fresh("entry"), "orgId": "acme", "tags": ["conform"]},
    )  # fmt: skip
    who = {"Authorization": f"Bearer {made['token']}"}
    named = governed(
        action="write:delete", resource="orders/7", trace_id="trace-entry", meta='{"k": 1}'
    )
    enforcing.client.post("/proxy/orders?secret=1", headers={**who, **named})
    body = _page(enforcing, agentId=made["id"])
    [entry] = decoders.go_audit(body)
    assert decoders.rust_audit(body) == decoders.net_audit(body) == [entry]
    expected = {
        "agentId": made["id"], "agentName": made["name"], "trustTier": "verified", "orgId": "acme",
        "action": "write:delete", "resource": "orders/7", "method": "POST", "path": "/proxy/orders",
        "decision": "deny", "result": "deny", "enforced": "deny", "mode": "enforce",
        "policy": "conformance", "rule": "no-deletes", "ruleIndex": 2, "traceId": "trace-entry",
        "reason": "deleting is for people", "stage": "policy", "source": "proxy",
    }  # fmt: skip
    assert {key: entry.get(key) for key in expected} == expected
    assert entry["meta"] == {"k": 1}
    assert isinstance(entry["metadata"], dict)
    assert decoders.text(entry, "policyVersion")
    for key in ("durationMs", "latencyMs"):
        assert isinstance(entry[key], int | float)
        assert entry[key] >= 0


@covers("§9 never null", "§9 always there")
def test_no_entry_of_any_kind_has_a_null(enforcing: Sidecar) -> None:
    check(enforcing, "read:x", {})
    check(enforcing, "pay:x")
    enforcing.get("/proxy/x", headers=agent())
    enforcing.client.post(
        "/api/v1/governance/batch", headers=agent(), json={"actions": [{"action": "read:b"}]}
    )
    admin(enforcing, "POST", "/agents", status=201, json={"name": fresh("nulls")})
    body = _page(enforcing, limit="1000")
    assert len(decoders.rust_audit(body)) > 4
    decoders.go_audit(body)
    decoders.net_audit(body)


@covers("§9 one per request")
@pytest.mark.parametrize("path", ["/proxy/x", "/proxy/check"])
def test_there_is_one_entry_for_each_request(enforcing: Sidecar, path: str) -> None:
    since = counting(enforcing)
    for action in ("read:x", "write:delete", "pay:x", "unheard:of"):
        enforcing.get(path, headers={**agent(), **governed(action=action)})
    enforcing.get(path, headers=governed(action="read:x"))
    rows = since.rows_since()
    assert [row["decision"] for row in rows] == ["allow", "deny", "deny", "deny", "deny"]
    assert len({row["id"] for row in rows}) == 5


@covers("§9 no agent")
def test_who_is_not_known_is_an_entry_without_agent(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    check(enforcing, "read:x", {}, agent_id="claimed")
    [row] = since.rows_since()
    assert (row["agent_id"], row["agent_name"], row["stage"]) == (None, None, "auth")
    body = _page(enforcing, limit="1")
    [entry] = decoders.rust_audit(body)
    assert "agentId" not in entry
    assert entry["decision"] == "deny"


@covers("§9 own file")
def test_the_trail_is_a_file_of_its_own_in_wal_mode(enforcing: Sidecar) -> None:
    with contextlib.closing(sqlite3.connect(enforcing.database)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@covers("§9 secrets")
def test_no_secret_is_written_anywhere(enforcing: Sidecar) -> None:
    token = agent_token()
    upstreams = "Bearer sk-upstream-secret"
    headers = {"Authorization": f"Bearer {token}", **ADMIN}
    enforcing.get(
        "/proxy/x?api_key=sk-in-the-query",
        headers={**headers, **governed(upstream_authorization=upstreams)},
    )
    enforcing.client.post("/proxy/comments", headers=headers, content=b"sk-in-the-body")
    check(enforcing, "read:x", {"Authorization": "Bearer sk-nobody"})
    with contextlib.closing(sqlite3.connect(enforcing.database)) as database:
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    written = b"".join(
        path.read_bytes()
        for path in (enforcing.database, Path(f"{enforcing.database}-wal"))
        if path.exists()
    )
    secrets = (token, "sk-upstream-secret", "sk-in-the-query", "sk-in-the-body", "sk-nobody",
               JWT_SECRET, ADMIN_TOKEN)  # fmt: skip
    for secret in secrets:
        assert secret.encode() not in written, secret
        assert secret not in enforcing.log(), secret


@covers("§9 admin changes")
def test_what_administrators_change_is_kept_with_before_and_after(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": "first"})
    path = f"/agents/{made['id']}"
    admin(enforcing, "PATCH", path, json={"name": "second"})
    admin(enforcing, "DELETE", path, json={"reason": "left"})
    rows = [row for row in since.rows_since(control=True) if row["resource"] == made["id"]]
    assert all(row["source"] == "control" for row in rows)
    told = {row["action"]: json.loads(row["metadata"] or "{}") for row in rows}
    assert told["agent:create"]["after"]["name"] == "first"
    assert "before" not in told["agent:create"] or not told["agent:create"]["before"]
    assert told["agent:update"]["before"]["name"] == "first"
    assert told["agent:update"]["after"]["name"] == "second"
    assert told["agent:revoke"]["after"]
    assert made["token"] not in json.dumps([dict(row, hash=0, prev_hash=0) for row in rows])
