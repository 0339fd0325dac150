"""§12: analytics, counted from a trail that a test has made."""

from collections.abc import Iterator

import pytest

from tests.conformance import decoders
from tests.conformance.conftest import POLICIES
from tests.conformance.rows import covers
from tests.conformance.wire import ADMIN, Json, admin, agent, check, refusal
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar, bearer
from tests.e2e.upstream import Upstream

PATHS = ("overview", "timeseries", "agents", "policies", "delegations", "trust-distribution",
         "latency-heatmap")  # fmt: skip


@pytest.fixture(scope="module")
def counted(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Five allows and three denials: of `busy` 4 and 1, of `shy` 1 and 1, of nobody 0 and 1."""
    policies = tmp_path_factory.mktemp("policies")
    (policies / "policies.yaml").write_bytes(POLICIES.read_bytes())
    with starter.running(upstream, POLICIES_DIR=str(policies)) as sidecar:
        given = sidecar.client.post(
            "/relationships",
            headers=agent("boss"),
            json={"targetAgentId": "busy", "scope": ["read:*"]},
        )
        relationship = given.json()["relationship"]["id"]
        busy, shy = agent("busy"), agent("shy", tier="basic")
        for number in range(3):
            assert check(sidecar, f"read:{number}", busy).status_code == 200
        assert check(sidecar, "read:0", busy, delegation=relationship).status_code == 200
        assert check(sidecar, "write:delete", busy).status_code == 403
        assert sidecar.get("/proxy/x", headers=shy).status_code == 200
        assert check(sidecar, "unheard:of", shy).status_code == 403
        assert check(sidecar, "read:x", bearer(agent_id="lost", tags=())).status_code == 403
        yield sidecar


def _analytics(sidecar: Sidecar, path: str, **query: str) -> Json:
    body = admin(sidecar, "GET", f"/analytics/{path}", params=query)
    decoders.no_nulls(body)
    return body


@covers("§12 period")
@pytest.mark.parametrize("path", PATHS)
def test_a_period_is_one_of_three(counted: Sidecar, path: str) -> None:
    default = "30d" if path == "latency-heatmap" else "24h"
    assert _analytics(counted, path)["period"] == default
    for period in ("24h", "7d", "30d"):
        assert _analytics(counted, path, period=period)["period"] == period
    for bad in ("1y", "", "24H ", "24h' OR 1=1", "9" * 400):
        answer = counted.get(f"/admin/analytics/{path}", headers=ADMIN, params={"period": bad})
        assert refusal(answer, 400)["error"] == "invalid_period"


@covers("§12 overview")
def test_the_overview_counts_requests(counted: Sidecar) -> None:
    body = _analytics(counted, "overview")
    assert (body["totalRequests"], body["activeAgents"]) == (8, 3)
    # Six of eight were decided by a rule.
    assert body["enforcementRate"] == pytest.approx(75, abs=0.1)
    assert body["avgLatencyMs"] > 0
    trends = body["trends"]
    assert trends.keys() >= {"totalRequests", "enforcementRate", "activeAgents", "avgLatencyMs"}


@covers("§12 timeseries")
@pytest.mark.parametrize(("bucket", "period", "least"), [("hour", "24h", 24), ("day", "30d", 30)])
def test_the_time_series_has_every_bucket(
    counted: Sidecar, bucket: str, period: str, least: int
) -> None:
    body = _analytics(counted, "timeseries", bucket=bucket, period=period)
    assert body["bucket"] == bucket
    data = decoders.objects(body, "data")
    assert least <= len(data) <= least + 1
    assert sum(point["allowed"] for point in data) == 5
    assert sum(point["denied"] for point in data) == 3
    times = [decoders.moment(point, "time") for point in data]
    assert times == sorted(set(times))
    answer = counted.get("/admin/analytics/timeseries?bucket=minute", headers=ADMIN)
    refusal(answer, 400)


@covers("§12 agents")
def test_agents_are_ranked(counted: Sidecar) -> None:
    body = _analytics(counted, "agents")
    assert body["sort"] == "requests"
    agents = {found["id"]: found for found in decoders.objects(body, "agents")}
    assert [found["id"] for found in body["agents"]][:2] == ["busy", "shy"]
    busy = agents["busy"]
    assert (busy["requests"], busy["allowed"], busy["denied"]) == (5, 4, 1)
    assert busy["trustTier"] == "verified"
    assert decoders.moment(busy, "lastActive")
    for found in body["agents"]:
        assert decoders.text(found, "name")
        assert isinstance(found["avgLatencyMs"], int | float)
    for sort in ("denied", "latency"):
        assert _analytics(counted, "agents", sort=sort)["sort"] == sort
    assert len(_analytics(counted, "agents", limit="1")["agents"]) == 1
    for bad in ("limit=101", "limit=0", "limit=x", "sort=name", "sort=requests;--"):
        refusal(counted.get(f"/admin/analytics/agents?{bad}", headers=ADMIN), 400)


@covers("§12 policies")
def test_policies_say_how_often_they_decided(counted: Sidecar) -> None:
    body = _analytics(counted, "policies")
    policies = {found["name"]: found for found in decoders.objects(body, "policies")}
    mine = policies["conformance"]
    assert mine["triggered"] == 7
    assert mine["allowRate"] + mine["denyRate"] == pytest.approx(100, abs=0.2)
    assert mine["topAction"] == "read:0"


@covers("§12 delegations")
def test_delegations_are_counted_by_pair(counted: Sidecar) -> None:
    body = _analytics(counted, "delegations")
    assert body["totalChains"] == 1
    assert body["avgDepth"] == pytest.approx(1)
    assert body["blockedChains"] == 0
    [pair] = decoders.objects(body, "topPairs")
    assert (pair["fromAgent"], pair["toAgent"], pair["count"]) == ("boss", "busy", 1)


@covers("§12 trust-distribution")
def test_tiers_share_the_requests(counted: Sidecar) -> None:
    body = _analytics(counted, "trust-distribution")
    tiers = {found["tier"]: found for found in decoders.objects(body, "tiers")}
    assert (tiers["verified"]["agentCount"], tiers["verified"]["requestCount"]) == (2, 6)
    assert (tiers["basic"]["agentCount"], tiers["basic"]["requestCount"]) == (1, 2)
    assert sum(found["pct"] for found in body["tiers"]) == pytest.approx(100, abs=0.3)


@covers("§12 latency-heatmap")
def test_the_heatmap_has_days_and_hours(counted: Sidecar) -> None:
    cells = decoders.objects(_analytics(counted, "latency-heatmap"), "cells")
    assert sum(cell["count"] for cell in cells) == 8
    for cell in cells:
        assert 0 <= cell["dayOfWeek"] <= 6
        assert 0 <= cell["hourOfDay"] <= 23
        assert cell["avgLatencyMs"] >= 0
