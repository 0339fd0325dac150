"""`authz bundle`: build, sign, verify and look into bundles of policies."""

import typer

from authz.cli.bundle import build, inspect, keygen, sign, verify
from authz.cli.options import LocalCommand

app = typer.Typer(help="Signed bundles of policies.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Signed bundles of policies: build, sign, verify, inspect."""


app.command("build", cls=LocalCommand)(build.build)
app.command("sign", cls=LocalCommand)(sign.sign)
app.command("verify", cls=LocalCommand)(verify.verify)
app.command("inspect", cls=LocalCommand)(inspect.inspect)
app.command("keygen", cls=LocalCommand)(keygen.keygen)
