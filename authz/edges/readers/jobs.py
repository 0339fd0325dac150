"""What a reader process can do, by name. Only the processes import this."""

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.stores import audit_query
from authz.stores.audit_query import NothingFound, cursor_of, filters_of
from authz.stores.audit_table import json_of

Params = Mapping[str, Any]

#: Seconds that counting may take; the service waits longer for an answer (`pool.ASK_S`).
COUNT_S: Final = 15.0


class Task(NamedTuple):
    """One job to be done."""

    #: Reads only, and breathes while SQLite works (`audit_query.opened`).
    connection: sqlite3.Connection
    path: Path
    #: As `Readers.ask` and `Readers.stream` were given them; checked there.
    params: Params
    #: Takes a piece of the answer, and waits while the asker has enough.
    write: Callable[[bytes], object]
    #: Sends what was written so far.
    flush: Callable[[], None]
    #: To be called often by whatever computes long; it rests where processor time is short.
    breathe: Callable[[], None]


Job = Callable[[Task], None]


def answering(answer: Callable[[sqlite3.Connection, Params], Mapping[str, object]]) -> Job:
    """A job whose answer is one JSON object, for `Readers.ask`."""

    def job(task: Task) -> None:
        task.write(json_of(answer(task.connection, task.params)))

    return job


def _page(task: Task) -> None:
    params = task.params
    after = params.get("after", "")
    found = audit_query.page(
        task.connection,
        filters_of(params["filters"]),
        limit=params["limit"],
        order=params["order"],
        after=cursor_of("after", after) if after else None,
        breathe=task.breathe,
    )
    if params.get("nothing") and not (found.entries or found.next or after):
        raise NothingFound(params["nothing"])
    task.write(json_of({**params.get("also", {}), **found.answer()}))


def _one(connection: sqlite3.Connection, params: Params) -> Mapping[str, object]:
    return audit_query.one(connection, params["id"])


def _stats(connection: sqlite3.Connection, params: Params) -> Mapping[str, object]:
    counted = audit_query.stats(connection, filters_of(params["filters"]), within_s=COUNT_S)
    return {**counted, **params.get("also", {})}


JOBS: Final[Mapping[str, Job]] = {
    "audit.page": _page,
    "audit.one": answering(_one),
    "audit.stats": answering(_stats),
}
