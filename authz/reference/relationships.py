"""Who may act for whom (`edges/http/relationships.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.records import Revocation
from authz.edges.http.relationships import STATUSES, NewRelationship
from authz.reference.operation import ADMIN, CLOSED, EITHER, IN_PATHS, Operation, Time

RELATIONSHIP_ID: Final = IN_PATHS["relationship_id"]

Type = Literal["delegates_to", "created_by", "supervised_by", "consumes_skill"]


@with_config(CLOSED)
class Relationship(TypedDict):
    """That one agent may act for another one, and what as."""

    id: str
    orgId: NotRequired[str]
    sourceAgentId: Annotated[str, Field(description="Who delegates.")]
    targetAgentId: Annotated[str, Field(description="Who acts for it.")]
    relationshipType: Annotated[
        Type, Field(description="Only `delegates_to` carries any authority.")
    ]
    scope: Annotated[list[str], Field(description="Patterns of actions.")]
    resources: Annotated[list[str], Field(description="Patterns of resources; empty for all.")]
    permissionCeiling: list[str]
    maxDepth: Annotated[int, Field(description="How often it may be passed on.")]
    requiresApproval: bool
    parentRelationshipId: NotRequired[str]
    createdAt: Time
    expiresAt: Time
    revokedAt: NotRequired[Time]
    reason: NotRequired[Annotated[str, Field(description="Why it has ended.")]]
    status: Literal["active", "broken", "expired", "revoked"]
    brokenBy: NotRequired[
        Annotated[str, Field(description="The relationship above that does not hold any more.")]
    ]


@with_config(CLOSED)
class RelationshipEntry(TypedDict):
    """A relationship."""

    relationship: Relationship


@with_config(CLOSED)
class RelationshipPage(TypedDict):
    """Relationships, newest first."""

    relationships: list[Relationship]
    next: NotRequired[Annotated[str, Field(description="Send it as `after` for more.")]]


@with_config(CLOSED)
class Issuer(TypedDict):
    """Who delegated, as it was then."""

    agentId: str
    tier: str
    name: str
    tags: list[str]
    orgId: str


@with_config(CLOSED)
class Delegate(TypedDict):
    """Who acts."""

    agentId: str


@with_config(CLOSED)
class ReceiptScope(TypedDict):
    """What was delegated."""

    actions: list[str]
    resources: list[str]
    ceiling: list[str]
    maxDepth: int
    expiresAt: Time
    requiresApproval: bool


@with_config(CLOSED)
class ReceiptChain(TypedDict):
    """Where it stands in its chain."""

    depth: int
    parentReceiptId: NotRequired[str]
    rootAgentId: str


@with_config(CLOSED)
class Receipt(TypedDict):
    """A relationship as it was signed."""

    version: Literal["1.0"]
    receiptId: str
    timestamp: Time
    relationshipType: Type
    orgId: NotRequired[str]
    issuer: Issuer
    delegate: Delegate
    scope: ReceiptScope
    chain: ReceiptChain
    signature: str


@with_config(CLOSED)
class NewRelationshipAnswer(RelationshipEntry):
    """A new relationship, and its signed form."""

    receipt: NotRequired[Receipt]
    chain: NotRequired[
        Annotated[
            str, Field(description="What `X-MeshGuard-Delegation` carries elsewhere than here.")
        ]
    ]
    note: NotRequired[Annotated[str, Field(description="What to look at again.")]]


@with_config(CLOSED)
class Chain(TypedDict):
    """A relationship and all above it, signed."""

    chain: Annotated[
        str, Field(description="What `X-MeshGuard-Delegation` carries elsewhere than here.")
    ]


_CHAIN: Final = "eyJhbGciOiJFZERTQSIs…"
_RELATIONSHIP: Final[dict[str, Any]] = {
    "id": RELATIONSHIP_ID,
    "sourceAgentId": "planner",
    "targetAgentId": "worker",
    "relationshipType": "delegates_to",
    "scope": ["read:*"],
    "resources": [],
    "permissionCeiling": ["read:*"],
    "maxDepth": 0,
    "requiresApproval": False,
    "createdAt": "2026-01-31T12:00:00.000000Z",
    "expiresAt": "2026-01-31T13:00:00.000000Z",
    "status": "active",
}
_MADE: Final = {
    "relationship": _RELATIONSHIP,
    "receipt": {
        "version": "1.0",
        "receiptId": "rcpt_5d2a8c7e91f04b36a1c2d3e4f5061728",
        "timestamp": "2026-01-31T12:00:00.000000Z",
        "relationshipType": "delegates_to",
        "issuer": {
            "agentId": "planner",
            "tier": "verified",
            "name": "Planner",
            "tags": [],
            "orgId": "",
        },
        "delegate": {"agentId": "worker"},
        "scope": {
            "actions": ["read:*"],
            "resources": [],
            "ceiling": ["read:*"],
            "maxDepth": 0,
            "expiresAt": "2026-01-31T13:00:00.000000Z",
            "requiresApproval": False,
        },
        "chain": {"depth": 1, "rootAgentId": "planner"},
        "signature": "sig_tJ0Zk3…",
    },
    "chain": _CHAIN,
}
_REVOKED: Final = {
    "relationship": {
        **_RELATIONSHIP,
        "status": "revoked",
        "revokedAt": "2026-01-31T12:30:00.000000Z",
        "reason": "the work is done",
    }
}


def _operations(prefix: str, whose: str, *, is_admin: bool) -> tuple[Operation, ...]:
    """The same five, for administrators and for agents.

    Args:
        prefix: of the path.
        whose: distinguishes their names.
    """
    who, tag = (ADMIN, "Relationships") if is_admin else (EITHER, "Delegation by agents")
    of = "of any agent" if is_admin else "that the agent gave or was given"
    forbidden = () if is_admin else (403,)
    source = {"sourceAgentId": "planner"} if is_admin else {}
    path = f"{prefix}/relationships"
    return (
        Operation(
            "GET",
            path,
            f"list{whose}Relationships",
            f"List relationships {of}",
            tag,
            RelationshipPage,
            {"relationships": [_RELATIONSHIP]},
            who=who,
            words={"status": STATUSES},
            asks={
                "agentId": "From this agent or to it.",
                "status": "That stand so; what is `broken` hangs below something that has ended.",
            },
        ),
        Operation(
            "POST",
            path,
            f"create{whose}Relationship",
            "Let an agent act for another one",
            tag,
            NewRelationshipAnswer,
            _MADE,
            who=who,
            body=NewRelationship,
            asked={**source, "targetAgentId": "worker", "scope": ["read:*"]},
            status=201,
            errors=(401, *forbidden, 404, 409, 503),
            refuses={
                403: "sourceAgentId: an agent delegates for itself alone; leave it out",
                404: "parentRelationshipId: there is no relationship " + RELATIONSHIP_ID,
                409: "targetAgentId: an agent may not delegate to itself",
            },
            text="Without `expiresAt` and `expiresIn` (`15m`) it lasts an hour, and no longer than"
            " its parent." + ("" if is_admin else " The agent itself is the source."),
        ),
        Operation(
            "GET",
            f"{path}/{{relationship_id}}",
            f"get{whose}Relationship",
            "Show a relationship",
            tag,
            RelationshipEntry,
            {"relationship": _RELATIONSHIP},
            who=who,
            errors=(401, 404, 503),
        ),
        Operation(
            "GET",
            f"{path}/{{relationship_id}}/chain",
            f"get{whose}RelationshipChain",
            "Sign a relationship for sidecars that do not know it",
            tag,
            Chain,
            {"chain": _CHAIN},
            who=who,
            errors=(401, 404, 409, 503),
            refuses={409: f"{RELATIONSHIP_ID} was revoked"},
            text="They trust its key (`GET /admin/delegation/keys`), and do not hear that it was"
            " revoked.",
        ),
        Operation(
            "DELETE",
            f"{path}/{{relationship_id}}",
            f"revoke{whose}Relationship",
            "End a relationship, at once for everything below it",
            tag,
            RelationshipEntry,
            _REVOKED,
            who=who,
            body=Revocation,
            body_optional=True,
            asked={"reason": "the work is done"},
            errors=(401, *forbidden, 404, 503),
        ),
    )


OPERATIONS: Final = (
    *_operations("", "Own", is_admin=False),
    *_operations("/admin", "", is_admin=True),
)
