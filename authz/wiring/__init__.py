"""The composition root of the service: settings → stores → gate → edges, stopped in reverse."""

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

from fastapi import APIRouter

from authz import __version__, memory
from authz.core.audit import AuditRow, change_row, refused_admin_row
from authz.core.environment import Environment
from authz.core.identity import TokenVerifier
from authz.core.mode import Mode
from authz.core.policy_set import counted
from authz.core.state import State
from authz.edges.http import (
    admin,
    analytics,
    bundle,
    log_level,
    mode,
    policies,
    policy_trial,
    policy_writes,
    records,
    relationships,
)
from authz.edges.http import alerts as alert_routes
from authz.edges.http import audit as audit_routes
from authz.edges.http.app import build_app
from authz.edges.http.attempts import Attempts
from authz.edges.http.credentials import AdminToken
from authz.edges.http.documents import Reader
from authz.edges.http.probes import Health
from authz.edges.incidents import Incidents
from authz.edges.mode_switch import BYPASS_WARNING, ModeSwitch
from authz.edges.policy_changes import PolicyChanges
from authz.edges.readers.pool import Readers
from authz.edges.reloader import Reloader, report
from authz.gate import Gate, Observer, Tracer
from authz.run_dir import run_directory
from authz.settings import Settings
from authz.stores.audit_key import default_key_file
from authz.stores.audit_log import AuditLog
from authz.stores.audit_maintenance import AuditMaintenance
from authz.stores.parsing import ParserProcess, parse_aside
from authz.stores.policies import Loaded, PolicySource
from authz.stores.policy_files import PolicyFiles
from authz.stores.versions import Versions
from authz.wiring import extras, following, http, identity, ingest, levels, source, transport
from authz.wiring.extras import Parts

log = logging.getLogger(__name__)

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
        policies_from, loaded = _policies(settings, stack)
        state = State()
        audit = _audit(settings, state, stack)
        offset = memory.steady_offset(audit, time.time(), time.perf_counter())
        versions = Versions(
            audit,
            settings.audit_db_path,
            limit=settings.policy_version_limit,
            mode=lambda: gate.mode,
            now=time.time,
            new_id=_new_id,
            signed_only=settings.require_signed_policies,
        )
        tokens = identity.tokens(settings, state)
        delegations = identity.delegations(settings)
        action_tokens = memory.action_tokens(settings)
        environment = memory.environment(settings, state, delegations, action_tokens)
        alerts = extras.alerts_of(settings)
        gate = _gate(
            settings,
            audit,
            versions,
            tokens,
            environment,
            offset,
            extras.observers(settings, alerts),
            extras.tracer(settings, stack),
        )
        maintenance = _maintenance(settings, audit, gate, versions)
        stack.callback(maintenance.stop)
        # After the last answer, and before the last signature.
        stack.callback(gate.close)
        versions.start(loaded.snapshot)
        _tell(settings, loaded, versions)
        incidents = Incidents(versions)
        news = source.BundleNews(versions, incidents)
        news(loaded)
        following.write_mode(settings, gate.mode)
        switch = ModeSwitch(
            gate,
            versions,
            has_file=settings.mode_file is not None,
            tell_envoy=lambda mode: following.write_mode(settings, mode),
            now=time.time,
        )
        reloader = Reloader(
            policies_from,
            versions,
            loaded=loaded,
            files=following.followed(settings, switch, tokens, delegations),
            poll_s=settings.policies_poll_s,
        )
        reloader.listen(news)
        ext_authz = transport.transport(settings, gate)
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
        readers = Readers(settings.audit_db_path, ingested=settings.audit_ingest_path)
        parts = Parts(
            settings, audit, gate, versions, reloader, operations, incidents, health, alerts
        )
        attempts = _attempts(audit, gate, versions)
        # After the last request, and before the audit database is closed.
        stack.callback(attempts.close)
        taker = ingest.taker(settings)
        token = _admin_token(settings, attempts)
        others = (
            *_other_routes(parts, token, tokens, readers, switch),
            ingest.routes(parts, token, taker),
        )
        app = build_app(gate, health, operations, *others, *extras.routes(parts))
        stopping = _signalled(reloader, switch)
        _settle()
        maintenance.start()
        await stack.enter_async_context(transport.answering(ext_authz, settings, http.DRAIN_S))
        await stack.enter_async_context(_running(reloader.run()))
        await stack.enter_async_context(ingest.running(taker))
        await stack.enter_async_context(extras.running(parts))
        # Last, because an answer from it says that everything else is up.
        await stack.enter_async_context(http.answering(app, settings))
        # First to stop: who follows the trail would never be done.
        stack.callback(readers.close)
        log.info("serving in mode %s, version %s", gate.mode, __version__)
        on_ready()
        await stopping.wait()
        log.info("stopping: calls in flight get %g s", http.DRAIN_S)


def _policies(settings: Settings, stack: AsyncExitStack) -> tuple[PolicySource, Loaded]:
    """Where the policies come from, and the first reading of them."""
    parser = ParserProcess()
    stack.callback(parser.stop)
    policies_from = source.source(settings, parser)
    loaded = policies_from.read()
    report(loaded.problems)
    return policies_from, loaded


def _audit(settings: Settings, state: State, stack: AsyncExitStack) -> AuditLog:
    audit = AuditLog(
        settings.audit_db_path,
        monotonic=time.monotonic,
        ledger=state.ledger,
        sync=settings.audit_sync,
    )
    stack.callback(audit.close)
    audit.open()
    return audit


def _gate(
    settings: Settings,
    audit: AuditLog,
    versions: Versions,
    tokens: TokenVerifier,
    environment: Environment,
    offset: float,
    observers: Sequence[Observer],
    tracer: Tracer | None,
) -> Gate:
    proxy_authorization = settings.proxy_authorization
    return Gate(
        snapshot=lambda: versions.current,
        tokens=tokens,
        recorder=audit,
        environment=environment,
        mode=settings.mode,
        now=time.time,
        monotonic_ns=time.perf_counter_ns,
        steady_offset=offset,
        new_id=_many_ids().__next__,
        proxy_authorization=proxy_authorization.get_secret_value() if proxy_authorization else "",
        allow_unrecorded=settings.audit_on_failure == "allow",
        observers=observers,
        tracer=tracer,
    )


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


def _admin_token(settings: Settings, attempts: Attempts) -> AdminToken:
    secret = settings.admin_token.get_secret_value() if settings.admin_token else ""
    return AdminToken(secret, attempts)


def _other_routes(
    parts: Parts,
    token: AdminToken,
    tokens: TokenVerifier,
    readers: Readers,
    switch: ModeSwitch,
) -> Iterator[APIRouter]:
    """What the HTTP application answers besides probes and decisions."""
    settings, versions, operations = parts.settings, parts.versions, parts.operations
    reloader = parts.reloader
    yield admin.router(token, versions, settings.audit_db_path)
    reader, directory = Reader(), settings.policies_dir
    files = PolicyFiles(directory, parse_aside)
    changes = PolicyChanges(
        files, reloader, versions, operations, read_only=source.read_only(settings)
    )
    yield bundle.router(token, versions, lambda: reloader.loaded, directory)
    yield policies.router(token, versions, lambda: reloader.loaded, directory, reader)
    yield policy_writes.router(token, changes, versions, reader)
    yield policy_trial.router(token, versions, operations, reader)
    yield mode.router(token, switch, operations)
    yield log_level.router(token, levels.log_level(settings, versions))
    yield alert_routes.router(token, parts.alerts, operations)
    yield records.router(token, operations)
    yield relationships.router(token, operations, tokens)
    yield audit_routes.router(token, readers)
    yield analytics.router(token, readers)


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
        source.named(settings),
        len(loaded.errors),
        versions.current.version,
    )
    if not versions.current.size and settings.policy_bundle is not None:
        log.error(
            "POLICY_BUNDLE: no policy is loaded; every decision is a denial (no_policy) until %s is"
            " a bundle that can be taken",
            settings.policy_bundle,
        )
    elif not versions.current.size:
        log.error(
            "POLICIES_DIR: no valid policy is loaded; every decision is a denial (no_policy) until"
            " %s has a policy in a file named *.yaml or *.yml",
            settings.policies_dir,
        )
    if settings.mode is Mode.BYPASS:
        log.warning(BYPASS_WARNING)


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


@contextlib.asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
