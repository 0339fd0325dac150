"""§1.3: the trail over HTTP."""

import csv
import io
import json
from typing import Any

import pytest
from pyarrow import parquet

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import ADMIN, Json, admin, agent, check, fresh, refusal
from tests.e2e.sidecar import Sidecar


def _audit(sidecar: Sidecar, **query: Any) -> list[Json]:
    return decoders.objects(admin(sidecar, "GET", "/audit", params=query), "entries")


def _some(sidecar: Sidecar) -> str:
    """A new agent with two decisions: an allow, then a denial."""
    who = fresh("audited")
    headers = agent(who)
    assert check(sidecar, "read:x", headers, trace_id=f"trace-{who}").status_code == 200
    assert check(sidecar, "write:delete", headers, trace_id=f"trace-{who}").status_code == 403
    return who


@covers("§1.3 GET audit")
def test_the_trail_is_newest_first_and_filtered(enforcing: Sidecar) -> None:
    who = _some(enforcing)
    mine = _audit(enforcing, agentId=who)
    assert [entry["decision"] for entry in mine] == ["deny", "allow"]
    [denied] = _audit(enforcing, agentId=who, decision="deny")
    [allowed] = _audit(enforcing, agentId=who, decision="allow")
    assert (denied["action"], allowed["action"]) == ("write:delete", "read:x")
    assert [e["id"] for e in _audit(enforcing, agentId=who, action="read:x")] == [allowed["id"]]
    since = _audit(enforcing, agentId=who, **{"from": denied["timestamp"]})
    assert denied["id"] in {entry["id"] for entry in since}
    assert allowed["id"] not in {entry["id"] for entry in since}
    until = _audit(enforcing, agentId=who, to=allowed["timestamp"])
    assert denied["id"] not in {entry["id"] for entry in until}
    assert _audit(enforcing, agentId=fresh("nobody")) == []


@covers("§1.3 GET audit")
def test_the_trail_has_fifty_entries_unless_asked_for_others(enforcing: Sidecar) -> None:
    headers = agent()
    actions = {"actions": [{"action": f"read:{number}"} for number in range(60)]}
    enforcing.client.post("/api/v1/governance/batch", headers=headers, json=actions)
    assert len(_audit(enforcing)) == 50
    assert len(_audit(enforcing, limit=7)) == 7
    body = admin(enforcing, "GET", "/audit", params={"limit": 25})
    seen = [entry["id"] for entry in body["entries"]]
    for _ in range(3):
        body = admin(enforcing, "GET", "/audit", params={"limit": 25, "after": body["next"]})
        seen += [entry["id"] for entry in body["entries"]]
        if "next" not in body:
            break
    assert len(seen) == len(set(seen)) > 50


@covers("§1.3 GET audit")
@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=1000000", "limit=x", "limit=99999999999999999999",
     "decision=maybe", "from=yesterday", "to=2026-13-01T00:00:00Z", "nonsense=1", "after=x'"],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_400(enforcing: Sidecar, query: str) -> None:
    refusal(enforcing.get(f"/admin/audit?{query}", headers=ADMIN), 400)


@covers("§1.3 GET audit/stats")
def test_stats_count_a_day(enforcing: Sidecar) -> None:
    before = admin(enforcing, "GET", "/audit/stats")
    _some(enforcing)
    after = admin(enforcing, "GET", "/audit/stats")
    assert after["period"] == "24h"
    assert after["total"] == before["total"] + 2
    assert after["allowed"] == before["allowed"] + 1
    assert after["denied"] == before["denied"] + 1
    decoders.no_nulls(after)


@covers("§1.3 GET audit/trace/:id")
def test_a_trace_has_its_entries(enforcing: Sidecar) -> None:
    who = _some(enforcing)
    body = admin(enforcing, "GET", f"/audit/trace/trace-{who}")
    entries = decoders.objects(body, "entries")
    assert [entry["decision"] for entry in entries] == ["allow", "deny"]
    assert {entry["traceId"] for entry in entries} == {f"trace-{who}"}
    decoders.rust_audit(body)


@covers("§1.3 GET audit/export")
def test_an_export_has_the_same_entries_in_each_format(enforcing: Sidecar) -> None:
    who = _some(enforcing)
    expected = {entry["id"]: entry["action"] for entry in _audit(enforcing, agentId=who)}

    def export(kind: str) -> bytes:
        answer = enforcing.get(
            "/admin/audit/export", headers=ADMIN, params={"format": kind, "agentId": who}
        )
        assert answer.status_code == 200, answer.text
        assert "attachment" in answer.headers["content-disposition"]
        return answer.content

    lines = [json.loads(line) for line in export("jsonl").splitlines()]
    assert {line["id"]: line["action"] for line in lines} == expected
    rows = list(csv.DictReader(io.StringIO(export("csv").decode())))
    assert {row["id"]: row["action"] for row in rows} == expected
    table = parquet.read_table(io.BytesIO(export("parquet"))).to_pylist()
    assert {row["id"]: row["action"] for row in table} == expected
    refusal(enforcing.get("/admin/audit/export?format=exe", headers=ADMIN), 400)


def test_a_tail_shows_what_is_decided_from_now_on(enforcing: Sidecar) -> None:
    with enforcing.client.stream("GET", "/admin/audit/tail", headers=ADMIN, timeout=30) as tail:
        assert tail.status_code == 200
        assert tail.headers["content-type"].startswith("text/event-stream")
        who = _some(enforcing)
        seen: list[str] = []
        for line in tail.iter_lines():
            if line.startswith("data:"):
                entry = json.loads(line.removeprefix("data:"))
                if entry.get("agentId") == who:
                    seen.append(entry["decision"])
            if len(seen) == 2:
                break
    assert seen == ["allow", "deny"]
