"""`authz mode`: whether denials block."""

from typing import Annotated

import typer

from authz.cli.completion import like
from authz.cli.options import AsJson, RemoteCommand
from authz.cli.shared import note, print_entry
from authz.core.mode import Mode

app = typer.Typer(help="Whether denials block: enforce, audit or bypass.", no_args_is_help=True)

_PATH = "/admin/mode"


@app.callback()
def group() -> None:
    """Whether denials block, in the sidecar at --gateway, else in the one on this machine."""


@app.command(cls=RemoteCommand)
def show(as_json: AsJson = False) -> None:
    """Print the mode, and what has set it."""
    from authz.cli.destination import sidecar
    from authz.cli.remote import Remote

    with Remote(sidecar()) as there:
        print_entry(there.ask("GET", _PATH), as_json=as_json)


@app.command("set", cls=RemoteCommand)
def set_mode(
    mode: Annotated[
        Mode,
        typer.Argument(
            metavar="MODE", help="enforce, audit or bypass.", autocompletion=like([*Mode])
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Change the mode at once. It lasts until MODE_FILE says another one, or a restart."""
    from authz.cli.destination import sidecar
    from authz.cli.remote import Remote

    with Remote(sidecar()) as there:
        answer = there.ask("PUT", _PATH, body={"mode": str(mode)})
    if answer.get("note") and not as_json:
        note(str(answer.pop("note")))
    print_entry(answer, as_json=as_json)
