"""`authz envoy`: the configuration that `authz run` gives Envoy."""

from pathlib import Path
from typing import Annotated

import typer

from authz.cli.options import AsJson, LocalCommand
from authz.cli.shared import fail

app = typer.Typer(help="Envoy's configuration.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Envoy's configuration."""


@app.command(cls=LocalCommand)
def config(
    out: Annotated[
        Path | None,
        typer.Option(help="Directory to write both files into; printed when left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print, or write, the bootstrap and the ext_authz filter that it subscribes to."""
    import json
    import os

    from authz import envoy_config
    from authz.settings import SettingsError, settings_of

    names = (
        "MODE", "DECISION_TIMEOUT_MS", "HOST", "PORT", "PROXY_TARGET", "AUTHZ_RUN_DIR",
        "SSL_CERT_FILE", "SIDECAR_AGENT_ID", "FORWARD_PROXY_PORT", "FORWARD_PROXY_HOST",
        "FORWARD_DENY_CIDRS", "CAPTURE_PORT",
    )  # fmt: skip
    try:
        options = envoy_config.EnvoyOptions.of(settings_of(os.environ, "MODE_FILE", *names))
    except SettingsError as error:
        fail(error.problems, 2)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            envoy_config.write(options, out)
        except OSError as error:
            fail([f"--out: {error}"], 1)
        return
    files = {
        envoy_config.BOOTSTRAP_FILE: envoy_config.bootstrap(options, options.run_dir),
        envoy_config.EXT_AUTHZ_FILE: envoy_config.ext_authz_discovery(
            options.mode, options.decision_timeout_ms
        ),
    }
    if as_json:
        typer.echo(json.dumps(files, indent=2))
        return
    for name, content in files.items():
        typer.echo(f"# {options.run_dir / name}\n{envoy_config.to_yaml(content)}")
