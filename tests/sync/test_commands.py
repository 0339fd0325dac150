"""`authz sync` as it is typed: what it prints, and what it ends with."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from authz.cli import app
from authz.sync.state import State
from tests.e2e.sidecar import free_port
from tests.stores.trail import World
from tests.sync import plane as planes
from tests.sync.plane import TOKEN, Plane, bundle, giving


@pytest.fixture(scope="module")
def server() -> Iterator[Plane]:
    with planes.plane() as made:
        yield made


def _run(directory: Path, *arguments: str, **env: str) -> Any:
    given = {
        "ADMIN_TOKEN": TOKEN,
        "POLICIES_DIR": str(directory / "policies"),
        "AUDIT_DB_PATH": str(directory / "audit.db"),
        "NO_COLOR": "1",
        **env,
    }
    return CliRunner().invoke(app, ["sync", *arguments], env=given)


def test_pull_says_what_it_did(server: Plane, tmp_path: Path) -> None:
    server.answer = giving(bundle(4, "one"), etag='"a"')
    done = _run(tmp_path, "pull", SYNC_URL=server.url)
    assert done.exit_code == 0, done.output
    assert "who made the bundle is not known" in done.stderr
    said = {
        key: value for key, _, value in (line.partition(" ") for line in done.stdout.splitlines())
    }
    assert said["version"].strip() == "4"
    again = json.loads(_run(tmp_path, "pull", "--url", server.url, "--json").stdout)
    assert (again["changed"], again["files"]) == (False, 1)
    state = json.loads(_run(tmp_path, "status", "--json", SYNC_URL=server.url).stdout)
    assert state["version"] == 4
    assert state["lastPull"] == again["at"]


@pytest.mark.parametrize(
    ("status", "code"), [(401, 3), (302, 5), (404, 5), (500, 5), (503, 5), (200, 5)]
)
def test_exit_codes(server: Plane, tmp_path: Path, status: int, code: int) -> None:
    server.answer = lambda request: request.say(status, b"<html>", content_type="text/html")
    done = _run(tmp_path, "pull", "--json", SYNC_URL=server.url)
    assert done.exit_code == code, done.output
    assert json.loads(done.stdout)["message"] in done.stderr
    assert TOKEN not in done.output


def test_what_is_refused_here_is_1_and_settings_are_2(server: Plane, tmp_path: Path) -> None:
    server.answer = giving(b"\x1f\x8b nothing of the kind")
    assert _run(tmp_path, "pull", SYNC_URL=server.url).exit_code == 1
    assert _run(tmp_path, "push", SYNC_URL=server.url).exit_code == 1
    done = _run(tmp_path, "pull")
    assert done.exit_code == 2
    assert "SYNC_URL: not set" in done.stderr
    assert _run(tmp_path, "pull", SYNC_URL="http://plane.example").exit_code == 2


def test_a_second_one_says_so_and_is_no_failure(server: Plane, tmp_path: Path) -> None:
    with State(tmp_path / "audit.db.sync", "pull").held():
        done = _run(tmp_path, "pull", "--json", SYNC_URL=server.url)
    assert done.exit_code == 0
    assert "another sync pull" in done.stderr
    assert "skipped" in json.loads(done.stdout)


def test_status_says_what_never_went_well(server: Plane, tmp_path: Path) -> None:
    shown = _run(tmp_path, "status", SYNC_URL=server.url, SYNC_PUSH="false").stdout
    assert [line.split() for line in shown.splitlines()] == [
        ["url", server.url], ["lastPull", "never"],
    ]  # fmt: skip


def test_run_says_that_it_has_begun_and_which_direction_fails(tmp_path: Path) -> None:
    """Also without an answer from anybody: a command that says nothing looks as if it hung."""
    world = World(tmp_path / "audit.db")
    world.write(2)
    world.end()
    url = f"http://127.0.0.1:{free_port()}"
    env = {"SYNC_URL": url, "ADMIN_TOKEN": TOKEN, "SYNC_INTERVAL": "1",
           "AUDIT_DB_PATH": str(tmp_path / "audit.db"), "POLICIES_DIR": str(tmp_path)}  # fmt: skip
    command = [sys.executable, "-m", "authz", "sync", "run"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        lines = [running.stderr.readline() for _ in range(4)]
        running.terminate()
        assert running.wait(20) == 0
    assert f"pull and push with {url}, every 1 s" in lines[0]
    rest = "".join(lines[1:])
    assert f"pull: SYNC_URL: {url} cannot be reached" in rest
    assert f"push: SYNC_URL: {url} cannot be reached" in rest
    assert "AUDIT_RETENTION_DAYS: rows that were not sent are removed in 0 days" in rest
