"""Which of many patterns match a text, without trying each.

A pattern is filed under the literal text before its first `*`, and below that under the text after
its last one; where it starts with a star, under the latter alone; and where it also ends with one,
as `*text*`, under how that text begins. Looking up costs a dictionary look-up for each *length* of
such texts that occurs, a few dozen however many patterns there are, and for `*text*` one for each
place in the text; only what is found there is tried. Patterns with stars at both ends and in the
middle (`*a*b*`) are tried all.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from authz.core.pattern import Matcher, compile_pattern, fold

#: Characters by which `*text*` is filed; more tell more texts apart, and few are shorter.
GRAM: Final = 8

#: Patterns by number, each with what has to be asked besides where it is filed; None: nothing.
_Filed = list[tuple[int, Matcher | None]]


class PatternIndex:
    """An immutable set of patterns, by their position in the order given."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: dict[str, list[int]] = defaultdict(list)
        self._always: list[int] = []
        self._tried: list[tuple[int, Matcher]] = []
        #: By the length of the head, the head, the length of the tail, and the tail.
        heads: dict[int, dict[str, dict[int, dict[str, _Filed]]]] = {}
        #: `*text*`: by the length of the gram and the gram.
        within: dict[int, dict[str, list[tuple[int, str]]]] = {}
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
                by_tail = heads.setdefault(len(head), {}).setdefault(head, {})
                by_tail.setdefault(len(tail), {}).setdefault(tail, []).append((number, matcher))
            elif "*" in middle:
                self._tried.append((number, compile_pattern(pattern)))
            else:
                size = min(len(middle), GRAM)
                within.setdefault(size, {}).setdefault(middle[:size], []).append((number, middle))
        self._exact.default_factory = None
        self._heads = [
            (length, {head: sorted(tails.items()) for head, tails in filed.items()})
            for length, filed in sorted(heads.items())
        ]
        self._within = sorted(within.items())

    def cost(self, text: str) -> int:
        """How many patterns `matching` would find or try."""
        cost = len(self._exact.get(text, ())) + len(self._always) + len(self._tried)
        cost += sum(len(filed) for filed in self._candidates(text))
        return cost + sum(
            len(grams.get(text[at : at + size], ()))
            for size, grams in self._within
            for at in range(len(text) - size + 1)
        )

    def matching(self, text: str) -> tuple[int, ...]:
        """The positions of the patterns that match a *folded* text, in no particular order."""
        found = [*self._exact.get(text, ()), *self._always]
        for filed in self._candidates(text):
            for number, matches in filed:
                if matches is None or matches(text):
                    found.append(number)
        for size, grams in self._within:
            hits: set[int] = set()
            for at in range(len(text) - size + 1):
                for number, piece in grams.get(text[at : at + size], ()):
                    if text.startswith(piece, at):
                        hits.add(number)
            found += sorted(hits)
        found += [number for number, matches in self._tried if matches(text)]
        return tuple(found)

    def _candidates(self, text: str) -> list[_Filed]:
        """What is filed under the text's beginnings and ends."""
        size = len(text)
        found: list[_Filed] = []
        for length, filed in self._heads:
            if length > size:
                break
            for tail_length, by_tail in filed.get(text[:length], ()):
                if length + tail_length > size:
                    break
                candidates = by_tail.get(text[size - tail_length :])
                if candidates is not None:
                    found.append(candidates)
        return found
