"""What all reports have in common: a period, and figures of it."""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final

from authz.stores.analytics.scan import Scan, Tally, no_rest

#: Seconds of each period.
PERIODS: Final[Mapping[str, int]] = {"24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
#: Seconds of each bucket, and the characters of a time that all in one bucket share.
BUCKETS: Final[Mapping[str, tuple[int, int]]] = {"hour": (3600, 13), "day": (86_400, 10)}
#: What agents can be sorted by; how many are shown at most, and without being asked.
SORTS: Final = ("requests", "denied", "latency")
MAX_AGENTS: Final = 100
AGENTS: Final = 20
#: Names that callers choose, such as actions, that are counted apart.
MOST_COUNTED: Final = 20_000


class Report:
    """A report that is to be made of the period before `now`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        period: str,
        *,
        now: float,
        within_s: float,
        breathe: Callable[[], None] = no_rest,
    ) -> None:
        """
        Args:
            connection: as `audit_query.opened` makes it.
            period: one of `PERIODS`.
            now: seconds since the epoch.
            within_s: seconds after which what was found so far has to do.
            breathe: is called often, and may wait.
        """
        self.connection = connection
        self.period = period
        self.now = now
        #: Where the period begins, and where the one before does.
        self.since = now - PERIODS[period]
        self.since_before = now - 2 * PERIODS[period]
        self._within_s = within_s
        self._breathe = breathe
        self._scans: list[Scan] = []

    def scan(self, *, since: float | None = None) -> Scan:
        """The period's rows, or more of them."""
        since = self.since if since is None else since
        scan = Scan(
            self.connection, since, self.now, within_s=self._within_s, breathe=self._breathe
        )
        self._scans.append(scan)
        return scan

    def answer(self, *tallies: Tally[Any], whole: bool = True, **fields: Any) -> dict[str, Any]:
        """The report's fields, and whether they lack something."""
        whole = whole and not any(scan.is_incomplete for scan in self._scans)
        whole = whole and not any(tally.is_incomplete for tally in tallies)
        return {"period": self.period, **fields, **({} if whole else {"incomplete": True})}


def per_cent(part: float, whole: float) -> float:
    """0 to 100, and one place; 0 of nothing."""
    return round(100 * part / whole, 1) if whole else 0.0


def ms(microseconds: float, count: float) -> float:
    """The average of so many latencies, in milliseconds; 0 of none."""
    return round(microseconds / count / 1000, 3) if count else 0.0
