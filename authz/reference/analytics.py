"""Figures of the audit trail (`edges/http/analytics.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.analytics import WORDS
from authz.reference.operation import CLOSED, Operation

Share = Annotated[float, Field(ge=0, le=100, description="Per cent.")]
Ms = Annotated[float, Field(ge=0, description="Milliseconds.")]
Count = Annotated[int, Field(ge=0)]
Period = Literal["24h", "7d", "30d"]


@with_config(CLOSED)
class Report(TypedDict):
    """What all reports say."""

    period: Period
    incomplete: NotRequired[
        Annotated[
            bool, Field(description="Not every row was looked at, or not every name was counted.")
        ]
    ]


@with_config(CLOSED)
class Trends(TypedDict):
    """How much more it is than in the period before."""

    totalRequests: Annotated[float, Field(description="Per cent; 100 where there were none.")]
    enforcementRate: float
    activeAgents: int
    avgLatencyMs: float


@with_config(CLOSED)
class Overview(Report):
    """How much was asked."""

    totalRequests: Count
    enforcementRate: Annotated[
        float, Field(ge=0, le=100, description="Per cent that an entry of a document decided.")
    ]
    activeAgents: Count
    avgLatencyMs: Ms
    trends: Trends


@with_config(CLOSED)
class Bucket(TypedDict):
    """An hour or a day."""

    time: Annotated[str, Field(description="When it begins, UTC.")]
    allowed: Count
    denied: Count
    errors: Annotated[int, Field(ge=0, description="Nothing could be decided.")]


@with_config(CLOSED)
class Timeseries(Report):
    """What was decided over time, the oldest first."""

    bucket: Literal["hour", "day"]
    data: list[Bucket]


@with_config(CLOSED)
class Asker(TypedDict):
    """An agent, as it was called last."""

    id: str
    name: Annotated[str, Field(description="Its id, where it has no name.")]
    trustTier: str
    requests: Count
    allowed: Count
    denied: Count
    errors: Count
    avgLatencyMs: Ms
    lastActive: str


@with_config(CLOSED)
class Askers(Report):
    """Who asked most."""

    sort: Literal["requests", "denied", "latency"]
    agents: list[Asker]


@with_config(CLOSED)
class Decider(TypedDict):
    """A policy, or another document that decides."""

    name: str
    triggered: Count
    allowRate: Share
    denyRate: Share
    topAction: NotRequired[str]


@with_config(CLOSED)
class Deciders(Report):
    """What decided most."""

    policies: list[Decider]


@with_config(CLOSED)
class Pair(TypedDict):
    """Who let act, and who acted."""

    fromAgent: str
    toAgent: str
    fromAgentId: str
    toAgentId: str
    count: Count


@with_config(CLOSED)
class Delegations(Report):
    """What agents did for others."""

    totalChains: Count
    avgDepth: float
    blockedChains: Count
    topPairs: list[Pair]


@with_config(CLOSED)
class Tier(TypedDict):
    """A trust tier."""

    tier: str
    agentCount: Count
    requestCount: Count
    pct: Share


@with_config(CLOSED)
class Tiers(Report):
    """Agents and requests by tier, the highest first."""

    tiers: list[Tier]


@with_config(CLOSED)
class Cell(TypedDict):
    """An hour of a weekday."""

    dayOfWeek: Annotated[int, Field(ge=0, le=6, description="0 is Sunday.")]
    hourOfDay: Annotated[int, Field(ge=0, le=23, description="UTC.")]
    avgLatencyMs: Ms
    count: Count


@with_config(CLOSED)
class Heatmap(Report):
    """How long decisions took; hours without any are left out."""

    cells: list[Cell]


_FIGURES: Final = {
    "totalRequests": 1200,
    "enforcementRate": 91.5,
    "activeAgents": 7,
    "avgLatencyMs": 0.12,
}

_REPORTS: Final[tuple[tuple[str, str, str, Any, dict[str, object], str], ...]] = (
    (
        "overview",
        "getOverview",
        "How much was asked",
        Overview,
        {
            **_FIGURES,
            "trends": {
                **_FIGURES,
                "totalRequests": 12.5,
                "enforcementRate": -1.5,
                "activeAgents": 2,
            },
        },
        "`trends` compares with the period before.",
    ),
    (
        "timeseries",
        "getTimeseries",
        "What was decided over time",
        Timeseries,
        {
            "bucket": "hour",
            "data": [{"time": "2026-01-31T12:00:00Z", "allowed": 90, "denied": 9, "errors": 0}],
        },
        "",
    ),
    (
        "agents",
        "getAgentFigures",
        "Who asked, and what became of it",
        Askers,
        {
            "sort": "requests",
            "agents": [
                {
                    "id": "reviewer-1",
                    "name": "Reviewer",
                    "trustTier": "verified",
                    "requests": 100,
                    "allowed": 90,
                    "denied": 10,
                    "errors": 0,
                    "avgLatencyMs": 0.12,
                    "lastActive": "2026-01-31T12:00:00.000000Z",
                }
            ],
        },
        "Name and tier are those of the newest request.",
    ),
    (
        "policies",
        "getPolicyFigures",
        "What decided",
        Deciders,
        {
            "policies": [
                {
                    "name": "code-review-policy",
                    "triggered": 100,
                    "allowRate": 90.0,
                    "denyRate": 10.0,
                    "topAction": "read:docs/intro",
                }
            ]
        },
        "Floors and requirements are there by the name of their document.",
    ),
    (
        "delegations",
        "getDelegationFigures",
        "What agents did for others",
        Delegations,
        {
            "totalChains": 12,
            "avgDepth": 1.5,
            "blockedChains": 2,
            "topPairs": [
                {
                    "fromAgent": "Lead",
                    "toAgent": "Worker",
                    "fromAgentId": "lead-1",
                    "toAgentId": "worker-1",
                    "count": 10,
                }
            ],
        },
        "Each request that names a delegation is a chain. A pair is the last hop.",
    ),
    (
        "trust-distribution",
        "getTrustDistribution",
        "Agents and requests by trust tier",
        Tiers,
        {"tiers": [{"tier": "verified", "agentCount": 7, "requestCount": 1200, "pct": 100.0}]},
        "",
    ),
    (
        "latency-heatmap",
        "getLatencyHeatmap",
        "How long decisions took, by weekday and hour",
        Heatmap,
        {"cells": [{"dayOfWeek": 6, "hourOfDay": 12, "avgLatencyMs": 0.12, "count": 99}]},
        "",
    ),
)

OPERATIONS: Final = tuple(
    Operation(
        "GET",
        f"/admin/analytics/{path}",
        name,
        summary,
        "Analytics",
        answer,
        {"period": "30d" if path == "latency-heatmap" else "24h", **example},
        words={"period": WORDS},
        text=f"{text} Counts what was decided, and no changes.".strip(),
    )
    for path, name, summary, answer, example, text in _REPORTS
)
