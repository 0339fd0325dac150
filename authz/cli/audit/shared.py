"""What several `authz audit` commands need: which database, how a row is shown, a progress bar."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from authz.cli.options import said
from authz.cli.shared import BAD_ARGUMENTS, fail, print_table
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.cli.audit.trail import Moved, Trail

#: Lines of a table that are put under each other together.
AT_ONCE: Final = 1000
HEADINGS: Final = ("TIME", "AGENT", "DECISION", "ACTION", "POLICY", "RULE")


#: Which trail is meant.
Which = Annotated[
    Literal["local", "ingested"],
    typer.Option("--trail", help="ingested: what other sidecars have sent."),
]


def ingested_path() -> Path:
    """Where the trails are that other sidecars have sent."""
    from authz.settings import SettingsError, settings_of

    names = ("AUDIT_DB_PATH", "DB_PATH", "AUDIT_INGEST_DB_PATH")
    try:
        return settings_of(os.environ, *names).audit_ingest_path
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)


def database_path(database: Path | None) -> Path:
    """The database that is meant: the option's, else AUDIT_DB_PATH."""
    from authz.settings import SettingsError, settings_of

    try:
        return database or settings_of(os.environ, "AUDIT_DB_PATH", "DB_PATH").audit_db_path
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)


class Printer:
    """Prints entries as they come: a line of JSON each, or a table whose columns stay in place."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._widths: list[int] = [0] * len(HEADINGS)
        self._is_first = True

    def add(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Print more of them, and at once. A table gets its heading with the first."""
        if self._as_json:
            for entry in entries:
                typer.echo(json.dumps(entry))
            return
        if not entries and not self._is_first:
            return
        rows = [cells(entry) for entry in entries]
        for row in ([HEADINGS] if self._is_first else []) + rows:
            self._widths = [
                max(known, len(visible(cell)))
                for known, cell in zip(self._widths, row, strict=True)
            ]
        print_table(HEADINGS, rows, heading=self._is_first, widths=self._widths)
        sys.stdout.flush()
        self._is_first = False

    def all(self, entries: Iterable[Mapping[str, Any]], *, nothing: bool = True) -> int:
        """Print them all, a thousand at a time; how many there were.

        Args:
            nothing: print a heading also where there are none.
        """
        count = 0
        rest = iter(entries)
        while batch := list(itertools.islice(rest, AT_ONCE)):
            self.add(batch)
            count += len(batch)
        if nothing and not count:
            self.add([])
        return count


@contextlib.contextmanager
def opened(database: Path | None, which: Which = "local") -> Iterator["Trail"]:
    """The trail that is meant: a gateway's where one is named, else the database's."""
    from authz.cli.destination import gateway

    if database and which != "local":
        fail(["give --trail, or --database with the trail's file"], BAD_ARGUMENTS)
    there = gateway(here="--database" if database else "")
    if there is None:
        from authz.cli.audit.local import LocalTrail

        yield LocalTrail(database_path(database) if which == "local" else ingested_path())
        return
    from authz.cli.audit.filters import in_options
    from authz.cli.audit.remote import RemoteTrail
    from authz.cli.remote import Remote

    with Remote(there, worded=in_options) as remote:
        yield RemoteTrail(remote, which)


def cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as a line of a table, under `HEADINGS`."""
    # Whoever can write the file, or answers for a gateway, need not keep to what rows are.
    entry = {name: str(value) for name, value in entry.items()}
    time = entry.get("timestamp", "-")
    action = entry.get("action", "-")
    if entry.get("source") == "control":
        # About the sidecar: nobody asked, nothing was decided.
        return time, "-", "-", action, entry.get("resource", "-"), "-"
    decision = entry.get("decision", "-")
    enforced = entry.get("enforced", decision)
    outcome = decision if decision == enforced else f"{decision}, not enforced"
    return (
        time,
        entry.get("agentId", "-"),
        outcome,
        action,
        entry.get("policy", "-"),
        entry.get("rule", entry.get("code", "-")),
    )


@contextlib.contextmanager
def progress_bar(doing: str, unit: str = "rows") -> Iterator["Moved"]:
    """A bar on stderr, where that is a terminal; is told what is done, and of how much.

    Args:
        doing: what takes so long, in one word.
        unit: what is counted; `bytes` are shown as people read them.
    """
    if not sys.stderr.isatty() or said().quiet:
        yield lambda _done, _total: None
        return
    from rich import progress as bars
    from rich.console import Console

    counted: list[bars.ProgressColumn] = [bars.MofNCompleteColumn(), bars.TextColumn(unit)]
    if unit == "bytes":
        counted = [bars.DownloadColumn(), bars.TransferSpeedColumn()]
    bar = bars.Progress(
        bars.TextColumn(doing),
        bars.BarColumn(),
        *counted,
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
