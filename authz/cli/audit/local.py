"""A trail in its database, read beside whoever writes it."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any, Final, Literal

from authz.cli.audit.filters import in_options
from authz.cli.audit.trail import Entry, Given, Layout, Moved
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note
from authz.stores import audit_export, audit_query
from authz.stores.audit_follow import follow
from authz.stores.audit_query import BadFilter, Filters, TooMuch, Unreadable
from authz.stores.audit_schema import file_identity

#: Seconds between looks at a file that is followed.
LOOK_EVERY_S: Final = 0.2
#: Seconds after which a file that took another one's place has to be an audit database: whoever
#: makes one makes the file first.
PATIENCE_S: Final = 10.0


class LocalTrail:
    """The trail of an audit database."""

    unit = "rows"

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(
        self, filters: Given, *, order: Literal["asc", "desc"], limit: int | None
    ) -> Iterator[Entry]:
        """As `Trail.entries`."""
        wanted = _read(filters)
        with self._opened() as connection:
            yield from audit_query.entries(connection, wanted, order=order, limit=limit)

    def stats(self, filters: Given) -> dict[str, Any]:
        """As `Trail.stats`."""
        wanted = _read(filters)
        with self._opened() as connection:
            return dict(audit_query.stats(connection, wanted))

    def export(
        self, layout: Layout, filters: Given, *, write: Callable[[bytes], object], moved: Moved
    ) -> int:
        """As `Trail.export`."""
        wanted = _read(filters)
        with self._opened() as connection:
            return audit_export.export(connection, layout, wanted, write=write, progress=moved)

    def follow(self, filters: Given, count: int) -> Iterator[list[Entry]]:
        """As `Trail.follow`; another file at the path is another trail, shown from its beginning.

        A file that is gone is waited for.
        """
        wanted = _read(filters)
        after, patience_s = None, 0.0
        while True:
            identity = file_identity(self._path)
            with self._opened(patience_s) as connection:
                for entries in follow(connection, self._path, wanted, count=count, after=after):
                    if entries is None:
                        sleep(LOOK_EVERY_S)
                    elif entries:
                        yield entries
            count, patience_s = 0, PATIENCE_S
            if file_identity(self._path) == identity:
                note(f"{self._path}: its newest rows are gone; what comes now has their numbers")
                after = None
                continue
            note(f"{self._path}: is another file than before; what follows is from there")
            after = 0
            while file_identity(self._path) == (0, 0):
                sleep(LOOK_EVERY_S)

    @contextlib.contextmanager
    def _opened(self, patience_s: float = 0.0) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(self._open(patience_s)) as connection:
                yield connection
        except (Unreadable, TooMuch) as error:
            fail([f"{self._path}: {error}"], FAILED)
        except sqlite3.Error as error:
            fail([f"{self._path}: not an audit database: {error}"], FAILED)

    def _open(self, patience_s: float) -> sqlite3.Connection:
        for _ in range(int(patience_s / LOOK_EVERY_S)):
            with contextlib.suppress(Unreadable):
                return audit_query.opened(self._path)
            sleep(LOOK_EVERY_S)
        return audit_query.opened(self._path)


def _read(filters: Given) -> Filters:
    try:
        return audit_query.filters_of(filters)
    except BadFilter as error:
        fail([in_options(str(error))], BAD_ARGUMENTS)
