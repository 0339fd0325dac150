"""Envoy as it is run for real: several workers, no admin endpoint, and an access log."""

import http.client
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import PATIENCE_S, Sidecar, bearer, token, wait_until
from tests.e2e.upstream import Upstream

DENIED = {"X-MeshGuard-Action": "write:delete"}


# Workers.


def _threads(sidecar: Sidecar, name: str) -> int:
    """How many threads of Envoy have such a name (proc(5), Linux)."""
    tasks = Path(f"/proc/{sidecar.child('envoy')}/task").iterdir()
    return sum((task / "comm").read_text().startswith(name) for task in tasks)


def test_two_workers_serve_what_one_does(upstream: Upstream) -> None:
    with starter.running(upstream, ENVOY_WORKERS="2") as sidecar:
        assert _threads(sidecar, "wrk:worker") == 2
        before = upstream.hits

        def ask(number: int) -> list[int]:
            connection = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=PATIENCE_S)
            statuses = []
            for turn in range(20):
                headers = bearer() | ({} if (number + turn) % 2 else DENIED)
                connection.request("GET", "/proxy/docs", headers=headers)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            connection.close()
            return statuses

        with ThreadPoolExecutor(8) as pool:
            statuses = [status for found in pool.map(ask, range(8)) for status in found]
        assert sorted(statuses) == [200] * 80 + [403] * 80
        assert upstream.hits == before + 80
        assert len(sidecar.rows()) == 160
        # Both have worked: connections are handed out evenly.
        shares = [
            _stat(sidecar, rf"listener\.127\.0\.0\.1_{sidecar.port}\.worker_{worker}\."
                  r"downstream_cx_total")
            for worker in range(2)
        ]  # fmt: skip
        assert min(shares) >= 3


def _stat(sidecar: Sidecar, pattern: str) -> int:
    transport = httpx.HTTPTransport(uds=str(sidecar.run_dir / "envoy-admin.sock"))
    with httpx.Client(transport=transport) as admin:
        answer = admin.get(f"http://envoy/stats?format=json&filter=^{pattern}$").json()
    return sum(int(entry["value"]) for entry in answer["stats"] if "name" in entry)


# No admin endpoint.


def _listening(sidecar: Sidecar) -> bool:
    try:
        socket.create_connection(("127.0.0.1", sidecar.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_without_an_admin_endpoint_it_starts_comes_back_and_stops(upstream: Upstream) -> None:
    with starter.running(upstream, ENVOY_ADMIN="off") as sidecar:
        assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
        sockets = {path.name for path in sidecar.run_dir.iterdir() if path.is_socket()}
        assert sockets == {"ext_authz.sock", "http.sock"}
        sidecar.until_started()
        os.kill(sidecar.child("envoy"), signal.SIGKILL)
        wait_until(lambda: "envoy is back" in sidecar.log(), "Envoy")
        assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
        assert sidecar.stop() == 0
        assert "killed" not in sidecar.log().partition("envoy is back")[2]
        assert "Traceback" not in sidecar.log()


def test_without_an_admin_endpoint_a_request_in_flight_survives_the_stop(
    upstream: Upstream,
) -> None:
    with starter.running(upstream, ENVOY_ADMIN="off") as sidecar:
        connection = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=PATIENCE_S)
        connection.putrequest("POST", "/proxy/docs")
        connection.putheader("Authorization", f"Bearer {token()}")
        connection.putheader("X-MeshGuard-Action", "read:docs")
        connection.putheader("Content-Length", "4")
        before = upstream.hits
        connection.endheaders(b"ab")
        wait_until(lambda: upstream.hits > before, "the request to be at the upstream")
        sidecar.process.send_signal(signal.SIGTERM)
        # The upstream answers once the body is complete.
        wait_until(lambda: not _listening(sidecar), "the listener to be closed")
        connection.send(b"cd")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["body"]) == (200, "abcd")
        assert answer.getheader("connection") == "close"
        connection.close()
        assert sidecar.process.wait(PATIENCE_S) == 0


def test_a_mode_change_reaches_an_envoy_without_an_admin_endpoint(upstream: Upstream) -> None:
    admin = {"X-Admin-Token": starter.ADMIN_TOKEN}
    with starter.running(upstream, ENVOY_ADMIN="off") as sidecar:
        put = sidecar.client.put("/admin/mode", headers=admin, json={"mode": "audit"})
        assert put.status_code == 200
        service = sidecar.child("service")
        os.kill(service, signal.SIGSTOP)
        os.kill(service, signal.SIGKILL)
        wait_until(
            lambda: sidecar.get("/proxy/docs").status_code == 200, "it to be forwarded all the same"
        )


# The access log.

#: What a line of a request that was decided has, besides what is of its decision.
ALWAYS = {
    "time", "method", "path", "protocol", "status", "details", "flags", "bytes_received",
    "bytes_sent", "duration_ms", "client",
}  # fmt: skip


def _lines(sidecar: Sidecar, count: int) -> list[dict[str, Any]]:
    """The log once it has so many lines, each with a request's path."""

    def found() -> list[str]:
        text = sidecar.out()
        return text[: text.rfind("\n") + 1].splitlines()

    wait_until(lambda: len(found()) >= count, f"{count} lines")
    lines = found()
    assert len(lines) == count, lines
    return [json.loads(line) for line in lines]


def test_a_line_of_the_access_log_leads_to_the_audit_row(upstream: Upstream) -> None:
    with starter.running(upstream, ACCESS_LOG="json") as sidecar:
        secret = token()
        credentials = {
            "Authorization": f"Bearer {secret}",
            "X-MeshGuard-Upstream-Authorization": "Bearer sk-very-secret",
            "Cookie": "session=very-secret",
            "User-Agent": "agent/very-secret",
        }
        sidecar.get("/proxy/docs?key=very-secret", headers=credentials)
        sidecar.get("/proxy/docs?key=very-secret", headers=credentials | DENIED)
        sidecar.get("/proxy/check?key=very-secret", headers=credentials | DENIED)
        sidecar.get("/proxy/docs%2fx?key=very-secret", headers=credentials)
        sidecar.get("/proxy/health", headers=credentials)
        sidecar.get("/nothing?key=very-secret", headers={"X-Admin-Token": "very-secret-token"})
        for probe in ("/health", "/ready"):
            assert sidecar.get(probe).status_code == 200
        # Starting, somebody has asked for `/`.
        started, allowed, denied, checked, refused, health, nothing = _lines(sidecar, 7)
        text, rows = sidecar.out(), sidecar.rows()

    assert "secret" not in text
    assert secret not in text
    assert "key=" not in text
    assert started["path"] == "/"
    assert [line["decision_id"] for line in (allowed, denied, checked, health)] == [
        row["id"] for row in rows
    ]
    assert [line["trace_id"] for line in (allowed, denied, checked, health)] == [
        row["trace_id"] for row in rows
    ]
    decided = {
        "decision_id", "trace_id", "agent_id", "action", "decision", "enforced", "code", "policy",
        "rule", "mode",
    }  # fmt: skip
    assert allowed.keys() == ALWAYS | decided | {"upstream", "cluster"}
    assert denied.keys() == ALWAYS | decided | {"cluster"}
    assert (allowed["agent_id"], allowed["action"]) == ("reviewer-1", "read:docs")
    assert [(line["decision"], line["enforced"], line["code"]) for line in (allowed, denied)] == [
        ("allow", "allow", "rule_allowed"), ("deny", "deny", "rule_denied"),
    ]  # fmt: skip
    assert (denied["policy"], denied["rule"], denied["mode"]) == (
        "code-review-policy", "rules[2]", "enforce",
    )  # fmt: skip
    # The path is the agent's, not what became of it; the numbers are numbers.
    assert [line["path"] for line in (allowed, denied, checked, health, nothing)] == [
        "/proxy/docs", "/proxy/docs", "/proxy/check", "/proxy/health", "/nothing",
    ]  # fmt: skip
    assert [line["status"] for line in (allowed, denied, checked, refused, nothing)] == [
        200, 403, 403, 400, 404,
    ]  # fmt: skip
    assert isinstance(allowed["duration_ms"], int)
    assert isinstance(allowed["bytes_sent"], int)
    assert (checked["enforced"], checked["agent_id"], checked["cluster"]) == (
        "deny", "reviewer-1", "service",
    )  # fmt: skip
    assert "decision_id" not in refused
    assert refused["details"] == "path_normalization_failed"


def test_what_an_agent_chooses_does_not_make_a_line_long_or_two(upstream: Upstream) -> None:
    with starter.running(upstream, ACCESS_LOG="json") as sidecar:
        sidecar.get("/proxy/" + "a" * 30_000, headers=bearer())
        sidecar.get('/proxy/%0a%22,"x":"', headers=bearer())
        sidecar.get("/proxy/docs", headers=bearer() | {"X-MeshGuard-Trace-ID": "t" * 200})
        _, long, odd, traced = _lines(sidecar, 4)
        lines = sidecar.out().splitlines()
    assert len(long["path"]) == 1024
    assert odd["path"].startswith("/proxy/%0A") or odd["path"].startswith("/proxy/%0a")
    assert traced["decision_id"]
    assert max(map(len, lines)) < 4096


def test_probes_are_logged_where_it_is_said(upstream: Upstream) -> None:
    with starter.running(upstream, ACCESS_LOG="json", ACCESS_LOG_PROBES="true") as sidecar:
        sidecar.get("/health")
        sidecar.get("/ready")
        assert [line["path"] for line in _lines(sidecar, 3)] == ["/", "/health", "/ready"]


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_a_request_that_nobody_decided_is_in_the_log_too(upstream: Upstream, mode: str) -> None:
    with starter.running(
        upstream, ACCESS_LOG="json", MODE=mode, DECISION_TIMEOUT_MS="100"
    ) as sidecar:
        service = sidecar.child("service")
        os.kill(service, signal.SIGSTOP)
        try:
            status = sidecar.get("/proxy/docs", headers=bearer()).status_code
        finally:
            os.kill(service, signal.SIGCONT)
        _, asked = _lines(sidecar, 2)
    assert status == (503 if mode == "enforce" else 200)
    assert asked["status"] == status
    assert "decision_id" not in asked


def test_a_probe_that_fails_is_worth_a_line(upstream: Upstream) -> None:
    with starter.running(upstream, ACCESS_LOG="json") as sidecar:
        os.kill(sidecar.child("service"), signal.SIGKILL)
        probe = sidecar.get("/health").status_code
        _, health = _lines(sidecar, 2)
    assert (health["path"], health["status"]) == ("/health", probe)
    assert probe >= 500


def test_without_one_there_is_nothing_on_stdout(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        sidecar.get("/proxy/docs", headers=bearer())
        assert sidecar.stop() == 0
        assert sidecar.out() == ""
