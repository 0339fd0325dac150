"""The audit store: what `write` returned from is durable, what failed is said and counted."""

import contextlib
import hashlib
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import peewee
import pytest

from authz.core.audit import AuditRow
from authz.core.audit_chain import canonical
from authz.core.errors import AuditUnavailable
from authz.stores import audit_check
from authz.stores.audit_log import REOPEN_EVERY_S, AuditLog, AuditReader
from authz.stores.audit_schema import Sync
from tests.stores import trail


def _row(number: int = 1) -> AuditRow:
    values = dict.fromkeys(AuditRow._fields, "x")
    return AuditRow(**{**values, "id": f"d-{number}", "rule_index": None, "latency_us": 7,
                       "agent_name": None, "debit": None, "metadata": '{"host":"h"}'})  # type: ignore[arg-type]  # fmt: skip


class Clock:
    """A monotonic clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "audit.db"


@pytest.fixture
def log(path: Path, clock: Clock) -> Iterator[AuditLog]:
    audit = AuditLog(path, monotonic=clock)
    assert audit.open()
    yield audit
    audit.close()


def _ids(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as other:
        return [row[0] for row in other.execute("SELECT id FROM audit ORDER BY seq")]


def test_a_written_row_is_visible_to_everybody_at_once(log: AuditLog, path: Path) -> None:
    log.write([_row(1), _row(2)])
    assert _ids(path) == ["d-1", "d-2"]


def test_the_file_is_in_wal_mode_and_not_for_others(log: AuditLog, path: Path) -> None:
    log.write([_row()])
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for file in path.parent.iterdir():
        assert not file.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP), file


def test_rows_are_written_all_or_none(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    with pytest.raises(TypeError):
        log.write([_row(2), _row(3)._replace(id=object())])  # type: ignore[arg-type]
    assert _ids(path) == ["d-1"]
    log.write([_row(4)])
    assert _ids(path) == ["d-1", "d-4"]


def test_it_opens_what_it_left(log: AuditLog, path: Path, clock: Clock) -> None:
    log.write([_row(1)])
    log.close()
    log.close()
    again = AuditLog(path, monotonic=clock)
    again.write([_row(2)])
    assert _ids(path) == ["d-1", "d-2"]
    again.close()


def test_a_locked_database_is_unavailable_until_it_is_free(log: AuditLog, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditUnavailable):
            log.write([_row(1)])
        assert not log.probe()
        assert log.failure == "database is locked"
        other.execute("ROLLBACK")
    log.write([_row(2)])
    assert log.failure == ""
    assert log.probe()
    assert _ids(path) == ["d-2"]


def _write_each(log: AuditLog, numbers: Iterable[int]) -> None:
    for number in numbers:
        log.write([_row(number)])


def test_a_full_disk_is_unavailable_and_loses_nothing_written(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    assert log._connection is not None
    log._connection.execute("PRAGMA max_page_count = 3")  # as SQLite sees a full disk
    with pytest.raises(AuditUnavailable):
        _write_each(log, range(2, 500))
    assert "full" in log.failure
    written = _ids(path)
    assert written == [f"d-{number}" for number in range(1, len(written) + 1)]
    log._connection.execute("PRAGMA max_page_count = 1000000")
    log.write([_row(900)])
    assert _ids(path) == [*written, "d-900"]


def test_a_foreign_file_is_refused_and_untouched(path: Path, clock: Clock) -> None:
    path.parent.mkdir()
    content = b"somebody's notes, not a database at all" * 200
    path.write_bytes(content)
    audit = AuditLog(path, monotonic=clock)
    assert not audit.open()
    assert audit.failure == "file is not a database"
    with pytest.raises(AuditUnavailable):
        audit.write([_row()])
    assert path.read_bytes() == content
    audit.close()


def test_it_is_reopened_at_intervals_once_it_is_mended(path: Path, clock: Clock) -> None:
    path.mkdir(parents=True)  # a directory stands where the file should be
    audit = AuditLog(path, monotonic=clock)
    assert not audit.open()
    path.rmdir()
    with pytest.raises(AuditUnavailable):
        audit.write([_row(1)])
    clock.now += REOPEN_EVERY_S
    audit.write([_row(2)])
    assert _ids(path) == ["d-2"]
    audit.close()


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("PRAGMA user_version = -1", "its schema is version -1, this program knows 4"),
        ("PRAGMA user_version = 99", "its schema is version 99, this program knows 4"),
        ("CREATE TABLE audit (seq INTEGER PRIMARY KEY, other TEXT)",
         "its table `audit` is not ours"),
        pytest.param(
            "CREATE TABLE policy_versions (other TEXT)", "its table `policy_versions` is not ours"
        ),
        pytest.param(
            "CREATE TABLE policy_activations (other TEXT)",
            "its table `policy_activations` is not ours"
        ),
    ],
)  # fmt: skip
def test_another_schema_is_refused(path: Path, clock: Clock, statement: str, sentence: str) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(statement)
    audit = AuditLog(path, monotonic=clock)
    assert not audit.open()
    assert audit.failure == sentence
    audit.close()


def test_corruption_while_running_is_unavailable(log: AuditLog, path: Path) -> None:
    log.write([_row(number) for number in range(500)])
    assert log._connection is not None
    log._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.close()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(AuditUnavailable):
        log.write([_row(1)])
    assert log.failure


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_went_away_is_noticed_before_the_next_row(
    log: AuditLog, path: Path, how: str
) -> None:
    log.write([_row(1)])
    elsewhere = path.with_name("elsewhere.db")
    if how == "replaced":
        other = AuditLog(elsewhere, monotonic=Clock())
        assert other.open()
        other.close()
        elsewhere.rename(path)
    elif how == "moved":
        path.rename(elsewhere)
    else:
        path.unlink()
    log.write([_row(2)])
    assert _ids(path) == ["d-2"]
    assert _problems(path) == []
    if how == "moved":
        # What was still in its WAL went with it.
        copy_to = path.with_name("moved.db")
        copy_to.write_bytes(elsewhere.read_bytes())
        assert _ids(copy_to) == ["d-1"]
        assert _problems(copy_to) == []


def test_what_somebody_still_reads_of_a_file_that_went_away_is_kept(
    log: AuditLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log.write([_row(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM audit").fetchall()
        log.write([_row(2)])
        path.rename(path.with_name("moved.db"))
        log.write([_row(3)])
    assert _ids(path) == ["d-3"]
    left = Path(f"{path}-wal.left")
    assert f"the newest rows of the file before are in {left}" in caplog.text
    left.rename(path.with_name("moved.db-wal"))
    assert _ids(path.with_name("moved.db")) == ["d-1", "d-2"]


def test_a_file_that_comes_with_its_own_wal_keeps_it(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    elsewhere = path.with_name("elsewhere.db")
    other = AuditLog(elsewhere, monotonic=Clock())
    other.write([_row(5)])
    for suffix in ("", "-wal"):
        copy = path.with_name(f"copy{suffix}")
        copy.write_bytes(Path(f"{elsewhere}{suffix}").read_bytes())
        copy.rename(f"{path}{suffix}")
    other.close()
    log.write([_row(6)])
    assert _ids(path) == ["d-5", "d-6"]
    assert _problems(path) == []


def test_missed_rows_are_counted(log: AuditLog) -> None:
    log.missed(3)
    log.missed(1)
    assert log.unrecorded == 4


def test_the_reader_shows_entries_as_the_contract_names_them(log: AuditLog, path: Path) -> None:
    log.write([_row(number) for number in range(5)])
    entries = list(AuditReader(path).tail(2))
    assert [entry["id"] for entry in entries] == ["d-3", "d-4"]
    assert entries[0]["traceId"] == "x"
    assert entries[0]["metadata"] == {"host": "h"}
    assert "agentName" not in entries[0]
    assert None not in entries[0].values()


def test_the_reader_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AuditReader(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_only_a_committed_write_ends_a_failure(
    log: AuditLog, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert log._connection is not None
    log._connection.execute("PRAGMA max_page_count = 1")  # full, but it can still be locked
    with pytest.raises(AuditUnavailable):
        _write_each(log, range(500))
    log.failure = "disk I/O error"
    log._connection.execute("PRAGMA query_only = 1")
    assert not log.probe()
    assert log.failure
    assert not log.probe()  # it is opened anew, but not each time that somebody asks
    assert log.failure
    clock.now += REOPEN_EVERY_S
    assert log.probe()
    assert log.failure == ""
    assert [r.message for r in caplog.records if "works again" in r.message] == [
        f"AUDIT_DB_PATH: {path} works again; 0 decisions have no row"
    ]


def test_a_dropped_table_is_made_again(log: AuditLog, path: Path, clock: Clock) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE audit")
    with pytest.raises(AuditUnavailable):
        log.write([_row(1)])
    clock.now += REOPEN_EVERY_S
    log.write([_row(2)])
    assert _ids(path) == ["d-2"]


def test_rows_that_vanish_on_their_way_are_unavailable(log: AuditLog, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TRIGGER hide BEFORE INSERT ON audit BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(AuditUnavailable):
        log.write([_row(1)])
    assert log.failure == "it has a trigger, which no sidecar made"


def test_rows_that_a_trigger_takes_away_again_are_unavailable(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER hide AFTER INSERT ON audit WHEN new.id = 'd-2'"
            " BEGIN DELETE FROM audit WHERE seq = new.seq; END"
        )
    with pytest.raises(AuditUnavailable):
        log.write([_row(2)])
    assert not log.open()


def test_asking_whether_it_works_does_not_open_a_broken_file_each_time(
    path: Path, clock: Clock
) -> None:
    path.mkdir(parents=True)
    audit = AuditLog(path, monotonic=clock)
    assert not audit.open()
    path.rmdir()
    assert not audit.probe()  # mended, but it was looked at a moment ago
    clock.now += REOPEN_EVERY_S
    assert audit.probe()
    audit.close()


# Rows together with other changes.


def _execute(database: peewee.SqliteDatabase, statement: str) -> sqlite3.Cursor:
    cursor: sqlite3.Cursor = database.execute_sql(statement)  # type: ignore[no-untyped-call]
    return cursor


def _mark(database: peewee.SqliteDatabase) -> None:
    _execute(database, "CREATE TABLE mark (x)")


def _tables(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as other:
        return {row[0] for row in other.execute("SELECT name FROM sqlite_schema")}


def test_rows_and_other_changes_are_committed_together(log: AuditLog, path: Path) -> None:
    seen: list[list[str]] = []

    def work(database: peewee.SqliteDatabase) -> None:
        _mark(database)
        seen.append(_ids(path))  # what others see meanwhile

    log.write_with([_row(1), _row(2)], work)
    assert seen == [[]]
    assert _ids(path) == ["d-1", "d-2"]
    assert "mark" in _tables(path)


def test_rows_that_fail_take_the_other_changes_along(log: AuditLog, path: Path) -> None:
    with pytest.raises(TypeError):
        log.write_with([_row(1), _row(2)._replace(id=object())], _mark)  # type: ignore[arg-type]
    assert (_ids(path), "mark" in _tables(path)) == ([], False)
    log.write_with([_row(3)], _mark)
    assert (_ids(path), "mark" in _tables(path)) == (["d-3"], True)


@pytest.mark.parametrize("error", [peewee.OperationalError("no"), sqlite3.OperationalError("no")])
def test_other_changes_that_fail_take_the_rows_along(
    log: AuditLog, path: Path, clock: Clock, error: Exception
) -> None:
    def work(database: peewee.SqliteDatabase) -> None:
        _mark(database)
        raise error

    with pytest.raises(AuditUnavailable):
        log.write_with([_row(1)], work)
    assert log.failure == "no"
    assert (_ids(path), "mark" in _tables(path)) == ([], False)
    clock.now += REOPEN_EVERY_S
    log.write([_row(2)])
    assert (_ids(path), log.failure) == (["d-2"], "")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_bug_in_other_changes_is_ours_and_the_store_is_fine(
    log: AuditLog, path: Path, error: type[BaseException]
) -> None:
    def work(database: peewee.SqliteDatabase) -> None:
        _mark(database)
        raise error

    with pytest.raises(error):
        log.write_with([_row(1)], work)
    assert (log.failure, "mark" in _tables(path)) == ("", False)
    log.write_with([_row(2)], lambda _: None)
    assert _ids(path) == ["d-2"]


def test_nothing_is_changed_while_somebody_else_holds_the_file(log: AuditLog, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditUnavailable):
            log.write_with([_row(1)], _mark)
        other.execute("ROLLBACK")
    assert log.failure == "database is locked"
    log.write_with([_row(2)], _mark)  # and it is tried again at once
    assert (_ids(path), log.failure) == (["d-2"], "")


def test_a_disk_that_fills_up_with_other_changes_is_tried_again_at_once(
    log: AuditLog, path: Path
) -> None:
    def fills(database: peewee.SqliteDatabase) -> None:
        pages = _execute(database, "PRAGMA page_count").fetchone()[0]
        _execute(database, f"PRAGMA max_page_count = {pages}")
        _execute(database, "CREATE TABLE large AS SELECT randomblob(1000000)")

    with pytest.raises(AuditUnavailable):
        log.write_with([_row(1)], fills)
    assert "full" in log.failure
    assert log._connection is not None
    log._connection.execute("PRAGMA max_page_count = 1000000")
    log.write([_row(2)])
    assert _ids(path) == ["d-2"]


# Older schemas: 2 added tables to 1, and 3 the chain.

_COLUMNS_THEN = (
    "seq INTEGER NOT NULL PRIMARY KEY, id TEXT NOT NULL, timestamp TEXT NOT NULL,"
    " source TEXT NOT NULL, agent_id TEXT, agent_name TEXT, trust_tier TEXT, org_id TEXT,"
    " action TEXT NOT NULL, resource TEXT, method TEXT, path TEXT, decision TEXT NOT NULL,"
    " enforced TEXT NOT NULL, mode TEXT NOT NULL, stage TEXT, code TEXT NOT NULL, policy TEXT,"
    " rule TEXT, rule_index INTEGER, reason TEXT, policy_version TEXT NOT NULL,"
    " trace_id TEXT NOT NULL, latency_us INTEGER NOT NULL, metadata TEXT, delegation_id TEXT,"
    " debit INTEGER"
)


def _as_left_by(path: Path, version: int, numbers: Iterable[int] = (1, 2)) -> None:
    """A database as that version left it, with rows of these numbers."""
    path.parent.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute(f"CREATE TABLE audit ({_COLUMNS_THEN})")
        if version == 2:
            other.execute(
                "CREATE TABLE policy_versions (version TEXT NOT NULL PRIMARY KEY,"
                " sha256 TEXT NOT NULL, policies TEXT NOT NULL, documents BLOB)"
            )
            other.execute(
                "CREATE TABLE policy_activations (id INTEGER NOT NULL PRIMARY KEY,"
                " at TEXT NOT NULL, version TEXT NOT NULL, why TEXT NOT NULL,"
                " pinned INTEGER NOT NULL)"
            )
        marks = ", ".join("?" * (1 + len(AuditRow._fields)))
        other.executemany(
            f"INSERT INTO audit VALUES ({marks})",
            [(number, *_row(number)) for number in numbers],
        )
        other.execute(f"PRAGMA user_version = {version}")


def _problems(path: Path) -> list[str]:
    """What is wrong with a trail that nobody signed, besides that nobody did."""
    report = audit_check.verify(path, {}, now=time.time())
    return [problem.message for problem in report.problems if problem.kind != "unsigned"]


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_database_is_upgraded_and_its_rows_are_chained(
    path: Path, clock: Clock, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    _as_left_by(path, version, range(1, 1202))
    audit = AuditLog(path, monotonic=clock)
    assert audit.open()
    audit.write([_row(2000)])
    audit.close()
    assert _ids(path) == [*(f"d-{number}" for number in range(1, 1202)), "d-2000"]
    assert {"audit", "policy_versions", "policy_activations"} <= _tables(path)
    assert not any("before" in name for name in _tables(path))
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (4,)
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert other.execute("SELECT seq, reason FROM audit_anchors").fetchall() == [(0, "upgrade")]
    assert _problems(path) == []
    assert [r.message for r in caplog.records if "chained" in r.message] == [
        f"AUDIT_DB_PATH: the database was upgraded from schema {version} to 4, and its 1201 rows"
        " were chained"
    ]
    again = AuditLog(path, monotonic=clock)
    assert again.open()
    again.close()
    assert len([r for r in caplog.records if "chained" in r.message]) == 1


@pytest.mark.parametrize("numbers", [(), (5, 6, 9), (-3, 0, 4)])
def test_an_upgrade_leaves_no_gaps(path: Path, clock: Clock, numbers: tuple[int, ...]) -> None:
    _as_left_by(path, 2, numbers)
    audit = AuditLog(path, monotonic=clock)
    audit.write([_row(100)])
    audit.close()
    assert _ids(path) == [*(f"d-{number}" for number in numbers), "d-100"]
    assert _problems(path) == []


def test_an_upgrade_copes_with_values_that_no_sidecar_wrote(path: Path, clock: Clock) -> None:
    _as_left_by(path, 2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE audit SET reason = x'ff00', rule_index = 1.5, debit = x'31',"
                      " latency_us = 9e999 WHERE seq = 1")  # fmt: skip
        other.execute("UPDATE audit SET reason = CAST(x'ff41' AS TEXT) WHERE seq = 2")
    audit = AuditLog(path, monotonic=clock)
    assert audit.open()
    audit.close()
    assert _problems(path) == []


def test_an_upgrade_waits_until_the_file_is_free(path: Path, clock: Clock) -> None:
    _as_left_by(path, 1)
    audit = AuditLog(path, monotonic=clock)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not audit.open()
        other.execute("ROLLBACK")
        assert other.execute("PRAGMA user_version").fetchone() == (1,)
    clock.now += REOPEN_EVERY_S
    audit.write([_row(3)])
    assert _ids(path) == ["d-1", "d-2", "d-3"]
    audit.close()


def test_an_upgrade_that_fails_changes_nothing(path: Path, clock: Clock) -> None:
    _as_left_by(path, 2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TABLE policy_activations")
        other.execute("CREATE TABLE policy_activations (other TEXT)")
    audit = AuditLog(path, monotonic=clock)
    assert not audit.open()
    assert audit.failure == "its table `policy_activations` is not ours"
    audit.close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (2,)
        assert len(other.execute("SELECT * FROM audit").description) == 27
    assert "audit_anchors" not in _tables(path)


def test_a_file_with_a_name_that_is_no_text_is_not_opened(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    log.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA writable_schema = 1")
        other.execute(
            "INSERT INTO sqlite_schema VALUES ('table', CAST(x'ff41' AS TEXT), 'a', 99, 'CREATE x')"
        )
    assert not log.open()
    assert log.failure
    with pytest.raises(AuditUnavailable):
        log.write([_row(2)])


def test_a_trail_that_says_it_is_older_is_not_chained_anew(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    log.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TABLE audit")
        other.execute(f"CREATE TABLE audit ({_COLUMNS_THEN})")
        other.execute("PRAGMA user_version = 2")
    assert not log.open()
    assert log.failure == "it says schema 2, and has tables that only 3 has"


def test_hashes_are_kept_whatever_version_the_file_claims(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    log.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE audit SET reason = 'other'")
        other.execute("PRAGMA user_version = 2")
    log.write([_row(2)])
    log.close()
    assert _problems(path) == ["row 1 was changed: its hash does not fit what it says"]


def test_a_copy_of_an_upgraded_database_is_whole(path: Path, clock: Clock) -> None:
    _as_left_by(path, 1)
    audit = AuditLog(path, monotonic=clock)
    assert audit.open()
    audit.close()  # folds the WAL in
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    assert not Path(f"{path}-wal").exists()
    assert _ids(copy) == ["d-1", "d-2"]


def test_the_reader_shows_what_an_older_version_wrote(path: Path) -> None:
    _as_left_by(path, 2)
    assert [entry["id"] for entry in AuditReader(path).tail(5)] == ["d-1", "d-2"]


# The chain.


def _links(path: Path) -> list[tuple[int, bytes, bytes]]:
    with contextlib.closing(sqlite3.connect(path)) as other:
        return other.execute("SELECT seq, prev_hash, hash FROM audit ORDER BY seq").fetchall()


def test_each_row_carries_the_hash_of_the_one_before(log: AuditLog, path: Path) -> None:
    log.write([_row(1), _row(2)])
    log.write([_row(3)])
    log.write_with([_row(4)], lambda _: None)
    links = _links(path)
    assert [seq for seq, _, _ in links] == [1, 2, 3, 4]
    assert [previous for _, previous, _ in links[1:]] == [digest for _, _, digest in links[:-1]]
    with contextlib.closing(sqlite3.connect(path)) as other:
        anchor = other.execute("SELECT seq, hash, reason FROM audit_anchors").fetchall()
    assert anchor == [(0, links[0][1], "genesis")]
    said = canonical(4, _row(4))
    assert links[3][2] == hashlib.sha256(links[2][2] + said).digest()
    assert _problems(path) == []


def test_two_trails_have_nothing_in_common(tmp_path: Path, clock: Clock) -> None:
    beginnings = set()
    for name in ("a.db", "b.db"):
        audit = AuditLog(tmp_path / name, monotonic=clock)
        audit.write([_row(1)])
        audit.close()
        beginnings.add(_links(tmp_path / name)[0][1])
    assert len(beginnings) == 2


def test_two_logs_on_one_file_keep_one_chain(log: AuditLog, path: Path, clock: Clock) -> None:
    other = AuditLog(path, monotonic=clock)
    for number in range(40):
        (log, other)[number % 3 == 0].write([_row(number)] * (1 + number % 4))
    other.close()
    log.write([_row(99)])
    assert _problems(path) == []
    assert len(_links(path)) == 101


def test_writers_in_two_threads_keep_one_chain(path: Path) -> None:
    failures: list[BaseException] = []

    def write(first: int) -> None:
        mine = AuditLog(path, monotonic=time.monotonic)
        try:
            for number in range(first, first + 60):
                while True:
                    try:
                        mine.write([_row(number), _row(number)])
                        break
                    except AuditUnavailable:
                        continue
        except Exception as error:  # noqa: BLE001 - for the test's own thread
            failures.append(error)
        finally:
            mine.close()

    AuditLog(path, monotonic=time.monotonic).open()
    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(_links(path)) == 240
    assert _problems(path) == []


def test_what_was_rolled_back_is_no_link(log: AuditLog, path: Path) -> None:
    def fails(database: peewee.SqliteDatabase) -> None:
        raise RuntimeError

    log.write([_row(1)])
    with pytest.raises(RuntimeError):
        log.write_with([_row(2), _row(3)], fails)
    log.write([_row(4)])
    with pytest.raises(TypeError):
        log.write([_row(5), _row(6)._replace(id=object())])  # type: ignore[arg-type]
    log.write([_row(7)])
    assert (_ids(path), _problems(path)) == (["d-1", "d-4", "d-7"], [])


def test_a_writer_that_is_killed_between_two_statements_leaves_a_whole_trail(
    path: Path, clock: Clock
) -> None:
    """At each statement the process is gone: what is on the disk then is copied and looked at."""
    made = AuditLog(path, monotonic=clock)
    assert made.open()
    seen: list[list[str]] = []

    def look(statement: str) -> None:
        copy = path.with_name(f"at-{len(seen)}.db")
        for suffix in ("", "-wal"):
            trail.copy(Path(f"{path}{suffix}"), Path(f"{copy}{suffix}"))
        seen.append(_ids(copy))
        assert _problems(copy) == [], statement

    assert made._connection is not None
    made._connection.set_trace_callback(look)
    made.write([_row(1)])
    made.write_with([_row(2), _row(3)], _mark)
    made.write([_row(4)])
    made._connection.set_trace_callback(None)
    made.close()
    assert seen[0] == []
    assert seen[-1] == ["d-1", "d-2", "d-3"]
    assert len(seen) > 12


def test_a_head_that_is_damaged_does_not_stop_decisions(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE audit SET hash = 'none'")
    log.write([_row(2)])
    assert _ids(path) == ["d-1", "d-2"]
    assert _problems(path) == ["row 1 was changed: it has no hashes as a sidecar writes them"]


def test_the_highest_number_is_the_end(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"UPDATE audit SET seq = {2**63 - 1}")
    with pytest.raises(AuditUnavailable):
        log.write([_row(2)])
    assert log.failure == "its last row has the highest number that there is"


def test_a_trail_that_was_emptied_begins_again(log: AuditLog, path: Path, clock: Clock) -> None:
    log.write([_row(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM audit")
        other.execute("DELETE FROM audit_anchors")
    with pytest.raises(AuditUnavailable):
        log.write([_row(2)])
    clock.now += REOPEN_EVERY_S
    log.write([_row(3)])
    assert (_ids(path), _problems(path)) == (["d-3"], [])


def test_hashes_are_shown_in_hexadecimal(log: AuditLog, path: Path) -> None:
    log.write([_row(1)])
    [entry] = AuditReader(path).tail(1)
    [(_, previous, digest)] = _links(path)
    assert (entry["prevHash"], entry["hash"]) == (previous.hex(), digest.hex())


# How the file is opened.


@pytest.mark.parametrize(("sync", "number"), [("normal", 1), ("full", 2)])
def test_how_long_a_commit_waits_for_the_disk(path: Path, sync: Sync, number: int) -> None:
    audit = AuditLog(path, monotonic=Clock(), sync=sync)
    assert audit.open()
    assert audit._connection is not None
    assert audit._connection.execute("PRAGMA synchronous").fetchone() == (number,)
    assert audit._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    audit.close()


def test_opening_a_file_again_keeps_the_locks_that_this_process_has_on_it(path: Path) -> None:
    first = AuditLog(path, monotonic=Clock())
    first.write([_row(1)])
    second = AuditLog(path, monotonic=Clock())
    assert second.open()
    # Another process that opens and closes it must not take itself for the last one: it would
    # remove the WAL that we are writing.
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        " c.execute('SELECT 1 FROM audit').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert Path(f"{path}-wal").exists()
    first.write([_row(2)])
    assert _ids(path) == ["d-1", "d-2"]
    first.close()
    second.close()


def test_a_link_to_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "audit.db")
    audit = AuditLog(link, monotonic=Clock())
    audit.write([_row(1)])
    audit.close()
    assert _ids(tmp_path / "audit.db") == ["d-1"]
    assert not (tmp_path / "audit.db").stat().st_mode & stat.S_IRWXO
