"""MODE_FILE through a real Envoy: read at the start, followed while running, and never guessed at.

A mode is one thing in two processes: what the service does about its decisions, and what Envoy
does when there is none.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar, bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream

DENIED = "/proxy/docs"


class Live:
    """A sidecar and its MODE_FILE."""

    def __init__(self, sidecar: Sidecar, file: Path) -> None:
        self.sidecar = sidecar
        self.file = file

    def say(self, content: str | bytes) -> None:
        """Put another file in its place, whatever stands there."""
        new = self.file.with_name("new")
        new.write_bytes(content if isinstance(content, bytes) else content.encode())
        if self.file.is_dir():
            self.file.rmdir()
        new.replace(self.file)

    def mode(self) -> str:
        return str(self.sidecar.get("/").json()["mode"])

    def until(self, mode: str) -> None:
        wait_until(lambda: self.mode() == mode, f"mode {mode}")

    def switch(self, mode: str) -> None:
        self.say(f"{mode}\n")
        self.until(mode)

    def fails_open(self) -> bool:
        """What Envoy's file says about a check that fails."""
        said = yaml.safe_load((self.sidecar.run_dir / "ext_authz.yaml").read_text())
        [resource] = said["resources"]
        return bool(resource["typed_config"]["failure_mode_allow"])

    def asked(self) -> int:
        """The status of a request that is denied in enforce mode."""
        return self.sidecar.get(DENIED, headers=bearer(tags=())).status_code

    def rows(self) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.sidecar.database)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM audit ORDER BY seq")]

    def changes(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["action"].startswith("mode:")]


@contextlib.contextmanager
def _running(upstream: Upstream, mode: str, **env: str) -> Iterator[Live]:
    with starter.directory() as path:
        file = path / "config" / "mode"
        file.parent.mkdir()
        file.write_text(mode)
        given = {"MODE_FILE": str(file)} | env
        with starter.running(upstream, arguments=("run",), **given) as sidecar:
            yield Live(sidecar, file)


@pytest.fixture(scope="module")
def shared(upstream: Upstream) -> Iterator[Live]:
    # MODE is overridden, and need not even be one.
    with _running(upstream, "enforce", MODE="audit") as live:
        yield live


@pytest.fixture
def live(shared: Live) -> Live:
    """A sidecar in enforce mode."""
    shared.switch("enforce")
    return shared


def test_a_switch_there_and_back_is_one_of_service_and_envoy_and_is_recorded(live: Live) -> None:
    before = len(live.changes())
    hits = live.sidecar.upstream.hits
    assert (live.asked(), live.fails_open()) == (403, False)
    live.switch("audit")
    assert (live.asked(), live.fails_open()) == (200, True)
    live.switch("enforce")
    assert (live.asked(), live.fails_open()) == (403, False)
    assert live.sidecar.upstream.hits == hits + 1
    there, back = live.changes()[before:]
    assert (there["action"], there["resource"], there["mode"]) == (
        "mode:audit", "enforce", "audit",
    )  # fmt: skip
    assert (back["action"], back["resource"], back["mode"]) == (
        "mode:enforce", "audit", "enforce",
    )  # fmt: skip
    for row in (there, back):
        assert (row["source"], row["decision"], row["code"]) == ("control", "allow", "changed")
        assert row["policy_version"] == live.sidecar.get("/ready").json()["policyVersion"]
    assert there["reason"] == "the mode was changed from enforce to audit"
    # Each decision says the mode that it was enforced in.
    decided = [row for row in live.rows() if row["source"] == "proxy"][-3:]
    assert [(row["mode"], row["decision"], row["enforced"]) for row in decided] == [
        ("enforce", "deny", "deny"),
        ("audit", "deny", "allow"),
        ("enforce", "deny", "deny"),
    ]


def test_envoy_follows_when_there_is_no_decision(upstream: Upstream) -> None:
    with _running(upstream, "enforce", DECISION_TIMEOUT_MS="100") as live:
        service = live.sidecar.child("service")

        def asked_in_vain() -> int:
            """With a service that does not answer in time."""
            os.kill(service, signal.SIGSTOP)
            try:
                return live.sidecar.get("/proxy/docs").status_code
            finally:
                os.kill(service, signal.SIGCONT)

        for mode, status in (("audit", 200), ("enforce", 503), ("audit", 200), ("enforce", 503)):
            live.switch(mode)
            wait_until(lambda status=status: asked_in_vain() == status, f"Envoy in mode {mode}")  # type: ignore[misc]


def test_bypass_is_loud_and_only_the_switch_is_recorded(live: Live) -> None:
    live.switch("bypass")
    before = live.rows()
    assert before[-1]["action"] == "mode:bypass"
    assert live.asked() == 200
    assert live.sidecar.get("/proxy/docs").status_code == 200
    assert live.rows() == before
    warning = "MODE is bypass: nothing is evaluated and nothing is recorded"
    ready = live.sidecar.get("/ready").json()
    assert (ready["mode"], ready["warning"]) == ("bypass", warning)
    assert f"[warning] [authz] {warning}" in live.sidecar.log()
    # An agent is no administrator because of it.
    assert live.sidecar.get("/admin/policies/versions", headers=bearer()).status_code == 401
    live.switch("enforce")
    assert live.asked() == 403
    assert live.rows()[-2]["action"] == "mode:enforce"


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("audit", "garbage"),
        ("enforce", "empty"),
        ("audit", "huge"),
        ("enforce", "missing"),
        ("audit", "directory"),
        ("enforce", "directory gone"),
        ("audit", "directory gone"),
    ],
)
def test_a_file_that_holds_no_mode_leaves_the_mode_as_it_is(
    live: Live, mode: str, how: str
) -> None:
    live.switch(mode)
    before = len(live.changes())
    complaints = live.sidecar.log().count("the mode stays as it is")
    match how:
        case "garbage":
            live.say("bypassed")
        case "empty":
            live.say("")
        case "huge":
            live.say(b"bypass" * 2_000_000)
        case "missing":
            live.file.unlink()
        case "directory":
            live.file.unlink()
            live.file.mkdir()
        case _:
            shutil.rmtree(live.file.parent)
    wait_until(
        lambda: live.sidecar.log().count("the mode stays as it is") > complaints, "the complaint"
    )
    assert (live.mode(), live.asked()) == (mode, 200 if mode == "audit" else 403)
    checks = live.sidecar.get("/health").json()["checks"]
    assert checks["mode"].startswith(f"MODE_FILE: {live.file} ")
    live.file.parent.mkdir(exist_ok=True)
    other = "enforce" if mode == "audit" else "audit"
    live.switch(other)
    assert "mode" not in live.sidecar.get("/health").json()["checks"]
    assert len(live.changes()) == before + 1
    said = live.sidecar.log()
    assert said.count("the mode stays as it is") == complaints + 1
    assert f"[error  ] [authz] MODE_FILE: {live.file} " in said


def test_a_service_that_is_started_again_has_the_mode_of_the_file(live: Live) -> None:
    live.switch("audit")
    before = len(live.changes())
    service = live.sidecar.child("service")
    os.kill(service, signal.SIGKILL)
    # Meanwhile nobody decides, and that blocks nothing in audit mode.
    assert live.sidecar.get("/proxy/docs").status_code == 200
    wait_until(lambda: starter.answers(live.sidecar), "the service to be back")
    assert live.sidecar.child("service") != service
    assert (live.mode(), live.asked(), live.fails_open()) == ("audit", 200, True)
    # That is no change.
    assert len(live.changes()) == before


def test_a_hangup_reads_mode_and_policies_again(upstream: Upstream, tmp_path: Path) -> None:
    # A service that hears nothing of the files it watches.
    (tmp_path / "sitecustomize.py").write_text(
        "from authz.edges.watcher import Watcher\n"
        "Watcher._take = lambda *_: None\n"
    )  # fmt: skip
    policies = tmp_path / "policies"
    shutil.copytree(starter.SAMPLE_POLICIES, policies)
    with _running(
        upstream, " Audit\n", PYTHONPATH=str(tmp_path), POLICIES_DIR=str(policies)
    ) as live:
        # It starts in the mode of the file, in Envoy too, and that is no change.
        assert (live.mode(), live.asked(), live.fails_open()) == ("audit", 200, True)
        assert live.changes() == []
        before = live.sidecar.get("/ready").json()
        live.say("enforce")
        for file in policies.glob("*.yaml"):
            if file.stem != "code-review":
                file.unlink()
        live.sidecar.process.send_signal(signal.SIGHUP)
        wait_until(lambda: live.sidecar.get("/ready").json() != before, "the reading")
        live.until("enforce")
        wait_until(lambda: live.sidecar.get("/ready").json()["policies"] == 1, "the policies")
        assert (live.asked(), live.fails_open()) == (403, False)
        assert [row["action"] for row in live.changes()] == ["mode:enforce"]
        assert live.sidecar.stop() == 0


@pytest.mark.parametrize(
    ("command", "content", "sentence"),
    [
        ("run", None, "cannot be read: No such file or directory"),
        ("run", "", "must hold enforce, audit or bypass"),
        ("serve", "off", "must hold enforce, audit or bypass"),
    ],
)
def test_without_a_mode_there_is_no_start(
    tmp_path: Path, command: str, content: str | None, sentence: str
) -> None:
    file = tmp_path / "mode"
    if content is not None:
        file.write_text(content)
    # Not even with a MODE: somebody meant to have another.
    env = environment(
        tmp_path, free_port(), "http://127.0.0.1:9", MODE_FILE=str(file), MODE="enforce"
    )
    with starter.start(tmp_path, env, command) as process:
        assert process.wait(starter.PATIENCE_S) == 2
    assert (tmp_path / "stderr").read_text() == f"authz: MODE_FILE: {file} {sentence}\n"
    assert not (tmp_path / "run").exists()


def test_a_client_sees_no_difference_while_the_mode_is_switched(live: Live) -> None:
    """An allowed request is allowed in every mode, also in the moment of the switch."""
    with httpx.Client(base_url=live.sidecar.url) as client:
        for mode in ("audit", "enforce") * 3:
            live.say(mode)
            while live.mode() != mode:
                assert client.get("/proxy/docs", headers=bearer()).status_code == 200
