"""When the next turn is: pure figures, the dice are an argument.

- A turn comes an interval after the last one, or a little earlier, never later: what was published
  is in force within the interval.
- After a failure it comes later each time, up to a cap that is still short: a site that was off the
  network for a month is back in step minutes after its network is.
- What the other side wants is heeded, within bounds: it may not switch us off.
"""

from collections.abc import Callable
from typing import Final

#: The share of an interval by which a turn may come early, so that a thousand sidecars that were
#: started together do not go on asking together.
JITTER: Final = 0.2
#: The share of an interval within which the first turn comes.
FIRST: Final = 0.05
#: Seconds that a failing turn waits at most, unless the interval is longer.
MAX_BACKOFF_S: Final = 300.0
#: Seconds of a Retry-After that are heeded.
MAX_RETRY_AFTER_S: Final = 3600.0
#: Doublings after which the cap is reached for every interval of a second or more.
_DOUBLINGS: Final = 10


class Schedule:
    """The turns of one direction."""

    def __init__(self, interval_s: float, dice: Callable[[], float]) -> None:
        """
        Args:
            dice: a number from 0 to 1, a new one each time.
        """
        self._interval_s = interval_s
        self._dice = dice
        #: Failures since the last success.
        self.failures = 0

    def first(self) -> float:
        """Seconds until the first turn."""
        return self._interval_s * FIRST * self._dice()

    def succeeded(self) -> float:
        """Seconds until the next turn."""
        self.failures = 0
        return self._early(self._interval_s)

    def failed(self, retry_after_s: float = 0.0) -> float:
        """Seconds until the next turn.

        Args:
            retry_after_s: what the other side has asked for; 0 for nothing.
        """
        doubled = self._interval_s * 2 ** min(self.failures, _DOUBLINGS)
        self.failures += 1
        backoff_s = self._early(min(doubled, max(MAX_BACKOFF_S, self._interval_s)))
        return max(backoff_s, min(retry_after_s, MAX_RETRY_AFTER_S))

    def _early(self, seconds: float) -> float:
        return seconds * (1 - JITTER * self._dice())
