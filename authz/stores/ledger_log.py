"""Where the ledger is kept: one table beside the audit trail, changed with the rows that say why.

- Each change has a number, and comes with rows of the trail. So whoever else has the file open (a
  command, another sidecar) is followed by asking for what is newer than the last number seen, and
  only when somebody else's rows are there: an index of the numbers would cost each decision more
  than all the rest of the ledger.
- An entry that is removed stays as a number without a value, so that everybody hears of it;
  `forget` takes those away that are old.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import peewee

from authz.core.ledger import Change, Ledger

TABLE: Final = "ledger"
#: Changes of which everybody who has the file open has heard: nobody is so many behind, since
#: each decision looks.
HEARD: Final = 100_000


class LedgerEntry(peewee.Model):
    """An entry of the ledger, as text; `core/ledger.py` has the kinds."""

    kind = peewee.TextField()
    key = peewee.TextField()
    #: Before the value: to find what is new, no long values need be read.
    change = peewee.BigIntegerField()
    #: NULL: removed.
    value = peewee.TextField(null=True)

    class Meta:
        table_name = TABLE
        primary_key = peewee.CompositeKey("kind", "key")
        # One tree less to change with each change.
        without_rowid = True


#: peewee writes no such clause for a model that is not bound, and ours are not (`audit_schema`).
_PUT: Final = (
    f"INSERT INTO {TABLE} (kind, key, value, change) VALUES (?, ?, ?, ?) ON CONFLICT (kind, key)"  # noqa: S608
    " DO UPDATE SET value = excluded.value, change = excluded.change"
)
_NEWER: Final = f"SELECT kind, key, value, change FROM {TABLE} WHERE change > ? ORDER BY change"  # noqa: S608
_FORGET: Final = f"DELETE FROM {TABLE} WHERE value IS NULL AND change <= ?"  # noqa: S608
_LAST: Final = f"SELECT coalesce(max(change), 0) FROM {TABLE}"  # noqa: S608


def follow(connection: sqlite3.Connection, ledger: Ledger, seen: int) -> int:
    """Take over every change after the number `seen`, and return the last one's.

    Raises:
        sqlite3.DatabaseError: an entry cannot be read. What it says may be that somebody was
            revoked, so nothing can be decided without it.
    """
    for kind, key, value, change in connection.execute(_NEWER, (seen,)):
        try:
            ledger.load(kind, key, value)
        except (ValueError, TypeError, OverflowError) as error:
            raise sqlite3.DatabaseError(
                f"its ledger's entry {kind!r} {key!r} cannot be read: {error}"
            ) from None
        seen = change
    return seen


def write(connection: sqlite3.Connection, changes: Sequence[Change], seen: int) -> int:
    """Write changes inside the caller's transaction, and return the last one's number."""
    rows = [(*change, seen + place) for place, change in enumerate(changes, 1)]
    connection.executemany(_PUT, rows)
    return seen + len(rows)


def last(connection: sqlite3.Connection) -> int:
    """The number of the newest change."""
    number: int = connection.execute(_LAST).fetchone()[0]
    return number


def forget(connection: sqlite3.Connection) -> None:
    """Take away what was removed, but for the newest `HEARD` changes."""
    connection.execute(_FORGET, (last(connection) - HEARD,))
