"""What a reader process can do, by name. Only the processes import this."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.stores import audit_query
from authz.stores.analytics import agents, delegations, policies, requests
from authz.stores.analytics.report import Report
from authz.stores.audit_export import export
from authz.stores.audit_follow import follow
from authz.stores.audit_query import NothingFound, cursor_of, filters_of
from authz.stores.audit_table import json_of

Params = Mapping[str, Any]

#: Seconds that counting may take; the service waits longer for an answer (`pool.ASK_S`).
COUNT_S: Final = 15.0
#: Seconds between two looks for new rows, and between two signs of life to who follows them.
POLL_S: Final = 0.25
HEARTBEAT_S: Final = 10.0
#: Seconds that a tail lasts, a little less than Envoy lets it. Who follows asks again then.
TAIL_S: Final = 3500.0


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


def _export(task: Task) -> None:
    export(
        task.connection,
        task.params["format"],
        filters_of(task.params["filters"]),
        write=task.write,
        breathe=task.breathe,
    )


def _tail(task: Task) -> None:
    """Server-Sent Events: an entry each, by its number; `control` where nobody asked."""
    params, began = task.params, time.monotonic()
    after = params["after"]
    # The first piece tells the asker that it has begun; who is cut off asks again in two seconds.
    task.write(b"retry: 2000\n\n")
    task.flush()
    said = began
    for found in follow(
        task.connection,
        task.path,
        filters_of(params["filters"]),
        count=params["count"],
        after=cursor_of("after", after) if after else None,
        breathe=task.breathe,
    ):
        now = time.monotonic()
        if found:
            for entry in found:
                task.write(_event(entry))
        elif now - said >= HEARTBEAT_S:
            task.write(b":\n\n")
        if found or now - said >= HEARTBEAT_S:
            task.flush()
            said = now
        if now - began >= TAIL_S:
            return
        if found is None:
            time.sleep(POLL_S)


def _event(entry: Mapping[str, Any]) -> bytes:
    kind = "control" if entry.get("source") == "control" else "decision"
    return b"event: %s\nid: %d\ndata: %s\n\n" % (kind.encode(), entry["seq"], json_of(entry))


def _report(make: Callable[..., Mapping[str, object]]) -> Job:
    """A report of a period before `now`, seconds since the epoch; the other parameters are its."""

    def job(task: Task) -> None:
        params = dict(task.params)
        period, now = params.pop("period"), params.pop("now")
        report = Report(task.connection, period, now=now, within_s=COUNT_S, breathe=task.breathe)
        task.write(json_of(make(report, **params)))

    return job


JOBS: Final[Mapping[str, Job]] = {
    "audit.page": _page,
    "audit.one": answering(_one),
    "audit.stats": answering(_stats),
    "audit.export": _export,
    "audit.tail": _tail,
    "analytics.overview": _report(requests.overview),
    "analytics.timeseries": _report(requests.timeseries),
    "analytics.agents": _report(agents.agents),
    "analytics.policies": _report(policies.policies),
    "analytics.delegations": _report(delegations.delegations),
    "analytics.trust-distribution": _report(agents.trust_distribution),
    "analytics.latency-heatmap": _report(requests.latency_heatmap),
}
