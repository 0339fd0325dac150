"""Analytics of the audit trail (CONTRACT §12): what was asked of the sidecar, in figures.

- What is asked for is checked here, and summed up by a reader process: this one has decisions to
  make.
- A parameter that is not known is refused; a period that is none has an error word of its own, as
  it is published.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from authz.edges.http.admin import PREFIX
from authz.edges.http.audit import NOT_KEPT, Parameters
from authz.edges.http.credentials import AdminToken
from authz.edges.http.queries import once
from authz.edges.http.reading import answered
from authz.edges.readers.pool import Readers
from authz.stores.analytics.report import AGENTS, MAX_AGENTS, PERIODS

#: The period of the heat map: a day has one cell an hour, and a week one of each.
HEATMAP_PERIOD: Final = "30d"

#: Checked by hand, for the sake of its error.
Period = Annotated[str, Field(description="Counts back from now: `24h`, `7d` or `30d`.")]

#: What `period` may say.
WORDS: Final = tuple(PERIODS)


class Asked(Parameters):
    """Figures of a period."""

    period: Period = "24h"


class SeriesAsked(Asked):
    """Figures over time."""

    bucket: Literal["hour", "day"] = Field("hour", description="How long one is, in UTC.")


class AgentsAsked(Asked):
    """Figures of agents."""

    sort: Literal["requests", "denied", "latency"] = Field(
        "requests", description="What there has to be most of."
    )
    limit: int = Field(AGENTS, ge=1, le=MAX_AGENTS, description="Agents at most.")


class HeatmapAsked(Asked):
    """Figures by weekday and hour."""

    period: Period = HEATMAP_PERIOD


def router(admin: AdminToken, readers: Readers, now: Callable[[], float] = time.time) -> APIRouter:
    """The routes; none without a token.

    `now`: seconds since the epoch.
    """
    if not admin:
        return APIRouter()
    analytics = _Analytics(readers, now)
    group = APIRouter(
        prefix=f"{PREFIX}/analytics", dependencies=[Depends(admin.required), Depends(once)]
    )
    group.get("/overview")(analytics.overview)
    group.get("/timeseries")(analytics.timeseries)
    group.get("/agents")(analytics.agents)
    group.get("/policies")(analytics.policies)
    group.get("/delegations")(analytics.delegations)
    group.get("/trust-distribution")(analytics.trust_distribution)
    group.get("/latency-heatmap")(analytics.latency_heatmap)
    return group


class _Analytics:
    """The handlers."""

    def __init__(self, readers: Readers, now: Callable[[], float]) -> None:
        self._readers = readers
        self._now = now

    async def overview(self, request: Request, asked: Annotated[Asked, Query()]) -> Response:
        return await self._report(request, "overview", asked)

    async def timeseries(
        self, request: Request, asked: Annotated[SeriesAsked, Query()]
    ) -> Response:
        return await self._report(request, "timeseries", asked)

    async def agents(self, request: Request, asked: Annotated[AgentsAsked, Query()]) -> Response:
        return await self._report(request, "agents", asked)

    async def policies(self, request: Request, asked: Annotated[Asked, Query()]) -> Response:
        return await self._report(request, "policies", asked)

    async def delegations(self, request: Request, asked: Annotated[Asked, Query()]) -> Response:
        return await self._report(request, "delegations", asked)

    async def trust_distribution(
        self, request: Request, asked: Annotated[Asked, Query()]
    ) -> Response:
        return await self._report(request, "trust-distribution", asked)

    async def latency_heatmap(
        self, request: Request, asked: Annotated[HeatmapAsked, Query()]
    ) -> Response:
        return await self._report(request, "latency-heatmap", asked)

    async def _report(self, request: Request, name: str, asked: Asked) -> Response:
        if asked.period not in PERIODS:
            said = f"Period must be one of: {', '.join(WORDS)}"
            return JSONResponse({"error": "invalid_period", "message": said}, 400)
        params: dict[str, Any] = {**asked.model_dump(), "now": self._now()}
        answer = await answered(request, self._readers, f"analytics.{name}", params)
        answer.headers.update(NOT_KEPT)
        return answer
