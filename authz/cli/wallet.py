"""`authz wallet`: what agents have spent of their risk points."""

import json
from typing import Annotated

import typer

from authz.cli.completion import agents_like
from authz.cli.options import AsJson, RemoteCommand
from authz.cli.shared import Database, print_table
from authz.core.text import visible

app = typer.Typer(help="Risk points that agents have spent.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Risk points that agents have spent, by `RiskWallet` document."""


@app.command("list", cls=RemoteCommand)
def list_wallets(
    agent: Annotated[str, typer.Option(help="Only this agent's.", autocompletion=agents_like)] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List what each agent has spent of which wallet.

    CAPACITY is what the sidecar's documents say, here those in POLICIES_DIR; `-`
    where none there has this name.
    """
    from authz.cli.books import opened
    from authz.cli.words import cell

    with opened(database) as there:
        found, _ = there.wallets(agent=agent)
    found.sort(key=lambda one: (cell(one, "agentId"), cell(one, "wallet")))
    if as_json:
        typer.echo(json.dumps({"wallets": found}, indent=2))
        return
    fields = ("wallet", "agentId", "spent", "remaining", "capacity")
    print_table(
        ("WALLET", "AGENT", "SPENT", "LEFT", "CAPACITY"),
        [[cell(one, name) for name in fields] for one in found],
        wrap=("WALLET", "AGENT"),
    )


@app.command(cls=RemoteCommand)
def reset(
    wallet: Annotated[str, typer.Argument(metavar="WALLET", help="Name of the document.")],
    agent: Annotated[
        str,
        typer.Argument(metavar="AGENT", help="The agent's id.", autocompletion=agents_like),
    ],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Give an agent back all that it has spent of a wallet."""
    from authz.cli.books import opened

    with opened(database) as there:
        after = there.reset_wallet(wallet, agent)
    if as_json:
        typer.echo(json.dumps(after))
    else:
        back = after.get("givenBack", 0)
        points = "1 point" if back == 1 else f"{back} points"
        typer.echo(visible(f"{points} given back to {agent} in wallet {wallet}"))
