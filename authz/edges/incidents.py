"""Incidents: each is logged, counted and recorded, and told to whoever raises alerts.

- What goes on in the same words is counted each time, and logged and recorded once, until it has
  ended or says something else: a control plane that is away for a month is one row, not nine
  thousand.
- On the event loop's thread. Nothing here waits, and what a listener breaks stays the listener's.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from authz.core.incident import Incident, Kind

log = logging.getLogger(__name__)

#: Incidents that go on at once; each is a subject of ours, not a request's.
MAX_OPEN: Final = 1_000


class Recorder(Protocol):
    """A `Versions`, as far as it is needed here."""

    def note(self, action: str, resource: str, reason: str) -> None:
        """Record a change of the sidecar, now or as soon as that is possible."""
        ...


class Incidents:
    """What has happened since the start, and what goes on."""

    def __init__(self, recorder: Recorder) -> None:
        #: How often each kind has happened.
        self.counts: Counter[Kind] = Counter()
        #: What goes on, by kind and subject, and its sentence.
        self.open: dict[tuple[Kind, str], str] = {}
        self._recorder = recorder
        self._listeners: list[Callable[[Incident], None]] = []

    def listen(self, listener: Callable[[Incident], None]) -> None:
        """Have somebody told of each incident that is recorded."""
        self._listeners.append(listener)

    def happened(self, kind: Kind, subject: str, sentence: str) -> None:
        """Something has happened, or still does."""
        self.counts[kind] += 1
        if self.open.get((kind, subject)) == sentence:
            return
        if len(self.open) < MAX_OPEN:
            self.open[kind, subject] = sentence
        log.error("%s", sentence)
        self._recorder.note(f"incident:{kind}", subject, sentence)
        self._tell(Incident(kind, subject, sentence))

    def ended(self, kind: Kind, subject: str) -> None:
        """It does not go on any more; nothing where it did not."""
        sentence = self.open.pop((kind, subject), None)
        if sentence is None:
            return
        log.warning("no longer: %s", sentence)
        self._recorder.note(f"incident:{kind}:over", subject, f"no longer: {sentence}")
        self._tell(Incident(kind, subject, sentence, is_over=True))

    def _tell(self, incident: Incident) -> None:
        for listener in self._listeners:
            try:
                listener(incident)
            except Exception:
                log.exception("a listener of incidents failed")
