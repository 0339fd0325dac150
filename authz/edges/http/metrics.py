"""`GET /metrics`: the figures as Prometheus text (METRICS_ENABLED).

- What is counted is copied on the event loop's thread, and written out in another, one scrape after
  the other: whoever asks again and again costs no decision more than the copies.
- It answers also while the audit store cannot be read: then it is needed most.
"""

import asyncio
import contextlib
from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from authz.core.errors import AuditUnavailable
from authz.edges.metrics.exposition import written
from authz.edges.metrics.sources import Figures
from authz.edges.threads import in_thread


def router(figures: Figures, refresh: Callable[[], None]) -> APIRouter:
    """The route; open, as scrapers expect it.

    Args:
        refresh: takes over what others have changed; raises AuditUnavailable where it cannot.
    """
    routes = APIRouter()
    turn = asyncio.Lock()

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        async with turn:
            with contextlib.suppress(AuditUnavailable):
                refresh()
            read = figures.read()
            body, content_type = await in_thread(lambda: written(read, accept))
        return Response(body, headers={"content-type": content_type})

    return routes
