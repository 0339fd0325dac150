"""`authz wallet`: what agents have spent of their risk points."""

import json
from typing import Annotated

import typer

from authz.cli.shared import AsJson, Database, print_table

app = typer.Typer(help="Risk points that agents have spent.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Risk points that agents have spent, by `RiskWallet` document."""


@app.command("list")
def list_wallets(
    agent: Annotated[str, typer.Option(help="Only this agent's.")] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List what each agent has spent of which wallet.

    CAPACITY is what the documents in POLICIES_DIR say; `-` where none there has
    this name.
    """
    from authz.cli import records

    with records.reading(database, snapshot=records.policies_now()) as there:
        found = [one for one in there.operations.wallets() if agent in ("", one.agent_id)]
    found.sort()
    if as_json:
        shown = [one.entry() for one in found]
        typer.echo(json.dumps({"wallets": shown}, indent=2))
        return
    print_table(
        ("WALLET", "AGENT", "SPENT", "LEFT", "CAPACITY"),
        [
            (
                one.wallet,
                one.agent_id,
                str(one.spent),
                "-" if one.remaining is None else str(one.remaining),
                "-" if one.capacity is None else str(one.capacity),
            )
            for one in found
        ],
        wrap=("WALLET", "AGENT"),
    )


@app.command()
def reset(
    wallet: Annotated[str, typer.Argument(metavar="WALLET", help="Name of the document.")],
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Give an agent back all that it has spent of a wallet."""
    from authz.cli import records
    from authz.core.text import visible

    with records.changing(database, snapshot=records.policies_now()) as there:
        before = there.operations.reset_wallet(wallet, agent, by=records.by())
    if as_json:
        typer.echo(
            json.dumps({"wallet": wallet, "agentId": agent, "spent": 0, "givenBack": before.spent})
        )
    else:
        points = "1 point" if before.spent == 1 else f"{before.spent} points"
        typer.echo(visible(f"{points} given back to {agent} in wallet {wallet}"))
