"""`authz config`: where commands go without being told, kept in `~/.meshguard/config`."""

import json
import sys
from typing import Annotated

import typer

from authz.cli.completion import like
from authz.cli.config_file import KEYS, SECRETS, Unusable, checked, path, write
from authz.cli.options import AsJson, LocalCommand
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note, print_table

app = typer.Typer(help="Where commands go without being told.", no_args_is_help=True)

#: What is shown of a secret.
STARS = "********"

Key = Annotated[
    str,
    typer.Argument(metavar="KEY", help=f"One of {', '.join(KEYS)}.", autocompletion=like([*KEYS])),
]


@app.callback()
def group() -> None:
    """Where commands go without being told. An option counts more, and so does the environment."""


@app.command("list", cls=LocalCommand)
def list_values(as_json: AsJson = False) -> None:
    """List what is set; secrets are starred."""
    from authz.cli.destination import config

    found = config()
    if found.caution:
        note(found.caution)
    shown = {key: STARS if key in SECRETS else found.get(key) for key in KEYS if found.get(key)}
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        print_table(("KEY", "VALUE"), list(shown.items()))


@app.command(cls=LocalCommand)
def get(key: Key) -> None:
    """Print a value, also a secret."""
    from authz.cli.destination import config

    value = config().get(_known(key))
    if not value:
        fail([f"{key} is not set"], FAILED)
    typer.echo(value)


@app.command("set", cls=LocalCommand)
def set_value(
    key: Key,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="`-` reads it from standard input.")
    ],
) -> None:
    """Set a value. Others see what stands here in the list of processes, so give secrets as `-`."""
    if value == "-":
        value = sys.stdin.readline()
    try:
        value = checked(_known(key), value)
    except ValueError as error:
        fail([f"{key}: {error}"], BAD_ARGUMENTS)
    if not value:
        fail([f"{key}: empty; `authz config unset {key}` takes it away"], BAD_ARGUMENTS)
    _write(key, value)


@app.command(cls=LocalCommand)
def unset(key: Key) -> None:
    """Take a value away."""
    _write(_known(key), "")


@app.command("path", cls=LocalCommand)
def show_path() -> None:
    """Print where the file is, whether or not it is there."""
    try:
        typer.echo(str(path()))
    except Unusable as error:
        fail([str(error)], FAILED)


def _write(key: str, value: str) -> None:
    try:
        file = write(key, value)
    except Unusable as error:
        fail([str(error)], FAILED)
    note(f"{file}: {key} is {'set' if value else 'not set any more'}")


def _known(key: str) -> str:
    if key not in KEYS:
        fail([f"{key}: write one of {', '.join(KEYS)}"], BAD_ARGUMENTS)
    return key
