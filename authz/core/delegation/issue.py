"""Who may pass on what, asked when a hop is made (CONTRACT §7).

- Everything that `walk` asks of a chain is asked here too, as far as it can be known; `walk` asks
  again, because tiers, policies and the hops above change.
- A hop that would reach beyond the one above it is refused and not cut: its maker would believe
  in more than there is.
- No agent may come to act for itself, through however many others.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from authz.core import shape
from authz.core.delegation.relationship import (
    AUTHORITY,
    MAX_HOPS,
    TYPES,
    VERIFIED,
    Refused,
    Relationship,
    from_values,
    status,
    widening,
)
from authz.core.delegation.scope import ADMIN, covers, covers_all
from authz.core.errors import Code
from authz.core.limits import NO_DELEGATION_LIMITS, DelegationLimits

#: Seconds that a relationship may last: a leap year. Whoever still needs it says so again.
MAX_LIFETIME_S: Final = 366 * 24 * 3600
#: Edges that are followed in search of a cycle: a few milliseconds' work.
MAX_EDGES: Final = 10_000


class Delegator(NamedTuple):
    """What is known of the agent that delegates."""

    agent_id: str
    name: str
    #: As it is spelled; compare `rank`.
    tier: str
    #: The rank that counts now, which may be lower than the tier's.
    rank: int
    tags: tuple[str, ...]
    org_id: str


class Terms(NamedTuple):
    """What is asked for. Nothing of it was looked at yet, not even whether it has these types."""

    target: str
    scope: Sequence[str]
    #: Seconds since the epoch; it has to be given.
    expires_at: float | None
    type: str = AUTHORITY
    #: None given: any resource.
    resources: Sequence[str] = ()
    #: None: as the scope. An empty list: nothing may be passed on.
    ceiling: Sequence[str] | None = None
    max_depth: int = 0
    requires_approval: bool = False
    org_id: str = ""


def issue(
    terms: Terms,
    source: Delegator,
    *,
    relationship_id: str,
    now: float,
    edges: Mapping[str, Collection[str]],
    parent: Relationship | None = None,
    limits: DelegationLimits = NO_DELEGATION_LIMITS,
) -> Relationship:
    """A new hop below `parent`, or the first one of a chain.

    `edges`: for each agent the targets of its active `delegates_to` relationships. `limits`: what
    the source's policies let it delegate. Times are kept to the microsecond.

    Raises:
        Refused: it may not be made; `malformed` where the terms themselves are unusable.
    """
    try:
        made = _made(terms, source, relationship_id, now, parent)
    except ValueError as error:
        raise Refused(Code.MALFORMED, str(error)) from None
    if source.rank < VERIFIED:
        raise Refused(
            Code.DELEGATOR_TIER_TOO_LOW,
            "sourceAgentId: an agent below tier verified may not delegate",
        )
    if made.target == made.source:
        raise Refused(
            Code.DELEGATION_SELF_ISSUED, "targetAgentId: an agent may not delegate to itself"
        )
    if parent is not None:
        _judge_parent(made, parent, now)
    if made.type == AUTHORITY:
        _judge_authority(made, limits)
        _refuse_cycle(made, edges)
    return made


def _made(
    terms: Terms, source: Delegator, relationship_id: str, now: float, parent: Relationship | None
) -> Relationship:
    """The hop as it was asked for, with everything in one form; ValueError where that fails."""
    if terms.type not in TYPES:
        raise ValueError(f"relationshipType: unknown; write one of {', '.join(TYPES)}")
    scope = shape.patterns("scope", terms.scope)
    if terms.type == AUTHORITY and not scope:
        raise ValueError("scope: empty, so nothing would be delegated; name actions, or *")
    if terms.expires_at is None:
        raise ValueError("expiresAt: missing; a delegation has to end")
    expires_at = shape.moment("expiresAt", terms.expires_at)
    if not now < expires_at <= now + MAX_LIFETIME_S:
        raise ValueError("expiresAt: not in the future, or more than 366 days away")
    ceiling = scope
    if terms.ceiling is not None:
        ceiling = shape.patterns("permissionCeiling", terms.ceiling)
    values = {
        "org_id": shape.name("orgId", terms.org_id, optional=True),
        "source": source.agent_id,
        "target": shape.name("targetAgentId", terms.target),
        "type": terms.type,
        "scope": scope,
        "resources": shape.patterns("resources", terms.resources),
        "ceiling": ceiling,
        "max_depth": shape.count("maxDepth", terms.max_depth, 0, MAX_HOPS),
        "requires_approval": shape.flag("requiresApproval", terms.requires_approval),
        # A receipt tells microseconds, and should say what the registry does.
        "created_at": round(now, 6),
        "expires_at": round(expires_at, 6),
        "parent": parent.id if parent else "",
        "root": parent.root if parent else source.agent_id,
        # One below the last is refused when the parent is judged.
        "depth": min(parent.depth + 1, MAX_HOPS) if parent else 1,
        "revoked_at": None,
        "revoked_reason": "",
        "source_name": source.name,
        "source_tier": source.tier,
        "source_tags": source.tags,
        "source_org": source.org_id,
    }
    return from_values(relationship_id, values)


def _judge_parent(made: Relationship, parent: Relationship, now: float) -> None:
    """Whether `made` may hang below `parent`."""
    where = f"parentRelationshipId: {parent.id}"
    if not made.type == parent.type == AUTHORITY:
        raise Refused(
            Code.DELEGATION_NOT_AUTHORITY, f"{where}: only {AUTHORITY} relationships are passed on"
        )
    if parent.target != made.source:
        raise Refused(Code.DELEGATION_BROKEN, f"{where} is not given to the source agent")
    if made.target in (parent.source, parent.root):
        raise Refused(
            Code.DELEGATION_CYCLE, "targetAgentId: this agent stands above in the same chain"
        )
    standing = status(parent, now)
    if standing == "revoked":
        raise Refused(Code.DELEGATION_REVOKED, f"{where} was revoked")
    if standing == "expired":
        raise Refused(Code.DELEGATION_EXPIRED, f"{where} has expired")
    if parent.depth >= MAX_HOPS:
        raise Refused(Code.DELEGATION_TOO_DEEP, f"{where} is the last of {MAX_HOPS} hops")
    if parent.max_depth < 1:
        raise Refused(Code.DELEGATION_TOO_DEEP, f"{where} may not be passed on (maxDepth is 0)")
    wider = widening(made, parent)
    if wider:
        raise Refused(Code.DELEGATION_WIDENED, f"{where}: what is asked for {wider}; ask for less")


def _judge_authority(made: Relationship, limits: DelegationLimits) -> None:
    """Whether anybody, and this source, may delegate as much."""
    for at, pattern in enumerate(made.scope):
        if covers(f"{ADMIN}*", pattern):
            raise Refused(
                Code.DELEGATION_OUT_OF_SCOPE,
                f"scope[{at}]: actions that begin with {ADMIN} cannot be delegated",
            )
    if limits.max_depth is not None and made.max_depth > limits.max_depth:
        raise Refused(
            Code.DELEGATION_TOO_DEEP,
            f"maxDepth: the source agent's policies allow at most {limits.max_depth}",
        )
    for ceiling in limits.ceilings:
        for where, asked in (("scope", made.scope), ("permissionCeiling", made.ceiling)):
            if not covers_all(ceiling, asked):
                raise Refused(
                    Code.DELEGATION_OVER_CEILING,
                    f"{where}: the permissionCeiling in the source agent's policies does not"
                    " cover it",
                )


def _refuse_cycle(made: Relationship, edges: Mapping[str, Collection[str]]) -> None:
    """Refuse a hop to an agent that acts for others who let the source act."""
    seen = {made.target}
    ahead = deque(seen)
    followed = 0
    while ahead:
        for target in edges.get(ahead.popleft(), ()):
            followed += 1
            if target == made.source:
                raise Refused(
                    Code.DELEGATION_CYCLE,
                    "targetAgentId: the source agent already acts for this agent, directly or"
                    " through others",
                )
            if followed > MAX_EDGES:
                raise Refused(
                    Code.DELEGATION_CYCLE,
                    f"targetAgentId: more than {MAX_EDGES} delegations follow from this agent, so a"
                    " cycle cannot be ruled out; revoke those that are not needed",
                )
            if target not in seen:
                seen.add(target)
                ahead.append(target)
