"""`authz policy`: the server's own loader, for authors and CI."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Policy files.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Policy files."""


@app.command()
def validate(
    path: Annotated[
        Path | None, typer.Argument(help="File or directory; POLICIES_DIR when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Read policies as the service would, and print every error and warning with its place."""
    import json
    import os
    from dataclasses import asdict

    from authz.settings import settings_of
    from authz.stores import policies

    given = path or settings_of(os.environ, "POLICIES_DIR").policies_dir
    loaded = policies.load_files([given], []) if given.is_file() else policies.load(given)
    valid = not loaded.errors and loaded.snapshot.size > 0
    if as_json:
        body = {
            "valid": valid,
            "policies": loaded.snapshot.size,
            "files": loaded.files,
            "version": loaded.snapshot.version,
            "problems": [asdict(problem) for problem in loaded.problems],
        }
        typer.echo(json.dumps(body, indent=2))
    else:
        for problem in loaded.problems:
            typer.echo(str(problem))
        warnings = len(loaded.problems) - len(loaded.errors)
        typer.echo(
            f"{loaded.snapshot.size} policies in {loaded.files} files,"
            f" {len(loaded.errors)} errors, {warnings} warnings"
        )
    raise typer.Exit(0 if valid else 1)
