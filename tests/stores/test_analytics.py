"""Analytics: figures of a small trail by hand, and of made-up ones by counting in Python."""

import contextlib
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from authz.core import tiers
from authz.core.audit import AuditRow
from authz.core.delegation.relationship import MAX_HOPS, Relationship
from authz.core.sources import GOVERNED
from authz.core.timestamps import rfc3339
from authz.stores.analytics import agents, delegations, policies, requests
from authz.stores.analytics.report import PERIODS, Report
from authz.stores.analytics.scan import Tally
from authz.stores.audit_log import AuditLog
from authz.stores.audit_query import opened
from tests.stores.trail import row

HOUR, DAY = 3600.0, 86_400.0
#: A Thursday, 12:30 UTC.
NOW = datetime.fromisoformat("2026-01-29T12:30:00+00:00").timestamp()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def decided(at: float, decision: str = "allow", **changes: Any) -> AuditRow:
    return row(at=at)._replace(decision=decision, **changes)


def write(path: Path, rows: Sequence[AuditRow]) -> None:
    audit = AuditLog(path, monotonic=lambda: 0.0)
    with contextlib.closing(audit):
        assert audit.open()
        audit.write([one._replace(id=f"d-{number}") for number, one in enumerate(rows)])


@contextlib.contextmanager
def reporting(
    path: Path, period: str = "24h", *, now: float = NOW, within_s: float = 60.0
) -> Iterator[Report]:
    with contextlib.closing(opened(path)) as connection:
        yield Report(connection, period, now=now, within_s=within_s)


def told(path: Path, make: Callable[..., dict[str, Any]], **params: Any) -> dict[str, Any]:
    with reporting(path, **{k: params.pop(k) for k in ("period", "within_s") if k in params}) as it:
        return make(it, **params)


SMALL = [
    # The period before.
    decided(NOW - 30 * HOUR, agent_id="a", latency_us=1000, rule_index=0),
    decided(NOW - 25 * HOUR, "deny", agent_id="b", latency_us=3000, rule_index=None),
    # This one.
    decided(NOW - 23 * HOUR, agent_id="a", agent_name="Old", latency_us=2000, rule_index=1),
    decided(NOW - 2 * HOUR, agent_id="a", agent_name="New", latency_us=4000, rule_index=0),
    decided(NOW - 1 * HOUR, "deny", agent_id="b", agent_name=None, trust_tier="trusted",
            latency_us=6000, rule_index=None, policy="q", action="write:x"),
    decided(NOW - 60, "error", agent_id=None, trust_tier=None, latency_us=0, rule_index=None,
            policy=None),
    # Nothing was decided here.
    decided(NOW - 60, source="control", latency_us=10**6),
    decided(NOW - 60, source="client", latency_us=10**6),
    # Not yet.
    decided(NOW + 60),
]  # fmt: skip


def test_the_overview_compares_with_the_period_before(path: Path) -> None:
    write(path, SMALL)
    assert told(path, requests.overview) == {
        "period": "24h",
        "totalRequests": 4,
        "enforcementRate": 50.0,
        "activeAgents": 2,
        "avgLatencyMs": 3.0,
        "trends": {
            "totalRequests": 100.0,
            "enforcementRate": 0.0,
            "activeAgents": 0,
            "avgLatencyMs": 1.0,
        },
    }


def test_of_nothing_everything_is_zero(path: Path) -> None:
    write(path, [])
    found = told(path, requests.overview)
    assert found["totalRequests"] == found["enforcementRate"] == found["avgLatencyMs"] == 0
    assert not any(found["trends"].values())
    assert told(path, agents.agents, sort="latency", limit=20)["agents"] == []
    assert told(path, policies.policies)["policies"] == []
    assert told(path, delegations.delegations) == {
        "period": "24h",
        "totalChains": 0,
        "avgDepth": 0.0,
        "blockedChains": 0,
        "topPairs": [],
    }
    assert {one["pct"] for one in told(path, agents.trust_distribution)["tiers"]} == {0.0}
    assert told(path, requests.latency_heatmap)["cells"] == []
    assert len(told(path, requests.timeseries, bucket="day", period="7d")["data"]) == 8


def test_hours_without_requests_are_there(path: Path) -> None:
    write(path, SMALL)
    found = told(path, requests.timeseries, bucket="hour")
    assert found["bucket"] == "hour"
    assert [one["time"] for one in found["data"]][:: len(found["data"]) - 1] == [
        "2026-01-28T12:00:00Z",
        "2026-01-29T12:00:00Z",
    ]
    assert len(found["data"]) == 25
    assert [one for one in found["data"] if any(list(one.values())[1:])] == [
        {"time": "2026-01-28T13:00:00Z", "allowed": 1, "denied": 0, "errors": 0},
        {"time": "2026-01-29T10:00:00Z", "allowed": 1, "denied": 0, "errors": 0},
        {"time": "2026-01-29T11:00:00Z", "allowed": 0, "denied": 1, "errors": 0},
        {"time": "2026-01-29T12:00:00Z", "allowed": 0, "denied": 0, "errors": 1},
    ]


@pytest.mark.parametrize(("sort", "first"), [("requests", "a"), ("denied", "b"), ("latency", "b")])
def test_agents_come_by_what_they_are_sorted_by(path: Path, sort: str, first: str) -> None:
    write(path, SMALL)
    found = told(path, agents.agents, sort=sort, limit=20)
    assert found["sort"] == sort
    assert found["agents"][0]["id"] == first
    assert {one["id"]: one for one in found["agents"]} == {
        "a": {
            "id": "a",
            "name": "New",
            "trustTier": "verified",
            "requests": 2,
            "allowed": 2,
            "denied": 0,
            "errors": 0,
            "avgLatencyMs": 3.0,
            "lastActive": rfc3339(NOW - 2 * HOUR),
        },
        "b": {
            "id": "b",
            "name": "b",
            "trustTier": "trusted",
            "requests": 1,
            "allowed": 0,
            "denied": 1,
            "errors": 0,
            "avgLatencyMs": 6.0,
            "lastActive": rfc3339(NOW - HOUR),
        },
    }
    assert len(told(path, agents.agents, sort=sort, limit=1)["agents"]) == 1


def test_policies_come_by_how_often_they_decided(path: Path) -> None:
    write(path, SMALL)
    assert told(path, policies.policies)["policies"] == [
        {
            "name": "p",
            "triggered": 2,
            "allowRate": 100.0,
            "denyRate": 0.0,
            "topAction": "read:doc",
        },
        {"name": "q", "triggered": 1, "allowRate": 0.0, "denyRate": 100.0, "topAction": "write:x"},
    ]


def test_tiers_are_those_of_the_newest_request_and_aliases_are_one(path: Path) -> None:
    write(path, [*SMALL, decided(NOW - 30, agent_id="c", trust_tier="standard")])
    found = {one["tier"]: one for one in told(path, agents.trust_distribution)["tiers"]}
    assert list(found) == list(reversed(tiers.TIERS))
    assert found["verified"] == {
        "tier": "verified", "agentCount": 2, "requestCount": 3, "pct": 60.0,
    }  # fmt: skip
    assert (found["trusted"]["agentCount"], found["trusted"]["requestCount"]) == (1, 1)
    assert (found["unverified"]["agentCount"], found["unverified"]["requestCount"]) == (0, 1)


def test_the_heat_map_begins_with_sunday(path: Path) -> None:
    sunday = datetime.fromisoformat("2026-01-25T03:59:59+00:00").timestamp()
    write(path, [decided(sunday, latency_us=1000), decided(sunday, latency_us=3000), *SMALL[2:3]])
    assert told(path, requests.latency_heatmap, period="30d")["cells"] == [
        {"dayOfWeek": 0, "hourOfDay": 3, "avgLatencyMs": 2.0, "count": 2},
        {"dayOfWeek": 3, "hourOfDay": 13, "avgLatencyMs": 2.0, "count": 1},
    ]


def test_a_chain_is_a_request_for_somebody_else(path: Path) -> None:
    noted = '{"delegation":{"depth":1,"root":"lead"}}'
    deep = '{"delegation":{"depth":3,"root":"lead"}}'
    write(
        path,
        [
            decided(NOW - 50, agent_id="w", delegation_id="rel_1", metadata=noted),
            decided(NOW - 40, agent_id="w", agent_name="W", delegation_id="rel_1", metadata=noted),
            decided(NOW - 30, agent_id="x", delegation_id="rel_2", metadata=deep),
            decided(NOW - 20, "deny", agent_id="x", delegation_id="rel_9", stage="delegation-fuse"),
            decided(NOW - 10, "deny", agent_id="x", delegation_id=None, stage="delegation-fuse"),
            decided(NOW - 10, agent_id="x"),
        ],
    )
    assert told(path, delegations.delegations) == {
        "period": "24h",
        "totalChains": 5,
        "avgDepth": 1.67,
        "blockedChains": 2,
        "topPairs": [
            {
                "fromAgent": "lead",
                "toAgent": "W",
                "fromAgentId": "lead",
                "toAgentId": "w",
                "count": 2,
            }
        ],
    }


def test_what_no_sidecar_wrote_breaks_nothing(path: Path) -> None:
    write(path, SMALL)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE audit SET latency_us = 'much', metadata = 'no' WHERE seq = 3")
        other.execute("UPDATE audit SET agent_id = x'ff', action = x'fe', policy = 7 WHERE seq = 4")
        other.execute("UPDATE audit SET timestamp = '2026-01-29Tnoon', latency_us = 1e300"
                      " WHERE seq = 5")  # fmt: skip
    for make, params in (
        (requests.overview, {}),
        (requests.timeseries, {"bucket": "hour"}),
        (requests.latency_heatmap, {}),
        (agents.agents, {"sort": "latency", "limit": 100}),
        (agents.trust_distribution, {}),
        (policies.policies, {}),
        (delegations.delegations, {}),
    ):
        assert told(path, make, **params)["period"] == "24h"


def test_who_has_no_time_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, SMALL)
    monkeypatch.setattr("authz.stores.analytics.scan.SLICE", 2)
    found = told(path, requests.overview, within_s=0.0)
    assert found["incomplete"] is True
    # The newest slice is always looked at.
    assert "incomplete" not in told(path, requests.overview)


def test_many_names_are_not_all_kept_but_those_that_come_often_are() -> None:
    tally: Tally[str] = Tally(10)
    for number in range(1000):
        tally.add("often", 1)
        tally.add(f"once-{number}", 1)
        assert len(tally.of) <= 20
    assert tally.ranked()[0] == ("often", [1000])
    assert tally.is_incomplete


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("period", PERIODS)
def test_sums_are_those_of_the_rows(
    path: Path, seed: int, period: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr("authz.stores.analytics.scan.SLICE", 7)
    span = PERIODS[period]
    rows = [
        decided(
            NOW - span * 2 * (1 - number / 120),
            chance.choice(["allow", "allow", "deny", "error"]),
            source=chance.choice([*GOVERNED, "control", "client"]),
            agent_id=chance.choice(["a", "b", "c", None]),
            trust_tier=chance.choice(["verified", "standard", "privileged"]),
            policy=chance.choice(["p", "q", None]),
            action=chance.choice(["read:x", "write:y"]),
            rule_index=chance.choice([None, 0, 3]),
            latency_us=chance.randrange(5000),
        )
        for number in range(120)
    ]
    write(path, rows)
    counted = [
        one for one in rows
        if one.source in GOVERNED and rfc3339(NOW - span) < one.timestamp <= rfc3339(NOW)
    ]  # fmt: skip
    overview = told(path, requests.overview, period=period)
    assert overview["totalRequests"] == len(counted)
    assert overview["activeAgents"] == len({one.agent_id for one in counted} - {None})
    latencies = sum(one.latency_us for one in counted)
    assert overview["avgLatencyMs"] == round(latencies / len(counted) / 1000, 3)
    matched = sum(one.rule_index is not None for one in counted)
    assert overview["enforcementRate"] == round(100 * matched / len(counted), 1)
    series = told(path, requests.timeseries, period=period, bucket="day")["data"]
    kinds = Counter(one.decision for one in counted)
    assert [sum(one[name] for one in series) for name in ("allowed", "denied", "errors")] == [
        kinds["allow"], kinds["deny"], kinds["error"],
    ]  # fmt: skip
    by_agent = Counter(one.agent_id for one in counted if one.agent_id)
    found = told(path, agents.agents, period=period, sort="requests", limit=100)["agents"]
    assert {one["id"]: one["requests"] for one in found} == by_agent
    assert all(one["requests"] >= two["requests"] for one, two in itertools.pairwise(found))
    by_policy = Counter(one.policy for one in counted if one.policy)
    shown = told(path, policies.policies, period=period)["policies"]
    assert {one["name"]: one["triggered"] for one in shown} == by_policy
    distributed = told(path, agents.trust_distribution, period=period)["tiers"]
    assert sum(one["requestCount"] for one in distributed) == len(counted)
    cells = told(path, requests.latency_heatmap, period=period)["cells"]
    assert sum(one["count"] for one in cells) == len(counted)


def test_what_the_ledger_says_of_a_hop_is_read_as_it_is_kept() -> None:
    # The names are repeated there, so that a reader process need not load what decides.
    assert set(delegations._Edge._fields) <= set(Relationship._fields)
    assert delegations.MAX_DEPTH == MAX_HOPS


@pytest.mark.parametrize("kept", ["", "[]", "7", '{"source": "lead"}', None, b"\xff", "[" * 9999])
def test_a_hop_that_cannot_be_read_is_in_no_pair(path: Path, kept: object) -> None:
    write(path, [decided(NOW - 10, "deny", agent_id="w", delegation_id="rel_1")])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("INSERT INTO ledger VALUES ('relationship', 'rel_1', 1, ?)", (kept,))
    found = told(path, delegations.delegations)
    assert (found["totalChains"], found["blockedChains"], found["topPairs"]) == (1, 1, [])
