"""`authz settings`: every variable, its default and what it is for."""

import typer

from authz.cli.options import AsJsonArray


def show(as_json: AsJsonArray = False) -> None:
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
