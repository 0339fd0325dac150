"""`authz probe`, as the command line describes it; `authz.probe` is what it does."""

import os
from typing import Annotated

import typer

from authz.probe import TIMEOUT_S, Asked, run


def probe(
    ready: Annotated[
        bool, typer.Option("--ready", help="Ask for /ready: should it get traffic?")
    ] = False,
    socket: Annotated[
        bool,
        typer.Option(
            "--socket", help="Ask the service itself, by its socket in AUTHZ_RUN_DIR, past Envoy."
        ),
    ] = False,
    envoy: Annotated[
        bool,
        typer.Option("--envoy", help="Ask Envoy, by its admin socket if it has one."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="For the whole of it.")
    ] = TIMEOUT_S,
) -> None:
    """Say whether the sidecar here is healthy, in one sentence: for containers' health checks.

    Asks for /health through Envoy, at HOST and PORT; where the listener speaks
    TLS (TLS_CERT_FILE) both processes by their sockets. It reads nothing but
    the environment. Exits with 0 where all is well, 1 where it is not, 5 where
    nobody answers.
    """
    raise typer.Exit(run(Asked(ready, socket, envoy, timeout), os.environ))
