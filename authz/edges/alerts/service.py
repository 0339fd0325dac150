"""All of alerts together: what raises them, what delivers them, and how that goes.

- One thread reads the trail, and each destination has one. They are daemons: a receiver that hangs
  does not keep the service from stopping, and what it did not get waits in the outbox.
- What cannot be done is said once, as an incident, and again when it can.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from authz.core.alert import payload, trial
from authz.core.incident import Kind
from authz.core.timestamps import rfc3339
from authz.edges.alerts.delivering import Deliverer, Tell, run
from authz.edges.alerts.destinations import Destination
from authz.edges.alerts.raising import Raiser
from authz.edges.alerts.watching import Watch
from authz.edges.incidents import Incidents
from authz.stores.alert_outbox import Listed, Outbox, Unusable, listed, outbox_of
from authz.stores.alert_trail import Trail
from authz.stores.audit_query import Unreadable

log = logging.getLogger(__name__)

#: Seconds between two looks at the trail: an alert is read by a person.
LOOK_S: Final = 0.5
#: Seconds between two looks where the last one failed.
RETRY_S: Final = 5.0
CLEAN_S: Final = 60.0
#: Seconds that threads get to end; what they do is on record already.
STOP_S: Final = 1.0
#: What is counted, since the start: alerts that went to the outbox; events that only raised a
#: count; those without a destination; those over the rate; those for which there was no place;
#: deliveries taken; attempts that failed; deliveries given up.
COUNTS: Final = (
    "raised", "grouped", "unrouted", "dropped_rate", "dropped_full", "sent", "failed", "dead",
)  # fmt: skip
#: What an incident about the outbox itself is about.
OUTBOX: Final = "outbox"


class Alerts:
    """Alerts of one service."""

    def __init__(
        self,
        database: Path,
        destinations: Sequence[Destination],
        *,
        asked: Sequence[str],
        rate: int,
        new_id: Callable[[], str],
        instance: str,
        environment: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            database: of the audit trail; the outbox is beside it.
            asked: triggers of ALERT_ON.
            rate: alerts a minute.
        """
        self.destinations = {one.name: one for one in destinations}
        self.asked = asked
        self._database = database
        self._outbox = Outbox(outbox_of(database))
        self._trail = Trail(database)
        self._instance, self._environment = instance, environment
        self._now, self._new_id = now, new_id
        self._counts: Counter[str] = Counter()
        self._raiser = Raiser(
            self._trail,
            self._outbox,
            asked=frozenset(asked),
            destinations=list(self.destinations),
            rate=rate,
            now=now,
            new_id=self._alert_id,
            counts=self._counts,
            instance=instance,
            environment=environment,
        )
        self.watch = Watch(self._raiser.unrecorded)
        self._stopping = threading.Event()
        with contextlib.suppress(Unreadable, Unusable):
            # Before the first decision: what is on record by now was told of elsewhere, or never.
            self._raiser.begin()
        # The thread that reads has a connection of its own.
        self._trail.close()

    def _alert_id(self) -> str:
        return f"alert_{self._new_id()}"

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted since the start, `COUNTS`; for any thread."""
        return {name: self._counts[name] for name in COUNTS}

    @contextlib.asynccontextmanager
    async def running(
        self, documents: Callable[[], Sequence[object]], incidents: Incidents
    ) -> AsyncIterator[None]:
        """Raise and deliver, until it is left."""
        self._raiser.documents = documents
        tell = _teller(incidents)
        wakes = [threading.Event() for _ in self.destinations]
        threads = [
            threading.Thread(
                target=run,
                args=(
                    Deliverer(one, self._outbox, counts=self._counts, tell=tell, now=self._now),
                    wake,
                    self._stopping,
                ),
                name=f"alerts-{one.name}",
                daemon=True,
            )
            for one, wake in zip(self.destinations.values(), wakes, strict=True)
        ]
        threads.append(
            threading.Thread(
                target=self._raise, args=(wakes, tell), name="alerts-raising", daemon=True
            )
        )
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for wake in wakes:
                wake.set()
            deadline = time.monotonic() + STOP_S
            while any(t.is_alive() for t in threads) and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            if not any(thread.is_alive() for thread in threads):
                self._outbox.close()

    def _raise(self, wakes: Sequence[threading.Event], tell: Tell) -> None:
        """The reading thread."""
        is_failing, cleaned = False, 0.0
        while not self._stopping.is_set():
            wait = LOOK_S
            try:
                before = self._counts["raised"]
                if self._raiser.turn():
                    wait = 0.001  # the event loop comes first
                if self._counts["raised"] != before:
                    for wake in wakes:
                        wake.set()
                if time.monotonic() - cleaned > CLEAN_S:
                    cleaned = time.monotonic()
                    self._counts["dead"] += self._outbox.clean(self._now())
                if is_failing:
                    is_failing = False
                    tell(OUTBOX, None)
            except (Unreadable, Unusable) as error:
                is_failing, wait = True, RETRY_S
                tell(OUTBOX, f"no alerts can be raised: {error}")
            except Exception:
                log.exception("raising alerts failed")
                wait = RETRY_S
            self._stopping.wait(wait)
        # A thread closes what it has opened.
        self._trail.close()

    def test(self, name: str, severity: str) -> str:
        """Send a test now, past the outbox; in the caller's thread, for ten seconds at most.

        Returns:
            What was answered.

        Raises:
            KeyError: there is no such destination.
            Refused: it was not taken.
        """
        return try_out(
            self.destinations[name],
            severity,
            alert_id=self._alert_id(),
            at=self._now(),
            instance=self._instance,
            environment=self._environment,
        )

    def status(self, limit: int) -> dict[str, Any]:
        """How it goes: counts since the start, and the newest deliveries.

        Raises:
            Unusable: the outbox cannot be read.
        """
        return {"counts": dict(self.counts), **shown(outbox_of(self._database), limit)}


def try_out(
    destination: Destination,
    severity: str,
    *,
    alert_id: str,
    at: float,
    instance: str,
    environment: str,
) -> str:
    """Send a test; as `Alerts.test`."""
    return destination.deliver(payload(trial(alert_id, at, severity, instance, environment)))


def shown(outbox: Path, limit: int) -> dict[str, Any]:
    """What an outbox holds, as the API and the command have it; as `Alerts.status`."""
    entries, counts = listed(outbox, limit)
    return {
        "waiting": counts.get("waiting", 0),
        "sent": counts.get("sent", 0),
        "failed": counts.get("failed", 0),
        "deliveries": [_entry(one) for one in entries],
    }


def _entry(one: Listed) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": one.alert,
        "destination": one.destination,
        "state": one.state,
        "severity": one.severity,
        "trigger": one.trigger,
        "title": one.title,
        "attempts": one.attempts,
        "createdAt": rfc3339(one.made),
    }
    if one.state == "waiting":
        entry["nextAttemptAt"] = rfc3339(one.due)
    if one.done is not None:
        entry["doneAt"] = rfc3339(one.done)
    if one.said:
        entry["message"] = one.said
    return entry


def _teller(incidents: Incidents) -> Tell:
    """Incidents are the event loop's."""
    loop = asyncio.get_running_loop()

    def tell(subject: str, sentence: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            if sentence is None:
                loop.call_soon_threadsafe(incidents.ended, Kind.ALERT_FAILED, subject)
            else:
                loop.call_soon_threadsafe(
                    incidents.happened, Kind.ALERT_FAILED, subject, f"{subject}: {sentence}"
                )

    return tell
