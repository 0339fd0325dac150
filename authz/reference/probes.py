"""How the service is (`edges/http/probes.py`, `edges/http/metrics.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.reference.operation import ANYBODY, CLOSED, Operation, Time

Mode = Literal["enforce", "audit", "bypass"]
Checks = Annotated[
    dict[str, str], Field(description="Each part by name: `ok`, or what is wrong with it.")
]


@with_config(CLOSED)
class BundleInForce(TypedDict):
    """POLICY_BUNDLE as it was taken last; `version` and what belongs to it by its manifest."""

    digest: NotRequired[Annotated[str, Field(description="SHA-256 of the archive.")]]
    signed: NotRequired[Annotated[bool, Field(description="A key of ours has signed it.")]]
    keyId: NotRequired[Annotated[str, Field(description="That key's SHA-256 (SPKI, DER).")]]
    version: NotRequired[int]
    revision: NotRequired[str]
    created: NotRequired[Time]
    ageSeconds: NotRequired[Annotated[float, Field(description="Since it was created.")]]
    notAfter: NotRequired[Time]
    problem: NotRequired[
        Annotated[str, Field(description="Why what is there now is not in force, or expired.")]
    ]


@with_config(CLOSED)
class Synchronisation(TypedDict):
    """Of a sidecar with SYNC_URL."""

    lastPull: NotRequired[Time | None]
    lastPush: NotRequired[Time | None]
    pending: NotRequired[
        Annotated[int | None, Field(description="Rows that wait to be sent, as of the last push.")]
    ]
    problem: NotRequired[Annotated[str, Field(description="Why a direction does not work.")]]
    warning: NotRequired[Annotated[str, Field(description="What retention is about to remove.")]]


@with_config(CLOSED)
class Health(TypedDict):
    """Whether this process can do its work in its mode."""

    status: Literal["healthy", "unhealthy"]
    timestamp: Time
    version: str
    mode: Mode
    uptime: Annotated[float, Field(description="Seconds since the start.")]
    checks: Checks
    transport: Annotated[
        dict[str, Any], Field(description="Figures of the transport that answers Envoy.")
    ]
    bundle: NotRequired[BundleInForce]
    sync: NotRequired[Synchronisation]
    unrecorded: NotRequired[
        Annotated[int, Field(description="Decisions that could not be recorded.")]
    ]


@with_config(CLOSED)
class Ready(TypedDict):
    """It may get traffic."""

    status: Literal["ready"]
    mode: Mode
    policies: NotRequired[int]
    policyVersion: NotRequired[str]
    warning: NotRequired[str]


@with_config(CLOSED)
class NotReady(TypedDict):
    """It may not get traffic yet, or not any more."""

    status: Literal["not_ready"]
    mode: Mode
    checks: Checks


@with_config(CLOSED)
class Service(TypedDict):
    """What this is."""

    name: str
    version: str
    mode: Mode
    docs: Annotated[str, Field(description="Where this page is.")]


_CHECKS: Final = {"database": "ok", "policies": "ok"}
_HEALTH: Final = {
    "status": "healthy",
    "timestamp": "2026-01-31T12:00:00.000000Z",
    "version": "0.1.0",
    "mode": "enforce",
    "uptime": 3600.5,
    "checks": _CHECKS,
    "transport": {"name": "h2c", "connections": 1, "waiting": 0},
}
_NO_POLICY: Final = {**_CHECKS, "policies": "no valid policy is loaded"}
_FAILING: Final = {**_CHECKS, "database": "failing: the disk is full"}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/health",
        "getHealth",
        "Whether the service works",
        "Service",
        Health,
        _HEALTH,
        who=ANYBODY,
        others={503: (Health, {**_HEALTH, "status": "unhealthy", "checks": _FAILING})},
        errors=(),
        text="A supervisor restarts it where it does not.",
    ),
    Operation(
        "GET",
        "/ready",
        "getReady",
        "Whether it should get traffic",
        "Service",
        Ready,
        {"status": "ready", "mode": "enforce", "policies": 12, "policyVersion": "2f1c9d0a77b3e845"},
        who=ANYBODY,
        others={503: (NotReady, {"status": "not_ready", "mode": "enforce", "checks": _NO_POLICY})},
        errors=(),
    ),
    Operation(
        "GET",
        "/",
        "getService",
        "What this is",
        "Service",
        Service,
        {
            "name": "MeshGuard Gateway",
            "version": "0.1.0",
            "mode": "enforce",
            "docs": "/api/docs",
        },
        who=ANYBODY,
        errors=(),
    ),
    Operation(
        "GET",
        "/metrics",
        "getMetrics",
        "Figures for Prometheus",
        "Service",
        None,
        who=ANYBODY,
        media={
            "text/plain": "meshguard_delegation_fuses_open 0.0\n",
            "application/openmetrics-text": "meshguard_delegation_fuses_open 0.0\n# EOF\n",
        },
        errors=(),
        text="There with METRICS_ENABLED=true; OpenMetrics for who accepts that. What there is:"
        " docs/observability.md.",
    ),
)
