"""The `authz` command: one file a noun, each importing what it needs only when it runs.

Exit codes (CONTRACT §14): 0 fine, 1 failed, 2 arguments or settings.
"""

import typer

from authz.cli import audit, envoy, policy, run, settings, token

app = typer.Typer(
    name="authz",
    help="A sidecar that governs one AI agent: Envoy, policies in memory, an audit trail.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("serve")(run.serve)
app.command("echo", hidden=True)(run.echo)
app.command("settings")(settings.show)
app.add_typer(token.app, name="token")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(envoy.app, name="envoy")


def main() -> None:
    """Entry point of the console script."""
    app()
