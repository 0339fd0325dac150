"""What of the audit trail alerts are made of: its rows in order, those that are alike as one.

- Whatever is on record is found, also after a crash, since the trail is what is read and no copy
  of it. How far it was read stands in the outbox (`alert_outbox`).
- SQLite groups and counts, outside of the interpreter's lock: ten thousand denials a second cost
  the thread that asks a handful of rows.
- A span of numbers at a time, each a read transaction of its own, so that the WAL can begin anew.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.core.audit import AuditRow
from authz.stores.audit_query import Unreadable, opened

#: Rows that are looked through in one statement.
SPAN: Final = 5000
#: Different things of one span; what is beyond them is only counted.
MAX_ALIKE: Final = 200

_COLUMNS: Final = ", ".join(AuditRow._fields)
#: A rule asks for an alert by a member of the row's own object. What is deeper in it agents choose.
_ASKED: Final = """CASE WHEN instr(metadata, '"alert":') > 0 AND json_valid(metadata)
  THEN json_type(metadata, '$.alert') IS 'text' ELSE 0 END"""
#: What is critical (`core/alert.py`) comes first, and is not alike with what is less.
_GRAVE: Final = f"""CASE WHEN {_ASKED} THEN json_extract(metadata, '$.alert') = 'critical'
  ELSE decision = 'deny' AND enforced = 'deny' AND code != 'rate_limited' AND
    (lower(trust_tier) IN ('privileged', 'unrestricted') OR action LIKE 'admin:%') END"""
#: What no agent causes, however many errors it does.
_OURS: Final = """source = 'control' AND
  (action LIKE 'mode:%' OR action LIKE 'incident:%' OR action LIKE 'audit:%')"""
#: SQLite takes the bare columns from the row that `min` found (lang_select.html, "Bare columns").
#: Callers that proved nothing are told apart by the code alone: they choose their actions.
_ALIKE: Final = f"""
SELECT min(seq), count(*), sum(count(*)) OVER (), {_COLUMNS}
FROM audit
WHERE seq > ? AND seq <= ? AND timestamp >= ?
  AND (decision IN ('deny', 'error') OR source = 'control' OR (decision = 'allow' AND {_ASKED}))
GROUP BY source, decision, enforced, code, agent_id, policy, rule,
  CASE WHEN agent_id IS NULL AND source != 'control' THEN '' ELSE action END,
  CASE WHEN source = 'control' THEN resource ELSE '' END,
  CASE WHEN source = 'control' THEN seq ELSE 0 END,
  {_ASKED}, {_GRAVE}, instr(metadata, '"fuseOpened":') > 0
ORDER BY {_OURS} DESC, decision = 'error' DESC, source = 'control' DESC,
  ifnull({_GRAVE}, 0) DESC, min(seq)
LIMIT {MAX_ALIKE}
"""  # noqa: S608 - column names of ours
_LAST: Final = "SELECT coalesce(max(seq), 0) FROM audit"
_HASH: Final = "SELECT hash FROM audit WHERE seq = ?"


class Position(NamedTuple):
    """How far a trail was read."""

    seq: int
    #: Of that row, hexadecimal, so that another trail is known to be one; empty: not known.
    hash: str


class Alike(NamedTuple):
    """Rows that are alike."""

    times: int
    #: Columns of the first of them.
    row: Mapping[str, Any]


class Part(NamedTuple):
    """What was read."""

    found: list[Alike]
    #: Rows for which there was no place among them.
    more: int
    upto: Position
    #: The trail goes on.
    is_more: bool


class Trail:
    """An audit database, read while others write it. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)

    def end(self) -> Position:
        """Where the trail ends now.

        Raises:
            Unreadable: one sentence.
        """
        connection = self._opened()
        try:
            return self._at(connection, connection.execute(_LAST).fetchone()[0])
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def after(self, position: Position, since: str) -> Part:
        """What comes after a position, as far as one span reaches.

        A position of another trail, or of rows that are gone, is where this one begins: what is
        older than `since` is passed over anyway.

        Args:
            since: RFC 3339; rows before it are not told.

        Raises:
            Unreadable: one sentence.
        """
        connection = self._opened()
        try:
            [last] = connection.execute(_LAST).fetchone()
            start = position.seq
            if position.hash and self._at(connection, start).hash not in ("", position.hash):
                start = 0
            if start > last:
                start = 0
            if start == last:
                return Part([], 0, position, is_more=False)
            [first] = connection.execute("SELECT min(seq) FROM audit").fetchone()
            start = max(start, (first or 1) - 1)
            upto = min(last, start + SPAN)
            rows = connection.execute(_ALIKE, (start, upto, since)).fetchall()
            found = [
                Alike(times, dict(zip(AuditRow._fields, row, strict=True)))
                for _, times, _, *row in rows
            ]
            total = rows[0][2] if rows else 0
            more = total - sum(alike.times for alike in found)
            return Part(found, more, self._at(connection, upto), is_more=upto < last)
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @staticmethod
    def _at(connection: sqlite3.Connection, seq: int) -> Position:
        found = connection.execute(_HASH, (seq,)).fetchone()
        return Position(seq, found[0].hex() if found and isinstance(found[0], bytes) else "")

    def _opened(self) -> sqlite3.Connection:
        try:
            status = self._path.stat()
        except OSError as error:
            self.close()
            raise Unreadable(f"the audit database cannot be read: {error.strerror}") from None
        file = status.st_dev, status.st_ino
        if self._connection is not None and file != self._file:
            self.close()
        if self._connection is None:
            self._connection = opened(self._path)
            self._file = file
        return self._connection

    def _broken(self, error: sqlite3.Error) -> Unreadable:
        self.close()
        return Unreadable(f"the audit database cannot be read: {error}")
