"""What conditions ask of a fact: operators that answer true, false, or that it cannot be told.

Values of two kinds, such as a text and a number, are not compared: that is unknown, not false, or
an agent could choose the kind that gets it out. Texts are compared as actions are, upper and lower
case alike. A pattern is `*`; there are no regular expressions.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from authz.core import tiers
from authz.core.facts import MISSING, UNCLEAR
from authz.core.pattern import Matcher, compile_pattern, fold

#: True, False, or None: cannot be told.
Truth = bool | None
Test = Callable[[object], Truth]
Scalar = bool | int | float | str

#: `**/` in one pattern: each may be empty, so each doubles the spellings.
MAX_EMPTY: Final = 4


def _kind(value: object) -> str:
    """`bool`, `number`, `text`, or `other`; values of two kinds are not compared."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    # What hides characters may look like a text and is not equal to it.
    return "text" if isinstance(value, str) and value.isprintable() else "other"


def _folded(value: Any) -> Any:
    return fold(value.strip()) if isinstance(value, str) else value


def _one_of(operands: Sequence[Scalar]) -> Test:
    kinds = {_kind(operand) for operand in operands}
    texts = {(_kind(operand), _folded(operand)) for operand in operands}

    def test(value: object) -> Truth:
        kind = _kind(value)
        return (kind, _folded(value)) in texts if kind in kinds else None

    return test


def _text_test(matchers: Sequence[Matcher]) -> Test:
    def test(value: object) -> Truth:
        if not isinstance(value, str) or not value.isprintable():
            return None
        folded = fold(value.strip())
        return any(matches(folded) for matches in matchers)

    return test


def _contains(operands: Sequence[Scalar]) -> Test:
    member = _one_of(operands)
    pieces = [fold(operand) for operand in operands if isinstance(operand, str)]

    def test(value: object) -> Truth:
        if isinstance(value, list):
            truths = [member(item) for item in value]
            return True if True in truths else (None if None in truths else False)
        if not isinstance(value, str) or not value.isprintable() or not pieces:
            return None
        folded = fold(value)
        return any(piece in folded for piece in pieces)

    return test


def _compare(holds: Callable[[float, float], bool]) -> Callable[[Any], Test]:
    def make(operand: Any) -> Test:
        def test(value: object) -> Truth:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return None
            return holds(value, operand)

        return test

    return make


def _negated(make: Callable[[Any], Test]) -> Any:
    def negative(operand: Any) -> Test:
        positive = make(operand)

        def test(value: object) -> Truth:
            truth = positive(value)
            return None if truth is None else not truth

        return test

    return negative


def listed(operand: Any) -> list[Any]:
    return operand if isinstance(operand, list) else [operand]


def _matches(operand: Any) -> Test:
    patterns = [spelling for pattern in listed(operand) for spelling in _spellings(pattern)]
    return _text_test([compile_pattern(pattern) for pattern in patterns])


def _spellings(pattern: str) -> list[str]:
    """The patterns that a `**/` which may be empty makes of one."""
    pieces = pattern.split("**/")
    if len(pieces) == 1:
        return [pattern]
    gaps = itertools.product(("**/", ""), repeat=len(pieces) - 1)
    return [
        pieces[0] + "".join(gap + piece for gap, piece in zip(chosen, pieces[1:], strict=True))
        for chosen in gaps
    ]


def _prefix(operand: Any) -> Test:
    heads = tuple(fold(head) for head in listed(operand))
    return _text_test([lambda text: text.startswith(heads)])


def _suffix(operand: Any) -> Test:
    tails = tuple(fold(tail) for tail in listed(operand))
    return _text_test([lambda text: text.endswith(tails)])


def _equals(operand: Any) -> Test:
    return _one_of([operand])


def _exists(operand: Any) -> Test:
    def test(value: object) -> Truth:
        return None if value is UNCLEAR else (value is not MISSING) is operand

    return test


class Operator(NamedTuple):
    #: What it is compared with: `scalar`, `scalars`, `texts` (one or several), `number`, `bool`.
    takes: str
    make: Callable[[Any], Test]


OPERATORS: Final[Mapping[str, Operator]] = {
    "equals": Operator("scalar", _equals),
    "notEquals": Operator("scalar", _negated(_equals)),
    "in": Operator("scalars", _one_of),
    "notIn": Operator("scalars", _negated(_one_of)),
    "matches": Operator("texts", _matches),
    "notMatches": Operator("texts", _negated(_matches)),
    "startsWith": Operator("texts", _prefix),
    "endsWith": Operator("texts", _suffix),
    "contains": Operator("scalar or scalars", lambda operand: _contains(listed(operand))),
    "lt": Operator("number", _compare(lambda value, bound: value < bound)),
    "lte": Operator("number", _compare(lambda value, bound: value <= bound)),
    "gt": Operator("number", _compare(lambda value, bound: value > bound)),
    "gte": Operator("number", _compare(lambda value, bound: value >= bound)),
    # The only one that is asked of a missing fact; `conditions` knows.
    "exists": Operator("bool", _exists),
}

#: Spellings with underscores, as published examples have them.
SNAKE: Final = {
    "not_equals": "notEquals",
    "not_in": "notIn",
    "not_matches": "notMatches",
    "starts_with": "startsWith",
    "ends_with": "endsWith",
}
TAKES: Final = {
    "scalar": "one text, number or boolean",
    "scalars": "a list of texts, numbers or booleans",
    "scalar or scalars": "a text, number or boolean, or a list of them",
    "texts": "a text or a list of texts",
    "number": "a number",
    "bool": "true or false",
    "tier": "a trust tier: " + ", ".join(tiers.TIERS),
    "tiers": "a list of trust tiers: " + ", ".join(tiers.TIERS),
}
#: For `agent.trustTier`, where the order of the ladder is meant.
TIER_OPERATORS: Final = {
    **dict.fromkeys(("equals", "notEquals", "lt", "lte", "gt", "gte"), "tier"),
    **dict.fromkeys(("in", "notIn"), "tiers"),
    "exists": "bool",
}


def _is_scalar(value: object) -> bool:
    # `.inf` and `.nan` cannot be written down again, and are never meant.
    return isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))


def takes(kind: str, operand: object) -> bool:
    items = operand if isinstance(operand, list) else [operand]
    match kind:
        case "scalar":
            return _is_scalar(operand)
        case "scalars":
            return isinstance(operand, list) and bool(items) and all(map(_is_scalar, items))
        case "scalar or scalars":
            return bool(items) and all(map(_is_scalar, items))
        case "texts":
            # `startsWith: ""` would always hold, and is never meant.
            return bool(items) and all(isinstance(item, str) and item.strip() for item in items)
        case "number":
            return _kind(operand) == "number" and _is_scalar(operand)
        case "bool":
            return isinstance(operand, bool)
        case "tier":
            return isinstance(operand, str) and tiers.rank(operand) is not None
        case _:
            return (
                isinstance(operand, list) and bool(items) and all(takes("tier", i) for i in items)
            )


def ranked(operand: Any) -> Any:
    if isinstance(operand, list):
        return [tiers.rank(tier) for tier in operand]
    return tiers.rank(operand) if isinstance(operand, str) else operand
