"""The audit trail: one append-only, hash-chained table in SQLite, WAL mode (DESIGN §6).

The same file holds what else must not be lost with the decisions: `version_log`, which policies
were in force when, and `ledger_log`, what outlives a call besides its row.

- `begin` takes the write lock and what others have changed, so that what is decided between it and
  `write` is decided on what is true, and by one alone. Nearly all of it was read when the file was
  opened, so that nobody waits for the lock while a whole ledger is read.
- `write` returns after COMMIT. With synchronous=NORMAL a committed row survives `kill -9` of
  this process (SQLite: "WAL mode is always consistent with synchronous=NORMAL"); it is the
  machine losing power that may cost the newest ones, and AUDIT_SYNC=full keeps those too.
- Each row carries the hash of the one before it. Where the chain stands is remembered, and read
  again when another connection has committed anything, inside the lock that the rows are written
  under; so it has one end, whoever else writes.
- The schema is peewee's; the hot path executes the INSERT that peewee compiled, without building
  it again. It never checkpoints: `audit_maintenance` does, in a thread.
- A file that was moved, deleted or replaced under us is noticed before the next row is written;
  rows then go to the file that is at the path now, instead of to one that nobody can find.
- A store that cannot be written is reported, counted and tried again: every write attempts it,
  a file that could not be opened is reopened at most every `REOPEN_EVERY_S`.
"""

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peewee

from authz.core.audit import AuditRow
from authz.core.audit_chain import Link, chained
from authz.core.errors import AuditUnavailable
from authz.core.ledger import Change, Ledger
from authz.core.sources import GOVERNED
from authz.core.timestamps import seconds_of
from authz.ownership import why_not_written
from authz.stores import ledger_log
from authz.stores.audit_schema import (
    COLUMNS,
    INSERT,
    SCHEMA_VERSION,
    WAL_LIMIT,
    Sync,
    Unusable,
    companions,
    connection_of,
    file_identity,
    fold_in,
    newest,
    prepare,
    unwrapped,
)
from authz.stores.audit_table import TABLE, AuditEntry, entry_of, is_there

log = logging.getLogger(__name__)

#: How long a write waits for another connection's lock. The maintenance thread holds it for some
#: milliseconds, and on a slow disk for two fsyncs each time that the WAL begins anew. Envoy gives
#: up after 100 ms, and while we wait nobody else is answered: half of that leaves time for both.
BUSY_TIMEOUT_MS: Final = 50
REOPEN_EVERY_S: Final = 1.0
#: What passes without opening the file again.
_PASSING: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
#: By the ledger; rows are of the wall's clock, which may have been set forward or back meanwhile.
_NEWEST_AT: Final = (
    f"SELECT coalesce((SELECT value FROM {ledger_log.TABLE} WHERE kind = 'clock'),"  # noqa: S608
    " (SELECT timestamp FROM audit ORDER BY seq DESC LIMIT 1))"
)
#: No link of any chain, so that whatever is there is new.
_NOWHERE: Final = Link(0, b"")
#: No `data_version`: where the chain stands has to be read.
_UNKNOWN: Final = -1


class AuditLog:
    """The one writer of an audit database."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float],
        ledger: Ledger | None = None,
        now: Callable[[], float] = time.time,
        sync: Sync = "normal",
        patience_s: float = BUSY_TIMEOUT_MS / 1000,
    ) -> None:
        """
        Args:
            monotonic: seconds of a clock that never steps back.
            ledger: is kept as the file has it; none where nobody decides anything.
            now: seconds since the epoch, for when the trail was begun.
            sync: AUDIT_SYNC; full waits for the disk at each commit.
            patience_s: how long to wait for another's lock.
        """
        self._path = path
        self._ledger = Ledger() if ledger is None else ledger
        #: The last change of the ledger that was seen.
        self._change = 0
        self._monotonic = monotonic
        self._now = now
        self._sync = sync
        self._patience_s = patience_s
        self._database: peewee.SqliteDatabase | None = None
        self._connection: sqlite3.Connection | None = None
        self._head = _NOWHERE
        #: SQLite's number of what others had committed when `_head` was read.
        self._seen = _UNKNOWN
        self._retry_at = float("-inf")
        #: Which files are the WAL of the one that is open, and its index.
        self._beside: tuple[tuple[int, int], ...] = ()
        #: Device and inode of the file that was opened last; zeros before.
        self.opened = (0, 0)
        #: Why the last write or opening failed; empty while the store works.
        self.failure = ""
        #: How often a database was opened: another number may mean another file.
        self.openings = 0
        #: Decisions answered without a row since the start.
        self.unrecorded = 0
        #: Rows committed since the start.
        self.written = 0

    def open(self) -> bool:
        """Open or create the database; False (and `failure`) when it cannot be used now."""
        try:
            self._connection = self._connect()
        except (
            peewee.PeeweeException, sqlite3.Error, UnicodeDecodeError, OSError, Unusable,
        ) as error:  # fmt: skip
            self._fail(error)
            self._retry_at = self._monotonic() + REOPEN_EVERY_S
            return False
        self.openings += 1
        self._recovered()
        return True

    def close(self) -> None:
        """Close the database; may be called more than once. SQLite then folds the WAL in."""
        database, self._database, self._connection = self._database, None, None
        if database is not None:
            database.close()

    def begin(self) -> None:
        """Take the write lock, and what others have changed; `write` or `cancel` ends it.

        Raises:
            AuditUnavailable: nothing can be written now.
        """
        connection = self._usable()
        if connection is None:
            raise AuditUnavailable("the audit store cannot be opened")
        execute = connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            seen = execute("PRAGMA data_version").fetchone()[0]
            if seen != self._seen:
                head = newest(connection)
                if head != self._head:
                    self._change = ledger_log.follow(connection, self._ledger, self._change)
                    self._head = head
                self._seen = seen
        except sqlite3.Error as error:
            self._break(connection, error)
            raise AuditUnavailable("the audit store does not take writes") from error

    def follow(self) -> None:
        """Take what others have changed, for whoever only looks.

        The write lock is taken only where somebody has committed anything: otherwise whoever may
        look, and many may, would make decisions wait for each other.

        Raises:
            AuditUnavailable: the store cannot be used now.
        """
        connection = self._usable()
        if connection is None:
            raise AuditUnavailable("the audit store cannot be opened")
        try:
            changed = connection.execute("PRAGMA data_version").fetchone()[0] != self._seen
        except sqlite3.Error as error:
            self._break(connection, error)
            raise AuditUnavailable("the audit store cannot be read") from error
        if changed:
            self.begin()
            seen = self._seen
            self.cancel()
            # Nothing was written, so what was read still stands.
            self._seen = seen

    def write(self, rows: Sequence[AuditRow], changes: Sequence[Change] = ()) -> None:
        """Commit rows in order, with changes of the ledger, in the transaction that `begin` began.

        Where none was begun this begins one.

        Raises:
            AuditUnavailable: nothing is durable.
            ValueError: there are changes and no row, by which others would see them.
        """
        if changes and not rows:
            self.cancel()
            raise ValueError("changes of the ledger have no row")
        if self._connection is None or not self._connection.in_transaction:
            self.begin()
        connection = self._connection
        assert connection is not None
        head, change = self._head, self._change
        try:
            if rows:
                made, head = chained(head, rows)
                taken = connection.executemany(INSERT, made).rowcount
                if taken != len(rows):
                    raise sqlite3.IntegrityError(f"it took {taken} of {len(rows)} rows")
            if changes:
                change = ledger_log.write(connection, changes, change)
            connection.execute("COMMIT")
        except sqlite3.ProgrammingError:
            self._roll_back(connection)
            raise  # a row that cannot be bound is our bug; the store is fine
        except sqlite3.Error as error:
            self._break(connection, error)
            raise AuditUnavailable("the audit store does not take writes") from error
        except BaseException:
            self._roll_back(connection)
            raise
        self._head, self._change = head, change
        self.written += len(rows)
        if self.failure:
            self._recovered()

    def cancel(self) -> None:
        """End what `begin` began, with nothing written."""
        if self._connection is not None:
            self._roll_back(self._connection)

    def write_with(
        self, rows: Sequence[AuditRow], work: Callable[[peewee.SqliteDatabase], None]
    ) -> None:
        """Commit rows together with other changes to the same file, or nothing of both.

        Raises:
            AuditUnavailable: nothing is durable.
        """
        self.begin()
        connection, database = self._connection, self._database
        assert connection is not None
        assert database is not None
        try:
            with unwrapped():
                work(database)
        except sqlite3.Error as error:
            self._break(connection, error)
            raise AuditUnavailable("the audit store does not take writes") from error
        except BaseException:
            self._roll_back(connection)
            raise
        self.write(rows)

    def newest_at(self) -> float:
        """When anything was last recorded, seconds since the epoch; 0 where that is not known."""
        return 0.0 if self._connection is None else _newest_at(self._connection)

    def missed(self, count: int) -> None:
        """Count decisions that were answered without a row."""
        self.unrecorded += count

    def probe(self) -> bool:
        """Whether rows can be written now.

        While the store works this takes the write lock and gives it back. After a failure only
        something written and committed shows that it works again.
        """
        connection = self._usable()
        if connection is None:
            return False
        try:
            connection.execute("BEGIN IMMEDIATE")
            if self.failure:
                # The same number again, but SQLite writes its page.
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._break(connection, error)
            return False
        if self.failure:
            self._recovered()
        return True

    def _usable(self) -> sqlite3.Connection | None:
        """The connection to the file that is at the path now; None when there is none yet."""
        if self._connection is not None and file_identity(self._path) != self.opened:
            log.error("AUDIT_DB_PATH: %s is another file than before; opening it anew", self._path)
            self._leave(self._connection)
            self._retry_at = float("-inf")
        if self._connection is None and self._monotonic() >= self._retry_at:
            self.open()
        return self._connection

    def _break(self, connection: sqlite3.Connection, error: sqlite3.Error) -> None:
        self._fail(error)
        self._roll_back(connection)
        if _code(error) not in _PASSING:
            # Only another file, or this one mended, can help; look for it now and then.
            self.close()
            self._retry_at = self._monotonic() + REOPEN_EVERY_S

    def _connect(self) -> sqlite3.Connection:
        self.close()
        before = self.opened
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Who did what is not for everybody to read; SQLite gives -wal and -shm the same mode. Only
        # a file that was not there is opened here: closing another one would drop our locks on it.
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            os.close(os.open(os.path.realpath(self._path), flags, 0o640))
        database = peewee.SqliteDatabase(
            os.fspath(self._path),
            pragmas={
                "journal_mode": "wal",
                "synchronous": self._sync,
                "wal_autocheckpoint": 0,
                "journal_size_limit": WAL_LIMIT,
            },
            timeout=self._patience_s,
        )
        self._database = database
        database.connect()
        prepare(database, self._now())
        self.opened = file_identity(self._path)
        self._beside = tuple(map(file_identity, companions(self._path)))
        self._seen = _UNKNOWN
        connection = connection_of(database)
        if self.opened != before or ledger_log.last(connection) < self._change:
            # It may know nothing of what this process knows, or less.
            self._change = 0
            self._ledger.everything_unsaved()
        # In this order: rows that come meanwhile are another end of the chain, and followed then.
        self._head = newest(connection)
        self._change = ledger_log.follow(connection, self._ledger, self._change)
        return connection

    def _leave(self, connection: sqlite3.Connection) -> None:
        """Close a file that is not at the path any more, and take its WAL away from the path.

        SQLite would take it for the WAL of the file that is there now, and overwrite that one.
        """
        whole = fold_in(connection)
        self.close()
        for file, identity in zip(companions(self._path), self._beside, strict=True):
            if identity == (0, 0) or file_identity(file) != identity:
                continue  # it came with the other file
            with contextlib.suppress(OSError):
                if whole or file.name.endswith("-shm"):
                    file.unlink()
                else:
                    kept = file.rename(f"{file}.left")
                    log.error("AUDIT_DB_PATH: the newest rows of the file before are in %s", kept)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        self._seen = _UNKNOWN
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def _fail(self, error: Exception) -> None:
        # Of the system's, without the path: anybody may read this in `/health`.
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if said != self.failure:
            cause = why_not_written(self._path)
            log.error(
                "AUDIT_DB_PATH: %s cannot be written, and decisions cannot be recorded: %s%s",
                self._path.absolute(),
                said,
                f"; {cause}" if cause else "",
            )
        self.failure = said or type(error).__name__

    def _recovered(self) -> None:
        if self.failure:
            log.warning(
                "AUDIT_DB_PATH: %s works again; %d decisions have no row",
                self._path.absolute(),
                self.unrecorded,
            )
        self.failure = ""


class AuditReader:
    """Read-only queries on an audit database, also while a sidecar writes it."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileNotFoundError: there is no such file.
            peewee.OperationalError: it may not be looked for.
        """
        if not is_there(path):
            raise FileNotFoundError(path)
        self._database = peewee.SqliteDatabase(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5, pragmas={"query_only": 1}
        )

    def follow(self, ledger: Ledger) -> None:
        """Take over everything that the file's ledger holds.

        Raises:
            peewee.PeeweeException, sqlite3.Error: the file is not an audit database, or an entry of
                its ledger cannot be read.
        """
        with self._database.connection_context():
            if not self._database.table_exists(TABLE):
                raise peewee.OperationalError(f"it has no table `{TABLE}`")
            # One that an older version wrote has no ledger.
            if self._database.table_exists(ledger_log.TABLE):
                ledger_log.follow(connection_of(self._database), ledger, 0)

    def newest_at(self) -> float:
        """When anything was last recorded, seconds since the epoch; 0 where that is not known."""
        with self._database.connection_context():
            return _newest_at(connection_of(self._database))

    def tail(self, count: int) -> Iterator[dict[str, Any]]:
        """The newest `count` entries, oldest of them first, as CONTRACT §9 names their fields."""
        with self._database.connection_context():
            # One that an older version wrote has fewer columns.
            there = {column.name for column in self._database.get_columns(TABLE)}
            fields = [getattr(AuditEntry, name) for name in COLUMNS if name in there]
            if not fields:
                raise peewee.OperationalError(f"it has no table `{TABLE}`")
            query = AuditEntry.select(*fields).order_by(AuditEntry.seq.desc()).limit(count).dicts()
            found: list[dict[str, Any]] = list(query.execute(self._database))
        return (entry_of(row) for row in reversed(found))

    def asked(self) -> Iterator["Recorded"]:
        """Every distinct call that was judged, with how often it was.

        Raises:
            peewee.PeeweeException: the file is not an audit database.
        """
        entry = AuditEntry
        columns = (
            entry.source,
            entry.agent_id,
            entry.agent_name,
            entry.trust_tier,
            entry.org_id,
            entry.action,
            entry.resource,
            entry.method,
            entry.path,
            entry.metadata,
            entry.enforced,
            entry.decision,
        )
        with self._database.connection_context():
            query = (
                entry.select(*columns, peewee.fn.COUNT(entry.seq))
                .where(
                    entry.source.in_(GOVERNED),
                    entry.agent_id.is_null(False),
                    entry.code != "malformed",
                )
                .group_by(*columns)
                .tuples()
            )
            for row in query.iterator(self._database):
                values: dict[str, Any] = dict(zip(Recorded._fields, row, strict=True))
                for name, value in values.items():
                    values[name] = "" if value is None else value
                metadata = values["metadata"]
                yield Recorded(**{**values, "metadata": json.loads(metadata or "{}")})


class Recorded(NamedTuple):
    """A call as the trail has it. Texts are empty where it had none."""

    source: str
    agent_id: str
    agent_name: str
    trust_tier: str
    org_id: str
    action: str
    resource: str
    method: str
    path: str
    metadata: dict[str, Any]
    enforced: str
    decision: str
    #: How many rows say the same.
    times: int


def _newest_at(connection: sqlite3.Connection) -> float:
    try:
        found = connection.execute(_NEWEST_AT).fetchone()
        return seconds_of(found[0]) if found[0] else 0.0
    except (sqlite3.Error, ValueError, TypeError, AttributeError, OverflowError):
        return 0.0


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
