"""The registry of agents (`edges/http/records.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.records import AgentChanges, NewAgent, Revocation, TokenTerms
from authz.reference.operation import CLOSED, IN_PATHS, Operation, Time


@with_config(CLOSED)
class Agent(TypedDict):
    """A registered agent."""

    id: str
    name: str
    trustTier: Annotated[str, Field(description="As it was written; aliases compare equal.")]
    tags: list[str]
    status: Literal["active", "revoked"]
    createdAt: Time
    updatedAt: NotRequired[Time]
    revokedAt: NotRequired[Time]
    orgId: NotRequired[str]
    description: NotRequired[str]
    capabilities: NotRequired[list[str]]
    metadata: NotRequired[dict[str, Any]]


@with_config(CLOSED)
class AgentPage(TypedDict):
    """Agents, newest first."""

    agents: list[Agent]
    next: NotRequired[Annotated[str, Field(description="Send it as `after` for more.")]]


@with_config(CLOSED)
class NewAgentAnswer(Agent):
    """The agent, and its token, which is shown this once."""

    token: NotRequired[str]
    apiKey: NotRequired[str]
    api_key: NotRequired[str]
    expiresAt: NotRequired[Time]
    note: NotRequired[Annotated[str, Field(description="Why there is no token.")]]


@with_config(CLOSED)
class Token(TypedDict):
    """A token, shown this once."""

    token: str
    expiresAt: Time


_AGENT: Final = {
    "id": IN_PATHS["agent_id"],
    "name": "reviewer",
    "trustTier": "verified",
    "tags": ["code-review"],
    "status": "active",
    "createdAt": "2026-01-31T12:00:00.000000Z",
}
_TOKEN: Final = "eyJhbGciOiJIUzI1NiIs…"  # noqa: S105 - an example
_EXPIRES: Final = "2026-02-01T12:00:00.000000Z"

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/agents",
        "listAgents",
        "List agents",
        "Agents",
        AgentPage,
        {"agents": [_AGENT]},
        words={"status": ("active", "revoked")},
        asks={
            "trust": "Of this trust tier alone, by any of its names.",
            "status": "Those alone that are so.",
        },
    ),
    Operation(
        "POST",
        "/admin/agents",
        "createAgent",
        "Register an agent",
        "Agents",
        NewAgentAnswer,
        {
            **_AGENT,
            "id": "agent_0c6f5b1e6a3d4f27",
            **dict.fromkeys(("token", "apiKey", "api_key"), _TOKEN),
            "expiresAt": _EXPIRES,
        },
        body=NewAgent,
        asked={"name": "reviewer", "trustTier": "verified", "tags": ["code-review"]},
        status=201,
        errors=(401, 409, 503),
        refuses={409: "there is an agent reviewer already, or was before"},
        text="`id` is made up where none is given. An id that was used once is never free again."
        " `expiresIn` (`15m`) is how long the token is good, JWT_EXPIRES_IN when left out.",
    ),
    Operation(
        "GET",
        "/admin/agents/{agent_id}",
        "getAgent",
        "Show an agent",
        "Agents",
        Agent,
        _AGENT,
        errors=(401, 404, 503),
    ),
    *(
        Operation(
            method,
            "/admin/agents/{agent_id}",
            name,
            "Change an agent",
            "Agents",
            Agent,
            {**_AGENT, "tags": ["docs"], "updatedAt": "2026-01-31T13:00:00.000000Z"},
            body=AgentChanges,
            asked={"tags": ["docs"]},
            errors=(401, 404, 409, 503),
            text="What is given is changed; `metadata: null` takes the metadata away.",
        )
        for method, name in (("PATCH", "changeAgent"), ("PUT", "putAgent"))
    ),
    Operation(
        "DELETE",
        "/admin/agents/{agent_id}",
        "revokeAgent",
        "Revoke an agent, at once and for ever",
        "Agents",
        Agent,
        {**_AGENT, "status": "revoked", "revokedAt": "2026-01-31T13:00:00.000000Z"},
        body=Revocation,
        body_optional=True,
        asked={"reason": "its key was found in a log"},
        asks={"unknown": "Whether an id that is not registered here is revoked too."},
        errors=(401, 404, 503),
        text="Whether it was revoked before or not: the answer is the same.",
    ),
    Operation(
        "POST",
        "/admin/agents/{agent_id}/token",
        "newToken",
        "Sign a token for an agent",
        "Agents",
        Token,
        {"token": _TOKEN, "expiresAt": _EXPIRES},
        body=TokenTerms,
        body_optional=True,
        asked={"expiresIn": "1h"},
        errors=(401, 404, 409, 503),
        refuses={409: "agent reviewer was revoked"},
    ),
)
