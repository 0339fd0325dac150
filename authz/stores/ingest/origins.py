"""Which trail it is that was sent, and whether it goes on where it was known to end.

- A trail is known by its hashes alone: each depends on every row before it and, in the end, on the
  random one that the trail began with. One row in common, and all before it are.
- Where nothing is in common the key that it is signed with tells that something is missing.
- A trail that is new here comes from its beginning: its first row, or the oldest that retention has
  left there.
"""

import sqlite3
from typing import Final, NamedTuple

from authz.core.audit_chain import Anchor, Link
from authz.stores.audit_slice import is_slice, key_of
from authz.stores.ingest.hostile import Refused, Sent

#: Trails that are known at most: each is a sidecar's, or one that somebody replaced.
MAX_ORIGINS: Final = 10_000
#: Digits of the hash that names one.
ID_LENGTH: Final = 16

_FIELDS: Final = "number, id, anchor_seq, anchor_hash, last_seq, last_hash, key_id"
_WHERE: Final = f"SELECT {_FIELDS} FROM ingest_origins WHERE"  # noqa: S608
_BY_ANCHOR: Final = (
    f"{_WHERE} (anchor_seq = ?1 AND anchor_hash = ?2) OR (last_seq = ?1 AND last_hash = ?2) LIMIT 1"
)
_BY_ROW: Final = (
    f"{_WHERE} number = (SELECT origin FROM ingest_rows WHERE origin_seq = ? AND hash = ?)"  # noqa: S608
)
_WITHIN: Final = f"{_WHERE} anchor_seq BETWEEN ?1 AND ?2 OR last_seq BETWEEN ?1 AND ?2"
_BY_KEY: Final = f"{_WHERE} key_id = ? ORDER BY last_seq DESC LIMIT 1"


class Origin(NamedTuple):
    """A trail that is known, as `IngestOrigin` has it."""

    number: int
    id: str
    anchor_seq: int
    anchor_hash: bytes
    last_seq: int
    last_hash: bytes
    key_id: str | None


class Conflict(Refused):
    """What was sent contradicts what is known, or does not go on from it."""

    kind = "conflict"

    def __init__(self, message: str, last: int | None = None) -> None:
        """`last`: the last row of that trail that is known here."""
        super().__init__(message)
        self.last = last


class Found(NamedTuple):
    """Where it belongs."""

    #: None: it is new here.
    origin: Origin | None
    #: Rows that retention removed there before they were sent; the second is lower where none were.
    gap: tuple[int, int] = (1, 0)


def find(
    connection: sqlite3.Connection, sent: Sent, anchor: Anchor, last: int, key_id: str | None
) -> Found:
    """The trail that it is.

    Args:
        connection: of the ingested trail.
        last: the number of the last row that was sent.
        key_id: what it says it is signed with.

    Raises:
        Conflict: rows are missing between it and what is known, or it contradicts that.
    """
    origin = _linked(connection, sent, anchor, last)
    if origin is not None:
        end = _hash_at(sent, anchor, origin.last_seq)
        if end is not None and end != origin.last_hash:
            raise _fork(origin, origin.last_seq)
        return Found(origin)
    known = None
    key_id = key_id or key_of(anchor.reason)
    if key_id is not None and anchor.seq > 0 and anchor.reason != "upgrade":
        row = connection.execute(_BY_KEY, (key_id,)).fetchone()
        known = Origin(*row) if row else None
    if known is not None and anchor.seq <= known.last_seq:
        raise _fork(known, anchor.seq)
    if known is not None and anchor.reason == "retention":
        return Found(known, (known.last_seq + 1, anchor.seq))
    if known is not None or is_slice(anchor.reason):
        first = known.last_seq + 1 if known else 1
        which = f"this trail is known to row {first - 1}" if known else "nothing of it is known"
        raise Conflict(
            f"rows {first}..{anchor.seq} are missing: {which}, and what was sent begins with row"
            f" {anchor.seq + 1}; send it from row {first} on",
            first - 1,
        )
    [count] = connection.execute("SELECT count(*) FROM ingest_origins").fetchone()
    if count >= MAX_ORIGINS:
        raise Conflict(f"rows of {count} trails are here already, and no more are taken")
    return Found(None)


def _linked(connection: sqlite3.Connection, sent: Sent, anchor: Anchor, last: int) -> Origin | None:
    """The known trail that has a row in common with it."""
    for query in (_BY_ANCHOR, _BY_ROW):
        row = connection.execute(query, (anchor.seq, anchor.hash)).fetchone()
        if row is not None:
            return Origin(*row)
    for row in connection.execute(_WITHIN, (anchor.seq + 1, last)):
        origin = Origin(*row)
        for link in (
            Link(origin.anchor_seq, origin.anchor_hash),
            Link(origin.last_seq, origin.last_hash),
        ):
            if _hash_at(sent, anchor, link.seq) == link.hash:
                return origin
    return None


def _hash_at(sent: Sent, anchor: Anchor, seq: int) -> bytes | None:
    return anchor.hash if seq == anchor.seq else sent.hash_of(seq)


def _fork(origin: Origin, seq: int) -> Conflict:
    return Conflict(
        f"row {seq} is another one than what was ingested of the trail {origin.id} before: it was"
        " replaced, or put back to an earlier state",
        origin.last_seq,
    )


def check_same(connection: sqlite3.Connection, origin: Origin, rows: dict[int, bytes]) -> None:
    """Hold rows that are known, by their number there, against what was ingested of them.

    Raises:
        Conflict: one is another.
    """
    query = (
        "SELECT origin_seq, hash FROM ingest_rows WHERE origin_seq BETWEEN ? AND ? AND origin = ?"
    )
    for seq, digest in connection.execute(query, (min(rows), max(rows), origin.number)):
        if seq in rows and rows[seq] != digest:
            raise _fork(origin, seq)
