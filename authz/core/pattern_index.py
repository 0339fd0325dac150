"""Which of many patterns match a text, without trying each.

A pattern is filed under the literal text before its first `*`, and below that under the text after
its last one; where it starts with a star, under the latter alone; and where it also ends with one,
as `*text*`, under the text between. Looking up costs what the *lengths* of such texts cost that
begin alike, a few dictionary look-ups however many patterns there are, and for `*text*` one for
each place where it could begin; only what is found there is tried. Patterns with stars at both
ends and in the middle (`*a*b*`) are tried all.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Final, Generic, TypeVar

from authz.core.pattern import Matcher, compile_pattern, fold

#: Characters by which a text is looked for at first; more tell more texts apart, and few are
#: shorter.
GRAM: Final = 8

T = TypeVar("T")
#: Patterns by number, each with what has to be asked besides where it is filed; None: nothing.
_Filed = list[tuple[int, Matcher | None]]


class PatternIndex:
    """An immutable set of patterns, by their position in the order given."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: dict[str, list[int]] = defaultdict(list)
        self._always: list[int] = []
        self._tried: list[tuple[int, Matcher]] = []
        #: By the length of the tail and the tail.
        heads: dict[str, dict[int, dict[str, _Filed]]] = {}
        within: dict[str, list[int]] = {}
        for number, written in enumerate(patterns):
            pattern = fold(written.strip())
            head, star, _ = pattern.partition("*")
            tail = pattern.rpartition("*")[2]
            middle = pattern[len(head) : len(pattern) - len(tail)].strip("*")
            if not star:
                self._exact[pattern].append(number)
            elif not pattern.strip("*"):
                self._always.append(number)
            elif head or tail:
                matcher = compile_pattern(pattern) if middle else None
                by_tail = heads.setdefault(head, {}).setdefault(len(tail), {})
                by_tail.setdefault(tail, []).append((number, matcher))
            elif "*" in middle:
                self._tried.append((number, compile_pattern(pattern)))
            else:
                within.setdefault(middle, []).append(number)
        self._exact.default_factory = None
        self._heads = _Texts({head: sorted(tails.items()) for head, tails in heads.items()})
        self._within = _Texts(within)

    def cost(self, text: str) -> int:
        """How many patterns `matching` would find or try."""
        cost = len(self._exact.get(text, ())) + len(self._always) + len(self._tried)
        cost += sum(len(filed) for filed in self._candidates(text))
        return cost + sum(len(numbers) for numbers in self._inside(text))

    def matching(self, text: str) -> tuple[int, ...]:
        """The positions of the patterns that match a *folded* text, in no particular order."""
        found = [*self._exact.get(text, ()), *self._always]
        for filed in self._candidates(text):
            for number, matches in filed:
                if matches is None or matches(text):
                    found.append(number)
        for numbers in self._inside(text):
            found += numbers
        found += [number for number, matches in self._tried if matches(text)]
        return tuple(found)

    def _candidates(self, text: str) -> list[_Filed]:
        """What is filed under the text's beginnings and ends."""
        size = len(text)
        found: list[_Filed] = []
        for head, tails in self._heads.occurring(text, range(1)):
            room = size - len(head)
            for length, by_tail in tails:
                if length > room:
                    break
                candidates = by_tail.get(text[size - length :])
                if candidates is not None:
                    found.append(candidates)
        return found

    def _inside(self, text: str) -> list[list[int]]:
        """The numbers of each `*text*` whose text occurs."""
        return [numbers for _, numbers in self._within.occurring(text, range(len(text)))]


class _Texts(Generic[T]):
    """Texts, each with a value, that are looked for in another."""

    def __init__(self, values: dict[str, T]) -> None:
        grams: dict[int, dict[str, dict[int, dict[str, T]]]] = {}
        for text, value in values.items():
            gram = text[:GRAM]
            by_length = grams.setdefault(len(gram), {}).setdefault(gram, {})
            by_length.setdefault(len(text), {})[text] = value
        #: By the length of the gram, the gram, the length of the text, and the text.
        self._grams = [
            (size, {gram: sorted(by_length.items()) for gram, by_length in of_size.items()})
            for size, of_size in sorted(grams.items())
        ]

    def occurring(self, text: str, places: Iterable[int]) -> Collection[tuple[str, T]]:
        """Those that begin at one of the places, once at however many they do."""
        whole = len(text)
        found: dict[str, T] = {}
        for size, grams in self._grams:
            for at in places:
                for length, values in grams.get(text[at : at + size], ()):
                    if at + length > whole:
                        break
                    piece = text[at : at + length]
                    if piece in values:
                        found[piece] = values[piece]
        return found.items()
