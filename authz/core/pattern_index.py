"""Which of many patterns match a text, without trying each.

A pattern is filed under the literal text before its first `*`, or, where it starts with a star,
under the text after its last one. Looking up costs a dictionary look-up for each *length* of such
texts that occurs, a few dozen however many patterns there are; only what is found there is tried.
Patterns that both start and end with a star (`*secret*`) have no such text, and are tried all.
"""

from collections import defaultdict
from collections.abc import Iterable

from authz.core.pattern import Matcher, compile_pattern, fold


class PatternIndex:
    """An immutable set of patterns, by their position in the order given."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: dict[str, list[int]] = defaultdict(list)
        heads: dict[int, dict[str, list[tuple[int, Matcher | None]]]] = {}
        tails: dict[int, dict[str, list[tuple[int, Matcher | None]]]] = {}
        self._always: list[int] = []
        self._tried: list[tuple[int, Matcher]] = []
        #: The text of `*text*`: asking for it costs a tenth of a call.
        self._within: list[tuple[int, str]] = []
        for number, written in enumerate(patterns):
            pattern = fold(written.strip())
            head, star, rest = pattern.partition("*")
            tail = pattern.rpartition("*")[2]
            if not star:
                self._exact[pattern].append(number)
            elif not pattern.strip("*"):
                self._always.append(number)
            elif head:
                matcher = compile_pattern(pattern) if rest.strip("*") else None
                heads.setdefault(len(head), {}).setdefault(head, []).append((number, matcher))
            elif tail:
                matcher = compile_pattern(pattern) if pattern.count("*") > 1 else None
                tails.setdefault(len(tail), {}).setdefault(tail, []).append((number, matcher))
            elif "*" in pattern.strip("*"):
                self._tried.append((number, compile_pattern(pattern)))
            else:
                self._within.append((number, pattern.strip("*")))
        self._exact.default_factory = None
        self._heads = sorted(heads.items())
        self._tails = sorted(tails.items())

    def cost(self, text: str) -> int:
        """How many patterns `matching` would find or try."""
        size = len(text)
        return (
            len(self._exact.get(text, ()))
            + len(self._always)
            + len(self._tried)
            + len(self._within)
            + sum(len(filed.get(text[:n], ())) for n, filed in self._heads if n <= size)
            + sum(len(filed.get(text[size - n :], ())) for n, filed in self._tails if n <= size)
        )

    def matching(self, text: str) -> tuple[int, ...]:
        """The positions of the patterns that match a *folded* text, in no particular order."""
        found = [*self._exact.get(text, ()), *self._always]
        size = len(text)
        for length, filed in self._heads:
            if length > size:
                break
            for number, matches in filed.get(text[:length], ()):
                if matches is None or matches(text):
                    found.append(number)
        for length, filed in self._tails:
            if length > size:
                break
            for number, matches in filed.get(text[size - length :], ()):
                if matches is None or matches(text):
                    found.append(number)
        found += [number for number, piece in self._within if piece in text]
        found += [number for number, matches in self._tried if matches(text)]
        return tuple(found)
