"""`authz settings`: every variable, its default and what it is for."""

from typing import Annotated

import typer


def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the environment variables."""
    import json

    from authz.settings import described

    rows = described()
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            default = f" (default {row.default})" if row.default else ""
            typer.echo(f"{row.name:<{width}}  {row.help}{default}")
