"""What agents tell of what they did: `POST /proxy/audit`, `POST /proxy/governance/record`,
`POST /api/v1/audit` and `POST /api/v1/audit/batch`.

- An entry becomes a row that says whose word it is and that it is only that (`core/report.py`): the
  agent is the token's, the time is ours, and nothing that it says of a decision is taken for one.
- All entries of a request are recorded, or none; 202 says how many were. Where none could be, 503
  says so in enforce mode, as for every decision. In bypass mode nothing is recorded.
- A key that is not known counts for nothing, as `sdk.py` says. Here none restricts anything.
"""

from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException

from authz.core import call as calls
from authz.core import reply
from authz.core.identity import MAX_CLAIM
from authz.core.names import API_KEY_HEADER, OUR_API_KEY_HEADER
from authz.core.report import Report
from authz.core.verdict import Decision
from authz.edges.http.asking import call_of, json_of
from authz.edges.http.bodies import Body, or_null, read_json
from authz.gate import Gate

#: Entries of one request. The plugin that sends several sends 50 at most.
MAX_EVENTS: Final = 100
#: Milliseconds that an action may say that it took: a month.
MAX_DURATION_MS: Final = 31 * 86_400_000


class Told(Body):
    """An entry: what was done, to what, and whatever else there is to say of it."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=or_null)

    action: str = Field(min_length=1, max_length=calls.MAX_NAME)
    resource: str = Field("", max_length=calls.MAX_NAME)
    agent_id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}

    def report(self) -> Report:
        """
        Raises:
            ValueError: no call can have such an action or resource; one sentence.
        """
        action, resource = self.action.strip(), self.resource.strip()
        said = {to_camel(name): value for name, value in self.given().items()}
        for name in ("action", "resource", "agentId"):
            said.pop(name, None)
        if "delegatedBy" in said:
            # An id. A signed chain is never recorded as it is.
            said["delegatedBy"] = said["delegatedBy"][:MAX_CLAIM]
        defect = calls.defect_of_name("action", action) if action else "action: empty"
        defect = defect or calls.defect_of_resource(resource)
        if defect:
            raise ValueError(defect)
        return Report(action, resource, self.agent_id.strip(), said)


class AuditEntry(Told):
    """The body of `POST /proxy/audit`."""

    result: str
    details: Any = None
    delegated_by: str = ""
    policy: str = ""


class Record(Told):
    """The body of `POST /proxy/governance/record`."""

    status: Any = None
    result: Any = None


class Event(Told):
    """The body of `POST /api/v1/audit`, and an item of the batch."""

    result: Literal["success", "failure", "blocked"]
    context: dict[str, Any] = Field(default_factory=dict)
    decision: Any = None
    duration_ms: float = Field(0, ge=0, le=MAX_DURATION_MS)
    error: str = ""
    #: The agent's clock; the row has ours.
    timestamp: str = ""


class Events(Body):
    """The body of `POST /api/v1/audit/batch`."""

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


def router(gate: Gate) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    async def taken(
        request: Request, model: type[Told | Events], key_header: str = ""
    ) -> JSONResponse:
        call = call_of("client", request, key_header)._replace(action="report")
        if gate.refuses(call):
            outcome, recorded = gate.report(call, ())
        else:
            body = await read_json(request, model)
            outcome, recorded = gate.report(call, _reports(body))
        if outcome.enforced is not Decision.ALLOW:
            return json_of(reply.http_answer(outcome))
        answer = {"recorded": recorded, "traceId": outcome.trace_id, "mode": str(outcome.mode)}
        return JSONResponse(answer, 202)

    @routes.post("/proxy/audit")
    async def proxy_audit(request: Request) -> JSONResponse:
        return await taken(request, AuditEntry, API_KEY_HEADER)

    @routes.post("/proxy/governance/record")
    async def governance_record(request: Request) -> JSONResponse:
        return await taken(request, Record)

    @routes.post("/api/v1/audit")
    async def audit(request: Request) -> JSONResponse:
        return await taken(request, Event, OUR_API_KEY_HEADER)

    @routes.post("/api/v1/audit/batch")
    async def audit_batch(request: Request) -> JSONResponse:
        return await taken(request, Events, OUR_API_KEY_HEADER)

    return routes


def _reports(body: Told | Events) -> list[Report]:
    """What a body tells.

    Raises:
        HTTPException: 400, no call can have such an action or resource.
    """
    reports = []
    entries = body.events if isinstance(body, Events) else [body]
    for place, entry in enumerate(entries):
        try:
            reports.append(entry.report())
        except ValueError as error:
            where = f"events.{place}." if isinstance(body, Events) else ""
            raise HTTPException(400, f"{where}{error}") from None
    return reports
