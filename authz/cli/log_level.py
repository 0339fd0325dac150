"""`authz log-level`: how much a sidecar that runs says."""

from typing import Annotated

import typer

from authz.cli.completion import like
from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, fail, note, print_entry
from authz.logs import LEVELS

_PATH = "/admin/log-level"


def log_level(
    level: Annotated[
        str,
        typer.Argument(
            metavar="[LEVEL]",
            help="debug, info, warning or error; shown where none is given.",
            autocompletion=like([*LEVELS]),
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show or change how much the sidecar at --gateway, else the one on this machine, logs.

    A change lasts until a restart.
    """
    from authz.cli.destination import sidecar
    from authz.cli.remote import Remote

    if level and level not in LEVELS:
        fail([f"LEVEL: write one of {', '.join(LEVELS)}"], BAD_ARGUMENTS)
    with Remote(sidecar()) as there:
        if not level:
            print_entry(there.ask("GET", _PATH), as_json=as_json)
            return
        answer = there.ask("PUT", _PATH, body={"level": level})
    if answer.get("note") and not as_json:
        note(str(answer.pop("note")))
    print_entry(answer, as_json=as_json)
