"""`authz fuse`: delegations that failed too often, and are shut for a while."""

import json
from typing import Annotated

import typer

from authz.cli.options import AsJson, RemoteCommand
from authz.cli.shared import Database, print_table
from authz.core.text import visible

app = typer.Typer(help="Fuses of delegations that failed too often.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Fuses of delegations: one that fails too often is shut for five minutes."""


@app.command("list", cls=RemoteCommand)
def list_fuses(database: Database = None, as_json: AsJson = False) -> None:
    """List delegations that have failed of late, those that are shut first.

    LEFT is how long one stays shut. Once those of three agents below the same
    root are, all that begins with that root is.
    """
    from authz.cli.books import opened
    from authz.cli.words import cell, left

    with opened(database) as there:
        found, now = there.fuses()
    found.sort(
        key=lambda fuse: (
            fuse.get("state") == "open", fuse.get("openUntil", ""), cell(fuse, "relationshipId"),
        ),
        reverse=True,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"fuses": found}, indent=2))
        return
    print_table(
        ("DELEGATION", "STATE", "LEFT", "FAILED", "AGENT", "ROOT"),
        [
            (
                cell(fuse, "relationshipId"),
                cell(fuse, "state"),
                left(fuse, "openUntil", now),
                cell(fuse, "recentFailures"),
                cell(fuse, "agentId"),
                cell(fuse, "rootAgentId"),
            )
            for fuse in found
        ],
        wrap=("AGENT", "ROOT"),
    )


@app.command(cls=RemoteCommand)
def reset(
    relationship_id: Annotated[
        str, typer.Argument(metavar="ID", help="The delegation, as the list prints it: rel_….")
    ],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Close a fuse now, and forget what has failed: the delegation can be used again."""
    from authz.cli.books import opened

    with opened(database) as there:
        after = there.reset_fuse(relationship_id)
    if as_json:
        typer.echo(json.dumps(after))
    else:
        typer.echo(visible(f"the fuse of {relationship_id} is closed"))
