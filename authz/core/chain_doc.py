"""The chain's configuration as models: the documents beside policies (DESIGN §4).

- Every key takes something away from somebody, so one that is unknown is an error, and so is what
  would be ignored: a scope of nobody, a factor for no tier, a route that cannot match.
- A key has one spelling: no published document has another.
- `canonical` is what a document says and nothing else, with its kind; defaults are left out.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from authz.core import tiers
from authz.core.alert_doc import AlertRouteDoc
from authz.core.chain_model import (
    ChainDoc,
    ChainModel,
    Duration,
    wrong,
)
from authz.core.lanes import LANES, SENSITIVITIES, lane_of
from authz.core.policy_doc import (
    MAX_NAME,
    MAX_PATTERN,
    MAX_TEXT,
    AppliesTo,
    Patterns,
    Tier,
    lower,
    single,
)
from authz.core.route_template import TemplateError, parse_path, parse_text
from authz.core.text import word

#: Floors, requirements or costs of one document; hundreds of actions have names of their own.
MAX_LINES: Final = 1_000
#: Routes of one map: the largest published API descriptions have a few thousand operations.
MAX_ROUTES: Final = 10_000
#: Labels of one list; a request carries no more of them than fit into a header.
MAX_LABELS: Final = 64
#: Hosts of one map.
MAX_HOSTS: Final = 100
#: Points, which are whole: what a wallet can hold, and what one action can cost.
MAX_POINTS: Final = 1_000_000_000
#: A factor beyond it would only say "never".
MAX_FACTOR: Final = 1_000
#: Characters of a method; the longest registered one (UPDATEREDIRECTREF) has 17.
MAX_METHOD: Final = 32

#: What a severity costs (CONTRACT §15).
SEVERITY_POINTS: Final[Mapping[str, int]] = {"low": 1, "medium": 5, "high": 20, "critical": 50}

ANY_METHOD: Final = "*"
#: What a route's method can be without a warning: the registered ones (IANA, HTTP Method Registry).
METHODS: Final = frozenset({
    ANY_METHOD, "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY",
    "DELETE", "GET", "HEAD", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
    "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH", "PATCH", "POST", "PRI",
    "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE", "UNBIND",
    "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
})  # fmt: skip

Sensitivity = Literal["low", "medium", "high", "critical"]
Severity = Literal["low", "medium", "high", "critical"]
Verification = Literal["off", "warn", "strict"]
Unmapped = Literal["allow", "deny"]

_METHOD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def _lane(value: object) -> object:
    if isinstance(value, str) or type(value) is int:
        found = lane_of(str(value))
        if found is not None:
            return found
    raise PydanticCustomError("lane", "unknown lane")


def _tier_name(written: str) -> str | None:
    rank = tiers.rank(written)
    return None if rank is None else tiers.TIERS[rank]


def _lane_name(written: str) -> str | None:
    lane = lane_of(written)
    return None if lane is None else LANES[lane]


def _by(
    name_of: Callable[[str], str | None], kind: str
) -> Callable[[dict[str, float]], dict[str, float]]:
    """Factors by the preferred name of what they are for, each once."""

    def named(value: dict[str, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for written, factor in value.items():
            name = name_of(written)
            if name is None:
                raise PydanticCustomError(f"{kind}_key", f"unknown {kind}", {"path": (written,)})
            if name in found:
                said = f"`{word(written)}` is {kind} {name}, which has a factor already"
                raise wrong(said, written)
            found[name] = factor
        return found

    return named


def _labels(value: list[str]) -> list[str]:
    for index, label in enumerate(value):
        if not label.isprintable() or label != label.strip():
            said = "a label has blanks around it or control characters"
            raise wrong(said, index)
    return value


def _hosts(value: list[str]) -> list[str]:
    for index, host in enumerate(value):
        _host(host, (index,))
    return value


def _host(value: str, path: tuple[int, ...] = ()) -> str:
    if not value.isprintable() or not value.strip() or "/" in value:
        said = "a host is a name such as api.example.com or *.example.com, without scheme and path"
        raise wrong(said, *path)
    return value


def _methods(value: list[str]) -> list[str]:
    for index, method in enumerate(value):
        if method != ANY_METHOD and not _METHOD.fullmatch(method):
            said = f"`{word(method)}` is no method; write a name such as GET, or {ANY_METHOD}"
            raise wrong(said, index)
    found = list(dict.fromkeys(method.upper() for method in value))
    if ANY_METHOD in found and len(found) > 1:
        said = f"{ANY_METHOD} is every method; write it alone, or leave it out"
        raise wrong(said)
    return found


def _verification(value: object) -> object:
    # `off` without quotes is false to YAML 1.1, and could mean nothing else here.
    return "off" if value is False else lower(value)


Lane = Annotated[
    int,
    BeforeValidator(
        _lane,
        json_schema_input_type=Literal[0, 1, 2, 3, "untrusted", "observed", "verified", "approved"],
    ),
]
Points = Annotated[int, Field(ge=0, le=MAX_POINTS)]
Factor = Annotated[float, Field(ge=0, le=MAX_FACTOR, allow_inf_nan=False)]
Reason = Annotated[str, Field(max_length=MAX_TEXT)]
Labels = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]],
    BeforeValidator(single, json_schema_input_type=str | list[str]),
    AfterValidator(_labels),
    Field(min_length=1, max_length=MAX_LABELS),
]
HostPattern = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_host)]
Hosts = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]],
    BeforeValidator(single, json_schema_input_type=str | list[str]),
    AfterValidator(_hosts),
    Field(min_length=1, max_length=MAX_HOSTS),
]
Methods = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_METHOD)]],
    BeforeValidator(single, json_schema_input_type=str | list[str]),
    AfterValidator(_methods),
    Field(min_length=1),
]


class Floor(ChainModel):
    """The least tier for some actions."""

    actions: Patterns = Field(description="patterns, as in a policy's rules")
    tier: Tier = Field(description="the least tier that may do this, whatever a policy allows")
    reason: Reason = Field("", description="what a denied agent is told")


class PrivilegeFloorsDoc(ChainDoc):
    """Tiers below which nobody may do something, whatever policies allow."""

    kind: Literal["PrivilegeFloors"]
    floors: list[Floor] = Field(
        min_length=1, max_length=MAX_LINES, description="the first one that matches counts"
    )


class Requirement(ChainModel):
    """How far that which influenced some actions has to be trusted."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["minLane"]},
                {"required": ["sensitivity"]},
                {"required": ["requireLabels"]},
                {"required": ["forbidLabels"]},
            ],
            "not": {"required": ["minLane", "sensitivity"]},
        }
    )

    actions: Patterns = Field(description="patterns, as in a policy's rules")
    min_lane: Lane | None = Field(None, description="the least lane of all that had an influence")
    sensitivity: (
        Annotated[Sensitivity, BeforeValidator(lower, json_schema_input_type=Sensitivity)] | None
    ) = Field(None, description="instead of minLane: low 0, medium 1, high 2, critical 3")
    require_labels: Labels | None = Field(None, description="labels that must all be there")
    forbid_labels: Labels | None = Field(None, description="labels none of which may be there")
    reason: Reason = Field("", description="what a denied agent is told")

    @model_validator(mode="after")
    def _asks_for_something(self) -> "Requirement":
        if self.min_lane is not None and self.sensitivity is not None:
            said = "`minLane` and `sensitivity` say the same thing; write one of them"
            raise wrong(said, "sensitivity")
        asked = (self.min_lane, self.sensitivity, self.require_labels, self.forbid_labels)
        if all(part is None for part in asked):
            said = "a requirement asks for `minLane`, `sensitivity`, `requireLabels` or"
            raise wrong(f"{said} `forbidLabels`; this one asks for nothing")
        both = set(self.require_labels or ()).intersection(self.forbid_labels or ())
        if both:
            said = f"the label `{word(min(both))}` is both required and forbidden"
            raise wrong(said, "forbidLabels")
        return self

    @property
    def lane(self) -> int | None:
        """The lane that is asked for, 0 to 3, by its own name or the sensitivity's."""
        if self.sensitivity is not None:
            return SENSITIVITIES.index(self.sensitivity)
        return self.min_lane


class ProvenanceGateDoc(ChainDoc):
    """What must be known of where an action comes from."""

    kind: Literal["ProvenanceGate"]
    requirements: list[Requirement] = Field(
        min_length=1, max_length=MAX_LINES, description="the first one that matches counts"
    )


class Refill(ChainModel):
    """Points that come back at a steady rate."""

    points: int = Field(ge=1, le=MAX_POINTS)
    every: Duration


class Cost(ChainModel):
    """What some actions cost."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["cost"]}, {"required": ["severity"]}]}
    )

    actions: Patterns = Field(description="patterns, as in a policy's rules")
    cost: Points | None = Field(None, description="points")
    severity: (
        Annotated[Severity, BeforeValidator(lower, json_schema_input_type=Severity)] | None
    ) = Field(None, description="instead of cost: low 1, medium 5, high 20, critical 50")

    @model_validator(mode="after")
    def _costs_something(self) -> "Cost":
        if (self.cost is None) is (self.severity is None):
            raise wrong("a cost is said by `cost` or by `severity`, by one of them")
        return self

    @property
    def points(self) -> int:
        """Points, before any factor."""
        if self.severity is not None:
            return SEVERITY_POINTS[self.severity]
        return self.cost or 0


class RiskWalletDoc(ChainDoc):
    """Points that an agent may spend; one that has none left may do only what costs nothing."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["window"]}, {"required": ["refill"]}]}
    )

    kind: Literal["RiskWallet"]
    applies_to: AppliesTo | None = Field(None, description="as in a policy; without it every agent")
    capacity: int = Field(ge=1, le=MAX_POINTS, description="points that may be spent at once")
    window: Duration | None = Field(
        None, description="such as 24h: what was spent comes back when it is that old"
    )
    refill: Refill | None = Field(None, description="instead of window: points for each while")
    costs: list[Cost] = Field(
        default_factory=list, max_length=MAX_LINES, description="the first one that matches counts"
    )
    default_cost: Points = Field(0, description="of what no cost matches")
    tier_multipliers: Annotated[dict[str, Factor], AfterValidator(_by(_tier_name, "tier"))] = Field(
        default_factory=dict, description="by the agent's tier; 1 where nothing is said"
    )
    lane_multipliers: Annotated[dict[str, Factor], AfterValidator(_by(_lane_name, "lane"))] = Field(
        default_factory=dict, description="by the lowest lane; 1 where nothing is said"
    )
    declared_cost: Literal["ignore", "raise"] = Field(
        "ignore", description="raise: X-MeshGuard-Cost may make an action dearer, never cheaper"
    )

    @model_validator(mode="after")
    def _comes_back_in_one_way(self) -> "RiskWalletDoc":
        if self.window is None and self.refill is None:
            said = "a wallet has `window` or `refill`; without one nothing spent would come back"
            raise wrong(said)
        if self.window is not None and self.refill is not None:
            said = "a wallet has `window` or `refill`, not both"
            raise wrong(said, "refill")
        return self


class Route(ChainModel):
    """What a request to some path is."""

    method: Methods = Field(description="one, a list of them, or *")
    path: str = Field(
        min_length=1,
        max_length=MAX_PATTERN,
        description="such as /v1/customers/{id}/notes; {name...} at the end is all the rest",
    )
    action: str = Field(
        min_length=1, max_length=MAX_PATTERN, description="what policies see; {name} is the path's"
    )
    resource: str | None = Field(None, min_length=1, max_length=MAX_PATTERN)
    host: HostPattern | None = Field(None, description="only requests to a host like this")

    @model_validator(mode="after")
    def _fits_together(self) -> "Route":
        path = "path"
        try:
            template = parse_path(self.path)
            path = "action"
            if "*" in self.action or not self.action.isprintable():
                raise TemplateError("a route's action is one action; `*` has no meaning in it")
            parse_text(self.action, template.names)
            path = "resource"
            if self.resource is not None:
                if not self.resource.isprintable():
                    raise TemplateError("a route's resource has control characters")
                parse_text(self.resource, template.names)
        except TemplateError as error:
            raise wrong(str(error), path) from None
        return self


class RouteMapDoc(ChainDoc):
    """What the upstream's requests are, by method and path, so that the agent need not be asked."""

    kind: Literal["RouteMap"]
    hosts: Hosts | None = Field(None, description="only requests to a host like one of these")
    verification: (
        Annotated[
            Verification,
            BeforeValidator(
                _verification, json_schema_input_type=Literal["off", "warn", "strict", False]
            ),
        ]
        | None
    ) = Field(None, description="as INTENT_VERIFICATION, for these hosts; the strictest counts")
    unmapped: Annotated[Unmapped, BeforeValidator(lower, json_schema_input_type=Unmapped)] = Field(
        "allow", description="deny: requests to these hosts that no route of any map fits"
    )
    routes: list[Route] = Field(
        min_length=1, max_length=MAX_ROUTES, description="the most specific one counts"
    )

    @model_validator(mode="after")
    def _has_no_route_twice(self) -> "RouteMapDoc":
        seen: dict[tuple[object, ...], int] = {}
        for index, route in enumerate(self.routes):
            template = parse_path(route.path)
            host = route.host.strip().lower() if route.host else ""
            for method in route.method:
                shape = (template.segments, template.has_rest, method, host)
                first = seen.setdefault(shape, index)
                if first != index:
                    said = f"route {first + 1} is for the same paths, and for {method} too"
                    raise wrong(said, "routes", index)
        return self


#: The model of each kind but `Policy`.
CHAIN_KINDS: Final[Mapping[str, type[ChainDoc]]] = {
    "PrivilegeFloors": PrivilegeFloorsDoc,
    "ProvenanceGate": ProvenanceGateDoc,
    "RiskWallet": RiskWalletDoc,
    "RouteMap": RouteMapDoc,
    "AlertRoute": AlertRouteDoc,
}


def document_of(said: Any) -> ChainDoc:
    """A document from what its canonical JSON holds.

    Raises:
        ValueError: it is no document of these kinds.
    """
    kind = said.get("kind") if isinstance(said, dict) else None
    model = CHAIN_KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise ValueError("no document of a known kind")
    return model.model_validate(said)
