"""`authz audit tail`: the newest rows, and with -f those that come."""

from typing import Annotated

import typer

from authz.cli.audit.filters import filtered
from authz.cli.audit.shared import Printer, Which, opened
from authz.cli.audit.trail import Given
from authz.cli.options import AsJsonLines
from authz.cli.shared import Database


@filtered
def tail(
    filters: Given,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, max=100_000, help="How many of the newest.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    database: Database = None,
    which: Which = "local",
    as_json: AsJsonLines = False,
) -> None:
    """Print the newest decisions, oldest of them first.

    With -f it goes on with those that come, also where the database is replaced by another one,
    and where the connection to a gateway breaks off.
    """
    printer = Printer(as_json=as_json)
    with opened(database, which) as trail:
        if follow:
            for entries in trail.follow(filters, count):
                printer.add(entries)
        else:
            newest = trail.entries(filters, order="desc", limit=count)
            printer.add(list(newest)[::-1])
