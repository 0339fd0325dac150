"""Another sidecar's audit database, as `curl -F` sends it (seed, "Sync When Connected").

- It is written down as it comes, and taken in by a process of its own (`edges/ingest`); what is in
  it is stored in the ingested trail, all of it or nothing.
- One at a time. Who comes meanwhile is told to come again, before a byte of the file is read.
- Each one that is taken is a row of our own trail, and each that is refused is an incident.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from authz.core.incident import Kind
from authz.edges.http.admin import PREFIX
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.queries import known
from authz.edges.http.upload import write_upload
from authz.edges.incidents import Incidents, Recorder
from authz.edges.ingest.job import Outcome
from authz.edges.ingest.taker import TIMES, NoRoom, Taker

#: The form's field, which is the seed's.
FIELD: Final = "audit"
#: What an incident is about.
SUBJECT: Final = "POST /admin/audit/ingest"
#: Statuses by what came of it.
STATUSES: Final = {"invalid": 422, "conflict": 409, "unavailable": 503}
#: Seconds after which it is worth asking again while another one is taken in.
BUSY_S: Final = 10
#: Headers of answers: the trail's id here, and its last row that is known.
ORIGIN_HEADER: Final = "x-meshguard-ingest-origin"
LAST_HEADER: Final = "x-meshguard-ingest-last"


def router(
    admin: AdminToken, taker: Taker, max_bytes: int, recorder: Recorder, incidents: Incidents
) -> APIRouter:
    """The route; none without a token.

    Args:
        max_bytes: AUDIT_INGEST_MAX_BYTES.
        recorder: writes rows of our own trail.
    """
    if not admin:
        return APIRouter()
    handler = _Ingest(taker, max_bytes, recorder, incidents)
    group = APIRouter(
        prefix=f"{PREFIX}/audit", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.post("/ingest")(handler.ingest)
    return group


class _Ingest:
    """The handler."""

    def __init__(
        self, taker: Taker, max_bytes: int, recorder: Recorder, incidents: Incidents
    ) -> None:
        self._taker = taker
        self._max_bytes = max_bytes
        self._recorder = recorder
        self._incidents = incidents

    async def ingest(self, request: Request) -> JSONResponse:
        taker = self._taker
        if taker.busy:
            said = "another trail is being taken in, and there is one at a time; try later"
            raise HTTPException(503, said, {"retry-after": str(BUSY_S)})
        taker.busy = True
        try:
            outcome = await self._taken(request)
        finally:
            taker.busy = False
        headers = {ORIGIN_HEADER: outcome.origin} if outcome.origin else {}
        if outcome.last is not None:
            headers[LAST_HEADER] = str(outcome.last)
        if outcome.kind:
            raise self._refused(STATUSES[outcome.kind], outcome.message, headers)
        self._recorder.note("audit:ingest", outcome.origin, _reason(outcome))
        self._incidents.ended(Kind.INGEST_REFUSED, SUBJECT)
        answer = {"ingested": outcome.ingested, "duplicates": outcome.duplicates}
        return JSONResponse(answer, headers=headers)

    async def _taken(self, request: Request) -> Outcome:
        try:
            async with self._taker.upload() as file:
                room = self._taker.check_room
                size = await write_upload(request, FIELD, file, self._max_bytes, room)
                room(size * TIMES)
                return await self._taker.take(Path(file.name))
        except NoRoom as error:
            raise self._refused(503, str(error), {}) from None
        except HTTPException as error:
            if error.status_code == 413:
                raise self._refused(413, error.detail, {}) from None
            raise
        except OSError as error:
            said = f"the upload cannot be written down: {error.strerror}"
            raise self._refused(503, said, {}) from None

    def _refused(self, status: int, message: str, headers: dict[str, str]) -> HTTPException:
        self._incidents.happened(
            Kind.INGEST_REFUSED, SUBJECT, f"an audit database that was sent was refused: {message}"
        )
        return HTTPException(status, message, headers)


def _reason(outcome: Outcome) -> str:
    said = (
        f"by {BY}: {outcome.ingested} rows ingested, {outcome.duplicates} known, up to row"
        f" {outcome.last}, of the file with the SHA-256 {outcome.sha256}"
    )
    return "; ".join((said, *outcome.notes))
