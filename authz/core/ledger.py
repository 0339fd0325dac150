"""What outlives a call besides its row: agents, relationships, pending actions, balances, fuses,
counts and tokens that were used (DESIGN §6).

- Entries are values under a kind and a key, and never change: a decision replaces some.
- A change is made here as soon as it is decided, so that the next call of the same batch sees it,
  and becomes durable in the transaction of the row that caused it. Where that fails, `undo` puts
  back what was there; where the call passed all the same, it stays and is written with the next.
- Everything is in memory, and so bounded: `MAX_ENTRIES` of a kind. What has expired is removed.
- `now` here is a clock that does not step back (`steady`), or an agent that waits for one to be
  corrected would have its points again.
"""

import heapq
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

#: Entries of one kind. A sidecar has one agent and some hundred; a shared gateway thousands. One
#: entry is a few hundred bytes.
MAX_ENTRIES: Final = 50_000
#: Expired entries that are removed with one batch, so that no decision waits for many.
PURGED_AT_ONCE: Final = 16


class LedgerFull(Exception):
    """A kind has as many entries as it may, so that a new one cannot be kept."""


class Table(Generic[T]):
    """The entries of one kind."""

    def __init__(
        self,
        kind: str,
        dumps: Callable[[T], str],
        loads: Callable[[str, str], T],
        expires: Callable[[T], float] | None = None,
        group: Callable[[T], str] | None = None,
        is_final: Callable[[T], bool] = lambda _: False,
        is_outdated: Callable[[T, T], bool] = lambda _, __: False,
    ) -> None:
        """
        Args:
            dumps: an entry as text.
            loads: an entry of its key and text; raises ValueError for what is none.
            expires: when an entry may be removed, in seconds of the steady clock; never by default.
            group: what entries are found by besides their keys.
            is_final: an entry that nobody can take back, whatever a file says: a revocation.
            is_outdated: whether the second entry, a file's, is what the first one was before: that
                of an older copy of the file.
        """
        self.kind: Final = kind
        self.dumps: Final = dumps
        self.loads: Final = loads
        self.expires: Final = expires
        self.group: Final = group
        self.is_final: Final = is_final
        self.is_outdated: Final = is_outdated
        self.entries: Final[dict[str, T]] = {}
        #: Keys by group.
        self.groups: Final[dict[str, set[str]]] = {}
        #: Grows with every change.
        self.version = 0

    def get(self, key: str) -> T | None:
        """The entry, or None."""
        return self.entries.get(key)

    def values(self) -> Iterator[T]:
        """Every entry, in the order in which they came."""
        return iter(self.entries.values())

    def keys_of(self, group: str) -> Collection[str]:
        """The keys of a group's entries."""
        return self.groups.get(group, ())


class Put(NamedTuple):
    """A change that a decision makes: an entry replaced, or removed (None)."""

    table: Table[Any]
    key: str
    value: object | None


#: A change as it is written: kind, key, and the entry's text or None.
Change = tuple[str, str, str | None]


class Ledger:
    """All tables, and which of their changes are not durable yet."""

    def __init__(self, *tables: Table[Any]) -> None:
        self._tables: Final = {table.kind: table for table in tables}
        #: What was there before each change since the last `keep`, in the order of the changes.
        self._journal: list[tuple[Table[Any], str, object | None]] = []
        #: Changes that were kept without being durable.
        self._unsaved: dict[tuple[str, str], None] = {}
        #: When an entry may be removed: time, kind and key. One of each key, and none of what was
        #: taken back: an agent that is refused while nothing can be written leaves no trace.
        self._due: list[tuple[float, str, str]] = []
        self._awaited: set[tuple[str, str]] = set()

    @property
    def mark(self) -> int:
        """Where the changes of the next decision begin, for `undo`."""
        return len(self._journal)

    def put(self, change: Put) -> None:
        """Make a change.

        Raises:
            LedgerFull: it would be one entry too many.
        """
        table, key, value = change
        before = table.entries.get(key)
        if before is None and value is not None and len(table.entries) >= MAX_ENTRIES:
            raise LedgerFull(f"there are {MAX_ENTRIES} entries of kind {table.kind} already")
        self._journal.append((table, key, before))
        self._set(table, key, value)

    def undo(self, mark: int = 0) -> None:
        """Take back every change since the mark."""
        while len(self._journal) > mark:
            table, key, before = self._journal.pop()
            self._set(table, key, before)
            self._await(table, key)

    def changes(self) -> list[Change]:
        """Everything that is not durable yet."""
        if not self._journal and not self._unsaved:
            return []
        keys = {**self._unsaved, **{(table.kind, key): None for table, key, _ in self._journal}}
        found: list[Change] = []
        for kind, key in keys:
            table = self._tables[kind]
            value = table.entries.get(key)
            found.append((kind, key, None if value is None else table.dumps(value)))
        return found

    def keep(self, *, durable: bool) -> None:
        """The changes so far stay; if they are not durable they are written with the next ones."""
        if durable:
            self._unsaved.clear()
        else:
            self._unsaved.update({(table.kind, key): None for table, key, _ in self._journal})
        for table, key, before in self._journal:
            if before is None:
                self._await(table, key)
        self._journal.clear()

    def load(self, kind: str, key: str, text: str | None) -> None:
        """Take over what somebody else has written.

        Raises:
            ValueError: it is no entry; the one that is here stays.
        """
        table = self._tables.get(kind)
        if table is None:
            return  # of a newer version, which will want to have it back
        theirs = None if text is None else table.loads(key, text)
        mine = table.entries.get(key)
        if mine is not None and table.is_final(mine):
            if theirs is None or not table.is_final(theirs):
                self._unsaved[kind, key] = None
            return
        if mine is not None and theirs is not None and table.is_outdated(mine, theirs):
            self._unsaved[kind, key] = None
            return
        self._set(table, key, theirs)
        self._await(table, key)
        self._unsaved.pop((kind, key), None)

    def everything_unsaved(self) -> None:
        """All of it is to be written, since it goes to a file that may know none of it."""
        for table in self._tables.values():
            self._unsaved.update({(table.kind, key): None for key in table.entries})

    def purge(self, now: float) -> None:
        """Remove some of what has expired."""
        for _ in range(PURGED_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                return
            _, kind, key = heapq.heappop(self._due)
            self._awaited.discard((kind, key))
            table = self._tables[kind]
            value = table.entries.get(key)
            if value is None or table.expires is None:
                continue
            if table.expires(value) > now:
                self._await(table, key)
            else:
                self.put(Put(table, key, None))

    def _await(self, table: Table[Any], key: str) -> None:
        """See to it that an entry is removed when it has expired, if there is one."""
        if table.expires is None or (table.kind, key) in self._awaited:
            return
        value = table.entries.get(key)
        if value is not None:
            self._awaited.add((table.kind, key))
            heapq.heappush(self._due, (table.expires(value), table.kind, key))

    def _set(self, table: Table[Any], key: str, value: object | None) -> None:
        table.version += 1
        before = table.entries.get(key)
        if table.group is not None and before is not None:
            keys = table.groups[table.group(before)]
            keys.discard(key)
            if not keys:
                del table.groups[table.group(before)]
        if value is None:
            table.entries.pop(key, None)
            return
        if table.group is not None:
            table.groups.setdefault(table.group(value), set()).add(key)
        table.entries[key] = value


def parsed(text: str) -> Any:
    """An entry's JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
