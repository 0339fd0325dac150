"""`authz policy diff`: what changes between two sets of policies."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.options import AsJson
from authz.cli.policy import shared
from authz.cli.shared import print_table

if TYPE_CHECKING:
    from authz.core.policy_diff import AnswerChange, PolicyChange, Replay


def diff(
    old: Annotated[Path, typer.Argument(help="File or directory.")],
    new: Annotated[Path, typer.Argument(help="File or directory.")],
    replay: Annotated[
        Path | None,
        typer.Option("--replay", help="Audit database: whose answers would change?"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare policies, and with --replay their answers to every request on record.

    Exit code 0 when nothing differs: the answers with --replay, else the policies. 1 when
    something does, 2 when a file cannot be used.
    """
    from authz.core import policy_diff

    before, after = shared.load_valid([old]).snapshot, shared.load_valid([new]).snapshot
    changes = list(policy_diff.changes(before, after))
    found: Replay | None = None
    if replay is not None:
        from authz.cli.policy.records import asked_of, recorded

        calls = ((asked_of(row), row.times) for row in recorded(replay))
        found = policy_diff.replay(before, after, calls)
    if as_json:
        typer.echo(json.dumps(_object(changes, found), indent=2))
    else:
        _print(changes, found)
    raise typer.Exit(1 if (found.kinds if found is not None else changes) else 0)


def _print(changes: "list[PolicyChange]", found: "Replay | None") -> None:
    for change in changes:
        typer.echo(f"{change.kind}: {change.name}")
        for line in change.lines:
            typer.echo(f"    {line}")
    if not changes:
        typer.echo("the policies are the same")
    if found is None:
        return
    total = sum(found.kinds.values())
    typer.echo(
        f"\n{found.requests} recorded requests ({found.calls} different calls):"
        f" {total} would get another answer"
    )
    for kind, count in sorted(found.kinds.items()):
        typer.echo(f"    {kind}: {count}")
    if found.changed:
        from authz.core.explain import outcome_of

        # Calls that differ in what is not shown are one line.
        rows: dict[tuple[str, ...], int] = {}
        for answer in found.changed:
            row = (
                answer.asked.identity.agent_id,
                answer.asked.call.action,
                f"{outcome_of(answer.old)} → {outcome_of(answer.new)}",
                _decider(answer, old=True),
                _decider(answer, old=False),
            )
            rows[row] = rows.get(row, 0) + answer.times
        typer.echo("")
        print_table(
            ("COUNT", "AGENT", "ACTION", "CHANGE", "OLD", "NEW"),
            [(str(times), *row) for row, times in sorted(rows.items(), key=lambda item: -item[1])],
        )


def _decider(change: "AnswerChange", *, old: bool) -> str:
    verdict = change.old if old else change.new
    return f"{verdict.policy or '-'}: {verdict.rule or verdict.code}"


def _object(changes: "list[PolicyChange]", found: "Replay | None") -> dict[str, Any]:
    body: dict[str, Any] = {
        "policies": [
            {
                "name": change.name,
                "change": change.kind,
                **({"lines": list(change.lines)} if change.lines else {}),
            }
            for change in changes
        ]
    }
    if found is not None:
        from authz.core.explain import outcome_of

        body["replay"] = {
            "requests": found.requests,
            "calls": found.calls,
            "changes": found.kinds,
            "changed": [
                {
                    "count": change.times,
                    "agentId": change.asked.identity.agent_id,
                    "action": change.asked.call.action,
                    "resource": change.asked.call.resource,
                    "old": outcome_of(change.old),
                    "new": outcome_of(change.new),
                    "oldDecider": _decider(change, old=True),
                    "newDecider": _decider(change, old=False),
                }
                for change in found.changed
            ],
        }
    return body
