"""The mode over HTTP: `GET` and `PUT /admin/mode`."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from authz.core.mode import Mode
from authz.core.timestamps import rfc3339
from authz.edges.http.admin import PREFIX
from authz.edges.http.bodies import Body, read_json
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.queries import known
from authz.edges.http.refusals import refusals
from authz.edges.mode_switch import ModeSwitch
from authz.operations import Operations


class NewMode(Body):
    """Which mode: enforce, audit or bypass."""

    mode: str


def router(admin: AdminToken, switch: ModeSwitch, operations: Operations) -> APIRouter:
    """The routes; none without a token."""
    if not admin:
        return APIRouter()

    async def show() -> JSONResponse:
        return JSONResponse(_shown(switch))

    async def change(request: Request) -> JSONResponse:
        body = await read_json(request, NewMode)
        with refusals():
            if body.mode not in list(Mode):
                raise ValueError(f"mode: write one of {', '.join(Mode)}")
            told = switch.switch(Mode(body.mode), operations, by=BY)
        until = "MODE_FILE says another one, a SIGHUP or " if switch.has_file else ""
        note = f"it lasts until {until}a restart"
        if not told:
            note += "; Envoy could not be told, and what happens while the service is away is as"
            note += " it was"
        if switch.mode is Mode.BYPASS:
            note += "; nothing is evaluated and nothing is recorded"
        return JSONResponse({**_shown(switch), "note": note})

    group = APIRouter(
        prefix=f"{PREFIX}/mode", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.get("")(show)
    group.put("")(change)
    return group


def _shown(switch: ModeSwitch) -> dict[str, Any]:
    return {
        "mode": str(switch.mode),
        "source": switch.source,
        "since": rfc3339(switch.since),
    }
