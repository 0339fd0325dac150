"""The policy language as models (CONTRACT §5).

- What a field restricts may not be ignored: a key that is unknown in such a part is an error
  (`RESTRICTS`), elsewhere a warning. Which is which, and every sentence, is `policy_file`'s.
- Both spellings of a key that published documents use are read; one is written.
- Defaults are left out of `canonical`, so a document says the same in every release.
"""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from authz.core import conditions, tiers

#: Characters in a name, id or version: they travel in response headers and audit rows.
MAX_NAME: Final = 256
MAX_TEXT: Final = 4096
MAX_ITEMS: Final = 10_000
#: Characters of a pattern; an action may have more, and a star stands for them.
MAX_PATTERN: Final = 1024
#: The AGT wrapper: a policy as `metadata` and `spec`.
WRAPPER_VERSION: Final = "governance.toolkit/v1"
#: What of its `metadata` is the document's.
METADATA: Final = ("name", "version", "description")

Effect = Literal["allow", "deny", "require_approval"]
DefaultEffect = Literal["allow", "deny"]
Enforcement = Literal["enforce", "dry_run"]
Severity = Literal["info", "low", "medium", "high", "warning", "critical"]


def lower(value: object) -> object:
    """A word as it is compared: without blanks around it, in lower case."""
    return value.strip().lower() if isinstance(value, str) else value


def _underscored(value: object) -> object:
    word = lower(value)
    return word.replace("-", "_") if isinstance(word, str) else word


def single(value: object) -> object:
    """A list; of one text where only that is written."""
    return [value] if isinstance(value, str) else value


def _patterns(value: list[str]) -> list[str]:
    for index, pattern in enumerate(value):
        if not pattern.strip() or not pattern.isprintable():
            raise PydanticCustomError(
                "at", "an action pattern is empty or has control characters", {"path": (index,)}
            )
        if len(pattern) > MAX_PATTERN:
            said = f"an action pattern is longer than {MAX_PATTERN} characters"
            raise PydanticCustomError("at", said, {"path": (index,)})
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("at", "a name has control characters")
    return value


def _named(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise PydanticCustomError("at", "the name is blank or has control characters")
    return value


def _tier(value: str) -> str:
    if tiers.rank(value) is None:
        raise PydanticCustomError("tier", "unknown trust tier")
    return value


def _conditions(value: dict[str, Any]) -> dict[str, Any]:
    problems = conditions.check(value)
    if problems:
        raise PydanticCustomError("conditions", "unusable conditions", {"problems": problems})
    return value


def _spelled(*names: str) -> AliasChoices:
    """The spellings of a key; the first is the one that is written."""
    return AliasChoices(*names)


#: Stands for the schema of conditions, which pydantic does not know, until `policy_schema` is done.
_CONDITIONS: Final = {"type": "object", "title": "Conditions"}

Patterns = Annotated[
    list[str],
    BeforeValidator(single, json_schema_input_type=str | list[str]),
    AfterValidator(_patterns),
    Field(min_length=1, max_length=MAX_ITEMS),
]
#: Tokens carry no longer ones (`identity.MAX_CLAIM`).
Names = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]], Field(max_length=MAX_ITEMS)
]
Tier = Annotated[str, AfterValidator(_tier)]
#: Of a document.
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_named)]
Label = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_printable)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Conditions = Annotated[
    dict[str, Any],
    AfterValidator(_conditions),
    WithJsonSchema(_CONDITIONS),
]


def _notify(value: object) -> object:
    items = value if isinstance(value, list) else [value]
    if not isinstance(value, bool) and not all(isinstance(item, str) for item in items):
        raise PydanticCustomError("at", "`notify` takes a text, a list of them, true or false")
    return value


_NOTIFY: Final = {
    "anyOf": [
        {"type": ["boolean", "string"]},
        {"type": "array", "items": {"type": "string"}},
    ]
}


class Model(BaseModel):
    """A mapping of a document: frozen, of known keys, nothing taken for something else."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        validate_by_name=True,
        alias_generator=AliasGenerator(serialization_alias=to_camel),
    )

    def canonical(self) -> str:
        """It as JSON: what it says and nothing else, always in the same form."""
        said = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class AppliesTo(Model):
    """Whom a policy is for: OR inside a list, AND between the lists that are present."""

    tags: Names | None = Field(None, description="agents that have one of these tags")
    trust_tiers: Names | None = Field(
        None,
        validation_alias=_spelled("trustTiers", "trust_tiers"),
        description="agents of one of these tiers",
    )
    agent_ids: Names | None = Field(
        None,
        validation_alias=_spelled("agentIds", "agent_ids"),
        description='these agents; "*" is any',
    )
    org_ids: Names | None = Field(
        None,
        validation_alias=_spelled("orgIds", "org_ids"),
        description="agents of these organisations",
    )

    @property
    def is_nobody(self) -> bool:
        """No list is present, or one of those that are names nobody (CONTRACT §5)."""
        lists = (self.tags, self.trust_tiers, self.agent_ids, self.org_ids)
        if all(names is None for names in lists) or any(names == [] for names in lists):
            return True
        named = self.trust_tiers
        return named is not None and all(t != "*" and tiers.rank(t) is None for t in named)


class RateLimits(Model):
    """Requests that one agent may make under a policy."""

    requests_per_minute: Count | None = Field(
        None,
        validation_alias=_spelled("requestsPerMinute", "requests_per_minute", "max_per_minute"),
    )
    requests_per_hour: Count | None = Field(
        None, validation_alias=_spelled("requestsPerHour", "requests_per_hour", "max_per_hour")
    )
    requests_per_second: Count | None = Field(
        None,
        validation_alias=_spelled("requestsPerSecond", "requests_per_second", "max_per_second"),
    )
    requests_per_day: Count | None = Field(
        None, validation_alias=_spelled("requestsPerDay", "requests_per_day", "max_per_day")
    )


class HumanInTheLoop(Model):
    """Actions that a person has to approve although the policy allows them."""

    require_approval: Patterns = Field(
        validation_alias=_spelled("requireApproval", "require_approval")
    )


class Delegation(Model):
    """What an agent under this policy may pass on."""

    max_depth: Annotated[int, Field(ge=0, le=5)] | None = Field(
        None, validation_alias=_spelled("maxDepth", "max_depth")
    )
    permission_ceiling: Patterns | None = Field(
        None, validation_alias=_spelled("permissionCeiling", "permission_ceiling")
    )


class Approval(Model):
    """How a person is asked."""

    method: str = Field("", max_length=MAX_NAME)
    timeout_seconds: Count | None = Field(
        None, validation_alias=_spelled("timeout_seconds", "timeoutSeconds")
    )
    message: str = Field("", max_length=MAX_TEXT)
    url: str = Field("", max_length=MAX_TEXT)


class RuleAudit(Model):
    """How much a rule wants recorded. Every decision is, whatever stands here."""

    level: str = Field("", max_length=MAX_NAME)
    notify: Annotated[Any, AfterValidator(_notify), WithJsonSchema(_NOTIFY)] = None


class PolicyAudit(Model):
    """How much a policy wants recorded. Every decision is, whatever stands here."""

    enabled: bool = True
    log_level: str = Field(
        "", max_length=MAX_NAME, validation_alias=_spelled("log_level", "logLevel")
    )
    include: list[str] | None = None
    retention_days: Count | None = Field(
        None, validation_alias=_spelled("retention_days", "retentionDays")
    )


class Rule(Model):
    """One line of a policy: what it does to which actions."""

    effect: Annotated[Effect, BeforeValidator(_underscored, json_schema_input_type=Effect)]
    actions: Patterns = Field(
        validation_alias=_spelled("actions", "action"),
        description="whole actions, `*` is any run of characters; upper and lower case are one",
    )
    id: Label = Field("", description="what answers and audit rows call it")
    name: Label = ""
    description: str = Field("", max_length=MAX_TEXT)
    reason: str = Field("", max_length=MAX_TEXT, description="what a denied agent is told")
    conditions: Conditions | None = Field(None, description="what else must hold")
    enforcement: Annotated[
        Enforcement, BeforeValidator(_underscored, json_schema_input_type=Enforcement)
    ] = Field("enforce", description="dry_run: decided and recorded, not enforced")
    required_trust_tier: Tier | None = Field(
        None,
        validation_alias=_spelled("requiredTrustTier", "required_trust_tier"),
        description="the least tier that this rule allows anything to",
    )
    require_action_token: bool = Field(
        False,
        validation_alias=_spelled("requireActionToken", "require_action_token"),
        description="what this rule allows needs an action token, which is good for one request",
    )
    rate_limits: RateLimits | None = Field(
        None, validation_alias=_spelled("rateLimits", "rateLimit", "rate_limit", "rate_limits")
    )
    alert: Annotated[Severity, BeforeValidator(lower, json_schema_input_type=Severity)] | None = (
        Field(None, description="how grave it is when this rule decides; recorded with the row")
    )
    audit: RuleAudit | None = None
    approval: Approval | None = None


class PolicyDoc(Model):
    """A `kind: Policy` document, the kind that is meant where none is named."""

    name: Name = Field(description="unique among all policies")
    kind: Literal["Policy"] = "Policy"
    version: Label = Field("", description="in quotes: 1.10 is a number to YAML")
    description: str = Field("", max_length=MAX_TEXT)
    applies_to: AppliesTo = Field(
        default_factory=lambda: AppliesTo.model_validate({}),
        validation_alias=_spelled("appliesTo", "applies_to"),
    )
    rules: list[Rule] = Field(min_length=1, max_length=MAX_ITEMS)
    rule_order: Literal["first-match", "deny-overrides"] = Field(
        "first-match",
        validation_alias=_spelled("ruleOrder", "rule_order"),
        description="deny-overrides: deny rules first, then require_approval, then allow",
    )
    default_effect: Annotated[
        DefaultEffect, BeforeValidator(lower, json_schema_input_type=DefaultEffect)
    ] = Field(
        "deny",
        validation_alias=_spelled("defaultEffect", "default_effect"),
        description="what happens to actions that no rule matches",
    )
    enforcement: Annotated[
        Enforcement, BeforeValidator(_underscored, json_schema_input_type=Enforcement)
    ] = Field("enforce", description="dry_run: decided and recorded, not enforced")
    required_trust_tier: Tier | None = Field(
        None,
        validation_alias=_spelled("requiredTrustTier", "required_trust_tier"),
        description="the least tier that this policy allows anything to",
    )
    rate_limits: RateLimits | None = Field(
        None, validation_alias=_spelled("rateLimits", "rate_limits", "rateLimit", "rate_limit")
    )
    human_in_the_loop: HumanInTheLoop | None = Field(
        None, validation_alias=_spelled("humanInTheLoop", "human_in_the_loop")
    )
    delegation: Delegation | None = None
    audit: PolicyAudit | None = None


#: Parts whose every key takes something away: ignoring one would give it.
RESTRICTS: Final = (AppliesTo, RateLimits, HumanInTheLoop, Delegation)


def spellings_of(model: type[BaseModel], name: str) -> list[str]:
    """Every key that a field may be written as; the first is the one that documents show."""
    alias = model.model_fields[name].validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias] if alias else []
    if model.model_config.get("validate_by_name"):
        choices = [*choices, name]
    return list(dict.fromkeys(map(str, choices)))
