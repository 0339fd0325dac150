"""How audit rows hang together: what is hashed, what is signed (DESIGN §6, docs/audit.md).

- `hash = SHA-256(prev_hash ‖ canonical row)`. The canonical row is the JSON array of `seq` and then
  every column of `AuditRow` in its order: no whitespace, every character outside space to `~`
  escaped (`\\n`, `\\"`, else `\\u00e9` in lower-case hex, UTF-16 pairs above U+FFFF), an absent
  value `null`. Any language with JSON and SHA-256 can compute it.
- The first row follows the anchor, whose hash is random: no two trails share a beginning, so a
  signature of one never fits another.
- What is signed begins with a word of its own, so that a head can never be taken for an anchor.
- These bytes are for ever. Another form needs another word, and another schema version.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from authz.core.audit import AuditRow

HASH_BYTES: Final = 32
#: An Ed25519 signature's.
SIGNATURE_BYTES: Final = 64
#: The highest number that SQLite gives a row.
LAST_SEQ: Final = 2**63 - 1

_HEAD: Final = "authz.audit.head.v1"
_ANCHOR: Final = "authz.audit.anchor.v1"

#: Ten thousand rows a second pass through these two; both are bound once.
_json: Final[Callable[[object], str]] = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=True, check_circular=False, allow_nan=False
).encode
_sha256: Final = hashlib.sha256

#: A row as the table has it: seq, the columns of `AuditRow`, prev_hash, hash.
Chained = tuple[object, ...]


class Link(NamedTuple):
    """Where a chain stands: the last row's number and hash, or the anchor's."""

    seq: int
    hash: bytes


class Anchor(NamedTuple):
    """Where the chain begins: the row before the oldest one that is kept."""

    seq: int
    hash: bytes
    #: RFC 3339, UTC, microseconds.
    at: str
    #: genesis, upgrade or retention.
    reason: str
    #: Both None while it is not signed.
    key_id: str | None
    signature: bytes | None


class Head(NamedTuple):
    """A signature over how far the chain had come, and when."""

    seq: int
    hash: bytes
    #: RFC 3339, UTC, microseconds.
    at: str
    #: 1 where the sidecar stopped cleanly after this row, 0 otherwise.
    final: int
    key_id: str
    signature: bytes


def canonical(seq: object, row: Iterable[object]) -> bytes:
    """The bytes of a row that its hash covers.

    Raises:
        TypeError, ValueError: a value is neither text, number nor None.
    """
    return _json((seq, *row)).encode()


def row_hash(prev_hash: bytes, said: bytes) -> bytes:
    """The hash of a row whose canonical bytes are `said`."""
    return _sha256(prev_hash + said).digest()


def is_whole(row: Sequence[object]) -> bool:
    """Whether a stored row (`seq`, the columns, prev_hash, hash) says what it was hashed with."""
    seq, *said, previous, digest = row
    if not isinstance(previous, bytes) or not isinstance(digest, bytes):
        return False
    try:
        return row_hash(previous, canonical(seq, said)) == digest
    except (TypeError, ValueError):
        return False  # a blob, or a number that JSON does not have


def chained(head: Link, rows: Iterable[AuditRow]) -> tuple[list[Chained], Link]:
    """Rows as the table gets them, following `head`, and where the chain stands then.

    Raises:
        TypeError, ValueError: as `canonical`.
    """
    seq, previous = head
    made: list[Chained] = []
    for row in rows:
        seq += 1
        said = (seq, *row)
        # `row_hash(previous, canonical(seq, row))`, without the calls.
        following = _sha256(previous + _json(said).encode()).digest()
        made.append((*said, previous, following))
        previous = following
    return made, Link(seq, previous)


def head_message(link: Link, at: str, final: bool) -> bytes:
    """What the signature of a head covers."""
    return _json((_HEAD, link.seq, link.hash.hex(), at, final)).encode()


def anchor_message(link: Link, at: str, reason: str) -> bytes:
    """What the signature of an anchor covers."""
    return _json((_ANCHOR, link.seq, link.hash.hex(), at, reason)).encode()
