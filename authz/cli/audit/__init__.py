"""`authz audit`: what was decided, and whether the record of it is whole."""

import typer

from authz.cli.audit import export, query, tail, verify
from authz.cli.options import LocalCommand, RemoteCommand

app = typer.Typer(help="The audit trail.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The audit trail."""


app.command("tail", cls=RemoteCommand)(tail.tail)
app.command("query", cls=RemoteCommand)(query.query)
app.command("trace", cls=RemoteCommand)(query.trace)
app.command("stats", cls=RemoteCommand)(query.stats)
app.command("export", cls=RemoteCommand)(export.export)
app.command("head", cls=LocalCommand)(verify.head)
app.command("verify", cls=LocalCommand)(verify.verify)
