"""Decisions asked for by name: `GET /proxy/check`, `POST /api/v1/governance/batch`, and
`POST /api/v1/action-tokens`, which asks for leave to do something soon.

They are decided and recorded exactly as proxied requests are; nothing is forwarded.
"""

import secrets
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from authz.core import reply
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.timestamps import rfc3339
from authz.core.tracing import Parent
from authz.core.verdict import Decision
from authz.edges.http.asking import NamedAction, call_of, json_of, named
from authz.edges.http.bodies import Body, read_json
from authz.gate import Gate
from authz.operations import Operations, Token

MAX_ACTIONS: Final = 100


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
        [outcome] = gate.batch([call_of("check", request)])
        return json_of(reply.http_answer(outcome))

    @routes.post("/api/v1/governance/batch")
    async def batch(request: Request) -> JSONResponse:
        base = call_of("batch", request)
        # One trace for the plan, also when the caller brought none.
        parent = base.parent if gate.is_traced else None
        parent = parent or Parent(secrets.token_hex(16))
        trace_id = base.trace_id or parent.trace_id
        base = base._replace(action="batch", trace_id=trace_id, parent=parent)
        if gate.refuses(base):
            [refusal] = gate.batch([base])
            return json_of(reply.http_answer(refusal))
        body = await read_json(request, Batch)
        outcomes = gate.batch([named(base, item) for item in body.actions])
        first = outcomes[0]
        broken = next((o for o in outcomes if o.enforced is Decision.ERROR), None)
        if broken is not None:
            return json_of(reply.http_answer(broken))
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
        base = call_of("mint", request)._replace(action="mint")
        if gate.refuses(base):
            [refusal] = gate.batch([base])
            return json_of(reply.http_answer(refusal))
        [outcome] = gate.batch([named(base, await read_json(request, NamedAction))])
        answer = reply.http_answer(outcome)
        token = _minted(operations, outcome)
        if token is not None:
            answer.body["actionToken"] = token.token
            answer.body["expiresAt"] = rfc3339(token.expires_at)
        return json_of(answer)

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
