"""The rows of the contract that concern a sidecar, by section.

What is left out is another product's: signed bundles and their ingestion (§1.3), SSO, billing,
signup, reports and RBAC of the control plane, and the parts of §16 that only an SDK can mend.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

ROWS: Final[dict[str, tuple[str, ...]]] = {
    "§0": (
        "port", "audit db path", "admin header", "claims", "tiers", "403 body", "trace",
        "revoked agent", "rule order", "verified delegates", "patch and put", "policy test",
    ),
    "§1.1": ("GET /health", "GET /ready", "GET /", "GET /metrics"),
    "§1.2": (
        "GET /proxy/check", "POST /proxy/check", "ANY /proxy/<path>", "POST /proxy/audit",
        "POST /proxy/governance/check", "POST /proxy/governance/record",
        "POST /api/v1/governance/batch", "POST /api/v1/evaluate", "POST /api/v1/audit",
        "POST /api/v1/audit/batch", "reserved names", "derived action",
    ),
    "§1.3": (
        "two prefixes", "401 never 403", "GET agents", "POST agents", "GET agents/:id",
        "PATCH agents/:id", "PUT agents/:id", "DELETE agents/:id", "POST agents/:id/token",
        "GET policies", "GET policies/:name", "PUT policies/:name", "DELETE policies/:name",
        "POST policies/validate", "POST policies/test", "GET policies/versions",
        "POST policies/rollback", "GET audit", "GET audit/stats", "GET audit/trace/:id",
        "GET audit/export", "pending",
    ),
    "§2": ("200", "401", "403", "403 pending", "429", "4xx and 5xx", "unmatched action"),
    "§3": (
        "Authorization", "X-MeshGuard-Action", "X-MeshGuard-Resource", "X-MeshGuard-Trace-ID",
        "X-Trace-ID", "X-MeshGuard-Meta", "X-MeshGuard-Agent-ID", "X-Admin-Token",
        "X-MeshGuard-API-Key", "X-API-Key", "X-Agent-Name", "traceparent",
        "X-MeshGuard-Delegation", "X-MeshGuard-Pending-ID", "X-MeshGuard-Action-Token",
        "X-MeshGuard-Provenance", "X-MeshGuard-Cost", "X-MeshGuard-Upstream-Authorization",
        "answer: Decision", "answer: Policy", "answer: Trace-Id", "answer: Agent-Id",
        "answer: Mode", "answer: Would-Deny", "stripped before the upstream",
    ),
    "§4": (
        "pinned algorithm", "sub and exp", "issuer", "unknown agent", "revocation wins",
        "pinned agent", "aliases", "ranks", "unknown tier", "dashboard token",
    ),
    "§6": (
        "batch answer", "batch size", "batch entries", "batch approval", "batch in audit mode",
        "enforce", "audit", "bypass", "no token in audit mode", "admin in bypass mode", "SIGHUP",
        "PUT /admin/mode", "breaker",
    ),
    "§9": (
        "union", "never null", "always there", "one per request", "no agent", "result", "meta",
        "own file", "secrets", "admin changes",
    ),
    "§12": (
        "period", "overview", "timeseries", "agents", "policies", "delegations",
        "trust-distribution", "latency-heatmap",
    ),
    "§16": (
        "1 below 400 is allowed", "2 objects only", "3 whose 403", "4 redirects",
        "5 agent at /admin", "6 ASCII actions", "7 denied bodies", "8 policy on allow",
        "11 policy test is 2xx", "12 go decodes",
    ),
}  # fmt: skip

ALL: Final = tuple(f"{section} {row}" for section, rows in ROWS.items() for row in rows)

#: The tests that hold a row true, by row. Filled as their modules are imported.
COVERED: Final[dict[str, list[str]]] = {}

Test = TypeVar("Test", bound=Callable[..., Any])


def covers(*rows: str) -> Callable[[Test], Test]:
    """Say which rows a test holds true."""
    unknown = set(rows) - set(ALL)
    assert not unknown, f"no such rows: {unknown}"

    def mark(test: Test) -> Test:
        for row in rows:
            COVERED.setdefault(row, []).append(test.__qualname__)
        return test

    return mark
