"""`/metrics`, put together of the parts that have figures."""

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter

from authz.edges.http import metrics
from authz.edges.metrics import sources
from authz.edges.metrics.counts import counts_of
from authz.edges.metrics.sources import Figures

if TYPE_CHECKING:
    from authz.wiring.extras import Parts


def routes(parts: "Parts") -> APIRouter:
    """The route, with all that is read for it."""
    figures = Figures()
    sources.decisions(figures, counts_of(parts.gate.observers), time.time)
    sources.remembered(figures, parts.operations, parts.incidents)
    sources.sidecar(figures, parts.health, parts.reloader, parts.settings.audit_db_path)
    if parts.alerts is not None:
        alerts = parts.alerts
        sources.alerts(figures, lambda: alerts.counts)
    if parts.gate.tracer is not None:
        from authz.wiring.tracing import exporter_of  # noqa: PLC0415

        sources.traces(figures, exporter_of(parts.gate.tracer).figures)
    return metrics.router(figures, parts.operations.refresh)
