"""`authz pending`: actions that wait for a person, or for time."""

import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from authz.cli.run import DevSecrets
from authz.cli.shared import BAD_ARGUMENTS, AsJson, Database, fail, print_entry, print_table

if TYPE_CHECKING:
    from authz.core.pending import Pending

app = typer.Typer(help="Actions that wait for a person's approval.", no_args_is_help=True)

#: What an action can be, as it is shown; the first two are `pending_…` elsewhere.
STATES: Final = ("approval", "cooling", "approved", "rejected", "executed", "expired")

PendingId = Annotated[str, typer.Argument(metavar="ID", help="As the list prints it: pdact_….")]
Approver = Annotated[str, typer.Option("--by", help="Who answers; your login name when left out.")]


@app.callback()
def group() -> None:
    """Actions that wait for a person's approval, or to cool off."""


@app.command("list")
def list_pending(
    state: Annotated[
        str, typer.Option(help=f"Only these: {', '.join(STATES[:-1])} or {STATES[-1]}.")
    ] = "",
    agent: Annotated[str, typer.Option(help="Only this agent's.")] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List what waits, and what was answered in the last hour; oldest first.

    State `approval` waits for `authz pending approve`, `cooling` for time to
    pass. LEFT is how long there is to answer, and to try again once it is
    approved; `-` where neither is possible any more.
    """
    from authz.cli import records
    from authz.core import pending

    wanted = state.removeprefix("pending_")
    if wanted and wanted not in STATES:
        fail([f"--state: unknown state; write one of {', '.join(STATES)}"], BAD_ARGUMENTS)
    with records.reading(database) as there:
        now = there.steady
        every = sorted(there.state.pending.values(), key=lambda one: one.created_at)
        found = [
            one for one in every if wanted in ("", _shown(one, now)) and agent in ("", one.agent_id)
        ]
    if as_json:
        typer.echo(json.dumps({"pending": [pending.entry(one, now) for one in found]}, indent=2))
        return
    print_table(
        ("ID", "STATE", "LEFT", "AGENT", "ACTION"),
        [
            (
                one.id,
                _shown(one, now),
                _left(one, now),
                one.agent_id,
                one.action,
            )
            for one in found
        ],
        wrap=("AGENT", "ACTION"),
    )


@app.command()
def show(pending_id: PendingId, database: Database = None, as_json: AsJson = False) -> None:
    """Show what is asked for, by whom, and which policy wants an approval."""
    from authz.cli import records
    from authz.core import pending

    with records.reading(database) as there:
        shown = pending.entry(there.operations.pending(pending_id), there.steady)
    print_entry(shown, as_json=as_json)


@app.command()
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
    from authz.cli import records
    from authz.core import pending
    from authz.core.timestamps import rfc3339

    with records.changing(database, dev_secrets=insecure_dev_secrets) as there:
        approved = there.operations.answer(
            pending_id, approve=True, approver=approver or records.login(), by=records.by()
        )
        shown = pending.entry(approved, there.steady)
        lines = [f"X-MeshGuard-Pending-ID: {approved.id}"]
        if there.can_sign:
            token = there.operations.action_token(approved)
            shown["actionToken"] = token.token
            shown["actionTokenExpiresAt"] = rfc3339(token.expires_at)
            lines.append(f"X-MeshGuard-Action-Token: {token.token}")
    typer.echo(json.dumps(shown, indent=2) if as_json else "\n".join(lines))


@app.command()
def reject(
    pending_id: PendingId,
    reason: Annotated[str, typer.Option(help="Why; the agent is told.")],
    approver: Approver = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Reject an action: while it is listed, the agent is denied the same one without a question."""
    from authz.cli import records
    from authz.core import pending

    with records.changing(database) as there:
        rejected = there.operations.answer(
            pending_id,
            approve=False,
            approver=approver or records.login(),
            by=records.by(),
            words=reason,
        )
        shown = pending.entry(rejected, there.steady)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(f"{rejected.id} is rejected")


def _left(one: "Pending", now: float) -> str:
    from authz.cli import records

    is_over = one.state_at(now) in ("rejected", "executed")
    return "-" if is_over else records.until(one.expires_at, now) or "-"


def _shown(one: "Pending", now: float) -> str:
    return one.state_at(now).removeprefix("pending_")
