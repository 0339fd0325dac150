"""`authz policy suggest`: the least-privilege policy for what an agent did."""

from pathlib import Path
from typing import Annotated

import typer

from authz.cli.shared import fail


def suggest(
    database: Annotated[Path, typer.Option("--from", help="Audit database.")],
    agent: Annotated[str, typer.Option("--agent", help="Only for this agent.")] = "",
    collapse: Annotated[
        int,
        typer.Option(
            help="Write `.../*` where this many actions differ only after their last slash.", min=0
        ),
    ] = 0,
) -> None:
    """Print policies that would have allowed every request on record that went through.

    One policy an agent, each action with how often it was used. Read it before you use it: it
    says what agents did, not what they should do.
    """
    from authz.cli.policy.records import asked_of, recorded
    from authz.core.explain import answer, outcome_of
    from authz.core.policy_file import parse_file
    from authz.core.snapshot import Snapshot
    from authz.core.suggest import Seen, is_sayable, suggest

    rows = [
        row
        for row in recorded(database)
        if row.enforced == "allow" and (not agent or row.agent_id == agent)
    ]
    if not rows:
        who = f" of agent {agent}" if agent else ""
        fail([f"{database}: no request{who} went through"], 1)
    asked = [(asked_of(row), row) for row in rows]
    found = suggest(
        (
            Seen(call.identity, action, row.times, row.decision != "allow")
            for call, row in asked
            for action in filter(None, (call.call.action, call.call.reaches))
        ),
        collapse=collapse,
    )
    if not any(is_sayable(call.identity.agent_id, call.call.action) for call, _ in asked):
        typer.echo(found.text)
        fail([f"{database}: nothing that went through can be suggested"], 1)
    parsed = parse_file(found.text.encode(), "suggestion")
    if parsed.is_bad:
        fail([f"{parsed.problems[0]}; with --agent or --collapse it gets shorter"], 1)
    snapshot = Snapshot([placed.policy for placed in parsed.policies])
    for call, _ in asked:
        if not is_sayable(call.identity.agent_id, call.call.action):
            continue
        verdict = answer(snapshot, call.identity, call.call)
        assert outcome_of(verdict) == "allow", call
    typer.echo(found.text, nl=False)
