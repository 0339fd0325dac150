"""`POST /admin/policies/test`: what the policies would say to a call, and why; nothing is recorded.

- By the policies in force, or by one that is sent along, alone.
- The agent is as it is registered, as far as the request does not say something else of it; one
  that is not registered is what the request says, and of tier `verified` where it does not.
- Judged as the gate does, with a snapshot of what applies to that agent: one that is in use is the
  event loop's, and remembers whom it has judged.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field, ValidationError
from starlette.exceptions import HTTPException

from authz.core import call as calls
from authz.core.asked import AgentSpec, Asked
from authz.core.explain import PolicyTrace, as_object, explain
from authz.core.identity import MAX_CLAIM
from authz.core.policy_set import build
from authz.core.snapshot import Snapshot
from authz.edges.http.admin import PREFIX
from authz.edges.http.bodies import Body, read_json, sentence
from authz.edges.http.credentials import AdminToken
from authz.edges.http.documents import Reader, Sent, looked_at
from authz.edges.http.queries import known
from authz.edges.http.refusals import refusals
from authz.edges.threads import in_thread
from authz.operations import Operations
from authz.stores.versions import Versions

#: Tags of an agent in a request.
MAX_TAGS: Final = 1000

Text = Annotated[str, Field(max_length=calls.MAX_NAME)]
Claim = Annotated[str, Field(max_length=MAX_CLAIM)]


def _is_policy(value: Any) -> Any:
    if value is not None and not isinstance(value, dict | str):
        raise ValueError("must be a policy as an object, or its YAML as text")
    return value


class Trial(Body):
    """A call, and who makes it; with `policy`, an object or YAML, judged by that alone."""

    policy: Annotated[Any, AfterValidator(_is_policy)] = None
    agent_id: Claim = Field(min_length=1)
    action: Text = Field(min_length=1)
    resource: Text = ""
    context: dict[str, Any] | None = None
    trust_tier: Claim | None = None
    tags: list[Claim] | None = Field(None, max_length=MAX_TAGS)
    org_id: Claim | None = None
    method: Text = ""
    path: Text = ""
    verbose: bool = False


def router(
    admin: AdminToken, versions: Versions, operations: Operations, reader: Reader
) -> APIRouter:
    """The routes; none without a token."""
    if not admin:
        return APIRouter()

    async def test(request: Request) -> JSONResponse:
        body = await read_json(request, Trial)
        with refusals():
            operations.refresh()
        asked = _asked(body, operations)
        sent = None if body.policy is None else await _sent(body.policy, reader)
        refusal = None if sent is None else looked_at(sent)
        if refusal is not None:
            return refusal
        agent = operations.state.agents.get(body.agent_id)
        current = versions.current
        answer = await in_thread(lambda: _answer(asked, sent, current, verbose=body.verbose))
        if sent is None:
            answer["policyVersion"] = current.version
        answer["registered"] = agent is not None
        if agent is not None and agent.revoked_at is not None:
            answer["note"] = "the agent was revoked: whatever policies say, it may do nothing"
        return JSONResponse(answer)

    group = APIRouter(
        prefix=f"{PREFIX}/policies", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.post("/test")(test)
    return group


async def _sent(policy: dict[str, Any] | str, reader: Reader) -> Sent:
    try:
        if isinstance(policy, str):
            return await reader.of_text(policy.encode())
        return await reader.of_object(policy)
    except (ValueError, RecursionError):
        raise HTTPException(400, "policy: it cannot be read") from None


def _asked(body: Trial, operations: Operations) -> Asked:
    """The call.

    Raises:
        HTTPException: 400, there can be no such call.
    """
    agent = operations.state.agents.get(body.agent_id)
    said: dict[str, Any] = {"id": body.agent_id}
    if agent is not None:
        said |= {"name": agent.name, "trustTier": agent.tier, "tags": list(agent.tags)}
        said |= {"orgId": agent.org_id}
    given = {"trustTier": body.trust_tier, "tags": body.tags, "orgId": body.org_id}
    said |= {name: value for name, value in given.items() if value is not None}
    try:
        spec = AgentSpec.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise HTTPException(400, sentence(str(first["loc"][0]), first)) from None
    with refusals():
        return Asked.of(
            spec,
            body.action,
            resource=body.resource,
            method=body.method,
            path=body.path,
            context=body.context,
        )


def _answer(asked: Asked, sent: Sent | None, current: Snapshot, *, verbose: bool) -> dict[str, Any]:
    snapshot = current if sent is None else build([sent.as_file()]).snapshot
    alone = Snapshot(snapshot.applicable(asked.identity), snapshot.chain)
    explanation = explain(alone, asked.identity, asked.call)
    said = as_object(explanation)
    applicable = said.pop("applicable")
    del said["others"]  # they were left out of it
    said.setdefault("policy", explanation.verdict.code)
    said.setdefault("rule", explanation.verdict.code)
    # A rule that allows has no reason of its own, and whoever asked decodes one.
    said.setdefault("reason", explanation.verdict.code)
    if verbose:
        said["applicable"] = applicable
        said["trace"] = [line for one in explanation.applicable for line in _lines(one)]
    return said


def _lines(trace: PolicyTrace) -> list[str]:
    """A policy in the words of the command line, rules counted from 1 (CONTRACT §14)."""
    return [f"{trace.policy.name}: {trace.says}", *(str(rule) for rule in trace.rules)]
