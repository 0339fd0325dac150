"""The governed rows of a period, summed up by SQL a slice of the table at a time, newest first.

- GROUP BY sorts where no index helps, and the table has none: a decision would pay for it. A slice
  is sorted in memory, a whole table in files that a container may not have room for. And each slice
  is a read of its own, so that however long all take, the WAL can begin anew meanwhile.
- Names come from callers, and there may be as many as rows: `Tally` keeps those that come often.
- Whatever a row holds, nothing fails because of it: what is no text is read as one, and a latency
  that is none counts as 0.
"""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from authz.core.sources import GOVERNED
from authz.core.timestamps import rfc3339
from authz.stores.audit_query import Filters, limits, spans

#: Numbers of a slice: some milliseconds of work, and about as much to sort as SQLite has memory
#: for (its cache, 2 MiB).
SLICE: Final = 20_000

#: Requests, allowed ones, denied ones, and all their latencies in microseconds. `total` is never
#: too large for its type, as `sum` may be; 10^12 is eleven days, and no latency.
SUMS: Final = (
    "count(*), sum(decision IS 'allow'), sum(decision IS 'deny'),"
    " total(CASE WHEN latency_us BETWEEN 0 AND 1e12 THEN latency_us END)"
)
AGENT: Final = "CAST(agent_id AS TEXT)"
#: What the agent was called last: SQLite takes columns that stand beside the one `max` of a query
#: from the row that has it.
NEWEST: Final = "max(timestamp), CAST(agent_name AS TEXT), CAST(trust_tier AS TEXT)"

_TIMES: Final = "timestamp > ? AND timestamp <= ?"
_DECIDED: Final = f"source IN ({', '.join('?' * len(GOVERNED))})"

K = TypeVar("K", str, tuple[str, str], tuple[str, str, str])


def no_rest() -> None:
    """Nobody waits for the processor."""


class Scan:
    """The governed rows after `since` and up to `until`, seconds since the epoch."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        since: float,
        until: float,
        *,
        within_s: float,
        breathe: Callable[[], None] = no_rest,
    ) -> None:
        """
        Args:
            connection: as `audit_query.opened` makes it.
            within_s: seconds after which what was found so far has to do.
            breathe: is called for each group of rows, and may wait.
        """
        self._connection = connection
        self._since, self._until = rfc3339(since), rfc3339(until)
        self._give_up_at = time.monotonic() + within_s
        self._breathe = breathe
        #: Not every row was looked at: the oldest ones were not.
        self.is_incomplete = False

    def sums(
        self, columns: str, by: str, *values: object, where: str = ""
    ) -> Iterator[tuple[Any, ...]]:
        """What the columns say of each group of each slice; whoever asks adds slices up.

        Args:
            columns: SQL, as are the others: our own words, and never what somebody has sent.
            by: the columns to group by, as their numbers.
            values: for the parameters in `columns`.
            where: a further condition.

        Raises:
            sqlite3.Error: the table cannot be read.
        """
        wanted = f"seq BETWEEN ? AND ? AND {_TIMES} AND {_DECIDED} AND ({where or 'TRUE'})"
        statement = f"SELECT {columns} FROM audit WHERE {wanted} GROUP BY {by}"  # noqa: S608
        for low, high in self._slices():
            bound = (*values, low, high, self._since, self._until, *GOVERNED)
            # All at once, so that no read stays open.
            for row in self._connection.execute(statement, bound).fetchall():
                self._breathe()
                yield row

    def _slices(self) -> Iterator[tuple[int, int]]:
        """The lowest and the highest number of each slice."""
        first, last = limits(self._connection, Filters(since=self._since, until=self._until))
        for low, high in spans(self._connection, first, last, descending=True):
            for top in range(high, low - 1, -SLICE):
                if top != last and time.monotonic() >= self._give_up_at:
                    self.is_incomplete = True
                    return
                yield max(top - SLICE + 1, low), top


class Tally(Generic[K]):
    """Sums by key, of at most twice so many keys; those that come most often stay."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: The first sum is how often the key came.
        self.of: dict[K, list[float]] = {}
        #: What goes with a key, and before it when that was so, as `NEWEST` has them.
        self.newest: dict[K, tuple[Any, ...]] = {}
        #: Some keys were let go, and with them what was counted of them.
        self.is_incomplete = False

    def add(self, key: K, *numbers: float) -> None:
        """Add to a key's sums."""
        sums = self.of.get(key)
        if sums is None:
            if len(self.of) >= 2 * self._most:
                self._let_go()
            self.of[key] = [*numbers]
            return
        for place, number in enumerate(numbers):
            sums[place] += number

    def meet(self, key: K, newest: tuple[Any, ...]) -> None:
        """Note what goes with a key that was added, if nothing newer does."""
        known = self.newest.get(key)
        if known is None or newest[0] > known[0]:
            self.newest[key] = newest

    def ranked(self) -> list[tuple[K, list[float]]]:
        """Keys and their sums, those that came most often first; by key where two are alike."""
        return sorted(self.of.items(), key=lambda one: (-one[1][0], one[0]))

    def _let_go(self) -> None:
        # All that come more often than the last one that stays, and as many alike as have room.
        least = sorted((sums[0] for sums in self.of.values()), reverse=True)[self._most]
        kept = {key: sums for key, sums in self.of.items() if sums[0] > least}
        alike = ((key, sums) for key, sums in self.of.items() if sums[0] == least)
        kept.update(itertools.islice(alike, self._most - len(kept)))
        self.of = kept
        self.newest = {key: newest for key, newest in self.newest.items() if key in kept}
        self.is_incomplete = True
