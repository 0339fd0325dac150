"""Traces decisions: chosen before they are made, handed to the exporter once they are durable.

- A decision that is not sampled costs a look at its id, and nothing else is done for it.
- What is sampled is timed stage by stage; what becomes of that is worked out in the exporter's
  thread.
- Where the exporter has no room a decision is not begun to be traced: were it, an agent that has
  each of its calls sampled would slow down all. Then the caller's header goes on as it came, and
  the upstream's span is the caller's child.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from authz.core.call import Call
from authz.core.case import Case
from authz.core.finding import Finding
from authz.core.otlp import Told, told
from authz.core.outcome import Outcome
from authz.core.stages.stage import Stage
from authz.core.tracing import Sampler, Trace


class Sink(Protocol):
    """An `Exporter`, as far as it is needed here."""

    @property
    def has_room(self) -> bool:
        """Whether one more decision is taken."""

    def offer(self, one: Told) -> None:
        """Take a decision to be told."""

    def lost(self) -> None:
        """A decision is not told, for want of room."""


class Tracer:
    """What the gate has told. On the event loop's thread."""

    def __init__(
        self, sampler: Sampler, sink: Sink, monotonic_ns: Callable[[], int], seed: int
    ) -> None:
        """
        Args:
            monotonic_ns: the gate's own clock.
            seed: of the ids of spans, random to others than us.
        """
        self._sampler = sampler
        self._below = sampler.below
        self.sink: Final = sink
        self._clock = monotonic_ns
        # Ids are no secrets; asking the system for each of them would cost more than the rest.
        self._random = random.Random(seed)  # noqa: S311
        #: The chains that are known, and what writes down the times of each.
        self._chains: dict[int, tuple[Sequence[Stage], Sequence[Stage]]] = {}
        #: The times of the decision that is being made; it is one at a time.
        self._times: list[int] = []
        self._begun = False

    def begin(
        self, call: Call, chain: Sequence[Stage], decision_id: str, now: float, started_ns: int
    ) -> Trace | None:
        """As `gate.Tracer`."""
        parent = call.parent
        if parent is None:
            trace_id = decision_id
            # As `samples`; most calls end here.
            if int(trace_id[16:], 16) >= self._below:
                return None
        else:
            trace_id = parent.trace_id
            if not self._sampler.samples(trace_id, parent):
                return None
        if not self.sink.has_room:
            self.sink.lost()
            return None
        span_id = f"{self._random.getrandbits(64) or 1:016x}"
        trace = Trace(trace_id, span_id, parent, now, started_ns)
        trace.chain = self._timed(chain)
        self._times = trace.times
        self._begun = True
        return trace

    def decided(self, outcomes: Sequence[Outcome], commit_started_ns: int, commit_ns: int) -> None:
        """As `gate.Tracer`."""
        if not self._begun:
            return
        self._begun = False
        for outcome in outcomes:
            if outcome.trace is not None:
                self.sink.offer(told(outcome, outcome.trace, commit_started_ns, commit_ns))

    def _timed(self, chain: Sequence[Stage]) -> Sequence[Stage]:
        known = self._chains.get(id(chain))
        if known is None or known[0] is not chain:
            known = self._chains[id(chain)] = chain, tuple(map(self._timing, chain))
        return known[1]

    def _timing(self, stage: Stage) -> Stage:
        name, judge = stage
        clock = self._clock

        def timed(case: Case) -> Finding:
            try:
                return judge(case)
            finally:
                self._times.append(clock())

        return Stage(name, timed)
