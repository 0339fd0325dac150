"""`authz doctor`: the deployment checklist, run against a live sidecar."""

import json
import os
from typing import TYPE_CHECKING

import typer

from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, FAILED, UNREACHABLE, fail, print_table

if TYPE_CHECKING:
    from authz.cli.doctor.checklist import Result
    from authz.settings import Settings


def doctor(as_json: AsJson = False) -> None:
    """Run the deployment checklist against a live sidecar; say what to do where it fails.

    On the sidecar's machine, or in its container (`docker compose exec`,
    `kubectl exec`), with its environment. With --gateway it says what can be
    seen from outside. Exits with 0 where nothing fails, 1 where something
    does, 5 where nobody answers.
    """
    from authz.cli.destination import gateway
    from authz.cli.doctor import checklist, gathering
    from authz.cli.doctor.finding import Status

    there = gateway(needs_token=False)
    try:
        if there is not None:
            facts = gathering.from_outside(there)
        else:
            facts = gathering.from_inside(_settings(), os.environ)
    except gathering.Nobody as error:
        fail([str(error)], UNREACHABLE)
    results = checklist.run(facts)
    counts = {str(status): 0 for status in (Status.PASS, Status.WARN, Status.FAIL, Status.SKIP)}
    for result in results:
        counts[result.status] += 1
    if as_json:
        typer.echo(json.dumps(_json(facts.name, results, counts), indent=2))
    else:
        _print(results)
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        typer.echo(f"\n{facts.name}: {told}")
    if counts[Status.FAIL]:
        raise typer.Exit(FAILED)


def _settings() -> "Settings":
    """The sidecar's settings; that the secret is not here is for a check to say."""
    from authz.settings import MIN_JWT_SECRET, Settings, SettingsError

    env = dict(os.environ)
    if not env.get("JWT_SECRET", "").strip() and not env.get("JWKS_FILE", "").strip():
        env["JWT_SECRET"] = "-" * MIN_JWT_SECRET
    try:
        return Settings.from_env(env)
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)


def _json(name: str, results: "list[Result]", counts: dict[str, int]) -> dict[str, object]:
    return {
        "sidecar": name,
        "counts": counts,
        "lines": [
            {
                "line": result.line.title,
                "words": result.line.words,
                "status": str(result.status),
                "checks": [
                    {
                        "status": str(one.status),
                        "found": one.found,
                        **({"cure": one.cure} if one.cure else {}),
                    }
                    for one in result.findings
                ],
            }
            for result in results
        ],
    }


def _print(results: "list[Result]") -> None:
    rows: list[tuple[str, str, str]] = []
    for result in results:
        rows.append((str(result.status).upper(), result.line.title, ""))
        rows += [(f"  {one.status}", f"  {one.found}", one.cure) for one in result.findings]
    print_table(("", "CHECK", "WHAT TO DO"), rows, wrap={"CHECK", "WHAT TO DO"})
