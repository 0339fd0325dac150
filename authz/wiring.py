"""The composition root of the service: settings → stores → gate → edges, stopped in reverse."""

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvicorn

from authz import __version__
from authz.core.identity import TokenVerifier
from authz.core.mode import Mode
from authz.edges.ext_authz import ExtAuthzServer
from authz.edges.http.app import build_app
from authz.edges.http.probes import Health
from authz.edges.sockets import bind_unix
from authz.gate import Gate
from authz.run_dir import StartError, run_directory
from authz.settings import Settings
from authz.stores import policies
from authz.stores.audit_log import AuditLog

log = logging.getLogger(__name__)

#: Seconds that calls in flight get when we stop. Envoy gives up on a call after 0.1 s.
DRAIN_S: Final = 1.0
#: Longer than Envoy keeps an idle connection to us, so that the closing side is Envoy.
HTTP_KEEP_ALIVE_S: Final = 90
#: Above Envoy's header limit of 60 KiB, so that Envoy is the one who refuses.
HTTP_MAX_HEADERS: Final = 128 * 1024
#: Requests to our own endpoints at once; beyond it uvicorn answers 503.
HTTP_MAX_IN_FLIGHT: Final = 256


async def serve(settings: Settings, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Run the service until SIGTERM or SIGINT. `on_ready` is called when it can answer.

    Raises:
        StartError: the run directory cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(run_directory(settings.run_dir, "service"))
        loaded = policies.load(settings.policies_dir)
        _report(settings, loaded)
        audit = AuditLog(settings.audit_db_path, monotonic=time.monotonic)
        stack.callback(audit.close)
        audit.open()
        proxy_authorization = settings.proxy_authorization
        gate = Gate(
            snapshot=lambda: loaded.snapshot,
            tokens=TokenVerifier(settings.jwt_secret.get_secret_value(), settings.agent_id),
            recorder=audit,
            mode=settings.mode,
            now=time.time,
            monotonic_ns=time.perf_counter_ns,
            new_id=lambda: secrets.token_hex(16),
            proxy_authorization=(
                proxy_authorization.get_secret_value() if proxy_authorization else ""
            ),
            allow_unrecorded=settings.audit_on_failure == "allow",
        )
        health = Health(
            mode=lambda: gate.mode,
            policies=lambda: loaded,
            audit=audit,
            allow_unrecorded=settings.audit_on_failure == "allow",
            started_at=time.time(),
        )
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        ext_authz = ExtAuthzServer(gate.check, settings.ext_authz_socket)
        await ext_authz.start()
        stack.push_async_callback(ext_authz.stop, DRAIN_S)
        # Last, because an answer from it says that everything else is up.
        await stack.enter_async_context(_http(gate, health, settings.http_socket))
        log.info("serving in mode %s, version %s", settings.mode, __version__)
        on_ready()
        await stopping.wait()
        log.info("stopping: calls in flight get %g s", DRAIN_S)


def _report(settings: Settings, loaded: policies.Loaded) -> None:
    for problem in loaded.problems:
        log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "%s", problem)
    log.info(
        "policies: %d loaded from %d files in %s, %d errors, version %s",
        loaded.snapshot.size,
        loaded.files,
        settings.policies_dir,
        len(loaded.errors),
        loaded.snapshot.version,
    )
    if not loaded.snapshot.size:
        log.error("POLICIES_DIR: no valid policy is loaded; every decision is a denial (no_policy)")
    if settings.mode is Mode.BYPASS:
        log.warning("MODE is bypass: nothing is evaluated and nothing is recorded")
    if settings.otel_enabled:
        log.warning("OTEL_ENABLED: this version does not export traces yet")


class _HttpServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the process has one place that stops it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _http(gate: Gate, health: Health, path: Path) -> AsyncIterator[None]:
    listener = bind_unix(path)
    server = _HttpServer(
        uvicorn.Config(
            build_app(gate, health),
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
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                task.result()
                raise StartError(f"{path}: the HTTP server did not start")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task
        path.unlink(missing_ok=True)
