"""`authz audit`: what was decided."""

from pathlib import Path
from typing import Annotated

import typer

from authz.cli.shared import fail, print_table

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

    import peewee

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
    print_table(
        ("TIME", "AGENT", "DECISION", "ACTION", "POLICY", "RULE"), [_cells(e) for e in entries]
    )


def _cells(entry: dict[str, str]) -> tuple[str, ...]:
    if entry["source"] == "control":
        # About the sidecar: nobody asked, nothing was decided.
        return entry["timestamp"], "-", "-", entry["action"], entry.get("resource", "-"), "-"
    enforced, decision = entry["enforced"], entry["decision"]
    said = decision if decision == enforced else f"{decision}, not enforced"
    return (
        entry["timestamp"],
        entry.get("agentId", "-"),
        said,
        entry["action"],
        entry.get("policy", "-"),
        entry.get("rule", entry["code"]),
    )
