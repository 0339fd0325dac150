"""Relationships: who may act for whom (CONTRACT §7), for administrators and for agents themselves.

- Below `/admin` any source may be named. `/relationships` is an agent's own place: its token says
  who the source is, it sees what it gave and was given, and takes back what it gave. The admin
  token is good for both.
- Who asks is always known, whatever the mode is: what is made here outlives it.
"""

import asyncio
import logging
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from authz.core.delegation.issue import Terms
from authz.core.delegation.relationship import AUTHORITY, Refused, Relationship
from authz.core.identity import MAX_CLAIM, Identity, TokenVerifier
from authz.core.timestamps import seconds_of
from authz.edges.http.admin import PREFIX
from authz.edges.http.bodies import Body, read_json
from authz.edges.http.credentials import BY, CHALLENGE, AdminToken, claims_admin
from authz.edges.http.joining import join
from authz.edges.http.listing import After, Filter, Limit, newest, no_such_entry, one_of
from authz.edges.http.queries import known
from authz.edges.http.records import Revocation, lifetime
from authz.edges.http.refusals import Coded, refusals
from authz.operations import NotPossible, Operations, Unknown

log = logging.getLogger(__name__)

#: Where agents ask themselves.
AGENT_PREFIXES: Final = ("", "/api/v1")
STATUSES: Final = ("active", "broken", "expired", "revoked")
#: Seconds that a relationship lasts whose maker does not say, as on the command line.
LIFETIME_S: Final = 3600

#: What sentences may repeat: no longer than an id, and without half a character.
Id = Annotated[str, Field(max_length=MAX_CLAIM)]


class NewRelationship(Body):
    """A relationship as it is asked for; what it may say is `core/delegation/issue.py`'s."""

    source: Id | None = Field(None, alias="sourceAgentId")
    target: str = Field(alias="targetAgentId")
    type: str = Field(AUTHORITY, alias="relationshipType")
    scope: list[str] = Field(default_factory=list)
    resources: list[str] | None = None
    ceiling: list[str] | None = Field(None, alias="permissionCeiling")
    max_depth: int = 0
    requires_approval: bool = False
    expires_at: str | None = None
    expires_in: str | None = None
    parent: Id | None = Field(None, alias="parentRelationshipId")
    org_id: str | None = None

    def terms(self, now: float, above: Relationship | None) -> Terms:
        """
        Args:
            now: seconds since the epoch.
            above: what is passed on, which no default outlasts.

        Raises:
            HTTPException: 400, the time is none, or there are two.
        """
        expires_at, ttl_s = now + LIFETIME_S, lifetime(self.expires_in)
        if above is not None:
            expires_at = min(expires_at, above.expires_at)
        if ttl_s is not None:
            if self.expires_at is not None:
                raise HTTPException(400, "expiresIn: give it or expiresAt, not both")
            expires_at = now + ttl_s
        if self.expires_at is not None:
            try:
                expires_at = seconds_of(self.expires_at)
            except (ValueError, OverflowError):
                said = "expiresAt: not a time; write 2026-01-31T12:00:00Z"
                raise HTTPException(400, said) from None
        return Terms(
            target=self.target,
            scope=self.scope,
            expires_at=expires_at,
            type=self.type,
            resources=self.resources or (),
            ceiling=self.ceiling,
            max_depth=self.max_depth,
            requires_approval=self.requires_approval,
            org_id=self.org_id or "",
        )


def router(admin: AdminToken, operations: Operations, tokens: TokenVerifier) -> APIRouter:
    """The routes; below `/admin` none without an admin token.

    `tokens`: say whose an agent's token is.
    """
    handlers = _Relationships(admin, operations, tokens)
    routes = APIRouter()
    groups = [APIRouter(prefix=prefix) for prefix in AGENT_PREFIXES]
    if admin:
        required = [Depends(admin.required), Depends(known)]
        groups.append(APIRouter(prefix=PREFIX, dependencies=required))
    for group in groups:
        group.get("/relationships")(handlers.listed)
        group.post("/relationships")(handlers.create)
        group.get("/relationships/{relationship_id}")(handlers.one)
        group.get("/relationships/{relationship_id}/chain")(handlers.chain)
        group.delete("/relationships/{relationship_id}")(handlers.revoke)
        join(routes, group)
    return routes


class _Relationships:
    """The handlers. Who asks is an identity, or None for an administrator."""

    def __init__(self, admin: AdminToken, operations: Operations, tokens: TokenVerifier) -> None:
        self._admin = admin
        self._operations = operations
        self._tokens = tokens

    async def listed(
        self,
        request: Request,
        agentId: Filter = "",  # noqa: N803 - as the query has it
        status: Filter = "",
        after: After = "",
        limit: Limit = 100,
    ) -> JSONResponse:
        asking = self._asking(request)
        one_of("status", status, STATUSES)
        standing = self._operations.standing()
        # Entries are looked through in another thread, which may not read the ledger itself.
        standing = standing._replace(
            relationships=dict(standing.relationships), agents=dict(standing.agents)
        )

        def wanted(found: Relationship) -> bool:
            return (
                _concerns(found, asking)
                and agentId in ("", found.source, found.target)
                and status in ("", standing.status(found))
            )

        table = self._operations.state.relationships
        last = table.get(after)
        if last is not None and not _concerns(last, asking):
            # What it must not see is to be told from what is not there by nothing.
            raise no_such_entry()
        page = await newest(table, lambda found: found.created_at, wanted, after, limit)
        return JSONResponse(page.answer("relationships", lambda _, found: standing.entry(found)))

    async def one(self, relationship_id: str, request: Request) -> JSONResponse:
        found = self._known(relationship_id, self._asking(request))
        return JSONResponse(self._entry(found))

    async def chain(self, relationship_id: str, request: Request) -> JSONResponse:
        found = self._known(relationship_id, self._asking(request))
        with refusals():
            # The first time it makes a key, which nobody else has to wait for.
            await asyncio.to_thread(self._operations.signer)
            return JSONResponse({"chain": self._operations.chain(found)})

    async def create(self, request: Request) -> JSONResponse:
        asking = self._asking(request)
        body = await read_json(request, NewRelationship)
        source = body.source or ""
        if asking is not None:
            if source not in ("", asking.agent_id):
                said = "sourceAgentId: an agent delegates for itself alone; leave it out"
                raise HTTPException(403, said)
            source = asking.agent_id
        elif not source:
            raise HTTPException(400, "sourceAgentId: missing; name the agent that delegates")
        parent = body.parent or ""
        if parent and asking is not None:
            # What concerns others does not exist for it.
            self._known(parent, asking, "parentRelationshipId: ")
        above = self._operations.state.relationships.get(parent) if parent else None
        terms = body.terms(self._operations.now(), above)
        with refusals():
            made = self._operations.delegate(
                terms, source, by=_name(asking), parent=parent, asking=asking
            )
        shown = {**self._entry(made), **await self._signed(made)}
        notes = [self._operations.unregistered(made), str(shown.pop("note", ""))]
        if any(notes):
            shown["note"] = "; ".join(filter(None, notes))
        return JSONResponse(shown, 201)

    async def revoke(self, relationship_id: str, request: Request) -> JSONResponse:
        asking = self._asking(request)
        body = await read_json(request, Revocation, optional=True)
        source = ""
        if asking is not None:
            source = asking.agent_id
            if self._known(relationship_id, asking).source != source:
                said = "only the agent that delegated can revoke this, or an administrator"
                raise HTTPException(403, said)
        with refusals():
            ended = self._operations.revoke_relationship(
                relationship_id, by=_name(asking), reason=body.reason or "", source=source
            )
        return JSONResponse(self._entry(ended))

    def _asking(self, request: Request) -> Identity | None:
        """Who asks.

        Raises:
            HTTPException: 401, nobody that is known; 503, what is known cannot be looked up.
        """
        with refusals():
            # Whoever was revoked from the command line is nobody from now on.
            self._operations.refresh()
        if self._admin.is_sent(request):
            return None
        if self._admin and claims_admin(request):
            raise self._admin.refusal(request)
        authorization = request.headers.get("authorization", "")
        caller = self._tokens.identify(authorization, self._operations.now())
        if isinstance(caller, Identity):
            return caller
        raise Coded(401, caller.reason, caller.code, CHALLENGE)

    def _known(
        self, relationship_id: str, asking: Identity | None, where: str = ""
    ) -> Relationship:
        """A relationship that whoever asks may see.

        Raises:
            HTTPException: 404.
        """
        try:
            found = self._operations.relationship(relationship_id)
        except Unknown as error:
            raise HTTPException(404, f"{where}{error}") from None
        if not _concerns(found, asking):
            raise HTTPException(404, f"{where}there is no relationship {relationship_id}")
        return found

    def _entry(self, found: Relationship) -> dict[str, object]:
        return {"relationship": self._operations.standing().entry(found)}

    async def _signed(self, made: Relationship) -> dict[str, object]:
        """A new relationship's receipt and chain; it is good by its id where there are none."""
        operations = self._operations
        try:
            # The first time it makes a key, which nobody else has to wait for.
            await asyncio.to_thread(operations.signer)
            receipt = operations.receipt(made)
        except NotPossible as error:
            log.error("a delegation has no receipt: %s", error)
            return {"note": "it could not be signed, and is good by its id, in this sidecar alone"}
        try:
            return {"receipt": receipt, "chain": operations.chain(made)}
        except (NotPossible, Refused) as error:
            return {"receipt": receipt, "note": f"there is no chain: {error}"}


def _concerns(found: Relationship, asking: Identity | None) -> bool:
    return asking is None or asking.agent_id in (found.source, found.target)


def _name(asking: Identity | None) -> str:
    """Who has done it, in the trail."""
    return BY if asking is None else f"agent {asking.agent_id}"
