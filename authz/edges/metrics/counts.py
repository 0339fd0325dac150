"""What is counted of decisions, on the event loop's thread: a few dictionary updates for each.

- Nothing of the client library is here: it makes series of these numbers when they are asked for.
- What a caller chooses is bounded: `MAX_ACTIONS` actions have a name of their own, which only a
  caller that is known can give them, and `MAX_AGENTS` agents are remembered as active.
- What an agent tells of itself (`sources.GOVERNED`) is no decision and not counted as one.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.text import visible

#: Upper bounds in seconds. They stand on the promises: p50 5 ms, p95 20, p99 50, breaker 100 (STYLE
#: rule 23). The last bucket, for all above, is `+Inf`.
BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
)
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BUCKETS)
#: Actions with a label of their own. One agent's policies name a few dozen, and each action is up
#: to three series; requests without a declared action are named by their path, which has no end.
MAX_ACTIONS: Final = 100
#: Characters of an action that is a label; a longer one is among the others.
MAX_ACTION: Final = 128
OTHER: Final = "other"
#: Spellings of these actions that are remembered, so that a label need not be made anew.
_MAX_SPELLINGS: Final = 1_000
#: Agents that are remembered, with about 100 bytes for each. A sidecar has one.
MAX_AGENTS: Final = 10_000
#: Seconds after its last decision that an agent counts as active: the window over which a rate is
#: usually asked for.
ACTIVE_S: Final = 300.0

#: Looked up once: an enumeration's member costs as much as counting it.
_BYPASS: Final = Mode.BYPASS

#: The values of a series, in the order of the labels of its family.
Labels = tuple[str, ...]


class Histogram:
    """How often a duration was at most as long as each of `BUCKETS`."""

    def __init__(self) -> None:
        #: By bucket, not summed up; the last one is above them all.
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum_ns = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """That many things have taken that long, each."""
        self.counts[bisect_left(_BOUNDS_NS, duration_ns)] += times
        self.sum_ns += duration_ns * times

    def copied(self) -> "Shape":
        """What it holds now."""
        return Shape(tuple(self.counts), self.sum_ns / 1e9)


class Shape(NamedTuple):
    """A histogram at one moment."""

    counts: tuple[int, ...]
    #: Seconds.
    sum: float


class Counts:
    """What has been decided since the start; an `Observer` of the gate."""

    def __init__(self) -> None:
        #: Each number is in a list of its own, so that counting looks its key up once.
        self._decisions: dict[Labels, list[int]] = {}
        self._checks: dict[Labels, list[int]] = {}
        #: What agents told of themselves, by code.
        self.reports: dict[str, int] = {}
        #: Calls that were not judged because too many waited, by mode.
        self.overloaded: dict[str, int] = dict.fromkeys(Mode, 0)
        #: From the first decision of a batch to the end of its commit, for each of its calls.
        self.duration = Histogram()
        self.commit = Histogram()
        #: When each agent had its last decision, seconds since the epoch.
        self._agents: dict[str, float] = {}
        self._labels: dict[str, str] = {}
        self._actions: set[str] = set()
        self._purged_at = 0.0

    def decided(self, outcomes: Sequence[Outcome], commit_ns: int) -> None:
        """Count decisions that were made together.

        Args:
            commit_ns: nanoseconds that their rows took to become durable; 0 where they have none.
        """
        decisions, checks, labels, agents = (
            self._decisions,
            self._checks,
            self._labels,
            self._agents,
        )
        latency_us = counted = 0
        for case, verdict, mode, enforced, _, _, decided_at, took_us, _, _ in outcomes:
            call = case.call
            if call.source == "client":
                self.reports[verdict.code] = self.reports.get(verdict.code, 0) + 1
                continue
            counted += 1
            latency_us += took_us
            decision = verdict.decision
            key = (call.source, verdict.stage, verdict.code, decision, enforced, mode)
            try:
                decisions[key][0] += 1
            except KeyError:
                decisions[key] = [1]
            if mode is _BYPASS:
                continue  # nothing was checked, and nobody is known
            agent_id = case.identity.agent_id
            if agent_id in agents:
                agents[agent_id] = decided_at
            elif agent_id:
                self._remember(agent_id, decided_at)
            action = call.action
            label = labels.get(action) or self._label(action, bool(agent_id))
            check = (decision, label)
            try:
                checks[check][0] += 1
            except KeyError:
                checks[check] = [1]
        if counted:
            # All of a batch wait for its last decision and for the commit.
            self.duration.add(latency_us * 1000 + commit_ns, counted)
        if commit_ns:
            self.commit.add(commit_ns)

    def decisions(self) -> dict[Labels, int]:
        """Decisions by everything that explains them."""
        return {key: number for key, [number] in self._decisions.items()}

    def checks(self) -> dict[Labels, int]:
        """Decisions by what they were, and by the action's label."""
        return {key: number for key, [number] in self._checks.items()}

    def turned_away(self, mode: Mode) -> None:
        """Count a call that was not judged."""
        self.overloaded[mode] += 1

    def active(self, now: float) -> int:
        """Agents with a decision of late; of more than `MAX_AGENTS` as many as are remembered."""
        self._purge(now)
        return len(self._agents)

    def _remember(self, agent_id: str, now: float) -> None:
        # A name of many that each come once must not make a decision look through all of them.
        if len(self._agents) >= MAX_AGENTS and now - self._purged_at >= 1:
            self._purge(now)
        if len(self._agents) < MAX_AGENTS:
            self._agents[agent_id] = now

    def _purge(self, now: float) -> None:
        self._purged_at = now
        gone = [name for name, last in self._agents.items() if last <= now - ACTIVE_S]
        for name in gone:
            del self._agents[name]

    def _label(self, action: str, is_known: bool) -> str:
        """The label of an action, which it gets if it is a known agent's and there is room."""
        if len(action) > MAX_ACTION:
            return OTHER
        # Policies know no case either.
        label = action.lower()
        if not label.isprintable():
            label = visible(label)
        if label not in self._actions:
            if not is_known or len(self._actions) >= MAX_ACTIONS or label == OTHER or not label:
                return OTHER
            self._actions.add(label)
        if len(self._labels) < _MAX_SPELLINGS:
            self._labels[action] = label
        return label


def counts_of(observers: Sequence[object]) -> Counts:
    """The one among a gate's observers."""
    return next(observer for observer in observers if isinstance(observer, Counts))
