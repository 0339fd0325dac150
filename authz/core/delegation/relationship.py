"""One hop: who lets whom act, for what and until when (CONTRACT §7).

- A relationship never changes but to end: it is revoked, or it expires.
- Only `delegates_to` carries authority; the other types are facts for people.
- What is kept of the source is what was known when the hop was issued. It is for people and for
  another sidecar that has no record of the agent; whether the source may still delegate is asked
  at each use.
- What ended by itself is never shown as revoked, even when it was revoked later.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from authz.core import shape, tiers
from authz.core.delegation.scope import covers_all
from authz.core.errors import Code
from authz.core.identity import MAX_TAGS
from authz.core.timestamps import rfc3339

#: The type whose target may act for its source.
AUTHORITY: Final = "delegates_to"
TYPES: Final = (AUTHORITY, "created_by", "supervised_by", "consumes_skill")
#: Hops from the root to the caller (CONTRACT §7).
MAX_HOPS: Final = 5
#: Characters of its three lists of patterns together. An agent may have a thousand relationships,
#: all of which are kept in memory; and more does not fit into a chain that a header carries.
MAX_CHARACTERS: Final = 8192
#: The rank a delegator has at least (CONTRACT §7).
VERIFIED: Final = tiers.TIERS.index("verified")
#: The reason that is shown of one that has expired (CONTRACT §7).
PRUNED: Final = "expired -- auto-pruned"

_ID: Final = re.compile("rel_[0-9a-f]{32}", re.ASCII)

Status = Literal["active", "expired", "revoked"]


class Refused(Exception):
    """A delegation that is not made, or cannot be read: why, and one sentence for people."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Relationship(NamedTuple):
    """One hop. Times are seconds since the epoch."""

    #: `rel_` and 32 digits of lower-case hex.
    id: str
    org_id: str
    #: Agent ids: who lets act, and who acts.
    source: str
    target: str
    type: str
    #: Action patterns.
    scope: tuple[str, ...]
    #: Resource patterns; none stands for any resource.
    resources: tuple[str, ...]
    #: What the target may pass on; none stands for nothing.
    ceiling: tuple[str, ...]
    #: Further hops below this one, at most.
    max_depth: int
    requires_approval: bool
    created_at: float
    expires_at: float
    #: The id of the hop above; empty for the first one.
    parent: str
    #: The agent that the chain begins with.
    root: str
    #: 1 for the first hop.
    depth: int
    revoked_at: float | None
    revoked_reason: str
    source_name: str
    #: As it was spelled.
    source_tier: str
    source_tags: tuple[str, ...]
    source_org: str


def is_id(text: str) -> bool:
    """Whether this is the id of a relationship, and not a signed chain."""
    return _ID.fullmatch(text) is not None


def status(relationship: Relationship, now: float) -> Status:
    """Whether it holds; one that is not active never becomes so again."""
    if relationship.revoked_at is not None:
        return "revoked" if relationship.revoked_at < relationship.expires_at else "expired"
    return "active" if now < relationship.expires_at else "expired"


def revoke(relationship: Relationship, now: float, reason: str) -> Relationship:
    """The relationship, ended by somebody. One that has been ended stays as it is.

    Raises:
        Refused: the reason cannot be kept (`malformed`).
    """
    try:
        reason = shape.name("reason", reason, optional=True)
    except ValueError as error:
        raise Refused(Code.MALFORMED, str(error)) from None
    if relationship.revoked_at is not None:
        return relationship
    return relationship._replace(revoked_at=now, revoked_reason=reason)


def widening(child: Relationship, parent: Relationship) -> str:
    """Where the child reaches beyond its parent, as the predicate of a sentence; empty if nowhere.

    A child's approval is not compared: one hop that requires it is enough (`Walked`).
    """
    if not covers_all(parent.scope, child.scope):
        return "has a scope that the scope above it does not cover"
    if not covers_all(parent.ceiling, child.scope):
        return "has a scope that the permissionCeiling above it does not cover"
    if not covers_all(parent.ceiling, child.ceiling):
        return "has a permissionCeiling that the permissionCeiling above it does not cover"
    if parent.resources and not (child.resources and covers_all(parent.resources, child.resources)):
        return "has resources that those above it do not cover"
    if child.expires_at > parent.expires_at:
        return "expires later than the one above it"
    if child.max_depth >= parent.max_depth:
        return "has a maxDepth that is not below the one above it"
    return ""


def entry(relationship: Relationship, now: float) -> dict[str, object]:
    """What the API shows (CONTRACT §7): times in RFC 3339; what is absent is left out."""
    ended = status(relationship, now)
    shown: dict[str, object] = {
        "id": relationship.id,
        "orgId": relationship.org_id or None,
        "sourceAgentId": relationship.source,
        "targetAgentId": relationship.target,
        "relationshipType": relationship.type,
        "scope": list(relationship.scope),
        "resources": list(relationship.resources),
        "permissionCeiling": list(relationship.ceiling),
        "maxDepth": relationship.max_depth,
        "requiresApproval": relationship.requires_approval,
        "parentRelationshipId": relationship.parent or None,
        "createdAt": rfc3339(relationship.created_at),
        "expiresAt": rfc3339(relationship.expires_at),
        "revokedAt": None if relationship.revoked_at is None else rfc3339(relationship.revoked_at),
        "reason": PRUNED if ended == "expired" else relationship.revoked_reason or None,
        "status": ended,
    }
    return {name: value for name, value in shown.items() if value is not None}


def to_json(relationship: Relationship) -> str:
    """Everything but the id, compact."""
    said = relationship._asdict()
    del said["id"]
    return json.dumps(said, separators=(",", ":"), allow_nan=False)


def from_json(relationship_id: str, text: str) -> Relationship:
    """What `to_json` wrote.

    Raises:
        ValueError: it is something else; one sentence.
    """
    fields = Relationship._fields[1:]
    said = shape.members("relationship", shape.json_object("relationship", text), fields)
    return from_values(relationship_id, said)


def from_values(relationship_id: str, said: Mapping[str, Any]) -> Relationship:
    """A relationship of values that were not looked at yet, by the names of its fields.

    Raises:
        ValueError: one of them is none that a relationship can have; one sentence that names it.
    """
    if not is_id(relationship_id):
        raise ValueError("id: not rel_ and 32 digits of lower-case hex")
    parent = said["parent"]
    if not (parent == "" or (isinstance(parent, str) and is_id(parent))):
        raise ValueError("parent: not the id of a relationship")
    if said["type"] not in TYPES:
        raise ValueError(f"type: not one of {', '.join(TYPES)}")
    tier = shape.name("source_tier", said["source_tier"])
    if tiers.rank(tier) is None:
        raise ValueError("source_tier: not a trust tier")
    revoked_at = said["revoked_at"]
    lists = {name: shape.patterns(name, said[name]) for name in ("scope", "resources", "ceiling")}
    if sum(len(one) for patterns in lists.values() for one in patterns) > MAX_CHARACTERS:
        raise ValueError(
            f"scope: with resources and permissionCeiling longer than {MAX_CHARACTERS} characters"
        )
    return Relationship(
        id=relationship_id,
        org_id=shape.name("org_id", said["org_id"], optional=True),
        source=shape.name("source", said["source"]),
        target=shape.name("target", said["target"]),
        type=said["type"],
        scope=lists["scope"],
        resources=lists["resources"],
        ceiling=lists["ceiling"],
        max_depth=shape.count("max_depth", said["max_depth"], 0, MAX_HOPS),
        requires_approval=shape.flag("requires_approval", said["requires_approval"]),
        created_at=shape.moment("created_at", said["created_at"]),
        expires_at=shape.moment("expires_at", said["expires_at"]),
        parent=parent,
        root=shape.name("root", said["root"]),
        depth=shape.count("depth", said["depth"], 1, MAX_HOPS),
        revoked_at=None if revoked_at is None else shape.moment("revoked_at", revoked_at),
        revoked_reason=shape.name("revoked_reason", said["revoked_reason"], optional=True),
        source_name=shape.name("source_name", said["source_name"], optional=True),
        source_tier=tier,
        source_tags=shape.names("source_tags", said["source_tags"], MAX_TAGS),
        source_org=shape.name("source_org", said["source_org"], optional=True),
    )
