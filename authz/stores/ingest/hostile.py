"""Opening a database that anybody may have made (SQLite, "Defense Against The Dark Arts").

- Only a plain file of ours is opened, read-only and as one that nobody changes: no journal or WAL
  that lies beside it is looked for.
- Its schema has to be, letter by letter, what this program makes: no view, trigger, index, virtual
  table, computed column or default of somebody's is there to be run.
- Pages are checked before rows are read, and everything stops when the time is over.
- What rows and heads say is held against the chain by the same code as `authz audit verify`.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import peewee

from authz.core.audit_chain import LAST_SEQ, Anchor
from authz.core.audit_verify import Fits, Report
from authz.core.ingest_row import defect
from authz.core.text import word
from authz.stores.audit_check import (
    MAX_VALUE,
    bounded,
    marking,
    signers_within,
    verify_within,
)
from authz.stores.audit_key import ID_LENGTH
from authz.stores.audit_schema import CHAINED_SINCE, SCHEMA_VERSION, connection_of, prepare

#: What SQLite begins each of its files with (file format, §1.2).
MAGIC: Final = b"SQLite format 3\0"
#: Tables without which it is no trail; the others of a sidecar's file are not read.
NEEDED: Final = ("audit", "audit_anchors", "audit_heads")
#: Entries of a schema that are looked at; a sidecar's has nine.
MAX_SCHEMA: Final = 64
#: Bytes of an anchor or a head; a sidecar's have some 200.
MAX_SIGNED: Final = 1024
#: Steps of SQLite's machine between two looks at the time, a fraction of a millisecond.
STEPS: Final = 2000
#: The highest number of a row that is taken: the ones behind it would have no room.
MAX_SEQ: Final = LAST_SEQ // 2

#: What `audit_key` calls a key.
KEY_ID: Final = re.compile(f"[0-9a-f]{{{ID_LENGTH}}}")

#: What a statement may be and do; each far above what the few of ours are.
_LIMITS: Final[Mapping[int, int]] = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 3,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 16,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_PRAGMAS: Final = (
    "trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "mmap_size = 0",
    "cache_size = -8192", "temp_store = MEMORY",
)  # fmt: skip
_TOO_LONG: Final = "it takes too long to read; send it in smaller parts"
_BROKEN: Final = (sqlite3.Error, UnicodeDecodeError)


class Refused(Exception):
    """A file is not taken; one sentence. `kind` says what to answer."""

    #: `invalid`: what it says cannot be. `conflict`: it contradicts what is known.
    kind = "invalid"


class TooLong(Exception):
    """It cannot be read in the time that there is; one sentence."""


class Sent:
    """A trail that was sent, its schema and pages checked."""

    def __init__(self, connection: sqlite3.Connection, deadline: float, *, is_wal: bool) -> None:
        self._connection = connection
        self._deadline = deadline
        self._is_wal = is_wal

    def verified(self, pinned: Mapping[str, Fits]) -> tuple[Report, Anchor, str | None]:
        """Look at every row and everything that is signed.

        Args:
            pinned: the keys that trails have to be signed with, by id; empty: any, unverified.

        Returns: what was found, where it begins, and the key that it says it is signed with.

        Raises:
            Refused: it does not verify.
            TooLong: as `opened`.
        """
        connection = self._connection
        keys = pinned or dict.fromkeys(signers_within(connection), _unknown)
        found, anchors = verify_within(connection, keys, look=_look)
        if time.monotonic() > self._deadline:
            raise TooLong(_TOO_LONG)
        report = found.report(time.time())
        for problem in report.problems:
            # Nobody signs the beginning of a slice, or each of its ends.
            if problem.kind != "unsigned":
                raise Refused(f"{problem.message}{self._hint(problem.kind)}")
        anchor = Anchor(*anchors[0])
        if not 0 <= anchor.seq <= MAX_SEQ or report.last > MAX_SEQ:
            raise Refused("its rows have numbers that no sidecar comes to")
        signed = report.head.key_id if report.head else anchor.key_id
        if signed is not None and not KEY_ID.fullmatch(signed):
            raise Refused("it is signed with a key whose name no sidecar makes")
        return report, anchor, signed

    def _hint(self, kind: str) -> str:
        if kind not in ("truncated", "deleted", "order", "rewritten") or not self._is_wal:
            return ""
        return (
            "; if it is a copy of a database in use, rows were missing that only its -wal had:"
            ' copy it again, or with `sqlite3 audit.db ".backup copy.db"`'
        )

    def hash_of(self, seq: int) -> bytes | None:
        """The hash of a row; None where there is no such row."""
        query = "SELECT hash FROM audit WHERE seq = ?"
        with _told():
            found = self._connection.execute(query, (seq,)).fetchone()
        return found[0] if found else None

    def rows(self, columns: str, portion: int) -> Iterator[list[tuple[Any, ...]]]:
        """All rows, `portion` at a time, in their order; the number is the first column.

        To be asked for once they are verified: then each text is one.
        """
        self._connection.text_factory = str
        query = f"SELECT {columns} FROM audit WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
        at = 0
        while True:
            with _told():
                rows = bounded(self._connection.execute(query, (at, portion)))
            if not rows:
                return
            yield rows
            at = rows[-1][0]


def _unknown(_signature: bytes, _message: bytes) -> bool:
    """Nobody has told us the key: what it signed is compared with the rows, and no more."""
    return True


def _look(portion: Sequence[tuple[Any, ...]]) -> None:
    for _, *row in portion:
        said = defect(row)
        if said:
            raise Refused(said)


@contextlib.contextmanager
def opened(path: Path, deadline: float, breathe: Callable[[], None]) -> Iterator[Sent]:
    """Open an uploaded database.

    Args:
        path: a file that nobody else writes.
        deadline: `time.monotonic` after which it is given up.
        breathe: is called now and then, and may wait.

    Raises:
        Refused: it is no audit database of a version that is known, or is damaged.
        TooLong: the time was over.
    """
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(MAGIC):
        raise Refused("the file is not an SQLite database")
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
    )
    with contextlib.closing(connection):

        def look() -> bool:
            breathe()
            return time.monotonic() > deadline

        connection.set_progress_handler(look, STEPS)
        connection.text_factory = marking
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        with _told():
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            _check_schema(connection)
            [said] = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise Refused(f"the database is damaged: {word(str(said).splitlines()[-1])}")
            _check_signed(connection)
        # Bytes 18 and 19 are 2 where whoever wrote it did so through a WAL.
        yield Sent(connection, deadline, is_wal=header[18:20] == b"\2\2")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What reading raises, as what to answer."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise TooLong(_TOO_LONG) from None
        raise Refused(f"the database cannot be read: {_why(error)}") from None
    except _BROKEN as error:
        raise Refused(f"the database cannot be read: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What SQLite says, which may repeat what is in the file."""
    return ascii(str(error)[:160])[1:-1]


def _check_schema(connection: sqlite3.Connection) -> None:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    found = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema LIMIT ?", (MAX_SCHEMA + 1,)
    ).fetchall()
    # What is not looked at could be anything: SQLite lets an entry of an index be there many times.
    if len(found) > MAX_SCHEMA:
        raise Refused(f"its schema has more than {MAX_SCHEMA} entries, and a sidecar's has nine")
    names = {name for _, name, _, _ in found}
    if not names.issuperset(NEEDED):
        raise Refused("the file is not an audit database: it has not the tables of one")
    if version not in range(CHAINED_SINCE, SCHEMA_VERSION + 1):
        raise Refused(
            f"its schema is version {version}, and {CHAINED_SINCE} to {SCHEMA_VERSION} are read; a"
            " sidecar of this version that opens it upgrades it"
        )
    ours = _made_here()
    for entry in found:
        if entry not in ours:
            kind, name = word(str(entry[0])), word(str(entry[1]))
            raise Refused(f"its {kind} `{name}` is not one that a sidecar made")
    [encoding] = connection.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        raise Refused(f"its texts are {word(encoding)}, and a sidecar writes UTF-8")


def _check_signed(connection: sqlite3.Connection) -> None:
    """That what is signed is as short as a sidecar writes it: all of it is held at once."""
    for table, columns in (
        ("audit_anchors", ("hash", "at", "reason", "key_id", "signature")),
        ("audit_heads", ("hash", "at", "key_id", "signature")),
    ):
        # As bytes, since the length of a text ends where it has a zero.
        size = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
        query = f"SELECT 1 FROM {table} WHERE {size} > ? LIMIT 1"  # noqa: S608
        if connection.execute(query, (MAX_SIGNED,)).fetchone():
            raise Refused(f"its `{table}` has values that are longer than any of a sidecar's")


def _made_here() -> set[tuple[str, str, str, str | None]]:
    """The schema that this program makes."""
    database = peewee.SqliteDatabase(":memory:")
    database.connect()
    with contextlib.closing(database):
        prepare(database, 0.0)
        rows = connection_of(database).execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema"
        )
        return set(rows.fetchall())
