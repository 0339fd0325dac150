"""The delegation that a call names, looked up or verified, and walked to its root.

- A relationship's id is looked up in the registry; a signed chain says everything itself, and what
  the registry knows of its hops and agents, that they were revoked, counts as well.
- A delegation narrows: whoever stands in it must be allowed this action, now, by the same policies,
  and the caller still needs a policy of its own.
- While the fuse of the hop to the caller, or of its root, is open nothing is walked.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from authz.core import latches, tiers
from authz.core.agents import identity_of
from authz.core.delegation import fuse
from authz.core.delegation.relationship import Refused, Relationship, is_id
from authz.core.delegation.walk import Walked, collect, walk, with_revocations
from authz.core.errors import Code
from authz.core.facts import Facts
from authz.core.finding import Deny
from authz.core.identity import Identity
from authz.core.ledger import Put
from authz.core.limits import DelegationLimits

if TYPE_CHECKING:
    from authz.core.case import Case


class Refusal(NamedTuple):
    """The delegation does not hold: why, and at which hop."""

    code: Code
    reason: str
    #: The id of the hop; empty where none is known.
    edge: str
    #: The hop to the caller, where this counts as a failure of it.
    failing: Relationship | None = None
    #: Seconds after which it is worth asking again.
    retry_after_s: int | None = None


def walked(case: "Case") -> Walked | Refusal:
    """Follow the delegation of a call that names one."""
    state, named = case.environment.state, case.call.delegation
    try:
        # What begins like an id is meant as one, and no chain does.
        if named.startswith("rel_"):
            hops = collect(named, state.relationships.get)
        else:
            hops = case.environment.chains.read(named)
            hops = with_revocations(hops, state.relationships.get)
    except Refused as refused:
        return Refusal(refused.code, refused.reason, named if is_id(named) else "")
    leaf = hops[-1]
    if leaf.target == case.identity.agent_id:
        # Whoever else asks learns nothing of it, also not that it is shut.
        until = latches.open_until(state.fuses, leaf.id, leaf.root, case.steady)
        if until is not None:
            seconds = math.ceil(until - case.steady)
            said = f"delegation {leaf.id} failed too often; its fuse closes in {seconds} seconds"
            return Refusal(Code.FUSE_OPEN, said, leaf.id, retry_after_s=seconds)
    return _walk(case, hops)


def failure(case: "Case", refusal: Refusal) -> tuple[tuple[Put, ...], list[str]]:
    """What a refusal does to the fuse of its edge, and what that opens."""
    if refusal.failing is None:
        return (), []
    fuses = case.environment.state.fuses
    put, opened = latches.failed(fuses, refusal.failing, case.steady)
    return (put,), opened


def _walk(case: "Case", hops: Sequence[Relationship]) -> Walked | Refusal:
    """Follow the hops for the action by each of its names, the declared one first."""
    asking = _Delegators(case)
    first = _walk_for(case, hops, case.call.action, asking)
    if not isinstance(first, Walked):
        return first
    for name in case.names[1:]:
        other = _walk_for(case, hops, name, asking)
        if not isinstance(other, Walked):
            return other._replace(reason=f"the request is also {name}: {other.reason}")
    return first._replace(requires_approval=first.requires_approval or asking.needs_person)


def _walk_for(
    case: "Case", hops: Sequence[Relationship], action: str, asking: "_Delegators"
) -> Walked | Refusal:
    found = walk(
        hops,
        case.identity.agent_id,
        case.now,
        action,
        case.call.resource,
        revoked_agent=asking.is_revoked,
        limits=asking.limits,
        may=lambda hop: asking.may(hop, action),
    )
    if isinstance(found, Walked):
        return found
    failing = hops[-1] if found.code in fuse.COUNTED else None
    return Refusal(found.code, found.reason, found.edge, failing)


class _Delegators:
    """What is known of those who delegate, and what policies say of them."""

    def __init__(self, case: "Case") -> None:
        self._case = case
        #: Of each hop: who delegates, and what that one's policies let it delegate.
        self._known: dict[str, tuple[Identity, DelegationLimits]] = {}
        #: One of them would have to ask a person, and so does whoever acts for it.
        self.needs_person = False

    def is_revoked(self, agent_id: str) -> bool:
        agent = self._case.environment.state.agents.get(agent_id)
        return agent is not None and agent.revoked_at is not None

    def limits(self, hop: Relationship) -> DelegationLimits:
        return self._of(hop)[1]

    def may(self, hop: Relationship, action: str) -> tuple[bool, int]:
        """Whether the one who delegates may do this itself, and its trust rank."""
        identity, case = self._of(hop)[0], self._case
        call = case.call if action == case.call.action else case.call._replace(action=action)
        ruling = case.snapshot.ruling(Facts(call, identity))
        policy = ruling.policy
        if isinstance(policy, Deny):
            if policy.code is not Code.APPROVAL_REQUIRED:
                return False, identity.rank
            self.needs_person = True
        return not isinstance(ruling.privilege, Deny), identity.rank

    def _of(self, hop: Relationship) -> tuple[Identity, DelegationLimits]:
        known = self._known.get(hop.id)
        if known is None:
            identity = self._identity(hop)
            limits = self._case.snapshot.delegation_limits(identity)
            known = self._known[hop.id] = identity, limits
        return known

    def _identity(self, hop: Relationship) -> Identity:
        """The one who delegates as the registry has it, else as it was when it did."""
        agent = self._case.environment.state.agents.get(hop.source)
        if agent is not None:
            return identity_of(agent)
        rank = tiers.rank(hop.source_tier) or tiers.UNVERIFIED
        tags = frozenset(hop.source_tags)
        name, org = hop.source_name, hop.source_org
        return Identity(hop.source, name, hop.source_tier, rank, tags, org, rank)
