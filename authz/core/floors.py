"""Privilege floors: the least tier for an action, whatever policies allow (DESIGN §4).

- In each document the first floor that matches counts; of several documents the highest tier.
- Where no document is loaded, what begins with `admin:` needs the highest tier. Documents replace
  that.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from authz.core.chain_compiled import CompiledFloor, CompiledFloors
from authz.core.pattern import fold
from authz.core.remembered import FirstMatch, Remembered
from authz.core.tiers import TIERS

#: What the built-in floor is called where a document's name would stand.
DEFAULT: Final = "default"
#: What it is for. A pattern, and at once the narrowest action that a document's own has to cover.
ADMIN: Final = "admin:*"

_BUILT_IN: Final = CompiledFloors(
    "PrivilegeFloors", DEFAULT, "", "", "", (CompiledFloor((ADMIN,), len(TIERS) - 1, ""),)
)


class Floor(NamedTuple):
    """The floor of an action."""

    #: The least rank that may do it.
    rank: int
    #: The pattern that matches.
    pattern: str
    #: What its author says to whoever is denied; may be empty.
    reason: str
    #: The document, and the floor's 0-based place in it; the built-in one has none.
    document: str
    place: int | None


class Floors:
    """All floors that are in force."""

    def __init__(self, documents: Iterable[CompiledFloors]) -> None:
        given = sorted(documents, key=lambda document: document.name) or [_BUILT_IN]
        self._documents = [
            (document, FirstMatch(floor.patterns for floor in document.floors))
            for document in given
        ]
        self._remembered = Remembered(self._find)

    def required(self, action: str) -> Floor | None:
        """The floor of an action; None where it has none."""
        return self._remembered(action)

    def forget(self) -> None:
        """Drop what is remembered."""
        self._remembered.forget()

    def _find(self, action: str) -> Floor | None:
        folded = fold(action)
        found: Floor | None = None
        for document, first in self._documents:
            match = first.of(folded)
            if match is None:
                continue
            place, position = match
            floor = document.floors[place]
            if found is None or floor.rank > found.rank:
                found = Floor(
                    floor.rank,
                    floor.patterns[position],
                    floor.reason,
                    document.name,
                    None if document is _BUILT_IN else place,
                )
        return found
