"""The ledger in the audit database: one transaction with the rows, one truth for everybody."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import peewee
import pytest

from authz.core.action_token import Used
from authz.core.balance import key
from authz.core.errors import AuditUnavailable
from authz.core.ledger import Put
from authz.core.state import State
from authz.core.window import Window
from authz.stores import ledger_log
from authz.stores.audit_log import AuditLog, AuditReader
from tests.stores.trail import START, row

WHERE = key("w", "agent-1")


class Opened:
    """A database with the state that it holds."""

    def __init__(self, path: Path) -> None:
        self.state = State()
        self.audit = AuditLog(path, monotonic=lambda: 0.0, ledger=self.state.ledger)
        assert self.audit.open(), self.audit.failure

    def spend(self, amount: int) -> None:
        """Spend points, with a row, in one transaction."""
        self.audit.begin()
        known = self.state.wallets.get(WHERE) or Window(60)
        assert isinstance(known, Window)
        self.state.ledger.put(Put(self.state.wallets, WHERE, known.add(600.0, amount)))
        self.audit.write([row()], self.state.ledger.changes())
        self.state.ledger.keep(durable=True)

    @property
    def spent(self) -> int:
        """What others see of it after they have looked."""
        self.audit.begin()
        self.audit.cancel()
        found = self.state.wallets.get(WHERE)
        assert found is None or isinstance(found, Window)
        return 0 if found is None else found.total(600.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def test_what_was_spent_is_there_after_a_restart(path: Path) -> None:
    first = Opened(path)
    first.spend(3)
    first.spend(4)
    # Not closed: the process is killed.
    assert Opened(path).spent == 7


def test_the_ledger_is_read_when_the_file_is_opened_so_that_no_lock_is_held_for_it(
    path: Path,
) -> None:
    Opened(path).spend(3)
    opened = Opened(path)
    known = opened.state.wallets.get(WHERE)
    assert isinstance(known, Window)
    assert known.total(600.0) == 3


def test_a_reader_takes_the_ledger_over_and_changes_nothing(path: Path) -> None:
    opened = Opened(path)
    opened.spend(3)
    opened.audit.close()
    before = path.read_bytes()
    state, reader = State(), AuditReader(path)
    reader.follow(state.ledger)
    known = state.wallets.get(WHERE)
    assert isinstance(known, Window)
    assert known.total(600.0) == 3
    assert reader.newest_at() == START
    assert path.read_bytes() == before


def test_a_reader_of_an_older_file_finds_no_ledger_and_of_another_says_so(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        with pytest.raises(peewee.OperationalError, match="it has no table `audit`"):
            AuditReader(path).follow(State().ledger)
        other.execute("CREATE TABLE audit (seq INTEGER)")
    AuditReader(path).follow(State().ledger)
    assert AuditReader(path).newest_at() == 0.0


def test_two_that_have_the_file_open_see_each_others_changes_and_lose_none(path: Path) -> None:
    one, other = Opened(path), Opened(path)
    for _ in range(5):
        one.spend(1)
        other.spend(1)
    assert one.spent == other.spent == 10


def test_a_removed_entry_is_gone_for_everybody_and_after_a_restart(path: Path) -> None:
    one, other = Opened(path), Opened(path)
    one.spend(3)
    assert other.spent == 3
    one.audit.begin()
    one.state.ledger.put(Put(one.state.wallets, WHERE, None))
    one.audit.write([row()], one.state.ledger.changes())
    one.state.ledger.keep(durable=True)
    assert other.spent == 0
    assert Opened(path).spent == 0


def test_rows_and_changes_are_durable_together_or_not_at_all(path: Path) -> None:
    opened = Opened(path)
    opened.spend(1)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        other.commit()
    with pytest.raises(AuditUnavailable):
        opened.spend(1)
    opened.state.ledger.undo()
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM audit").fetchone() == (1,)
    total = opened.state.wallets.get(WHERE)
    assert isinstance(total, Window)
    assert total.total(600.0) == 1


def test_a_file_that_takes_the_others_place_gets_what_it_does_not_know(
    path: Path, tmp_path: Path
) -> None:
    opened = Opened(path)
    opened.spend(5)
    Opened(tmp_path / "other.db").audit.close()
    (tmp_path / "other.db").rename(path)
    opened.spend(1)
    assert Opened(path).spent == 6


def test_a_file_that_knows_less_than_was_seen_of_it_is_told_again(path: Path) -> None:
    opened = Opened(path)
    opened.spend(5)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM ledger")
        other.commit()
    opened.audit.close()
    assert opened.audit.open()
    opened.spend(1)
    assert Opened(path).spent == 6


@pytest.mark.parametrize(
    "value",
    ["not json", "[1]", '["x",[]]', "[60,[[1,-5]]]", f"[1,{10**400},1]", 7, b"\xff", "null"],
)
def test_an_entry_that_cannot_be_read_closes_the_store_and_is_named(path: Path, value: Any) -> None:
    opened = Opened(path)
    opened.spend(1)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE ledger SET value = ?, change = change + 1", (value,))
        other.commit()
    AuditLog(path, monotonic=lambda: 0.0).write([row()])
    with pytest.raises(AuditUnavailable):
        opened.audit.begin()
    assert "its ledger's entry 'wallet' 'w\\nagent-1' cannot be read" in opened.audit.failure


def test_only_what_everybody_has_heard_of_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_log, "HEARD", 2)
    opened = Opened(path)

    def removed() -> int:
        with contextlib.closing(sqlite3.connect(path)) as other:
            ledger_log.forget(other)
            other.commit()
            query = "SELECT count(*) FROM ledger WHERE value IS NULL"
            count: int = other.execute(query).fetchone()[0]
            return count

    opened.spend(1)
    opened.audit.begin()
    opened.state.ledger.put(Put(opened.state.wallets, WHERE, None))
    opened.audit.write([row()], opened.state.ledger.changes())
    opened.state.ledger.keep(durable=True)
    assert removed() == 1
    for number in range(3):
        opened.audit.begin()
        opened.state.ledger.put(Put(opened.state.used, str(number), Used(1.0)))
        opened.audit.write([row()], opened.state.ledger.changes())
        opened.state.ledger.keep(durable=True)
    assert removed() == 0


def test_what_is_new_is_found_without_reading_the_values(path: Path) -> None:
    """An agent can make them long, and others look through all of them under the lock."""
    Opened(path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        columns = [column[1] for column in other.execute("PRAGMA table_info(ledger)")]
    # SQLite reads a row's columns in their order, and no further than it has to.
    assert columns == ["kind", "key", "change", "value"]


def test_changes_without_a_row_which_others_would_miss_are_not_written(path: Path) -> None:
    opened = Opened(path)
    opened.audit.begin()
    opened.state.ledger.put(Put(opened.state.used, "jti", Used(1.0)))
    with pytest.raises(ValueError, match="no row"):
        opened.audit.write([], opened.state.ledger.changes())
    opened.state.ledger.undo()
    opened.spend(1)
    assert Opened(path).spent == 1


def test_whoever_only_looks_waits_for_no_writer(path: Path) -> None:
    opened, other = Opened(path), Opened(path)
    opened.audit.follow()
    other.audit.begin()
    opened.audit.follow()
    other.audit.cancel()
    other.spend(5)
    opened.audit.follow()
    known = opened.state.wallets.get(WHERE)
    assert isinstance(known, Window)
    assert known.total(600.0) == 5
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocking:
        other.spend(1)
        blocking.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditUnavailable):
            opened.audit.follow()
