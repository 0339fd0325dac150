"""What several commands need: settings, failing with sentences, notes, and tables."""

import itertools
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from authz.cli import options
from authz.core.text import visible

if TYPE_CHECKING:
    from rich.console import OverflowMethod

    from authz.settings import Settings


#: Exit codes of CONTRACT §14.
FAILED: Final = 1
BAD_ARGUMENTS: Final = 2
REFUSED: Final = 3
DENIED: Final = 4
UNREACHABLE: Final = 5

Database = Annotated[Path | None, typer.Option(help="Audit database; AUDIT_DB_PATH when left out.")]
AsJson = options.AsJson


def fail(sentences: Iterable[str], code: int) -> NoReturn:
    """Print each sentence to stderr and exit."""
    for sentence in sentences:
        typer.echo(f"authz: {visible(sentence)}", err=True)
    raise typer.Exit(code)


def note(sentence: str) -> None:
    """Print what is good to know to stderr; with --quiet nothing."""
    if not options.said().quiet:
        typer.echo(f"authz: {visible(sentence)}", err=True)


def environment(*, dev_secrets: bool) -> dict[str, str]:
    """This process's environment, with development secrets filled in when asked for."""
    from authz import dev_secrets as made_up
    from authz.settings import SettingsError, settings_of

    env = dict(os.environ)
    if not dev_secrets:
        return env
    try:
        return made_up.fill_in(env, settings_of(env, "AUTHZ_RUN_DIR").run_dir)
    except SettingsError as error:
        fail(error.problems, 2)


def read_settings(env: Mapping[str, str]) -> "Settings":
    """Settings of an environment; exits with every mistake listed."""
    from authz.settings import Settings, SettingsError

    try:
        return Settings.from_env(env)
    except SettingsError as error:
        fail(error.problems, 2)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    wrap: Collection[str] = (),
    heading: bool = True,
    widths: Sequence[int] = (),
) -> None:
    """Print a table; into a pipe or file nothing is cut off.

    Args:
        wrap: headings of columns that a narrow terminal breaks into lines, so that the others fit.
        heading: false for a table that goes on below what was printed before.
        widths: characters that columns have at least.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=heading)
    for name, width in itertools.zip_longest(headings, widths, fillvalue=None):
        assert name is not None
        wraps = name in wrap
        overflow: OverflowMethod = "fold" if wraps else "ellipsis"
        table.add_column(name, no_wrap=not wraps, overflow=overflow, min_width=width)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=1000)
    with console.capture() as printed:
        console.print(table)
    # Cells are padded to their column's width, the last one too.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def print_entry(entry: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print a record, a field a line or as JSON."""
    if as_json:
        typer.echo(json.dumps(entry, indent=2))
        return
    width = max(map(len, entry), default=0)
    for name, value in entry.items():
        typer.echo(visible(f"{name:<{width}}  {_said(value)}"))


def _said(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or "-"
    return json.dumps(value, ensure_ascii=False)
