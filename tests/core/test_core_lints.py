"""A lint is true: what it says never decides never does, and what it calls dead nobody misses.

Held by brute force over a small alphabet: every short action is asked of the policy itself.
"""

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz.core import lints, pattern_index
from authz.core.call import from_check_request
from authz.core.compiled import compile_policy
from authz.core.errors import Code
from authz.core.evaluation import View
from authz.core.facts import Facts
from authz.core.finding import Deny
from authz.core.identity import Identity
from authz.core.lints import MAX_PAIRS, Lint
from authz.core.pattern import Matcher, compile_pattern
from authz.core.policy_doc import PolicyDoc
from authz.core.policy_file import parse_file
from authz.core.policy_set import PolicyFile, build
from tests.builders import check_request

BUNDLED: Final = sorted((Path(__file__).parents[2] / "policies").glob("*.yaml"))

#: `c` stands for every character that no pattern names.
ACTIONS: Final = [
    "".join(letters) for size in range(5) for letters in itertools.product("abc", repeat=size)
]
WHO: Final = Identity("agent-1", "", "verified", 2, frozenset(), "", 2)
CALLS: Final = {
    action: from_check_request(check_request())._replace(action=action) for action in ACTIONS
}
METAS: Final = ("", '{"x": true}', '{"x": false}')


def doc(rules: Sequence[dict[str, Any]], **more: Any) -> PolicyDoc:
    scope = {"agentIds": ["*"]}
    return PolicyDoc.model_validate({"name": "p", "appliesTo": scope, "rules": rules, **more})


def of(rules: Sequence[dict[str, Any]], **more: Any) -> list[Lint]:
    return list(lints.of_policy(doc(rules, **more)))


Answer = tuple[Code, int | None, Code | None, int | None]


def answers(document: PolicyDoc) -> list[Answer]:
    """What every short action gets, and which rule gives it, dry runs included."""
    found = []
    view = View([compile_policy(document)], WHO.rank)
    has_conditions = any(rule.conditions for rule in document.rules)
    for call in CALLS.values():
        for meta in METAS if has_conditions else METAS[:1]:
            finding = view.ruling(Facts(call._replace(meta=meta), WHO)).policy
            would = None if isinstance(finding, Deny) else finding.would
            found.append(
                (
                    finding.code,
                    finding.rule_index,
                    would.code if would else None,
                    would.rule_index if would else None,
                )
            )
    return found


PATTERNS = st.text(alphabet="ab*", min_size=1, max_size=3)
PLAIN_PATTERNS = PATTERNS.filter(lambda pattern: "**" not in pattern)


def documents(patterns: st.SearchStrategy[str]) -> st.SearchStrategy[PolicyDoc]:
    rules = st.lists(
        st.fixed_dictionaries(
            {
                "effect": st.sampled_from(["allow", "deny", "require_approval"]),
                "actions": st.lists(patterns, min_size=1, max_size=3),
            },
            optional={
                "enforcement": st.just("dry_run"),
                "conditions": st.just({"context.x": True}),
            },
        ),
        min_size=1,
        max_size=4,
    )
    orders = st.sampled_from(["first-match", "deny-overrides"])
    return st.builds(lambda given, order: doc(given, ruleOrder=order), rules, orders)


@given(documents(PATTERNS))
@example(doc([{"effect": "allow", "actions": ["*"]}, {"effect": "deny", "actions": ["a", "b*"]}]))
@settings(deadline=None, max_examples=150)
def test_a_rule_that_is_called_shadowed_never_decides(document: PolicyDoc) -> None:
    shadowed = {
        lint.path[1]
        for lint in lints.of_policy(document)
        if lint.lint == lints.SHADOWED_RULE and "never decides" in lint.sentence
    }
    for _, index, _, would_index in answers(document) if shadowed else ():
        assert index not in shadowed
        assert would_index not in shadowed


def without(document: PolicyDoc, dead: Sequence[tuple[Any, Any]]) -> PolicyDoc:
    rules = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)["rules"]
    for rule, position in sorted(dead, reverse=True):
        del rules[rule]["actions"][position]
    for rule in rules:
        # A rule has at least one pattern; this one matches no action of ours.
        rule["actions"] = rule["actions"] or ["never"]
    return doc(rules, ruleOrder=document.rule_order)


def dead_patterns(document: PolicyDoc) -> list[tuple[Any, Any]]:
    return [
        (lint.path[1], lint.path[3])
        for lint in lints.of_policy(document)
        if lint.lint == lints.DEAD_PATTERN
    ]


@given(documents(PATTERNS))
@settings(deadline=None, max_examples=80)
def test_a_dead_pattern_is_missed_by_nobody(document: PolicyDoc) -> None:
    dead = dead_patterns(document)
    before = answers(document) if dead else []
    for pattern in dead:
        assert answers(without(document, [pattern])) == before


@given(documents(PLAIN_PATTERNS))
@settings(deadline=None, max_examples=80)
def test_all_dead_patterns_together_are_missed_by_nobody(document: PolicyDoc) -> None:
    dead = dead_patterns(document)
    assert not dead or answers(without(document, dead)) == answers(document)


HALVES: Final = ("a*", "*b", "ab*", "*ba", "a*b", "b*a", "ab", "a*a*", "*", "b*ab")


@given(documents(st.sampled_from(HALVES)))
@settings(deadline=None, max_examples=200)
def test_a_denial_that_is_called_overtaken_shares_an_action_with_an_earlier_allow(
    document: PolicyDoc,
) -> None:
    rules = document.rules
    for lint in lints.of_policy(document):
        if lint.lint != lints.SHADOWED_RULE or " denies `" not in lint.sentence:
            continue
        rule = lint.path[1]
        assert isinstance(rule, int)
        assert rules[rule].effect == "deny"
        assert document.rule_order == "first-match"
        assert any(
            rules[earlier].effect == "allow"
            and not rules[earlier].conditions
            and rules[earlier].enforcement == "enforce"
            and matches(document, rule, action)
            for earlier in range(rule)
            for action in LONGER
            if matches(document, earlier, action)
        )


LONGER: Final = [
    "".join(letters) for size in range(7) for letters in itertools.product("ab", repeat=size)
]


def matches(document: PolicyDoc, rule: int, action: str) -> bool:
    return any(compile_pattern(pattern)(action) for pattern in document.rules[rule].actions)


@cache
def covered(pattern: str) -> frozenset[str]:
    """The short texts that a pattern matches; `c` is in none of the patterns."""
    texts = ("".join(t) for size in range(6) for t in itertools.product("abc", repeat=size))
    matcher = compile_pattern(pattern)
    return frozenset(text for text in texts if matcher(text))


@given(PATTERNS, PATTERNS)
@settings(deadline=None, max_examples=200)
def test_one_pattern_covers_another_when_it_matches_all_that_it_does(
    wide: str, narrow: str
) -> None:
    assert lints.covers(wide, narrow) is (covered(narrow) <= covered(wide))


@given(PATTERNS, PATTERNS)
@example("a*", "*b")
@example("ab*", "*ba")
@example("a*b", "b*a")
@settings(deadline=None, max_examples=200)
def test_two_patterns_overlap_when_some_text_is_matched_by_both(one: str, other: str) -> None:
    assert lints.overlap(one, other) is not covered(one).isdisjoint(covered(other))


# ---------------------------------------------------------------- what is found


ALLOW: Final[dict[str, Any]] = {"effect": "allow"}
DENY: Final[dict[str, Any]] = {"effect": "deny"}
ASK: Final[dict[str, Any]] = {"effect": "require_approval"}
OVERRIDES: Final[dict[str, Any]] = {"ruleOrder": "deny-overrides"}


def on(*patterns: str) -> dict[str, Any]:
    return {"actions": list(patterns)}


@pytest.mark.parametrize(
    ("rules", "more", "found"),
    [
        ([ALLOW | on("a")], {}, []),
        ([DENY | on("*"), ALLOW | on("a")], {}, [("shadowed-rule", 1)]),
        ([ALLOW | on("*"), DENY | on("a")], {}, [("shadowed-rule", 1)]),
        ([ALLOW | on("*"), DENY | on("*")], {}, [("shadowed-rule", 1)]),
        ([ALLOW | on("READ:*"), DENY | on(" read:x ")], {}, [("shadowed-rule", 1)]),
        ([ALLOW | on("a*"), DENY | on("b*"), ASK | on("ab", "ba")], {}, [("shadowed-rule", 2)]),
        (
            [ALLOW | on("a*"), DENY | on("ab"), ASK | on("ab")],
            {},
            [("shadowed-rule", 1), ("shadowed-rule", 2)],
        ),
        # The order that counts is the one in which rules are looked at.
        ([ALLOW | on("*"), DENY | on("a")], OVERRIDES, []),
        ([ALLOW | on("a"), DENY | on("*")], OVERRIDES, [("shadowed-rule", 0)]),
        ([ALLOW | on("a"), ASK | on("*")], OVERRIDES, [("shadowed-rule", 0)]),
        ([ALLOW | on("*"), ALLOW | on("a")], OVERRIDES, [("shadowed-rule", 1)]),
        # Rules that may not decide take nothing away.
        ([DENY | on("*") | {"conditions": {"method": "GET"}}, ALLOW | on("a")], {}, []),
        ([DENY | on("*") | {"enforcement": "dry_run"}, ALLOW | on("a")], {}, []),
        # But they can be taken.
        (
            [DENY | on("*"), ALLOW | on("a") | {"conditions": {"method": "GET"}}],
            {},
            [("shadowed-rule", 1)],
        ),
        (
            [DENY | on("*"), ALLOW | on("a") | {"enforcement": "dry_run"}],
            {},
            [("shadowed-rule", 1)],
        ),
        # A part of a rule.
        ([DENY | on("a*"), ALLOW | on("ab", "b")], {}, [("dead-pattern", 1, 0)]),
        ([ALLOW | on("a", "a*", "b")], {}, [("dead-pattern", 0, 0)]),
        ([ALLOW | on("a", "A ", "b", "a")], {}, [("dead-pattern", 0, 1), ("dead-pattern", 0, 3)]),
        (
            [ALLOW | on("a", "*") | {"conditions": {"method": "GET"}}],
            {},
            [("dead-pattern", 0, 0)],
        ),
        # An allow takes a part of what a later rule denies.
        ([ALLOW | on("./*"), DENY | on("*/.env")], {}, [("shadowed-rule", 1)]),
        (
            [ALLOW | on("a*"), DENY | on("*b"), DENY | on("*c")],
            {},
            [("shadowed-rule", 1), ("shadowed-rule", 2)],
        ),
        ([ALLOW | on("a*"), DENY | on("*b", "*c")], {}, [("shadowed-rule", 1)]),
        ([ALLOW | on("a*"), DENY | on("*b")], OVERRIDES, []),
        ([DENY | on("*/.env"), ALLOW | on("./*")], {}, []),
        ([ALLOW | on("a*"), ASK | on("*b")], {}, []),
        ([ASK | on("a*"), DENY | on("*b")], {}, []),
        ([ALLOW | on("a*") | {"conditions": {"method": "GET"}}, DENY | on("*b")], {}, []),
        # An exception to a denial is meant.
        ([ALLOW | on("read:public"), DENY | on("read:*")], {}, []),
        ([ALLOW | on("a*b"), DENY | on("a*"), DENY | on("*")], {}, []),
    ],
)
def test_what_is_taken_by_earlier_rules_is_found(
    rules: list[dict[str, Any]], more: dict[str, Any], found: list[tuple[str, ...]]
) -> None:
    told = [
        (lint.lint, *(step for step in lint.path if isinstance(step, int)))
        for lint in of(rules, **more)
    ]
    assert told == found


@pytest.mark.parametrize("patterns", [("a*", "a**"), ("*", "**"), ("a**b", "a*b")])
def test_of_two_patterns_that_mean_the_same_one_lives(patterns: tuple[str, str]) -> None:
    document = doc([ALLOW | on(*patterns)])
    assert len(dead_patterns(document)) == 1


def test_a_rule_is_shadowed_though_its_patterns_cover_each_other() -> None:
    rules = [ALLOW | on("b", "b*"), DENY | on("b*")]
    assert [(lint.lint, lint.path) for lint in of(rules, **OVERRIDES)] == [
        (lints.SHADOWED_RULE, ("rules", 0))
    ]


@pytest.mark.parametrize("denied_first", ["a*", "a*b", "*b"])
def test_a_denial_is_not_overtaken_in_what_is_denied_before(denied_first: str) -> None:
    rules = [DENY | on(denied_first), ALLOW | on("a*"), DENY | on("*b", "c")]
    document = doc(rules)
    assert not any(" is allowed by rule " in lint.sentence for lint in lints.of_policy(document))


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([{"id": "a"}, {"id": "b"}, {}, {}], []),
        ([{"id": "a"}, {"id": "a"}], [("rules", 1, "id")]),
        ([{"name": "a"}, {"id": "b", "name": "a"}], []),
        ([{"id": "a"}, {"name": "a"}], [("rules", 1, "name")]),
        ([{"id": "a"}, {"id": "A"}], []),
        ([{"id": "a"}] * 3, [("rules", 1, "id"), ("rules", 2, "id")]),
    ],
)
def test_rules_that_an_audit_row_cannot_tell_apart_are_found(
    rules: list[dict[str, Any]], found: list[tuple[object, ...]]
) -> None:
    named = [ALLOW | on(f"x{n}") | rule for n, rule in enumerate(rules)]
    assert [(lint.lint, lint.path) for lint in of(named)] == [
        (lints.DUPLICATE_NAME, path) for path in found
    ]


@pytest.mark.parametrize(
    ("scope", "is_unreachable"),
    [
        ({}, True),
        ({"tags": []}, True),
        ({"tags": [], "agentIds": ["*"]}, True),
        ({"trustTiers": ["root", "trustd"]}, True),
        ({"trustTiers": ["root"], "agentIds": ["*"]}, True),
        ({"trustTiers": ["root", "trusted"]}, False),
        ({"trustTiers": ["root", "*"]}, False),
        ({"trustTiers": ["*"]}, False),
        ({"orgIds": ["x"]}, False),
    ],
)
def test_a_policy_for_nobody_is_found(scope: dict[str, Any], is_unreachable: bool) -> None:
    document = doc([ALLOW | on("a")]).model_copy(
        update={"applies_to": doc([ALLOW | on("a")], appliesTo=scope).applies_to}
    )
    told = [(lint.lint, lint.path) for lint in lints.of_policy(document)]
    assert told == ([(lints.UNREACHABLE_POLICY, ("appliesTo",))] if is_unreachable else [])


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_there_is_nothing_to_say_about_a_bundled_policy(path: Path) -> None:
    parsed = parse_file(path.read_bytes(), path.name)
    assert parsed.policies
    assert parsed.problems == ()


def test_there_is_nothing_to_say_about_the_bundled_policies_together() -> None:
    assert len(BUNDLED) > 2
    parsed = [(path.name, parse_file(path.read_bytes(), path.name)) for path in BUNDLED]
    policies = build(PolicyFile(name, found.policies) for name, found in parsed)
    assert policies.problems == []
    assert policies.snapshot.size == len(BUNDLED)


# ---------------------------------------------------------------- several policies


def conflicts(*scoped: tuple[dict[str, Any], str]) -> list[tuple[str, str]]:
    compiled = [
        compile_policy(
            doc([ALLOW | on("a")], name=f"p{n}", appliesTo=dict(scope), defaultEffect=default)
        )
        for n, (scope, default) in enumerate(scoped)
    ]
    return [(one.name, other.name) for one, other in lints.conflicting_defaults(compiled)]


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        ({"tags": ["a"]}, {"tags": ["a", "b"]}, True),
        ({"tags": ["a"]}, {"tags": ["b"]}, False),
        ({"tags": ["a"]}, {"tags": ["*"]}, True),
        ({"tags": ["a"]}, {"agentIds": ["x"]}, True),
        ({"agentIds": ["x"]}, {"agentIds": ["y"]}, False),
        ({"trustTiers": ["verified"]}, {"trustTiers": ["standard"]}, True),
        ({"trustTiers": ["verified"]}, {"trustTiers": ["trusted"]}, False),
        ({"orgIds": ["x"]}, {"orgIds": ["x"], "tags": ["a"]}, True),
        ({"orgIds": ["x"], "tags": ["a"]}, {"orgIds": ["y"], "tags": ["a"]}, False),
        ({"tags": ["a"]}, {"tags": []}, False),
        ({"tags": ["a"]}, {}, False),
    ],
)
def test_a_default_that_another_policy_overrules_is_found(
    one: dict[str, Any], other: dict[str, Any], conflict: bool
) -> None:
    assert conflicts((one, "allow"), (other, "deny")) == ([("p0", "p1")] if conflict else [])
    assert conflicts((other, "deny"), (one, "allow")) == ([("p1", "p0")] if conflict else [])
    assert conflicts((one, "allow"), (other, "allow")) == []
    assert conflicts((one, "deny"), (other, "deny")) == []


SCOPES = st.dictionaries(
    st.sampled_from(["agentIds", "tags", "orgIds"]),
    st.lists(st.sampled_from(["x", "y", "*"]), max_size=2),
    max_size=3,
)


@given(st.lists(st.tuples(SCOPES, st.sampled_from(["allow", "deny"])), max_size=4))
@settings(deadline=None, max_examples=100)
def test_a_default_that_is_called_overruled_is_so_for_somebody(
    scoped: list[tuple[dict[str, Any], str]],
) -> None:
    told = conflicts(*scoped)
    callers = [
        Identity(agent_id, "", "verified", 2, frozenset(tags), org, 2)
        for agent_id in ("x", "y", "z")
        for tags in ((), ("x",), ("y",), ("x", "y"))
        for org in ("", "x", "y")
    ]
    compiled = {
        f"p{n}": compile_policy(doc([ALLOW | on("a")], name=f"p{n}", appliesTo=scope))
        for n, (scope, _) in enumerate(scoped)
    }
    for one, other in told:
        assert scoped[int(one[1:])][1] == "allow"
        assert scoped[int(other[1:])][1] == "deny"
        assert any(
            compiled[one].applies_to(caller) and compiled[other].applies_to(caller)
            for caller in callers
        )
    assert len({one for one, _ in told}) == len(told)


def test_an_overruled_default_is_told_where_it_is_written() -> None:
    text = (
        'name: {}\nversion: "1"\nappliesTo: {{tags: [a]}}\n'
        "rules:\n  - effect: allow\n    actions: [x]\n{}"
    )
    parsed = [
        (name, parse_file(text.format(name, rest).encode(), name))
        for name, rest in [("a", "defaultEffect: allow\n"), ("b", "")]
    ]
    problems = build(PolicyFile(name, found.policies) for name, found in parsed).problems
    assert [*map(str, problems)] == [
        "a:7:16: warning: `a` allows by default, but for agents that it shares with `b` that one"
        " denies by default, and wins [conflicting-default]"
    ]


# ---------------------------------------------------------------- what it costs


def test_what_would_be_compared_for_too_long_is_not_compared() -> None:
    rules = [(ALLOW if n % 2 else DENY) | on(f"*{n}", f"{n}*") for n in range(600)]
    assert len(of(rules)) <= MAX_PAIRS
    same = [ALLOW | on("*") for _ in range(1_000)]
    assert len(of(same)) <= MAX_PAIRS


def test_patterns_with_stars_at_both_ends_are_not_compared_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = 0

    def counted(pattern: str) -> Matcher:
        matcher = compile_pattern(pattern)

        def matches(text: str) -> bool:
            nonlocal tried
            tried += 1
            return matcher(text)

        return matches

    monkeypatch.setattr(pattern_index, "compile_pattern", counted)
    list(of([ALLOW | on(*(f"*x{n}y*" for n in range(500)))]))
    assert tried <= MAX_PAIRS


# What is suspected to be a bug; each of these ought to hold.


def test_denials_before_an_allow_are_not_compared_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def counted(wide: str, narrow: str) -> bool:
        nonlocal compared
        compared += 1
        return compile_pattern(wide)(narrow)

    monkeypatch.setattr(lints, "covers", counted)
    before = [DENY | on(f"d{n}*") for n in range(200)]
    allows = [ALLOW | on(f"a{n}*") for n in range(30)]
    denies = [DENY | on(f"*{n}z") for n in range(30)]
    of([*before, DENY | on("a*z"), *allows, *denies])
    assert compared <= MAX_PAIRS


def test_a_denial_is_overtaken_where_two_patterns_share_their_ends() -> None:
    # `aba` is allowed, and the last rule would deny it.
    rules = [DENY | on("ab*ba"), ALLOW | on("ab*"), DENY | on("*ba")]
    assert [(lint.lint, lint.path) for lint in of(rules)] == [(lints.SHADOWED_RULE, ("rules", 2))]
