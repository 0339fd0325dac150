"""`authz policy`: write, check, explain, compare and roll back policies."""

import typer

from authz.cli.options import LocalCommand, RemoteCommand
from authz.cli.policy import (
    allowed,
    apply,
    diff,
    explain,
    listing,
    suggest,
    testing,
    validate,
    versions,
)

app = typer.Typer(help="Policies.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Policies: write, check, explain, compare and roll back."""


app.command("list", cls=RemoteCommand)(listing.list_documents)
app.command("show", cls=RemoteCommand)(listing.show)
app.command("apply", cls=RemoteCommand)(apply.apply)
app.command("delete", cls=RemoteCommand)(apply.delete)
app.command("allowed", cls=RemoteCommand)(allowed.allowed)
app.command("validate", cls=RemoteCommand)(validate.validate)
app.command("schema", cls=LocalCommand)(validate.schema)
app.command("test", cls=RemoteCommand)(testing.run_tests)
app.command("explain", cls=LocalCommand)(explain.explain)
app.command("diff", cls=LocalCommand)(diff.diff)
app.command("suggest", cls=LocalCommand)(suggest.suggest)
app.command("versions", cls=RemoteCommand)(versions.versions)
app.command("rollback", cls=RemoteCommand)(versions.rollback)
app.command("pin", cls=RemoteCommand)(versions.pin)
app.command("unpin", cls=RemoteCommand)(versions.release)
app.command("release", cls=RemoteCommand)(versions.release)
