"""The admin API: policy versions, and the way back to one (CONTRACT §1.3).

- Off while ADMIN_TOKEN is unset: then there is nothing here, 404.
- Who may is `credentials`' to say.
- `/admin/*` and `/api/v1/admin/*` are one.
- A change takes effect also while the audit store cannot be written (`stores/versions.py`): it may
  be a denial that is needed now.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import peewee
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from authz.core.policy_entry import document_entry, dumped
from authz.core.policy_set import POLICY
from authz.core.timestamps import rfc3339, seconds_of
from authz.edges.http.answers import page, tag_of, tagged
from authz.edges.http.bodies import Body, read_json
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.listing import MAX_LISTED, Limit
from authz.edges.http.queries import known
from authz.edges.threads import in_thread
from authz.stores.pace import Pace
from authz.stores.version_log import Corrupt, Said, VersionReader, entry_of
from authz.stores.versions import UnknownVersion, Versions

PREFIX: Final = "/admin"
#: And under which all of it is answered as well (CONTRACT §1.3).
ALIAS: Final = "/api/v1/admin"
#: Both.
PREFIXES: Final = (PREFIX, ALIAS)

#: A place in a list that does not change, of at most as many digits as SQLite counts with.
Place = Annotated[int, Query(ge=0, le=2**63 - 1)]

T = TypeVar("T")


class VersionName(Body):
    """Which version."""

    version: str = Field(min_length=1)


class VersionToPin(Body):
    """Which version; the one in force where none is named."""

    version: str | None = Field(None, min_length=1)


def router(admin: AdminToken, versions: Versions, audit_db_path: Path) -> APIRouter:
    """The admin routes; none without a token."""
    if not admin:
        return APIRouter()
    handlers = _Versions(versions, audit_db_path)
    group = APIRouter(
        prefix=f"{PREFIX}/policies", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.get("/versions")(handlers.listed)
    group.get("/versions/{version}")(handlers.one)
    group.post("/rollback")(handlers.rollback)
    group.post("/pin")(handlers.pin)
    group.post("/unpin")(handlers.unpin)
    group.post("/release")(handlers.unpin)
    return group


class _Versions:
    """The handlers."""

    def __init__(self, versions: Versions, audit_db_path: Path) -> None:
        self._versions = versions
        self._path = audit_db_path

    async def listed(
        self,
        request: Request,
        at: str | None = None,
        after: Place | None = None,
        limit: Limit = 100,
    ) -> Response:
        moment = None
        if at is not None:
            try:
                moment = rfc3339(seconds_of(at))
            except ValueError as error:
                raise HTTPException(400, f"at: {error}") from None
        more = {"current": self._versions.current.version, "pinned": self._versions.pinned}

        def made() -> bytes:
            pace = Pace()
            # One more than is shown tells whether there are more.
            found = VersionReader(self._path).walk(at=moment, limit=limit + 1, before=after)
            entries = ((str(one.place), dumped(entry_of(one))) for one in pace.over(found))
            return page("versions", entries, limit, more)

        try:
            body = await in_thread(made)
        except (FileNotFoundError, peewee.PeeweeException):
            raise HTTPException(503, "the audit database cannot be read") from None
        return tagged(request, body, tag_of(body))

    async def one(
        self, version: str, request: Request, after: Place = 0, limit: Limit = MAX_LISTED
    ) -> Response:
        versions = self._versions
        # Read here: the thread is to see one state.
        is_current = version == versions.current.version

        def made() -> bytes:
            pace = Pace()
            sha256, found = versions.said(version, pace)
            more = {"version": version, "sha256": sha256, "active": is_current}

            def entry(one: Said) -> bytes:
                return dumped(document_entry(json.loads(one.said), active=is_current))

            policies = [one for one in found if one.kind == POLICY]
            places = enumerate(pace.over(policies[after:]), after + 1)
            entries = ((str(place), entry(one)) for place, one in places)
            others = [] if after else found[len(policies) : len(policies) + MAX_LISTED]
            beside = {"documents": [entry(one) for one in pace.over(others)]}
            return page("policies", entries, limit, more, {} if after else beside)

        body = await self._kept(made)
        return tagged(request, body, tag_of(body))

    async def rollback(self, request: Request) -> JSONResponse:
        return await self._back_to((await read_json(request, VersionName)).version)

    async def pin(self, request: Request) -> JSONResponse:
        version = (await read_json(request, VersionToPin, optional=True)).version
        if version is not None:
            return await self._back_to(version)
        self._versions.pin(by=BY)
        return self._state()

    async def unpin(self) -> JSONResponse:
        if not self._versions.release(by=BY):
            raise HTTPException(409, "nothing is pinned")
        return self._state()

    async def _back_to(self, version: str) -> JSONResponse:
        # Reading one that was active before the last start takes a moment.
        await self._kept(lambda: self._versions.fetch(version))
        try:
            self._versions.rollback(version, by=BY)
        except UnknownVersion:
            raise self._not_kept() from None
        return self._state()

    async def _kept(self, work: Callable[[], T]) -> T:
        try:
            return await in_thread(work)
        except Corrupt as error:
            raise HTTPException(409, str(error)) from None
        except UnknownVersion:
            raise self._not_kept() from None

    def _not_kept(self) -> HTTPException:
        kept = ", ".join(self._versions.kept())
        return HTTPException(404, f"no such version is kept; kept are {kept}")

    def _state(self) -> JSONResponse:
        versions = self._versions
        return JSONResponse({"version": versions.current.version, "pinned": versions.pinned})
