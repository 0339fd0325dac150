"""What is there only where the settings say so: each part is imported when it is wanted.

A part may watch decisions (`observers`), answer requests (`routes`) and do work of its own while
the service runs (`running`); what is off costs nothing, not even an import.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter

from authz.edges.http.probes import Health
from authz.edges.incidents import Incidents
from authz.edges.reloader import Reloader
from authz.gate import Gate, Observer, Tracer
from authz.operations import Operations
from authz.settings import Settings
from authz.stores.audit_log import AuditLog
from authz.stores.versions import Versions

if TYPE_CHECKING:
    from authz.edges.alerts.service import Alerts


@dataclass(frozen=True, slots=True)
class Parts:
    """What every service has."""

    settings: Settings
    audit: AuditLog
    gate: Gate
    versions: Versions
    reloader: Reloader
    operations: Operations
    incidents: Incidents
    health: Health
    #: None where none is configured.
    alerts: "Alerts | None" = None


def alerts_of(settings: Settings) -> "Alerts | None":
    """Alerts; made before the first decision, since that may be worth one."""
    if not settings.alerts_enabled:
        return None
    from authz.wiring.alerts import alerts  # noqa: PLC0415

    return alerts(settings)


def observers(settings: Settings, alerts: "Alerts | None") -> list[Observer]:
    """Who is told of decisions."""
    found: list[Observer] = []
    if settings.metrics_enabled:
        from authz.edges.metrics.counts import Counts  # noqa: PLC0415

        found.append(Counts())
    if alerts is not None:
        found.append(alerts.watch)
    return found


def tracer(settings: Settings, stack: AsyncExitStack) -> Tracer | None:
    """Who tells traces of decisions, until the stack ends; None where nobody does.

    Raises:
        StartError: its certificates cannot be used.
    """
    if not settings.is_traced:
        return None
    from authz.wiring import tracing  # noqa: PLC0415

    return tracing.tracer(settings, stack)


def routes(parts: Parts) -> Iterator[APIRouter]:
    """What is answered besides."""
    if parts.settings.metrics_enabled:
        from authz.wiring import metrics  # noqa: PLC0415

        yield metrics.routes(parts)


@contextlib.asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """What works beside answering, until the service stops; the last to start is first to stop."""
    async with AsyncExitStack() as stack:
        if parts.alerts is not None:
            await stack.enter_async_context(
                parts.alerts.running(lambda: parts.versions.current.chain, parts.incidents)
            )
        if parts.settings.sync_url is not None:
            from authz.wiring.syncing import Syncing  # noqa: PLC0415

            syncing = Syncing(parts.settings, parts.incidents)
            parts.health.others["sync"] = syncing.health
            await stack.enter_async_context(syncing.running())
        yield
