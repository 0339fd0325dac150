"""The audit store: what `write` returned from is durable, what failed is said and counted."""

import contextlib
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import peewee
import pytest

from authz.core.audit import AuditRow
from authz.core.errors import AuditUnavailable
from authz.stores.audit_log import REOPEN_EVERY_S, AuditLog, AuditReader


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
    with pytest.raises(sqlite3.ProgrammingError):
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
        ("PRAGMA user_version = -1", "its schema is version -1, this program knows 2"),
        ("PRAGMA user_version = 99", "its schema is version 99, this program knows 2"),
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
        AuditLog(elsewhere, monotonic=Clock()).open()
        elsewhere.rename(path)
    elif how == "moved":
        path.rename(elsewhere)
    else:
        path.unlink()
    log.write([_row(2)])
    assert _ids(path) == ["d-2"]


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
    assert log.failure == "it took 0 of 1 rows"


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
    with pytest.raises(sqlite3.ProgrammingError):
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


# Schema 2 added tables and changed none.


def _as_version_1_left_it(path: Path) -> None:
    """A database with rows, before there were versions of policies."""
    made = AuditLog(path, monotonic=Clock())
    assert made.open()
    made.write([_row(1), _row(2)])
    made.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TABLE policy_versions")
        other.execute("DROP TABLE policy_activations")
        other.execute("PRAGMA user_version = 1")
    assert {name for name in _tables(path) if name.startswith("policy")} == set()


def test_a_database_of_version_1_is_upgraded_and_keeps_its_rows(path: Path, clock: Clock) -> None:
    _as_version_1_left_it(path)
    audit = AuditLog(path, monotonic=clock)
    assert audit.open()
    assert _ids(path) == ["d-1", "d-2"]
    audit.write([_row(3)])
    audit.close()
    assert _ids(path) == ["d-1", "d-2", "d-3"]
    assert {"audit", "policy_versions", "policy_activations"} <= _tables(path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (2,)
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_upgrade_waits_until_the_file_is_free(path: Path, clock: Clock) -> None:
    _as_version_1_left_it(path)
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


def test_a_copy_of_an_upgraded_database_is_whole(path: Path, clock: Clock) -> None:
    _as_version_1_left_it(path)
    audit = AuditLog(path, monotonic=clock)
    assert audit.open()
    audit.close()  # folds the WAL in
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    assert not Path(f"{path}-wal").exists()
    assert _ids(copy) == ["d-1", "d-2"]
