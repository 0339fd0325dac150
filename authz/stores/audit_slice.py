"""A part of a trail as a database of its own, to be sent to whoever collects trails.

- A slice is an ordinary audit database: its anchor names the row before its first one, so that its
  rows verify as any trail's do, and the heads that were signed within it come along. Where it
  begins where the trail itself begins it has that anchor, with its signature.
- The trail is read beside the sidecar that writes it, some rows at a time, each in a read
  transaction of its own: neither a decision nor the WAL waits for it.
- What is bounded: rows and bytes. Who wants more asks for the next slice.
- The file is whole, or it is not there.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import peewee

from authz.core.audit_chain import Anchor, Head
from authz.core.timestamps import rfc3339
from authz.stores.audit_check import NotATrail, opened_trail
from authz.stores.audit_schema import (
    COLUMNS,
    INSERT,
    connection_of,
    prepare,
)

#: Why a slice begins where it does: the rows before it were sent already. Behind it stands the key
#: that the trail is signed with, where it is, so that whoever collects trails knows which it is.
REASON: Final = "slice"
#: Rows that are read and written together.
PORTION: Final = 1000
#: Bytes of texts after which a slice ends: with what SQLite needs besides it stays far below what
#: is taken (AUDIT_INGEST_MAX_BYTES, 256 MiB), and is sent again in reasonable time where it breaks.
MAX_BYTES: Final = 32 * 1024 * 1024
#: Heads that come along: one stays for each hour.
MAX_HEADS: Final = 10_000

_NAMES: Final = ", ".join(COLUMNS)
_ANCHOR: Final = f"SELECT {', '.join(Anchor._fields)} FROM audit_anchors ORDER BY seq DESC LIMIT 1"  # noqa: S608
_LAST: Final = "SELECT max(seq) FROM audit"
_ROW: Final = "SELECT hash FROM audit WHERE seq = ?"
_ROWS: Final = f"SELECT {_NAMES} FROM audit WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
_KEY: Final = (
    "SELECT coalesce((SELECT key_id FROM audit_heads ORDER BY id DESC LIMIT 1),"
    " (SELECT key_id FROM audit_anchors ORDER BY seq DESC LIMIT 1))"
)
_HEADS: Final = (
    f"SELECT {', '.join(Head._fields)} FROM audit_heads WHERE seq BETWEEN ? AND ?"  # noqa: S608
    " ORDER BY id DESC LIMIT ?"
)


class Slice(NamedTuple):
    """What a slice has."""

    #: The numbers of its first and last row.
    first: int
    last: int
    #: The last row's.
    last_hash: bytes


class NoSuchPlace(Exception):
    """The trail does not go on from there: it is shorter, or another one; one sentence."""


def write_slice(
    source: Path,
    after_seq: int,
    limit_rows: int,
    to: Path,
    *,
    after_hash: bytes | None = None,
) -> Slice | None:
    """Write the rows after `after_seq` to the file `to`; None, and no file: there are none.

    Where retention has removed rows after `after_seq` it begins at the oldest row that is kept, and
    has the trail's anchor, which says so.

    Args:
        source: an audit database, also one that a sidecar writes; it is only read.
        after_seq: 0: from the beginning.
        limit_rows: at least 1; it ends earlier where rows are large.
        to: must not exist; whoever makes it can read it, nobody else.
        after_hash: the hash that the row `after_seq` has, where that is known.

    Raises:
        FileNotFoundError: there is no `source`.
        NotATrail: it is no audit database of this version, or cannot be read.
        NoSuchPlace: there is no such row, or it has another hash.
        FileExistsError: there is something at `to`.
        OSError, sqlite3.Error: it cannot be written.
    """
    with opened_trail(source) as (connection, undisturbed):
        connection.text_factory = str
        try:
            begin = _begin(connection, after_seq, after_hash)
            if begin is None:
                return None
            with _made(to) as database:
                made = _fill(connection, connection_of(database), begin, limit_rows)
                if not undisturbed():
                    raise NotATrail("it was written while it was read; try again")
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                raise
            raise NotATrail(f"it cannot be read: {error}") from None
    return made


def _begin(
    connection: sqlite3.Connection, after_seq: int, after_hash: bytes | None
) -> Anchor | None:
    """What a slice's anchor says; None: there is nothing after it."""
    connection.execute("BEGIN")
    try:
        found = connection.execute(_ANCHOR).fetchone()
        [last] = connection.execute(_LAST).fetchone()
        if found is None:
            raise NotATrail("its anchor is missing: nothing says where it begins")
        anchor = Anchor(*found)
        end = anchor.seq if last is None else last
        if after_seq > end:
            raise NoSuchPlace(f"row {after_seq} is not there: the trail ends with row {end}")
        here = None
        if after_seq > anchor.seq:
            here = connection.execute(_ROW, (after_seq,)).fetchone()
            if here is None:
                raise NotATrail(f"row {after_seq} is missing")
            [digest] = here
        else:
            digest = anchor.hash
        if after_hash is not None and after_seq >= anchor.seq and digest != after_hash:
            raise NoSuchPlace(f"row {after_seq} is another one than it was: this is another trail")
        [key_id] = connection.execute(_KEY).fetchone()
    finally:
        connection.execute("ROLLBACK")
    if last is None or after_seq == last:
        return None
    if here is None:
        return anchor
    reason = f"{REASON} {key_id}" if key_id else REASON
    return Anchor(after_seq, digest, rfc3339(time.time()), reason, None, None)


def key_of(reason: str) -> str | None:
    """The key that an anchor's reason names; None where it names none, or is no slice's."""
    name, _, key_id = reason.partition(" ")
    return key_id if name == REASON and key_id else None


def is_slice(reason: str) -> bool:
    """Whether an anchor is a slice's: there are rows before it that were sent by themselves."""
    return reason.partition(" ")[0] == REASON


def _fill(
    source: sqlite3.Connection, target: sqlite3.Connection, anchor: Anchor, limit_rows: int
) -> Slice:
    target.execute("BEGIN IMMEDIATE")
    target.execute("DELETE FROM audit_anchors")
    marks = ", ".join("?" * len(anchor))
    target.execute(
        f"INSERT INTO audit_anchors ({', '.join(Anchor._fields)}) VALUES ({marks})",  # noqa: S608
        anchor,
    )
    last, digest, left, size = anchor.seq, anchor.hash, limit_rows, 0
    while left > 0 and size < MAX_BYTES:
        rows = source.execute(_ROWS, (last, min(left, PORTION))).fetchall()
        if not rows:
            break
        taken = []
        for row in rows:
            if row[0] != last + 1 or row[-2] != digest:
                # What was before it is gone, or was changed: nobody would take it.
                raise NotATrail(f"row {row[0]} does not follow row {last}")
            taken.append(row)
            last, digest = row[0], row[-1]
            size += sum(len(value) for value in row if isinstance(value, str))
            if size >= MAX_BYTES:
                break
        target.executemany(INSERT, taken)
        left -= len(taken)
    if last == anchor.seq:
        raise NotATrail("its rows went while it was read; try again")
    heads = source.execute(_HEADS, (anchor.seq + 1, last, MAX_HEADS)).fetchall()
    marks = ", ".join("?" * len(Head._fields))
    target.executemany(
        f"INSERT INTO audit_heads ({', '.join(Head._fields)}) VALUES ({marks})",  # noqa: S608
        heads[::-1],
    )
    target.execute("COMMIT")
    return Slice(anchor.seq + 1, last, digest)


@contextlib.contextmanager
def _made(to: Path) -> Iterator[peewee.SqliteDatabase]:
    """A new audit database at the path, of one file; what fails leaves nothing."""
    os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    database = peewee.SqliteDatabase(
        os.fspath(to),
        # Nobody else has it, and one that is not whole is removed.
        pragmas={"journal_mode": "off", "synchronous": "off"},
    )
    try:
        try:
            database.connect()
            prepare(database, time.time())
            yield database
        finally:
            database.close()
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            to.unlink()
        raise


def _is_full(error: sqlite3.Error) -> bool:
    """Whether it is writing, not reading, that has failed."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    )
