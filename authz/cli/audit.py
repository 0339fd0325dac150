"""`authz audit`: what was decided."""

from pathlib import Path
from typing import Annotated

import typer

from authz.cli.shared import fail

app = typer.Typer(help="The audit trail.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The audit trail."""


@app.command()
def tail(
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=100_000)] = 20,
    database: Annotated[
        Path | None, typer.Option(help="Audit database; AUDIT_DB_PATH when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the newest decisions, oldest of them first."""
    import json
    import os
    import sqlite3
    import sys

    import peewee

    from authz.core.text import visible
    from authz.settings import settings_of
    from authz.stores.audit_log import AuditReader

    path = database or settings_of(os.environ, "AUDIT_DB_PATH", "DB_PATH").audit_db_path
    try:
        entries = list(AuditReader(path).tail(count))
    except FileNotFoundError:
        fail([f"{path}: there is no audit database yet"], 1)
    except (peewee.PeeweeException, sqlite3.Error) as error:
        fail([f"{path}: not an audit database: {error}"], 1)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("TIME", "AGENT", "DECISION", "ACTION", "POLICY", "RULE"):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        enforced, decision = entry["enforced"], entry["decision"]
        said = decision if decision == enforced else f"{decision}, not enforced"
        columns = (entry["timestamp"], entry.get("agentId", "-"), said, entry["action"])
        shown = (*columns, entry.get("policy", "-"), entry.get("rule", entry["code"]))
        table.add_row(*(Text(visible(cell)) for cell in shown))
    # Into a pipe or file nothing is cut off.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
