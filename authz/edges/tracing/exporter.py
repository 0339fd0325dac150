"""Sends spans: one thread, a bounded queue, and whoever waits for it waits a bounded time.

- The event loop hands over a decision as it is; what its spans look like is worked out here. The
  interpreter runs one thread at a time, so this one gives way after every few decisions.
- What cannot be sent is sent again for as long as one export may take, and then given up; what
  there is no room for meanwhile is never begun. Both are counted, and the log says once a minute
  at most that it is so, and when it is over.
- At the end it gets what is left of the time to stop; what is not sent then never is.
"""

import logging
import random
import threading
import time
from collections import deque
from typing import Final, Protocol

from authz.core import otlp
from authz.core.otlp import Told
from authz.core.tracing import Export
from authz.edges.tracing.collector import Failure

log = logging.getLogger(__name__)

#: Decisions that are put into bytes before others get the interpreter, about 0.2 ms.
STRIDE: Final = 8
#: Seconds before the same is sent again: at first, and at most. Between half and all of it.
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 5.0
#: Seconds between two sentences about one and the same trouble.
QUIET_S: Final = 60.0
#: Spans of a decision, at most: there is no room where less than this is left. The chain's ten
#: stages, the decision, its delegation and its row.
DECISION: Final = 16


class Destination(Protocol):
    """A `Collector`, as far as it is needed here."""

    def send(self, body: bytes, timeout_s: float) -> int:
        """As `Collector.send`."""

    def close(self) -> None:
        """As `Collector.close`."""


class Exporter:
    """A queue of decisions, and the thread that sends their spans."""

    def __init__(self, export: Export, collector: Destination, version: str, seed: int) -> None:
        """
        Args:
            version: of this service.
            seed: of the ids of spans, random to others than us.
        """
        self._export = export
        self._collector = collector
        self._version = version
        self._random = random.Random(seed)  # noqa: S311 - ids are no secrets
        self._queue: deque[Told] = deque()
        #: Spans that were queued, and that were taken: each counted by one thread alone.
        self._put = 0
        self._taken = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deadline = float("inf")
        #: Spans that the collector has; decisions that it never will have, for want of room and
        #: because it did not take them.
        self.sent = 0
        self.crowded_out = 0
        self.refused = 0
        self._told_at = float("-inf")
        self._is_troubled = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether one more decision is taken; for the event loop's thread, as `offer`."""
        return self._put - self._taken <= self._export.max_queue - DECISION

    def offer(self, one: Told) -> None:
        """Take a decision to be told."""
        self._queue.append(one)
        self._put += one.spans
        if self._put - self._taken >= self._export.max_batch and not self._wake.is_set():
            self._wake.set()

    def lost(self) -> None:
        """A decision is not told, for want of room."""
        self.crowded_out += 1
        # Said here: where nothing comes back from the collector, the thread waits for it.
        self._tell("more decisions are traced than it takes")

    def stop(self, patience_s: float) -> None:
        """Send what is left, for so many seconds at most."""
        if not self._thread.is_alive():
            return
        refused = self.refused
        self._deadline = time.monotonic() + patience_s
        self._stopping.set()
        self._wake.set()
        self._thread.join(patience_s)
        if self._thread.is_alive() or self._queue or self.refused > refused:
            log.warning(
                "%s: %s did not take the last traces in %g s; the audit trail has the decisions",
                self._export.variable,
                self._export.shown,
                patience_s,
            )

    def figures(self) -> dict[str, int]:
        """What became of them so far: spans that were sent, decisions that were not told."""
        return {"sent": self.sent, "crowdedOut": self.crowded_out, "refused": self.refused}

    def _run(self) -> None:
        least = self._export.max_batch
        while not self._stopping.is_set():
            # What makes a whole batch is sent at once, and the rest when it has waited.
            is_full = self._wake.wait(self._export.delay_s)
            self._wake.clear()
            until = self._put - least + 1 if is_full else self._put
            while self._queue and self._taken < until:
                self._batch()
        while self._queue and time.monotonic() < self._deadline:
            self._batch()
        self._collector.close()

    def _batch(self) -> None:
        """Send as many as go together, and one at least."""
        decisions = 0
        spans: list[bytes] = []
        while self._queue and (not spans or len(spans) <= self._export.max_batch - DECISION):
            one = self._queue.popleft()
            try:
                spans += otlp.spans_of(one, self._new_id)
            except Exception:
                self.refused += 1
                log.exception("a decision could not be told as spans")
            self._taken += one.spans
            decisions += 1
            if decisions % STRIDE == 0:
                time.sleep(0)
        body = otlp.request(self._export.resource, self._version, spans)
        try:
            rejected = self._send(body)
        except Failure as failure:
            self.refused += decisions
            self._tell(str(failure))
            return
        except Exception:
            # Whatever it was, it is over for these; the next ones are others.
            self.refused += decisions
            log.exception("traces could not be sent")
            return
        self.sent += len(spans) - min(rejected, len(spans))
        if rejected:
            self._tell(f"it has not taken {rejected} of {len(spans)} spans")
        elif self._is_troubled:
            self._is_troubled = False
            log.warning("%s: %s takes traces again", self._export.variable, self._export.shown)

    def _send(self, body: bytes) -> int:
        """Send, and send again where that may help."""
        started = time.monotonic()
        wait_s = FIRST_WAIT_S
        while True:
            ends = min(started + self._export.timeout_s, self._deadline)
            try:
                return self._collector.send(body, max(ends - time.monotonic(), 0.0))
            except Failure as failure:
                # What it asks for may be nothing at all, again and again.
                pause = max(wait_s * (1 + self._random.random()) / 2, failure.wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                ends = min(started + self._export.timeout_s, self._deadline)
                if not failure.may_repeat or time.monotonic() + pause >= ends:
                    raise
                # Told at once: the next try may be seconds away.
                self._tell(str(failure))
                self._stopping.wait(pause)

    def _tell(self, why: str) -> None:
        now = time.monotonic()
        if now - self._told_at < QUIET_S:
            return
        self._told_at = now
        self._is_troubled = True
        log.warning(
            "%s: traces do not arrive at %s: %s; decisions go on, %d of them are not told so far",
            self._export.variable,
            self._export.shown,
            why,
            self.crowded_out + self.refused,
        )

    def _new_id(self) -> int:
        """Of a span: 64 bits, not all of them 0."""
        return self._random.getrandbits(64) or 1
