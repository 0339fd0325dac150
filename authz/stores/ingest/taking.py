"""Rows into the ingested trail: all of a file, in one transaction, or nothing of it.

- A row that is there already is a duplicate, by its place in its own trail, or else by its id; the
  same id with other content is refused.
- Rows are appended as any are (`append_within`), in the order in which they came.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peewee

from authz.core.audit import AuditRow
from authz.core.audit_chain import Anchor
from authz.core.audit_verify import Fits
from authz.core.text import word
from authz.core.timestamps import rfc3339
from authz.stores.audit_schema import COLUMNS, append_within, connection_of, newest
from authz.stores.ingest import opening
from authz.stores.ingest.hostile import Refused, Sent, opened
from authz.stores.ingest.origins import ID_LENGTH, Conflict, Found, Origin, check_same, find

#: Rows that are held at a time: some hundred kilobytes.
PORTION: Final = 500

_NAMES: Final = ", ".join(COLUMNS)
_SAID: Final = ", ".join(AuditRow._fields)
_PUT: Final = (
    "INSERT INTO ingest_rows (seq, origin, origin_seq, hash, entry_id, timestamp, at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_NEW_ORIGIN: Final = (
    "INSERT INTO ingest_origins (id, anchor_seq, anchor_hash, last_seq, last_hash, key_id,"
    " first_at, last_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_MOVE_ORIGIN: Final = (
    "UPDATE ingest_origins SET anchor_seq = ?, anchor_hash = ?, last_seq = ?, last_hash = ?,"
    " key_id = coalesce(?, key_id), last_at = ? WHERE number = ?"
)


class Taken(NamedTuple):
    """What came of a file."""

    ingested: int
    duplicates: int
    #: The trail's id here, and the last row of it that is known now.
    origin: str
    last: int
    #: What the operator should know; sentences.
    notes: list[str]


def take(
    upload: Path,
    target: Path,
    pinned: Mapping[str, Fits],
    *,
    now: float,
    deadline: float,
    breathe: Callable[[], None] = lambda: None,
) -> Taken:
    """Take the trail in a file into the ingested one.

    Args:
        upload: the file, which is believed nothing.
        target: the ingested trail, made where there is none.
        pinned: as `Sent.verified`.
        now: seconds since the epoch.
        deadline: as `hostile.opened`.

    Raises:
        Refused, TooLong: it is not taken.
        Unusable, peewee.PeeweeException, sqlite3.Error, OSError: the ingested trail cannot be
            written.
    """
    with opened(upload, deadline, breathe) as sent:
        report, anchor, key_id = sent.verified(pinned)
        database = opening.opened(target, now)
        try:
            with database.atomic("IMMEDIATE"):
                taking = _Taking(database, sent, anchor, rfc3339(now))
                last = report.last or anchor.seq
                found = find(taking.connection, sent, anchor, last, key_id)
                _hold_to_pins(found, anchor, pinned)
                origin = found.origin or taking.begin(key_id)
                taking.rows(origin, breathe)
                digest = sent.hash_of(last) or anchor.hash
                taking.end(origin, last, digest, key_id)
        finally:
            database.close()
    gone = found.gap
    notes = []
    if gone[0] <= gone[1]:
        notes.append(f"rows {gone[0]}..{gone[1]} were removed there before they were sent")
    if last < origin.last_seq:
        notes.append(f"it ends before row {origin.last_seq}, which is known of it")
    return Taken(taking.ingested, taking.duplicates, origin.id, max(last, origin.last_seq), notes)


def _hold_to_pins(found: Found, anchor: Anchor, pinned: Mapping[str, Fits]) -> None:
    """A trail that is new, or begins anew behind a gap, has to be one of those keys' own."""
    if not pinned or (found.origin is not None and found.gap[0] > found.gap[1]):
        return
    if anchor.key_id not in pinned:
        raise Refused(
            "the beginning of the trail is not signed with one of AUDIT_INGEST_KEYS, and a trail"
            " that is new here has to be"
        )
    # Beside a head of another trail, which is no secret, any key's beginning would take that over.
    if found.origin is not None and anchor.key_id != found.origin.key_id:
        raise Refused(
            "the beginning behind the rows that are missing is not signed with the key of that"
            f" trail, {found.origin.id}"
        )


class _Taking:
    """One transaction."""

    def __init__(
        self, database: peewee.SqliteDatabase, sent: Sent, anchor: Anchor, at: str
    ) -> None:
        self.connection: sqlite3.Connection = connection_of(database)
        self.ingested = 0
        self.duplicates = 0
        self._sent = sent
        self._anchor = anchor
        self._at = at

    def begin(self, key_id: str | None) -> Origin:
        """Write down a trail that is new here."""
        anchor = self._anchor
        name = anchor.hash.hex()[:ID_LENGTH]
        values = (
            name,
            anchor.seq,
            anchor.hash,
            anchor.seq,
            anchor.hash,
            key_id,
            self._at,
            self._at,
        )
        try:
            number = self.connection.execute(_NEW_ORIGIN, values).lastrowid
        except sqlite3.IntegrityError:
            raise Conflict(f"another trail is called {name} here already") from None
        assert number is not None
        return Origin(number, name, anchor.seq, anchor.hash, anchor.seq, anchor.hash, key_id)

    def rows(self, origin: Origin, breathe: Callable[[], None]) -> None:
        """Append what is new of all rows.

        Raises:
            Conflict: one contradicts what is there.
        """
        for portion in self._sent.rows(_NAMES, PORTION):
            breathe()
            known, new = {}, []
            for row in portion:
                # What lies between and is not here any more retention has removed here.
                if origin.anchor_seq < row[0] <= origin.last_seq:
                    known[row[0]] = row[-1]
                else:
                    new.append(row)
            if known:
                check_same(self.connection, origin, known)
                self.duplicates += len(known)
            if new:
                self._append(origin, new)

    def _append(self, origin: Origin, rows: Sequence[tuple[Any, ...]]) -> None:
        there = self._stored([row[1] for row in rows])
        made: list[tuple[AuditRow, int, bytes]] = []
        for row in rows:
            said = AuditRow(*row[1:-2])
            stored = there.get(said.id)
            if stored is None:
                there[said.id] = _digest(said)
                made.append((said, row[0], row[-1]))
            elif stored == _digest(said):
                self.duplicates += 1
            else:
                raise Conflict(
                    f"row {row[0]}: the entry {word(said.id)} is stored already, with other content"
                )
        seq = newest(self.connection).seq
        append_within(self.connection, [said for said, _, _ in made])
        self.connection.executemany(
            _PUT,
            [
                (seq + place, origin.number, number, digest, said.id, said.timestamp, self._at)
                for place, (said, number, digest) in enumerate(made, 1)
            ],
        )
        self.ingested += len(made)

    def _stored(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Digests: what is stored under the ids of short rows may be long."""
        marks = ", ".join("?" * len(ids))
        query = (
            f"SELECT {_SAID} FROM audit WHERE seq IN"  # noqa: S608
            f" (SELECT seq FROM ingest_rows WHERE entry_id IN ({marks}))"
        )
        found = self.connection.execute(query, ids)
        return {row[0]: _digest(row) for row in found}

    def end(self, origin: Origin, last: int, digest: bytes, key_id: str | None) -> None:
        """Write down how far the trail is known now."""
        first = (origin.anchor_seq, origin.anchor_hash)
        if self._anchor.seq < origin.anchor_seq:
            first = (self._anchor.seq, self._anchor.hash)
        end = (last, digest) if last > origin.last_seq else (origin.last_seq, origin.last_hash)
        self.connection.execute(_MOVE_ORIGIN, (*first, *end, key_id, self._at, origin.number))


def _digest(row: tuple[Any, ...]) -> bytes:
    return hashlib.sha256(repr(tuple(row)).encode()).digest()
