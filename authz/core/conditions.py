"""Conditions: what must hold, besides the action, for a rule to match (CONTRACT §5, DESIGN §4).

    conditions:
      resource: {startsWith: docs/}        # several facts: all of them
      context.amount: {gt: 0, lte: 100}    # several operators: all of them
      any: [{method: GET}, {agent.tags: {contains: writer}}]

- Three values. A fact that is not given, or of another kind than it is compared with, makes the
  test unknown (`None`), and unknown stays unknown under `not`. Only `exists` always knows.
  What unknown means for a rule is the evaluator's: an allow does not match, a deny does.
- The agent chooses its `context` and its resource. Texts are therefore compared as actions are,
  upper and lower case alike, and paths after their dot segments are resolved; a context that is
  not one JSON object with distinct keys tells nothing.
- Nothing here evaluates text as code, and there are no regular expressions: a pattern is `*`.
"""

import difflib
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from authz.core import tiers
from authz.core.call import MAX_META, Call
from authz.core.identity import Identity
from authz.core.pattern import Matcher, compile_pattern, fold
from authz.core.text import word

#: True, False, or None: cannot be told.
Truth = bool | None
Path = tuple[int | str, ...]
Scalar = bool | int | float | str

#: Levels of `all`, `any` and `not`.
MAX_LEVELS: Final = 8
#: Tests in the conditions of one rule.
MAX_TESTS: Final = 200
#: Lists and objects in a context, which also bounds how deep they nest: whoever reads the record
#: again should not run out of stack.
MAX_PARTS: Final = 256
#: `**/` in one pattern: each may be empty, so each doubles the spellings.
MAX_EMPTY: Final = 4


class Facts(NamedTuple):
    """What conditions look at."""

    call: Call
    identity: Identity


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


#: The fact is not given. Not None: that is a truth value here.
MISSING: Final = _Missing()


class Condition(NamedTuple):
    """A condition ready to be evaluated."""

    holds: Callable[[Facts], Truth]
    #: The facts it looks at, in the order they are written, each with what is asked of it.
    tests: "tuple[Test, ...]"

    def unknown(self, facts: Facts) -> list[str]:
        """The facts for which it could not be told whether their test holds."""
        return list(dict.fromkeys(t.fact for t in self.tests if t.holds(facts) is None))


class Test(NamedTuple):
    """One fact and one operator."""

    fact: str
    operator: str
    operand: Any
    holds: Callable[[Facts], Truth]

    def __str__(self) -> str:
        return f"{self.fact} {self.operator} {json.dumps(self.operand, ensure_ascii=False)}"


def check(written: object) -> list[tuple[Path, str]]:
    """Everything that is wrong with some conditions: where, and a sentence. Empty: nothing."""
    reader = _Reader()
    reader.group(written, (), 0)
    return reader.problems


def compile_conditions(written: Mapping[str, Any]) -> Condition:
    """Conditions that `check` has nothing against.

    Raises:
        ValueError: it has.
    """
    reader = _Reader()
    holds = reader.group(written, (), 0)
    if reader.problems:
        raise ValueError("; ".join(sentence for _, sentence in reader.problems))
    return Condition(holds, tuple(reader.tests))


# ---------------------------------------------------------------- facts


def _resource(facts: Facts) -> object:
    return _resolved(facts.call.resource) if facts.call.resource else MISSING


def _wire(read: Callable[[Call], str]) -> Callable[[Facts], object]:
    # A check or a batch asks about a request that has not been made.
    def fact(facts: Facts) -> object:
        return (read(facts.call) or MISSING) if facts.call.source == "proxy" else MISSING

    return fact


def _agent(read: Callable[[Identity], object]) -> Callable[[Facts], object]:
    def fact(facts: Facts) -> object:
        value = read(facts.identity) if facts.identity.agent_id else MISSING
        return MISSING if value == "" else value

    return fact


_FACTS: Final[Mapping[str, Callable[[Facts], object]]] = {
    "resource": _resource,
    "method": _wire(lambda call: call.method),
    "path": _wire(lambda call: _resolved("/" + call.upstream_path)),
    "host": _wire(lambda call: call.host),
    "agent.id": _agent(lambda agent: agent.agent_id),
    "agent.name": _agent(lambda agent: agent.name),
    "agent.orgId": _agent(lambda agent: agent.org_id),
    "agent.tags": _agent(lambda agent: sorted(agent.tags)),
    "agent.trustTier": _agent(lambda agent: agent.tier),
}
_CONTEXT: Final = "context"
_GROUPS: Final = ("all", "any", "not")

#: Flat keys of published examples, and how the same is said here.
_SAID_HERE: Final = {
    "tags": "agent.tags: {contains: ...}",
    "resourcePattern": "resource: {matches: ...}",
    "resource_pattern": "resource: {matches: ...}",
    "path_pattern": "path: {matches: ...}",
    "command_pattern": "context.command: {matches: ...}",
    "command_contains": "context.command: {contains: ...}",
    "amount_max": "context.amount: {lte: ...}",
    "amount_min": "context.amount: {gte: ...}",
    "channel.in": "context.channel: {in: [...]}",
    "rateLimit": "`rateLimits` beside `conditions`",
    "time_range": "",
}


def _resolved(text: str) -> str:
    """A path without `.` and `..` segments, whichever slash it uses, so that one has one name."""
    if "." not in text:
        return text
    slashed = text.replace("\\", "/")
    segments = slashed.split("/")
    if not any(segment in (".", "..") for segment in segments):
        return text
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            # At the top there is nothing to go up to; what is absolute stays so.
            if kept and kept != [""]:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)


@functools.lru_cache(maxsize=256)
def context_of(meta: str) -> Mapping[str, Any] | None:
    """The JSON object of an `X-MeshGuard-Meta`; None when it is not one that can be trusted to
    mean one thing (not JSON, not an object, a key twice, NaN, too long)."""
    if len(meta) > MAX_META or meta.count("{") + meta.count("[") > MAX_PARTS:
        return None
    try:
        value = json.loads(
            meta,
            object_pairs_hook=_distinct,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _context(key: str) -> Callable[[Facts], object]:
    steps = key.split(".")

    def fact(facts: Facts) -> object:
        context = context_of(facts.call.meta) if facts.call.meta else None
        if context is None:
            return MISSING
        value: object = context
        for step in steps:
            value = value.get(step, MISSING) if isinstance(value, dict) else MISSING
        if len(steps) > 1 and key in context:
            # `user.role` may be a key of its own; beside a nested one it would be two answers.
            value = context[key] if value is MISSING else MISSING
        return MISSING if value is None else value

    return fact


# ---------------------------------------------------------------- operators


def _kind(value: object) -> str:
    """`bool`, `number`, `text`, or `other`; values of two kinds are not compared."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "other"


def _folded(value: Any) -> Any:
    return fold(value) if isinstance(value, str) else value


def _one_of(operands: Sequence[Scalar]) -> Callable[[object], Truth]:
    kinds = {_kind(operand) for operand in operands}
    texts = {(_kind(operand), _folded(operand)) for operand in operands}

    def test(value: object) -> Truth:
        kind = _kind(value)
        return (kind, _folded(value)) in texts if kind in kinds else None

    return test


def _text_test(matchers: Sequence[Matcher]) -> Callable[[object], Truth]:
    def test(value: object) -> Truth:
        if not isinstance(value, str):
            return None
        folded = fold(value)
        return any(matches(folded) for matches in matchers)

    return test


def _contains(operands: Sequence[Scalar]) -> Callable[[object], Truth]:
    member = _one_of(operands)
    pieces = [fold(operand) for operand in operands if isinstance(operand, str)]

    def test(value: object) -> Truth:
        if isinstance(value, list):
            truths = [member(item) for item in value]
            return True if True in truths else (None if None in truths else False)
        if not isinstance(value, str) or not pieces:
            return None
        folded = fold(value)
        return any(piece in folded for piece in pieces)

    return test


def _compare(holds: Callable[[float, float], bool]) -> Callable[[Any], Callable[[object], Truth]]:
    def make(operand: Any) -> Callable[[object], Truth]:
        def test(value: object) -> Truth:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return None
            return holds(value, operand)

        return test

    return make


def _negated(make: Callable[[Any], Callable[[object], Truth]]) -> Any:
    def negative(operand: Any) -> Callable[[object], Truth]:
        positive = make(operand)

        def test(value: object) -> Truth:
            truth = positive(value)
            return None if truth is None else not truth

        return test

    return negative


def _list(operand: Any) -> list[Any]:
    return operand if isinstance(operand, list) else [operand]


def _matches(operand: Any) -> Callable[[object], Truth]:
    patterns = [spelling for pattern in _list(operand) for spelling in _spellings(pattern)]
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


def _prefix(operand: Any) -> Callable[[object], Truth]:
    heads = tuple(fold(head) for head in _list(operand))
    return _text_test([lambda text: text.startswith(heads)])


def _suffix(operand: Any) -> Callable[[object], Truth]:
    tails = tuple(fold(tail) for tail in _list(operand))
    return _text_test([lambda text: text.endswith(tails)])


def _equals(operand: Any) -> Callable[[object], Truth]:
    return _one_of([operand])


class _Operator(NamedTuple):
    #: What it is compared with: `scalar`, `scalars`, `texts` (one or several), `number`, `bool`.
    takes: str
    make: Callable[[Any], Callable[[object], Truth]]


OPERATORS: Final[Mapping[str, _Operator]] = {
    "equals": _Operator("scalar", _equals),
    "notEquals": _Operator("scalar", _negated(_equals)),
    "in": _Operator("scalars", _one_of),
    "notIn": _Operator("scalars", _negated(_one_of)),
    "matches": _Operator("texts", _matches),
    "notMatches": _Operator("texts", _negated(_matches)),
    "startsWith": _Operator("texts", _prefix),
    "endsWith": _Operator("texts", _suffix),
    "contains": _Operator("scalar or scalars", lambda operand: _contains(_list(operand))),
    "lt": _Operator("number", _compare(lambda value, bound: value < bound)),
    "lte": _Operator("number", _compare(lambda value, bound: value <= bound)),
    "gt": _Operator("number", _compare(lambda value, bound: value > bound)),
    "gte": _Operator("number", _compare(lambda value, bound: value >= bound)),
    # The only one that is asked of a missing fact; `_Reader.test` knows.
    "exists": _Operator("bool", lambda operand: lambda value: (value is not MISSING) is operand),
}

#: Spellings with underscores, as published examples have them.
_SNAKE: Final = {
    "not_equals": "notEquals",
    "not_in": "notIn",
    "not_matches": "notMatches",
    "starts_with": "startsWith",
    "ends_with": "endsWith",
}
_TAKES: Final = {
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
_TIER_OPERATORS: Final = {
    **dict.fromkeys(("equals", "notEquals", "lt", "lte", "gt", "gte"), "tier"),
    **dict.fromkeys(("in", "notIn"), "tiers"),
    "exists": "bool",
}


def _is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def _takes(kind: str, operand: object) -> bool:
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
            return bool(items) and all(isinstance(item, str) and item for item in items)
        case "number":
            return isinstance(operand, (int, float)) and not isinstance(operand, bool)
        case "bool":
            return isinstance(operand, bool)
        case "tier":
            return isinstance(operand, str) and tiers.rank(operand) is not None
        case _:
            return (
                isinstance(operand, list) and bool(items) and all(_takes("tier", i) for i in items)
            )


def _ranked(operand: Any) -> Any:
    if isinstance(operand, list):
        return [tiers.rank(tier) for tier in operand]
    return tiers.rank(operand) if isinstance(operand, str) else operand


# ---------------------------------------------------------------- reading


Holds = Callable[[Facts], Truth]


def _all(parts: Sequence[Holds]) -> Holds:
    if len(parts) == 1:
        return parts[0]

    def holds(facts: Facts) -> Truth:
        truth: Truth = True
        for part in parts:
            found = part(facts)
            if found is False:
                return False
            if found is None:
                truth = None
        return truth

    return holds


def _any(parts: Sequence[Holds]) -> Holds:
    return _not(_all([_not(part) for part in parts]))


def _not(part: Holds) -> Holds:
    def holds(facts: Facts) -> Truth:
        truth = part(facts)
        return None if truth is None else not truth

    return holds


class _Reader:
    """Reads conditions, collecting what is wrong and the tests in the order they are written."""

    def __init__(self) -> None:
        self.problems: list[tuple[Path, str]] = []
        self.tests: list[Test] = []

    def group(self, written: object, path: Path, level: int) -> Holds:
        """A mapping of facts and groups, all of which must hold."""
        if level > MAX_LEVELS:
            return self._wrong(path, f"conditions are nested deeper than {MAX_LEVELS} levels")
        if not isinstance(written, dict) or not written:
            return self._wrong(path, "conditions are a mapping of facts to tests, and not empty")
        return _all(
            [self._entry(key, value, (*path, key), level) for key, value in written.items()]
        )

    def _entry(self, key: str, value: object, path: Path, level: int) -> Holds:
        if key in ("all", "any"):
            if not isinstance(value, list) or not value:
                return self._wrong(
                    path, f"`{key}` takes a list of conditions, and not an empty one"
                )
            parts = [self.group(v, (*path, i), level + 1) for i, v in enumerate(value)]
            return _all(parts) if key == "all" else _any(parts)
        if key == "not":
            return _not(self.group(value, path, level + 1))
        if key == _CONTEXT:
            if not isinstance(value, dict) or not value:
                return self._wrong(path, "`context` takes a mapping of its keys to tests")
            return _all([self._fact(f"{_CONTEXT}.{k}", v, (*path, k)) for k, v in value.items()])
        return self._fact(key, value, path)

    def _fact(self, fact: str, value: object, path: Path) -> Holds:
        read = self._reader_of(fact)
        if read is None:
            return self._wrong(path, _unknown_kind(fact))
        if isinstance(value, dict):
            known = [_SNAKE.get(name, name) in OPERATORS for name in value]
            if value and fact.startswith(f"{_CONTEXT}.") and not any(known):
                return self._nested(fact, value, path)
            if not value:
                return self._wrong(path, f"`{word(fact)}` has no test")
            return _all([self._test(fact, read, n, v, (*path, n)) for n, v in value.items()])
        if isinstance(value, list):
            return self._test(fact, read, "in", value, path)
        if isinstance(value, str) and "*" in value:
            return self._wrong(
                path, f"write `{word(fact)}: {{matches: ...}}` for a pattern, `equals` for a star"
            )
        return self._test(fact, read, "equals", value, path)

    def _nested(self, fact: str, value: dict[str, Any], path: Path) -> Holds:
        looks_like = [n for n in value if difflib.get_close_matches(n, _WORDS, 1, cutoff=0.8)]
        if looks_like:
            name = looks_like[0]
            return self._wrong((*path, name), _unknown_operator(name))
        return _all([self._fact(f"{fact}.{k}", v, (*path, k)) for k, v in value.items()])

    def _reader_of(self, fact: str) -> Callable[[Facts], object] | None:
        if fact in _FACTS:
            return _FACTS[fact]
        head, _, key = fact.partition(".")
        return _context(key) if head == _CONTEXT and all(key.split(".")) else None

    def _test(
        self,
        fact: str,
        read: Callable[[Facts], object],
        written: str,
        operand: Any,
        path: Path,
    ) -> Holds:
        name = _SNAKE.get(written, written)
        operator = OPERATORS.get(name)
        if operator is None:
            return self._wrong(path, _unknown_operator(written))
        takes = operator.takes
        if fact == "agent.trustTier":
            if name not in _TIER_OPERATORS:
                return self._wrong(path, f"`{word(written)}` does not compare trust tiers")
            takes = _TIER_OPERATORS[name]
        if fact == "agent.tags" and name not in ("contains", "exists"):
            return self._wrong(path, "`agent.tags` is a list: write `agent.tags: {contains: ...}`")
        if not _takes(takes, operand):
            return self._wrong(path, f"`{word(written)}` takes {_TAKES[takes]}")
        if takes == "texts" and any(text.count("**/") > MAX_EMPTY for text in _list(operand)):
            return self._wrong(path, f"a pattern has more than {MAX_EMPTY} `**/`")
        if len(self.tests) >= MAX_TESTS:
            return self._wrong(path, f"more than {MAX_TESTS} tests in one rule's conditions")
        if takes in ("tier", "tiers"):
            ranked = operator.make(_ranked(operand))
            holds = _asked(lambda facts: _rank(read(facts)), ranked, name)
        else:
            holds = _asked(read, operator.make(operand), name)
        self.tests.append(Test(fact, name, operand, holds))
        return holds

    def _wrong(self, path: Path, sentence: str) -> Holds:
        self.problems.append((path, sentence))
        return lambda _: None


def _asked(
    read: Callable[[Facts], object], test: Callable[[object], Truth], operator: str
) -> Holds:
    if operator == "exists":
        return lambda facts: test(read(facts))

    def holds(facts: Facts) -> Truth:
        value = read(facts)
        return None if value is MISSING else test(value)

    return holds


def _rank(tier: object) -> object:
    return tiers.rank(tier) if isinstance(tier, str) else MISSING


_WORDS: Final = (*OPERATORS, *_SNAKE)


def _unknown_operator(written: str) -> str:
    return f"unknown operator `{word(written)}`{_nearest(written, tuple(OPERATORS))}"


def _unknown_kind(written: str) -> str:
    said = f"unknown condition `{word(written)}`"
    here = _SAID_HERE.get(written)
    if here is not None:
        return f"{said}; write {here if here.startswith('`') else f'`{here}`'}" if here else said
    return said + _nearest(written, (*_FACTS, _CONTEXT, *_GROUPS))


def _nearest(written: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(written[:64], known, n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (one of {', '.join(known)})"


# ---------------------------------------------------------------- for editors


def json_schema() -> dict[str, Any]:
    """A JSON Schema of conditions; `$ref` to itself as `#/$defs/Conditions`."""
    scalar: dict[str, Any] = {"type": ["string", "number", "boolean"]}
    several = {"type": "array", "minItems": 1, "items": scalar}
    texts: dict[str, Any] = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        ]
    }
    shapes: dict[str, dict[str, Any]] = {
        "scalar": scalar,
        "scalars": several,
        "scalar or scalars": {"anyOf": [scalar, several]},
        "texts": texts,
        "number": {"type": "number"},
        "bool": {"type": "boolean"},
    }
    names = {**{name: name for name in OPERATORS}, **_SNAKE}
    tests = {
        "type": "object",
        "minProperties": 1,
        "properties": {name: shapes[OPERATORS[known].takes] for name, known in names.items()},
    }
    test = {"anyOf": [scalar, several, {**tests, "additionalProperties": False}]}
    itself = {"$ref": "#/$defs/Conditions"}
    groups = {"type": "array", "minItems": 1, "items": itself}
    context = {"anyOf": [test, {"type": "object", "minProperties": 1}]}
    return {
        "description": "All must hold. Unknown in an allow rule: no match; in a deny rule: match",
        "type": "object",
        "minProperties": 1,
        "properties": {
            **dict.fromkeys(_FACTS, test),
            "agent.trustTier": {
                "anyOf": [{"type": "string"}, {"type": "array"}, {"type": "object"}]
            },
            _CONTEXT: {"type": "object", "minProperties": 1},
            "all": groups,
            "any": groups,
            "not": itself,
        },
        "patternProperties": {r"^context\..+": context},
        "additionalProperties": False,
    }
