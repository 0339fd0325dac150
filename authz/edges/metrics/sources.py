"""Where the figures come from: for each family a reader, asked at each scrape.

- Readers run on the event loop's thread, which alone may look at the ledger and the counts, and so
  they copy and do no more. What takes time, or a disk, is `Deferred` to the thread that writes.
- Who has figures of its own, such as alerts, adds a reader under a name of the catalogue.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from authz import __version__
from authz.core import latches
from authz.core.incident import Kind
from authz.core.mode import Mode
from authz.core.policy_file import Problem
from authz.edges.http.probes import Health
from authz.edges.http.records import STATES
from authz.edges.incidents import Incidents
from authz.edges.metrics.catalogue import FAMILIES
from authz.edges.metrics.counts import Counts, Shape
from authz.operations import Operations
from authz.stores.audit_schema import companions

if TYPE_CHECKING:
    from authz.stores.bundles import BundleState, Taken

#: Series of wallets. A sidecar has one agent; whoever scrapes a gateway of thousands wants sums.
MAX_SERIES: Final = 1000

#: Values by the labels of their series, in the order of the family's.
Values = Mapping[tuple[str, ...], float]


class Deferred:
    """Values that another thread works out, of what was copied here."""

    def __init__(self, work: Callable[[], Values]) -> None:
        self._work = work

    def __call__(self) -> Values:
        """Work them out."""
        return self._work()


Read = Values | Shape | Deferred


class Figures:
    """The readers, by family."""

    def __init__(self) -> None:
        self._readers: dict[str, Callable[[], Read]] = {}

    def add(self, name: str, reader: Callable[[], Read]) -> None:
        """Have a family read by somebody, on the event loop's thread.

        Raises:
            ValueError: the catalogue has no such family, or somebody reads it.
        """
        if name not in FAMILIES or name in self._readers:
            raise ValueError(f"{name}: not a family that needs a reader")
        self._readers[name] = reader

    def value(self, name: str, reader: Callable[[], float]) -> None:
        """`add`, for a family without labels."""
        self.add(name, lambda: {(): reader()})

    def read(self) -> dict[str, Read]:
        """All of them, now."""
        return {name: reader() for name, reader in self._readers.items()}


def decisions(figures: Figures, counts: Counts, now: Callable[[], float]) -> None:
    """What the gate's observer has counted; `now`: seconds since the epoch."""
    figures.add("meshguard_policy_checks_total", counts.checks)
    figures.add("meshguard_decisions_total", counts.decisions)
    figures.add("meshguard_request_duration_seconds", counts.duration.copied)
    figures.value("meshguard_active_agents", lambda: counts.active(now()))
    figures.add("meshguard_agent_reports_total", lambda: _by_one(counts.reports))
    figures.add("meshguard_overloaded_total", lambda: _by_one(counts.overloaded))
    figures.add("meshguard_audit_commit_duration_seconds", counts.commit.copied)


def remembered(figures: Figures, operations: Operations, incidents: Incidents) -> None:
    """What the chain remembers, and what has happened to the sidecar."""
    state = operations.state
    figures.add("meshguard_risk_wallet_remaining", lambda: _wallets(operations))
    figures.value(
        "meshguard_risk_wallet_hidden", lambda: max(len(state.wallets.entries) - MAX_SERIES, 0)
    )
    figures.add("meshguard_delegation_fuses_open", lambda: _fuses(operations))
    figures.add("meshguard_pending_actions", lambda: _pending(operations))
    figures.add(
        "meshguard_incidents_total", lambda: {(kind,): incidents.counts[kind] for kind in Kind}
    )
    figures.add("meshguard_incidents_open", lambda: _open(incidents))


class Reloads(Protocol):
    """A `Reloader`, as far as it is needed here."""

    reloads: int
    failures: int


def sidecar(figures: Figures, health: Health, reloads: Reloads, database: Path) -> None:
    """How the service and its store are; `database` is AUDIT_DB_PATH."""
    audit, versions = health.audit, health.versions
    figures.add("meshguard_mode", lambda: {(one,): one is health.mode() for one in Mode})
    figures.value("meshguard_audit_entries_total", lambda: audit.written)
    figures.value("meshguard_audit_unrecorded_total", lambda: audit.unrecorded)
    figures.value("meshguard_audit_writable", lambda: not audit.failure)
    figures.add("meshguard_audit_database_bytes", lambda: _size(database))
    figures.add("meshguard_audit_wal_bytes", lambda: _size(companions(database)[0]))
    figures.value("meshguard_policies", lambda: versions.current.size)
    figures.add("meshguard_policy_version_info", lambda: {(versions.current.version,): 1})
    figures.value("meshguard_policies_pinned", lambda: versions.pinned)
    figures.add("meshguard_policy_files_rejected", lambda: _rejected(health.loaded().problems))
    figures.value("meshguard_policy_files_stale", lambda: len(health.loaded().stale))
    figures.value("meshguard_files_failing", lambda: len(health.problems()))
    figures.value("meshguard_policy_reloads_total", lambda: reloads.reloads)
    figures.value("meshguard_policy_reload_failures_total", lambda: reloads.failures)
    _transport(figures, health.transport)
    _bundle(figures, lambda: health.loaded().bundle)


def alerts(figures: Figures, counts: Callable[[], Mapping[str, int]]) -> None:
    """What became of alerts; `counts`: by outcome."""
    figures.add("meshguard_alerts_total", lambda: _by_one(counts()))


def traces(figures: Figures, counts: Callable[[], Mapping[str, int]]) -> None:
    """What became of traces; `counts`: as `Exporter.figures`."""
    figures.value("meshguard_spans_sent_total", lambda: counts()["sent"])
    figures.add(
        "meshguard_traces_lost_total",
        lambda: {("crowded_out",): counts()["crowdedOut"], ("refused",): counts()["refused"]},
    )


def _bundle(figures: Figures, state: "Callable[[], BundleState | None]") -> None:
    def taken() -> "Taken | None":
        found = state()
        return None if found is None else found.taken

    def info() -> Values:
        found = taken()
        if found is None:
            return {}
        # An archive without a manifest has no version, and is named by its content.
        return {(found.digest[:16] if found.version is None else str(found.version),): 1}

    def moment(name: str) -> Values:
        said = getattr(taken(), name, None)
        return {} if said is None else {(): said}

    figures.add("meshguard_bundle_info", info)
    figures.add("meshguard_bundle_created_timestamp_seconds", lambda: moment("created"))
    figures.add("meshguard_bundle_expires_timestamp_seconds", lambda: moment("not_after"))


def _transport(figures: Figures, transport: Callable[[], Mapping[str, object]]) -> None:
    def number(name: str) -> Values:
        found = transport().get(name)
        return {(): found} if isinstance(found, int) else {}

    def violations() -> Values:
        found = transport().get("violations")
        return _by_one(found) if isinstance(found, dict) else {}

    name = str(transport().get("name"))
    figures.add("meshguard_build_info", lambda: {(__version__, name): 1})
    figures.add("meshguard_transport_connections", lambda: number("connections"))
    figures.add("meshguard_transport_waiting", lambda: number("waiting"))
    figures.add("meshguard_transport_abandoned_total", lambda: number("abandoned"))
    figures.add("meshguard_transport_violations_total", violations)


def _by_one(counted: Mapping[str, int]) -> Values:
    return {(label,): count for label, count in counted.items()}


def _wallets(operations: Operations) -> Deferred:
    keys = itertools.islice(operations.state.wallets.entries, MAX_SERIES)
    later = operations.spent_later(keys)

    def work() -> Values:
        return {
            (spent.wallet, spent.agent_id): spent.remaining
            for spent in later()
            if spent.remaining is not None
        }

    return Deferred(work)


def _fuses(operations: Operations) -> Deferred:
    fuses, now = list(operations.state.fuses.values()), operations.steady()
    return Deferred(lambda: {(): sum(latches.standing(one, now) == "open" for one in fuses)})


def _pending(operations: Operations) -> Deferred:
    actions, now = list(operations.state.pending.values()), operations.steady()

    def work() -> Values:
        states = Counter(action.state_at(now) for action in actions)
        return {(state,): states[state] for state in STATES}

    return Deferred(work)


def _open(incidents: Incidents) -> Values:
    going_on = Counter(kind for kind, _ in incidents.open)
    return {(kind,): going_on[kind] for kind in Kind}


def _rejected(problems: tuple[Problem, ...]) -> Deferred:
    return Deferred(lambda: {(): len({one.file for one in problems if one.severity == "error"})})


def _size(file: Path) -> Deferred:
    def work() -> Values:
        with contextlib.suppress(OSError):
            return {(): file.stat().st_size}
        return {}

    return Deferred(work)
