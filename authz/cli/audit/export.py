"""`authz audit export`: the trail, or what filters want of it, as a file."""

import os
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from authz.cli.audit.filters import filtered
from authz.cli.audit.shared import Which, opened, progress_bar
from authz.cli.audit.trail import Given, Layout, Trail
from authz.cli.shared import BAD_ARGUMENTS, FAILED, Database, fail, note
from authz.cli.whole_file import whole_file

#: What stands for standard output.
_STDOUT: Final = Path("-")


class Format(StrEnum):
    """Kinds of files, as they are asked for."""

    JSONL = "jsonl"
    #: The same: JSON of a trail is an object a line, so that it can be read and written piecewise.
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


_LAYOUTS: Final[Mapping[Format, Layout]] = {
    Format.JSONL: "jsonl",
    Format.JSON: "jsonl",
    Format.CSV: "csv",
    Format.PARQUET: "parquet",
}


@filtered
def export(
    filters: Given,
    layout: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="jsonl (json is the same: one object a line), csv or parquet. By --output's"
            " ending when left out, else jsonl.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file; `-`: standard output.")
    ] = _STDOUT,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    database: Database = None,
    which: Which = "local",
) -> None:
    """Write the trail, oldest decision first, as JSON lines, CSV or Parquet.

    The file is there when it is whole: what breaks off leaves nothing.
    """
    kind = _kind(layout, output)
    if output == _STDOUT and kind == "parquet" and sys.stdout.isatty():
        fail(["parquet is nothing for a terminal; give --output FILE"], BAD_ARGUMENTS)
    with opened(database, which) as trail:
        if output == _STDOUT:
            _export(trail, kind, filters, _to_stdout)
            _to_stdout(b"")
            return
        with whole_file("--output", output, replace=force) as file:
            said = _export(trail, kind, filters, file.write)
    note(f"{output}: {said}")


def _kind(layout: Format | None, output: Path) -> Layout:
    if layout is None:
        ending = output.suffix.removeprefix(".").lower()
        layout = Format(ending) if ending in set(Format) else Format.JSONL
    return _LAYOUTS[layout]


def _export(trail: Trail, kind: Layout, filters: Given, write: Callable[[bytes], object]) -> str:
    with progress_bar("exporting", trail.unit) as moved:
        written = trail.export(kind, filters, write=write, moved=moved)
    return f"{written} {trail.unit}"


def _to_stdout(data: bytes) -> None:
    """Write to standard output; without data, everything that was written before."""
    try:
        if data:
            sys.stdout.buffer.write(data)
        else:
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise  # whoever reads has had enough
    except OSError as error:
        # What is left in the buffer would be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail([f"standard output cannot be written: {error.strerror}"], FAILED)
