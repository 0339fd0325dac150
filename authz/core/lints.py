"""Lints: what is valid and yet hardly what its author means (docs/policies.md lists them).

- `shadowed-rule`: earlier rules take every action that this one matches, or an earlier allow takes
  some of what a later deny is for.
  So it is of the floors, requirements and costs of one document, of which the first counts.
- `dead-pattern`: the same for one pattern among several of a rule.
- `duplicate-name`: two policies, or two rules of one policy, cannot be told apart in a row.
- `unreachable-policy`: nobody is in its appliesTo.
- `conflicting-default`: it allows by default where another policy for the same agents denies by
  default, and that one wins.

All of them look patterns up in an index, so a large set costs no more than it is long; what has to
be compared pair by pair is bounded by `MAX_PAIRS`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from authz.core.compiled import STRICTEST_FIRST, CompiledPolicy, Scope
from authz.core.pattern import compile_pattern, fold
from authz.core.pattern_index import PatternIndex
from authz.core.policy_doc import PolicyDoc
from authz.core.text import word
from authz.core.yaml_tree import Path

SHADOWED_RULE: Final = "shadowed-rule"
DEAD_PATTERN: Final = "dead-pattern"
DUPLICATE_NAME: Final = "duplicate-name"
UNREACHABLE_POLICY: Final = "unreachable-policy"
CONFLICTING_DEFAULT: Final = "conflicting-default"

#: Pairs that are compared in one policy, or in one set of policies.
MAX_PAIRS: Final = 100_000


class Lint(NamedTuple):
    """A finding in one document: its name, the place, the sentence."""

    lint: str
    path: Path
    sentence: str


class _Pattern(NamedTuple):
    text: str
    rule: int
    position: int


def of_policy(document: PolicyDoc) -> Iterator[Lint]:
    """What there is to say about one document by itself."""
    if document.applies_to.is_nobody:
        yield Lint(
            UNREACHABLE_POLICY,
            ("appliesTo",),
            "appliesTo is missing or one of its lists names nobody: the policy applies to nobody",
        )
    yield from _duplicate_rules(document)
    yield from _shadowed(document)


def _duplicate_rules(document: PolicyDoc) -> Iterator[Lint]:
    seen: dict[str, int] = {}
    for index, rule in enumerate(document.rules):
        key = "id" if rule.id else "name"
        label = rule.id or rule.name
        if label in seen:
            yield Lint(
                DUPLICATE_NAME,
                ("rules", index, key),
                f"rule {seen[label] + 1} is called `{word(label)}` too; an audit row cannot tell"
                " which of them decided",
            )
        elif label:
            seen[label] = index


def _shadowed(document: PolicyDoc) -> Iterator[Lint]:
    rules = document.rules
    order = list(range(len(rules)))
    if document.rule_order == "deny-overrides":
        order.sort(key=lambda index: STRICTEST_FIRST[rules[index].effect])
    rank = {rule: at for at, rule in enumerate(order)}
    patterns = [
        _Pattern(_folded(text), rule, position)
        for rule in order
        for position, text in enumerate(rules[rule].actions)
    ]
    index = PatternIndex(pattern.text for pattern in patterns)
    # Only what always decides can take something away from what comes later.
    certain = {n for n, r in enumerate(rules) if not r.conditions and r.enforcement == "enforce"}
    by_rule: dict[int, list[tuple[_Pattern, _Pattern | None]]] = {rule: [] for rule in order}
    pairs = 0
    for pattern in patterns:
        # A pattern matches another read as plain text exactly when it matches all that it does.
        pairs += index.cost(pattern.text)
        if pairs > MAX_PAIRS:
            return
        wider = [patterns[number] for number in index.matching(pattern.text)]
        takers = [other for other in wider if _takes(other, pattern, rank, certain)]
        # Another rule first: a rule that is taken whole is worth more than its own repetitions.
        taker = min(
            takers, key=lambda o: (o.rule == pattern.rule, o.rule, o.position), default=None
        )
        by_rule[pattern.rule].append((pattern, taker))
    for rule in order:
        yield from _taken(by_rule[rule])
    yield from _overtaken(document, patterns, rank, certain)


def of_entries(key: str, entries: Sequence[Sequence[str]]) -> Iterator[Lint]:
    """What never counts in a list of which the first entry that matches does.

    Args:
        key: what the list is called, such as `floors`.
        entries: the patterns of each.
    """
    patterns = [
        _Pattern(_folded(text), number, position)
        for number, actions in enumerate(entries)
        for position, text in enumerate(actions)
    ]
    index = PatternIndex(pattern.text for pattern in patterns)
    takers: list[list[int | None]] = [[] for _ in entries]
    pairs = 0
    for pattern in patterns:
        pairs += index.cost(pattern.text)
        if pairs > MAX_PAIRS:
            return
        wider = (patterns[number].rule for number in index.matching(pattern.text))
        earlier = min((number for number in wider if number < pattern.rule), default=None)
        takers[pattern.rule].append(earlier)
    one = key.removesuffix("s")
    for number, found in enumerate(takers):
        by = sorted({earlier + 1 for earlier in found if earlier is not None})
        if by and None not in found:
            said = f"{one} {by[0]}" if len(by) == 1 else f"{key} {', '.join(map(str, by))}"
            yield Lint(
                SHADOWED_RULE,
                (key, number),
                f"{one} {number + 1} never counts: {said} before it match{'es' * (len(by) == 1)}"
                " everything that it does",
            )


def _folded(pattern: str) -> str:
    return re.sub(r"\*+", "*", fold(pattern.strip()))


def _takes(other: _Pattern, pattern: _Pattern, rank: dict[int, int], certain: set[int]) -> bool:
    if other.rule == pattern.rule:
        if other.text == pattern.text:
            return other.position < pattern.position
        return True
    return other.rule in certain and rank[other.rule] < rank[pattern.rule]


def _taken(patterns: list[tuple[_Pattern, _Pattern | None]]) -> Iterator[Lint]:
    rule = patterns[0][0].rule
    takers = [taker for _, taker in patterns if taker is not None and taker.rule != rule]
    if len(takers) == len(patterns):
        by = sorted({taker.rule + 1 for taker in takers})
        said = f"rule {by[0]}" if len(by) == 1 else f"rules {', '.join(map(str, by))}"
        yield Lint(
            SHADOWED_RULE,
            ("rules", rule),
            f"rule {rule + 1} never decides: {said} before it match{'es' * (len(by) == 1)}"
            " everything that it does",
        )
        return
    for pattern, taker in patterns:
        if taker is None:
            continue
        where = "the same rule" if taker.rule == rule else f"rule {taker.rule + 1} before it"
        yield Lint(
            DEAD_PATTERN,
            ("rules", rule, "actions", pattern.position),
            f"the pattern `{word(pattern.text)}` never decides: `{word(taker.text)}` in {where}"
            " matches everything that it does",
        )


def _overtaken(
    document: PolicyDoc, patterns: list[_Pattern], rank: dict[int, int], certain: set[int]
) -> Iterator[Lint]:
    """Denials of which an earlier allow takes a part, and not just an exception to them."""
    effects = [rule.effect for rule in document.rules]
    allows = [p for p in patterns if p.rule in certain and effects[p.rule] == "allow"]
    denies = [p for p in patterns if p.rule in certain and effects[p.rule] == "deny"]
    pairs, told = 0, set()
    for deny in (p for p in patterns if effects[p.rule] == "deny"):
        for allow in allows:
            if rank[allow.rule] > rank[deny.rule] or deny.rule in told:
                break
            pairs += 1
            if pairs > MAX_PAIRS:
                return
            if not overlap(allow.text, deny.text):
                continue
            if covers(allow.text, deny.text) or covers(deny.text, allow.text):
                continue
            before = [d.text for d in denies if rank[d.rule] < rank[allow.rule]]
            pairs += len(before)
            both = _both(allow.text, deny.text)
            if any(covers(text, whole) for text in before for whole in both):
                continue
            told.add(deny.rule)
            yield Lint(
                SHADOWED_RULE,
                ("rules", deny.rule),
                f"rule {deny.rule + 1} denies `{word(deny.text)}`, but what `{word(allow.text)}`"
                f" matches too is allowed by rule {allow.rule + 1} before it",
            )


def covers(wide: str, narrow: str) -> bool:
    """Whether every text that `narrow` matches is matched by `wide`; both folded."""
    return compile_pattern(wide)(narrow)


def overlap(one: str, other: str) -> bool:
    """Whether some text is matched by both; both folded."""
    if "*" not in one or "*" not in other:
        return covers(one, other) or covers(other, one)
    heads = one.partition("*")[0], other.partition("*")[0]
    tails = one.rpartition("*")[2], other.rpartition("*")[2]
    # Between the longer head and the longer tail both have a star, and room for all the rest.
    return (heads[0].startswith(heads[1]) or heads[1].startswith(heads[0])) and (
        tails[0].endswith(tails[1]) or tails[1].endswith(tails[0])
    )


def _both(one: str, other: str) -> list[str]:
    """Patterns each of which matches all that two that overlap both match."""
    if "*" not in one or "*" not in other:
        return [one if "*" not in one else other]
    head = max(one.partition("*")[0], other.partition("*")[0], key=len)
    tail = max(one.rpartition("*")[2], other.rpartition("*")[2], key=len)
    shared = range(1, min(len(head), len(tail)) + 1)
    if any(head.endswith(tail[:length]) for length in shared):
        return [one, other]  # `ab*` and `*ba` both match `aba`, and `ab*ba` does not
    return [one, other, f"{head}*{tail}"]


def conflicting_defaults(
    policies: Sequence[CompiledPolicy],
) -> Iterator[tuple[CompiledPolicy, CompiledPolicy]]:
    """Policies that allow by default, each with one that denies by default for the same agents."""
    denying = [p for p in policies if p.default_effect == "deny" and not p.scope.is_nobody]
    pairs = 0
    for policy in policies:
        if policy.default_effect == "deny" or policy.scope.is_nobody:
            continue
        for other in denying:
            pairs += 1
            if pairs > MAX_PAIRS:
                return
            if _share_agents(policy.scope, other.scope):
                yield policy, other
                break


def _share_agents(one: Scope, other: Scope) -> bool:
    # Two tags may well be one agent's; that is only said of policies that name the same one.
    scopes = (
        (one.agent_ids, other.agent_ids),
        (one.tags, other.tags),
        (one.ranks, other.ranks),
        (one.org_ids, other.org_ids),
    )
    for first, second in scopes:
        if first is not None and second is not None and first.isdisjoint(second):
            return False
    return True
