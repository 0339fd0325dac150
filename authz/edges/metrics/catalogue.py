"""Every family of series there is: its name, kind, labels and what it means.

- Names follow Prometheus: the unit at the end, `_total` behind what only grows since the start.
- A family is added here or nowhere: docs/observability.md is made from this, and a reader for a
  name that is not here is an error. One that nobody reads is left out of the answer.
- Labels are of closed lists, of our own configuration, or bounded by number.
"""

from enum import StrEnum
from typing import Final, NamedTuple

PREFIX: Final = "meshguard_"


class Kind(StrEnum):
    """What Prometheus calls a type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(NamedTuple):
    """A family of series."""

    #: As it is asked for, with `_total` where it is a counter.
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _counter(name: str, said: str, *labels: str) -> Family:
    return Family(f"{PREFIX}{name}_total", Kind.COUNTER, said, labels)


def _gauge(name: str, said: str, *labels: str) -> Family:
    return Family(PREFIX + name, Kind.GAUGE, said, labels)


def _histogram(name: str, said: str) -> Family:
    return Family(PREFIX + name, Kind.HISTOGRAM, said)


#: In the order in which they are answered, by chapter of the documentation.
CHAPTERS: Final[dict[str, tuple[Family, ...]]] = {
    "Decisions": (
        _counter("policy_checks", "Decisions by what they were and by action; not in bypass mode",
                 "decision", "action"),
        _counter("decisions", "Decisions by everything that explains them",
                 "source", "stage", "code", "decision", "enforced", "mode"),
        _histogram("request_duration_seconds",
                   "What a call waited for its decision and its row, the others of its batch"
                   " included"),
        _gauge("active_agents", "Agents with a decision in the last 5 minutes"),
        _counter("agent_reports", "Requests in which an agent told what it did", "code"),
        _counter("overloaded", "Calls that were not judged because too many waited", "mode"),
        _gauge("mode", "1 for the mode that is in force, 0 for the others", "mode"),
    ),
    "Audit trail": (
        _counter("audit_entries", "Rows committed to the audit trail"),
        _histogram("audit_commit_duration_seconds", "What the commit of a batch's rows took"),
        _counter("audit_unrecorded", "Decisions that were answered without a row"),
        _gauge("audit_writable", "1 while the last write to the audit database worked, else 0"),
        _gauge("audit_database_bytes", "Size of the audit database"),
        _gauge("audit_wal_bytes", "Size of its write-ahead log"),
    ),
    "Policies": (
        _gauge("policies", "Policies that are in force"),
        _gauge("policy_version_info", "1, with the version that is in force", "version"),
        _gauge("policies_pinned", "1 while an older version is pinned, else 0"),
        _gauge("policy_files_rejected", "Policy files with an error, which are not in force"),
        _gauge("policy_files_stale", "Policy files whose last good version stays in force"),
        _gauge("files_failing", "Other files that are followed and cannot be used as they are now"),
        _counter("policy_reloads", "How often the policies in force were replaced by their files"),
        _counter("policy_reload_failures", "Readings of the policy files that failed altogether"),
        _gauge("bundle_info", "1, with the version of the signed bundle that is in force",
               "version"),
        _gauge("bundle_created_timestamp_seconds", "When that bundle was created"),
        _gauge("bundle_expires_timestamp_seconds", "When that bundle ceases to count"),
    ),
    "The chain's memory": (
        _gauge("risk_wallet_remaining", "Risk points that an agent has left, where it spent any",
               "wallet", "agent"),
        _gauge("risk_wallet_hidden", "Balances without a series, since there are too many"),
        _gauge("delegation_fuses_open", "Delegations that are shut because they failed too often"),
        _gauge("pending_actions", "Pending actions that are kept", "state"),
    ),
    "The sidecar": (
        _gauge("build_info", "1, with the version of the program and the transport to Envoy",
               "version", "transport"),
        _gauge("transport_connections", "Connections of Envoy"),
        _gauge("transport_waiting", "Calls that wait for their decision now"),
        _counter("transport_abandoned", "Calls whose caller had given up before they were judged"),
        _counter("transport_violations", "What peers did against HTTP/2", "code"),
        _counter("incidents", "What has happened to the sidecar itself", "kind"),
        _gauge("incidents_open", "Of these, what goes on", "kind"),
        _counter("alerts", "What became of alerts, by the words of `authz alerts list`", "outcome"),
        _counter("spans_sent", "Spans that a collector took"),
        _counter("traces_lost", "Decisions that no collector was told of, where one should have"
                 " been: there was no room, or it refused", "why"),
    ),
}  # fmt: skip

FAMILIES: Final = {one.name: one for chapter in CHAPTERS.values() for one in chapter}
