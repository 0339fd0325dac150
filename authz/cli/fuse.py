"""`authz fuse`: delegations that failed too often, and are shut for a while."""

import json
from typing import Annotated

import typer

from authz.cli.shared import AsJson, Database, print_table

app = typer.Typer(help="Fuses of delegations that failed too often.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Fuses of delegations: one that fails too often is shut for five minutes."""


@app.command("list")
def list_fuses(database: Database = None, as_json: AsJson = False) -> None:
    """List delegations that have failed of late, those that are shut first.

    LEFT is how long one stays shut. Once those of three agents below the same
    root are, all that begins with that root is.
    """
    from authz.cli import records
    from authz.core import latches

    with records.reading(database) as there:
        now = there.steady
        entries = [
            (latch, latches.entry(edge, latch, now))
            for edge, latch in there.state.fuses.entries.items()
        ]
    entries.sort(key=lambda found: (found[1]["state"] != "open", -found[0].fuse.open_until))
    if as_json:
        typer.echo(json.dumps({"fuses": [entry for _, entry in entries]}, indent=2))
        return
    print_table(
        ("DELEGATION", "STATE", "LEFT", "FAILED", "AGENT", "ROOT"),
        [
            (
                str(entry["relationshipId"]),
                str(entry["state"]),
                records.until(latch.fuse.open_until, now) or "-",
                str(entry["recentFailures"]),
                latch.agent_id,
                latch.root,
            )
            for latch, entry in entries
        ],
        wrap=("AGENT", "ROOT"),
    )


@app.command()
def reset(
    relationship_id: Annotated[
        str, typer.Argument(metavar="ID", help="The delegation, as the list prints it: rel_….")
    ],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Close a fuse now, and forget what has failed: the delegation can be used again."""
    from authz.cli import records

    with records.changing(database) as there:
        there.operations.reset_fuse(relationship_id, by=records.by())
    if as_json:
        typer.echo(json.dumps({"relationshipId": relationship_id, "state": "closed"}))
    else:
        typer.echo(f"the fuse of {relationship_id} is closed")
