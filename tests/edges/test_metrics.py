"""`GET /metrics`: names, labels and numbers as Prometheus reads them, bounded whoever asks."""

import asyncio
import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from authz.core.incident import Kind as Incident
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.edges.http import metrics
from authz.edges.http.records import STATES
from authz.edges.metrics import sources
from authz.edges.metrics.catalogue import FAMILIES, Kind
from authz.edges.metrics.counts import ACTIVE_S, BUCKETS, MAX_ACTIONS, MAX_AGENTS, OTHER, Counts
from authz.edges.metrics.exposition import written
from authz.edges.metrics.sources import Figures
from authz.settings import Settings
from authz.stores.audit_log import AuditLog
from authz.stores.bundles import BundleState, Taken
from authz.wiring import extras
from tests.builders import SECRET
from tests.edges.world import World, policies

RULES = policies(
    """
name: some
version: "1.0"
appliesTo: {agentIds: [anna, bert]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {effect: deny, actions: ["write:*"], reason: never}
defaultEffect: deny
"""
)
#: Units and endings that Prometheus asks for (https://prometheus.io/docs/practices/naming/).
UNITS = ("_seconds", "_bytes", "_total", "_info")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, RULES)
    yield world
    world.close()


def families(world: World) -> dict[str, Metric]:
    """What a scrape says, as a scraper reads it."""
    answer = world.ask("GET", "/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(world: World, name: str, **labels: str) -> float | None:
    """Of one series; None where there is none."""
    for family in families(world).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def outcome(world: World) -> Outcome:
    """A decision as observers hear of it."""
    heard: list[Outcome] = []

    class Listener:
        def decided(self, outcomes: list[Outcome], commit_ns: int) -> None:
            del commit_ns
            heard.extend(outcomes)

        def turned_away(self, mode: Mode) -> None:
            del mode

    world.gate.observers = (Listener(),)  # type: ignore[assignment,misc]
    world.check("anna", "read:x")
    return heard[0]


def test_decisions_are_counted_by_what_they_are(world: World) -> None:
    world.check("anna", "read:x")
    world.check("anna", "READ:x")
    world.check("bert", "write:x")
    world.ask("GET", "/proxy/check", headers={"X-MeshGuard-Action": "read:x"})
    assert value(world, "meshguard_policy_checks_total", decision="allow", action="read:x") == 2
    assert value(world, "meshguard_policy_checks_total", decision="deny", action="write:x") == 1
    # Whoever is not known names an action that is there already, and no new one.
    assert value(world, "meshguard_policy_checks_total", decision="deny", action="read:x") == 1
    world.ask("GET", "/proxy/check", headers={"X-MeshGuard-Action": "secret-name"})
    assert value(world, "meshguard_policy_checks_total", decision="deny", action=OTHER) == 1
    assert (
        value(
            world, "meshguard_decisions_total", source="check", stage="auth", code="token_missing",
            decision="deny", enforced="deny", mode="enforce",
        )
        == 2
    )  # fmt: skip
    assert value(world, "meshguard_active_agents") == 2
    world.now += ACTIVE_S
    assert value(world, "meshguard_active_agents") == 0
    assert value(world, "meshguard_audit_entries_total") == 5
    assert value(world, "meshguard_request_duration_seconds_count") == 5


def test_a_batch_counts_each_of_its_actions(world: World) -> None:
    asked = {"actions": [{"action": "read:a"}, {"action": "write:a"}]}
    answer = world.ask("POST", "/api/v1/governance/batch", json=asked, headers=world.agent("anna"))
    assert answer.status_code == 200
    assert value(world, "meshguard_policy_checks_total", decision="allow", action="read:a") == 1
    assert value(world, "meshguard_policy_checks_total", decision="deny", action="write:a") == 1
    assert value(world, "meshguard_request_duration_seconds_count") == 2


def test_the_mode_is_loud_and_bypass_is_no_check(world: World) -> None:
    world.gate.mode = Mode.BYPASS
    world.check("anna", "write:x")
    found = families(world)
    assert found["meshguard_policy_checks"].samples == []
    modes = {sample.labels["mode"]: sample.value for sample in found["meshguard_mode"].samples}
    assert modes == {"enforce": 0, "audit": 0, "bypass": 1}
    [counted] = found["meshguard_decisions"].samples
    assert counted.labels["mode"] == "bypass"
    assert counted.labels["code"] == "bypassed"


def test_audit_mode_shows_what_it_would_deny(world: World) -> None:
    world.gate.mode = Mode.AUDIT
    world.check("anna", "write:x")
    [counted] = families(world)["meshguard_decisions"].samples
    assert (counted.labels["decision"], counted.labels["enforced"]) == ("deny", "allow")


def test_what_is_turned_away_is_counted_without_a_decision(world: World) -> None:
    world.gate.turn_away()
    assert value(world, "meshguard_overloaded_total", mode="enforce") == 1
    assert value(world, "meshguard_audit_unrecorded_total") == 1
    assert families(world)["meshguard_decisions"].samples == []


def test_the_version_in_force_is_the_only_one(world: World) -> None:
    [version] = families(world)["meshguard_policy_version_info"].samples
    assert version.labels == {"version": world.versions.current.version}
    world.versions.reload(RULES)
    [version] = families(world)["meshguard_policy_version_info"].samples
    assert version.labels == {"version": RULES.version}
    assert value(world, "meshguard_policies") == 1


def test_names_units_and_labels_are_as_prometheus_wants_them(world: World) -> None:
    world.check("anna", "read:x")
    text = world.ask("GET", "/metrics").text
    for family in text_string_to_metric_families(text):
        full = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.documentation
        if not full.startswith("meshguard_"):
            assert full.startswith(("process_", "python_gc_"))
            continue
        said = FAMILIES[full]
        assert family.type == said.kind
        for sample in family.samples:
            assert {*sample.labels} - {"le"} == {*said.labels}, sample
    # Once each, and in the order of the catalogue.
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE meshguard_")]
    assert names == [name for name in FAMILIES if name in names]
    # What nobody has figures for is not there, and what is none is no 0.
    assert not [name for name in names if "alerts" in name or "spans" in name]
    assert "\nmeshguard_bundle" not in text


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_catalogue_keeps_the_conventions(family: object) -> None:
    assert isinstance(family, tuple)
    name, kind, said, labels = family
    assert name.endswith("_total") == (kind is Kind.COUNTER)
    assert not set(labels) & {"le", "quantile", "job", "instance"}
    if "duration" in name or "timestamp" in name:
        assert name.endswith("_seconds")
    assert said[0].isupper() or said[0] == "1"
    assert not said.endswith(".")


def test_buckets_are_those_of_the_promises(world: World) -> None:
    world.check("anna", "read:x")
    found = families(world)["meshguard_request_duration_seconds"].samples
    bounds = [sample.labels["le"] for sample in found if sample.name.endswith("_bucket")]
    assert [float(bound) for bound in bounds] == [*BUCKETS, float("inf")]
    counts = [sample.value for sample in found if sample.name.endswith("_bucket")]
    assert counts == sorted(counts)
    assert counts[-1] == 1


def test_openmetrics_is_there_for_who_asks(world: World) -> None:
    world.check("anna", "read:x")
    answer = world.ask(
        "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    found = openmetrics_families(answer.text)  # type: ignore[no-untyped-call]
    names = {family.name for family in found}
    assert "meshguard_policy_checks" in names


@pytest.mark.parametrize("version", ["x", "1.x", "", "9" * 5000])
def test_a_version_that_is_none_gets_text_too(world: World, version: str) -> None:
    accept = f"application/openmetrics-text; version={version}"
    answer = world.ask("GET", "/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(("text/plain", "application/openmetrics-text"))


def test_hostile_names_make_no_more_series_than_there_may_be(world: World) -> None:
    one = outcome(world)
    counts = Counts()
    for number in range(10_000 + MAX_ACTIONS):
        case = copy.copy(one.case)
        case.call = case.call._replace(action=f'x:{number}"\n\\{chr(0xD800)}')
        case.identity = case.identity._replace(agent_id=f"agent {number}")
        counts.decided([one._replace(case=case)], 1_000)
    checks = counts.checks()
    assert len(checks) == MAX_ACTIONS + 1
    assert checks["allow", OTHER] == 10_000
    assert counts.active(one.decided_at) == MAX_AGENTS
    # And what they are called can be written and read.
    figures = Figures()
    figures.add("meshguard_policy_checks_total", counts.checks)
    text, _ = written(figures.read(), "")
    [family] = [
        family
        for family in text_string_to_metric_families(text.decode())
        if family.name.startswith("meshguard_")
    ]
    assert len(family.samples) == MAX_ACTIONS + 1


def test_an_action_called_other_is_among_the_others_and_a_long_one_too(world: World) -> None:
    world.check("anna", OTHER)
    world.check("anna", "read:" + "x" * 200)
    checks = families(world)["meshguard_policy_checks"].samples
    assert {sample.labels["action"] for sample in checks} == {OTHER}


def test_it_answers_while_the_audit_store_is_broken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.check("anna", "read:x")
    world.audit.close()
    monkeypatch.setattr(AuditLog, "_connect", _fail)
    assert world.check("anna", "read:x").status_code == 503
    assert value(world, "meshguard_audit_writable") == 0
    assert value(world, "meshguard_audit_unrecorded_total") == 1


def _fail(_: AuditLog) -> None:
    raise OSError(28, "No space left on device")


def test_incidents_are_counted_and_what_goes_on_is_a_gauge(world: World) -> None:
    world.incidents.happened(Incident.BUNDLE_REFUSED, "a", "its signature is wrong")
    world.incidents.happened(Incident.BUNDLE_REFUSED, "a", "its signature is wrong")
    assert value(world, "meshguard_incidents_total", kind="bundle_refused") == 2
    assert value(world, "meshguard_incidents_open", kind="bundle_refused") == 1
    world.incidents.ended(Incident.BUNDLE_REFUSED, "a")
    assert value(world, "meshguard_incidents_open", kind="bundle_refused") == 0


def test_a_bundle_has_its_version_and_its_times(world: World) -> None:
    taken = Taken(b"", None, "d" * 64, "", 7, "", 1.8e9, 1.9e9)
    world.loaded = replace(world.loaded, bundle=BundleState(Path("b"), taken))
    assert value(world, "meshguard_bundle_info", version="7") == 1
    assert value(world, "meshguard_bundle_created_timestamp_seconds") == 1.8e9
    assert value(world, "meshguard_bundle_expires_timestamp_seconds") == 1.9e9
    plain = replace(taken, version=None, created=None, not_after=None)
    world.loaded = replace(world.loaded, bundle=BundleState(Path("b"), plain))
    assert value(world, "meshguard_bundle_info", version="d" * 16) == 1
    assert value(world, "meshguard_bundle_created_timestamp_seconds") is None


def test_sizes_of_the_files_are_told(world: World) -> None:
    world.check("anna", "read:x")
    assert value(world, "meshguard_audit_database_bytes") == world.database.stat().st_size
    wal = Path(f"{world.database}-wal").stat().st_size
    assert value(world, "meshguard_audit_wal_bytes") == wal


def test_only_families_of_the_catalogue_have_a_reader_and_one_each() -> None:
    figures = Figures()
    figures.value("meshguard_spans_sent_total", lambda: 3)
    for name in ("meshguard_spans_sent_total", "meshguard_unheard_of"):
        with pytest.raises(ValueError, match=name):
            figures.value(name, lambda: 0)


def test_what_is_off_is_not_even_imported() -> None:
    said = "import sys, authz.wiring; print([name for name in sys.modules if 'prometheus' in name"
    said += " or name.startswith('authz.edges.metrics') or name == 'authz.edges.http.metrics'])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert extras.observers(Settings.from_env({"JWT_SECRET": SECRET}), None) == []
    [counts] = extras.observers(
        Settings.from_env({"JWT_SECRET": SECRET, "METRICS_ENABLED": "true"}), None
    )
    assert isinstance(counts, Counts)


def test_alerts_and_traces_have_what_became_of_them() -> None:
    figures = Figures()
    sources.alerts(figures, lambda: {"sent": 3, "dead": 1})
    sources.traces(figures, lambda: {"sent": 36, "crowdedOut": 2, "refused": 5})
    text = written(figures.read(), "")[0].decode()
    for line in ('alerts_total{outcome="dead"} 1.0', "spans_sent_total 36.0",
                 'traces_lost_total{why="crowded_out"} 2.0'):  # fmt: skip
        assert f"\nmeshguard_{line}\n" in text


def test_scrapes_come_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    writing = most = 0

    async def write(work: object) -> tuple[bytes, str]:
        nonlocal writing, most
        del work
        writing += 1
        most = max(most, writing)
        await asyncio.sleep(0)
        writing -= 1
        return b"", "text/plain"

    monkeypatch.setattr(metrics, "in_thread", write)
    route = metrics.router(Figures(), lambda: None).routes[0]

    class Asked:
        headers: dict[str, str] = {}  # noqa: RUF012

    async def ask() -> None:
        await asyncio.gather(*(route.endpoint(Asked()) for _ in range(5)))  # type: ignore[attr-defined]

    asyncio.run(ask())
    assert most == 1


def test_states_have_series_before_there_is_any(world: World) -> None:
    found = families(world)["meshguard_pending_actions"].samples
    assert [sample.labels["state"] for sample in found] == list(STATES)
