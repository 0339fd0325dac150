"""The admin API: policy versions and the way back to one (CONTRACT §1.3).

- Off while ADMIN_TOKEN is unset: then there is nothing here, 404.
- Who may is `credentials`' to say.
- `/admin/*` and `/api/v1/admin/*` are one.
"""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Final

import peewee
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from authz.core.timestamps import rfc3339, seconds_of
from authz.edges.http.bodies import read_body
from authz.edges.http.credentials import AdminToken
from authz.stores.version_log import Corrupt, VersionReader, entry_of
from authz.stores.versions import UnknownVersion, Versions

PREFIXES: Final = ("/admin", "/api/v1/admin")
MAX_LISTED: Final = 1000


def router(admin: AdminToken, versions: Versions, audit_db_path: Path) -> APIRouter:
    """The admin routes; none without a token."""
    routes = APIRouter()
    if not admin:
        return routes

    def listed(
        at: str | None = None, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100
    ) -> JSONResponse:
        moment = None
        if at is not None:
            try:
                moment = rfc3339(seconds_of(at))
            except ValueError as error:
                raise HTTPException(400, f"at: {error}") from None
        try:
            found = VersionReader(audit_db_path).activations(at=moment, limit=limit)
        except (FileNotFoundError, peewee.PeeweeException):
            raise HTTPException(503, "the audit database cannot be read") from None
        return JSONResponse(
            {
                "current": versions.current.version,
                "pinned": versions.pinned,
                "versions": [entry_of(recorded) for recorded in found],
            }
        )

    async def rollback(request: Request) -> JSONResponse:
        version = await _version(request)
        try:
            # Reading one that was active before the last start takes a moment.
            await asyncio.to_thread(versions.fetch, version)
            versions.rollback(version)
        except Corrupt as error:
            raise HTTPException(409, str(error)) from None
        except UnknownVersion:
            kept = ", ".join(versions.kept())
            raise HTTPException(404, f"no such version is kept; kept are {kept}") from None
        return _state(versions)

    async def release() -> JSONResponse:
        if not versions.release():
            raise HTTPException(409, "nothing is pinned")
        return _state(versions)

    for prefix in PREFIXES:
        group = APIRouter(prefix=f"{prefix}/policies", dependencies=[Depends(admin.required)])
        group.get("/versions")(listed)
        group.post("/rollback")(rollback)
        group.post("/release")(release)
        routes.include_router(group)
    return routes


def _state(versions: Versions) -> JSONResponse:
    return JSONResponse({"version": versions.current.version, "pinned": versions.pinned})


async def _version(request: Request) -> str:
    try:
        body = json.loads(await read_body(request))
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    version = body.get("version") if isinstance(body, dict) else None
    if not isinstance(version, str) or not version:
        raise HTTPException(400, 'the body must be {"version": "..."}')
    return version
