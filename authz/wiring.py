"""The composition root of the service: settings → stores → gate → edges, stopped in reverse."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI

from authz import __version__, envoy_config, memory, tls_files
from authz.core.audit import AuditRow, change_row, refused_admin_row
from authz.core.identity import Identity, TokenVerifier
from authz.core.jwks import KeySet
from authz.core.mode import Mode
from authz.core.policy_set import counted
from authz.core.state import State
from authz.core.tiers import rank
from authz.edges.cpu_quota import Thrift
from authz.edges.h2c.server import BATCH, H2cServer
from authz.edges.http import (
    admin,
    analytics,
    mode,
    policies,
    policy_trial,
    policy_writes,
    records,
    relationships,
)
from authz.edges.http import audit as audit_routes
from authz.edges.http.app import build_app
from authz.edges.http.attempts import Attempts
from authz.edges.http.credentials import AdminToken
from authz.edges.http.documents import Reader
from authz.edges.http.probes import Health
from authz.edges.mode_switch import BYPASS_WARNING, ModeSwitch
from authz.edges.policy_changes import PolicyChanges
from authz.edges.readers.pool import Readers
from authz.edges.reloader import Followed, Reloader, report
from authz.edges.sockets import BACKLOG, bind_unix
from authz.exits import Exit
from authz.gate import Gate
from authz.memory import Delegations
from authz.operations import Operations
from authz.run_dir import StartError, run_directory, unusable
from authz.settings import Settings, read_jwks_file, read_mode_file
from authz.stores.audit_key import default_key_file
from authz.stores.audit_log import AuditLog
from authz.stores.audit_maintenance import AuditMaintenance
from authz.stores.parsing import ParserProcess, parse_aside
from authz.stores.policies import Loaded, PolicyDirectory
from authz.stores.policy_files import PolicyFiles
from authz.stores.versions import Versions

log = logging.getLogger(__name__)

#: Seconds that calls in flight get when we stop. Envoy gives up on a call after 0.1 s.
DRAIN_S: Final = 1.0
#: Longer than Envoy keeps an idle connection to us, so that the closing side is Envoy.
HTTP_KEEP_ALIVE_S: Final = 90
#: Above Envoy's header limit of 60 KiB, so that Envoy is the one who refuses.
HTTP_MAX_HEADERS: Final = 128 * 1024
#: Requests to our own endpoints at once; beyond it uvicorn answers 503.
HTTP_MAX_IN_FLIGHT: Final = 256
#: Calls that are judged together at most where each batch waits for the disk (AUDIT_SYNC=full).
BATCH_PER_FSYNC: Final = 64
#: Seconds after which a thread that computes gives way to the event loop's.
SWITCH_S: Final = 0.0005


async def serve(settings: Settings, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Run the service until SIGTERM or SIGINT; SIGHUP reloads.

    `on_ready` is called when it can answer.

    Raises:
        StartError: the run directory, the keys of tokens or the transport cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(run_directory(settings.run_dir, "service"))
        parser = ParserProcess()
        stack.callback(parser.stop)
        directory = PolicyDirectory(settings.policies_dir, parser.parse)
        loaded = directory.read()
        report(loaded.problems)
        state = State()
        audit = AuditLog(
            settings.audit_db_path,
            monotonic=time.monotonic,
            ledger=state.ledger,
            sync=settings.audit_sync,
        )
        stack.callback(audit.close)
        audit.open()
        offset = memory.steady_offset(audit, time.time(), time.perf_counter())
        versions = Versions(
            audit,
            settings.audit_db_path,
            limit=settings.policy_version_limit,
            mode=lambda: gate.mode,
            now=time.time,
            new_id=_new_id,
        )
        tokens = _tokens(settings, state)
        delegations = _delegations(settings)
        action_tokens = memory.action_tokens(settings)
        proxy_authorization = settings.proxy_authorization
        gate = Gate(
            snapshot=lambda: versions.current,
            tokens=tokens,
            recorder=audit,
            environment=memory.environment(settings, state, delegations, action_tokens),
            mode=settings.mode,
            now=time.time,
            monotonic_ns=time.perf_counter_ns,
            steady_offset=offset,
            new_id=_many_ids().__next__,
            proxy_authorization=(
                proxy_authorization.get_secret_value() if proxy_authorization else ""
            ),
            allow_unrecorded=settings.audit_on_failure == "allow",
        )
        maintenance = _maintenance(settings, audit, gate, versions)
        stack.callback(maintenance.stop)
        # After the last answer, and before the last signature.
        stack.callback(gate.close)
        versions.start(loaded.snapshot)
        _tell(settings, loaded, versions)
        _write_mode(settings, gate.mode)
        switch = ModeSwitch(
            gate,
            versions,
            has_file=settings.mode_file is not None,
            tell_envoy=lambda mode: _write_mode(settings, mode),
            now=time.time,
        )
        reloader = Reloader(
            directory,
            versions,
            loaded=loaded,
            files=_followed(settings, switch, tokens, delegations),
            poll_s=settings.policies_poll_s,
        )
        ext_authz = _transport(settings, gate)
        health = Health(
            mode=lambda: gate.mode,
            loaded=lambda: reloader.loaded,
            versions=versions,
            problems=reloader.problems,
            audit=audit,
            allow_unrecorded=settings.audit_on_failure == "allow",
            started_at=time.time(),
            transport=ext_authz.figures,
        )
        operations = memory.operations(
            settings,
            state,
            audit,
            delegations,
            action_tokens,
            snapshot=lambda: versions.current,
            mode=lambda: gate.mode,
            now=time.time,
            steady=lambda: offset + time.perf_counter(),
        )
        readers = Readers(settings.audit_db_path)
        attempts = _attempts(audit, gate, versions)
        # After the last request, and before the audit database is closed.
        stack.callback(attempts.close)
        others = _other_routes(
            settings, versions, operations, tokens, readers, reloader, switch, attempts
        )
        app = build_app(gate, health, operations, *others)
        stopping = _signalled(reloader, switch)
        _settle()
        maintenance.start()
        try:
            await ext_authz.start()
        except OSError as error:
            raise _not_listening(settings, error) from None
        stack.push_async_callback(ext_authz.stop, DRAIN_S)
        await stack.enter_async_context(_running(reloader.run()))
        # Last, because an answer from it says that everything else is up.
        await stack.enter_async_context(_answering(app, settings))
        # First to stop: who follows the trail would never be done.
        stack.callback(readers.close)
        log.info("serving in mode %s, version %s", gate.mode, __version__)
        on_ready()
        await stopping.wait()
        log.info("stopping: calls in flight get %g s", DRAIN_S)


def _settle() -> None:
    """Make ready for answering, once everything is there."""
    # A reload computes in a thread; by default it would keep the interpreter 5 ms at a time,
    # and every answer would wait for it as long.
    sys.setswitchinterval(SWITCH_S)
    # Everything that is there now stays: no collection needs to look at it again.
    gc.collect()
    gc.freeze()


def _signalled(reloader: Reloader, switch: ModeSwitch) -> asyncio.Event:
    """What is set when the service is told to stop. A reload is the reloader's."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def reread() -> None:
        switch.reread()
        reloader.ask()

    loop.add_signal_handler(signal.SIGHUP, reread)
    return stopping


class Transport(Protocol):
    """What answers Envoy."""

    async def start(self) -> None:
        """Listen and serve; OSError where that cannot be."""

    async def stop(self, grace_s: float) -> None:
        """Stop accepting; calls in flight get `grace_s` seconds."""

    def figures(self) -> dict[str, object]:
        """What an operator may want to know of it."""


def _transport(settings: Settings, gate: Gate) -> Transport:
    """The transport that the settings choose.

    Raises:
        StartError: its certificate or key cannot be used.
    """
    address = settings.ext_authz_address or settings.ext_authz_socket
    if settings.ext_authz_transport == "h2c":
        batch = BATCH if settings.audit_sync == "normal" else BATCH_PER_FSYNC
        return H2cServer(gate.check_all, gate.turn_away, address, batch, Thrift())
    # Only here: importing grpcio takes 0.1 s and 10 MB.
    from authz.edges.ext_authz import ExtAuthzServer, Tls  # noqa: PLC0415

    try:
        own = tls_files.own(settings)
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None
    # Other hosts are reached by this transport alone.
    _warn_of_peers(settings)
    return ExtAuthzServer(gate.check, address, Tls(*own) if own else None)


def _other_routes(
    settings: Settings,
    versions: Versions,
    operations: Operations,
    tokens: TokenVerifier,
    readers: Readers,
    reloader: Reloader,
    switch: ModeSwitch,
    attempts: Attempts,
) -> Iterator[APIRouter]:
    """What the HTTP application answers besides probes and decisions."""
    secret = settings.admin_token.get_secret_value() if settings.admin_token else ""
    token = AdminToken(secret, attempts)
    yield admin.router(token, versions, settings.audit_db_path)
    reader, directory = Reader(), settings.policies_dir
    files = PolicyFiles(directory, parse_aside)
    changes = PolicyChanges(files, reloader, versions, operations)
    yield policies.router(token, versions, lambda: reloader.loaded, directory, reader)
    yield policy_writes.router(token, changes, versions, reader)
    yield policy_trial.router(token, versions, operations, reader)
    yield mode.router(token, switch, operations)
    yield records.router(token, operations)
    yield relationships.router(token, operations, tokens)
    yield audit_routes.router(token, readers)
    yield analytics.router(token, readers)
    if settings.metrics_enabled:
        # Only here: nobody else waits for the client library.
        from authz.edges.http import metrics  # noqa: PLC0415

        yield metrics.router(operations)


def _not_listening(settings: Settings, error: OSError) -> StartError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if settings.ext_authz_address is None:
        return StartError(
            f"AUTHZ_RUN_DIR: {settings.ext_authz_socket} cannot be listened on ({reason})",
            Exit.RUN_DIRECTORY,
        )
    return _taken("EXT_AUTHZ_ADDRESS", settings.ext_authz_address, reason)


def _taken(variable: str, address: tuple[str, int], reason: str) -> StartError:
    return StartError(
        f"{variable}: {_written(address)} cannot be listened on ({reason}); stop what uses it or"
        " choose another",
        Exit.ADDRESS,
    )


def _written(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _warn_of_peers(settings: Settings) -> None:
    """What is good to know of who may ask, where that is not this host alone."""
    for sentence in tls_files.warnings(settings, "EXT_AUTHZ_TLS", datetime.now(UTC)):
        log.warning("%s", sentence)
    if settings.ext_authz_client_ca_file is not None:
        return
    for variable, address in (
        ("EXT_AUTHZ_ADDRESS", settings.ext_authz_address),
        ("HTTP_ADDRESS", settings.http_address),
    ):
        if address is not None and not ipaddress.ip_address(address[0]).is_loopback:
            log.warning(
                "%s: whoever reaches %s may ask for decisions and fill the audit trail; with"
                " EXT_AUTHZ_TLS_CLIENT_CA_FILE only who has a certificate may",
                variable,
                _written(address),
            )


def _warn_of_residents(settings: Settings) -> None:
    """The agent of this sidecar needs no token at the forward proxy; others may reach that, too."""
    host, port = settings.forward_proxy_host, settings.forward_proxy_port
    if settings.agent_id and port and not ipaddress.ip_address(host).is_loopback:
        log.warning(
            "FORWARD_PROXY_HOST: whoever reaches %s is agent %s, without a token; use 127.0.0.1,"
            " or keep all others away from that port",
            _written((host, port)),
            settings.agent_id,
        )


def _many_ids() -> Iterator[str]:
    """Ids like `_new_id`'s, for one thread: the system is asked for many at a time."""
    while True:
        ids = secrets.token_hex(16 * 64)
        for start in range(0, len(ids), 32):
            yield ids[start : start + 32]


def _new_id() -> str:
    return secrets.token_hex(16)


def _tell(settings: Settings, loaded: Loaded, versions: Versions) -> None:
    log.info(
        "policies: %s loaded from %d files in %s, %d errors, version %s",
        counted(versions.current.size, len(versions.current.chain)),
        loaded.files,
        settings.policies_dir,
        len(loaded.errors),
        versions.current.version,
    )
    if not versions.current.size:
        log.error(
            "POLICIES_DIR: no valid policy is loaded; every decision is a denial (no_policy) until"
            " %s has a policy in a file named *.yaml or *.yml",
            settings.policies_dir,
        )
    if settings.mode is Mode.BYPASS:
        log.warning(BYPASS_WARNING)
    if settings.otel_enabled:
        log.warning("OTEL_ENABLED: this version does not export traces yet")


def _maintenance(
    settings: Settings, audit: AuditLog, gate: Gate, versions: Versions
) -> AuditMaintenance:
    def change(action: str, resource: str, reason: str) -> AuditRow:
        return change_row(
            row_id=_new_id(),
            at=time.time(),
            action=action,
            resource=resource,
            reason=reason,
            mode=gate.mode,
            policy_version=versions.current.version,
        )

    return AuditMaintenance(
        audit,
        settings.audit_db_path,
        key_file=settings.audit_key_file or default_key_file(settings.audit_db_path),
        retention_days=settings.audit_retention_days,
        change=change,
        now=time.time,
        monotonic=time.monotonic,
    )


def _attempts(audit: AuditLog, gate: Gate, versions: Versions) -> Attempts:
    """Who counts and records the requests for the admin API that were refused."""

    def record(count: int, last: Mapping[str, object]) -> None:
        row = refused_admin_row(
            row_id=_new_id(),
            at=time.time(),
            count=count,
            mode=gate.mode,
            policy_version=versions.current.version,
            metadata=last,
        )
        audit.write([row])

    return Attempts(record)


def _tokens(settings: Settings, state: State) -> TokenVerifier:
    """What verifies agent tokens.

    Raises:
        StartError: its public keys cannot be used.
    """
    secret = settings.jwt_secret.get_secret_value()
    try:
        keys = read_jwks_file(settings.jwks_file) if settings.jwks_file else None
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None
    _warn_of_residents(settings)
    return TokenVerifier(secret, settings.agent_id, keys, state.agents, _resident(settings))


def _resident(settings: Settings) -> Identity | None:
    """Whom this sidecar is for, as the settings describe it; None where it is for no one alone."""
    if not settings.agent_id:
        return None
    tier_rank = rank(settings.agent_tier)
    assert tier_rank is not None
    return Identity(
        agent_id=settings.agent_id,
        name=settings.agent_id,
        tier=settings.agent_tier,
        rank=tier_rank,
        tags=frozenset(settings.agent_tags),
        org_id=settings.agent_org,
        effective_rank=tier_rank,
    )


def _delegations(settings: Settings) -> Delegations:
    """Who signs delegations here, and whose are trusted.

    Raises:
        StartError: the keys cannot be used.
    """
    try:
        return Delegations(settings)
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None


def _followed(
    settings: Settings,
    switch: ModeSwitch,
    tokens: TokenVerifier,
    delegations: Delegations,
) -> list[Followed[Any]]:
    """The files besides the policies whose content is in force."""
    found: list[Followed[Any]] = []
    if settings.mode_file is not None:
        found.append(
            Followed(
                "mode",
                settings.mode_file,
                read=read_mode_file,
                use=switch.follow,
                stays="the mode stays as it is",
            )
        )
    if settings.jwks_file is not None:
        found.append(
            Followed(
                "keys",
                settings.jwks_file,
                read=read_jwks_file,
                use=lambda keys: _use_keys(tokens, keys),
                stays="the keys stay as they are",
            )
        )
    if settings.tls_cert_file is not None:
        files = (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
        found.append(
            Followed(
                "tls",
                settings.tls_cert_file,
                also=[file for file in files[1:] if file is not None],
                read=lambda _: tls_files.listener(settings),
                use=_ListenerCertificate(settings).use,
                stays="the listener keeps the certificate that it has",
            )
        )
    if settings.delegation_jwks_file is not None:
        found.append(
            Followed(
                "delegationKeys",
                settings.delegation_jwks_file,
                read=memory.read_delegation_jwks,
                use=delegations.trust,
                stays="the keys of delegations stay as they are",
            )
        )
    return found


class _ListenerCertificate:
    """Has the Envoy that reads its configuration from here take over what was found to be good."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen = ""

    def use(self, digest: str) -> None:
        """Also where nothing has changed: Envoy may have come up while the files were bad."""
        try:
            envoy_config.wake(self._settings.run_dir)
        except OSError as error:
            log.error(
                "AUTHZ_RUN_DIR: Envoy cannot be told of a new certificate: %s", error.strerror
            )
            return
        seen, self._seen = self._seen, digest
        if seen and digest != seen:
            log.info("TLS_CERT_FILE: new connections get what is in the files now")
            for sentence in tls_files.warnings(self._settings, "TLS", datetime.now(UTC)):
                log.warning("%s", sentence)


def _use_keys(tokens: TokenVerifier, keys: KeySet) -> None:
    if tokens.use_keys(keys):
        log.info("JWKS_FILE: %d public keys verify tokens from now on", len(keys))


def _write_mode(settings: Settings, mode: Mode) -> bool:
    """Tell the Envoy that reads its filter from here, if there is one; false where that failed."""
    if not (settings.run_dir / envoy_config.EXT_AUTHZ_FILE).exists():
        return True
    try:
        envoy_config.write_mode(mode, settings.decision_timeout_ms, settings.run_dir)
    except OSError as error:
        log.error(
            "AUTHZ_RUN_DIR: Envoy cannot be told of mode %s: %s; what happens while the service is"
            " away stays as it was",
            mode,
            error.strerror,
        )
        return False
    return True


@contextlib.asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _HttpServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the process has one place that stops it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _answering(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """Answer on the unix socket, and at HTTP_ADDRESS where there is one.

    Raises:
        StartError: one of them, or the certificate, cannot be used.
    """
    async with AsyncExitStack() as stack:
        if settings.http_address is not None:
            await stack.enter_async_context(_http_at(app, settings.http_address, settings))
        await stack.enter_async_context(_http(app, settings.http_socket))
        yield


@contextlib.asynccontextmanager
async def _http(app: FastAPI, path: Path) -> AsyncIterator[None]:
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
        raise _taken("HTTP_ADDRESS", address, reason) from None
    async with _uvicorn(app, listener, _written(address), tls):
        log.info("HTTP_ADDRESS: answering on %s", _written(address))
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
                raise StartError(f"{name}: the HTTP server did not start")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task
