"""The audit database's tables: how they are made, upgraded and appended to.

- peewee owns the schema; the models are never bound, since a binding is the whole process's, and
  there are readers.
- Everything that writes rows, in whichever connection, does so through `append` or as `AuditLog`
  does: inside BEGIN IMMEDIATE, after the newest row that is in the table then. So the chain never
  forks, whoever else writes.
- A file of this process's is never opened and closed beside SQLite: closing any descriptor of it
  would drop the locks that SQLite's own connections hold (SQLite, "How To Corrupt", §2.2).
"""

import contextlib
import logging
import math
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import peewee

from authz.core.audit import AuditRow
from authz.core.audit_chain import HASH_BYTES, LAST_SEQ, Link, chained
from authz.core.timestamps import rfc3339
from authz.stores import ledger_log, version_log
from authz.stores.audit_table import TABLE, AuditEntry, forgiving

log = logging.getLogger(__name__)

Sync = Literal["normal", "full"]

#: Raised with each change of the tables; a newer file is refused, not guessed at.
SCHEMA_VERSION: Final = 4
#: The version that began to chain the rows.
CHAINED_SINCE: Final = 3
#: Bytes that the WAL may have before it is begun anew, and that its file is cut back to then. Some
#: ten seconds of the highest load: rarely enough, and little to read after a crash.
WAL_LIMIT: Final = 64 * 1024 * 1024
#: Rows that an upgrade chains at a time.
_BATCH: Final = 500
_BEFORE: Final = "audit_before_3"


class AuditAnchor(peewee.Model):
    """Where the chain begins: one row. `audit_chain.Anchor` has the meaning of each column."""

    #: An alias of the rowid, so that nothing but a whole number can stand there.
    seq = peewee.IntegerField(primary_key=True)
    hash = peewee.BlobField()
    at = peewee.TextField()
    reason = peewee.TextField()
    key_id = peewee.TextField(null=True)
    signature = peewee.BlobField(null=True)

    class Meta:
        table_name = "audit_anchors"


class AuditHead(peewee.Model):
    """Signed heads, in the order in which they were signed. `audit_chain.Head` has the meaning."""

    id = peewee.AutoField()
    seq = peewee.BigIntegerField()
    hash = peewee.BlobField()
    at = peewee.TextField()
    final = peewee.IntegerField()
    key_id = peewee.TextField()
    signature = peewee.BlobField()

    class Meta:
        table_name = "audit_heads"


TABLES: Final = (
    AuditEntry,
    AuditAnchor,
    AuditHead,
    *version_log.TABLES,
    ledger_log.LedgerEntry,
)
COLUMNS: Final = ("seq", *AuditRow._fields, "prev_hash", "hash")

#: What peewee makes of the insertion of a row, once.
INSERT: Final = AuditEntry.insert_many(
    [[None] * len(COLUMNS)], fields=[getattr(AuditEntry, name) for name in COLUMNS]
).sql()[0]

_TRIGGER: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' LIMIT 1"
_HAS_TRIGGER: Final = "it has a trigger, which no sidecar made"
_NEWEST: Final = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
_ANCHOR: Final = "SELECT seq, hash FROM audit_anchors ORDER BY seq DESC LIMIT 1"


class Unusable(Exception):
    """The file is a database, but not one we may write."""


def file_identity(path: Path) -> tuple[int, int]:
    """Device and inode of the file at the path; zeros when there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half of Path.stat's cost, once a write
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def companions(path: Path) -> tuple[Path, Path]:
    """The WAL of a database and its index."""
    return Path(f"{os.path.realpath(path)}-wal"), Path(f"{os.path.realpath(path)}-shm")


def fold_in(connection: sqlite3.Connection) -> bool:
    """Write everything that is committed into the database's own file, wherever that is now."""
    try:
        _, frames, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error:
        return False
    return bool(frames == done)


def prepare(database: peewee.SqliteDatabase, now: float) -> None:
    """Make, check or upgrade the tables of a connected database; nothing is changed on failure.

    Args:
        now: seconds since the epoch.

    Raises:
        Unusable: it is not ours, or a newer version's.
    """
    version = database.pragma("user_version")
    if version not in range(SCHEMA_VERSION + 1):
        raise Unusable(f"its schema is version {version}, this program knows {SCHEMA_VERSION}")
    with database.atomic("IMMEDIATE"):
        # Versions 2 and 4 added tables and changed none: creating what is missing upgrades to them.
        # That a file says so does not make its hashes old: those it has are kept.
        there = {column.name for column in database.get_columns(TABLE)}
        upgrading = 0 < version < CHAINED_SINCE and bool(there) and "hash" not in there
        if upgrading:
            if any(map(database.table_exists, ("audit_anchors", "audit_heads"))):
                # Rows that somebody made would be chained and signed as the older version's.
                raise Unusable(f"it says schema {version}, and has tables that only 3 has")
            _check(database, AuditEntry, {"seq", *AuditRow._fields})
            database.execute_sql(f"ALTER TABLE {TABLE} RENAME TO {_BEFORE}")  # type: ignore[no-untyped-call]
        for model in TABLES:
            peewee.SchemaManager(model, database).create_all(safe=True)
            _check(database, model, set(model._meta.columns))  # noqa: SLF001 - as peewee documents it
        if upgrading:
            _chain_old_rows(database, version, now)
        execute = connection_of(database).execute
        if execute(_TRIGGER).fetchone():
            raise Unusable(_HAS_TRIGGER)
        if not any(execute(statement).fetchone() for statement in (_NEWEST, _ANCHOR)):
            _begin(database, 0, now, "genesis")
        database.pragma("user_version", SCHEMA_VERSION)


def _check(database: peewee.SqliteDatabase, model: type[peewee.Model], needed: set[str]) -> None:
    table = model._meta.table_name  # noqa: SLF001
    columns = {column.name for column in database.get_columns(table)}
    if not columns.issuperset(needed):
        raise Unusable(f"its table `{table}` is not ours")


def _begin(database: peewee.SqliteDatabase, seq: int, now: float, reason: str) -> None:
    AuditAnchor.insert(
        seq=seq, hash=secrets.token_bytes(HASH_BYTES), at=rfc3339(now), reason=reason
    ).execute(database)


def _chain_old_rows(database: peewee.SqliteDatabase, version: int, now: float) -> None:
    """Move the rows of version 1 or 2 into the new table, in their order and without gaps."""
    connection = connection_of(database)
    names = ", ".join(("seq", *AuditRow._fields))
    before, connection.text_factory = connection.text_factory, forgiving
    try:
        old = connection.execute(f"SELECT {names} FROM {_BEFORE} ORDER BY seq")  # noqa: S608
        batch = old.fetchmany(_BATCH)
        first = batch[0][0] - 1 if batch else 0
        AuditAnchor.delete().execute(database)
        _begin(database, max(first, 0), now, "upgrade" if batch else "genesis")
        count = 0
        while batch:
            append_within(connection, [AuditRow(*map(_plain, row[1:])) for row in batch])
            count += len(batch)
            batch = old.fetchmany(_BATCH)
    finally:
        connection.text_factory = before
    connection.execute(f"DROP TABLE {_BEFORE}")
    log.warning(
        "AUDIT_DB_PATH: the database was upgraded from schema %d to %d, and its %d rows were"
        " chained",
        version,
        SCHEMA_VERSION,
        count,
    )


def _plain(value: Any) -> Any:
    """A value that can be hashed; what no sidecar wrote becomes text, and no number's text."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def connection_of(database: peewee.SqliteDatabase) -> sqlite3.Connection:
    """What peewee talks to SQLite through, in this thread."""
    connection: sqlite3.Connection = database.connection()  # type: ignore[no-untyped-call]
    return connection


def newest(connection: sqlite3.Connection) -> Link:
    """The row that the next one follows, or the anchor.

    Raises:
        sqlite3.DatabaseError: there is neither, or the file has a trigger.
    """
    if connection.execute(_TRIGGER).fetchone():
        # It could undo what is written, and nobody would notice.
        raise sqlite3.DatabaseError(_HAS_TRIGGER)
    found = connection.execute(_NEWEST).fetchone() or connection.execute(_ANCHOR).fetchone()
    if found is None:
        raise sqlite3.DatabaseError("it has neither rows nor an anchor")
    seq, digest = found
    if seq >= LAST_SEQ - _BATCH:
        raise sqlite3.DatabaseError("its last row has the highest number that there is")
    # What is damaged is for verify to say; the chain goes on, or nothing could be decided.
    return Link(seq, digest if isinstance(digest, bytes) and len(digest) == HASH_BYTES else _NONE)


_NONE: Final = bytes(HASH_BYTES)


def append_within(connection: sqlite3.Connection, rows: Sequence[AuditRow]) -> None:
    """Append rows inside a transaction that holds the write lock."""
    made, _ = chained(newest(connection), rows)
    connection.executemany(INSERT, made)


def append(database: peewee.SqliteDatabase, rows: Sequence[AuditRow]) -> None:
    """Append rows in a transaction of their own."""
    with database.atomic("IMMEDIATE"):
        append_within(connection_of(database), rows)


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Turn what peewee made of SQLite's errors back into them: what to do depends on the code.

    Raises:
        sqlite3.Error: what SQLite said.
    """
    try:
        yield
    except peewee.PeeweeException as error:
        said = error.__cause__ or error.__context__
        raise (said or sqlite3.OperationalError(str(error))) from None
