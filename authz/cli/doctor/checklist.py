"""The seed's deployment checklist, its ten lines in its order and words, and what checks each.

docs/deploy.md has the same lines; a test holds them together.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from authz.cli.doctor import bundles, decisions, running, stored, syncing, traces
from authz.cli.doctor.facts import Facts
from authz.cli.doctor.finding import Finding, Status, worst


class Line(NamedTuple):
    """A line of the checklist."""

    title: str
    words: str
    check: Callable[[Facts], Iterator[Finding]]


LINES: Final = (
    Line(
        "Choose your mode",
        "Start with `audit` to observe behavior, switch to `enforce` when policies are tuned",
        decisions.mode,
    ),
    Line(
        "Set production secrets",
        "Use strong, unique values for `ADMIN_TOKEN` and `JWT_SECRET`; never use the defaults",
        decisions.secrets,
    ),
    Line(
        "Mount policies read-only",
        "Use ConfigMaps or signed bundles; never let the agent container write to the policy"
        " directory",
        stored.policies,
    ),
    Line(
        "Persist audit data",
        "Use a PersistentVolumeClaim or named volume for `AUDIT_DB_PATH`",
        stored.audit,
    ),
    Line(
        "Configure health checks",
        "Point liveness probes at `/health` and readiness probes at `/ready`",
        running.health,
    ),
    Line(
        "Set resource limits",
        "The sidecar is lightweight (128-256 MB RAM typical), but set limits to prevent runaway"
        " memory",
        running.limits,
    ),
    Line("Enable OTEL", "Connect traces to your existing observability stack", traces.check),
    Line(
        "Plan for disconnected operation",
        "If your environment has unreliable connectivity, set up a sync CronJob for policies and"
        " audit logs",
        syncing.disconnected,
    ),
    Line(
        "Sign your policy bundles",
        "In production, verify policy integrity with cosign or equivalent before the sidecar loads"
        " them",
        bundles.bundles,
    ),
    Line(
        "Lock down the network",
        "Use NetworkPolicies to ensure only the agent container can reach the sidecar",
        running.network,
    ),
)


class Result(NamedTuple):
    """A line, and what was found."""

    line: Line
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The worst of them."""
        return worst(self.findings)


def run(facts: Facts) -> list[Result]:
    """Check every line."""
    return [Result(line, tuple(line.check(facts))) for line in LINES]
