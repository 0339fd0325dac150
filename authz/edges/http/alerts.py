"""Alerts over HTTP: `GET /admin/alerts`, and `/admin/alerts/channels` (CONTRACT §1.3).

- Nothing here has an address or a secret in it, masked or not: what a channel is called, what kind
  it is and what it was answered is enough to see that it works.
- A test is sent in a thread, past the outbox, one at a time.
"""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from authz.core.alert_words import SEVERITIES
from authz.edges.http.admin import PREFIX
from authz.edges.http.bodies import Body, read_json
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.queries import known
from authz.edges.http.refusals import refusals
from authz.edges.threads import in_thread
from authz.operations import Operations

if TYPE_CHECKING:
    from authz.edges.alerts.service import Alerts

#: Deliveries that are shown at once.
MAX_SHOWN: Final = 500
#: Tests that may be under way; each holds a thread for ten seconds at most.
_AT_ONCE: Final = 1


class TestAlert(Body):
    """What to send: info where nothing is said."""

    severity: str = "info"


class TestChannels(TestAlert):
    """The same, and where: everywhere where nothing is said."""

    to: str = ""


def router(admin: AdminToken, alerts: "Alerts | None", operations: Operations) -> APIRouter:
    """The routes; none without a token.

    Args:
        alerts: None where none are configured.
    """
    if not admin:
        return APIRouter()
    turn = asyncio.Semaphore(_AT_ONCE)

    async def show(limit: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = 100) -> JSONResponse:
        if alerts is None:
            return JSONResponse({"enabled": False, "on": [], "channels": []})
        from authz.stores.alert_outbox import Unusable  # noqa: PLC0415

        try:
            status = await in_thread(lambda: alerts.status(limit))
        except Unusable as error:
            raise HTTPException(503, str(error), {"retry-after": "5"}) from None
        return JSONResponse(
            {"enabled": True, "on": list(alerts.asked), "channels": _channels(alerts), **status}
        )

    async def channels() -> JSONResponse:
        return JSONResponse({"channels": _channels(alerts)})

    async def test_one(name: str, request: Request) -> JSONResponse:
        body = await read_json(request, TestAlert, optional=True)
        return await tested([name], body.severity)

    async def test_all(request: Request) -> JSONResponse:
        body = await read_json(request, TestChannels, optional=True)
        there = list(alerts.destinations) if alerts is not None else []
        return await tested([body.to] if body.to else there, body.severity)

    async def tested(names: list[str], severity: str) -> JSONResponse:
        if severity not in SEVERITIES:
            raise HTTPException(400, f"severity: write one of {', '.join(SEVERITIES)}")
        if alerts is None:
            raise HTTPException(409, "no alerts are configured; set ALERT_WEBHOOK_URL or another")
        for name in names:
            if name not in alerts.destinations:
                raise HTTPException(404, "there is no such channel")
        if turn.locked():
            raise HTTPException(429, "a test is under way", {"retry-after": "10"})
        async with turn:
            with refusals():
                operations.record("alerts:test", ",".join(names), by=BY, before=None, after=None)
            results = [await _tried(alerts, name, severity) for name in names]
        return JSONResponse({"delivered": all(r["delivered"] for r in results), "results": results})

    group = APIRouter(
        prefix=f"{PREFIX}/alerts", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.get("")(show)
    group.post("/test")(test_all)
    group.get("/channels")(channels)
    group.post("/channels/{name}/test")(test_one)
    return group


def _channels(alerts: "Alerts | None") -> list[dict[str, Any]]:
    return [{"name": name, "type": name} for name in (alerts.destinations if alerts else ())]


async def _tried(alerts: "Alerts", name: str, severity: str) -> dict[str, Any]:
    from authz.edges.alerts.outgoing import Refused  # noqa: PLC0415

    try:
        said = await in_thread(lambda: alerts.test(name, severity))
    except Refused as refused:
        return {"name": name, "delivered": False, "message": str(refused)}
    return {"name": name, "delivered": True, "message": said}
