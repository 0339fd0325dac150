"""§1.1: what is open to everybody."""

import contextlib
import sqlite3

from prometheus_client.parser import text_string_to_metric_families

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import agent, check, counting, json_object, refusal
from tests.e2e.sidecar import Sidecar


@covers("§1.1 GET /health")
def test_health_is_exactly_healthy(enforcing: Sidecar, auditing: Sidecar) -> None:
    since = counting(enforcing)
    for sidecar, mode in ((enforcing, "enforce"), (auditing, "audit")):
        answer = sidecar.get("/health")
        assert answer.status_code == 200
        body = json_object(answer)
        assert (body["status"], body["mode"]) == ("healthy", mode)
        assert body["checks"]["database"] == body["checks"]["policies"] == "ok"
        assert isinstance(body["uptime"], int | float)
        assert decoders.text(body, "version")
        decoders.moment(body, "timestamp")
        decoders.no_nulls(body)
    assert since.rows_since() == []


@covers("§1.1 GET /health", "§1.1 GET /ready")
def test_what_cannot_record_is_unhealthy_and_not_ready(pinned: Sidecar) -> None:
    database = pinned.env["DB_PATH"]
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        health, ready = pinned.get("/health"), pinned.get("/ready")
        other.execute("ROLLBACK")
    assert (health.status_code, json_object(health)["status"]) == (503, "unhealthy")
    assert (ready.status_code, json_object(ready)["status"]) == (503, "not_ready")
    assert set(ready.json()["checks"]) >= {"database", "policies"}
    assert pinned.get("/health").status_code == pinned.get("/ready").status_code == 200


@covers("§1.1 GET /ready")
def test_ready_counts_the_policies(enforcing: Sidecar) -> None:
    body = json_object(enforcing.get("/ready"))
    assert body["status"] == "ready"
    assert body["policies"] >= 3


@covers("§1.1 GET /")
def test_the_root_says_what_this_is(enforcing: Sidecar) -> None:
    body = json_object(enforcing.get("/"))
    assert body["name"] == "MeshGuard Gateway"
    for key in ("version", "mode", "docs"):
        assert decoders.text(body, key)


@covers("§1.1 GET /metrics")
def test_metrics_are_prometheus_text_where_they_are_on(
    enforcing: Sidecar, auditing: Sidecar
) -> None:
    check(enforcing, "spend:x", agent())
    answer = enforcing.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    # The parser takes `_total` off.
    assert {
        "meshguard_policy_checks",
        "meshguard_request_duration_seconds",
        "meshguard_active_agents",
        "meshguard_audit_entries",
    } <= names
    refusal(auditing.get("/metrics"), 404)
