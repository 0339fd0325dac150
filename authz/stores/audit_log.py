"""The audit trail: one append-only table in SQLite, WAL mode (DESIGN §6).

The same file holds what else must not be lost with the decisions: `version_log`, which policies
were in force when.

- `write` returns after COMMIT. With synchronous=NORMAL a committed row survives `kill -9` of
  this process (SQLite: "WAL mode is always consistent with synchronous=NORMAL"); it is the
  machine losing power that may cost the newest ones.
- peewee owns the schema and the queries; the hot path executes the INSERT that peewee compiled,
  without building it again.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peewee

from authz.core.audit import AuditRow
from authz.core.errors import AuditUnavailable
from authz.stores import version_log

log = logging.getLogger(__name__)

#: Raised with each change of the table; a newer file is refused, not guessed at.
SCHEMA_VERSION: Final = 2
TABLE: Final = "audit"
#: How long a write waits for another process's lock. Envoy gives up after 100 ms, and while we
#: wait nobody else is answered.
BUSY_TIMEOUT_MS: Final = 25
REOPEN_EVERY_S: Final = 1.0
#: What passes without opening the file again.
_PASSING: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)


class AuditEntry(peewee.Model):
    """The `audit` table. `AuditRow` has the meaning of each column."""

    seq = peewee.BigAutoField()
    id = peewee.TextField()
    timestamp = peewee.TextField()
    source = peewee.TextField()
    agent_id = peewee.TextField(null=True)
    agent_name = peewee.TextField(null=True)
    trust_tier = peewee.TextField(null=True)
    org_id = peewee.TextField(null=True)
    action = peewee.TextField()
    resource = peewee.TextField(null=True)
    method = peewee.TextField(null=True)
    path = peewee.TextField(null=True)
    decision = peewee.TextField()
    enforced = peewee.TextField()
    mode = peewee.TextField()
    stage = peewee.TextField(null=True)
    code = peewee.TextField()
    policy = peewee.TextField(null=True)
    rule = peewee.TextField(null=True)
    rule_index = peewee.IntegerField(null=True)
    reason = peewee.TextField(null=True)
    policy_version = peewee.TextField()
    trace_id = peewee.TextField()
    latency_us = peewee.IntegerField()
    metadata = peewee.TextField(null=True)
    delegation_id = peewee.TextField(null=True)
    debit = peewee.IntegerField(null=True)

    class Meta:
        table_name = TABLE


_FIELDS: Final = [getattr(AuditEntry, name) for name in AuditRow._fields]
#: What peewee makes of the insertion of a row, once.
_INSERT: Final = AuditEntry.insert_many([[None] * len(_FIELDS)], fields=_FIELDS).sql()[0]


class AuditLog:
    """The one writer of an audit database."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._database: peewee.SqliteDatabase | None = None
        self._connection: sqlite3.Connection | None = None
        self._opened = (0, 0)
        self._retry_at = float("-inf")
        #: Why the last write or opening failed; empty while the store works.
        self.failure = ""
        #: How often a database was opened: another number may mean another file.
        self.openings = 0
        #: Decisions answered without a row since the start.
        self.unrecorded = 0

    def open(self) -> bool:
        """Open or create the database; False (and `failure`) when it cannot be used now."""
        try:
            self._connection = self._connect()
        except (peewee.PeeweeException, sqlite3.Error, OSError, _Unusable) as error:
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

    def write(self, rows: Sequence[AuditRow]) -> None:
        """Commit rows in order, in one transaction.

        Raises:
            AuditUnavailable: none of the rows is durable.
        """
        with self._transaction() as connection:
            self._insert_rows(connection, rows)

    def write_with(
        self, rows: Sequence[AuditRow], work: Callable[[peewee.SqliteDatabase], None]
    ) -> None:
        """Commit rows together with other changes to the same file, or nothing of both.

        Raises:
            AuditUnavailable: nothing is durable.
        """
        with self._transaction() as connection:
            self._insert_rows(connection, rows)
            assert self._database is not None
            try:
                work(self._database)
            except peewee.PeeweeException as error:
                # peewee hides what SQLite said; what to do about it depends on that.
                said = error.__cause__ or error.__context__
                raise (said or sqlite3.OperationalError(str(error))) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._usable()
        if connection is None:
            raise AuditUnavailable("the audit store cannot be opened")
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
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
        if self.failure:
            self._recovered()

    def _insert_rows(self, connection: sqlite3.Connection, rows: Sequence[AuditRow]) -> None:
        taken = connection.executemany(_INSERT, rows).rowcount
        if taken != len(rows):
            raise sqlite3.IntegrityError(f"it took {taken} of {len(rows)} rows")

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
        if self._connection is not None and self._identity() != self._opened:
            log.error("AUDIT_DB_PATH: %s is another file than before; opening it anew", self._path)
            self.close()
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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Who did what is not for everybody to read; SQLite gives -wal and -shm the same mode.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        database = peewee.SqliteDatabase(
            os.fspath(self._path),
            pragmas={"journal_mode": "wal", "synchronous": "normal"},
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        self._database = database
        database.connect()
        version = database.pragma("user_version")
        if version not in range(SCHEMA_VERSION + 1):
            raise _Unusable(f"its schema is version {version}, this program knows {SCHEMA_VERSION}")
        # Models are never bound: a binding is the whole process's, and there are readers.
        with database.atomic("IMMEDIATE"):
            for model in (AuditEntry, *version_log.TABLES):
                # Version 2 added tables and changed none, so creating what is missing upgrades.
                peewee.SchemaManager(model, database).create_all(safe=True)
            database.pragma("user_version", SCHEMA_VERSION)
        for model in (AuditEntry, *version_log.TABLES):
            table = model._meta.table_name  # noqa: SLF001 - as peewee documents it
            columns = {column.name for column in database.get_columns(table)}
            if not columns.issuperset(model._meta.columns):  # noqa: SLF001
                raise _Unusable(f"its table `{table}` is not ours")
        self._opened = self._identity()
        connection: sqlite3.Connection = database.connection()  # type: ignore[no-untyped-call]
        return connection

    def _identity(self) -> tuple[int, int]:
        """Device and inode of the file at the path; zeros when there is none."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - half of Path.stat's cost, once a write
        except OSError:
            return (0, 0)
        return status.st_dev, status.st_ino

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def _fail(self, error: Exception) -> None:
        said = str(error)
        if said != self.failure:
            log.error(
                "AUDIT_DB_PATH: %s cannot be written, and decisions cannot be recorded: %s",
                self._path.absolute(),
                said,
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
        """
        if not path.is_file():
            raise FileNotFoundError(path)
        self._database = peewee.SqliteDatabase(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5, pragmas={"query_only": 1}
        )

    def tail(self, count: int) -> Iterator[dict[str, Any]]:
        """The newest `count` entries, oldest of them first, as CONTRACT §9 names their fields."""
        with self._database.connection_context():
            query = AuditEntry.select().order_by(AuditEntry.seq.desc()).limit(count).dicts()
            newest: list[dict[str, Any]] = list(query.execute(self._database))
        return (entry_of(row) for row in reversed(newest))

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
                    entry.source.in_(("proxy", "check", "batch")),
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


def entry_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row as an API entry: camelCase, absent values left out, `metadata` as an object."""
    entry: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or name == "seq":
            continue
        head, *rest = name.split("_")
        key = head + "".join(word.title() for word in rest)
        entry[key] = json.loads(value) if name == "metadata" else value
    return entry


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


class _Unusable(Exception):
    """The file is a database, but not one we may write."""
