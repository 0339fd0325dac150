"""What an agent may do, as `authz policy allowed` says it, against what the gate would answer."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core import explain
from authz.core.allowed import MAX_EXCEPTIONS, MAX_PATTERNS, Allowed, Permission, allowed
from authz.core.asked import AgentSpec, Asked
from authz.core.pattern import compile_pattern, fold
from authz.core.policy_file import parse_file
from authz.core.policy_set import PolicyFile, build
from authz.core.snapshot import Snapshot

HEAD: Final = 'name: p\nversion: "1"\nappliesTo: {agentIds: ["*"]}\n'


def agent(tier: str = "verified") -> AgentSpec:
    return AgentSpec.model_validate({"id": "ann", "tier": tier})


def snapshot(text: str) -> Snapshot:
    parsed = parse_file(text.encode(), "p.yaml")
    assert not parsed.is_bad, parsed.problems
    return build([PolicyFile("p.yaml", parsed.policies, chain=parsed.chain)]).snapshot


def said(text: str, tier: str = "verified") -> dict[str, Permission]:
    found = of(text, tier)
    return {one.pattern: one for one in found.permissions}


def of(text: str, tier: str = "verified") -> Allowed:
    return allowed(snapshot(text), agent(tier).identity)


def test_each_pattern_has_its_answer_and_what_is_taken_out_of_it() -> None:
    found = said(
        HEAD + "rules:\n"
        '  - {id: never, effect: deny, actions: ["read:secrets/*", "*:passwords"]}\n'
        '  - {id: ask, effect: require_approval, actions: ["Pay:*"]}\n'
        '  - {id: rest, effect: allow, actions: ["read:*", "pay:coffee", "read:secrets/mine"]}\n'
        "defaultEffect: deny\n"
    )
    assert {text: (one.answer, one.rule) for text, one in found.items()} == {
        "read:secrets/*": ("deny", "never"),
        "*:passwords": ("deny", "never"),
        "Pay:*": ("require_approval", "ask"),
        "read:*": ("allow", "rest"),
        "pay:coffee": ("require_approval", "ask"),
        "read:secrets/mine": ("deny", "never"),
        "admin:*": ("deny", "default-deny"),
        "*": ("deny", "default-deny"),
    }
    assert found["read:*"].unless == ("read:secrets/*", "*:passwords", "read:secrets/mine")
    assert found["Pay:*"].unless == ("*:passwords",)
    assert found["*:passwords"].unless == ()
    assert list(found)[-1] == "*"


@pytest.mark.parametrize("other", ["*secret*", "*:se*ret", "r*secret", "*d:secret*", "*a*secret*"])
def test_what_another_pattern_takes_out_of_one_is_said(other: str) -> None:
    found = said(
        HEAD + f'rules:\n  - {{effect: deny, actions: ["{other}"]}}\n'
        '  - {effect: allow, actions: ["read:*"]}\n'
    )
    assert (found["read:*"].answer, found["read:*"].unless) == ("allow", (other,))


def test_a_policy_that_allows_by_default_says_so_of_everything_else() -> None:
    found = said(HEAD + 'rules: [{effect: deny, actions: ["delete:*"]}]\ndefaultEffect: allow\n')
    assert (found["*"].answer, found["*"].unless) == ("allow", ("delete:*", "admin:*"))
    assert found["admin:*"].rule == "privilege:floor"


def test_nobody_s_policy_allows_nothing() -> None:
    found = allowed(Snapshot(()), agent().identity)
    assert (found.policies, found.is_cut) == ((), False)
    assert {one.code for one in found.permissions} == {"no_policy"}
    assert not any(one.may for one in found.permissions)


def test_conditions_that_cannot_be_told_are_said() -> None:
    found = said(
        HEAD + "rules:\n"
        '  - {effect: deny, actions: ["read:*"], conditions: {resource: {startsWith: "/etc"}}}\n'
        '  - {effect: allow, actions: ["read:*"]}\n'
        '  - {effect: allow, actions: ["pay:*"], conditions: {context.amount: {lte: 5}}}\n'
        '  - {effect: allow, actions: ["go:*"], conditions: {agent.trustTier: {equals: trusted}}}\n'
        "  - {effect: allow, actions: ['or:*'], conditions: {any: [{resource: x}, {context.a: 1}]}}"
        "\n"
        "defaultEffect: deny\n"
    )
    assert (found["read:*"].answer, found["read:*"].only) == (
        "allow", ('unless resource startsWith "/etc"',),
    )  # fmt: skip
    assert (found["pay:*"].answer, found["pay:*"].only) == (
        "allow", ("if context.amount lte 5",),
    )  # fmt: skip
    assert found["or:*"].only == ('if {"any": [{"resource": "x"}, {"context.a": 1}]}',)
    # What is known of the agent is no condition any more.
    assert (found["go:*"].answer, found["go:*"].only) == ("deny", ())


def test_a_condition_cannot_help_where_something_else_denies() -> None:
    found = said(
        HEAD + "rules:\n"
        '  - {effect: deny, actions: ["pay:*"]}\n'
        '  - {effect: allow, actions: ["pay:*"], conditions: {context.amount: {lte: 5}}}\n'
    )
    assert not found["pay:*"].may


def test_tiers_floors_tokens_and_provenance_count() -> None:
    text = (
        HEAD + "rules:\n"
        '  - {effect: allow, actions: ["low:*", "admin:x", "secret:*"]}\n'
        '  - {effect: allow, actions: ["high:*"], requiredTrustTier: privileged}\n'
        '  - {effect: allow, actions: ["token:*"], requireActionToken: true}\n'
        "---\n"
        "kind: ProvenanceGate\nname: g\n"
        'requirements: [{actions: ["secret:*"], minLane: verified}]\n'
    )
    low, high = said(text), said(text, "privileged")
    assert not low["high:*"].may
    assert high["high:*"].answer == "allow"
    assert not low["admin:x"].may
    assert high["admin:x"].answer == "allow"
    assert (low["token:*"].may, low["token:*"].only) == (True, ("with an action token",))
    assert low["secret:*"].only == ("with provenance",)
    assert low["low:*"].only == ()


def test_a_dry_run_is_named() -> None:
    found = said(
        HEAD + "rules:\n"
        '  - {effect: deny, actions: ["read:x"], enforcement: dry_run}\n'
        '  - {effect: allow, actions: ["read:*"]}\n'
    )
    assert found["read:x"].answer == "would_deny"
    assert found["read:x"].may
    assert found["read:*"].unless == ("read:x",)


def test_only_so_much_is_looked_at() -> None:
    many = ", ".join(f'"a:{number}"' for number in range(MAX_PATTERNS + 10))
    found = of(HEAD + f'rules: [{{effect: allow, actions: ["a:*", {many}]}}]\n')
    assert found.is_cut
    assert len(found.permissions) == MAX_PATTERNS + 1
    denied = ", ".join(f'"a:{number}"' for number in range(MAX_EXCEPTIONS + 1))
    found = of(
        HEAD + f"rules:\n  - {{effect: deny, actions: [{denied}]}}\n"
        '  - {effect: allow, actions: ["a:*"]}\n'
    )
    assert found.is_cut
    [one] = [one for one in found.permissions if one.pattern == "a:*"]
    assert len(one.unless) == MAX_EXCEPTIONS


_ACTIONS: Final = st.text("ab*", min_size=1, max_size=4)
_RULES: Final = st.lists(
    st.tuples(st.sampled_from(["allow", "deny", "require_approval"]), _ACTIONS),
    min_size=1,
    max_size=6,
)


@settings(max_examples=1000)
@given(_RULES, st.sampled_from(["allow", "deny"]), st.text("abc", min_size=1, max_size=5))
def test_what_is_said_is_what_the_gate_answers(
    rules: list[tuple[str, str]], default: str, action: str
) -> None:
    lines = "".join(f"  - {{effect: {e}, actions: ['{p}']}}\n" for e, p in rules)
    documents = snapshot(f"{HEAD}rules:\n{lines}defaultEffect: {default}\n")
    found = allowed(documents, agent().identity)
    asked = Asked.of(agent(), action)
    answer = explain.outcome_of(explain.answer(documents, asked.identity, asked.call))
    matching = [one for one in found.permissions if compile_pattern(one.pattern)(fold(action))]
    # Of every pattern that matches: its own answer, or one of its exceptions matches too.
    for one in matching:
        if one.may and one.answer != answer:
            assert any(compile_pattern(other)(fold(action)) for other in one.unless)
    if answer != "deny":
        assert any(one.may for one in matching)
