"""`authz policy validate` and `schema`: the server's own loader, for authors and CI."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authz.cli.policy.shared import load

if TYPE_CHECKING:
    from authz.core.policy_file import Problem


class Format(StrEnum):
    """How problems are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def validate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and directories; POLICIES_DIR when left out."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    layout: Annotated[
        Format, typer.Option("--format", help="github: annotations of a pull request.")
    ] = Format.TEXT,
) -> None:
    """Read policies as the service would, and print every error and warning with its place.

    Exit code 0 when they are valid, 1 when they are not, 2 when there is nothing to read.
    """
    from dataclasses import asdict

    loaded = load(paths)
    errors, problems = loaded.errors, loaded.problems
    warnings = len(problems) - len(errors)
    valid = not errors and loaded.snapshot.size > 0 and not (strict and warnings)
    if as_json or layout is Format.JSON:
        body = {
            "valid": valid,
            "policies": loaded.snapshot.size,
            "files": loaded.files,
            "version": loaded.snapshot.version,
            "errors": len(errors),
            "warnings": warnings,
            "problems": [asdict(problem) for problem in problems],
        }
        typer.echo(json.dumps(body, indent=2))
    else:
        for problem in problems:
            typer.echo(_annotation(problem) if layout is Format.GITHUB else str(problem))
        typer.echo(
            f"{loaded.snapshot.size} policies in {loaded.files} files,"
            f" {len(errors)} errors, {warnings} warnings"
        )
        if not errors and not loaded.snapshot.size:
            typer.echo("no policy applies to anybody: every decision would be a denial")
    raise typer.Exit(0 if valid else 1)


def schema() -> None:
    """Print the JSON Schema of policy files, so that editors check and complete them."""
    from authz.core.policy_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _annotation(problem: "Problem") -> str:
    """A problem as a workflow command of GitHub Actions."""
    place = f"file={_property(problem.file)},line={problem.line},col={problem.column}"
    title = _property(problem.lint or "policy")
    message = problem.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{problem.severity} {place},title={title}::{message}"


def _property(text: str) -> str:
    escapes = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"))
    for character, escape in escapes:
        text = text.replace(character, escape)
    return text
