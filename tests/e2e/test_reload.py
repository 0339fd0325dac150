"""Policies that change under a sidecar that is in use, through a real Envoy.

Whatever happens to the files, each answer is the right one for the policies that were in force,
and what was in force can be told afterwards, from each row and from the history beside them.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.stores.policies import load
from authz.stores.version_log import VersionReader
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer, wait_until
from tests.e2e.upstream import Upstream

ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
VERSIONS = "/admin/policies/versions"
BATCH = "/api/v1/governance/batch"

POLICY = """\
name: swapped
version: "{version}"
appliesTo: {{tags: [code-review]}}
rules: [{{effect: {effect}, actions: ["read:*"]}}]
defaultEffect: deny
"""


class Mount:
    """POLICIES_DIR as a ConfigMap mount: `allow` and `deny` are its versions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The version that a sidecar gives to each.
        self.names: dict[str, str] = {}
        for effect in ("allow", "deny"):
            directory = path / f"..{effect}"
            directory.mkdir(parents=True)
            text = POLICY.format(version=effect, effect=effect)
            (directory / "policy.yaml").write_text(text)
            self.names[effect] = load(directory).snapshot.version
        self.swap("allow")
        (path / "policy.yaml").symlink_to("..data/policy.yaml")

    def swap(self, effect: str) -> None:
        """Put the other version there in one step, as the kubelet does."""
        (self.path / "..data_tmp").symlink_to(f"..{effect}")
        (self.path / "..data_tmp").replace(self.path / "..data")

    def file(self, text: str) -> None:
        """Replace the mount's link by a file of our own."""
        new = self.path / ".new"
        new.write_text(text)
        new.replace(self.path / "policy.yaml")


@dataclass
class Live:
    """A sidecar on such a mount."""

    sidecar: Sidecar
    mount: Mount

    def in_force(self) -> str:
        answer = self.sidecar.get("/ready")
        return str(answer.json().get("policyVersion"))

    def until_in_force(self, effect: str) -> None:
        wait_until(lambda: self.in_force() == self.mount.names[effect], f"{effect} to be in force")

    def swap(self, effect: str) -> None:
        self.mount.swap(effect)
        self.until_in_force(effect)

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self.sidecar.client.request(method, path, headers=ADMIN, **kwargs)

    def reads(self) -> int:
        return self.sidecar.get("/proxy/docs", headers=bearer()).status_code

    def changes(self) -> list[tuple[str, str]]:
        """The audit rows of changes."""
        return [
            (row["action"], row["resource"])
            for row in _rows(self.sidecar)
            if row["source"] == "control"
        ]


def _rows(sidecar: Sidecar) -> list[dict[str, Any]]:
    """The whole audit table, changes included, oldest first."""
    with contextlib.closing(sqlite3.connect(sidecar.database)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM audit ORDER BY seq")]


@contextlib.contextmanager
def _running(upstream: Upstream, **env: str) -> Iterator[Live]:
    with starter.directory() as path:
        mount = Mount(path / "policies")
        given = {"POLICIES_DIR": str(mount.path)} | env
        with starter.running(upstream, arguments=("run",), **given) as sidecar:
            yield Live(sidecar, mount)


@pytest.fixture(scope="module")
def shared(upstream: Upstream) -> Iterator[Live]:
    with _running(upstream) as live:
        yield live


@pytest.fixture
def live(shared: Live) -> Live:
    """A sidecar on which the policies that allow are in force, and nothing is pinned."""
    shared.admin("POST", "/admin/policies/release")
    shutil.rmtree(shared.mount.path, ignore_errors=True)
    Mount(shared.mount.path)
    shared.until_in_force("allow")
    wait_until(
        lambda: shared.sidecar.get("/health").json()["checks"]["policies"] == "ok", "a good health"
    )
    return shared


# Under load.


@dataclass
class Asked:
    """What the clients were told."""

    answers: int = 0
    allowed: int = 0
    decisions: int = 0
    wrong: list[str] = field(default_factory=list)


def _batches(live: Live, stop: threading.Event, asked: Asked) -> None:
    """Batches name the version that decided them: each decision has to be that version's."""
    expected = {version: effect for effect, version in live.mount.names.items()}
    body = {"actions": [{"action": f"read:{number}"} for number in range(5)]}
    with httpx.Client(base_url=live.sidecar.url) as client:
        while not stop.is_set():
            answer = client.post(BATCH, headers=bearer(), json=body)
            asked.answers += 1
            if answer.status_code != 200:
                asked.wrong.append(f"{answer.status_code} {answer.text}")
                continue
            said = answer.json()
            decided = {item["decision"] for item in said["results"]}
            asked.decisions += len(said["results"])
            if decided != {expected.get(said["policyVersion"])}:
                asked.wrong.append(answer.text)


def _requests(live: Live, stop: threading.Event, asked: Asked) -> None:
    """Requests that are forwarded, or refused with the reason that the policy gives."""
    with httpx.Client(base_url=live.sidecar.url) as client:
        while not stop.is_set():
            answer = client.get("/proxy/docs", headers=bearer())
            asked.answers += 1
            asked.decisions += 1
            if answer.status_code == 200:
                asked.allowed += 1
                right = answer.headers["x-meshguard-decision"] == "allow"
            else:
                said = answer.json() if answer.status_code == 403 else {}
                right = (said.get("code"), said.get("policy")) == ("rule_denied", "swapped")
            if not right:
                asked.wrong.append(f"{answer.status_code} {answer.text}")


def test_every_answer_is_right_while_policies_are_swapped(upstream: Upstream) -> None:
    swaps = ("deny", "allow") * 10
    with _running(upstream) as live:
        hits = upstream.hits
        stop = threading.Event()
        told = [Asked(), Asked()]
        clients = [
            threading.Thread(target=target, args=(live, stop, asked))
            for target, asked in zip((_batches, _requests), told, strict=True)
        ]
        for client in clients:
            client.start()
        try:
            for effect in swaps:
                before = [asked.answers for asked in told]
                live.swap(effect)
                # Under this version, too, both have been answered.
                wait_until(
                    lambda before=before: all(  # type: ignore[misc]
                        asked.answers > count + 1 for asked, count in zip(told, before, strict=True)
                    ),
                    "more answers",
                )
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert [wrong for asked in told for wrong in asked.wrong] == []
        assert upstream.hits == hits + told[1].allowed
        rows = _rows(live.sidecar)
        database = live.sidecar.database
        timeline = [
            (recorded.activation.at, recorded.activation.version)
            for recorded in reversed(VersionReader(database).activations())
        ]
    names = live.mount.names
    decided = [row for row in rows if row["source"] != "control"]
    assert len(decided) == sum(asked.decisions for asked in told)
    assert {(row["policy_version"], row["decision"], row["code"]) for row in decided} == {
        (names["allow"], "allow", "rule_allowed"),
        (names["deny"], "deny", "rule_denied"),
    }
    # Each swap is one activation, and one row among those of the decisions before and after it.
    assert [version for _, version in timeline] == [
        names["allow"],
        *(names[effect] for effect in swaps),
    ]
    in_force = ""
    for row in rows:
        if row["source"] == "control":
            in_force = row["resource"]
        assert row["policy_version"] == in_force
    # And the history knows for every row which version was in force at its time.
    for row in decided:
        then = [version for at, version in timeline if at <= row["timestamp"]]
        assert then[-1] == row["policy_version"]


# What cannot be used.


def test_a_file_that_turns_bad_keeps_answering_and_says_so(live: Live) -> None:
    live.swap("deny")
    before = live.changes()
    live.mount.file("name: swapped\nrules:\n  - effect: allow\n    actions: []\n")

    def checks() -> str:
        return str(live.sidecar.get("/health").json()["checks"]["policies"])

    wait_until(
        lambda: checks() == "ok, 1 error in policy.yaml; 1 stale: policy.yaml",
        "the bad file to be told of",
    )
    assert live.reads() == 403
    assert live.sidecar.get("/ready").status_code == 200
    file = live.mount.path / "policy.yaml"
    assert f"{file}:4:14: error: " in live.sidecar.log()
    assert f"[warning] [authz] {file}: its last good version stays in force" in live.sidecar.log()
    assert live.changes() == before
    live.mount.file(POLICY.format(version="allow", effect="allow"))
    live.until_in_force("allow")
    assert (checks(), live.reads()) == ("ok", 200)


def test_a_directory_that_vanishes_leaves_its_denials_in_force(live: Live) -> None:
    live.swap("deny")
    away = live.mount.path.with_name("away")
    live.mount.path.rename(away)
    wait_until(
        lambda: (
            live.sidecar.get("/health").json()["checks"]["policies"]
            == f"ok, 2 errors in {live.mount.path.name}, policy.yaml; 1 stale: policy.yaml"
        ),
        "the directory to be missed",
    )
    assert live.reads() == 403
    away.rename(live.mount.path)
    live.swap("allow")
    assert live.reads() == 200


def test_without_any_policy_left_it_denies_and_is_not_ready(live: Live) -> None:
    (live.mount.path / "policy.yaml").unlink()
    wait_until(lambda: live.sidecar.get("/ready").status_code == 503, "it not to be ready")
    answer = live.sidecar.get("/proxy/docs", headers=bearer())
    assert (answer.status_code, answer.json()["code"]) == (403, "no_policy")
    ready = live.sidecar.get("/ready").json()
    assert ready["checks"]["policies"] == "no valid policy is loaded"
    (live.mount.path / "policy.yaml").symlink_to("..data/policy.yaml")
    live.until_in_force("allow")


# The way back.


def test_a_rollback_is_one_swap_pinned_until_it_is_released(live: Live) -> None:
    names = live.mount.names
    live.swap("deny")
    before = live.changes()
    answer = live.admin("POST", "/admin/policies/rollback", json={"version": names["allow"]})
    assert answer.json() == {"version": names["allow"], "pinned": True}
    assert live.reads() == 200
    checks = live.sidecar.get("/health").json()["checks"]
    assert checks["policies"] == f"ok, pinned to version {names['allow']}"
    # Files that change now are read, and take no effect.
    live.mount.file(POLICY.format(version="other", effect="deny"))
    wait_until(lambda: "is pinned" in live.sidecar.log(), "the change to be told of")
    assert (live.reads(), live.in_force()) == (200, names["allow"])
    answer = live.admin("POST", "/api/v1/admin/policies/release")
    other = answer.json()["version"]
    assert answer.json() == {"version": other, "pinned": False}
    assert other not in names.values()
    assert (live.reads(), live.in_force()) == (403, other)
    assert live.changes()[len(before) :] == [
        ("policies:rollback", names["allow"]),
        ("policies:release", other),
    ]
    told = live.admin("GET", f"{VERSIONS}?limit=3").json()
    assert (told["current"], told["pinned"]) == (other, False)
    assert [(v["why"], v["version"]) for v in told["versions"]] == [
        ("release", other),
        ("rollback", names["allow"]),
        ("reload", names["deny"]),
    ]
    assert told["versions"][1]["deactivatedAt"] == told["versions"][0]["activatedAt"]


def test_the_admin_api_is_not_for_agents(live: Live) -> None:
    for headers in ({}, bearer(), {"X-Admin-Token": "wrong"}):
        for method, path in (("GET", VERSIONS), ("POST", "/admin/policies/release")):
            answer = live.sidecar.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    # As an SDK gets there that resolves `..` itself, and as one does that leaves that to Envoy.
    for path in ("/proxy/../admin/policies/versions", "/proxy/%2e%2e/admin/policies/versions"):
        request = live.sidecar.client.build_request("GET", path, headers=bearer())
        request.url = request.url.copy_with(raw_path=path.encode())
        assert live.sidecar.client.send(request).status_code == 401
    huge = live.admin("POST", "/admin/policies/rollback", content=b" " * 300_000)
    assert (huge.status_code, set(huge.json())) == (413, {"error", "message", "detail"})


def test_history_and_pin_survive_a_restart(upstream: Upstream) -> None:
    with _running(upstream, POLICY_VERSION_LIMIT="2") as live:
        names = live.mount.names
        live.swap("deny")
        live.admin("POST", "/admin/policies/rollback", json={"version": names["allow"]})
        allowed = live.sidecar.get("/proxy/docs", headers=bearer() | {"X-Trace-ID": "10:42"})
        assert allowed.status_code == 200
        sidecar = live.sidecar
        # Not asked, not told: as a machine that is pulled out of the rack.
        for pid, _ in starter.children(sidecar.process.pid):
            os.kill(pid, signal.SIGKILL)
        sidecar.process.kill()
        sidecar.process.wait()
        with starter.start(sidecar.directory, sidecar.env, "run"):
            wait_until(lambda: starter.answers(sidecar), "it to answer again")
            assert (live.in_force(), live.reads()) == (names["allow"], 200)
            [row] = [row for row in _rows(sidecar) if row["trace_id"] == "10:42"]
            told = live.admin("GET", VERSIONS, params={"at": row["timestamp"]}).json()
            assert told["pinned"]
            [then] = told["versions"]
            assert (then["version"], then["why"]) == (names["allow"], "rollback")
            assert then["policies"] == [{"name": "swapped", "version": "allow"}]
            assert row["policy_version"] == then["version"]
            answer = live.admin("POST", "/admin/policies/release")
            assert answer.json() == {"version": names["deny"], "pinned": False}
            assert live.reads() == 403
            # The versions of the last run can still be gone back to.
            answer = live.admin(
                "POST", "/admin/policies/rollback", json={"version": names["allow"]}
            )
            assert (answer.status_code, live.reads()) == (200, 200)


# Where the system does not tell.


def test_a_file_system_that_tells_nothing_is_looked_at(upstream: Upstream, deaf: Path) -> None:
    with _running(
        upstream, PYTHONPATH=str(deaf), POLICIES_POLL_INTERVAL="1s", ADMIN_TOKEN=""
    ) as live:
        live.swap("deny")
        assert live.reads() == 403
        live.mount.path.rename(live.mount.path.with_name("away"))
        wait_until(lambda: "stays in force" in live.sidecar.log(), "it to be missed")
        assert live.reads() == 403
        Mount(live.mount.path)
        live.until_in_force("allow")
        assert live.reads() == 200
        # Without an admin token there is no admin API.
        assert live.sidecar.get(VERSIONS, headers=ADMIN).status_code == 404


@pytest.fixture
def deaf(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH that makes a service hear nothing of the files it watches."""
    (tmp_path / "sitecustomize.py").write_text(
        "from authz.edges.watcher import Watcher\nWatcher._take = lambda *_: None\n"
    )
    return tmp_path
