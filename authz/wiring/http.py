"""Answering what the service answers itself: on the unix socket, and where HTTP_ADDRESS says."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from authz import tls_files
from authz.core import text
from authz.edges.sockets import BACKLOG, bind_unix
from authz.exits import Exit
from authz.run_dir import StartError, unusable
from authz.settings import Settings
from authz.wiring.transport import taken

#: Seconds that calls in flight get when we stop. Envoy gives up on a call after 0.1 s.
DRAIN_S: Final = 1.0
#: Longer than Envoy keeps an idle connection to us, so that the closing side is Envoy.
HTTP_KEEP_ALIVE_S: Final = 90
#: Above Envoy's header limit of 60 KiB, so that Envoy is the one who refuses.
HTTP_MAX_HEADERS: Final = 128 * 1024
#: Requests to our own endpoints at once; beyond it uvicorn answers 503.
HTTP_MAX_IN_FLIGHT: Final = 256

log = logging.getLogger(__name__)


class _HttpServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the process has one place that stops it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def answering(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """Answer on the unix socket, and at HTTP_ADDRESS where there is one.

    Raises:
        StartError: one of them, or the certificate, cannot be used.
    """
    async with AsyncExitStack() as stack:
        if settings.http_address is not None:
            await stack.enter_async_context(_http_at(app, settings.http_address, settings))
        await stack.enter_async_context(http(app, settings.http_socket))
        yield


@contextlib.asynccontextmanager
async def http(app: FastAPI, path: Path) -> AsyncIterator[None]:
    try:
        listener = bind_unix(path)
    except OSError as error:
        raise StartError(unusable(path, error), Exit.RUN_DIRECTORY) from None
    try:
        async with _uvicorn(app, listener, str(path)):
            yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _http_at(
    app: FastAPI, address: tuple[str, int], settings: Settings
) -> AsyncIterator[None]:
    try:
        tls = tls_files.server_context(settings)
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise taken("HTTP_ADDRESS", address, reason) from None
    async with _uvicorn(app, listener, text.address(*address), tls):
        log.info("HTTP_ADDRESS: answering on %s", text.address(*address))
        yield


@contextlib.asynccontextmanager
async def _uvicorn(
    app: FastAPI, listener: socket.socket, name: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    server = _HttpServer(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=HTTP_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(DRAIN_S),
            h11_max_incomplete_event_size=HTTP_MAX_HEADERS,
            limit_concurrency=HTTP_MAX_IN_FLIGHT,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                task.result()
                raise StartError(f"{name}: the HTTP server ended at its start; see the lines above")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task
