"""The documents of the chain made ready: words as ranks and numbers, factors as exact fractions.

Plain data, like a compiled policy: files may be read in another process. What looks something up
in them is made with the snapshot (`floors`, `gates`, `wallets`, `routes`), or where alerts are
raised (`alert_routes`).
"""

import hashlib
import json
from fractions import Fraction
from typing import Final, NamedTuple

from authz.core.alert_doc import AlertRouteDoc
from authz.core.alert_words import expanded
from authz.core.chain_doc import (
    ANY_METHOD,
    PrivilegeFloorsDoc,
    ProvenanceGateDoc,
    RiskWalletDoc,
    Route,
    RouteMapDoc,
    Unmapped,
    Verification,
    document_of,
)
from authz.core.chain_model import ChainDoc, seconds
from authz.core.compiled import Scope, compile_scope
from authz.core.lanes import LANES
from authz.core.policy_doc import AppliesTo
from authz.core.route_template import Template, parse_path, parse_text
from authz.core.tiers import TIERS, rank

#: The scope of a wallet that names none: every agent, also one without identity.
_EVERYBODY: Final = compile_scope(AppliesTo.model_validate({"agentIds": ["*"]}))


class CompiledFloor(NamedTuple):
    """The least tier for some actions."""

    patterns: tuple[str, ...]
    rank: int
    reason: str


class CompiledFloors(NamedTuple):
    """A `PrivilegeFloors` document."""

    kind: str
    name: str
    #: As its author numbers it; may be empty.
    version: str
    #: SHA-256 of the canonical document, hexadecimal.
    digest: str
    #: The document as canonical JSON.
    said: str
    floors: tuple[CompiledFloor, ...]


class CompiledRequirement(NamedTuple):
    """What some actions ask of what influenced them."""

    patterns: tuple[str, ...]
    #: The least lane; None where labels alone are asked for.
    min_lane: int | None
    require_labels: tuple[str, ...]
    forbid_labels: tuple[str, ...]
    reason: str


class CompiledGate(NamedTuple):
    """A `ProvenanceGate` document."""

    kind: str
    name: str
    version: str
    digest: str
    said: str
    requirements: tuple[CompiledRequirement, ...]


class Refill(NamedTuple):
    """Points that come back at a steady rate."""

    points: int
    #: Seconds.
    every_s: int


class CompiledWallet(NamedTuple):
    """A `RiskWallet` document."""

    kind: str
    name: str
    version: str
    digest: str
    said: str
    scope: Scope
    #: Points.
    capacity: int
    #: Seconds after which what was spent is back; None: there is a refill.
    window_s: int | None
    refill: Refill | None
    #: Patterns, and the points that the actions cost.
    costs: tuple[tuple[tuple[str, ...], int], ...]
    default_cost: int
    #: By rank and by lane.
    tier_factors: tuple[Fraction, ...]
    lane_factors: tuple[Fraction, ...]
    #: A cost that the request declares counts where it is higher.
    declared_raises: bool


class CompiledRoute(NamedTuple):
    """One route of a map."""

    #: In upper case; None: any.
    methods: tuple[str, ...] | None
    template: Template
    #: As `route_template.parse_text` reads them; the resource is empty where nothing is said.
    action: tuple[str, ...]
    resource: tuple[str, ...]
    #: A pattern; empty: any.
    host: str


class CompiledRouteMap(NamedTuple):
    """A `RouteMap` document."""

    kind: str
    name: str
    version: str
    digest: str
    said: str
    #: Patterns; empty: any host.
    hosts: tuple[str, ...]
    #: None: the document does not say.
    verification: Verification | None
    unmapped: Unmapped
    routes: tuple[CompiledRoute, ...]


class CompiledAlertRoute(NamedTuple):
    """An `AlertRoute` document; a list that is None does not restrict."""

    kind: str
    name: str
    version: str
    digest: str
    said: str
    triggers: frozenset[str] | None
    severities: frozenset[str] | None
    #: Patterns.
    agents: tuple[str, ...] | None
    tags: frozenset[str] | None
    actions: tuple[str, ...] | None
    policies: tuple[str, ...] | None
    #: Destinations; none where it mutes.
    to: tuple[str, ...]
    mute: bool
    #: Seconds; None: the document does not say.
    group_s: int | None
    max_per_minute: int | None


CompiledChain = (
    CompiledFloors | CompiledGate | CompiledWallet | CompiledRouteMap | CompiledAlertRoute
)


def compile_chain(document: ChainDoc) -> CompiledChain:
    """Make a document ready. Of one that was validated this cannot fail."""
    said = document.canonical()
    head = (
        document.kind,
        document.name,
        document.version,
        hashlib.sha256(said.encode()).hexdigest(),
        said,
    )
    match document:
        case PrivilegeFloorsDoc():
            floors = (
                CompiledFloor(tuple(f.actions), rank(f.tier) or 0, f.reason)
                for f in document.floors
            )
            return CompiledFloors(*head, tuple(floors))
        case ProvenanceGateDoc():
            requirements = (
                CompiledRequirement(
                    tuple(r.actions),
                    r.lane,
                    tuple(r.require_labels or ()),
                    tuple(r.forbid_labels or ()),
                    r.reason,
                )
                for r in document.requirements
            )
            return CompiledGate(*head, tuple(requirements))
        case RiskWalletDoc():
            refill = document.refill
            return CompiledWallet(
                *head,
                scope=compile_scope(document.applies_to) if document.applies_to else _EVERYBODY,
                capacity=document.capacity,
                window_s=seconds(document.window) if document.window else None,
                refill=Refill(refill.points, seconds(refill.every)) if refill else None,
                costs=tuple((tuple(cost.actions), cost.points) for cost in document.costs),
                default_cost=document.default_cost,
                tier_factors=_factors(document.tier_multipliers, TIERS),
                lane_factors=_factors(document.lane_multipliers, LANES),
                declared_raises=document.declared_cost == "raise",
            )
        case RouteMapDoc():
            return CompiledRouteMap(
                *head,
                hosts=tuple(document.hosts or ()),
                verification=document.verification,
                unmapped=document.unmapped,
                routes=tuple(map(_compile_route, document.routes)),
            )
        case AlertRouteDoc():
            match, group_for = document.match, document.group_for
            return CompiledAlertRoute(
                *head,
                triggers=None if match.triggers is None else expanded(match.triggers),
                severities=None if match.severities is None else frozenset(match.severities),
                agents=None if match.agents is None else tuple(match.agents),
                tags=None if match.tags is None else frozenset(match.tags),
                actions=None if match.actions is None else tuple(match.actions),
                policies=None if match.policies is None else tuple(match.policies),
                to=tuple(document.to or ()),
                mute=document.mute,
                group_s=seconds(group_for) if group_for else None,
                max_per_minute=document.max_per_minute,
            )
    raise TypeError(f"no document of the chain: {type(document).__name__}")


def read_chain(said: str) -> CompiledChain:
    """Make ready what canonical JSON says.

    Raises:
        ValueError: it is no document of the chain.
    """
    return compile_chain(document_of(json.loads(said)))


def _factors(written: dict[str, float], names: tuple[str, ...]) -> tuple[Fraction, ...]:
    # By way of the digits: 0.1 means a tenth, not the float that comes nearest.
    return tuple(Fraction(repr(written.get(name, 1))) for name in names)


def _compile_route(route: Route) -> CompiledRoute:
    template = parse_path(route.path)
    return CompiledRoute(
        None if route.method == [ANY_METHOD] else tuple(route.method),
        template,
        parse_text(route.action, template.names),
        parse_text(route.resource, template.names) if route.resource else (),
        route.host or "",
    )
