"""`authz policy explain`: why a call gets its answer."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from authz.cli.options import AsJson
from authz.cli.policy import shared
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.core.explain import Explanation

#: The stage whose answers the rules below it explain.
_POLICY: Final = "policy"


def explain(
    agent: Annotated[str, typer.Option("--agent", help="The agent's id.")],
    action: Annotated[str, typer.Option("--action", help="What it wants to do.")],
    tier: shared.Tier = "",
    tag: shared.Tags = None,
    org: shared.Org = "",
    resource: shared.Resource = "",
    method: shared.Method = "",
    path: shared.UpstreamPath = "",
    context: shared.Context = "",
    policy: shared.PolicyPaths = None,
    as_json: AsJson = False,
) -> None:
    """Show every policy that applies to a call, and each of its rules: matched, or why not.

    Where another stage of the chain than the policies decides, its name is there
    too. Nothing counts as spent, approved or delegated before.

    Exit code 0 whatever the answer is; `authz policy test` is for scripts.
    """
    from authz.core import explain as explaining

    loaded = shared.load_valid(policy)
    standing, is_guess = shared.registered(agent, shared.Standing(tier, tag, org), policy)
    call = shared.asked(
        agent,
        action,
        standing,
        resource=resource,
        method=method,
        path=path,
        context=context,
    )
    if is_guess:
        shared.note_unknown(agent)
    explanation = explaining.explain(loaded.snapshot, call.identity, call.call)
    sources = {
        name: f"{file.file}:{placed.line}"
        for name, (file, placed) in loaded.policies.sources.items()
    }
    if as_json:
        typer.echo(json.dumps(as_object(explanation, sources), indent=2))
        return
    print_decision(explanation)
    if explanation.verdict.stage not in ("", _POLICY):
        typer.echo(f"Stage: {explanation.verdict.stage}")
    print_trace(explanation, sources)


def print_decision(explanation: "Explanation") -> None:
    """The answer, a fact a line (CONTRACT §14)."""
    verdict = explanation.verdict
    said = explanation.outcome.upper().replace("_", " ")
    if explanation.outcome == "would_deny":
        said = "ALLOW (dry run: would be DENY)"
    typer.echo(f"Decision: {said}")
    typer.echo(f"Policy: {verdict.policy or '-'}")
    typer.echo(f"Rule: {verdict.rule or '-'}")
    typer.echo(f"Reason: {visible(verdict.reason or verdict.code)}")


def print_trace(explanation: "Explanation", sources: dict[str, str]) -> None:
    """Every policy that applies with every rule, then those that do not apply."""
    for trace in explanation.applicable:
        typer.echo(f"\n{trace.policy.name} ({sources[trace.policy.name]}): {visible(trace.says)}")
        for rule in trace.rules:
            typer.echo(f"  {visible(str(rule))}")
        typer.echo(f"  defaultEffect: {trace.policy.default_effect}")
    if explanation.others:
        typer.echo("\nDo not apply to this agent:")
        for name, why in explanation.others:
            typer.echo(f"  {name} ({sources[name]}): {why}")


def as_object(explanation: "Explanation", sources: dict[str, str]) -> dict[str, Any]:
    """An explanation for `--json`."""
    from authz.core.explain import as_object as shown

    return shown(explanation, sources)
