"""A request to one of our own endpoints as the call that the gate decides.

An agent's token is in `Authorization: Bearer`. Some SDKs know it as an API key: at the endpoints of
such an SDK its header counts too, and only where there is no `Authorization` at all, so that a
request never has two callers. Everywhere else it means nothing, and nowhere an administrator.
"""

from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, Field, model_validator

from authz.core import call as calls
from authz.core.call import Call
from authz.core.chain_doc import MAX_POINTS
from authz.core.names import DECISION_ID_HEADER
from authz.core.reply import Answer
from authz.core.sources import Source
from authz.edges.http.bodies import Body

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


def call_of(source: Source, request: Request, key_header: str = "") -> Call:
    """The request as a call; `key_header` is where its SDK may send the token instead."""

    def header(name: str, default: str) -> str:
        # Repeated headers are joined as Envoy joins them in a CheckRequest.
        values = request.headers.getlist(name)
        return ",".join(values) if values else default

    # Not `request.url`: it is put together with whatever the Host header says.
    call = calls.from_http(
        source,
        request.method,
        request.scope["path"],
        header("host", ""),
        header,
        parent=calls.parent_in(header),
    )
    key = header(key_header, "") if key_header else ""
    if key and "authorization" not in request.headers:
        call = call._replace(authorization=f"Bearer {key}")
    return call


def named(base: Call, item: NamedAction) -> Call:
    """The call about an action that a body names, on a request that brings it."""

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


def json_of(answer: Answer) -> JSONResponse:
    """An answer as it is sent."""
    headers, decision_id = answer.headers, answer.body.get("decisionId")
    if isinstance(decision_id, str):
        headers = {**headers, DECISION_ID_HEADER: decision_id}
    return JSONResponse(answer.body, answer.status, headers=headers)
