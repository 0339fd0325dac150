"""`authz policy validate` and `schema`: the server's own loader, for authors and CI."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from authz.cli.options import AsJson
from authz.cli.policy.shared import BAD_INPUT, Format, annotation, load, named_gateway
from authz.cli.shared import fail

if TYPE_CHECKING:
    from authz.cli.destination import Destination
    from authz.core.policy_file import Problem


def validate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files, directories and bundles; POLICY_BUNDLE or POLICIES_DIR when left out."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    as_json: AsJson = False,
    layout: Annotated[
        Format, typer.Option("--format", help="github: annotations of a pull request.")
    ] = Format.TEXT,
) -> None:
    """Read policies as the service would, and print every error and warning with its place.

    With --gateway the sidecar there says what it would make of each document.

    Exit code 0 when they are valid, 1 when they are not, 2 when there is nothing to read.
    """
    from dataclasses import asdict

    there = named_gateway()
    checked = _here(paths) if there is None else _at(there, paths)
    problems, size, others = checked.problems, checked.policies, checked.others
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    valid = not errors and size + others > 0 and not (strict and warnings)
    if layout is Format.JSON or (as_json and layout is Format.TEXT):
        body = {
            "valid": valid,
            "policies": size,
            "otherDocuments": others,
            "files": checked.files,
            **({"version": checked.version} if checked.version else {}),
            "errors": errors,
            "warnings": warnings,
            "problems": [asdict(problem) for problem in problems],
        }
        typer.echo(json.dumps(body, indent=2))
    else:
        for problem in problems:
            typer.echo(annotation(problem) if layout is Format.GITHUB else str(problem))
        typer.echo(
            f"{size} policies{f', {others} other documents' if others else ''} in"
            f" {checked.files} files,"
            f" {errors} errors, {warnings} warnings"
        )
        if not errors and not size and not others:
            typer.echo("no policy applies to anybody: every decision would be a denial")
    raise typer.Exit(0 if valid else 1)


class _Checked(NamedTuple):
    problems: "Sequence[Problem]"
    policies: int
    others: int
    files: int
    #: Of all of them together; empty where they were not looked at together.
    version: str


def _here(paths: list[Path] | None) -> _Checked:
    loaded = load(paths)
    snapshot = loaded.snapshot
    return _Checked(
        loaded.problems, snapshot.size, len(snapshot.chain), loaded.files, snapshot.version
    )


def _at(there: "Destination", paths: list[Path] | None) -> _Checked:
    """What a sidecar elsewhere, which may be older or newer, says of each document."""
    from authz.cli.policy.documents.remote import validated
    from authz.cli.remote import Remote
    from authz.core.policy_text import pieces
    from authz.stores.parsing import parse_here

    if not paths:
        fail(["name the files that the sidecar is to look at"], BAD_INPUT)
    loaded = load(paths)
    problems: list[Problem] = []
    with Remote(there) as sidecar:
        for path in loaded.paths:
            try:
                data = path.read_bytes()
            except OSError as error:
                fail([f"{path}: cannot be read: {error.strerror}"], BAD_INPUT)
            [parsed] = parse_here([(data, str(path))])
            for above, text in pieces(data, parsed):
                problems += validated(sidecar, text, str(path), above)
    snapshot = loaded.snapshot
    return _Checked(sorted(problems), snapshot.size, len(snapshot.chain), loaded.files, "")


def schema() -> None:
    """Print the JSON Schema of policy files, so that editors check and complete them."""
    from authz.core.policy_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
