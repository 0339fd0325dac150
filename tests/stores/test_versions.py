"""The policies in force: swapped by one assignment, recorded whatever happens, and the way back.

What a restart finds is what the last run left: its versions, its pin, and no more than the files
say now.
"""

import contextlib
import gc
import itertools
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

from authz.core.audit import AuditRow
from authz.core.errors import AuditUnavailable
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.timestamps import rfc3339, seconds_of
from authz.stores import version_log, versions
from authz.stores.audit_log import REOPEN_EVERY_S, AuditLog
from authz.stores.pace import UNPACED
from authz.stores.version_log import Corrupt, Recorded, VersionReader
from authz.stores.versions import UnknownVersion, Versions
from tests.builders import policy, snapshot

A, B, C, D = (snapshot(policy(name, [("allow", f"read:{name}")])) for name in "abcd")
NOTHING = Snapshot(())
START = 1_700_000_000.0


class World:
    """A sidecar's versions and audit store, which can be stopped and started again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Wall clock, seconds since the epoch.
        self.now = START
        #: The monotonic clock of the store.
        self.elapsed = 0.0
        self.mode = Mode.ENFORCE
        self._ids = itertools.count(1)
        self.audit: AuditLog

    #: REQUIRE_SIGNED_POLICIES.
    signed_only = False

    def start(self, files: Snapshot, *, limit: int = 10) -> Versions:
        """Start on what the files say."""
        self.audit = AuditLog(self.path, monotonic=lambda: self.elapsed)
        self.audit.open()
        started = self.make(limit)
        started.start(files)
        return started

    def make(self, limit: int = 10) -> Versions:
        return Versions(
            self.audit,
            self.path,
            limit=limit,
            mode=lambda: self.mode,
            now=lambda: self.now,
            new_id=lambda: f"id-{next(self._ids)}",
            signed_only=self.signed_only,
        )

    def again(self, files: Snapshot, *, limit: int = 10) -> Versions:
        """Stop, and start anew."""
        self.audit.close()
        return self.start(files, limit=limit)

    def rows(self) -> list[dict[str, Any]]:
        """The audit table, oldest first."""
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM audit ORDER BY seq")]

    def told(self) -> list[tuple[str, str, bool]]:
        """The recorded activations, oldest first."""
        return [
            (r.activation.why, r.activation.version, r.activation.pinned)
            for r in reversed(self.history())
        ]

    def history(self, at: str | None = None) -> list[Recorded]:
        return VersionReader(self.path).activations(at=at)

    def change(self, statement: str, *values: object) -> None:
        """Somebody else changes the database."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            database.execute(statement, values)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else holds the database."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "audit.db")
    yield world
    world.audit.close()


def _in_force(started: Versions) -> str:
    return started.current.version


def test_the_start_is_an_activation_and_a_row(world: World) -> None:
    started = world.start(A)
    assert (started.current, started.latest, started.pinned) == (A, A, False)
    assert started.kept() == [A.version]
    assert world.told() == [("start", A.version, False)]
    [row] = world.rows()
    assert len(row.pop("hash")) == len(row.pop("prev_hash")) == 32
    filled = {name: value for name, value in row.items() if value is not None}
    assert filled == {
        "seq": 1,
        "id": "id-1",
        "timestamp": rfc3339(START),
        "source": "control",
        "action": "policies:start",
        "resource": A.version,
        "decision": "allow",
        "enforced": "allow",
        "mode": "enforce",
        "code": "changed",
        "reason": "the policies in force when the service started",
        "policy_version": A.version,
        "trace_id": "id-1",
        "latency_us": 0,
    }


def test_a_reload_is_one_swap_and_is_recorded(world: World) -> None:
    started = world.start(A)
    world.now += 60
    assert started.reload(B)
    assert started.current is B
    assert started.kept() == [B.version, A.version]
    assert world.told() == [("start", A.version, False), ("reload", B.version, False)]
    row = world.rows()[-1]
    assert (row["action"], row["resource"], row["policy_version"], row["reason"]) == (
        "policies:reload",
        B.version,
        B.version,
        "the policy files changed",
    )
    assert row["timestamp"] == world.history()[0].activation.at == rfc3339(START + 60)


def test_a_reload_of_the_same_is_none(world: World) -> None:
    started = world.start(A)
    same = snapshot(policy("a", [("allow", "read:a")]))
    assert same.version == A.version
    assert not started.reload(same)
    assert started.current is A
    assert len(world.told()) == len(world.rows()) == 1


def test_a_reload_to_no_policies_at_all_takes_effect(world: World) -> None:
    started = world.start(A)
    assert started.reload(NOTHING)
    assert started.current is NOTHING
    assert started.reload(A)
    assert started.kept() == [A.version, NOTHING.version]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_only_the_last_versions_are_kept(world: World, limit: int) -> None:
    started = world.start(A, limit=limit)
    for policies in (B, C, A, D):
        started.reload(policies)
    newest = [D.version, A.version, C.version, B.version]
    assert started.kept() == newest[:limit]
    kept = {r.activation.version for r in world.history() if r.kept}
    assert kept == set(newest[:limit])
    for version in newest[limit:]:
        with pytest.raises(UnknownVersion):
            started.rollback(version)
    # What was in force is never forgotten.
    assert len(world.told()) == 5


def test_a_version_that_comes_back_counts_as_new(world: World) -> None:
    started = world.start(A, limit=2)
    started.reload(B)
    started.reload(A)
    started.reload(C)
    assert started.kept() == [C.version, A.version]


def test_only_what_is_in_force_is_held_ready(world: World) -> None:
    started = world.start(snapshot(policy("first", [("allow", "read:*")])))
    held, version = weakref.ref(started.current), started.current.version
    started.reload(B)
    gc.collect()
    assert held() is None
    # And it comes back whatever has become of the database.
    world.change("UPDATE policy_versions SET documents = x'00'")
    started.rollback(version)
    assert (_in_force(started), started.current.size) == (version, 1)
    assert started.release()
    assert started.current is B


def test_a_rollback_pins_until_it_is_released(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    assert (_in_force(started), started.latest, started.pinned) == (A.version, B, True)
    # Files that change are known, and take no effect.
    assert not started.reload(C)
    assert not started.reload(D)
    assert (_in_force(started), started.latest) == (A.version, D)
    # Not even when they say what is pinned.
    assert not started.reload(A)
    assert not started.reload(D)
    assert started.release()
    assert [message for message in caplog.messages if "release" in message] == [
        f"policies: rolled back to version {A.version}, pinned until it is released",
        f"policies: version {A.version} is released; the files are in force again",
    ]
    assert (started.current, started.pinned) == (D, False)
    assert world.told() == [
        ("start", A.version, False),
        ("reload", B.version, False),
        ("rollback", A.version, True),
        ("release", D.version, False),
    ]
    assert [(row["source"], row["action"], row["resource"]) for row in world.rows()[2:]] == [
        ("control", "policies:rollback", A.version),
        ("control", "policies:release", D.version),
    ]
    assert [row["reason"] for row in world.rows()[2:]] == [
        "rolled back, and pinned until released",
        "released: the policy files are in force again",
    ]
    assert started.reload(B)


def test_what_waits_behind_a_pin_is_logged_once_a_change(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    caplog.clear()
    for policies in (B, C, C, C):
        started.reload(policies)
    assert caplog.messages == [
        f"policies: the files say version {C.version} now, but version {A.version} is pinned"
    ]


def test_a_rollback_to_what_is_in_force_pins_it(world: World) -> None:
    started = world.start(A)
    started.rollback(A.version)
    assert started.pinned
    assert not started.reload(B)
    assert started.current is A


def test_a_rollback_from_a_rollback_stays_pinned(world: World) -> None:
    started = world.start(A)
    started.reload(B)
    started.reload(C)
    for policies in (A, B):
        started.rollback(policies.version)
        assert (_in_force(started), started.pinned) == (policies.version, True)
    assert started.release()
    assert started.current is C


@pytest.mark.parametrize("version", ["", "0" * 16, "latest", A.sha256, "\ud800", "x" * 100_000])
def test_a_rollback_to_what_is_not_kept_changes_nothing(world: World, version: str) -> None:
    started = world.start(A)
    started.reload(B)
    with pytest.raises(UnknownVersion):
        started.rollback(version)
    assert (started.current, started.pinned) == (B, False)
    assert len(world.told()) == 2


def test_a_release_of_nothing_is_none(world: World) -> None:
    started = world.start(A)
    assert not started.release()
    assert len(world.told()) == 1


def test_a_note_is_a_row_and_no_activation(world: World) -> None:
    started = world.start(A)
    world.mode = Mode.AUDIT
    started.note("mode:audit", "enforce", "the mode was changed from enforce to audit")
    row = world.rows()[-1]
    assert (row["source"], row["action"], row["resource"], row["mode"]) == (
        "control",
        "mode:audit",
        "enforce",
        "audit",
    )
    assert row["policy_version"] == A.version
    assert len(world.told()) == 1


# After a restart.


def test_a_restart_is_recorded_and_keeps_what_was_kept(world: World) -> None:
    started = world.start(A)
    started.reload(B)
    started = world.again(C)
    assert started.current is C
    assert started.kept() == [C.version, B.version, A.version]
    started.rollback(A.version)
    assert started.current.sha256 == A.sha256
    assert {p.said for p in started.current.policies} == {p.said for p in A.policies}
    assert world.told()[2:] == [("start", C.version, False), ("rollback", A.version, True)]


def test_a_restart_with_the_same_files_goes_on_with_one_of_them(world: World) -> None:
    world.start(A)
    for _ in range(3):
        started = world.again(A)
    assert started.current is A
    assert started.kept() == [A.version]
    assert world.told() == [("start", A.version, False)] * 4


def test_a_pin_survives_restarts_and_the_files_wait(world: World) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    for files in (B, C):  # they change between the runs as well
        started = world.again(files)
        assert (started.current.version, started.pinned) == (A.version, True)
        assert started.latest is files
        assert not started.reload(files)
        assert world.told()[-1] == ("start", A.version, True)
    assert started.release()
    assert started.current is C
    # And neither is there a pin after the next one.
    assert not world.again(C).pinned


def test_a_pin_on_what_the_files_say_survives_too(world: World) -> None:
    started = world.start(A)
    started.rollback(A.version)
    started = world.again(A)
    assert (started.current.sha256, started.pinned) == (A.sha256, True)
    assert not started.reload(B)
    assert started.current.sha256 == A.sha256


def test_a_pin_survives_a_kill(world: World, tmp_path: Path) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    # As `kill -9` leaves it: nothing was closed, the newest is only in the WAL.
    copy = World(tmp_path / "copy.db")
    for suffix in ("", "-wal"):
        source = Path(f"{world.path}{suffix}")
        Path(f"{copy.path}{suffix}").write_bytes(source.read_bytes())
    restarted = copy.start(B)
    assert (restarted.current.version, restarted.pinned) == (A.version, True)
    copy.audit.close()


@pytest.mark.parametrize("limit", [2, 1])
def test_fewer_versions_are_kept_once_the_limit_is_lower(world: World, limit: int) -> None:
    started = world.start(A)
    started.reload(B)
    started.reload(C)
    started = world.again(C, limit=limit)
    assert started.kept() == [C.version, B.version][:limit]
    assert {r.activation.version for r in world.history() if r.kept} == set(started.kept())


@pytest.mark.parametrize("first", [C, NOTHING])
def test_a_lower_limit_does_not_lose_the_pin(world: World, first: Snapshot) -> None:
    started = world.start(first)
    started.reload(A)
    started.reload(B)
    started.rollback(A.version)
    started = world.again(B, limit=1)
    assert (started.current.version, started.pinned) == (A.version, True)


def test_which_version_decided_at_10_42_last_tuesday(world: World) -> None:
    world.now = seconds_of("2026-11-17T09:00:00Z")
    started = world.start(A)
    world.now = seconds_of("2026-11-17T10:00:00Z")
    started.reload(B)
    world.now = seconds_of("2026-11-17T10:43:00Z")
    started.reload(C)
    for day in range(18, 24):
        world.now = seconds_of(f"2026-11-{day}")
        world.again(C, limit=1)  # and B's documents are long gone
    moment = rfc3339(seconds_of("2026-11-17T11:42:00+01:00"))
    [found] = world.history(at=moment)
    assert (found.activation.version, found.sha256, found.kept) == (B.version, B.sha256, False)
    assert found.policies == [{"name": "b", "version": "1"}]
    assert (found.activation.at, found.activation.until) == (
        "2026-11-17T10:00:00.000000Z",
        "2026-11-17T10:43:00.000000Z",
    )


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param("x'00'", id="garbage"),
        pytest.param(f"(SELECT documents FROM policy_versions WHERE version = '{C.version}')",
                     id="those of another version"),
        pytest.param("NULL", id="gone"),
        pytest.param("'text'", id="text"),
    ],
)  # fmt: skip
def test_a_version_that_was_tampered_with_cannot_be_rolled_back_to(
    world: World, documents: str
) -> None:
    started = world.start(A)
    started.reload(B)
    started.reload(C)
    world.change(f"UPDATE policy_versions SET documents = {documents} WHERE version = ?", B.version)
    started = world.again(C)
    before = len(world.told())
    with pytest.raises((UnknownVersion, Corrupt)):
        started.rollback(B.version)
    # Nothing of it has taken effect.
    assert (started.current, started.pinned, len(world.told())) == (C, False, before)
    started.rollback(A.version)
    assert started.current.sha256 == A.sha256


def test_a_pinned_version_that_was_tampered_with_is_not_served(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    world.change("UPDATE policy_versions SET documents = x'00' WHERE version = ?", A.version)
    started = world.again(B)
    assert (started.current, started.pinned) == (B, False)
    assert any(
        m.startswith(f"policies: the pinned version {A.version} is lost") for m in caplog.messages
    )


def test_where_signatures_are_required_what_was_recorded_without_is_not_served(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    world.signed_only = True
    started = world.again(B)
    assert (started.current, started.pinned) == (B, False)
    assert any("before REQUIRE_SIGNED_POLICIES was set" in m for m in caplog.messages)
    with pytest.raises(Corrupt, match="nobody can tell who signed it"):
        started.rollback(A.version)
    assert (started.current, started.pinned) == (B, False)


def test_where_signatures_are_required_what_was_recorded_under_them_outlives_a_restart(
    world: World,
) -> None:
    world.signed_only = True
    started = world.start(A)
    started.reload(B, version_log.pack(B))
    started.reload(C)
    started = world.again(C)
    for version in (A.version, B.version):
        started.rollback(version)
        started = world.again(C)
        assert (started.current.version, started.pinned) == (version, True)
    assert started.said(A.version, UNPACED)[0] == A.sha256


def test_a_version_is_the_files_own_even_where_its_record_was_tampered_with(world: World) -> None:
    started = world.start(A)
    started.rollback(A.version)
    world.change("UPDATE policy_versions SET documents = x'00'")
    started = world.again(A)
    assert (started.current, started.pinned) == (A, True)
    # And it is whole again.
    assert VersionReader(world.path).documents(A.version) is not None


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE policy_activations",
        "DROP TABLE policy_versions",
        "DELETE FROM policy_activations",
        "DELETE FROM policy_versions",
        "UPDATE policy_versions SET sha256 = ''",
        "UPDATE policy_versions SET policies = 'x'",
    ],
)
def test_no_history_stands_in_the_way_of_a_start(world: World, statement: str) -> None:
    started = world.start(A)
    started.reload(B)
    world.change(statement)
    started = world.again(C)
    assert started.current is C
    assert started.reload(D)
    assert world.audit.failure == ""
    assert world.told()[-2:] == [("start", C.version, False), ("reload", D.version, False)]


def test_a_history_that_cannot_be_read_does_not_stop_a_start(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    started = world.start(A)
    started.rollback(A.version)
    world.change("UPDATE policy_activations SET at = CAST(x'ff' AS TEXT)")
    started = world.again(B)
    assert (started.current, started.pinned) == (B, False)
    started.flush()
    said = "AUDIT_DB_PATH: earlier policy versions, and whether one is pinned, cannot be read now"
    assert sum(message.startswith(said) for message in caplog.messages) == 1
    assert started.reload(C)
    assert world.rows()[-1]["resource"] == C.version


def test_a_pin_is_taken_up_as_soon_as_it_can_be_known(world: World) -> None:
    started = world.start(A)
    started.rollback(A.version)
    world.change("UPDATE policy_activations SET at = CAST(x'ff' AS TEXT)")
    started = world.again(B)
    assert not started.pinned
    world.change("UPDATE policy_activations SET at = '2026-01-01T00:00:00.000000Z'")
    started.flush()
    assert (started.current.sha256, started.pinned) == (A.sha256, True)
    assert started.latest is B


def test_a_database_that_is_none_does_not_stop_a_start(world: World) -> None:
    world.path.write_bytes(b"no database" * 1000)
    started = world.start(A)
    assert started.current is A
    assert started.reload(B)
    world.path.unlink()
    world.elapsed += REOPEN_EVERY_S
    started.flush()
    assert world.told() == [("start", A.version, False), ("reload", B.version, False)]


# The store cannot be written.


def test_a_change_takes_effect_at_once_and_is_recorded_when_it_can_be(world: World) -> None:
    started = world.start(A)
    with world.locked():
        acts: tuple[Callable[[], object], ...] = (
            lambda: started.reload(B),
            lambda: started.rollback(A.version),
            lambda: started.note("mode:audit", "enforce", "changed"),
            started.release,
        )
        for seconds, act in enumerate(acts, start=1):
            world.now = START + seconds
            act()
        assert started.current is B
        started.flush()
    assert len(world.rows()) == 1
    world.now = START + 1000
    started.flush()
    started.flush()
    # In order, with the times at which it happened, and once.
    assert world.told() == [
        ("start", A.version, False),
        ("reload", B.version, False),
        ("rollback", A.version, True),
        ("release", B.version, False),
    ]
    rows = world.rows()
    assert [row["action"] for row in rows] == [
        "policies:start",
        "policies:reload",
        "policies:rollback",
        "mode:audit",
        "policies:release",
    ]
    assert [row["timestamp"] for row in rows] == [rfc3339(START + n) for n in range(5)]
    assert [row["policy_version"] for row in rows] == [s.version for s in (A, B, A, A, B)]


def test_the_next_change_records_those_before_it_too(world: World) -> None:
    started = world.start(A)
    with world.locked():
        started.reload(B)
    started.reload(C)
    assert [version for _, version, _ in world.told()] == [A.version, B.version, C.version]


def test_documents_are_recorded_as_kept_when_their_record_is_late(world: World) -> None:
    started = world.start(A, limit=2)
    with world.locked():
        for policies in (B, C, D):
            started.reload(policies)
    started.flush()
    assert {r.activation.version for r in world.history() if r.kept} == {C.version, D.version}
    assert world.again(D, limit=2).kept() == [D.version, C.version]


def test_too_many_changes_that_cannot_be_recorded_are_given_up_oldest_first(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versions, "MAX_UNWRITTEN", 2)
    started = world.start(A)
    with world.locked():
        for policies in (B, C, D):
            started.reload(policies)
    started.flush()
    assert [version for _, version, _ in world.told()] == [A.version, C.version, D.version]
    assert f"the change `policies:reload` of {rfc3339(START)} was never recorded" in caplog.messages


def test_a_row_and_its_activation_are_recorded_together_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = world.start(A)

    def fails(*_: object) -> None:
        raise peewee.OperationalError("no")

    with monkeypatch.context() as patched:
        patched.setattr(version_log, "append", fails)
        assert started.reload(B)
    assert len(world.rows()) == len(world.told()) == 1
    world.elapsed += REOPEN_EVERY_S
    started.flush()
    assert len(world.rows()) == len(world.told()) == 2


def test_a_failure_to_record_a_decision_is_another_matter(world: World) -> None:
    started = world.start(A)
    with world.locked():
        started.reload(B)
        with pytest.raises(AuditUnavailable):
            world.audit.write([_row(B)])
    world.audit.write([_row(B)])
    started.flush()
    # Its time says which came first, its place which was recorded first.
    assert [row["source"] for row in world.rows()] == ["control", "proxy", "control"]


def test_a_pin_survives_that_the_audit_database_was_moved_away(
    world: World, tmp_path: Path
) -> None:
    started = world.start(A)
    started.reload(B)
    started.rollback(A.version)
    world.path.rename(tmp_path / "audit-of-last-week.db")
    world.audit.write([_row(A)])
    started.flush()
    restarted = world.again(B)
    assert (restarted.current.version, restarted.pinned) == (A.version, True)


def test_history_can_be_asked_for_while_it_is_being_recorded(world: World) -> None:
    """As `GET /admin/policies/versions` does, in a thread of its own."""
    started = world.start(A)
    stop = threading.Event()
    failures: list[Exception] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                VersionReader(world.path).activations(limit=3)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is one too many
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(400):
            started.reload((A, B)[number % 2])
            if world.audit.failure or failures:
                break
            time.sleep(0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert world.audit.failure == ""
    assert failures == []


def _row(policies: Snapshot) -> AuditRow:
    values: dict[str, Any] = dict.fromkeys(AuditRow._fields)
    for name in ("id", "timestamp", "action", "decision", "enforced", "mode", "code", "trace_id"):
        values[name] = "x"
    return AuditRow(
        **{**values, "source": "proxy", "policy_version": policies.version, "latency_us": 1}
    )
