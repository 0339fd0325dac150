"""Analytics over HTTP: what may be asked, and that it is told of what was decided."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from authz.core.delegation.issue import Terms
from tests.builders import NOW
from tests.edges.world import ADMIN, World, policies

REPORTS = (
    "overview", "timeseries", "agents", "policies", "delegations", "trust-distribution",
    "latency-heatmap",
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(
        tmp_path,
        policies("""
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rules: [{effect: allow, actions: ["read:*"]}]
defaultEffect: deny
"""),
    )
    yield made
    made.close()


def test_every_report_counts_what_was_decided(world: World) -> None:
    for action in ("read:a", "read:b", "write:c"):
        world.check("agent-1", action)
    overview = world.admin("GET", "/analytics/overview").json()
    assert (overview["totalRequests"], overview["activeAgents"]) == (3, 1)
    assert overview["enforcementRate"] == 66.7
    [agent] = world.admin("GET", "/analytics/agents?sort=denied&limit=1").json()["agents"]
    assert (agent["id"], agent["allowed"], agent["denied"]) == ("agent-1", 2, 1)
    [policy] = world.admin("GET", "/analytics/policies?period=7d").json()["policies"]
    assert (policy["name"], policy["triggered"]) == ("everybody", 3)
    series = world.admin("GET", "/analytics/timeseries?bucket=day").json()["data"]
    assert [(one["allowed"], one["denied"]) for one in series][-1] == (2, 1)
    tiers = world.admin("GET", "/analytics/trust-distribution").json()["tiers"]
    assert {one["tier"]: one["agentCount"] for one in tiers}["verified"] == 1
    heat = world.admin("GET", "/analytics/latency-heatmap").json()
    assert heat["period"] == "30d"
    assert sum(cell["count"] for cell in heat["cells"]) == 3


def test_who_acted_for_whom_comes_from_the_ledger(world: World) -> None:
    world.operations.create_agent(by="test", agent_id="lead", name="Lead")
    made = world.operations.delegate(Terms("worker", ["read:*"], NOW + 3600), "lead", by="test")
    assert world.check("worker", "read:a", delegation=made.id).status_code == 200
    found = world.admin("GET", "/analytics/delegations").json()
    assert found["totalChains"] == 1
    assert found["avgDepth"] == 1.0
    [pair] = found["topPairs"]
    assert (pair["fromAgent"], pair["toAgentId"], pair["count"]) == ("Lead", "worker", 1)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("period", ["1h", "24H", "' OR 1=1 --", "99999999999999999999d"])
def test_a_period_that_is_none_has_its_published_error(
    world: World, report: str, period: str
) -> None:
    answer = world.admin("GET", f"/analytics/{report}", params={"period": period})
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_period"
    assert "24h, 7d, 30d" in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("overview?perod=24h", "perod"),
        ("overview?period=24h&period=7d", "period: is there more than once"),
        ("timeseries?bucket=minute", "bucket"),
        ("agents?sort=name", "sort"),
        ("agents?limit=101", "limit: must be at most 100"),
        ("agents?limit=99999999999999999999", "limit"),
        ("agents?limit=0", "limit: must be at least 1"),
        ("overview?bucket=hour", "bucket"),
    ],
)
def test_what_is_not_known_is_refused(world: World, path: str, sentence: str) -> None:
    answer = world.admin("GET", f"/analytics/{path}")
    assert answer.status_code == 400
    assert sentence in answer.json()["message"]


@pytest.mark.parametrize("report", REPORTS)
def test_they_are_the_administrators_alone(world: World, report: str) -> None:
    path = f"/admin/analytics/{report}"
    assert world.ask("GET", path).status_code == 401
    assert world.ask("GET", path, headers=world.agent("agent-1")).status_code == 401
    assert world.ask("GET", f"/api/v1{path}", headers=ADMIN).status_code == 200


def test_there_are_none_without_an_admin_token(tmp_path: Path) -> None:
    world = World(tmp_path, token="")
    assert world.ask("GET", "/admin/analytics/overview", headers=ADMIN).status_code == 404
    world.close()
