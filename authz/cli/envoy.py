"""`authz envoy`: the configuration that `authz run` gives Envoy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from authz.cli.options import AsJson, LocalCommand
from authz.cli.shared import fail, note

if TYPE_CHECKING:
    from authz.settings import Settings

#: What the configuration is made of; nothing else of the environment has to be usable.
VARIABLES: Final = (
    "MODE", "MODE_FILE", "DECISION_TIMEOUT_MS", "HOST", "PORT", "PROXY_TARGET", "AUTHZ_RUN_DIR",
    "SSL_CERT_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE",
    "EXT_AUTHZ_TARGET", "HTTP_TARGET", "EXT_AUTHZ_TARGET_CA_FILE",
    "EXT_AUTHZ_TARGET_CERT_FILE", "EXT_AUTHZ_TARGET_KEY_FILE",
    "ENVOY_WORKERS", "ENVOY_ADMIN", "ACCESS_LOG", "ACCESS_LOG_PROBES",
    "SIDECAR_AGENT_ID", "FORWARD_PROXY_PORT", "FORWARD_PROXY_HOST", "FORWARD_DENY_CIDRS",
    "CAPTURE_PORT",
)  # fmt: skip

app = typer.Typer(help="Envoy's configuration.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Envoy's configuration."""


@app.command(cls=LocalCommand)
def config(
    out: Annotated[
        Path | None,
        typer.Option(help="Directory to write the files into; printed when left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print, or write, the bootstrap and the files that it subscribes to.

    Those are the ext_authz filter and, with TLS, the names of the certificates.
    """
    import json
    import os

    from authz import envoy_config
    from authz.settings import SettingsError, settings_of

    try:
        settings = settings_of(os.environ, *VARIABLES)
        options = envoy_config.EnvoyOptions.of(settings)
    except SettingsError as error:
        fail(error.problems, 2)
    _look_at_certificates(settings)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            envoy_config.write(options, out)
        except OSError as error:
            fail([f"--out: {error}"], 1)
        return
    files = envoy_config.documents(options, options.run_dir)
    if as_json:
        typer.echo(json.dumps(files, indent=2))
        return
    for name, content in files.items():
        typer.echo(f"# {options.run_dir / name}\n{envoy_config.to_yaml(content)}")


def _look_at_certificates(settings: "Settings") -> None:
    """Say what Envoy could not use, or should not; it may be another machine that it runs on."""
    if settings.tls_cert_file is None and settings.target_ca_file is None:
        return
    from datetime import UTC, datetime

    from authz import tls_files

    for look in (tls_files.listener, tls_files.target):
        try:
            look(settings)
        except ValueError as error:
            note(f"{error}; Envoy will need it")
    prefixes: tuple[tls_files.Prefix, ...] = ("TLS", "EXT_AUTHZ_TARGET")
    for prefix in prefixes:
        for sentence in tls_files.warnings(settings, prefix, datetime.now(UTC)):
            note(sentence)
