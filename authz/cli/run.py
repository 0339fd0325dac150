"""`authz run`, `authz serve` and the bundled echo upstream."""

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from authz.cli.shared import FAILED, environment, fail, note, read_settings

ReadyFd = Annotated[
    int, typer.Option(hidden=True, help="Descriptor to write a byte to when serving.")
]
DevSecrets = Annotated[
    bool,
    typer.Option(
        "--insecure-dev-secrets",
        help="Make up missing secrets and keep them in AUTHZ_RUN_DIR. For demos only.",
    ),
]


def run(
    insecure_dev_secrets: DevSecrets = False,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Try it out: development secrets, loopback only, an echo upstream unless"
            " PROXY_TARGET is set, and a banner with a token and requests to copy.",
        ),
    ] = False,
) -> None:
    """Run the sidecar: service and Envoy, supervised, until Ctrl-C or SIGTERM."""
    import asyncio
    import socket

    from authz import launch, logs, supervisor
    from authz.run_dir import StartError
    from authz.settings import SettingsError

    env = environment(dev_secrets=insecure_dev_secrets or demo)
    if insecure_dev_secrets:
        _say_made_up(env)
    echo = None
    if demo:
        if not env.get("HOST", "").strip():
            env["HOST"] = "127.0.0.1"
        if not env.get("PROXY_TARGET", "").strip():
            # On a free port of the loopback interface.
            echo = socket.create_server(("127.0.0.1", 0))
            env["PROXY_TARGET"] = f"http://127.0.0.1:{echo.getsockname()[1]}"
    settings = read_settings(env)
    logs.configure(settings.log_level, settings.log_format, "run")

    def on_ready() -> None:
        from authz.cli.banner import banner, readiness

        typer.echo(banner(settings, unready=readiness(settings)))

    try:
        plan = launch.plan(settings, echo.fileno() if echo else None)
        if not demo:
            launch.execute(plan, env)
        # The banner needs the settings, so this process stays as it is.
        code = asyncio.run(supervisor.run(plan, env, on_ready=on_ready))
    except StartError as error:
        fail([str(error)], error.code)
    except SettingsError as error:
        fail(error.problems, 2)
    raise typer.Exit(code)


def serve(insecure_dev_secrets: DevSecrets = False, ready_fd: ReadyFd = -1) -> None:
    """Run the service alone: ext_authz and HTTP on unix sockets in AUTHZ_RUN_DIR."""
    from authz import service

    service.ignore_hangups()
    env = environment(dev_secrets=insecure_dev_secrets)
    if insecure_dev_secrets:
        _say_made_up(env)
    raise typer.Exit(service.run(read_settings(env), ready_fd))


def echo(
    fd: Annotated[int, typer.Option(help="Descriptor of a listening socket.")] = -1,
    host: Annotated[str, typer.Option(help="Address to listen on, without --fd.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on, without --fd.")] = 8080,
    ready_fd: ReadyFd = -1,
) -> None:
    """Answer every request with what it was."""
    import socket

    import uvicorn

    from authz.edges.echo_upstream import EchoUpstream

    config = uvicorn.Config(
        EchoUpstream(),
        lifespan="off",
        access_log=False,
        log_level="warning",
        ws="none",
        server_header=False,
    )
    if fd >= 0:
        listener = socket.socket(fileno=fd)
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            # Its own sentence repeats the address.
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
            fail([f"--host, --port: cannot listen on {host} port {port}: {reason}"], FAILED)
    # The socket listens already, so whoever connects from now on is answered.
    _say_ready(ready_fd)
    uvicorn.Server(config).run(sockets=[listener])


def _say_made_up(env: Mapping[str, str]) -> None:
    """Nobody is to take secrets that were made up for their own."""
    from authz import dev_secrets as made_up
    from authz.settings import settings_of

    names = [name for name in made_up.NAMES if not os.environ.get(name, "").strip()]
    if names:
        path = settings_of(env, "AUTHZ_RUN_DIR").run_dir / made_up.FILE
        note(
            f"{' and '.join(names)} not set: made up for trying things out, and kept in {path};"
            " whoever can read it can be any agent"
        )


def _say_ready(descriptor: int) -> None:
    if descriptor >= 0:
        os.write(descriptor, b"1")
        os.close(descriptor)
