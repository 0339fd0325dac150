"""Whether a delegation holds now, for this caller and this action (CONTRACT §7, §15).

- The checks have one order, each looks at the hops from the root on, and the first that fails
  names its hop. So one broken chain has one reason.
- Who the hops belong to comes before anything that changes: only the agent that holds the last
  hop learns more of it.
- The clock has no leeway at the end of a hop. Its beginning has `CLOCK_LEEWAY_S`, since another
  host may have issued it.
- Delegators are asked last, and all of them: the policies that `may` reads cost the most.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from authz.core.delegation.relationship import (
    AUTHORITY,
    MAX_HOPS,
    VERIFIED,
    Refused,
    Relationship,
    is_id,
    status,
    widening,
)
from authz.core.delegation.scope import ADMIN, allows, has_one_spelling, is_admin_action
from authz.core.errors import Code
from authz.core.identity import CLOCK_LEEWAY_S
from authz.core.limits import DelegationLimits

#: A relationship by its id; None where there is none.
Get = Callable[[str], Relationship | None]


class Walked(NamedTuple):
    """The delegation holds."""

    #: The lowest rank among the delegators; the caller's own is not in it.
    effective_rank: int
    #: The hop to the caller.
    leaf: Relationship
    #: The agent that the chain begins with.
    root: str
    #: Hops.
    depth: int
    #: One of the hops requires it.
    requires_approval: bool


class Broken(NamedTuple):
    """It does not: why, and at which hop."""

    code: Code
    reason: str
    #: The id of the hop.
    edge: str


def collect(leaf_id: str, get: Get) -> tuple[Relationship, ...]:
    """The hops from the root to the relationship that is named, root first.

    Raises:
        Refused: there is none, one above it is gone, or they do not end.
    """
    hops: list[Relationship] = []
    seen: set[str] = set()
    above = leaf_id
    while above:
        if above in seen:
            raise Refused(Code.DELEGATION_CYCLE, f"{above} stands above itself")
        if len(hops) == MAX_HOPS:
            raise Refused(Code.DELEGATION_TOO_DEEP, f"the chain has more than {MAX_HOPS} hops")
        hop = get(above) if is_id(above) else None
        if hop is None:
            reason = f"a hop above {leaf_id} is not known here" if hops else _UNKNOWN
            raise Refused(Code.DELEGATION_UNKNOWN, reason)
        hops.append(hop)
        seen.add(above)
        above = hop.parent
    if not hops:
        raise Refused(Code.DELEGATION_UNKNOWN, _UNKNOWN)
    return tuple(reversed(hops))


_UNKNOWN: Final = "no relationship has the id that X-MeshGuard-Delegation names"


def with_revocations(hops: Sequence[Relationship], get: Get) -> tuple[Relationship, ...]:
    """The hops of a signed chain, with what is known here of their end.

    A chain does not tell that one of its hops was revoked later.
    """
    ended: list[Relationship] = []
    for hop in hops:
        known = get(hop.id)
        if known is None or known.revoked_at is None:
            ended.append(hop)
        else:
            ended.append(
                hop._replace(revoked_at=known.revoked_at, revoked_reason=known.revoked_reason)
            )
    return tuple(ended)


def walk(
    hops: Sequence[Relationship],
    caller: str,
    now: float,
    action: str,
    resource: str,
    *,
    revoked_agent: Callable[[str], bool],
    limits: Callable[[Relationship], DelegationLimits],
    may: Callable[[Relationship], tuple[bool, int]],
) -> Walked | Broken:
    """Whether `caller` may use these hops, root first, for the action on the resource.

    `caller`: an agent id, verified. `resource`: empty where none is named. `limits`: what the
    policies of a hop's source let it delegate. `may`: whether they allow the source itself what
    is asked, and the rank that it has now.
    """
    if not hops:
        return Broken(Code.DELEGATION_BROKEN, "the chain has no hops", "")
    for broken in _form(hops, caller, limits):
        return broken
    for broken in _standing(hops, now, revoked_agent):
        return broken
    for broken in _reach(hops, action, resource, limits):
        return broken
    answers = [may(hop) for hop in hops]
    for hop, (_, rank) in zip(hops, answers, strict=True):
        if rank < VERIFIED:
            reason = f"the agent that issued {hop.id} is below tier verified"
            return Broken(Code.DELEGATOR_TIER_TOO_LOW, reason, hop.id)
    for hop, (allowed, _) in zip(hops, answers, strict=True):
        if not allowed:
            reason = f"the agent that issued {hop.id} may not do this itself"
            return Broken(Code.DELEGATOR_LOST_PERMISSION, reason, hop.id)
    return Walked(
        effective_rank=min(rank for _, rank in answers),
        leaf=hops[-1],
        root=hops[0].source,
        depth=len(hops),
        requires_approval=any(hop.requires_approval for hop in hops),
    )


def _form(
    hops: Sequence[Relationship], caller: str, limits: Callable[[Relationship], DelegationLimits]
) -> Iterator[Broken]:
    """What is wrong with the chain whatever the time and the action are."""
    yield from _links(hops)
    leaf = hops[-1]
    if leaf.target != caller:
        reason = f"{leaf.id} is given to another agent than the caller"
        yield Broken(Code.DELEGATION_WRONG_DELEGATE, reason, leaf.id)
    for hop in hops:
        if hop.type != AUTHORITY:
            reason = f"{hop.id} is {hop.type}, which carries no authority"
            yield Broken(Code.DELEGATION_NOT_AUTHORITY, reason, hop.id)
    for hop in hops:
        if hop.source == hop.target:
            reason = f"{hop.id} is given by an agent to itself"
            yield Broken(Code.DELEGATION_SELF_ISSUED, reason, hop.id)
    seen = {hops[0].source}
    for hop in hops:
        if hop.target in seen:
            reason = f"{hop.id} is given to an agent that stands above it in the chain"
            yield Broken(Code.DELEGATION_CYCLE, reason, hop.id)
        seen.add(hop.target)
    if len(hops) > MAX_HOPS:
        reason = f"the chain has more than {MAX_HOPS} hops"
        yield Broken(Code.DELEGATION_TOO_DEEP, reason, hops[MAX_HOPS].id)
    for depth, hop in enumerate(hops, start=1):
        below = len(hops) - depth
        if below > hop.max_depth:
            reason = f"below {hop.id} are more hops than its maxDepth allows"
            yield Broken(Code.DELEGATION_TOO_DEEP, reason, hop.id)
        allowed = limits(hop).max_depth
        if allowed is not None and below > allowed:
            reason = f"below {hop.id} are more hops than its issuer's policies allow"
            yield Broken(Code.DELEGATION_TOO_DEEP, reason, hop.id)


def _links(hops: Sequence[Relationship]) -> Iterator[Broken]:
    """Where the hops do not follow one another."""
    first = hops[0]
    if first.parent:
        reason = f"{first.id} was passed on, and the hop above it is missing"
        yield Broken(Code.DELEGATION_BROKEN, reason, first.id)
    if first.root != first.source or first.depth != 1:
        reason = f"{first.id} is not the first hop of a chain"
        yield Broken(Code.DELEGATION_BROKEN, reason, first.id)
    for above, hop in itertools.pairwise(hops):
        follows = (
            hop.parent == above.id
            and hop.source == above.target
            and hop.root == above.root
            and hop.depth == above.depth + 1
        )
        if not follows:
            reason = f"{hop.id} does not follow from {above.id}"
            yield Broken(Code.DELEGATION_BROKEN, reason, hop.id)


def _standing(
    hops: Sequence[Relationship], now: float, revoked_agent: Callable[[str], bool]
) -> Iterator[Broken]:
    """What ended, or has not begun."""
    for hop in hops:
        if status(hop, now) == "revoked":
            yield Broken(Code.DELEGATION_REVOKED, f"{hop.id} was revoked", hop.id)
    for hop in hops:
        for agent in (hop.source, hop.target):
            if revoked_agent(agent):
                whose = "that issued" if agent == hop.source else "that was given"
                reason = f"the agent {whose} {hop.id} was revoked"
                yield Broken(Code.DELEGATION_REVOKED, reason, hop.id)
    for hop in hops:
        if hop.created_at > now + CLOCK_LEEWAY_S:
            reason = f"{hop.id} was issued in the future"
            yield Broken(Code.DELEGATION_NOT_YET_VALID, reason, hop.id)
    for hop in hops:
        if status(hop, now) == "expired":
            yield Broken(Code.DELEGATION_EXPIRED, f"{hop.id} has expired", hop.id)


def _reach(
    hops: Sequence[Relationship],
    action: str,
    resource: str,
    limits: Callable[[Relationship], DelegationLimits],
) -> Iterator[Broken]:
    """What the hops do not reach, or should not."""
    for above, hop in itertools.pairwise(hops):
        wider = widening(hop, above)
        if wider:
            yield Broken(Code.DELEGATION_WIDENED, f"{hop.id} {wider}", hop.id)
    for hop in hops:
        outside = _outside(hop, action, resource)
        if outside:
            yield Broken(Code.DELEGATION_OUT_OF_SCOPE, outside, hop.id)
    for hop in hops[:-1]:
        if not allows(hop.ceiling, action):
            reason = f"the permissionCeiling of {hop.id} does not cover the action"
            yield Broken(Code.DELEGATION_OVER_CEILING, reason, hop.id)
    for hop in hops:
        if not all(allows(ceiling, action) for ceiling in limits(hop).ceilings):
            reason = f"the policies of the agent that issued {hop.id} forbid to delegate this"
            yield Broken(Code.DELEGATION_OVER_CEILING, reason, hop.id)


def _outside(hop: Relationship, action: str, resource: str) -> str:
    """Why the hop is not for this action and resource; empty if it is."""
    if is_admin_action(action):
        return f"actions that begin with {ADMIN} cannot be delegated"
    if not allows(hop.scope, action):
        return f"the scope of {hop.id} does not cover the action"
    if not hop.resources:
        return ""
    if not has_one_spelling(resource):
        return f"{hop.id} names resources, and this one can be read in more than one way"
    if not allows(hop.resources, resource):
        return f"the resources of {hop.id} do not cover the one that is asked for"
    return ""
