"""Provenance gates: what an action asks of everything that influenced it (CONTRACT §15).

In each document the first requirement that matches counts, and every document has to be satisfied.
"""

from collections.abc import Iterable
from typing import NamedTuple

from authz.core.chain_compiled import CompiledGate
from authz.core.pattern import fold
from authz.core.remembered import FirstMatch, Remembered


class Requirement(NamedTuple):
    """What one document asks of an action."""

    #: The document, and the requirement's 0-based place in it.
    document: str
    place: int
    #: The pattern that matches.
    pattern: str
    #: The least lane that may have had an influence, 0 to 3; None where labels alone are asked for.
    min_lane: int | None
    #: Labels that must all be there, and labels none of which may be.
    require_labels: tuple[str, ...]
    forbid_labels: tuple[str, ...]
    #: What its author says to whoever is denied; may be empty.
    reason: str


class Gates:
    """All requirements that are in force."""

    def __init__(self, documents: Iterable[CompiledGate]) -> None:
        self._documents = [
            (document, FirstMatch(r.patterns for r in document.requirements))
            for document in sorted(documents, key=lambda document: document.name)
        ]
        self._remembered = Remembered(self._find)

    def __bool__(self) -> bool:
        """Whether there are any documents."""
        return bool(self._documents)

    def requirements(self, action: str) -> tuple[Requirement, ...]:
        """What an action asks for, by the documents' names; nothing where none matches."""
        return self._remembered(action) if self._documents else ()

    def forget(self) -> None:
        """Drop what is remembered."""
        self._remembered.forget()

    def _find(self, action: str) -> tuple[Requirement, ...]:
        folded = fold(action)
        found: list[Requirement] = []
        for document, first in self._documents:
            match = first.of(folded)
            if match is not None:
                place, position = match
                asked = document.requirements[place]
                found.append(
                    Requirement(
                        document.name,
                        place,
                        asked.patterns[position],
                        asked.min_lane,
                        asked.require_labels,
                        asked.forbid_labels,
                        asked.reason,
                    )
                )
        return tuple(found)
