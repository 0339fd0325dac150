"""`authz policy test --gateway`: what a sidecar elsewhere would answer to a call."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import typer

from authz.cli.policy.shared import BAD_INPUT, note_unknown
from authz.cli.shared import fail, note
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.cli.destination import Destination


class Asked(NamedTuple):
    """A call as options describe it; empty where they do not."""

    agent: str
    action: str
    tier: str
    tags: list[str] | None
    org: str
    resource: str
    method: str
    path: str
    context: str


def ask(
    there: "Destination",
    asked: Asked,
    policies: list[Path] | None,
    *,
    positional: bool,
    verbose: bool,
    as_json: bool,
) -> NoReturn:
    """Ask, print the answer as the local command does, and end with its exit code."""
    from authz.cli.remote import Remote

    body = _body(asked, policies, verbose=verbose or as_json)
    with Remote(there) as sidecar:
        answer = sidecar.ask("POST", "/admin/policies/test", body=body)
        decision = answer.get("decision")
        if not isinstance(decision, str):
            sidecar.no_sidecar("its answer has no decision")
    if answer.get("registered") is False and not (
        policies or asked.tier or asked.tags or asked.org
    ):
        note_unknown(asked.agent)
    if isinstance(answer.get("note"), str):
        note(answer["note"])
    policy, rule = (_text(answer, key) for key in ("policy", "rule"))
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif positional:
        typer.echo(visible(f"{decision.upper()} (rule: {rule}, policy: {policy})"))
    else:
        said = decision.upper().replace("_", " ")
        if decision == "would_deny":
            said = "ALLOW (dry run: would be DENY)"
        reason = answer.get("reason") or answer.get("code") or "-"
        for line in (
            f"Decision: {said}",
            f"Policy: {policy}",
            f"Rule: {rule}",
            f"Reason: {reason}",
        ):
            typer.echo(visible(line))
    if verbose and not as_json:
        for trace in answer.get("applicable") or ():
            _print(trace)
    raise typer.Exit(0 if decision in ("allow", "would_deny") else 1)


def _body(asked: Asked, policies: list[Path] | None, *, verbose: bool) -> dict[str, Any]:
    from authz.core.facts import context_of

    context = context_of(asked.context) if asked.context else None
    if asked.context and context is None:
        fail(["--context: not a JSON object"], BAD_INPUT)
    given: dict[str, Any] = {
        "agentId": asked.agent,
        "action": asked.action,
        "trustTier": asked.tier,
        "tags": asked.tags,
        "orgId": asked.org,
        "resource": asked.resource,
        "method": asked.method,
        "path": asked.path,
        "context": context,
        "policy": _policy(policies),
        "verbose": verbose,
    }
    return {name: value for name, value in given.items() if value not in (None, "", False)}


def _policy(paths: list[Path] | None) -> str:
    """The text of the policy that is to be judged by; empty for those of the sidecar."""
    if not paths:
        return ""
    if len(paths) > 1 or not paths[0].is_file():
        fail(["--policy: with --gateway it is one file"], BAD_INPUT)
    try:
        return paths[0].read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail([f"--policy: {paths[0]} cannot be read: {error}"], BAD_INPUT)


def _print(trace: object) -> None:
    """A policy that applies, and its rules (`core/explain.as_object`)."""
    if not isinstance(trace, Mapping):
        return
    typer.echo(visible(f"\n{_text(trace, 'policy')}: {_text(trace, 'says')}".lstrip("\n")))
    for rule in trace.get("rules") or ():
        if not isinstance(rule, Mapping):
            continue
        patterns = ", ".join(map(str, rule.get("actions") or ()))
        why = f" ({rule['why']})" if rule.get("why") else ""
        outcome = {"match": "MATCH", "skip": "SKIP", "late": "NOT REACHED"}
        said = outcome.get(str(rule.get("outcome")), "-")
        head = f"  Rule {_text(rule, 'number')}: {_text(rule, 'effect')} {patterns}"
        typer.echo(visible(f"{head} → {said}{why}"))
    typer.echo(visible(f"  defaultEffect: {_text(trace, 'defaultEffect')}"))


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return "-" if value in (None, "") else str(value)
