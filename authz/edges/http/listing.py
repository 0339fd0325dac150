"""Long lists, a page at a time.

A kind has up to 50,000 entries, and to go through them all takes longer than a decision may: what
is there is copied on the event loop's thread, which alone may read the ledger, and looked through
in another one. Entries are values, so nothing changes meanwhile.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, NamedTuple, TypeVar

from fastapi import Query
from starlette.exceptions import HTTPException

from authz.core.identity import MAX_CLAIM
from authz.core.ledger import Table

#: Entries of a page; a hundred without being asked.
MAX_LISTED: Final = 1000

Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]
#: The id of the last entry of the page before.
After = Annotated[str, Query(max_length=MAX_CLAIM)]
#: What a filter is compared with; empty for any.
Filter = Annotated[str, Query(max_length=MAX_CLAIM)]

T = TypeVar("T")


class Page(NamedTuple):
    """Ids with entries, and the id to go on after; empty at the end."""

    entries: list[tuple[str, Any]]
    next: str

    def answer(self, name: str, shown: Callable[[str, Any], object]) -> dict[str, object]:
        """The body of an answer: the list under its name, and `next` where there is more."""
        body: dict[str, object] = {name: [shown(key, value) for key, value in self.entries]}
        return {**body, "next": self.next} if self.next else body


async def newest(
    table: Table[T],
    made: Callable[[T], float],
    wanted: Callable[[T], bool],
    after: str,
    limit: int,
) -> Page:
    """The newest entries that are wanted, after the one with the id `after`.

    Args:
        made: when an entry was made.

    Raises:
        HTTPException: 400, there is no entry to go on after.
    """
    before = (float("inf"), "")
    if after:
        last = table.get(after)
        if last is None:
            raise no_such_entry()
        before = (made(last), after)
    there = list(table.entries.items())

    def select() -> Page:
        ranked = ((made(value), key, value) for key, value in there if wanted(value))
        earlier = (entry for entry in ranked if entry[:2] < before)
        found = heapq.nlargest(limit + 1, earlier, key=lambda entry: entry[:2])
        entries = [(key, value) for _, key, value in found[:limit]]
        return Page(entries, entries[-1][0] if len(found) > limit else "")

    return await asyncio.to_thread(select)


def no_such_entry() -> HTTPException:
    """There is no entry to go on after, or none that whoever asks may know of."""
    return HTTPException(400, "after: there is no such entry any more; leave it out")


def one_of(name: str, value: str, words: Iterable[str]) -> None:
    """Refuse a filter's word that nothing could match.

    Raises:
        HTTPException: 400.
    """
    known = tuple(words)
    if value and value not in known:
        raise HTTPException(400, f"{name}: write one of {', '.join(known)}")
