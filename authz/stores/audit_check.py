"""Verifying an audit database: a copy, or the one that a sidecar writes; read-only (docs/audit.md).

- Rows are read in portions, so that memory stays small and no long read transaction keeps a running
  sidecar from folding its WAL in. What changes meanwhile in a way that could look like tampering
  (retention moved the anchor, a sidecar started) makes it begin again.
- The file is read as bytes that somebody may have chosen: a damaged page, pages that lead in a
  circle, another table of the same name or a column too many is a finding.
"""

import contextlib
import functools
import itertools
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peewee

from authz.core.audit_chain import HASH_BYTES, SIGNATURE_BYTES, Head
from authz.core.audit_verify import Fits, Problem, Report, TrailVerifier
from authz.core.text import word
from authz.stores.audit_schema import (
    CHAINED_SINCE,
    COLUMNS,
    SCHEMA_VERSION,
    AuditAnchor,
    AuditHead,
)
from authz.stores.audit_table import is_there

#: Rows that are read at a time: some milliseconds, about a megabyte.
PORTION: Final = 2000
#: Bytes of memory that they may take, beyond which a portion ends: 2000 usual rows have 4 MiB, and
#: as many that somebody made long would be more than a container has.
PORTION_BYTES: Final = 8 * 1024 * 1024
#: Heads that are looked at; a sidecar leaves one an hour, so these are eleven years.
MAX_HEADS: Final = 100_000
MAX_ANCHORS: Final = 100
MAX_HEAD_FILE: Final = 16 * 1024
#: How often a trail that changes under us is begun again.
ATTEMPTS: Final = 5

#: Bytes of a value or a row: a request has at most 60 KiB of headers.
MAX_VALUE: Final = 1024 * 1024

_PARTS: Final = (
    "SELECT type, sql FROM sqlite_schema WHERE lower(tbl_name) = ? AND type <> 'trigger' LIMIT 2"
)
_TRIGGERS: Final = "SELECT name FROM sqlite_schema WHERE type = 'trigger' LIMIT 8"
#: What reading a damaged file raises; the second for names that are no text.
_BROKEN: Final = (sqlite3.Error, UnicodeDecodeError)
_ANCHOR: Final = ("seq", "hash", "at", "reason", "key_id", "signature")
_HEAD: Final = Head._fields
_OURS: Final = {
    "audit": set(COLUMNS),
    "audit_anchors": set(AuditAnchor._meta.columns),  # noqa: SLF001 - as peewee documents it
    "audit_heads": set(AuditHead._meta.columns),  # noqa: SLF001
}
#: Texts that are none come back with characters that no row can have been hashed with.
marking: Final = functools.partial(str, encoding="utf-8", errors="surrogateescape")


class NotATrail(Exception):
    """The file is no audit database of this version; one sentence."""


class HeadUnusable(Exception):
    """A file holds no exported head; one sentence that begins with the path."""


class Progress(NamedTuple):
    """How far verifying has come."""

    done: int
    total: int


def verify(
    path: Path,
    keys: Mapping[str, Fits],
    *,
    now: float,
    kept: Head | None = None,
    max_age_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Verify the trail in a database.

    Args:
        keys: what each key id verifies with.
        now: seconds since the epoch.
        kept: a head of this trail that was kept elsewhere.
        max_age_s: an older newest head is a problem.

    Raises:
        FileNotFoundError: there is no such file.
        NotATrail: it is no audit database.
    """
    for attempt in range(1, ATTEMPTS + 1):
        with opened_trail(path) as (connection, undisturbed):
            foreign = _foreign(connection)
            if foreign:
                # Reading what somebody defined could compute for ever, or show what is not there.
                return Report(0, 0, 0, foreign, len(foreign), [], None, None, clean_stop=False)
            found, anchors = verify_within(connection, keys, kept=kept, progress=progress)
            settled = (
                undisturbed() and _table(connection, "audit_anchors", _ANCHOR, 1) == anchors[:1]
            )
        if settled or attempt == ATTEMPTS:
            break
    if not settled:
        found.note("the trail changed while it was read, each time; verify a copy of it")
    return found.report(now, max_age_s)


def signers(path: Path) -> set[str]:
    """The ids of the keys that a trail says it is signed with.

    Raises:
        FileNotFoundError, NotATrail: as `verify`.
    """
    with opened_trail(path) as (connection, _):
        return set() if _foreign(connection) else signers_within(connection)


def signers_within(connection: sqlite3.Connection) -> set[str]:
    """The same, of a database whose tables are a sidecar's."""
    rows = [
        *_table(connection, "audit_anchors", ("key_id",), MAX_ANCHORS),
        *_table(connection, "audit_heads", ("key_id",), MAX_HEADS),
    ]
    return {key_id for (key_id,) in rows if isinstance(key_id, str)}


def newest_head(path: Path) -> Head | None:
    """The head that was signed last; None where none is, or it is damaged.

    Raises:
        FileNotFoundError, NotATrail: as `verify`.
    """
    with opened_trail(path) as (connection, _):
        if _foreign(connection):
            return None
        rows = _table(connection, "audit_heads", _HEAD, 1)
    return _shaped(Head(*rows[0])) if rows else None


def verify_within(
    connection: sqlite3.Connection,
    keys: Mapping[str, Fits],
    *,
    kept: Head | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    look: Callable[[Sequence[tuple[Any, ...]]], None] = lambda _: None,
) -> tuple[TrailVerifier, list[tuple[Any, ...]]]:
    """Feed a verifier with a trail; it, and the rows of the anchors, are returned.

    Args:
        connection: reads a database whose tables are a sidecar's, texts by `marking`.
        look: is shown the rows before they are verified, the rowid first; what it raises ends it.
    """
    connection.execute("BEGIN")
    anchors = _table(connection, "audit_anchors", _ANCHOR, MAX_ANCHORS)
    heads = _table(connection, "audit_heads", _HEAD, MAX_HEADS)
    try:
        last = connection.execute("SELECT max(_rowid_) FROM audit").fetchone()[0]
        first = connection.execute("SELECT min(_rowid_) FROM audit").fetchone()[0]
    except _BROKEN:
        first = last = None  # the missing rows say it
    connection.execute("ROLLBACK")
    # The anchor of the highest number counts, and heads in the order they were signed in.
    found = TrailVerifier(anchors[::-1], heads[::-1], keys, kept=kept)
    if len(heads) == MAX_HEADS:
        found.note(f"only the newest {MAX_HEADS} heads were looked at")
    names = ", ".join(COLUMNS)
    query = (
        f"SELECT _rowid_, {names} FROM audit WHERE _rowid_ > ? AND _rowid_ <= ?"  # noqa: S608
        " ORDER BY _rowid_ LIMIT ?"
    )
    at, done, total = -(2**63), 0, max((last or 0) - (first or 1) + 1, 0)
    try:
        # The lowest number that there is, which nothing is greater than, stands alone.
        lowest = connection.execute("SELECT count(*) FROM audit WHERE _rowid_ = ?", (at,))
        if lowest.fetchone()[0]:
            found.problem(Problem("inserted", f"row {at} is not part of the trail", at, at))
        while last is not None:
            portion = bounded(connection.execute(query, (at, last, PORTION)))
            if not portion:
                break
            if not _ascending(at, [row[0] for row in portion]):
                # Who goes on behind a number that does not rise comes by again, for ever.
                found.problem(
                    Problem("unreadable", f"the rows after row {max(at, 0)} are not in order: the"
                            " table's pages are damaged")
                )  # fmt: skip
                break
            look(portion)
            found.feed(portion)
            at, done = portion[-1][0], done + len(portion)
            progress(Progress(min(done, total), total))
    except _BROKEN as error:
        found.problem(
            Problem("unreadable", f"the rows after row {max(at, 0)} cannot be read: {error}")
        )
    return found, anchors


def bounded(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    """The next rows, as many as fit into `PORTION_BYTES`, and one at least where there is one."""
    rows, size = [], 0
    with contextlib.closing(cursor):
        for row in cursor:
            rows.append(row)
            # As they are in memory: one character can make a text four times as long there.
            size += sum(map(sys.getsizeof, row))
            if size > PORTION_BYTES:
                break
    return rows


def _ascending(after: int, rowids: Sequence[int]) -> bool:
    """Whether these numbers rise from `after` on, as those of a whole table do."""
    return all(one < other for one, other in itertools.pairwise((after, *rowids)))


def _table(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], limit: int
) -> list[tuple[Any, ...]]:
    """The newest rows of a small table, the newest first."""
    names = ", ".join(columns)
    statement = f"SELECT {names} FROM {table} ORDER BY _rowid_ DESC LIMIT ?"  # noqa: S608
    try:
        return connection.execute(statement, (limit,)).fetchall()
    except _BROKEN:
        return []  # the missing anchor or head says it


def _foreign(connection: sqlite3.Connection) -> list[Problem]:
    """What would let a query, or a sidecar, see something else than what the tables hold."""
    found: list[Problem] = []
    try:
        triggers = connection.execute(_TRIGGERS).fetchall()
        for name in triggers:
            reason = (
                f"the trigger {word(str(name[0]))} is not a sidecar's: it changes what is written"
            )
            found.append(Problem("unreadable", reason))
        for table, columns in _OURS.items():
            # The table alone: an index could leave rows out, and a sidecar makes none.
            parts = connection.execute(_PARTS, (table,)).fetchall()
            plain = [kind for kind, _ in parts] == ["table"]
            plain = plain and str(parts[0][1]).startswith("CREATE TABLE")
            there = connection.execute(f"PRAGMA table_xinfo({table})").fetchall() if plain else []
            # Columns that are computed are hidden ones.
            if {row[1] for row in there} != columns or any(row[6] for row in there):
                reason = f"the table `{table}` is not one that a sidecar made"
                found.append(Problem("unreadable", reason))
    except _BROKEN as error:
        found.append(Problem("unreadable", f"its tables cannot be read: {error}"))
    return found


@contextlib.contextmanager
def opened_trail(path: Path) -> Iterator[tuple[sqlite3.Connection, Callable[[], bool]]]:
    """A read-only connection, and whether nobody disturbed it so far."""
    try:
        if not is_there(path):
            raise FileNotFoundError(path)
    except peewee.OperationalError as error:
        raise NotATrail(str(error)) from None
    wal, journal = (Path(f"{path.resolve()}-{kind}") for kind in ("wal", "journal"))
    if _size(journal):
        raise NotATrail(
            f"{journal.name} lies beside it, which no sidecar makes, and changes what it says as"
            " soon as a program opens it"
        )
    # A file without a WAL is nobody's now, and is read without leaving anything beside it, also
    # where nothing can be written; should somebody begin to write it, we begin again.
    alone = not _size(wal)
    before = path.stat()
    mode = "immutable=1" if alone else "mode=ro"
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=5, isolation_level=None
    )
    try:
        connection.text_factory = marking
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        try:
            connection.execute("PRAGMA query_only = 1")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("SELECT type FROM sqlite_schema LIMIT 1").fetchone()
        except _BROKEN as error:
            raise NotATrail(_why(error, wal)) from None
        if version not in range(CHAINED_SINCE, SCHEMA_VERSION + 1):
            raise NotATrail(
                f"its schema is version {version}, and this program verifies {CHAINED_SINCE} to"
                f" {SCHEMA_VERSION}"
                + ("; a sidecar that opens it upgrades it" if 0 < version < CHAINED_SINCE else "")
            )

        def undisturbed() -> bool:
            after = path.stat()
            same = (before.st_ino, before.st_size, before.st_mtime_ns) == (
                after.st_ino, after.st_size, after.st_mtime_ns,
            )  # fmt: skip
            return not alone or (same and not _size(wal))

        yield connection, undisturbed
    finally:
        connection.close()


def _why(error: Exception, wal: Path) -> str:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    ):
        return f"{wal.name} cannot be read where it is; copy both to where you can write"
    return f"not an audit database: {error}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# Heads that are kept elsewhere.


def head_entry(head: Head) -> dict[str, Any]:
    """A head as `authz audit head --json` prints it."""
    return {
        "seq": head.seq,
        "hash": head.hash.hex(),
        "at": head.at,
        "final": head.final == 1,
        "keyId": head.key_id,
        "signature": head.signature.hex(),
    }


def read_head(path: Path) -> Head:
    """A head as `authz audit head` printed it, in either form.

    Raises:
        HeadUnusable: the file does not hold one.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_HEAD_FILE).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise HeadUnusable(f"{path}: cannot be read: {why}") from None
    head = None
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        head = _head_of(text)
    if head is None or _shaped(head) is None:
        raise HeadUnusable(f"{path}: not a head that `authz audit head` printed")
    return head


def _head_of(text: str) -> Head:
    said: dict[str, Any]
    if text.lstrip().startswith("{"):
        said = json.loads(text)
    else:
        lines = (line.split(None, 1) for line in text.splitlines() if line.strip())
        said = {name: json.loads(value) for name, value in lines}
    return Head(
        seq=said["seq"],
        hash=bytes.fromhex(said["hash"]),
        at=said["at"],
        final=int(said["final"] is True),
        key_id=said["keyId"],
        signature=bytes.fromhex(said["signature"]),
    )


def _shaped(head: Head) -> Head | None:
    """The head, if its values are of the kinds that a sidecar writes."""
    values: tuple[object, ...] = head
    seq, digest, at, final, key_id, signature = values
    fits = (
        isinstance(seq, int)
        and not isinstance(seq, bool)
        and seq >= 0
        and isinstance(digest, bytes)
        and len(digest) == HASH_BYTES
        and isinstance(at, str)
        and final in (0, 1)
        and isinstance(key_id, str)
        and isinstance(signature, bytes)
        and len(signature) == SIGNATURE_BYTES
    )
    return head if fits else None
