"""`authz audit query`, `trace` and `stats`: questions to the trail."""

import json
from typing import Annotated, Literal

import typer

from authz.cli.audit.filters import filtered
from authz.cli.audit.shared import Printer, Which, opened
from authz.cli.audit.trail import Given
from authz.cli.options import AsJson, AsJsonLines
from authz.cli.shared import BAD_ARGUMENTS, FAILED, Database, fail, print_entry

#: Entries of a trace that are shown; a sidecar's batches have a hundred.
MAX_TRACE = 100_000


@filtered
def query(
    filters: Given,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 100,
    order: Annotated[
        Literal["asc", "desc"], typer.Option(help="asc: oldest first; desc: newest first.")
    ] = "desc",
    database: Database = None,
    which: Which = "local",
    as_json: AsJsonLines = False,
) -> None:
    """Print the decisions that fit every filter, newest first.

    An action, resource or path is a pattern: `*` stands for anything.
    """
    with opened(database, which) as trail:
        Printer(as_json=as_json).all(trail.entries(filters, order=order, limit=limit))


def trace(
    trace_id: Annotated[str, typer.Argument(help="As a decision's `traceId` has it.")],
    database: Database = None,
    which: Which = "local",
    as_json: AsJsonLines = False,
) -> None:
    """Print everything that one trace has in the trail, oldest first.

    Exit code 1 when that is nothing.
    """
    if not trace_id:
        fail(["the trace's id is empty"], BAD_ARGUMENTS)
    with opened(database, which) as trail:
        found = trail.entries({"traceId": trace_id}, order="asc", limit=MAX_TRACE)
        if not Printer(as_json=as_json).all(found, nothing=False):
            fail([f"the trail has nothing of the trace {trace_id}"], FAILED)


@filtered
def stats(
    filters: Given,
    period: Annotated[
        str, typer.Option(help="How far back: 30m, 24h, 7d, or a number of hours.")
    ] = "",
    database: Database = None,
    which: Which = "local",
    as_json: AsJson = False,
) -> None:
    """Count the decisions of the last 24 hours, or of another time, by what was decided."""
    is_bound = "from" in filters or "to" in filters
    if period and is_bound:
        fail(["give --period, or --from and --to"], BAD_ARGUMENTS)
    if not is_bound:
        period = period or "24h"
        filters = {**filters, "from": _since(period)}
    with opened(database, which) as trail:
        counted = trail.stats(filters)
    shown = {name: counted.get(name, 0) for name in _COUNTS}
    if period:
        shown["period"] = period
    shown |= {name: filters[name] for name in ("from", "to") if name in filters}
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    print_entry({_COUNTS.get(name, name): value for name, value in shown.items()})


#: What is counted, by its name in the API, as people read it.
_COUNTS = {
    "total": "decisions",
    "allowed": "allowed",
    "denied": "denied",
    "errors": "not decided",
    "wouldDeny": "denied, not enforced",
}


def _since(period: str) -> str:
    import time

    from authz.core.durations import parse_duration
    from authz.core.timestamps import rfc3339

    try:
        seconds = parse_duration(f"{period}h" if period.strip().isdigit() else period)
    except ValueError as error:
        fail([f"--period: {error}"], BAD_ARGUMENTS)
    return rfc3339(time.time() - seconds)
