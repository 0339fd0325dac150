"""The admin API of records: agents, pending actions, wallets, fuses, and the key of receipts.

- Off while ADMIN_TOKEN is unset, and its alone (`credentials`).
- Every change is an `Operations`': it and its audit row are one transaction, or there is neither.
- Handlers are coroutines, so that they run on the event loop's thread: the ledger has no other.
"""

import asyncio
import itertools
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field
from starlette.exceptions import HTTPException

from authz.core import agents, balance, latches, pending, tiers
from authz.core.agents import Agent
from authz.core.durations import parse_duration
from authz.core.errors import AuditUnavailable
from authz.core.pending import MAX_TEXT, Pending
from authz.core.timestamps import rfc3339
from authz.edges.http.admin import PREFIX
from authz.edges.http.bodies import Body, read_json
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.listing import After, Filter, Limit, newest, one_of
from authz.edges.http.queries import known
from authz.edges.http.refusals import refusals
from authz.operations import NotPossible, Operations, Unknown

#: What a pending action's state can be (CONTRACT §8).
STATES: Final = (
    "pending_approval", "pending_cooling", "approved", "rejected", "executed", pending.EXPIRED,
)  # fmt: skip


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text")
    return text


Words = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_printable)]


class AgentChanges(Body):
    """What of an agent can be changed; `metadata: null` takes the metadata away."""

    name: str | None = None
    tier: str | None = Field(None, alias="trustTier")
    tags: list[str] | None = None
    org_id: str | None = None
    description: str | None = None
    capabilities: list[str] | None = None
    metadata: dict[str, Any] | None = None


class NewAgent(AgentChanges):
    """An agent to be registered."""

    #: One is made where there is none.
    id: str | None = Field(None, min_length=1)
    name: str
    #: Of its token.
    expires_in: str | None = None


class Revocation(Body):
    """Why something ends."""

    reason: str | None = None


class TokenTerms(Body):
    """What a token is to be like."""

    expires_in: str | None = None


class Approval(Body):
    """Who approves, and what they say to it."""

    approver: Words = Field(min_length=1)
    reason: Words = ""


class Rejection(Body):
    """Who rejects, and why."""

    approver: Words = Field(min_length=1)
    reason: Words = Field(min_length=1)


def router(admin: AdminToken, operations: Operations) -> APIRouter:
    """The routes; none without a token."""
    if not admin:
        return APIRouter()
    records = _Records(operations)
    group = APIRouter(prefix=PREFIX, dependencies=[Depends(admin.required), Depends(known)])
    group.get("/agents")(records.agents)
    group.post("/agents")(records.create_agent)
    group.get("/agents/{agent_id}")(records.agent)
    group.patch("/agents/{agent_id}")(records.change_agent)
    group.put("/agents/{agent_id}")(records.change_agent)
    group.delete("/agents/{agent_id}")(records.revoke_agent)
    group.post("/agents/{agent_id}/token")(records.new_token)
    group.get("/pending")(records.pending)
    group.get("/pending/{pending_id}")(records.pending_action)
    group.post("/pending/{pending_id}/approve")(records.approve)
    group.post("/pending/{pending_id}/reject")(records.reject)
    group.get("/wallets")(records.wallets)
    group.post("/wallets/{wallet}/{agent_id}/reset")(records.reset_wallet)
    group.get("/fuses")(records.fuses)
    group.post("/fuses/{relationship_id}/reset")(records.reset_fuse)
    group.get("/delegation/keys")(records.delegation_keys)
    return group


class _Records:
    """The handlers."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._state = operations.state

    async def agents(
        self, trust: Filter = "", status: Filter = "", after: After = "", limit: Limit = 100
    ) -> JSONResponse:
        one_of("status", status, ("active", "revoked"))
        rank = tiers.rank(trust) if trust else None
        if trust and rank is None:
            raise HTTPException(400, f"trust: write one of {', '.join(tiers.TIERS)}")

        def wanted(agent: Agent) -> bool:
            standing = "active" if agent.revoked_at is None else "revoked"
            return rank in (None, agent.rank) and status in ("", standing)

        self._refresh()
        table = self._state.agents
        page = await newest(table, lambda agent: agent.created_at, wanted, after, limit)
        return JSONResponse(page.answer("agents", lambda _, agent: agents.entry(agent)))

    async def create_agent(self, request: Request) -> JSONResponse:
        fields = (await read_json(request, NewAgent)).given()
        agent_id, ttl_s = fields.pop("id", ""), lifetime(fields.pop("expires_in", None))
        if not _can_be_in_a_path(agent_id):
            said = "id: must be one segment of a path, without slashes, and not . or .."
            raise HTTPException(400, said)
        with refusals():
            agent = self._operations.create_agent(by=BY, agent_id=agent_id, **fields)
        try:
            token = self._operations.new_token(agent.agent_id, by=BY, ttl_s=ttl_s)
        except (NotPossible, AuditUnavailable, ValueError) as error:
            # The agent is registered all the same, and may bring a token from elsewhere.
            said = f"the agent is registered, and has no token: {error}"
            return JSONResponse({**agents.entry(agent), "note": said}, 201)
        # Terraform reads `api_key` (CONTRACT §1.3); they are all the same.
        named = dict.fromkeys(("token", "apiKey", "api_key"), token.token)
        expires = {"expiresAt": rfc3339(token.expires_at)}
        return JSONResponse({**agents.entry(agent), **named, **expires}, 201)

    async def agent(self, agent_id: str) -> JSONResponse:
        self._refresh()
        found = self._state.agents.get(agent_id)
        if found is None:
            raise HTTPException(404, f"there is no agent {agent_id}")
        return JSONResponse(agents.entry(found))

    async def change_agent(self, agent_id: str, request: Request) -> JSONResponse:
        body = await read_json(request, AgentChanges)
        changes = body.given()
        if "metadata" in body.model_fields_set:
            changes["metadata"] = body.metadata
        if not changes:
            raise HTTPException(400, "body: says nothing that could be changed")
        with refusals():
            agent = self._operations.update_agent(agent_id, changes, by=BY)
        return JSONResponse(agents.entry(agent))

    async def revoke_agent(
        self, agent_id: str, request: Request, unknown: bool = False
    ) -> JSONResponse:
        body = await read_json(request, Revocation, optional=True)
        with refusals():
            try:
                agent = self._operations.revoke_agent(
                    agent_id, by=BY, reason=body.reason or "", known=not unknown
                )
            except Unknown as error:
                said = f"{error}; with ?unknown=true an id that is not registered is revoked too"
                raise Unknown(said) from None
        return JSONResponse(agents.entry(agent))

    async def new_token(self, agent_id: str, request: Request) -> JSONResponse:
        body = await read_json(request, TokenTerms, optional=True)
        ttl_s = lifetime(body.expires_in)
        with refusals():
            token = self._operations.new_token(agent_id, by=BY, ttl_s=ttl_s)
        return JSONResponse({"token": token.token, "expiresAt": rfc3339(token.expires_at)})

    async def pending(
        self,
        state: Filter = "",
        agentId: Filter = "",  # noqa: N803 - as the query has it
        after: After = "",
        limit: Limit = 100,
    ) -> JSONResponse:
        one_of("state", state, STATES)
        self._refresh()
        now = self._operations.steady()

        def wanted(action: Pending) -> bool:
            return agentId in ("", action.agent_id) and state in ("", action.state_at(now))

        table = self._state.pending
        page = await newest(table, lambda action: action.created_at, wanted, after, limit)
        return JSONResponse(page.answer("pending", lambda _, action: pending.entry(action, now)))

    async def pending_action(self, pending_id: str) -> JSONResponse:
        self._refresh()
        with refusals():
            found = self._operations.pending(pending_id)
        return JSONResponse(self._pending_entry(found))

    async def approve(self, pending_id: str, request: Request) -> JSONResponse:
        body = await read_json(request, Approval)
        with refusals():
            approved = self._operations.answer(
                pending_id, approve=True, approver=body.approver, by=BY, words=body.reason
            )
        token = self._operations.action_token(approved)
        named = {
            "actionToken": token.token,
            "actionTokenExpiresAt": rfc3339(token.expires_at),
        }
        return JSONResponse({**self._pending_entry(approved), **named})

    async def reject(self, pending_id: str, request: Request) -> JSONResponse:
        body = await read_json(request, Rejection)
        with refusals():
            rejected = self._operations.answer(
                pending_id, approve=False, approver=body.approver, by=BY, words=body.reason
            )
        return JSONResponse(self._pending_entry(rejected))

    async def wallets(
        self,
        agentId: Filter = "",  # noqa: N803 - as the query has it
        wallet: Filter = "",
        after: After = "",
        limit: Limit = 100,
    ) -> JSONResponse:
        """By agent: a page ends with an agent's last wallet, and `after` is that agent's id."""
        self._refresh()
        there = list(self._state.wallets.entries)

        def select() -> tuple[list[str], str]:
            named = ((balance.parts(key)[::-1], key) for key in there)
            found = sorted(
                (agent, name, key)
                for (agent, name), key in named
                if agentId in ("", agent) and wallet in ("", name) and agent > after
            )
            if len(found) <= limit:
                return [key for _, _, key in found], ""
            last = found[limit - 1][0]
            page = list(itertools.takewhile(lambda entry: entry[0] <= last, found))
            return [key for _, _, key in page], last if len(page) < len(found) else ""

        keys, more = await asyncio.to_thread(select)
        body: dict[str, object] = {
            "wallets": [spent.entry() for spent in self._operations.spent(keys)]
        }
        return JSONResponse({**body, "next": more} if more else body)

    async def reset_wallet(self, wallet: str, agent_id: str) -> JSONResponse:
        with refusals():
            before = self._operations.reset_wallet(wallet, agent_id, by=BY)
        return JSONResponse({**before._replace(spent=0).entry(), "givenBack": before.spent})

    async def fuses(
        self, state: Filter = "", after: After = "", limit: Limit = 100
    ) -> JSONResponse:
        one_of("state", state, ("open", "closed"))
        self._refresh()
        now = self._operations.steady()
        page = await newest(
            self._state.fuses,
            latches.last_failure,
            lambda latch: state in ("", latches.standing(latch, now)),
            after,
            limit,
        )
        return JSONResponse(page.answer("fuses", lambda e, latch: latches.entry(e, latch, now)))

    async def reset_fuse(self, relationship_id: str) -> JSONResponse:
        with refusals():
            self._operations.reset_fuse(relationship_id, by=BY)
        return JSONResponse({"relationshipId": relationship_id, "state": "closed"})

    async def delegation_keys(self) -> JSONResponse:
        with refusals():
            # The first time it makes a key, which nobody else has to wait for.
            await asyncio.to_thread(self._operations.signer)
            return JSONResponse(self._operations.delegation_keys())

    def _refresh(self) -> None:
        """Take over what the command line or another sidecar has changed."""
        with refusals():
            self._operations.refresh()

    def _pending_entry(self, action: Pending) -> dict[str, Any]:
        return pending.entry(action, self._operations.steady())


def lifetime(expires_in: str | None) -> int | None:
    """How long something is to last, seconds; None where nothing is said.

    Raises:
        HTTPException: 400, it is no duration.
    """
    try:
        return None if expires_in is None else parse_duration(expires_in)
    except ValueError as error:
        raise HTTPException(400, f"expiresIn: {error}") from None


def _can_be_in_a_path(agent_id: str) -> bool:
    """Whether the agent could be named in these paths: Envoy lets no encoded slash through."""
    return not set(agent_id) & {"/", "\\"} and agent_id not in (".", "..")
