"""Conditions: what must hold, besides the action, for a rule to match (CONTRACT §5, DESIGN §4).

    conditions:
      resource: {startsWith: docs/}        # several facts: all of them
      context.amount: {gt: 0, lte: 100}    # several operators: all of them
      any: [{method: GET}, {agent.tags: {contains: writer}}]

- Three values. A fact that is not given, or of another kind than it is compared with, makes the
  test unknown (`None`), and unknown stays unknown under `not`. `exists` knows, unless what is
  given cannot be read. What unknown means for a rule is the evaluator's: an allow does not match,
  a deny does.
- `facts` has what can be looked at, `operators` what can be asked of it. Nothing evaluates text as
  code.
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from authz.core import operators, tiers
from authz.core.facts import CONTEXT, FACTS, MISSING, PATHS, UNCLEAR, Facts, reader_of, slashed
from authz.core.operators import OPERATORS, SNAKE, TAKES, TIER_OPERATORS, Truth
from authz.core.text import word

Path = tuple[int | str, ...]

#: Levels of `all`, `any` and `not`.
MAX_LEVELS: Final = 8
#: Tests in the conditions of one rule.
MAX_TESTS: Final = 200


class Condition(NamedTuple):
    """A condition ready to be evaluated."""

    holds: Callable[[Facts], Truth]
    #: The facts it looks at, in the order they are written, each with what is asked of it.
    tests: "tuple[Test, ...]"
    #: What it was compiled from.
    written: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions cannot go to another process; what they were made of can.
        return compile_conditions, (self.written,)

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
    return Condition(holds, tuple(reader.tests), written)


GROUPS: Final = ("all", "any", "not")

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
        if key == CONTEXT:
            if not isinstance(value, dict) or not value:
                return self._wrong(path, "`context` takes a mapping of its keys to tests")
            return _all([self._fact(f"{CONTEXT}.{k}", v, (*path, k)) for k, v in value.items()])
        return self._fact(key, value, path)

    def _fact(self, fact: str, value: object, path: Path) -> Holds:
        read = reader_of(fact)
        if read is None:
            return self._wrong(path, _unknown_kind(fact))
        if isinstance(value, dict):
            if not value:
                return self._wrong(path, f"`{word(fact)}` has no test")
            return _all([self._test(fact, read, n, v, (*path, n)) for n, v in value.items()])
        starred = any(isinstance(v, str) and "*" in v for v in operators.listed(value))
        if starred and fact not in ("agent.tags", "agent.trustTier"):
            return self._wrong(
                path, f"write `{word(fact)}: {{matches: ...}}` for a pattern, `equals` for a star"
            )
        name = "in" if isinstance(value, list) else "equals"
        return self._test(fact, read, name, value, path)

    def _test(
        self,
        fact: str,
        read: Callable[[Facts], object],
        written: str,
        operand: Any,
        path: Path,
    ) -> Holds:
        name = SNAKE.get(written, written)
        operator = OPERATORS.get(name)
        if operator is None:
            return self._wrong(path, _unknown_operator(fact, written))
        takes = operator.takes
        if fact == "agent.trustTier":
            if name not in TIER_OPERATORS:
                return self._wrong(path, f"`{word(written)}` does not compare trust tiers")
            takes = TIER_OPERATORS[name]
        if fact == "agent.tags" and name not in ("contains", "exists"):
            return self._wrong(path, "`agent.tags` is a list: write `agent.tags: {contains: ...}`")
        if not operators.takes(takes, operand):
            return self._wrong(path, f"`{word(written)}` takes {TAKES[takes]}")
        if takes == "texts" and any(
            text.count("**/") > operators.MAX_EMPTY for text in operators.listed(operand)
        ):
            return self._wrong(path, f"a pattern has more than {operators.MAX_EMPTY} `**/`")
        if fact in PATHS and any(map(_has_dots, operators.listed(operand))):
            return self._wrong(path, f"`{fact}` is compared without . and .. segments; write none")
        if len(self.tests) >= MAX_TESTS:
            return self._wrong(path, f"more than {MAX_TESTS} tests in one rule's conditions")
        if takes in ("tier", "tiers"):
            ranked = operator.make(operators.ranked(operand))
            holds = _asked(lambda facts: _rank(read(facts)), ranked, name)
        else:
            meant = _slashed(operand) if fact in PATHS else operand
            holds = _asked(read, operator.make(meant), name)
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
        return None if value is MISSING or value is UNCLEAR else test(value)

    return holds


def _has_dots(operand: object) -> bool:
    return isinstance(operand, str) and bool({".", ".."} & {*slashed(operand).split("/")})


def _slashed(operand: Any) -> Any:
    if isinstance(operand, list):
        return [_slashed(item) for item in operand]
    return slashed(operand) if isinstance(operand, str) else operand


def _rank(tier: object) -> object:
    return tiers.rank(tier) if isinstance(tier, str) else tier


#: What operators are called elsewhere.
_ELSEWHERE: Final = {
    **dict.fromkeys(("eq", "is", "==", "="), "equals"),
    **dict.fromkeys(("ne", "neq", "!=", "not"), "notEquals"),
    **dict.fromkeys(("greaterthan", "min", ">"), "gt"),
    **dict.fromkeys(("lessthan", "max", "<"), "lt"),
    **dict.fromkeys(("ge", "greaterthanorequal", ">="), "gte"),
    **dict.fromkeys(("le", "lessthanorequal", "<="), "lte"),
    **dict.fromkeys(("glob", "like"), "matches"),
    **dict.fromkeys(("oneof", "anyof"), "in"),
    **dict.fromkeys(("includes", "has"), "contains"),
    "prefix": "startsWith",
    "suffix": "endsWith",
}


def _unknown_operator(fact: str, written: str) -> str:
    said = f"unknown operator `{word(written)}`"
    known = _ELSEWHERE.get(written.replace("_", "").lower())
    if known is not None:
        return f"{said}, did you mean `{known}`?"
    if fact.startswith(f"{CONTEXT}.") and not difflib.get_close_matches(written, OPERATORS, n=1):
        return f"{said}; a key inside it is written `{word(fact)}.{word(written)}`"
    return said + _nearest(written, tuple(OPERATORS))


def _unknown_kind(written: str) -> str:
    said = f"unknown condition `{word(written)}`"
    here = _SAID_HERE.get(written)
    if here is not None:
        return f"{said}; write {here if here.startswith('`') else f'`{here}`'}" if here else said
    return said + _nearest(written, (*FACTS, CONTEXT, *GROUPS))


def _nearest(written: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(written[:64], known, n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (one of {', '.join(known)})"
