"""`authz audit verify` and `head`: whether the record is whole, offline."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.audit.shared import database_path, progress_bar
from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, FAILED, Database, fail

if TYPE_CHECKING:
    from authz.core.audit_verify import Fits, Report


def head(
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Print the newest signed head, to be kept elsewhere for `verify --head`."""
    import json

    from authz.stores.audit_check import NotATrail, head_entry, newest_head

    path = database_path(database)
    try:
        found = newest_head(path)
    except FileNotFoundError:
        fail([f"{path}: there is no audit database yet"], FAILED)
    except NotATrail as error:
        fail([f"{path}: {error}"], FAILED)
    if found is None:
        fail([f"{path}: no head is signed yet; a sidecar with a key signs one each second"], FAILED)
    entry = head_entry(found)
    if as_json:
        typer.echo(json.dumps(entry))
        return
    for name, value in entry.items():
        typer.echo(f"{name:10}{json.dumps(value)}")


def verify(
    database: Database = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="Public key (PEM) that the trail is signed with; may be repeated."),
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="A head of this trail that `authz audit head` printed.")
    ] = None,
    max_age: Annotated[
        str, typer.Option(help="Fail if the newest signature is older: 30s, 15m, 24h.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show whether the trail was changed: rows edited, removed, moved, or cut off at the end.

    Exits with 0 when it verifies, 1 when it does not, 2 when it cannot be tried.
    """
    import json
    import time

    from authz.stores import audit_check

    path = database_path(database)
    seconds = _seconds(max_age)
    try:
        kept = audit_check.read_head(head) if head else None
    except audit_check.HeadUnusable as error:
        fail([f"--head: {error}"], BAD_ARGUMENTS)
    try:
        keys, caution = _keys(path, public_key or [])
        with progress_bar("verifying") as moved:
            report = audit_check.verify(
                path,
                keys,
                now=time.time(),
                kept=kept,
                max_age_s=seconds,
                progress=lambda seen: moved(seen.done, seen.total),
            )
    except FileNotFoundError:
        fail([f"{path}: there is no audit database"], FAILED)
    except audit_check.NotATrail as error:
        fail([f"{path}: {error}"], FAILED)
    if caution:
        report.notes.append(caution)
    if as_json:
        typer.echo(json.dumps(_report_entry(report, path)))
    else:
        _print_report(report, path)
    if not report.verified:
        raise typer.Exit(FAILED)


def _seconds(duration: str) -> int | None:
    from authz.core.durations import parse_duration

    try:
        return parse_duration(duration) if duration else None
    except ValueError as error:
        fail([f"--max-age: {error}"], BAD_ARGUMENTS)


def _keys(path: Path, files: list[Path]) -> tuple[Mapping[str, "Fits"], str]:
    """What verifies signatures by key id, and what to say about where it was found."""
    from authz.stores.audit_check import signers
    from authz.stores.audit_key import KeyUnusable, default_key_file, public_file, public_key

    caution = ""
    beside = public_file(default_key_file(path))
    if not files:
        if not os.path.exists(beside):  # noqa: PTH110 - `Path.exists` raises for a closed directory
            if signers(path):
                fail(
                    [f"{beside}: there is no public key beside the database; give --public-key"],
                    BAD_ARGUMENTS,
                )
            return {}, ""
        files = [beside]
        caution = (
            f"the public key is {beside}: who could change the database could have replaced it;"
            " --public-key takes one that was kept elsewhere"
        )
    try:
        return {key.key_id: key.fits for key in map(public_key, files)}, caution
    except KeyUnusable as error:
        fail([f"--public-key: {error}"], BAD_ARGUMENTS)


def _print_report(report: "Report", path: Path) -> None:
    from authz.core.text import visible

    numbers = f", numbers {report.first} to {report.last}" if report.rows else ""
    typer.echo(visible(f"{path}: {report.rows} rows looked at{numbers}"))
    if report.head is not None and report.age_s is not None:
        how = "at a clean stop" if report.clean_stop else "while the sidecar ran"
        signed = f"row {report.head.seq}, {report.age_s:.0f} s ago ({report.head.at}), {how}"
        typer.echo(visible(f"newest signature: {signed}"))
    for problem in report.problems:
        typer.echo(visible(f"problem: {problem.message}"))
    more = report.problem_count - len(report.problems)
    if more:
        typer.echo(f"and {more} more problems")
    for note in report.notes:
        typer.echo(visible(f"note: {note}"))
    count = report.problem_count
    typer.echo(
        "the trail verifies"
        if report.verified
        else f"the trail does not verify: {count} problem{'s' if count > 1 else ''}"
    )


def _report_entry(report: "Report", path: Path) -> dict[str, Any]:
    from authz.stores.audit_check import head_entry

    return {
        "database": str(path),
        "verified": report.verified,
        "rows": report.rows,
        **({"firstRow": report.first, "lastRow": report.last} if report.rows else {}),
        "problemCount": report.problem_count,
        "problems": [
            {
                "kind": problem.kind,
                "message": problem.message,
                **({"firstRow": problem.first} if problem.first is not None else {}),
                **({"lastRow": problem.last} if problem.last is not None else {}),
            }
            for problem in report.problems
        ],
        "notes": report.notes,
        **({"head": head_entry(report.head)} if report.head else {}),
        **({"headAgeSeconds": round(report.age_s, 3)} if report.age_s is not None else {}),
        "cleanStop": report.clean_stop,
    }
