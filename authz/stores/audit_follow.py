"""Following the audit trail: its newest entries, and then each that is written, by whomever."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from authz.stores.audit_query import Filters, Rows, limits, page
from authz.stores.audit_table import entry_of


def follow(
    connection: sqlite3.Connection,
    path: Path,
    filters: Filters,
    *,
    count: int,
    after: int | None = None,
    breathe: Callable[[], None] = lambda: None,
) -> Iterator[list[dict[str, Any]] | None]:
    """Entries in their order, as they come; None: there is nothing new, ask again in a while.

    It ends when there is another file at the path, or rows are gone from this one's end.

    Args:
        connection: `audit_query.opened` at the path.
        count: the newest entries to begin with.
        after: begin after the row of this number instead, where the trail got that far.
        breathe: is called for each row, and may wait.
    """
    file = _identity(path)
    _, reached = limits(connection)
    if after is not None and after <= reached:
        reached = after
    elif count:
        newest = page(connection, filters, limit=count, upto=reached, breathe=breathe)
        yield newest.entries[::-1]
    while _identity(path) == file:
        [last] = connection.execute("SELECT max(seq) FROM audit").fetchone()
        if last is None or last == reached:
            yield None
        elif last < reached:
            return
        else:
            rows = Rows(connection, filters, order="asc", after=reached, upto=last, breathe=breathe)
            for part in rows.parts():
                yield [entry_of(dict(zip(rows.columns, row, strict=True))) for row in part]
            reached = last


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino
