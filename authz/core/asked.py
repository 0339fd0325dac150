"""A call and its caller as somebody describes them: in a test, on a command line, in a record."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from authz.core import call as calls
from authz.core.call import MAX_META, Call
from authz.core.facts import MAX_PARTS, context_of
from authz.core.identity import Identity
from authz.core.names import PROXY_PREFIX
from authz.core.tiers import TIERS, rank

#: What is wrong with a context that tells conditions nothing.
NO_CONTEXT: Final = (
    f"not one JSON object with distinct keys and finite numbers, of at most {MAX_META} characters"
    f" and {MAX_PARTS} lists and objects"
)


class AgentSpec(BaseModel):
    """An agent by what policies see of it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, validate_by_name=True
    )

    id: str = ""
    name: str = ""
    tier: str = Field("verified", validation_alias=AliasChoices("tier", "trustTier"))
    tags: list[str] = Field(default_factory=list)
    org: str = Field("", validation_alias=AliasChoices("org", "orgId"))

    @field_validator("tier")
    @classmethod
    def _known(cls, value: str) -> str:
        if rank(value) is None:
            raise ValueError(f"unknown trust tier (one of {', '.join(TIERS)})")
        return value

    @property
    def identity(self) -> Identity:
        """The caller that this describes."""
        tier_rank = rank(self.tier)
        assert tier_rank is not None
        return Identity(
            self.id,
            self.name or self.id,
            self.tier,
            tier_rank,
            frozenset(self.tags),
            self.org,
            effective_rank=tier_rank,
        )


class Asked(NamedTuple):
    """A call with its caller."""

    identity: Identity
    call: Call

    @classmethod
    def of(
        cls,
        agent: AgentSpec,
        action: str,
        *,
        resource: str = "",
        method: str = "",
        path: str = "",
        host: str = "",
        context: Mapping[str, Any] | None = None,
    ) -> "Asked":
        """A call as the gate would read it; with a method or path it is one to the upstream.

        Args:
            path: as the upstream sees it, percent-encoding allowed.

        Raises:
            ValueError: no call can be like that; one sentence.
        """
        meta = calls.meta_of(context) if context is not None else ""
        if meta and context_of(meta) is None:
            raise ValueError(f"context: {NO_CONTEXT}")
        headers = {
            "x-meshguard-action": action,
            "x-meshguard-resource": resource,
            "x-meshguard-meta": meta,
        }
        proxied = bool(method or path)
        target = PROXY_PREFIX + path.removeprefix("/")
        call = calls.from_http(
            "proxy" if proxied else "check", method or "GET", target, host, headers.get
        )
        if not action.strip():
            raise ValueError("the action is empty")
        if call.defect:
            raise ValueError(call.defect)
        return cls(agent.identity, call)
