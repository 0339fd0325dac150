"""What is signed in an audit database, and what is removed from it (docs/audit.md).

- The newest head takes the place of the one before it, except that the first of each hour stays;
  so there are few, and they say how far the trail had come by when.
- A head whose row is gone, or is another now, stays: it is the evidence.
- The write lock is held for single statements, or a handful: whoever records a decision meanwhile
  waits, and a thread that has the lock may have to wait for the interpreter at each of them.
- Retention removes rows from the beginning alone, and in the same transaction puts the anchor at
  the last one that it removed. So what is left still verifies, whenever the power fails.
"""

import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple

import peewee

from authz.core.audit import AuditRow
from authz.core.audit_chain import (
    Anchor,
    Head,
    Link,
    anchor_message,
    head_message,
    is_whole,
)
from authz.core.timestamps import rfc3339
from authz.stores.audit_key import SigningKey
from authz.stores.audit_schema import (
    COLUMNS,
    AuditAnchor,
    AuditHead,
    append,
    connection_of,
    newest,
)
from authz.stores.audit_table import AuditEntry

#: Rows that retention removes in one transaction: about 2 ms, which a decision may have to wait.
CHUNK: Final = 200
_TIMESTAMP: Final = COLUMNS.index("timestamp")
#: `2026-01-31T12`: what the times of one hour have in common.
_HOUR: Final = 13


class Sealed(NamedTuple):
    """What `sign_head` found."""

    link: Link
    #: The row that the head before named is gone, or another.
    broken: Head | None


def end_of(database: peewee.SqliteDatabase) -> Link:
    """The newest row, or the anchor.

    Raises:
        sqlite3.DatabaseError: there is neither.
    """
    return newest(connection_of(database))


def newest_head(database: peewee.SqliteDatabase) -> Head | None:
    """The head that was signed last."""
    heads = _newest_heads(database, 1)
    return heads[0][1] if heads else None


def _newest_heads(database: peewee.SqliteDatabase, count: int) -> list[tuple[int, Head]]:
    query = (
        AuditHead.select(
            AuditHead.id, AuditHead.seq, AuditHead.hash, AuditHead.at, AuditHead.final,
            AuditHead.key_id, AuditHead.signature,
        )
        .order_by(AuditHead.id.desc())
        .limit(count)
        .tuples()
    )  # fmt: skip
    return [(row[0], Head(*row[1:])) for row in query.execute(database)]


def signer(database: peewee.SqliteDatabase) -> str | None:
    """The id of the key that signed last; None where nothing is signed."""
    head = newest_head(database)
    if head is not None:
        return head.key_id
    query = AuditAnchor.select(AuditAnchor.key_id).order_by(AuditAnchor.seq.desc()).limit(1)
    found = list(query.tuples().execute(database))
    return found[0][0] if found else None


def sign_anchor(database: peewee.SqliteDatabase, key: SigningKey) -> list[Link]:
    """Sign the anchor, if nobody has; when it was made stays what it says.

    Returns those that have rows before them, for which no signature vouched: nobody knows whether
    a sidecar without a key removed them, or who wanted them to be forgotten.
    """
    vouched: list[Link] = []
    with database.atomic("IMMEDIATE"):
        query = AuditAnchor.select().where(AuditAnchor.signature.is_null()).dicts()
        for row in query.execute(database):
            if not isinstance(row["hash"], bytes):
                continue  # damaged: for verify to say
            link = Link(row["seq"], row["hash"])
            AuditAnchor.update(
                key_id=key.key_id,
                signature=key.sign(anchor_message(link, row["at"], row["reason"])),
            ).where(AuditAnchor.seq == link.seq).execute(database)
            if link.seq:
                vouched.append(link)
    return vouched


def sign_head(
    database: peewee.SqliteDatabase, key: SigningKey, at: float, *, final: bool = False
) -> Sealed:
    """Sign where the trail stands.

    Args:
        at: seconds since the epoch.
        final: the sidecar stops now.
    """
    link, time = end_of(database), rfc3339(at)
    signature = key.sign(head_message(link, time, final))
    signed = Head(link.seq, link.hash, time, int(final), key.key_id, signature)
    before = _newest_heads(database, 2)
    if not before:
        AuditHead.insert(**signed._asdict()).execute(database)
        return Sealed(link, None)
    place, previous = before[0]
    again = (previous.seq, previous.hash) == link
    broken = None if again or _stands(database, previous) else previous
    first_of_hour = len(before) == 1 or _hour(before[1][1]) != _hour(previous)
    if again or not (broken or first_of_hour):
        AuditHead.update(**signed._asdict()).where(AuditHead.id == place).execute(database)
    else:
        AuditHead.insert(**signed._asdict()).execute(database)
    return Sealed(link, broken)


def _hour(head: Head) -> str:
    return str(head.at)[:_HOUR]


def _stands(database: peewee.SqliteDatabase, head: Head) -> bool:
    """Whether the row that a head names is there, and the one that was signed."""
    for table in (AuditEntry, AuditAnchor):
        query = table.select(table.hash).where(table.seq == head.seq).tuples()
        found = list(query.execute(database))
        if found:
            return bool(found[0][0] == head.hash)
    return False


def note(database: peewee.SqliteDatabase, row: AuditRow) -> None:
    """Append a row about the trail itself."""
    append(database, [row])


class Tampered(Exception):
    """A row that retention would remove is not what was recorded; it stays, as the evidence."""

    def __init__(self, seq: int) -> None:
        super().__init__(seq)
        self.seq = seq


def retire(
    database: peewee.SqliteDatabase,
    key: SigningKey | None,
    before: str,
    at: float,
    *,
    came: Callable[[int], str] | None = None,
) -> int:
    """Remove the oldest rows, up to `CHUNK` of them; returns how many went.

    Args:
        key: None leaves the anchor unsigned.
        before: RFC 3339, UTC, microseconds; a row of this time or later stays, and so does every
            row after it.
        at: seconds since the epoch.
        came: when a row came here, as `before`; where that is earlier than its time it counts.

    Raises:
        Tampered: the chain does not hold up to the last row that would go.
    """
    begin = _begin(database)
    last, count = begin, 0
    names = ", ".join(COLUMNS)
    query = f"SELECT {names} FROM audit ORDER BY seq LIMIT ?"  # noqa: S608
    # One at a time: rows that somebody else has sent may be long, and this is the service itself.
    with contextlib.closing(connection_of(database).execute(query, (CHUNK,))) as rows:
        for row in rows:
            timestamp = row[_TIMESTAMP]
            is_new = isinstance(timestamp, str) and timestamp >= before
            if is_new and (came is None or came(row[0]) >= before):
                break
            # The new anchor will vouch for these, so nothing goes that was not recorded so.
            if row[0] != last.seq + 1 or row[-2] != last.hash or not is_whole(row):
                raise Tampered(last.seq + 1)
            last, count = Link(row[0], row[-1]), count + 1
    if not count:
        return 0
    anchor = _anchor(key, last, rfc3339(at))
    with database.atomic("IMMEDIATE"):
        if _begin(database) != begin:
            return 0  # another sidecar, which should not be there, was quicker
        gone: int = AuditEntry.delete().where(AuditEntry.seq <= last.seq).execute(database)
        if gone != count:
            raise Tampered(begin.seq + 1)
        AuditAnchor.delete().execute(database)
        AuditAnchor.insert(**anchor._asdict()).execute(database)
        AuditHead.delete().where(AuditHead.seq < last.seq).execute(database)
    return gone


def _begin(database: peewee.SqliteDatabase) -> Link:
    """Where the chain begins; a trail without an anchor begins nowhere."""
    query = AuditAnchor.select(AuditAnchor.seq, AuditAnchor.hash)
    found = list(query.order_by(AuditAnchor.seq.desc()).limit(1).tuples().execute(database))
    return Link(*found[0]) if found else Link(-1, b"")


def _anchor(key: SigningKey | None, link: Link, at: str) -> Anchor:
    reason = "retention"
    if key is None:
        return Anchor(*link, at, reason, None, None)
    return Anchor(*link, at, reason, key.key_id, key.sign(anchor_message(link, at, reason)))
