"""The failure matrix (DESIGN §8), each row made to happen: broken is 503, and never an allow."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from authz import envoy_config
from authz.envoy_config import EnvoyOptions
from authz.settings import Settings
from tests.e2e import sidecar as starter
from tests.e2e.bare_envoy import connects, process
from tests.e2e.sidecar import Sidecar, bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream


def _is_circuit_open(answer: httpx.Response) -> bool:
    if answer.status_code != 503:
        return False
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["code"] == "circuit_open"
    return True


def test_no_decision_in_time_is_503_and_not_forwarded(upstream: Upstream) -> None:
    with starter.running(upstream, DECISION_TIMEOUT_MS="120") as sidecar:
        service = sidecar.child("service")
        os.kill(service, signal.SIGSTOP)
        try:
            before = upstream.hits
            answer = sidecar.get("/proxy/docs", headers=bearer())
            assert _is_circuit_open(answer)
            assert "gave no decision within 120 ms" in answer.json()["message"]
            assert answer.elapsed.total_seconds() < 5  # not "until the service comes back"
            assert upstream.hits == before
            # Its own endpoints time out as well, and do not blame the upstream.
            assert sidecar.get("/health", timeout=30).json()["code"] == "circuit_open"
        finally:
            os.kill(service, signal.SIGCONT)
        wait_until(lambda: _allowed(sidecar), "decisions to resume")


def test_a_killed_service_is_503_until_it_is_back(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        first = sidecar.child("service")
        before = upstream.hits
        os.kill(first, signal.SIGKILL)
        assert _is_circuit_open(sidecar.get("/proxy/docs", headers=bearer()))
        assert upstream.hits == before
        # Its own endpoints do not blame the upstream.
        probe = sidecar.get("/health")
        assert probe.status_code == 200 or _is_circuit_open(probe)
        wait_until(lambda: _allowed(sidecar), "the service to be back")
        assert sidecar.child("service") != first
        assert "service ended (signal SIGKILL); starting it again in 0.1 s" in sidecar.log()
        # What was acknowledged before the kill is still there.
        assert [row["decision"] for row in sidecar.rows()][-1] == "allow"


def test_a_killed_envoy_comes_back(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        sidecar.until_started()
        first = sidecar.child("envoy")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: "envoy is back" in sidecar.log(), "envoy to be back")
        assert _allowed(sidecar)
        assert sidecar.child("envoy") != first


def _allowed(sidecar: Sidecar) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
    return False


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_locked_audit_database_is_503_and_recovers(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        before = upstream.hits
        with _locked(sidecar.database):
            answer = sidecar.get("/proxy/docs", headers=bearer())
            assert answer.status_code == 503
            body = answer.json()
            assert (body["code"], body["decision"]) == ("audit_unavailable", "error")
            assert answer.headers["retry-after"] == "1"
            health = sidecar.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            assert sidecar.get("/ready").status_code == 503
        assert upstream.hits == before
        assert _allowed(sidecar)
        assert sidecar.get("/health").json()["unrecorded"] == 1
        assert sidecar.get("/ready").status_code == 200
        assert len(sidecar.rows()) == 1


def test_a_locked_audit_database_does_not_block_audit_mode(upstream: Upstream) -> None:
    with starter.running(upstream, MODE="audit") as sidecar, _locked(sidecar.database):
        before = upstream.hits
        assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
        assert sidecar.get("/proxy/docs").status_code == 200
        assert upstream.hits == before + 2
        health = sidecar.get("/health").json()
        assert (health["status"], health["unrecorded"]) == ("healthy", 2)
        assert "locked" in health["checks"]["database"]


def test_audit_on_failure_allow_keeps_deciding(upstream: Upstream) -> None:
    with (
        starter.running(upstream, AUDIT_ON_FAILURE="allow") as sidecar,
        _locked(sidecar.database),
    ):
        assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
        assert sidecar.get("/proxy/docs").status_code == 401
        assert sidecar.get("/health").json()["unrecorded"] == 2


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_a_corrupt_audit_database_is_503_or_counted(upstream: Upstream, mode: str) -> None:
    with starter.directory() as path:
        database = path / "corrupt.db"
        database.write_bytes(b"this is not a database" * 500)
        with starter.running(upstream, MODE=mode, AUDIT_DB_PATH=str(database)) as sidecar:
            before = upstream.hits
            answer = sidecar.get("/proxy/docs", headers=bearer())
            forwarded = mode == "audit"
            assert answer.status_code == (200 if forwarded else 503)
            assert upstream.hits == before + forwarded
            assert "file is not a database" in sidecar.log()
            assert sidecar.get("/ready").status_code == 503
            # Mended, and nobody had to restart anything.
            database.unlink()
            wait_until(lambda: sidecar.get("/ready").status_code == 200, "the store to recover")
            assert _allowed(sidecar)


@pytest.mark.parametrize(("mode", "status"), [("enforce", 403), ("audit", 200)])
def test_without_a_valid_policy_everything_is_denied(
    upstream: Upstream, mode: str, status: int
) -> None:
    with starter.directory() as path:
        (path / "broken.yaml").write_text("name: broken\nrules:\n  - effect: allow\n   x")
        with starter.running(upstream, MODE=mode, POLICIES_DIR=str(path)) as sidecar:
            answer = sidecar.get("/proxy/docs", headers=bearer())
            assert answer.status_code == status
            assert sidecar.row()["code"] == "no_policy"
            ready = sidecar.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["checks"]["policies"] == (
                "no valid policy is loaded, 1 error in broken.yaml"
            )
            assert f"{path}/broken.yaml:4:4: error: not YAML" in sidecar.log()


def test_a_bad_policy_file_does_not_take_the_good_ones_down(upstream: Upstream) -> None:
    with starter.directory() as path:
        sample = starter.SAMPLE_POLICIES / "code-review.yaml"
        (path / "good.yaml").write_bytes(sample.read_bytes())
        (path / "bad.yaml").write_text("name: bad\nrules:\n  - effect: allwo\n    actions: [x]\n")
        with starter.running(upstream, POLICIES_DIR=str(path)) as sidecar:
            assert _allowed(sidecar)
            expected = "bad.yaml:3:13: error: unknown effect `allwo`, did you mean `allow`?"
            assert expected in sidecar.log()
            assert sidecar.get("/ready").json()["policies"] == 1


_BROKEN_STAGE = """
import asyncio, functools, os
from authz import logs, wiring
from authz.core.stages.stage import Stage
from authz.settings import Settings

def judge(case):
    raise RuntimeError("a bug in a stage")

logs.configure("info", "text", "authz")
wiring.Gate = functools.partial(wiring.Gate, chain=(Stage("broken", judge),))
asyncio.run(wiring.serve(Settings.from_env(os.environ)))
"""


@pytest.mark.parametrize(("mode", "status"), [("enforce", 503), ("audit", 200)])
def test_a_bug_in_a_stage_is_503_and_says_nothing_of_itself(
    upstream: Upstream, mode: str, status: int
) -> None:
    with starter.directory() as path:
        env = environment(path, free_port(), upstream.url, MODE=mode, AUTHZ_RUN_DIR=str(path))
        options = EnvoyOptions.of(Settings.from_env(env))
        with (
            (path / "stderr").open("w") as log,
            subprocess.Popen(
                [sys.executable, "-c", _BROKEN_STAGE], env=env, cwd=path, stderr=log
            ) as service,
            httpx.Client(base_url=f"http://127.0.0.1:{options.port}") as client,
        ):
            try:
                wait_until(options.run_dir.joinpath("http.sock").exists, "the service")
                with process(path, envoy_config.write(options, path)):
                    wait_until(lambda: connects(client), "Envoy to listen")
                    before = upstream.hits
                    answer = client.get("/proxy/docs", headers=bearer())
            finally:
                service.terminate()
        assert answer.status_code == status
        assert upstream.hits == before + (mode == "audit")
        if mode == "enforce":
            assert answer.json()["code"] == "internal"
            assert "bug" not in answer.text
        assert "RuntimeError: a bug in a stage" in (path / "stderr").read_text()
        with contextlib.closing(sqlite3.connect(path / "audit.db")) as database:
            row = database.execute(
                "SELECT decision, enforced, code FROM audit WHERE source = 'proxy'"
            ).fetchone()
        assert row == ("error", "error" if mode == "enforce" else "allow", "internal")


_TURNS_AWAY = """
import asyncio, os
from authz import logs, wiring
from authz.wiring import transport
from authz.settings import Settings

class Gate(wiring.Gate):
    def __init__(self, **parts):
        super().__init__(**parts)
        self.turn_away()

class H2cServer(transport.H2cServer):
    def __init__(self, *parts):
        super().__init__(*parts)
        # What the service is made with saves processor time where that is short.
        assert self._thrift is not None

logs.configure("info", "text", "authz")
wiring.Gate, transport.H2cServer = Gate, H2cServer
asyncio.run(wiring.serve(Settings.from_env(os.environ)))
"""


def test_calls_turned_away_last_are_on_record_and_signed_when_the_service_stops() -> None:
    with starter.directory() as path:
        env = environment(path, free_port(), "http://127.0.0.1:9", AUTHZ_RUN_DIR=str(path))
        with (
            (path / "stderr").open("w") as log,
            subprocess.Popen(
                [sys.executable, "-c", _TURNS_AWAY], env=env, cwd=path, stderr=log
            ) as service,
        ):
            try:
                wait_until(path.joinpath("http.sock").exists, "the service")
            finally:
                service.terminate()
        assert service.returncode == 0, (path / "stderr").read_text()
        with contextlib.closing(sqlite3.connect(path / "audit.db")) as database:
            [[seq]] = database.execute(
                "SELECT seq FROM audit WHERE action = 'overload' AND resource = '1 calls'"
            )
            [[signed]] = database.execute("SELECT max(seq) FROM audit_heads")
        assert signed >= seq
