"""Records of agents: who is registered here, with what tier and tags, and who was revoked.

- A record is a value: to change it is to make another one. Keeping them is a store's work.
- What a record may hold is what a token may hold (`identity`), so that either can stand for the
  other in policies, audit rows and headers.
- A revocation is for ever. It may come before the registration: an agent that is known elsewhere
  is revoked here by its id alone, and nothing can be registered or changed on top of that.
- Names of fields are those of the admin API in every sentence and in `entry`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from authz.core import shape
from authz.core.facts import MAX_PARTS
from authz.core.identity import MAX_TAGS, Identity
from authz.core.tiers import TIERS, UNVERIFIED, rank
from authz.core.timestamps import rfc3339

#: Longest description and reason, characters: a paragraph.
MAX_DESCRIPTION: Final = 1024
#: Longest metadata, characters of its JSON; they are kept in memory for every agent.
MAX_METADATA: Final = 4096
#: Longest record that is read back, characters: tags and capabilities of full length have 64 KiB,
#: where each character is escaped.
MAX_STORED: Final = 128 * 1024


class Agent(NamedTuple):
    """What is known of an agent. Times are seconds since the epoch."""

    agent_id: str
    name: str
    #: As it was written; compare `rank`.
    tier: str
    rank: int
    tags: tuple[str, ...]
    org_id: str
    description: str
    capabilities: tuple[str, ...]
    #: A JSON object in its one spelling, keys sorted and no blanks. Empty where there is none.
    metadata: str
    created_at: float
    #: 0.0 where it never was.
    updated_at: float
    #: None while it is not.
    revoked_at: float | None
    revoked_reason: str


def new_agent(
    agent_id: str,
    now: float,
    *,
    name: str,
    tier: str = "verified",
    tags: Sequence[str] = (),
    org_id: str = "",
    description: str = "",
    capabilities: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Agent:
    """A record of an agent that is registered now.

    Raises:
        ValueError: a value that no record may have; one sentence that names the field.
    """
    if name == "":
        raise ValueError("name: must not be empty")
    tier_rank = rank(tier) if isinstance(tier, str) else None
    if tier_rank is None:
        raise ValueError(f"trustTier: unknown tier; write one of {', '.join(TIERS)}")
    return Agent(
        agent_id=_id(agent_id),
        name=shape.name("name", name, optional=True),
        tier=shape.name("trustTier", tier),
        rank=tier_rank,
        tags=shape.names("tags", tags, MAX_TAGS),
        org_id=shape.name("orgId", org_id, optional=True),
        description=_words("description", description),
        capabilities=shape.names("capabilities", capabilities, MAX_TAGS),
        metadata="" if metadata is None else _canonical(metadata),
        created_at=now,
        updated_at=0.0,
        revoked_at=None,
        revoked_reason="",
    )


def changed(agent: Agent, now: float, **changes: Any) -> Agent:
    """The record with some fields changed, by `new_agent`'s names; `metadata=None` removes it.

    Raises:
        ValueError: a value that no record may have, or the agent was revoked; one sentence.
    """
    if agent.revoked_at is not None:
        raise ValueError("a revoked agent cannot be changed; register another one")
    fields = {name: getattr(agent, name) for name in _CHANGEABLE}
    made = new_agent(agent.agent_id, agent.created_at, **(fields | changes))
    metadata = made.metadata if "metadata" in changes else agent.metadata
    return made._replace(metadata=metadata, updated_at=now)


#: What `changed` takes besides the metadata, which is kept in another form than it is given in.
_CHANGEABLE: Final = ("name", "tier", "tags", "org_id", "description", "capabilities")


def revoked(agent_or_id: Agent | str, now: float, reason: str) -> Agent:
    """The record of an agent that is revoked now, or was before.

    Args:
        agent_or_id: an id where there is no record; the one made says only that it is revoked.

    Raises:
        ValueError: the id or the reason is none that a record may have; one sentence.
    """
    said = _words("reason", reason)
    if isinstance(agent_or_id, str):
        return Agent(
            agent_id=_id(agent_or_id),
            name="",
            tier=TIERS[UNVERIFIED],
            rank=UNVERIFIED,
            tags=(),
            org_id="",
            description="",
            capabilities=(),
            metadata="",
            created_at=now,
            updated_at=0.0,
            revoked_at=now,
            revoked_reason=said,
        )
    if agent_or_id.revoked_at is not None:
        return agent_or_id
    return agent_or_id._replace(revoked_at=now, revoked_reason=said)


#: What is kept of a record beside its id. The rank is the tier's.
_STORED: Final = tuple(name for name in Agent._fields if name not in ("agent_id", "rank"))


def to_json(agent: Agent) -> str:
    """The record without its id, to be kept; `from_json` reads it."""
    stored = {name: getattr(agent, name) for name in _STORED}
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))


def from_json(agent_id: str, text: str) -> Agent:
    """The record that `to_json` wrote.

    Raises:
        ValueError: it is none; one sentence.
    """
    if len(text) > MAX_STORED:
        raise ValueError(f"the record is longer than {MAX_STORED} characters")
    stored = shape.members("agent", shape.json_object("agent", text), _STORED)
    metadata = stored["metadata"]
    if not isinstance(metadata, str) or (metadata and not _is_canonical(metadata)):
        raise ValueError("metadata: not a JSON object in its one spelling")
    revoked_at = stored["revoked_at"]
    made = new_agent(
        agent_id,
        shape.moment("createdAt", stored["created_at"]),
        # Whoever was revoked by its id alone has no name.
        **{name: stored[name] for name in _CHANGEABLE}
        | ({"name": agent_id} if stored["name"] == "" and revoked_at is not None else {}),
    )
    return made._replace(
        name=stored["name"],
        metadata=metadata,
        updated_at=shape.moment("updatedAt", stored["updated_at"]),
        revoked_at=None if revoked_at is None else shape.moment("revokedAt", revoked_at),
        revoked_reason=_words("reason", stored["revoked_reason"]),
    )


def identity_of(agent: Agent) -> Identity:
    """The agent as policies see it where it does not ask itself, and so has no token."""
    tags = frozenset(agent.tags)
    return Identity(
        agent.agent_id, agent.name, agent.tier, agent.rank, tags, agent.org_id, agent.rank
    )


def entry(agent: Agent) -> dict[str, Any]:
    """The record as the admin API shows it (CONTRACT §1.3); what is absent is left out."""
    shown: dict[str, Any] = {
        "id": agent.agent_id,
        "name": agent.name,
        "trustTier": agent.tier,
        "tags": list(agent.tags),
        "status": "active" if agent.revoked_at is None else "revoked",
        "createdAt": rfc3339(agent.created_at),
    }
    if agent.org_id:
        shown["orgId"] = agent.org_id
    if agent.updated_at:
        shown["updatedAt"] = rfc3339(agent.updated_at)
    if agent.revoked_at is not None:
        shown["revokedAt"] = rfc3339(agent.revoked_at)
    if agent.description:
        shown["description"] = agent.description
    if agent.capabilities:
        shown["capabilities"] = list(agent.capabilities)
    if agent.metadata:
        shown["metadata"] = json.loads(agent.metadata)
    return shown


def _id(value: object) -> str:
    if value == "":
        raise ValueError("id: must not be empty")
    return shape.name("id", value, optional=True)


def _words(field: str, value: object) -> str:
    return shape.name(field, value, optional=True, most=MAX_DESCRIPTION)


def _canonical(metadata: object) -> str:
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata: must be an object")
    try:
        text = json.dumps(
            dict(metadata),
            allow_nan=False,
            ensure_ascii=False,
            separators=(",", ":"),
            sort_keys=True,
        )
        text.encode()  # half a surrogate pair is JSON, and no answer could carry it
    except (TypeError, ValueError, RecursionError):
        raise ValueError("metadata: must be an object that JSON can say") from None
    if len(text) > MAX_METADATA or text.count("{") + text.count("[") > MAX_PARTS:
        raise ValueError(
            f"metadata: must have at most {MAX_METADATA} characters as JSON, and {MAX_PARTS} lists"
            " and objects"
        )
    return text


def _is_canonical(text: str) -> bool:
    return _canonical(shape.json_object("metadata", text)) == text
