"""The `authz` command: a file a group, each command importing what it needs only when it runs.

Exit codes (CONTRACT §14): 0 fine, 1 failed, 2 arguments or settings, 3 not authorised, 4 denied, 5
nobody there.
"""

import sys
from typing import Annotated

import typer

from authz import __version__, cgroups
from authz.cli import (
    agent,
    alerts,
    audit,
    bundle,
    capture,
    config,
    delegation,
    doctor,
    envoy,
    fuse,
    log_level,
    mode,
    options,
    pending,
    policy,
    probe,
    run,
    settings,
    status,
    sync,
    token,
    wallet,
)

app = typer.Typer(
    name="authz",
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("run", cls=options.LocalCommand)(run.run)
app.command("serve", cls=options.LocalCommand)(run.serve)
app.command("echo", cls=options.LocalCommand, hidden=True)(run.echo)
app.command("probe", cls=options.LocalCommand)(probe.probe)
app.command("settings", cls=options.LocalCommand)(settings.show)
app.command("status", cls=options.RemoteCommand)(status.status)
app.command("doctor", cls=options.RemoteCommand)(doctor.doctor)
app.add_typer(mode.app, name="mode")
app.command("log-level", cls=options.RemoteCommand)(log_level.log_level)
app.add_typer(config.app, name="config")
app.add_typer(token.app, name="token")
app.add_typer(policy.app, name="policy")
app.add_typer(bundle.app, name="bundle")
app.add_typer(agent.app, name="agent")
app.add_typer(pending.app, name="pending")
app.add_typer(delegation.app, name="delegation")
app.add_typer(wallet.app, name="wallet")
app.add_typer(fuse.app, name="fuse")
app.add_typer(audit.app, name="audit")
app.add_typer(alerts.app, name="alerts")
app.add_typer(sync.app, name="sync")
app.add_typer(envoy.app, name="envoy")
app.add_typer(capture.app, name="capture")


@app.callback()
def begin(
    gateway: options.Gateway = "",
    admin_token: options.AdminToken = "",
    local: options.Local = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No notes and no progress on stderr.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on stderr what a sidecar is asked.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """A sidecar that governs one AI agent: Envoy, policies in memory, an audit trail."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    options.begin(options.Said(gateway, admin_token, local, as_json, quiet, verbose))


def main() -> None:
    """Entry point of the console script."""
    if not {"run", "serve", "echo"} & set(sys.argv[1:]):
        # In the sidecar's container a command shares the sidecar's memory limit.
        cgroups.give_way()
    try:
        app()
    except KeyboardInterrupt:
        # Before anything was there that could be stopped in order.
        raise SystemExit(130) from None
