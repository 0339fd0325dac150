"""Where `authz audit` reads a trail: what a database and a gateway answer alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

#: Filters by their names in the API.
Given = Mapping[str, str]
#: An entry as the API shows it (CONTRACT §9).
Entry = dict[str, Any]


#: Told how much is done, and of how much where that is known.
Moved = Callable[[int, int | None], None]
Layout = Literal["jsonl", "csv", "parquet"]


class Trail(Protocol):
    """A trail that can be asked. What goes wrong ends the command with a sentence."""

    #: What an export is counted in: `rows` or `bytes`.
    unit: str

    def entries(
        self, filters: Given, *, order: Literal["asc", "desc"], limit: int | None
    ) -> Iterator[Entry]:
        """The first `limit` entries that filters want, from one end on; all where it is None."""
        ...

    def follow(self, filters: Given, count: int) -> Iterable[list[Entry]]:
        """The newest `count` entries, oldest of them first, and then those that come.

        It does not end by itself; lists are never empty but the first.
        """
        ...

    def stats(self, filters: Given) -> dict[str, Any]:
        """How many decisions there are, by what was decided."""
        ...

    def export(
        self, layout: Layout, filters: Given, *, write: Callable[[bytes], object], moved: Moved
    ) -> int:
        """Write what filters want as a file, oldest first; how much of `unit` that is."""
        ...
