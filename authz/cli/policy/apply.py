"""`authz policy apply` and `delete`: put documents in place, and remove them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.options import AsJson
from authz.cli.policy import shared
from authz.cli.policy.shared import Kind, Name
from authz.cli.shared import note
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.cli.policy.documents import Document, Result


def apply(
    paths: Annotated[list[Path], typer.Argument(help="Files and directories of policies.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would become of each.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put policies in place: each in place of the one of its name, or as a new one.

    Nothing is applied where anything has an error. What is not among them stays.

    Exit code 2: a file cannot be used; 1: it could not be done.
    """
    from authz.cli.policy.documents import opened

    documents = _documents(paths)
    results: list[Result] = []
    with opened() as there:
        for result in there.put(documents, dry_run=dry_run):
            results.append(result)
            if not as_json:
                typer.echo(visible(_said(result, dry_run=dry_run)))
    if as_json:
        body = {"dryRun": dry_run, "documents": [_object(result) for result in results]}
        typer.echo(json.dumps(body, indent=2))


def delete(
    name: Name,
    kind: Kind = "Policy",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a policy, or a document of another kind, from its file."""
    from authz.cli.policy.documents import opened

    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete the {kind} {visible(name)}?", abort=True, err=True)
    with opened() as there:
        result = there.delete(kind, name)
    if as_json:
        typer.echo(json.dumps(_object(result), indent=2))
    else:
        typer.echo(visible(_said(result, dry_run=False)))


def _documents(paths: list[Path]) -> "list[Document]":
    """Every document of some files; exits where any of them has an error."""
    from authz.cli.policy.documents import Document
    from authz.core.policy_file import Placed, PlacedChain
    from authz.core.policy_text import key_of, text_of
    from authz.stores.parsing import parse_here

    loaded = shared.load_valid(paths)
    for problem in loaded.problems:
        note(str(problem))
    found = []
    for path in loaded.paths:
        data = path.read_bytes()
        [parsed] = parse_here([(data, str(path))])
        every: list[Placed | PlacedChain] = [*parsed.policies, *parsed.chain]
        for placed in every:
            key = key_of(placed)
            body = placed.policy if isinstance(placed, Placed) else placed.document
            text = text_of(data, parsed, key)
            above = data.count(b"\n", 0, data.index(text))
            found.append(Document(*key, text, body.digest, f"{path}:{above + 1}"))
    return found


def _said(result: "Result", *, dry_run: bool) -> str:
    outcome = f"would be {result.outcome}" if dry_run else result.outcome
    kind = "" if result.kind == "Policy" else f"{result.kind} "
    where = f" ({result.file})" if result.file else ""
    return f"{kind}{result.name}: {outcome}{where}" + (f"; {result.note}" if result.note else "")


def _object(result: "Result") -> dict[str, Any]:
    return {name: value for name, value in result._asdict().items() if value}
