"""Decisions asked for by name: `GET /proxy/check`, `POST /api/v1/governance/batch`, and
`POST /api/v1/action-tokens`, which asks for leave to do something soon.

They are decided and recorded exactly as proxied requests are; nothing is forwarded.
"""

from typing import Annotated, Any, Final
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, Field, model_validator
from starlette.exceptions import HTTPException

from authz.core import call as calls
from authz.core import reply
from authz.core.call import Call
from authz.core.chain_doc import MAX_POINTS
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.reply import Answer
from authz.core.sources import Source
from authz.core.timestamps import rfc3339
from authz.core.verdict import Decision
from authz.edges.http.bodies import Body, read_json
from authz.gate import Gate
from authz.operations import Operations, Token

MAX_ACTIONS: Final = 100

#: What a header would carry.
Governing = Annotated[str, Field(max_length=calls.MAX_GOVERNANCE)]


class NamedAction(Body):
    """An action that is asked about. What it does not say of itself the request's headers say."""

    action: str = Field(min_length=1, max_length=calls.MAX_NAME)
    resource: str = Field("", max_length=calls.MAX_NAME)
    #: What conditions call `context`; without it the request's X-MeshGuard-Meta counts.
    context: dict[str, Any] | None = None
    delegation: Governing | None = Field(
        None, validation_alias=AliasChoices("delegation", "delegatedBy")
    )
    pending_id: Governing | None = None
    action_token: Governing | None = None
    provenance: Governing | None = None
    cost: int | None = Field(None, ge=0, le=MAX_POINTS)

    @model_validator(mode="before")
    @classmethod
    def _names_one_delegation(cls, item: Any) -> Any:
        if isinstance(item, dict) and item.keys() >= {"delegation", "delegatedBy"}:
            raise ValueError("delegation and delegatedBy are the same; give one of them")
        return item


class Batch(Body):
    """The body of a batch request (CONTRACT §6)."""

    actions: list[NamedAction] = Field(min_length=1, max_length=MAX_ACTIONS)


def router(gate: Gate, operations: Operations) -> APIRouter:
    """The governed routes."""
    routes = APIRouter()

    @routes.get("/proxy/check")
    async def check(request: Request) -> JSONResponse:
        if not request.headers.get("x-meshguard-action", "").strip():
            raise HTTPException(400, "the X-MeshGuard-Action header is missing or empty")
        [outcome] = gate.batch([_call("check", request)])
        return _json(reply.http_answer(outcome))

    @routes.post("/api/v1/governance/batch")
    async def batch(request: Request) -> JSONResponse:
        base = _call("batch", request)
        # One trace for the plan, also when the caller brought none.
        base = base._replace(action="batch", trace_id=base.trace_id or uuid4().hex)
        if gate.refuses(base):
            [refusal] = gate.batch([base])
            return _json(reply.http_answer(refusal))
        body = await read_json(request, Batch)
        outcomes = gate.batch([_named(base, item) for item in body.actions])
        first = outcomes[0]
        broken = next((o for o in outcomes if o.enforced is Decision.ERROR), None)
        if broken is not None:
            return _json(reply.http_answer(broken))
        total_us = sum(outcome.latency_us for outcome in outcomes)
        return JSONResponse(
            {
                "results": [reply.batch_item(outcome) for outcome in outcomes],
                "totalLatencyMs": total_us / 1000,
                "traceId": first.trace_id,
                "mode": str(first.mode),
                "policyVersion": first.case.snapshot.version,
            }
        )

    @routes.post("/api/v1/action-tokens")
    async def action_token(request: Request) -> JSONResponse:
        base = _call("mint", request)._replace(action="mint")
        if gate.refuses(base):
            [refusal] = gate.batch([base])
            return _json(reply.http_answer(refusal))
        [outcome] = gate.batch([_named(base, await read_json(request, NamedAction))])
        answer = reply.http_answer(outcome)
        token = _minted(operations, outcome)
        if token is not None:
            answer.body["actionToken"] = token.token
            answer.body["expiresAt"] = rfc3339(token.expires_at)
        return _json(answer)

    return routes


def _minted(operations: Operations, outcome: Outcome) -> Token | None:
    """A token for what was decided to be allowed; None for whatever only passes.

    What audit mode or a dry run lets pass was denied, and in bypass mode nobody has looked.
    """
    case, caller = outcome.case, outcome.case.caller
    is_allowed = outcome.verdict.decision is outcome.enforced is Decision.ALLOW
    if not is_allowed or outcome.mode is Mode.BYPASS or not isinstance(caller, Identity):
        return None
    more = outcome.verdict.more
    approved = str(more.body.get("pendingId", "")) if more is not None else ""
    if approved:
        return operations.action_token(operations.pending(approved))
    return operations.mint_action(
        caller.agent_id, case.call.action, case.call.resource, case.snapshot.version
    )


def _call(source: Source, request: Request) -> Call:
    def header(name: str, default: str) -> str:
        # Repeated headers are joined as Envoy joins them in a CheckRequest.
        values = request.headers.getlist(name)
        return ",".join(values) if values else default

    # Not `request.url`: it is put together with whatever the Host header says.
    return calls.from_http(
        source, request.method, request.scope["path"], header("host", ""), header
    )


def _named(base: Call, item: NamedAction) -> Call:
    def own(value: str | None, default: str) -> str:
        return default if value is None else value.strip()

    action = item.action.strip()
    defect = calls.defect_of_name("action", action) if action else "action: empty"
    return base._replace(
        action=action,
        resource=item.resource.strip(),
        meta=base.meta if item.context is None else calls.meta_of(item.context),
        defect=defect or calls.defect_of_resource(item.resource),
        delegation=own(item.delegation, base.delegation),
        pending_id=own(item.pending_id, base.pending_id),
        action_token=own(item.action_token, base.action_token),
        provenance=own(item.provenance, base.provenance),
        cost=base.cost if item.cost is None else str(item.cost),
    )


def _json(answer: Answer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status, headers=answer.headers)
