"""`authz policy`: write, check, explain, compare and roll back policies."""

import typer

from authz.cli.options import RemoteCommand
from authz.cli.policy import diff, explain, suggest, testing, validate, versions

app = typer.Typer(help="Policies.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Policies: write, check, explain, compare and roll back."""


app.command("validate")(validate.validate)
app.command("schema")(validate.schema)
app.command("test")(testing.run_tests)
app.command("explain")(explain.explain)
app.command("diff")(diff.diff)
app.command("suggest")(suggest.suggest)
app.command("versions")(versions.versions)
app.command("rollback", cls=RemoteCommand)(versions.rollback)
app.command("release", cls=RemoteCommand)(versions.release)
