"""From the outbox to one destination, in a thread of its own: one that hangs holds up no other.

- An attempt is on record before it is made, and how it went afterwards. So nothing is lost, and
  what was delivered just when the process died is delivered once more, with the same id.
- Back-off doubles, with jitter, up to five minutes; a destination that is away is not asked once
  for each alert that waits.
- That alerts fail is an incident, told to the other destinations. That an alert about it fails is
  none, or two that are away would tell of each other for ever.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from authz.core.alert import read_payload
from authz.core.incident import Kind
from authz.edges.alerts.destinations import Destination
from authz.edges.alerts.outgoing import Refused
from authz.stores import alert_outbox as box
from authz.stores.alert_outbox import Delivery, Outbox, Unusable

log = logging.getLogger(__name__)

#: Seconds before the second attempt, and the longest time between two.
FIRST_S: Final = 2.0
LONGEST_S: Final = 300.0
#: Seconds that a destination may ask for (`Retry-After`) at most.
LONGEST_ASKED_S: Final = 3600.0
#: Attempts that fail in a row before it is an incident: one may be a restart over there.
TELL_AFTER: Final = 3
#: Seconds after which the outbox is looked into without being told of anything.
_LOOK_S: Final = 30.0

#: A destination's name and what is wrong with it; None: nothing any more. From any thread.
Tell = Callable[[str, str | None], None]


def back_off(failures: int, spread: float) -> float:
    """Seconds until the next attempt after so many have failed.

    Args:
        spread: from 0 to 1, by chance: whoever fails together must not come back together.
    """
    return min(FIRST_S * 2.0 ** min(max(failures, 1) - 1, 20), LONGEST_S) * (0.75 + 0.5 * spread)


class Deliverer:
    """Who sends what waits for one destination."""

    def __init__(
        self,
        destination: Destination,
        outbox: Outbox,
        *,
        counts: Counter[str],
        tell: Tell,
        now: Callable[[], float] = time.time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            counts: is counted into (`service.COUNTS`).
        """
        self.destination = destination
        self._outbox = outbox
        self._counts = counts
        self._tell = tell
        self._now = now
        self._spread = spread
        self._failures = 0
        self._is_told = False

    @property
    def is_failing(self) -> bool:
        """The last attempt failed."""
        return self._failures > 0

    def turn(self) -> float:
        """Send one, if one is due.

        Returns:
            Seconds until it is worth asking again; 0: at once.

        Raises:
            Unusable: the outbox, not now.
        """
        now, name = self._now(), self.destination.name
        delivery = self._outbox.claim(
            name, now, lambda attempts: now + back_off(attempts + 1, self._spread())
        )
        if delivery is None:
            return min(max(self._outbox.next_due(name) - now, 0.05), _LOOK_S)
        try:
            self.destination.deliver(delivery.body)
        except Refused as refused:
            return self._failed(delivery, refused)
        except Exception:
            log.exception("an alert could not be delivered to %s", name)
            return self._failed(
                delivery, Refused(f"{name}: the delivery failed inside the sidecar")
            )
        self._outbox.settle(delivery, box.SENT, now=self._now())
        self._counts["sent"] += 1
        self._failures = 0
        if self._is_told:
            self._is_told = False
            self._tell(name, None)
        return 0

    def _failed(self, delivery: Delivery, refused: Refused) -> float:
        now, attempts = self._now(), delivery.attempts + 1
        asked_s = min(refused.after_s, LONGEST_ASKED_S)
        self._counts["failed"] += 1
        is_old = now - delivery.made > box.MAX_AGE_S or attempts >= box.MAX_ATTEMPTS
        if refused.is_final or is_old:
            # Written down by its name: nobody will see this alert unless they look.
            self._outbox.settle(delivery, box.FAILED, now=now, said=str(refused))
            self._counts["dead"] += 1
            log.error("alert %s is given up after %d attempts: %s",
                      delivery.alert, attempts, refused)  # fmt: skip
        else:
            wait = max(back_off(attempts, self._spread()), asked_s)
            self._outbox.settle(delivery, box.WAITING, now=now, due=now + wait, said=str(refused))
        if not refused.is_final:
            self._failures += 1
        if self._failures >= TELL_AFTER or refused.is_final or is_old:
            self._report(delivery, refused)
        # What it asks for is for all that it would get.
        return 0 if refused.is_final else max(back_off(self._failures, self._spread()), asked_s)

    def _report(self, delivery: Delivery, refused: Refused) -> None:
        if read_payload(delivery.body).trigger != Kind.ALERT_FAILED:
            self._is_told = True
            self._tell(self.destination.name, f"alerts are not delivered: {refused}")


def run(deliverer: Deliverer, wake: threading.Event, stopping: threading.Event) -> None:
    """Deliver until told to stop; `wake` is set when there is something new."""
    failure = ""
    while not stopping.is_set():
        wake.clear()
        try:
            wait, failure = deliverer.turn(), ""
        except Unusable as error:
            if str(error) != failure:
                log.warning("%s", error)
            wait, failure = LONGEST_S / 60, str(error)
        except Exception:
            log.exception("delivering alerts failed")
            wait = LONGEST_S / 60
        if wait > 0 and not stopping.is_set():
            # Something new is no reason to ask one that is away.
            (stopping if deliverer.is_failing else wake).wait(wait)
