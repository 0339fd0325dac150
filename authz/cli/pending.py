"""`authz pending`: actions that wait for a person, or for time."""

import json
from typing import Annotated, Final

import typer

from authz.cli.completion import agents_like, like
from authz.cli.options import AsJson, RemoteCommand
from authz.cli.run import DevSecrets
from authz.cli.shared import BAD_ARGUMENTS, Database, fail, print_entry, print_table
from authz.core.text import visible

app = typer.Typer(help="Actions that wait for a person's approval.", no_args_is_help=True)

#: What an action can be, as it is shown; the first two are `pending_…` elsewhere.
WAITING: Final = ("approval", "cooling")
STATES: Final = (*WAITING, "approved", "rejected", "executed", "expired")
#: Those after which no time counts any more.
OVER: Final = ("rejected", "executed")

PendingId = Annotated[str, typer.Argument(metavar="ID", help="As the list prints it: pdact_….")]
Approver = Annotated[str, typer.Option("--by", help="Who answers; your login name when left out.")]


@app.callback()
def group() -> None:
    """Actions that wait for a person's approval, or to cool off."""


@app.command("list", cls=RemoteCommand)
def list_pending(
    state: Annotated[
        str,
        typer.Option(
            help=f"Only these: {', '.join(STATES[:-1])} or {STATES[-1]}.",
            autocompletion=like(STATES),
        ),
    ] = "",
    agent: Annotated[str, typer.Option(help="Only this agent's.", autocompletion=agents_like)] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List what waits, and what was answered in the last hour; oldest first.

    State `approval` waits for `authz pending approve`, `cooling` for time to
    pass. LEFT is how long there is to answer, and to try again once it is
    approved; `-` where neither is possible any more.
    """
    from authz.cli.books import opened
    from authz.cli.words import cell, left

    wanted = state.removeprefix("pending_")
    if wanted and wanted not in STATES:
        fail([f"--state: unknown state; write one of {', '.join(STATES)}"], BAD_ARGUMENTS)
    if wanted in WAITING:
        wanted = f"pending_{wanted}"
    with opened(database) as there:
        found, now = there.pending(state=wanted, agent=agent)
    found.sort(key=lambda one: (cell(one, "createdAt"), cell(one, "pendingId")))
    if as_json:
        typer.echo(json.dumps({"pending": found}, indent=2))
        return
    print_table(
        ("ID", "STATE", "LEFT", "AGENT", "ACTION"),
        [
            (
                cell(one, "pendingId"),
                cell(one, "state").removeprefix("pending_"),
                "-" if one.get("state") in OVER else left(one, "expiresAt", now),
                cell(one, "agentId"),
                cell(one, "action"),
            )
            for one in found
        ],
        wrap=("AGENT", "ACTION"),
    )


@app.command(cls=RemoteCommand)
def show(pending_id: PendingId, database: Database = None, as_json: AsJson = False) -> None:
    """Show what is asked for, by whom, and which policy wants an approval."""
    from authz.cli.books import opened

    with opened(database) as there:
        shown = there.pending_action(pending_id)
    print_entry(shown, as_json=as_json)


@app.command(cls=RemoteCommand)
def approve(
    pending_id: PendingId,
    approver: Approver = "",
    database: Database = None,
    as_json: AsJson = False,
    insecure_dev_secrets: DevSecrets = False,
) -> None:
    """Approve an action: the agent may try it once more, the same one, and it passes.

    Prints the headers that the agent has to send with it. The id alone is
    enough where no rule asks for an action token. The token, which is there
    only where JWT_SECRET is set, stands for the id too.
    """
    from authz.cli.books import opened
    from authz.cli.words import cell, login

    with opened(database, dev_secrets=insecure_dev_secrets) as there:
        shown = there.approve(pending_id, approver=approver or login())
    lines = [f"X-MeshGuard-Pending-ID: {cell(shown, 'pendingId')}"]
    if "actionToken" in shown:
        lines.append(f"X-MeshGuard-Action-Token: {shown['actionToken']}")
    typer.echo(json.dumps(shown, indent=2) if as_json else "\n".join(map(visible, lines)))


@app.command(cls=RemoteCommand)
def reject(
    pending_id: PendingId,
    reason: Annotated[str, typer.Option(help="Why; the agent is told.")],
    approver: Approver = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Reject an action: while it is listed, the agent is denied the same one without a question."""
    from authz.cli.books import opened
    from authz.cli.words import login

    with opened(database) as there:
        shown = there.reject(pending_id, approver=approver or login(), reason=reason)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(visible(f"{pending_id} is rejected"))
