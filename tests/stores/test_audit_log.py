"""The audit store: what `write` returned from is durable, what failed is said and counted."""

import contextlib
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

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
        ("PRAGMA user_version = 99", "its schema is version 99, this program knows 1"),
        ("CREATE TABLE audit (seq INTEGER PRIMARY KEY, other TEXT)",
         "its table `audit` is not ours"),
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
