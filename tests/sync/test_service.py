"""A service that synchronises: what it tells of it, and that it goes on without."""

import contextlib
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import wait_until
from tests.sync import plane as planes
from tests.sync.plane import TOKEN, Plane, Request, bundle, giving


@pytest.fixture(scope="module")
def server() -> Iterator[Plane]:
    with planes.plane() as made:
        yield made


@contextlib.contextmanager
def _serving(server: Plane, directory: Path) -> Iterator[httpx.Client]:
    (directory / "policies").mkdir()
    env = starter.environment(
        directory, 1, "http://127.0.0.1:1", SYNC_URL=server.url, SYNC_TOKEN=TOKEN,
        SYNC_INTERVAL="1", METRICS_ENABLED="true", POLICIES_DIR=str(directory / "policies"),
    )  # fmt: skip
    socket = directory / "run" / "http.sock"
    with (
        starter.start(directory, env, "serve"),
        httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://s") as client,
    ):
        wait_until(socket.exists, "the service to answer")
        yield client


def _rows(path: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(
            "SELECT action, reason FROM audit WHERE action LIKE 'incident:%' ORDER BY seq"
        ).fetchall()


def test_it_says_what_is_wrong_once_and_that_it_is_over(server: Plane) -> None:
    works = False
    serving = giving(bundle(1, "one"))

    def answer(request: Request) -> None:
        if not works or request.command == "POST":
            request.say(500, b'{"message": "no disk"}')
        else:
            serving(request)

    server.answer = answer
    with starter.directory() as directory, _serving(server, directory) as client:

        def sync() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/health").json()["sync"]
            return found

        wait_until(lambda: sync().get("problem", "").count(":") == 2, "both to fail")
        assert sync()["problem"] == "pull: the control plane fails; push: the control plane fails"
        assert sync()["lastPull"] is None
        assert sync()["pending"] > 0
        pulls = len(server.requests)
        wait_until(lambda: len(server.requests) >= pulls + 2, "some more attempts")
        assert client.get("/ready").status_code == 503
        told = client.get("/metrics").text
        assert 'meshguard_incidents_open{kind="sync_pull_failed"} 1.0' in told
        assert 'meshguard_incidents_open{kind="sync_push_failed"} 1.0' in told
        works = True
        wait_until(lambda: sync()["lastPull"], "it to work")
        assert sync()["problem"] == "push: the control plane fails"
        wait_until(lambda: client.get("/ready").status_code == 200, "the policies to be in force")
        wait_until(
            lambda: "incident:sync_pull_failed:over" in dict(_rows(directory / "audit.db")), "a row"
        )
        rows = _rows(directory / "audit.db")
        log = (directory / "stderr").read_text()
    actions = sorted(action for action, _ in rows)
    assert actions == [
        "incident:sync_pull_failed", "incident:sync_pull_failed:over", "incident:sync_push_failed",
    ]  # fmt: skip
    assert f"{server.url} fails (HTTP 500): no disk" in dict(rows)["incident:sync_pull_failed"]
    assert log.count("no disk; look at its log") == 3
    assert "sync: pulled 1 policy files, version 1" in log
    assert f"pull: {server.url} fails" in log
    assert f"push: {server.url} fails" in log
    assert TOKEN not in log + str(rows)


def test_a_turn_that_is_killed_in_the_middle_is_done_again(server: Plane) -> None:
    """As the kernel does it for want of memory: the service goes on, and says so."""
    asked = threading.Event()
    release = threading.Event()
    serving = giving(bundle(2, "one"))

    def answer(request: Request) -> None:
        if request.command == "GET" and not release.is_set():
            asked.set()
            release.wait(20)
        serving(request)

    server.answer = answer
    with starter.directory() as directory, _serving(server, directory) as client:
        assert asked.wait(20)
        service = json.loads(client.get("/health").text)
        assert service["sync"]["lastPull"] is None
        [parent] = [pid for pid, argv in starter.children(os.getpid()) if "serve" in argv]
        turns = [pid for pid, argv in starter.children(parent) if "authz.sync" in argv]
        assert turns
        for pid in turns:
            # The other direction's may have ended meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        release.set()
        wait_until(lambda: client.get("/health").json()["sync"]["lastPull"], "the next turn")
        wait_until(lambda: client.get("/ready").status_code == 200, "the policies to be in force")
        wait_until(
            lambda: "incident:sync_pull_failed:over" in dict(_rows(directory / "audit.db")), "a row"
        )
        rows = dict(_rows(directory / "audit.db"))
    assert "has ended or was too slow" in rows["incident:sync_pull_failed"]
