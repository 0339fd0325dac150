"""Which policies apply to whom, which of them decides, and what names a snapshot: the precedence
of DESIGN §4 and the matching of CONTRACT §5."""

import itertools
import re
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.call import Call, from_check_request
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import Finding, Pass
from authz.core.identity import ANONYMOUS, Identity
from authz.core.policy_doc import PolicyDoc
from authz.core.snapshot import Snapshot, build
from authz.core.stages import policy as stage
from authz.core.tiers import rank
from tests.builders import check_request, policy, snapshot


def who(
    agent_id: str = "agent-1", *, tags: tuple[str, ...] = (), tier: str = "verified", org: str = ""
) -> Identity:
    rung = rank(tier)
    assert rung is not None
    return Identity(agent_id, "", tier, rung, frozenset(tags), org)


def asks(action: str) -> Call:
    return from_check_request(check_request(headers={"x-meshguard-action": action}))


def judge(policies: Snapshot, action: str = "read:doc", caller: Identity | None = None) -> Finding:
    return stage.judge(Case(asks(action), caller or who(), policies))


EXPLICIT_DENY = policy("explicit-deny", [("deny", "read:*")])
EXPLICIT_ALLOW = policy("explicit-allow", [("allow", "read:*")])
DEFAULT_DENY = policy("default-deny", [("allow", "other:*")], default="deny")
DEFAULT_ALLOW = policy("default-allow", [("deny", "other:*")], default="allow")
STRONGEST_FIRST = [
    (EXPLICIT_DENY, Code.RULE_DENIED),
    (EXPLICIT_ALLOW, Code.RULE_ALLOWED),
    (DEFAULT_DENY, Code.DEFAULT_DENIED),
    (DEFAULT_ALLOW, Code.DEFAULT_ALLOWED),
]


@pytest.mark.parametrize(
    "places",
    [places for size in (1, 2, 3, 4) for places in itertools.permutations(range(4), size)],
    ids=lambda places: "".join(map(str, places)),
)
def test_the_strongest_kind_of_answer_decides_and_is_named(places: tuple[int, ...]) -> None:
    finding = judge(snapshot(*(STRONGEST_FIRST[place][0] for place in places)))
    document, code = STRONGEST_FIRST[min(places)]
    assert (finding.code, finding.policy) == (code, document.name)
    assert isinstance(finding, Pass) is (code.status < 400)


def test_kinds_are_stronger_than_narrower_addresses() -> None:
    finding = judge(
        snapshot(
            policy("mine", [("allow", "*")], applies_to={"agentIds": ["agent-1"]}),
            policy("all", [("deny", "*")]),
        )
    )
    assert (finding.code, finding.policy) == (Code.RULE_DENIED, "all")


@pytest.mark.parametrize(
    ("rules", "code", "index"),
    [
        ([("allow", "read:*"), ("deny", "read:doc")], Code.RULE_ALLOWED, 0),
        ([("deny", "read:doc"), ("allow", "read:*")], Code.RULE_DENIED, 0),
        ([("deny", "write:*"), ("allow", "read:*"), ("deny", "*")], Code.RULE_ALLOWED, 1),
        ([("deny", "write:*"), ("allow", "exec:*")], Code.DEFAULT_DENIED, None),
    ],
)
def test_inside_a_policy_the_first_matching_rule_decides(
    rules: list[tuple[str, str]], code: Code, index: int | None
) -> None:
    finding = judge(snapshot(policy("p", rules)))
    assert (finding.code, finding.rule_index) == (code, index)


def test_no_policy_at_all_is_a_denial_of_its_own() -> None:
    finding = judge(snapshot())
    assert not isinstance(finding, Pass)
    assert (finding.code, finding.policy, finding.rule) == (
        Code.NO_POLICY,
        "default",
        "default-deny",
    )


@pytest.mark.parametrize(
    "applies_to",
    [
        None,
        {},
        {"tags": []},
        {"agentIds": [], "tags": [], "trustTiers": [], "orgIds": []},
        {"agentIds": ["agent-2"]},
        {"tags": ["ops"]},
        {"trustTiers": ["basic", "trusted"]},
        {"orgIds": ["other"]},
        {"tags": ["ci"], "agentIds": ["agent-2"]},
        {"tags": ["ci"], "trustTiers": ["privileged"]},
        {"tags": ["*"], "orgIds": ["other"]},
        {"tags": ["ci", "ops"], "trustTiers": ["verified"], "orgIds": ["other"]},
    ],
    ids=str,
)
def test_a_policy_that_is_for_others_or_for_nobody_does_not_apply(
    applies_to: Mapping[str, object] | None,
) -> None:
    caller = who(tags=("ci", "dev"), org="acme")
    policies = snapshot(policy("p", [("allow", "*")], applies_to=applies_to))
    assert judge(policies, caller=caller).code is Code.NO_POLICY


@pytest.mark.parametrize(
    "applies_to",
    [
        {"agentIds": ["agent-1"]},
        {"agentIds": ["agent-0", "agent-1"]},
        {"agentIds": ["*"]},
        {"tags": ["ops", "ci"]},
        {"tags": ["*"]},
        {"trustTiers": ["verified"]},
        {"trustTiers": ["standard"]},
        {"trustTiers": ["Verified", "basic"]},
        {"trustTiers": ["*"]},
        {"orgIds": ["acme"]},
        {"tags": ["ci"], "agentIds": ["agent-1"], "trustTiers": ["standard"], "orgIds": ["acme"]},
        {"tags": ["*"], "agentIds": ["agent-1"]},
    ],
    ids=str,
)
def test_a_policy_applies_when_every_list_that_it_has_names_the_caller(
    applies_to: Mapping[str, object],
) -> None:
    caller = who(tags=("ci", "dev"), org="acme")
    policies = snapshot(policy("p", [("allow", "*")], applies_to=applies_to))
    assert judge(policies, caller=caller).policy == "p"


@pytest.mark.parametrize("alias", ["untrusted", "anonymous", "sandboxed", "restricted"])
def test_a_caller_without_identity_is_of_the_lowest_tier(alias: str) -> None:
    policies = snapshot(policy("p", [("allow", "*")], applies_to={"trustTiers": [alias]}))
    assert judge(policies, caller=ANONYMOUS).code is Code.RULE_ALLOWED


def test_a_star_matches_even_a_caller_without_tags_and_ids() -> None:
    lists = {"agentIds": ["*"], "tags": ["*"], "trustTiers": ["*"], "orgIds": ["*"]}
    policies = snapshot(policy("p", [("allow", "*")], applies_to=lists))
    assert judge(policies, caller=ANONYMOUS).code is Code.RULE_ALLOWED


LADDER = [
    ("z-agent", {"agentIds": ["agent-1"]}),
    ("y-tag", {"tags": ["ci"]}),
    ("x-tier", {"trustTiers": ["verified"]}),
    ("w-org", {"orgIds": ["acme"]}),
]
ENDS = [
    ("deny", "*", "deny"),
    ("allow", "*", "deny"),
    ("allow", "other", "deny"),
    ("deny", "other", "allow"),
]


@pytest.mark.parametrize(("effect", "pattern", "default"), ENDS)
@pytest.mark.parametrize("first", range(4))
def test_of_equals_the_most_narrowly_addressed_is_named(
    first: int, effect: str, pattern: str, default: str
) -> None:
    caller = who(tags=("ci",), org="acme")
    documents = [
        policy(name, [(effect, pattern)], default=default, applies_to=scope)
        for name, scope in LADDER[first:]
    ]
    for ordered in (documents, documents[::-1]):
        assert judge(snapshot(*ordered), caller=caller).policy == LADDER[first][0]


@pytest.mark.parametrize(("effect", "pattern", "default"), ENDS)
def test_of_equally_narrow_ones_the_first_by_name_is_named(
    effect: str, pattern: str, default: str
) -> None:
    documents = [policy(name, [(effect, pattern)], default=default) for name in "cab"]
    assert judge(snapshot(*documents)).policy == "a"


def test_of_policies_with_one_name_the_first_counts_and_the_other_is_reported() -> None:
    first, second = policy("p", [("allow", "*")]), policy("p", [("deny", "*")])
    policies, problems = build([("a.yaml", [(first, 1)]), ("b.yaml", [(second, 7)])])
    assert judge(policies).code is Code.RULE_ALLOWED
    assert [(problem.file, problem.line, problem.severity) for problem in problems] == [
        ("b.yaml", 7, "error")
    ]
    assert "a.yaml" in problems[0].message


def test_a_denial_carries_the_reason_that_the_policy_gives() -> None:
    document = PolicyDoc.model_validate(
        {
            "name": "p",
            "appliesTo": {"agentIds": ["*"]},
            "rules": [
                {"id": "no-doc", "effect": "deny", "actions": ["read:*"], "reason": "not today"}
            ],
        }
    )
    finding = judge(snapshot(document))
    assert (finding.rule, finding.reason) == ("no-doc", "not today")


def versions(*files: tuple[str, list[PolicyDoc]]) -> str:
    return build([(name, [(document, 1) for document in documents]) for name, documents in files])[
        0
    ].version


A, B = policy("a", [("allow", "x")]), policy("b", [("deny", "y")])


def test_the_same_policies_have_the_same_version_whatever_their_files() -> None:
    assert (
        versions(("1.yaml", [A]), ("2.yaml", [B]))
        == versions(("z.yaml", [B]), ("y.yaml", [A]))
        == versions(("both.yaml", [B, A]))
    )


@pytest.mark.parametrize(
    "other",
    [
        policy("c", [("allow", "x")]),
        policy("a", [("deny", "x")]),
        policy("a", [("allow", "y")]),
        policy("a", [("allow", "x")], default="allow"),
        policy("a", [("allow", "x")], applies_to={"tags": ["*"]}),
        policy("a", [("allow", "x"), ("allow", "y")]),
    ],
)
def test_other_policies_have_another_version(other: PolicyDoc) -> None:
    assert versions(("1.yaml", [A])) != versions(("1.yaml", [other]))
    assert versions(("1.yaml", [A, B])) != versions(("1.yaml", [other, B]))


def test_the_order_of_rules_is_part_of_the_version() -> None:
    rules = [("allow", "x"), ("deny", "*")]
    one, two = policy("a", rules), policy("a", rules[::-1])
    assert versions(("1.yaml", [one])) != versions(("1.yaml", [two]))


def test_no_policies_have_a_version_too() -> None:
    assert versions()
    assert versions() != versions(("1.yaml", [A]))


# A second evaluator, written from CONTRACT §5 alone, in the slowest and plainest way.

LISTS = ("agentIds", "tags", "trustTiers", "orgIds")


def naive_matches(pattern: str, action: str) -> bool:
    expression = ".*".join(re.escape(piece) for piece in pattern.strip().split("*"))
    return re.fullmatch(expression, action.strip(), re.IGNORECASE | re.DOTALL) is not None


def naive_applies(document: PolicyDoc, caller: Identity) -> bool:
    scope = document.applies_to
    lists: list[tuple[list[str] | None, Callable[[str], bool]]] = [
        (scope.agent_ids, lambda wanted: wanted == caller.agent_id),
        (scope.tags, lambda wanted: wanted in caller.tags),
        (scope.trust_tiers, lambda wanted: rank(wanted) == rank(caller.tier)),
        (scope.org_ids, lambda wanted: wanted == caller.org_id),
    ]
    present = [(names, is_caller) for names, is_caller in lists if names is not None]
    return bool(present) and all(
        any(name == "*" or is_caller(name) for name in names) for names, is_caller in present
    )


def naive_answer(document: PolicyDoc, action: str) -> tuple[int, bool]:
    """How strong this policy's answer is, 0 the strongest, and whether it allows."""
    for rule in document.rules:
        if any(naive_matches(pattern, action) for pattern in rule.actions):
            return (0, False) if rule.effect == "deny" else (1, True)
    return (2, False) if document.default_effect == "deny" else (3, True)


def naive_order(document: PolicyDoc) -> tuple[object, ...]:
    scope = document.applies_to
    lists = (scope.agent_ids, scope.tags, scope.trust_tiers, scope.org_ids)
    return (*(names is None for names in lists), document.name)


SEGMENTS = st.sampled_from(["read", "write", "*", "doc", "DOC", "a.b", "re*"])
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=2).map(":".join)
SCOPES = st.dictionaries(st.sampled_from(LISTS), st.booleans(), max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries(
        {
            name: st.lists(
                st.sampled_from(
                    {
                        "agentIds": ["agent-1", "agent-2", "*"],
                        "tags": ["ci", "ops", "dev", "*"],
                        "trustTiers": ["basic", "verified", "standard", "elevated", "*"],
                        "orgIds": ["acme", "other", "*"],
                    }[name]
                ),
                min_size=1,
                max_size=2,
            )
            for name in chosen
        }
    )
)
POLICIES = st.lists(
    st.builds(
        lambda rules, default, scope: (rules, default, scope),
        st.lists(st.tuples(st.sampled_from(["allow", "deny"]), PATTERNS), min_size=1, max_size=3),
        st.sampled_from(["allow", "deny"]),
        SCOPES,
    ),
    max_size=4,
)
CALLERS = st.builds(
    lambda agent_id, tags, tier, org: who(agent_id, tags=tuple(tags), tier=tier, org=org),
    st.sampled_from(["agent-1", "agent-2", "agent-3"]),
    st.sets(st.sampled_from(["ci", "ops", "dev"])),
    st.sampled_from(["unverified", "basic", "verified", "trusted", "elevated"]),
    st.sampled_from(["", "acme", "other"]),
)


@given(
    POLICIES,
    CALLERS,
    st.lists(
        st.sampled_from(["read:doc", "READ:a.b", "write:doc", "reset", "read:", "x:y:z", " read "]),
        min_size=1,
        max_size=3,
    ),
)
@settings(deadline=None, max_examples=1000)
def test_any_policies_and_requests_agree_with_a_plain_reading_of_the_contract(
    drawn: list[tuple[list[tuple[str, str]], str, dict[str, list[str]]]],
    caller: Identity,
    actions: list[str],
) -> None:
    documents = [
        policy(f"p{at}", rules, default=default, applies_to=scope)
        for at, (rules, default, scope) in enumerate(drawn)
    ]
    policies = snapshot(*documents)
    applicable = sorted(
        (document for document in documents if naive_applies(document, caller)), key=naive_order
    )
    # `*` beside a name: how narrow that is, the contract leaves open.
    narrowness_is_plain = not any("*" in names for *_, scope in drawn for names in scope.values())
    for action in actions:
        finding = judge(policies, action, caller)
        if not applicable:
            assert finding.code is Code.NO_POLICY
            continue
        answers = [(naive_answer(document, action), document.name) for document in applicable]
        strength, allowed = min(answer for answer, _ in answers)
        assert isinstance(finding, Pass) is allowed
        assert finding.code is STRONGEST_FIRST[strength][1]
        equals = [name for answer, name in answers if answer[0] == strength]
        assert finding.policy in equals
        if narrowness_is_plain:
            assert finding.policy == equals[0]
