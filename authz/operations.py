"""What people do to a sidecar's records: agents, relationships, pending actions, wallets, fuses.

- Each change and its audit row, with what was there before and after, are one transaction; where it
  cannot be recorded it is not made.
- The same operations serve the admin API, in the sidecar's own process, and the command line, in
  another one: the sidecar follows what others have committed before it decides anything.
- A token is made here and shown once; nothing here keeps one.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from authz.core import agents, balance, jwks, latches, pending
from authz.core.action_token import MAX_TTL_S, ActionTokens
from authz.core.agents import Agent
from authz.core.audit import AuditRow, change_row
from authz.core.balance import Refilled
from authz.core.delegation import issue, receipt, relationship
from authz.core.delegation.issue import Delegator, Terms
from authz.core.delegation.receipt import Sign
from authz.core.delegation.relationship import AUTHORITY, Refused, Relationship
from authz.core.delegation.standing import Standing
from authz.core.delegation.walk import collect
from authz.core.errors import Code
from authz.core.identity import Identity, mint
from authz.core.ledger import Put, Table
from authz.core.mode import Mode
from authz.core.pending import NotPending, Pending
from authz.core.snapshot import Snapshot
from authz.core.state import SHOWN_S, State
from authz.core.timestamps import rfc3339
from authz.stores.audit_log import AuditLog

#: Random digits in an agent's id, hexadecimal.
_AGENT_DIGITS: Final = 16
#: Most relationships of one source that are kept, ended ones too: a bound on what one agent fills.
MAX_RELATIONSHIPS: Final = 1000


class Unknown(Exception):
    """There is no such record; one sentence."""


class NotPossible(Exception):
    """It cannot be done as things are; one sentence."""


class Token(NamedTuple):
    """An agent's new token, and until when it is good, seconds since the epoch."""

    token: str
    expires_at: float


class Signer(NamedTuple):
    """Who signs receipts."""

    kid: str
    sign: Sign
    #: The key's public half, 32 bytes (RFC 8032 §5.1.5).
    public: bytes

    def jwks(self) -> dict[str, object]:
        """The JWK Set of the public half, for a DELEGATION_JWKS_FILE elsewhere."""
        return jwks.ed25519_set(self.kid, self.public)


class Spent(NamedTuple):
    """What an agent has spent of a wallet."""

    agent_id: str
    wallet: str
    spent: int
    #: None where no document of this name is in force.
    capacity: int | None

    @property
    def remaining(self) -> int | None:
        """Points that are left; None where it is not known how many there are."""
        return None if self.capacity is None else max(self.capacity - self.spent, 0)

    def entry(self) -> dict[str, object]:
        """As API answers and the CLI show it; what is not known is left out."""
        shown = {
            "wallet": self.wallet,
            "agentId": self.agent_id,
            "spent": self.spent,
            "capacity": self.capacity,
            "remaining": self.remaining,
        }
        return {name: value for name, value in shown.items() if value is not None}


class Operations:
    """All of them, on one ledger."""

    def __init__(
        self,
        state: State,
        audit: AuditLog,
        *,
        snapshot: Callable[[], Snapshot],
        mode: Callable[[], Mode],
        now: Callable[[], float],
        steady: Callable[[], float],
        new_id: Callable[[], str],
        action_tokens: ActionTokens,
        signer: Callable[[], Signer],
        jwt_secret: str = "",
        jwt_ttl_s: int = 0,
        version: Callable[[], str] | None = None,
    ) -> None:
        """
        Args:
            now: seconds since the epoch.
            steady: the same on the steady clock (`core/ledger.py`).
            new_id: 32 random digits, hexadecimal.
            signer: who signs receipts; called when one is signed.
            jwt_secret: what agent tokens are signed with; without it none can be.
            jwt_ttl_s: how long they are good for, seconds.
            version: names the policies in force, where they are not those of the snapshot.
        """
        self.state: Final = state
        self._audit = audit
        self._snapshot = snapshot
        self._mode = mode
        self._now = now
        self._steady = steady
        self._new_id = new_id
        self._action_tokens = action_tokens
        self._signer = signer
        self._jwt_secret = jwt_secret
        self._jwt_ttl_s = jwt_ttl_s
        self._version = version or (lambda: snapshot().version)

    # Agents.

    def create_agent(self, *, by: str, agent_id: str = "", **fields: Any) -> Agent:
        """Register an agent; `fields` are those of `agents.new_agent`.

        Raises:
            ValueError: a field is not usable; one sentence that names it.
            NotPossible: there is one of this id.
            AuditUnavailable: it cannot be recorded, and so is not made.
        """
        agent_id = agent_id or f"agent_{self._new_id()[:_AGENT_DIGITS]}"
        agent = agents.new_agent(agent_id, self._now(), **fields)
        with self._changing() as change:
            if self.state.agents.get(agent_id) is not None:
                raise NotPossible(f"there is an agent {agent_id} already, or was before")
            change.put(Put(self.state.agents, agent_id, agent))
            change.row("agent:create", agent_id, by, after=agents.entry(agent))
        return agent

    def update_agent(self, agent_id: str, changes: Mapping[str, Any], *, by: str) -> Agent:
        """Change an agent; `changes` by the names of `agents.changed`.

        Raises:
            NotPossible: it is revoked.
            Unknown, ValueError, AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            before = self._agent(agent_id)
            if before.revoked_at is not None:
                raise NotPossible("a revoked agent cannot be changed; register another one")
            agent = agents.changed(before, self._now(), **changes)
            change.put(Put(self.state.agents, agent_id, agent))
            change.row(
                "agent:update", agent_id, by, before=agents.entry(before), after=agents.entry(agent)
            )
        return agent

    def revoke_agent(
        self, agent_id: str, *, by: str, reason: str = "", known: bool = True
    ) -> Agent:
        """Revoke an agent, at once and for ever; one that is revoked stays as it is.

        Args:
            known: only one that is registered here; else also one whose tokens come from elsewhere.

        Raises:
            Unknown, ValueError, AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            before = self.state.agents.get(agent_id)
            if before is None and known:
                raise Unknown(f"there is no agent {agent_id}")
            agent = agents.revoked(before or agent_id, self._now(), reason)
            if agent != before:
                change.put(Put(self.state.agents, agent_id, agent))
                was = None if before is None else agents.entry(before)
                change.row("agent:revoke", agent_id, by, before=was, after=agents.entry(agent))
        return agent

    def new_token(self, agent_id: str, *, by: str, ttl_s: int | None = None) -> Token:
        """A token for a registered agent.

        Raises:
            Unknown, AuditUnavailable: as `create_agent`.
            NotPossible: there is nothing to sign it with, or the agent is revoked.
            ValueError: the lifetime is none.
        """
        if not self._jwt_secret:
            raise NotPossible("JWT_SECRET is not set, so no token can be signed here")
        with self._changing() as change:
            agent = self._agent(agent_id)
            if agent.revoked_at is not None:
                raise NotPossible(f"agent {agent_id} was revoked")
            now, ttl = self._now(), self._jwt_ttl_s if ttl_s is None else ttl_s
            token = mint(
                self._jwt_secret,
                agent_id=agent_id,
                now=now,
                ttl_s=ttl,
                name=agent.name,
                tier=agent.tier,
                tags=agent.tags,
                org_id=agent.org_id,
            )
            expires = math.floor(now) + ttl
            change.row("agent:token", agent_id, by, after={"expiresAt": rfc3339(expires)})
        return Token(token, expires)

    # Relationships.

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

    # Pending actions.

    def pending(self, pending_id: str) -> Pending:
        """A pending action.

        Raises:
            Unknown: there is none.
        """
        found = self.state.pending.get(pending_id)
        if found is None:
            raise Unknown(f"there is no pending action {pending_id}")
        return found

    def answer(
        self, pending_id: str, *, approve: bool, approver: str, by: str, words: str = ""
    ) -> Pending:
        """Approve or reject a pending action.

        Raises:
            Unknown: there is none.
            NotPending: somebody has answered, or its time is over.
            AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            now, before = self._steady(), self.pending(pending_id)
            version = self._version()
            if approve and version and before.policy_version != version:
                raise NotPending(
                    f"{pending_id} became pending under policies of version {before.policy_version}"
                    f", and {version} is in force: nothing could come of it; the agent has to ask"
                    " again"
                )
            after = pending.answered(before, now, approve=approve, approver=approver, words=words)
            change.put(Put(self.state.pending, pending_id, after))
            change.row(
                f"pending:{'approve' if approve else 'reject'}",
                pending_id,
                by,
                before=pending.entry(before, now),
                after=pending.entry(after, now),
            )
        return after

    def action_token(self, approved: Pending) -> Token:
        """An action token for an approved action; it stands for the pending id as well."""
        ttl_s = max(min(MAX_TTL_S, int(approved.expires_at - self._steady())), 1)
        return self.mint_action(
            approved.agent_id,
            approved.action,
            approved.resource,
            approved.policy_version,
            ttl_s,
            approved.id,
        )

    def mint_action(
        self,
        agent_id: str,
        action: str,
        resource: str,
        policy_version: str,
        ttl_s: int = MAX_TTL_S,
        pending_id: str = "",
    ) -> Token:
        """An action token; whoever calls this has decided that there may be one."""
        now = self._steady()
        token = self._action_tokens.mint(
            agent_id=agent_id,
            action=action,
            resource=resource,
            policy_version=policy_version,
            jti=self._new_id(),
            now=now,
            ttl_s=ttl_s,
            pending_id=pending_id,
        )
        return Token(token, int(now) + min(ttl_s, MAX_TTL_S))

    # Wallets and fuses.

    def wallets(self) -> list[Spent]:
        """What agents have spent, of every wallet that anything was spent of."""
        return self.spent(self.state.wallets.entries)

    def spent(self, keys: Iterable[str]) -> list[Spent]:
        """What was spent of the balances of these keys, as far as there are any still."""
        now = self._steady()
        documents = {wallet.name: wallet for wallet in self._snapshot().wallets}
        found = []
        for key in keys:
            known = self.state.wallets.get(key)
            if known is None:
                continue
            wallet, agent_id = balance.parts(key)
            document = documents.get(wallet)
            spent = known.spent if isinstance(known, Refilled) else known.total(now)
            if isinstance(known, Refilled) and document is not None and document.refill is not None:
                spent = balance.refilled(known, now, *document.refill).spent
            capacity = None if document is None else document.capacity
            found.append(Spent(agent_id, wallet, spent, capacity))
        return found

    def reset_wallet(self, wallet: str, agent_id: str, *, by: str) -> Spent:
        """Give an agent back what it has spent of a wallet, and return what that was.

        Raises:
            Unknown: it has spent nothing.
            AuditUnavailable: as `create_agent`.
        """
        key = balance.key(wallet, agent_id)
        with self._changing() as change:
            known = self.spent([key])
            if not known:
                raise Unknown(f"agent {agent_id} has spent nothing of wallet {wallet}")
            change.put(Put(self.state.wallets, key, None))
            change.row(
                "wallet:reset",
                f"{wallet} {agent_id}",
                by,
                before={"spent": known[0].spent},
                after={"spent": 0},
            )
        return known[0]

    def reset_fuse(self, relationship_id: str, *, by: str) -> dict[str, object]:
        """Close the fuse of a delegation, and return how it stood.

        Raises:
            Unknown: it has none, since nothing has failed.
            AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            latch = self.state.fuses.get(relationship_id)
            if latch is None:
                raise Unknown(f"relationship {relationship_id} has no fuse that could be reset")
            before = latches.entry(relationship_id, latch, self._steady())
            change.put(Put(self.state.fuses, relationship_id, None))
            change.row("fuse:reset", relationship_id, by, before=before)
        return before

    # What they have in common.

    def record(
        self,
        action: str,
        resource: str,
        *,
        by: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a change of something that is no record, before it is made.

        Raises:
            AuditUnavailable: it cannot be recorded, and so is not to be made.
        """
        with self._changing() as change:
            change.row(action, resource, by, before=before, after=after)

    def now(self) -> float:
        """Seconds since the epoch, which agents and relationships tell."""
        return self._now()

    def steady(self) -> float:
        """Seconds of the steady clock, which the others tell (`core/ledger.py`)."""
        return self._steady()

    def refresh(self) -> None:
        """Take over what others have changed.

        Raises:
            AuditUnavailable: the store cannot be read now.
        """
        self._audit.follow()

    @contextlib.contextmanager
    def _changing(self) -> Iterator["_Change"]:
        """A transaction; what was changed of the ledger is taken back where it fails.

        Where nothing was changed nothing is written, also not what waits to be: others look for
        changes where there is a new row.
        """
        ledger = self.state.ledger
        self._audit.begin()
        change = _Change(self)
        try:
            yield change
            if not change.rows:
                self._audit.cancel()
                return
            self._audit.write(change.rows, ledger.changes())
        except BaseException:
            self._audit.cancel()
            ledger.undo()
            raise
        ledger.keep(durable=True)

    def _row(self, action: str, resource: str, by: str, metadata: Mapping[str, Any]) -> AuditRow:
        return change_row(
            row_id=self._new_id(),
            at=self._now(),
            action=action,
            resource=resource,
            reason=f"by {by}",
            mode=self._mode(),
            policy_version=self._version(),
            metadata=metadata,
        )

    def _agent(self, agent_id: str) -> Agent:
        agent = self.state.agents.get(agent_id)
        if agent is None:
            raise Unknown(f"there is no agent {agent_id}")
        return agent

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


class _Change:
    """What one operation changes."""

    def __init__(self, operations: Operations) -> None:
        self.rows: list[AuditRow] = []
        self._operations = operations

    def put(self, change: Put) -> None:
        self._operations.state.ledger.put(change)

    def row(
        self,
        action: str,
        resource: str,
        by: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        said = {"before": before, "after": after}
        metadata = {name: value for name, value in said.items() if value is not None}
        self.rows.append(self._operations._row(action, resource, by, metadata))  # noqa: SLF001
