"""Where rows of a time are in the ingested trail, and where each came from.

Its rows stand in the order in which they came, not in that of their times, so that nothing can be
halved: an index has the times.
"""

import sqlite3

import peewee

from authz.stores.audit_table import AuditEntry
from authz.stores.ingest.tables import IngestOrigin, IngestRow


def is_ingested(connection: sqlite3.Connection) -> bool:
    """Whether this is the ingested trail."""
    query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ingest_rows'"
    return connection.execute(query).fetchone() is not None


def limits(connection: sqlite3.Connection, since: str, until: str) -> tuple[int, int]:
    """The numbers between which its rows of a time are; the second is lower where there are none.

    Args:
        since, until: RFC 3339, as in the rows; the first is inside and the second is not. Empty:
            any time.
    """
    query = "SELECT min(seq), max(seq) FROM ingest_rows"
    given = []
    if since or until:
        # Behind every time that there is.
        query += " WHERE timestamp >= ? AND timestamp < ?"
        given = [since, until or "~"]
    first, last = connection.execute(query, given).fetchone()
    return (1, 0) if first is None else (first, last)


def origin() -> peewee.Node:
    """What to select beside a row's columns: the id of the trail that it came from."""
    return (
        IngestOrigin.select(IngestOrigin.id)
        .join(IngestRow, on=(IngestRow.origin == IngestOrigin.number))
        .where(IngestRow.seq == AuditEntry.seq)
    )
