"""The `AlertRoute` document: which alerts go where, and how often (DESIGN §4, CONTRACT §11).

- It names destinations and never holds one: addresses and secrets stand in the environment
  (ALERT_*), so whoever may write policies cannot send anything anywhere else.
- What is left out of `match` is not restricted; a route that mutes has to say what.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from authz.core.alert_words import DESTINATIONS, GROUPS, SEVERITIES, TRIGGERS
from authz.core.chain_model import ChainDoc, ChainModel, Duration, wrong
from authz.core.policy_doc import Names, Patterns, lower, single
from authz.core.text import word

#: Alerts that one route may let through in a minute; a person reads them.
MAX_PER_MINUTE: Final = 600


def _several(value: object) -> object:
    value = single(value)
    return [lower(item) for item in value] if isinstance(value, list) else value


def _known(kind: str, words: tuple[str, ...]) -> AfterValidator:
    def check(value: list[str]) -> list[str]:
        for index, item in enumerate(value):
            if item not in words:
                said = f"unknown {kind} `{word(item)}` (one of {', '.join(words)})"
                raise wrong(said, index)
        return list(dict.fromkeys(value))

    return AfterValidator(check)


def _schema(words: tuple[str, ...]) -> dict[str, Any]:
    return {"anyOf": [{"enum": list(words)}, {"type": "array", "items": {"enum": list(words)}}]}


_TRIGGERS: Final = (*TRIGGERS, *GROUPS)
Triggers = Annotated[
    list[str],
    BeforeValidator(_several, json_schema_input_type=str | list[str]),
    _known("trigger", _TRIGGERS),
    Field(min_length=1, json_schema_extra=_schema(_TRIGGERS)),
]
Severities = Annotated[
    list[str],
    BeforeValidator(_several, json_schema_input_type=str | list[str]),
    _known("severity", SEVERITIES),
    Field(min_length=1, json_schema_extra=_schema(SEVERITIES)),
]
Destinations = Annotated[
    list[str],
    BeforeValidator(_several, json_schema_input_type=str | list[str]),
    _known("destination", DESTINATIONS),
    Field(min_length=1, json_schema_extra=_schema(DESTINATIONS)),
]
Tags = Annotated[Names, BeforeValidator(single, json_schema_input_type=str | list[str])]


class AlertMatch(ChainModel):
    """Which alerts: OR inside a list, AND between the lists that are present."""

    triggers: Triggers | None = Field(
        None, description="raised for this route also where ALERT_ON does not name them"
    )
    severities: Severities | None = None
    agents: Patterns | None = Field(None, description="patterns of agents' ids")
    tags: Annotated[Tags, Field(min_length=1)] | None = Field(
        None, description="agents that have one of these tags"
    )
    actions: Patterns | None = Field(None, description="patterns, as in a policy's rules")
    policies: Patterns | None = Field(None, description="patterns of the deciding policy's name")

    @property
    def is_anything(self) -> bool:
        """Nothing is restricted."""
        return not self.model_fields_set


class AlertRouteDoc(ChainDoc):
    """Which alerts go where; every route that matches counts, and one that mutes counts most."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["to"]}, {"required": ["mute"]}]}
    )

    kind: Literal["AlertRoute"]
    match: AlertMatch = Field(
        default_factory=lambda: AlertMatch.model_validate({}), description="all alerts without it"
    )
    to: Destinations | None = Field(
        None, description="webhook, slack, email: what the environment (ALERT_*) has of these"
    )
    mute: bool = Field(
        False, description="true: such alerts are not sent, whatever other routes say"
    )
    group_for: Duration | None = Field(
        None, description="what is alike within this time is one alert; 1m where nothing is said"
    )
    max_per_minute: Annotated[int, Field(ge=1, le=MAX_PER_MINUTE)] | None = Field(
        None, description="instead of ALERT_RATE_LIMIT, for what this route matches"
    )

    @model_validator(mode="after")
    def _does_something(self) -> "AlertRouteDoc":
        if not self.mute and self.to is None:
            raise wrong("a route has `to` or `mute: true`; this one does nothing")
        if not self.mute:
            return self
        for name, written in (
            ("to", self.to),
            ("groupFor", self.group_for),
            ("maxPerMinute", self.max_per_minute),
        ):
            if written is not None:
                raise wrong(f"`{name}` has no meaning beside `mute`", name)
        if self.match.is_anything:
            raise wrong("a route that mutes says what; `match` restricts nothing here", "mute")
        return self
