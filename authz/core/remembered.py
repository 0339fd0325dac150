"""Looking actions up in lists of patterns: which list is the first that matches, and once only.

What is remembered is bounded in number and length: actions are the agent's own words.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from authz.core.pattern_index import PatternIndex

#: Answers that are remembered before it starts over. An agent has a few hundred actions.
MEMO_SIZE: Final = 4096
#: Longest text that is remembered, characters; longer ones are rare.
MAX_REMEMBERED: Final = 256

T = TypeVar("T")


class FirstMatch:
    """Which of several lists of patterns is the first to match an action."""

    def __init__(self, lists: Iterable[Sequence[str]]) -> None:
        self._stands: list[tuple[int, int]] = []
        patterns: list[str] = []
        for number, given in enumerate(lists):
            self._stands += [(number, position) for position in range(len(given))]
            patterns += given
        self._index = PatternIndex(patterns)

    def of(self, action: str) -> tuple[int, int] | None:
        """The list and its first pattern that match a *folded* action, both 0-based."""
        numbers = self._index.matching(action)
        return self._stands[min(numbers)] if numbers else None


class Remembered(Generic[T]):
    """A function of a text that remembers its answers."""

    def __init__(self, find: Callable[[str], T]) -> None:
        self._find = find
        self._known: dict[str, T] = {}

    def __call__(self, text: str) -> T:
        try:
            return self._known[text]
        except KeyError:
            pass
        found = self._find(text)
        if len(text) <= MAX_REMEMBERED:
            if len(self._known) >= MEMO_SIZE:
                self._known.clear()
            self._known[text] = found
        return found

    def forget(self) -> None:
        """Drop what is remembered; it is found again when it is needed."""
        self._known.clear()
