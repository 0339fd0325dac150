"""`authz audit`: what was decided, and whether the record of it is whole."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.shared import BAD_ARGUMENTS, FAILED, Database, fail, print_table

if TYPE_CHECKING:
    from authz.core.audit_verify import Fits, Report
    from authz.stores.audit_check import Progress

app = typer.Typer(help="The audit trail.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The audit trail."""


@app.command()
def tail(
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=100_000)] = 20,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the newest decisions, oldest of them first."""
    import json
    import sqlite3

    import peewee

    from authz.stores.audit_log import AuditReader

    path = _path(database)
    try:
        entries = list(AuditReader(path).tail(count))
    except FileNotFoundError:
        fail([f"{path}: there is no audit database yet"], FAILED)
    except UnicodeDecodeError:
        fail([f"{path}: a row has bytes where text belongs; `authz audit verify` finds it"], FAILED)
    except (peewee.PeeweeException, sqlite3.Error) as error:
        fail([f"{path}: not an audit database: {error}"], FAILED)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry))
        return
    print_table(
        ("TIME", "AGENT", "DECISION", "ACTION", "POLICY", "RULE"), [_cells(e) for e in entries]
    )


@app.command()
def head(
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Print the newest signed head, to be kept elsewhere for `verify --head`."""
    import json

    from authz.stores.audit_check import NotATrail, head_entry, newest_head

    path = _path(database)
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


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show whether the trail was changed: rows edited, removed, moved, or cut off at the end.

    Exits with 0 when it verifies, 1 when it does not, 2 when it cannot be tried.
    """
    import json
    import time

    from authz.stores import audit_check

    path = _path(database)
    seconds = _seconds(max_age)
    try:
        kept = audit_check.read_head(head) if head else None
    except audit_check.HeadUnusable as error:
        fail([f"--head: {error}"], BAD_ARGUMENTS)
    try:
        keys, caution = _keys(path, public_key or [])
        with _shown_progress() as progress:
            report = audit_check.verify(
                path, keys, now=time.time(), kept=kept, max_age_s=seconds, progress=progress
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


def _path(database: Path | None) -> Path:
    import os

    from authz.settings import SettingsError, settings_of

    try:
        return database or settings_of(os.environ, "AUDIT_DB_PATH", "DB_PATH").audit_db_path
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)


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
        if not beside.exists():
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


class _shown_progress:  # noqa: N801 - it is used like a function
    """A progress bar on stderr, where that is a terminal."""

    def __enter__(self) -> Callable[["Progress"], None]:
        import sys

        self._bar: Any = None
        if not sys.stderr.isatty():
            return lambda _: None
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("verifying"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = self._bar.add_task("", total=None)
        self._bar.start()
        return lambda seen: self._bar.update(task, completed=seen.done, total=seen.total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


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


def _cells(entry: dict[str, str]) -> tuple[str, ...]:
    if entry["source"] == "control":
        # About the sidecar: nobody asked, nothing was decided.
        return entry["timestamp"], "-", "-", entry["action"], entry.get("resource", "-"), "-"
    enforced, decision = entry["enforced"], entry["decision"]
    said = decision if decision == enforced else f"{decision}, not enforced"
    return (
        entry["timestamp"],
        entry.get("agentId", "-"),
        said,
        entry["action"],
        entry.get("policy", "-"),
        entry.get("rule", entry["code"]),
    )
