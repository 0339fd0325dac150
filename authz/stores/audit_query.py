"""Questions to the audit trail, of a connection that only reads: pages, traces, counts.

- Filters are peewee expressions: every value is bound, and none becomes part of a statement.
- The table has no index but its numbers, since one more would cost each decision. So rows are
  looked through a span of numbers at a time, each in a statement, and so a read transaction, of its
  own: a long question neither keeps the WAL from beginning anew, nor runs for longer than it may.
- A question with times looks only where such rows can be. Rows stand in the order in which they
  were written, and clocks are set: rows whose time is up to `CLOCK_SLACK_S` out of order are found.
"""

import functools
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import peewee

from authz.core.pattern import compile_pattern, fold
from authz.core.sources import GOVERNED
from authz.core.tiers import rank, spellings
from authz.core.timestamps import rfc3339, seconds_of
from authz.stores.audit_table import ORIGIN, TABLE, AuditEntry, entry_of, forgiving, is_there
from authz.stores.ingest import reading as ingested

Order = Literal["asc", "desc"]

#: Entries of a page, and raw bytes of its rows: one that is longer ends early.
MAX_LIMIT: Final = 1000
MAX_PAGE_BYTES: Final = 1 << 20
#: Seconds that a page is searched for. What was found by then is answered, with where to go on.
PAGE_S: Final = 2.0
#: Seconds that a row's time may lie before that of an earlier row.
CLOCK_SLACK_S: Final = 86_400.0
#: Characters of a filter.
MAX_FILTER: Final = 2048
#: Rows that are read in one piece.
AT_ONCE: Final = 500
#: Numbers in the first span that is looked through, and in the longest; seconds that one should
#: take at least and at most.
SPAN, MAX_SPAN = 1000, 1_000_000
QUICK_S, SLOW_S = 0.03, 0.12

#: The highest number that there can be a next one after.
LAST_SEQ: Final = (1 << 63) - 2


_DECISIONS: Final = ("allow", "deny", "error", "reported")
_MODES: Final = ("enforce", "audit", "bypass")

#: Columns that have to be the same, by the filter's name.
_EQUAL: Final[Mapping[str, Any]] = {
    "agentId": AuditEntry.agent_id,
    "source": AuditEntry.source,
    "policy": AuditEntry.policy,
    "rule": AuditEntry.rule,
    "code": AuditEntry.code,
    "stage": AuditEntry.stage,
    "orgId": AuditEntry.org_id,
    "traceId": AuditEntry.trace_id,
    "decisionId": AuditEntry.id,
    "policyVersion": AuditEntry.policy_version,
    "delegationId": AuditEntry.delegation_id,
}
#: Columns that one of a few words stands in.
_WORDS: Final[Mapping[str, tuple[Any, tuple[str, ...]]]] = {
    "decision": (AuditEntry.decision, _DECISIONS),
    "enforced": (AuditEntry.enforced, _DECISIONS),
    "mode": (AuditEntry.mode, _MODES),
}
#: Columns that are compared with a pattern (`core/pattern.py`).
_PATTERNS: Final[Mapping[str, Any]] = {
    "action": AuditEntry.action,
    "resource": AuditEntry.resource,
    "path": AuditEntry.path,
}
#: Every filter there is.
FILTERS: Final = (
    *_EQUAL, *_WORDS, *_PATTERNS, "trustTier", "method", "reason", "from", "to",
)  # fmt: skip


class BadFilter(ValueError):
    """A filter that nothing could mean; one sentence, with its name."""


class Unreadable(Exception):
    """The file is not there, or is not an audit database; one sentence, without its path."""


class NothingFound(Exception):
    """There is no such thing; one sentence."""


class TooMuch(Exception):
    """It cannot be answered in the time that there is; one sentence."""


class Filters(NamedTuple):
    """What a row has to be like."""

    terms: tuple[Any, ...] = ()
    #: RFC 3339, as in the rows; the first is inside and the second is not. Empty: any time.
    since: str = ""
    until: str = ""


ANY: Final = Filters()


class Page(NamedTuple):
    """Entries, and where to go on; `next` is empty at the end of the trail."""

    entries: list[dict[str, Any]]
    next: str
    #: The time was over before there were as many as asked for.
    incomplete: bool

    def answer(self) -> dict[str, object]:
        """As the API has it."""
        body: dict[str, object] = {"entries": self.entries}
        if self.next:
            body["next"] = self.next
        return {**body, "incomplete": True} if self.incomplete else body


def filters_of(given: Mapping[str, str]) -> Filters:
    """Filters by their names in the API; empty ones are none.

    Raises:
        BadFilter: there is no such filter, or it cannot be what it says.
    """
    terms: list[Any] = []
    times = {"from": "", "to": ""}
    for name, value in given.items():
        if name not in FILTERS:
            raise BadFilter(f"{name}: there is no such filter")
        if len(value) > MAX_FILTER:
            raise BadFilter(f"{name}: is longer than {MAX_FILTER} characters")
        if value and name in times:
            times[name] = _time(name, value)
        elif value:
            terms.append(_term(name, value))
    since, until = times["from"], times["to"]
    if since and until and since >= until:
        raise BadFilter("from: is not before to")
    terms += [AuditEntry.timestamp >= since] if since else []
    terms += [AuditEntry.timestamp < until] if until else []
    return Filters(tuple(terms), since, until)


def _term(name: str, value: str) -> Any:
    if name in _EQUAL:
        return _EQUAL[name] == value
    if name in _PATTERNS:
        return peewee.fn.fits(value, _PATTERNS[name].cast("BLOB"))
    if name == "trustTier":
        return peewee.fn.lower(AuditEntry.trust_tier).in_(_tier(value))
    if name == "method":
        return AuditEntry.method == value.upper()
    if name == "reason":
        return peewee.fn.mentions(value, AuditEntry.reason.cast("BLOB"))
    column, words = _WORDS[name]
    if value not in words:
        raise BadFilter(f"{name}: write one of {', '.join(words)}")
    return column == value


def cursor_of(name: str, text: str) -> int:
    """The number of the row to go on after.

    Raises:
        BadFilter: no page said so.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise BadFilter(f"{name}: send what the page before has as next, or nothing")
    return min(int(text), LAST_SEQ)


def _time(name: str, text: str) -> str:
    try:
        return rfc3339(seconds_of(text))
    except (ValueError, OverflowError, OSError):
        raise BadFilter(f"{name}: not a time; write 2026-01-31T12:00:00Z") from None


def _tier(text: str) -> tuple[str, ...]:
    place = rank(text)
    if place is None:
        raise BadFilter("trustTier: there is no such tier")
    return spellings(place)


def opened(path: Path, breathe: Callable[[], None] | None = None) -> sqlite3.Connection:
    """A connection that reads, for the functions below; also while a sidecar writes.

    Args:
        breathe: is called now and then while SQLite works, and may wait.

    Raises:
        Unreadable: there is no such file, or it is not an audit database.
    """
    try:
        if not is_there(path):
            raise Unreadable("there is no audit database yet")
    except peewee.OperationalError as error:
        raise Unreadable(f"the audit database cannot be read: {error}") from None
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None
    )
    try:
        connection.text_factory = forgiving
        connection.execute("PRAGMA query_only = 1")
        connection.create_function("fits", 2, _fits, deterministic=True)
        connection.create_function("mentions", 2, _mentions, deterministic=True)
        if breathe is not None:
            connection.set_progress_handler(breathe, _STEPS)
        if not connection.execute(_IS_OURS, (TABLE,)).fetchone():
            raise Unreadable("it is not an audit database")
    except sqlite3.Error as error:
        connection.close()
        raise Unreadable(f"the audit database cannot be read: {error}") from None
    except BaseException:
        connection.close()
        raise
    return connection


#: Steps of SQLite's machine between two breaths, a fraction of a millisecond.
_STEPS: Final = 2000
_IS_OURS: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"

_matcher: Final = functools.lru_cache(maxsize=16)(compile_pattern)
_folded: Final = functools.lru_cache(maxsize=16)(fold)


# Texts come as their bytes: one that is none would be an error, and no row would be found.


def _fits(pattern: str, text: bytes | None) -> bool:
    return text is not None and _matcher(pattern)(fold(forgiving(text)))


def _mentions(part: str, text: bytes | None) -> bool:
    return text is not None and _folded(part) in fold(forgiving(text))


class Rows:
    """The rows that filters want, from one end of a trail to the other."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        filters: Filters,
        *,
        order: Order,
        after: int | None = None,
        upto: int | None = None,
        breathe: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            after: the number of the last row that is not wanted any more, in that order.
            upto: the highest number that is wanted.
            breathe: is called for each row, and may wait.

        Raises:
            Unreadable: the file cannot be read.
        """
        self._connection = connection
        self._filters = filters
        self._descending = order == "desc"
        self._breathe = breathe
        there = {column for _, column, *_ in connection.execute(f"PRAGMA table_info({TABLE})")}
        #: What an older version wrote has fewer columns.
        self.columns = tuple(name for name in AuditEntry._meta.columns if name in there)  # noqa: SLF001
        self._fields = [getattr(AuditEntry, name) for name in self.columns]
        if ingested.is_ingested(connection):
            self.columns = (*self.columns, ORIGIN)
            self._fields.append(ingested.origin())
        first, last = limits(connection, filters)
        if upto is not None:
            last = min(last, upto)
        if after is not None and self._descending:
            last = min(last, after - 1)
        elif after is not None:
            first = max(first, after + 1)
        #: The numbers that are looked through; the second is lower where there are none.
        self.first, self.last = first, last
        #: The number of the last row that was looked at.
        self.reached = last + 1 if self._descending else first - 1

    @property
    def ended(self) -> bool:
        """Everything was looked at."""
        return self.reached <= self.first if self._descending else self.reached >= self.last

    def parts(self) -> Iterator[list[tuple[Any, ...]]]:
        """The rows, as the values of `columns`, up to `AT_ONCE` together; lists may be empty.

        When a part comes, everything up to `reached` is in it or in those before.
        """
        span = spans(self._connection, self.first, self.last, self._descending)
        for low, high in span:
            rows = self._read(low, high)
            while len(rows) == AT_ONCE:
                self.reached = rows[-1][0]
                yield rows
                if self._descending:
                    rows = self._read(low, self.reached - 1)
                else:
                    rows = self._read(self.reached + 1, high)
            self.reached = low if self._descending else high
            yield rows

    def _read(self, low: int, high: int) -> list[tuple[Any, ...]]:
        by = AuditEntry.seq.desc() if self._descending else AuditEntry.seq
        query = (
            AuditEntry.select(*self._fields)
            .where(AuditEntry.seq >= low, AuditEntry.seq <= high, *self._filters.terms)
            .order_by(by)
            .limit(AT_ONCE)
        )
        cursor = self._connection.execute(*query.sql())
        found = []
        for row in cursor:
            found.append(row)
            self._breathe()
        return found


def spans(
    connection: sqlite3.Connection, first: int, last: int, descending: bool = False
) -> Iterator[tuple[int, int]]:
    """The numbers of a trail's rows from `first` to `last`, in spans that take a moment each.

    How long one takes is how long it is until the next is asked for.
    """
    size = SPAN
    statement = _BEFORE if descending else _BEHIND
    place = last if descending else first
    while True:
        # Over what is not there: an endless gap takes no longer than a short one.
        [there] = connection.execute(statement, (place,)).fetchone()
        if there is None or not first <= there <= last:
            return
        began = time.monotonic()
        if descending:
            low = max(there - size + 1, first)
            yield low, there
            place = low - 1
        else:
            high = min(there + size - 1, last)
            yield there, high
            place = high + 1
        took = time.monotonic() - began
        if took < QUICK_S:
            size = min(size * 2, MAX_SPAN)
        elif took > SLOW_S:
            size = max(size // 2, 1)


_BEFORE: Final = "SELECT max(seq) FROM audit WHERE seq <= ?"
_BEHIND: Final = "SELECT min(seq) FROM audit WHERE seq >= ?"
_NEXT: Final = "SELECT seq, timestamp FROM audit WHERE seq >= ? ORDER BY seq LIMIT 1"


def limits(connection: sqlite3.Connection, filters: Filters = ANY) -> tuple[int, int]:
    """The numbers between which the rows are that have such times; the second is lower if none."""
    if ingested.is_ingested(connection):
        return ingested.limits(connection, filters.since, filters.until)
    [first] = connection.execute("SELECT min(seq) FROM audit").fetchone()
    [last] = connection.execute("SELECT max(seq) FROM audit").fetchone()
    if first is None:
        return 1, 0
    if filters.since:
        first = _first_at(connection, _moved(filters.since, -CLOCK_SLACK_S), first, last)
    if filters.until:
        last = _first_at(connection, _moved(filters.until, CLOCK_SLACK_S), first, last) - 1
    return first, last


def _first_at(connection: sqlite3.Connection, moment: str, first: int, last: int) -> int:
    """The number of the first row that is not before a moment, by halves; else `last + 1`."""
    low, high = first, last + 1
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(_NEXT, (middle,)).fetchone()
        if found is None or str(found[1]) >= moment:
            high = middle
        else:
            low = found[0] + 1
    return low


def _moved(moment: str, by_s: float) -> str:
    try:
        return rfc3339(seconds_of(moment) + by_s)
    except (ValueError, OverflowError, OSError):
        return moment


def page(
    connection: sqlite3.Connection,
    filters: Filters,
    *,
    limit: int,
    order: Order = "desc",
    after: int | None = None,
    upto: int | None = None,
    within_s: float = PAGE_S,
    breathe: Callable[[], None] = lambda: None,
) -> Page:
    """Up to `limit` entries, after the one with the number `after`.

    It ends early after `within_s` seconds, or where the rows have `MAX_PAGE_BYTES`.
    """
    until = time.monotonic() + within_s
    rows = Rows(
        connection, filters, order=order, after=after, upto=upto, breathe=breathe
    )  # fmt: skip
    entries: list[dict[str, Any]] = []
    size = 0
    for part in rows.parts():
        for row in part:
            entries.append(entry_of(dict(zip(rows.columns, row, strict=True))))
            size += sum(len(value) for value in row if isinstance(value, str))
            breathe()
            if len(entries) == limit or size > MAX_PAGE_BYTES:
                at_end = rows.ended and row is part[-1]
                return Page(entries, "" if at_end else str(row[0]), False)
        if time.monotonic() >= until and not rows.ended:
            return Page(entries, str(rows.reached), True)
    return Page(entries, "", False)


def one(
    connection: sqlite3.Connection, row_id: str, within_s: float = 5 * PAGE_S
) -> dict[str, Any]:
    """The entry with an id.

    Raises:
        NothingFound: there is none.
        TooMuch: the trail is too long to find it.
    """
    found = page(connection, filters_of({"decisionId": row_id}), limit=1, within_s=within_s)
    if found.entries:
        return found.entries[0]
    if found.incomplete:
        raise TooMuch(
            "the trail is too long; ask /admin/audit for this decisionId, with from and to"
        )
    raise NothingFound("there is no such entry")


def entries(
    connection: sqlite3.Connection,
    filters: Filters,
    *,
    order: Order = "desc",
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """All entries, or the first `limit`, however long it takes."""
    rows = Rows(connection, filters, order=order)
    found = itertools.chain.from_iterable(rows.parts())
    for row in itertools.islice(found, limit):
        yield entry_of(dict(zip(rows.columns, row, strict=True)))


#: Decided, done, and how often.
Counted = tuple[str, str, int]


def stats(
    connection: sqlite3.Connection, filters: Filters, *, within_s: float | None = None
) -> dict[str, int]:
    """How many decisions there are, by what was decided.

    Raises:
        TooMuch: they are not counted in `within_s` seconds.
    """
    until = float("inf") if within_s is None else time.monotonic() + within_s
    found = {"total": 0, "allowed": 0, "denied": 0, "errors": 0, "wouldDeny": 0}
    for decision, enforced, count in _counted(connection, filters, until):
        found["total"] += count
        name = {"allow": "allowed", "deny": "denied"}.get(decision, "errors")
        found[name] += count
        if (decision, enforced) == ("deny", "allow"):
            found["wouldDeny"] += count
    return found


def _counted(connection: sqlite3.Connection, filters: Filters, until: float) -> Iterable[Counted]:
    columns = (AuditEntry.decision, AuditEntry.enforced)
    for low, high in spans(connection, *limits(connection, filters)):
        query = (
            AuditEntry.select(*columns, peewee.fn.count(AuditEntry.seq))
            .where(
                AuditEntry.seq >= low,
                AuditEntry.seq <= high,
                AuditEntry.source.in_(GOVERNED),
                *filters.terms,
            )
            .group_by(*columns)
        )
        yield from connection.execute(*query.sql()).fetchall()
        if time.monotonic() >= until:
            raise TooMuch("there are too many to count; ask for a shorter time")
