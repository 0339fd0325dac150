"""Decisions asked for by name: `GET /proxy/check`, `POST /api/v1/governance/batch`.

They are decided and recorded exactly as proxied requests are; nothing is forwarded.
"""

import json
from typing import Any, Final
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from authz.core import call as calls
from authz.core import reply
from authz.core.call import Call, Source
from authz.core.facts import distinct
from authz.core.reply import Answer
from authz.core.verdict import Decision
from authz.edges.http.bodies import read_body
from authz.gate import Gate

MAX_ACTIONS: Final = 100


class BatchAction(BaseModel):
    """One action of a batch."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    action: str = Field(min_length=1, max_length=calls.MAX_NAME)
    resource: str = Field("", max_length=calls.MAX_NAME)
    #: What conditions call `context`; without it the request's X-MeshGuard-Meta counts.
    context: dict[str, Any] | None = None


class Batch(BaseModel):
    """The body of a batch request (CONTRACT §6)."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    actions: list[BatchAction] = Field(min_length=1, max_length=MAX_ACTIONS)


def router(gate: Gate) -> APIRouter:
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
        outcomes = gate.batch([_item(base, item) for item in (await _batch(request)).actions])
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

    return routes


def _call(source: Source, request: Request) -> Call:
    def header(name: str, default: str) -> str:
        # Repeated headers are joined as Envoy joins them in a CheckRequest.
        return ",".join(request.headers.getlist(name)) or default

    # Not `request.url`: it is put together with whatever the Host header says.
    return calls.from_http(
        source, request.method, request.scope["path"], header("host", ""), header
    )


def _item(base: Call, item: BatchAction) -> Call:
    action = item.action.strip()
    defect = calls.defect_of_name("action", action) if action else "action: empty"
    defect = defect or calls.defect_of_resource(item.resource)
    meta = base.meta if item.context is None else calls.meta_of(item.context)
    return base._replace(action=action, resource=item.resource.strip(), meta=meta, defect=defect)


async def _batch(request: Request) -> Batch:
    try:
        # A key that appears twice would be one value here and another one elsewhere.
        data = json.loads(await read_body(request), object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    try:
        return Batch.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "body"
        raise HTTPException(400, f"{where}: {first['msg']}") from None


def _json(answer: Answer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status, headers=answer.headers)
