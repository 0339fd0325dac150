"""What is done to relationships, and how they are signed."""

from collections.abc import Iterator, Mapping
from typing import Final

from authz.core import agents
from authz.core.delegation import issue, receipt, relationship
from authz.core.delegation.issue import Delegator, Terms
from authz.core.delegation.relationship import AUTHORITY, Refused, Relationship
from authz.core.delegation.standing import Standing
from authz.core.delegation.walk import collect
from authz.core.errors import Code
from authz.core.identity import Identity
from authz.core.ledger import Put, Table
from authz.core.state import SHOWN_S
from authz.operations.changing import Changing
from authz.operations.values import NotPossible, Signer, Unknown

#: Most relationships of one source that are kept, ended ones too: a bound on what one agent fills.
MAX_RELATIONSHIPS: Final = 1000


class Relationships(Changing):
    """Relationships, and what proves them elsewhere."""

    def delegate(
        self,
        terms: Terms,
        source: str,
        *,
        by: str,
        parent: str = "",
        asking: Identity | None = None,
    ) -> Relationship:
        """Let an agent act for another one (CONTRACT §7).

        Args:
            source: the agent that delegates.
            parent: the relationship that is passed on, if it is not the source's own authority.
            asking: the source as its own token says, where it asks itself.

        Raises:
            Refused: it may not be.
            Unknown: an agent or the parent is not registered here.
            AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            relationships, now = self.state.relationships, self._now()
            above = None
            if parent:
                above = relationships.get(parent)
                if above is None:
                    raise Unknown(f"parentRelationshipId: there is no relationship {parent}")
            who = self._delegator(source, asking)
            if len(relationships.keys_of(source)) >= MAX_RELATIONSHIPS:
                said = (
                    f"sourceAgentId: it has {MAX_RELATIONSHIPS} relationships already; each is kept"
                    f" until {SHOWN_S // 86_400} days after it expires, revoked or not"
                )
                raise Refused(Code.MALFORMED, said)
            made = issue.issue(
                terms,
                Delegator(
                    who.agent_id,
                    who.name,
                    who.tier,
                    who.effective_rank,
                    tuple(sorted(who.tags)),
                    who.org_id,
                ),
                relationship_id=f"rel_{self._new_id()}",
                now=now,
                edges=_Edges(relationships, now),
                parent=above,
                limits=self._snapshot().delegation_limits(who),
            )
            change.put(Put(relationships, made.id, made))
            shown = relationship.entry(made, now)
            change.row("relationship:create", made.id, by, after=shown)
        return made

    def revoke_relationship(
        self, relationship_id: str, *, by: str, reason: str = "", source: str = ""
    ) -> Relationship:
        """End a relationship; every chain through it is broken from the next request on.

        Args:
            source: only if it is this agent's; empty for any.

        Raises:
            Unknown, Refused, AuditUnavailable: as `delegate`.
        """
        with self._changing() as change:
            before = self.relationship(relationship_id, source=source)
            now = self._now()
            after = relationship.revoke(before, now, reason)
            if after != before:
                change.put(Put(self.state.relationships, after.id, after))
                change.row(
                    "relationship:revoke",
                    after.id,
                    by,
                    before=relationship.entry(before, now),
                    after=relationship.entry(after, now),
                )
        return after

    def relationship(self, relationship_id: str, *, source: str = "") -> Relationship:
        """A relationship by its id; with `source` only if it is this agent's.

        Raises:
            Unknown: there is none.
        """
        found = self.state.relationships.get(relationship_id)
        if found is None or (source and source != found.source):
            raise Unknown(f"there is no relationship {relationship_id}")
        return found

    def standing(self) -> Standing:
        """How relationships stand now, as far as it is known here."""
        return Standing(self._now(), self.state.relationships.entries, self.state.agents.entries)

    def unregistered(self, made: Relationship) -> str:
        """A sentence about a delegation whose target is not registered; empty where it is.

        Its token may come from elsewhere, so this is no mistake, but a slip of the pen looks alike.
        """
        if made.type != AUTHORITY or self.state.agents.get(made.target) is not None:
            return ""
        return (
            f"agent {made.target} is not registered here, so see that the id is right; the"
            " delegation is good for whoever has a token of this id"
        )

    def signer(self) -> Signer:
        """Who signs receipts. The first time takes a tenth of a second, and any thread will do.

        Raises:
            NotPossible: its key cannot be used, or made.
        """
        return self._signer()

    def delegation_keys(self) -> dict[str, object]:
        """The JWK Set of the key that signs receipts, for a DELEGATION_JWKS_FILE elsewhere.

        Raises:
            NotPossible: as `signer`.
        """
        return self._signer().jwks()

    def receipt(self, made: Relationship) -> dict[str, object]:
        """A relationship as a signed receipt (CONTRACT §7)."""
        signer = self._signer()
        return receipt.receipt(made, receipt.signed(made, signer.sign, signer.kid))

    def chain(self, made: Relationship) -> str:
        """What `X-MeshGuard-Delegation` carries of it where no registry is at hand.

        Whoever has no registry does not hear that a hop has ended, so none that has is signed.

        Raises:
            Refused: a hop above it is gone, or one of them does not hold any more.
            NotPossible: it is too long for a header.
        """
        now = self._now()
        hops = collect(made.id, self.state.relationships.get)
        for hop in hops:
            ended = relationship.status(hop, now)
            if ended == "revoked":
                raise Refused(Code.DELEGATION_REVOKED, f"{hop.id} was revoked")
            if ended == "expired":
                raise Refused(Code.DELEGATION_EXPIRED, f"{hop.id} has expired")
            for agent_id in (hop.source, hop.target):
                agent = self.state.agents.get(agent_id)
                if agent is not None and agent.revoked_at is not None:
                    said = f"agent {agent_id}, which {hop.id} names, was revoked"
                    raise Refused(Code.DELEGATION_REVOKED, said)
        signer = self._signer()
        try:
            return receipt.chain_of(hops, signer.sign, signer.kid)
        except ValueError as error:
            raise NotPossible(str(error)) from None

    def _delegator(self, source: str, asking: Identity | None) -> Identity:
        """The agent that delegates: as it is registered, else as its own token says."""
        agent = self.state.agents.get(source)
        if agent is not None and agent.revoked_at is not None:
            raise Refused(Code.DELEGATION_REVOKED, f"sourceAgentId: agent {source} was revoked")
        if asking is not None:
            return asking
        if agent is None:
            raise Unknown(f"sourceAgentId: there is no agent {source}")
        return agents.identity_of(agent)


class _Edges(Mapping[str, list[str]]):
    """For each agent those that may act for it now; looked up as they are followed, and no others.

    There may be as many as a table holds, and an agent may ask as often as it likes.
    """

    def __init__(self, relationships: Table[Relationship], now: float) -> None:
        self._relationships = relationships
        self._now = now

    def __getitem__(self, source: str) -> list[str]:
        known = map(self._relationships.get, self._relationships.keys_of(source))
        return [
            edge.target
            for edge in known
            if edge is not None
            and edge.type == AUTHORITY
            and relationship.status(edge, self._now) == "active"
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._relationships.groups)

    def __len__(self) -> int:
        return len(self._relationships.groups)
