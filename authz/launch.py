"""Settings to a sidecar that runs: all that needs the settings is done first, then memory is freed.

- The order is that of what is cheap to refuse: the run directory, Envoy, the port; then Envoy's
  configuration is written, which only the holder of the run directory may.
- `execute` replaces this process by `python -m authz.supervisor`, which keeps its process id, its
  signals and its descriptors, and has a third of the memory: validation, YAML and the command line
  are not there any more. The secrets go where they were, into the environment.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn

from authz import envoy_config, supervisor
from authz.envoy_config import EnvoyOptions
from authz.exits import Exit
from authz.run_dir import StartError, hold, unusable
from authz.settings import Settings
from authz.supervisor import Plan

log = logging.getLogger(__name__)


def plan(settings: Settings, echo: int | None = None) -> Plan:
    """What there is to run, with everything that Envoy needs in the run directory.

    Args:
        echo: the descriptor of the bundled echo upstream's listening socket.

    Raises:
        StartError: it cannot start; the message says why and what to do.
        SettingsError: the upstream is https and no trusted certificates are found.
    """
    _require_one_host(settings)
    # A signal from here on waits for the supervisor, which stops, or reloads, in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, supervisor.SIGNALS)
    lock = hold(settings.run_dir, "supervisor")
    envoy = supervisor.envoy_binary(settings.envoy_bin)
    options = EnvoyOptions.of(settings)
    _look_at_certificates(settings)
    supervisor.require_free_port(settings.host, settings.port)
    outward = tuple(("CAPTURE_PORT", *address) for address in options.capture)
    if options.forward is not None:
        outward = (("FORWARD_PROXY_PORT", *options.forward), *outward)
    for variable, host, port in outward:
        supervisor.require_free_port(host, port, variable)
    try:
        config = envoy_config.write(options, options.run_dir)
    except OSError as error:
        raise StartError(unusable(settings.run_dir, error), Exit.RUN_DIRECTORY) from None
    upstream = settings.upstream
    return Plan(
        host=settings.host,
        port=settings.port,
        target=f"{upstream.scheme}://{upstream.authority}{upstream.prefix}",
        upstream=None if upstream.is_address else (upstream.host, upstream.port),
        envoy=str(envoy),
        config=str(config),
        admin_socket=str(settings.envoy_admin_socket.absolute()),
        log_level=settings.log_level,
        log_format=settings.log_format,
        lock=lock,
        workers=settings.envoy_workers,
        listeners=None if options.admin else str(options.run_dir / envoy_config.LISTENERS_FILE),
        echo=echo,
        outward=outward,
    )


def _require_one_host(settings: Settings) -> None:
    for name, value in (
        ("EXT_AUTHZ_ADDRESS", settings.ext_authz_address),
        ("HTTP_ADDRESS", settings.http_address),
        ("EXT_AUTHZ_TARGET", settings.ext_authz_target),
    ):
        if value is not None:
            command = "envoy config" if name.endswith("TARGET") else "serve"
            raise StartError(
                f"{name}: is for `authz {command}` with an Envoy of your own; `authz run`"
                " connects its two processes by a unix socket",
                Exit.SETTINGS,
            )


def _look_at_certificates(settings: Settings) -> None:
    """Before anything is started: Envoy would start without what it cannot use.

    Raises:
        StartError: the listener's files cannot be used.
    """
    if settings.tls_cert_file is None:
        return
    # Only here: importing `cryptography` takes 0.1 s.
    from authz import tls_files  # noqa: PLC0415

    try:
        tls_files.listener(settings)
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None
    for sentence in tls_files.warnings(settings, "TLS", datetime.now(UTC)):
        log.warning("%s", sentence)


def execute(made: Plan, env: Mapping[str, str]) -> NoReturn:
    """Become the supervisor of this plan.

    Args:
        env: what it and the service get.
    """
    reading, writing = os.pipe()
    # A pipe has room for 64 KiB, and a plan has a few hundred bytes.
    os.write(writing, made.to_json())
    os.close(writing)
    for descriptor in (reading, made.lock, made.echo):
        if descriptor is not None:
            os.set_inheritable(descriptor, True)
    command = [sys.executable, "-m", supervisor.__name__, str(reading)]
    os.execve(sys.executable, command, dict(env))  # noqa: S606 - ourselves, by our own path
