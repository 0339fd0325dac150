"""`authz policy validate` and `schema`: the server's own loader, for authors and CI."""

import json
from pathlib import Path
from typing import Annotated

import typer

from authz.cli.policy.shared import Format, annotation, load


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
    size, others = loaded.snapshot.size, len(loaded.snapshot.chain)
    valid = not errors and size + others > 0 and not (strict and warnings)
    if as_json or layout is Format.JSON:
        body = {
            "valid": valid,
            "policies": size,
            "otherDocuments": others,
            "files": loaded.files,
            "version": loaded.snapshot.version,
            "errors": len(errors),
            "warnings": warnings,
            "problems": [asdict(problem) for problem in problems],
        }
        typer.echo(json.dumps(body, indent=2))
    else:
        for problem in problems:
            typer.echo(annotation(problem) if layout is Format.GITHUB else str(problem))
        typer.echo(
            f"{size} policies{f', {others} other documents' if others else ''} in"
            f" {loaded.files} files,"
            f" {len(errors)} errors, {warnings} warnings"
        )
        if not errors and not size and not others:
            typer.echo("no policy applies to anybody: every decision would be a denial")
    raise typer.Exit(0 if valid else 1)


def schema() -> None:
    """Print the JSON Schema of policy files, so that editors check and complete them."""
    from authz.core.policy_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
