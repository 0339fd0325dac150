"""How much the service says, over HTTP: `GET` and `PUT /admin/log-level`.

- A change counts at once and until a restart, and is recorded as soon as it can be: whoever wants
  to know why nothing can be recorded must not be refused for that.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from authz.core.timestamps import rfc3339
from authz.edges.http.admin import PREFIX
from authz.edges.http.bodies import Body, read_json
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.queries import known
from authz.edges.threads import in_thread
from authz.stores.versions import Versions

log = logging.getLogger(__name__)

#: What LOG_LEVEL can be.
LEVELS: Final = ("debug", "info", "warning", "error")


class NewLevel(Body):
    """Which level: debug, info, warning or error."""

    level: str


class LogLevel:
    """How much is said now. On the event loop's thread."""

    def __init__(
        self,
        level: str,
        versions: Versions,
        *,
        use: Callable[[str], None],
        tell_envoy: Callable[[str], bool],
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            level: LOG_LEVEL.
            use: has this process say so much.
            tell_envoy: has Envoy say as much, in a thread; false where it cannot be told.
            now: seconds since the epoch.
        """
        self.level = level
        self.at_start: Final = level
        self.since = now()
        self._versions = versions
        self._use = use
        self._tell_envoy = tell_envoy
        self._now = now

    async def change(self, level: str) -> bool:
        """Say so much from now on; false where Envoy could not be told."""
        before = self.level
        if level != before:
            self.level, self.since = level, self._now()
            self._use(level)
            reason = f"the log level was changed from {before} to {level} by {BY}"
            # At any level, so that a log shows why it ends, or why there is more of it.
            log.log(logging.ERROR if level == "error" else logging.WARNING, "%s", reason)
            self._versions.note(f"log-level:{level}", before, reason)
        # Also where it is the same: Envoy may have been restarted, with the level of its start.
        return await in_thread(lambda: self._tell_envoy(level))


def router(admin: AdminToken, level: LogLevel) -> APIRouter:
    """The routes; none without a token."""
    if not admin:
        return APIRouter()

    async def show() -> JSONResponse:
        return JSONResponse(_shown(level))

    async def change(request: Request) -> JSONResponse:
        asked = (await read_json(request, NewLevel)).level
        if asked not in LEVELS:
            raise HTTPException(400, f"level: write one of {', '.join(LEVELS)}")
        told = await level.change(asked)
        note = "it lasts until a restart"
        if not told:
            note += "; Envoy was not told, and says as much as before"
        return JSONResponse({**_shown(level), "note": note})

    group = APIRouter(
        prefix=f"{PREFIX}/log-level", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.get("")(show)
    group.put("")(change)
    return group


def _shown(level: LogLevel) -> dict[str, Any]:
    return {"level": level.level, "atStart": level.at_start, "since": rfc3339(level.since)}
