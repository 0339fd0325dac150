"""Which policies apply to whom, which of them decides, what is enforced of that, and what names a
snapshot: the precedence of DESIGN §4 and the matching of CONTRACT §5."""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core import snapshot as snapshots
from authz.core.call import Call, from_check_request
from authz.core.compiled import compile_policy
from authz.core.errors import Code
from authz.core.evaluation import HUMAN, MAX_REMEMBERED, MEMO_SIZE, TOO_LOW, View
from authz.core.facts import Facts
from authz.core.finding import Answer, Pass
from authz.core.identity import ANONYMOUS, Identity, Unidentified
from authz.core.lints import DUPLICATE_NAME
from authz.core.mode import Mode
from authz.core.policy_doc import PolicyDoc
from authz.core.policy_file import Placed
from authz.core.policy_set import Policies, PolicyFile, build
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.stages import policy as stage
from authz.core.tiers import TIERS, rank
from authz.core.verdict import Decision, Verdict, enforced
from authz.core.verdict import judge as run
from tests import builders
from tests.builders import EVERYONE, check_request, policy, snapshot


def who(
    agent_id: str = "agent-1", *, tags: tuple[str, ...] = (), tier: str = "verified", org: str = ""
) -> Identity:
    rung = rank(tier)
    assert rung is not None
    return Identity(agent_id, "", tier, rung, frozenset(tags), org, rung)


def asks(action: str) -> Call:
    return from_check_request(check_request(headers={"x-meshguard-action": action}))


def judge(policies: Snapshot, action: str = "read:doc", caller: Identity | None = None) -> Answer:
    return stage.judge(builders.case(asks(action), caller or who(), policies))


EXPLICIT_DENY = policy("explicit-deny", [("deny", "read:*")])
EXPLICIT_APPROVAL = policy("explicit-approval", [("require_approval", "read:*")])
EXPLICIT_ALLOW = policy("explicit-allow", [("allow", "read:*")])
DEFAULT_DENY = policy("default-deny", [("allow", "other:*")], default="deny")
DEFAULT_ALLOW = policy("default-allow", [("deny", "other:*")], default="allow")
STRONGEST_FIRST = [
    (EXPLICIT_DENY, Code.RULE_DENIED),
    (EXPLICIT_APPROVAL, Code.APPROVAL_REQUIRED),
    (EXPLICIT_ALLOW, Code.RULE_ALLOWED),
    (DEFAULT_DENY, Code.DEFAULT_DENIED),
    (DEFAULT_ALLOW, Code.DEFAULT_ALLOWED),
]


@pytest.mark.parametrize("size", range(1, 6))
def test_the_strongest_kind_of_answer_decides_and_is_named(size: int) -> None:
    for places in itertools.permutations(range(5), size):
        finding = judge(snapshot(*(STRONGEST_FIRST[place][0] for place in places)))
        document, code = STRONGEST_FIRST[min(places)]
        assert (finding.code, finding.policy) == (code, document.name), places
        assert isinstance(finding, Pass) is (code.status < 400), places


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
        {"trustTiers": ["verifiedd", "root"]},
        {"agentIds": ["agent-1"], "trustTiers": ["root"]},
        {"agentIds": ["AGENT-1"]},
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
    ("require_approval", "*", "deny"),
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


def files(*given: tuple[str, list[tuple[PolicyDoc, int]]], stale: Sequence[str] = ()) -> Policies:
    """Files with policies, each with the line that it stands on."""
    return build(
        PolicyFile(
            name,
            [Placed(compile_policy(doc), line, 1, (line, 1), ()) for doc, line in documents],
            name in stale,
        )
        for name, documents in given
    )


ALLOWS, DENIES = policy("p", [("allow", "*")]), policy("p", [("deny", "*")])


def test_of_policies_with_one_name_the_first_counts_and_the_other_is_reported() -> None:
    policies, sources, problems, _ = files(("a.yaml", [(ALLOWS, 1)]), ("b.yaml", [(DENIES, 7)]))
    assert judge(policies).code is Code.RULE_ALLOWED
    assert policies.size == 1
    assert sources["p"][0].file == "a.yaml"
    [problem] = problems
    assert str(problem) == (
        "b.yaml:7:1: error: the policy name `p` is taken by a.yaml:1; this one is not loaded"
        f" [{DUPLICATE_NAME}]"
    )


def test_one_file_may_not_use_a_name_twice_either() -> None:
    policies, _, problems, _ = files(("a.yaml", [(DENIES, 1), (ALLOWS, 9), (ALLOWS, 20)]))
    assert judge(policies).code is Code.RULE_DENIED
    assert [(problem.line, problem.severity) for problem in problems] == [
        (9, "error"),
        (20, "error"),
    ]


def test_what_a_file_says_now_comes_before_what_another_one_said_once() -> None:
    policies, sources, problems, _ = files(
        ("a.yaml", [(ALLOWS, 1)]), ("b.yaml", [(DENIES, 7)]), stale=["a.yaml"]
    )
    assert judge(policies).code is Code.RULE_DENIED
    assert sources["p"][0].file == "b.yaml"
    assert [problem.file for problem in problems] == ["a.yaml"]
    policies, _, problems, _ = files(("a.yaml", [(DENIES, 1)]), stale=["a.yaml"])
    assert (judge(policies).code, problems) == (Code.RULE_DENIED, [])


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


def versions(*given: tuple[str, list[PolicyDoc]]) -> str:
    placed = [(name, [(document, 1) for document in documents]) for name, documents in given]
    return files(*placed).snapshot.version


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
            return ["deny", "require_approval", "allow"].index(rule.effect), rule.effect == "allow"
    return (3, False) if document.default_effect == "deny" else (4, True)


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
        st.lists(
            st.tuples(st.sampled_from(["allow", "deny", "require_approval"]), PATTERNS),
            min_size=1,
            max_size=3,
        ),
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
@settings(deadline=None, max_examples=150)
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


# What is decided and what is enforced, through the whole chain.


def doc(name: str, rules: Sequence[dict[str, Any]], **more: Any) -> PolicyDoc:
    """A policy for everyone whose rules are called r0, r1, … and are for every action."""
    written = [{"id": f"r{at}", "actions": ["*"], **rule} for at, rule in enumerate(rules)]
    return PolicyDoc.model_validate({"name": name, "appliesTo": EVERYONE, "rules": written, **more})


def decided(
    *documents: PolicyDoc, action: str = "read:doc", tier: str = "verified", meta: str = ""
) -> Verdict:
    case = builders.case(asks(action)._replace(meta=meta), who(tier=tier), snapshot(*documents))
    return run(case, CHAIN)


def said(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.stage, verdict.code, verdict.policy, verdict.rule


ALLOW: Final[dict[str, Any]] = {"effect": "allow"}
DENY: Final[dict[str, Any]] = {"effect": "deny"}
ASK: Final[dict[str, Any]] = {"effect": "require_approval"}
DRY: Final[dict[str, Any]] = {"enforcement": "dry_run"}
CAREFUL: Final[dict[str, Any]] = {"conditions": {"context.careful": True}}
NEVER: Final[dict[str, Any]] = {"actions": ["never"]}


def is_dry(verdict: Verdict) -> bool:
    """A denial on record that nobody feels, in any mode."""
    assert verdict.decision is (Decision.DENY if verdict.dry_run else verdict.decision)
    if verdict.dry_run:
        assert {enforced(verdict, mode) for mode in Mode} == {Decision.ALLOW}
    else:
        assert enforced(verdict, Mode.ENFORCE) is verdict.decision
    return verdict.dry_run


@pytest.mark.parametrize(
    ("rules", "more", "expected", "dry"),
    [
        ([DENY | DRY, ALLOW], {}, ("policy", "rule_denied", "p", "r0"), True),
        ([ASK | DRY, ALLOW], {}, ("policy", "approval_required", "p", "r0"), True),
        ([ALLOW | DRY, DENY], {}, ("policy", "rule_denied", "p", "r1"), False),
        ([DENY | DRY, DENY], {}, ("policy", "rule_denied", "p", "r1"), False),
        ([DENY | DRY, ASK], {}, ("policy", "approval_required", "p", "r1"), False),
        ([ALLOW, DENY | DRY], {}, ("policy", "rule_allowed", "p", "r0"), False),
        ([ALLOW | DRY], {}, ("policy", "default_denied", "p", "default-deny"), False),
        ([ALLOW | DRY, ALLOW], {}, ("policy", "rule_allowed", "p", "r1"), False),
        ([DENY | DRY], {"defaultEffect": "allow"}, ("policy", "rule_denied", "p", "r0"), True),
        (
            [ALLOW | DRY],
            {"defaultEffect": "allow"},
            ("policy", "default_allowed", "p", "default-allow"),
            False,
        ),
        ([DENY | DRY | CAREFUL, ALLOW], {}, ("policy", "rule_denied", "p", "r0"), True),
        ([ALLOW | DRY | CAREFUL, ALLOW], {}, ("policy", "rule_allowed", "p", "r1"), False),
        ([DENY | DRY | NEVER, ALLOW], {}, ("policy", "rule_allowed", "p", "r1"), False),
        ([DENY | DRY, DENY | DRY, ALLOW], {}, ("policy", "rule_denied", "p", "r0"), True),
        (
            [ALLOW | DRY | {"requiredTrustTier": "trusted"}, ALLOW],
            {},
            ("privilege", "insufficient_trust_tier", "p", TOO_LOW),
            True,
        ),
        (
            [DENY | DRY, ALLOW | {"requiredTrustTier": "trusted"}],
            {},
            ("privilege", "insufficient_trust_tier", "p", TOO_LOW),
            False,
        ),
        (
            [ALLOW, DENY | DRY],
            {"ruleOrder": "deny-overrides"},
            ("policy", "rule_denied", "p", "r1"),
            True,
        ),
    ],
)
def test_a_rule_in_dry_run_is_recorded_and_what_the_others_say_is_enforced(
    rules: list[dict[str, Any]],
    more: dict[str, Any],
    expected: tuple[str, str, str, str],
    dry: bool,
) -> None:
    verdict = decided(doc("p", rules, **more))
    assert said(verdict) == expected
    assert is_dry(verdict) is dry


LENIENT: Final = doc("lenient", [ALLOW])
SILENT: Final = doc("silent", [NEVER | DENY])
OPEN: Final = doc("open", [NEVER | DENY], defaultEffect="allow")
STRICT: Final = doc("strict", [DENY])


@pytest.mark.parametrize(
    ("tried", "others", "expected", "dry"),
    [
        # Alone it decides, and does not block.
        (doc("dry", [DENY], **DRY), [], ("policy", "rule_denied", "dry", "r0"), True),
        (doc("dry", [ASK], **DRY), [], ("policy", "approval_required", "dry", "r0"), True),
        (
            doc("dry", [NEVER | ALLOW], **DRY),
            [],
            ("policy", "default_denied", "dry", "default-deny"),
            True,
        ),
        (doc("dry", [ALLOW], **DRY), [], ("policy", "rule_allowed", "dry", "r0"), False),
        (
            doc("dry", [ALLOW], requiredTrustTier="trusted", **DRY),
            [],
            ("privilege", "insufficient_trust_tier", "dry", TOO_LOW),
            True,
        ),
        (
            doc("dry", [ALLOW], humanInTheLoop={"requireApproval": ["read:*"]}, **DRY),
            [],
            ("policy", "approval_required", "dry", HUMAN),
            True,
        ),
        # Beside others it is heard and not obeyed.
        (doc("dry", [DENY], **DRY), [LENIENT], ("policy", "rule_denied", "dry", "r0"), True),
        (doc("dry", [ASK], **DRY), [LENIENT], ("policy", "approval_required", "dry", "r0"), True),
        (doc("dry", [DENY], **DRY), [OPEN], ("policy", "rule_denied", "dry", "r0"), True),
        (
            doc("dry", [NEVER | ALLOW], **DRY),
            [OPEN],
            ("policy", "default_denied", "dry", "default-deny"),
            True,
        ),
        # A default denial loses to an allow, dry run or not.
        (
            doc("dry", [NEVER | ALLOW], **DRY),
            [LENIENT],
            ("policy", "rule_allowed", "lenient", "r0"),
            False,
        ),
        (doc("dry", [ALLOW], **DRY), [LENIENT], ("policy", "rule_allowed", "lenient", "r0"), False),
        # It allows nothing that the others deny.
        (
            doc("dry", [ALLOW], **DRY),
            [SILENT],
            ("policy", "default_denied", "silent", "default-deny"),
            False,
        ),
        (doc("dry", [ALLOW], **DRY), [STRICT], ("policy", "rule_denied", "strict", "r0"), False),
        (doc("dry", [DENY], **DRY), [STRICT], ("policy", "rule_denied", "strict", "r0"), False),
        (
            doc("dry", [ALLOW], requiredTrustTier="privileged", **DRY),
            [LENIENT],
            ("privilege", "insufficient_trust_tier", "dry", TOO_LOW),
            True,
        ),
        (
            doc("dry", [DENY], **DRY),
            [doc("floor", [ALLOW], requiredTrustTier="trusted")],
            ("privilege", "insufficient_trust_tier", "floor", TOO_LOW),
            False,
        ),
    ],
)
def test_a_policy_in_dry_run_is_recorded_and_what_the_others_say_is_enforced(
    tried: PolicyDoc,
    others: list[PolicyDoc],
    expected: tuple[str, str, str, str],
    dry: bool,
) -> None:
    verdict = decided(tried, *others)
    assert said(verdict) == expected
    assert is_dry(verdict) is dry


def test_a_dry_run_lets_nobody_in_who_has_no_usable_token() -> None:
    nobody = Unidentified(Code.TOKEN_MISSING, "no token", ours=False)
    case = builders.case(asks("read:doc"), nobody, snapshot(doc("dry", [ALLOW], **DRY)))
    verdict = run(case, CHAIN)
    assert (verdict.code, verdict.dry_run) == (Code.TOKEN_MISSING, False)
    assert enforced(verdict, Mode.ENFORCE) is Decision.DENY


def test_a_dry_run_for_others_unblocks_nobody() -> None:
    other = doc("dry", [ALLOW], appliesTo={"agentIds": ["agent-2"]}, **DRY)
    assert said(decided(other))[1] == Code.NO_POLICY
    assert not is_dry(decided(other))


TIER_CHOICES = st.sampled_from(["basic", "verified", "trusted", "elevated"])
DRAWN_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "effect": st.sampled_from(["allow", "allow", "deny", "require_approval"]),
            "actions": st.lists(
                st.sampled_from(["*", "read:*", "read:doc", "write:*", "*:doc"]),
                min_size=1,
                max_size=2,
            ),
        },
        optional={
            "enforcement": st.just("dry_run"),
            "requiredTrustTier": TIER_CHOICES,
            "conditions": st.sampled_from(
                [{"context.x": 1}, {"not": {"context.x": 1}}, {"context.y": {"exists": True}}]
            ),
        },
    ),
    min_size=1,
    max_size=3,
)
DRAWN_POLICIES = st.lists(
    st.fixed_dictionaries(
        {"rules": DRAWN_RULES, "defaultEffect": st.sampled_from(["allow", "deny"])},
        optional={
            "enforcement": st.just("dry_run"),
            "requiredTrustTier": TIER_CHOICES,
            "humanInTheLoop": st.just({"requireApproval": ["read:doc"]}),
            "ruleOrder": st.just("deny-overrides"),
        },
    ),
    min_size=1,
    max_size=3,
)


def without_dry_runs(drawn: dict[str, Any]) -> dict[str, Any]:
    # A rule that never matches keeps the places of the others.
    rules = [rule | NEVER if rule.get("enforcement") else rule for rule in drawn["rules"]]
    return drawn | {"rules": rules}


def all_enforced(drawn: dict[str, Any]) -> dict[str, Any]:
    rules = [rule | {"enforcement": "enforce"} for rule in drawn["rules"]]
    return drawn | {"rules": rules, "enforcement": "enforce"}


@given(
    DRAWN_POLICIES,
    st.sampled_from(["read:doc", "read:x", "write:doc", "list"]),
    st.sampled_from(["basic", "verified", "trusted"]),
    st.sampled_from(["", "{}", '{"x": 1}', '{"x": 2, "y": 0}']),
)
@settings(deadline=None, max_examples=150)
def test_a_dry_run_changes_nothing_of_what_is_enforced_and_records_what_it_would_do(
    drawn: list[dict[str, Any]], action: str, tier: str, meta: str
) -> None:
    def of(policies: list[dict[str, Any]]) -> Verdict:
        documents = [doc(f"p{at}", **written) for at, written in enumerate(policies)]
        # What became pending names the version of the policies, which differ.
        return decided(*documents, action=action, tier=tier, meta=meta)._replace(more=None)

    found = of(drawn)
    # A policy in dry run keeps its place in the list of names, and says nothing.
    kept = [
        without_dry_runs(p) if "enforcement" not in p else p | {"appliesTo": {"tags": ["nobody"]}}
        for p in drawn
    ]
    real, strict = of(kept), of([all_enforced(p) for p in drawn])
    nobody_enforces = all("enforcement" in p for p in drawn)
    if nobody_enforces:
        assert enforced(found, Mode.ENFORCE) is Decision.ALLOW
        assert found.code is strict.code
        assert found.dry_run is (strict.decision is Decision.DENY)
        return
    assert enforced(found, Mode.ENFORCE) is real.decision
    if real.decision is Decision.ALLOW and strict.decision is Decision.DENY:
        assert found == strict._replace(dry_run=True)
    else:
        assert found == real


# A person's approval.


def test_a_rule_that_requires_approval_denies_with_a_code_of_its_own() -> None:
    verdict = decided(doc("p", [NEVER | DENY, ASK | {"actions": ["read:*"]}]))
    assert said(verdict) == ("policy", "approval_required", "p", "r1")
    assert verdict.decision is Decision.DENY
    assert verdict.rule_index == 1
    assert verdict.reason == "policy p requires a person's approval for read:*"
    told = decided(doc("p", [ASK | {"reason": "ask ops first"}]))
    assert told.reason == "ask ops first"


@pytest.mark.parametrize(
    ("rules", "more", "expected"),
    [
        ([ALLOW], {}, ("policy", "approval_required", "p", HUMAN)),
        ([NEVER | DENY], {"defaultEffect": "allow"}, ("policy", "approval_required", "p", HUMAN)),
        ([ASK], {}, ("policy", "approval_required", "p", "r0")),
        ([DENY], {}, ("policy", "rule_denied", "p", "r0")),
        ([NEVER | DENY], {}, ("policy", "default_denied", "p", "default-deny")),
        ([DENY | NEVER, ALLOW | CAREFUL], {}, ("policy", "default_denied", "p", "default-deny")),
        (
            [ALLOW | {"requiredTrustTier": "privileged"}],
            {},
            ("policy", "approval_required", "p", HUMAN),
        ),
    ],
)
def test_human_in_the_loop_takes_what_the_policy_allows_and_nothing_else(
    rules: list[dict[str, Any]], more: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    human = {"requireApproval": ["write:*", "READ:*"]}
    verdict = decided(doc("p", rules, humanInTheLoop=human, **more))
    assert said(verdict) == expected
    if verdict.rule == HUMAN:
        assert verdict.rule_index is None
        assert verdict.reason == "policy p requires a person's approval for READ:*"


def test_human_in_the_loop_leaves_other_actions_alone() -> None:
    document = doc("p", [ALLOW], humanInTheLoop={"requireApproval": ["write:*"]})
    assert decided(document, action="read:doc").code is Code.RULE_ALLOWED
    assert decided(document, action="Write:doc").code is Code.APPROVAL_REQUIRED


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (LENIENT, ("policy", "approval_required", "asks", HUMAN)),
        (OPEN, ("policy", "approval_required", "asks", HUMAN)),
        (SILENT, ("policy", "approval_required", "asks", HUMAN)),
        (STRICT, ("policy", "rule_denied", "strict", "r0")),
        (doc("a", [ASK]), ("policy", "approval_required", "a", "r0")),
        (doc("z", [ASK]), ("policy", "approval_required", "z", "r0")),
    ],
)
def test_no_other_policy_can_approve_for_a_person(
    other: PolicyDoc, expected: tuple[str, str, str, str]
) -> None:
    asking = doc("asks", [ALLOW], humanInTheLoop={"requireApproval": ["*"]})
    assert said(decided(asking, other)) == expected
    assert said(decided(other, asking)) == expected


# The tier that is required.


@pytest.mark.parametrize("of_policy", ["", "unverified", "basic", "standard", "Elevated"])
@pytest.mark.parametrize("of_rule", ["", "restricted", "verified", "trusted", "unrestricted"])
def test_an_allow_is_for_the_higher_of_the_tiers_that_rule_and_policy_require(
    of_policy: str, of_rule: str
) -> None:
    rule = ALLOW | ({"requiredTrustTier": of_rule} if of_rule else {})
    more = {"requiredTrustTier": of_policy} if of_policy else {}
    required = max(rank(of_policy) or 0, rank(of_rule) or 0)
    for mine, tier in enumerate(TIERS):
        verdict = decided(doc("p", [rule], **more), tier=tier)
        if mine >= required:
            assert said(verdict) == ("policy", "rule_allowed", "p", "r0")
            continue
        assert said(verdict) == ("privilege", "insufficient_trust_tier", "p", TOO_LOW)
        assert verdict.reason == f"policy p allows * only from tier {TIERS[required]} on"
        assert (verdict.rule_index, verdict.decision) == (0, Decision.DENY)


@pytest.mark.parametrize(
    ("rules", "more", "code"),
    [
        # What takes away does so whatever the tier.
        ([DENY | {"requiredTrustTier": "privileged"}], {}, Code.RULE_DENIED),
        ([ASK | {"requiredTrustTier": "privileged"}], {}, Code.APPROVAL_REQUIRED),
        ([DENY], {"requiredTrustTier": "privileged"}, Code.RULE_DENIED),
        # The rule decides all the same: a later one is not asked.
        ([ALLOW | {"requiredTrustTier": "trusted"}, ALLOW], {}, Code.INSUFFICIENT_TRUST_TIER),
        ([ALLOW | {"requiredTrustTier": "trusted"}, DENY], {}, Code.INSUFFICIENT_TRUST_TIER),
        ([ALLOW | NEVER | {"requiredTrustTier": "trusted"}, ALLOW], {}, Code.RULE_ALLOWED),
        (
            [NEVER | DENY],
            {"requiredTrustTier": "trusted", "defaultEffect": "allow"},
            Code.INSUFFICIENT_TRUST_TIER,
        ),
        (
            [NEVER | ALLOW | {"requiredTrustTier": "trusted"}],
            {"defaultEffect": "allow"},
            Code.DEFAULT_ALLOWED,
        ),
        ([NEVER | ALLOW], {"requiredTrustTier": "trusted"}, Code.DEFAULT_DENIED),
    ],
)
def test_a_required_tier_is_asked_of_what_is_allowed_only(
    rules: list[dict[str, Any]], more: dict[str, Any], code: Code
) -> None:
    assert decided(doc("p", rules, **more)).code is code


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_a_required_tier_does_not_lose_to_an_allow_without_one(default: str) -> None:
    floor = doc("floor", [ALLOW], requiredTrustTier="trusted", defaultEffect=default)
    for documents in ([LENIENT, floor], [floor, LENIENT], [floor, LENIENT, OPEN]):
        assert said(decided(*documents)) == (
            "privilege",
            "insufficient_trust_tier",
            "floor",
            TOO_LOW,
        )
        assert decided(*documents, tier="trusted").decision is Decision.ALLOW


def test_of_default_allows_each_may_require_a_tier() -> None:
    floor = doc("z", [NEVER | DENY], requiredTrustTier="trusted", defaultEffect="allow")
    verdict = decided(OPEN, floor)
    assert said(verdict) == ("privilege", "insufficient_trust_tier", "z", TOO_LOW)
    assert verdict.reason == "policy z allows anything only from tier trusted on"
    assert decided(OPEN, floor, tier="trusted").policy == "open"
    # It is weaker than an explicit allow, and then has nothing to say.
    assert decided(LENIENT, floor).code is Code.RULE_ALLOWED


# The order of rules.


@pytest.mark.parametrize(
    ("rules", "first_match", "deny_overrides"),
    [
        ([ALLOW, DENY], "r0", "r1"),
        ([ALLOW, ASK], "r0", "r1"),
        ([ASK, DENY], "r0", "r1"),
        ([ALLOW, ASK, DENY], "r0", "r2"),
        ([DENY, ASK, ALLOW], "r0", "r0"),
        ([ALLOW, DENY | NEVER, ASK], "r0", "r2"),
        ([ALLOW, ALLOW], "r0", "r0"),
        ([ALLOW, DENY | NEVER, DENY, DENY], "r0", "r2"),
        ([ALLOW, DENY | CAREFUL], "r0", "r1"),
        ([ALLOW | CAREFUL, ALLOW], "r1", "r1"),
    ],
)
def test_with_deny_overrides_the_strictest_effect_is_looked_at_first(
    rules: list[dict[str, Any]], first_match: str, deny_overrides: str
) -> None:
    for order, rule in [("first-match", first_match), ("deny-overrides", deny_overrides)]:
        verdict = decided(doc("p", rules, ruleOrder=order))
        # The place is the one in the document.
        assert (verdict.rule, verdict.rule_index) == (rule, int(rule[1:]))
    assert decided(doc("p", rules)).rule == first_match


def test_a_rule_without_a_name_is_called_by_its_place_in_the_document() -> None:
    rules = [{"effect": "allow", "id": ""}, {"effect": "deny", "id": "", "name": "No"}]
    assert decided(doc("p", rules)).rule == "rules[0]"
    assert decided(doc("p", rules, ruleOrder="deny-overrides")).rule == "No"
    rules[1]["name"] = ""
    assert decided(doc("p", rules, ruleOrder="deny-overrides")).rule == "rules[1]"


# What else a rule says.


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (ALLOW, Code.RULE_ALLOWED),
        (DENY, Code.RULE_DENIED),
        (ASK, Code.APPROVAL_REQUIRED),
        (ALLOW | {"requiredTrustTier": "privileged"}, Code.INSUFFICIENT_TRUST_TIER),
    ],
)
def test_how_grave_a_rule_calls_it_goes_with_its_verdict(rule: dict[str, Any], code: Code) -> None:
    verdict = decided(doc("p", [rule | {"alert": "HIGH"}]))
    assert (verdict.code, verdict.alert) == (code, "high")
    assert decided(doc("p", [rule])).alert == ""
    dry = decided(doc("p", [DENY | DRY | {"alert": "low"}, rule | {"alert": "high"}]))
    assert dry.alert == ("low" if code is Code.RULE_ALLOWED else "high")


def test_nothing_is_grave_that_no_rule_decided() -> None:
    assert decided(doc("p", [NEVER | DENY | {"alert": "critical"}])).alert == ""
    human = {"requireApproval": ["*"]}
    assert decided(doc("p", [ALLOW | {"alert": "critical"}], humanInTheLoop=human)).alert == ""


def test_a_default_denial_names_the_action_it_was_asked_for() -> None:
    silent = snapshot(SILENT)
    for action in ("read:a", "read:b", "read:a"):
        case = builders.case(asks(action), who(), silent)
        assert run(case, CHAIN).reason == f"no rule of policy silent allows {action}"


# What is remembered.


def test_what_is_remembered_is_bounded_and_right() -> None:
    view = View([compile_policy(policy("p", [("deny", "*7"), ("allow", "a*")]))], 2)
    for number in [*range(MEMO_SIZE + 100), *range(50)]:
        call = asks("x")._replace(action=f"a{number}")
        expected = Code.RULE_DENIED if number % 10 == 7 else Code.RULE_ALLOWED
        assert view.ruling(Facts(call, who())).policy.code is expected
        assert len(view._memo) + len(view._sets) <= MEMO_SIZE
    long = "a" * (MAX_REMEMBERED + 1)
    assert view.ruling(Facts(asks(long), who())).policy.code is Code.RULE_ALLOWED
    assert long not in view._memo


def test_the_callers_that_are_remembered_are_bounded_and_right() -> None:
    documents = [
        policy(f"p{n}", [("allow", "*")], applies_to={"tags": [f"t{n}"]}) for n in range(9)
    ]
    policies = snapshot(*documents)
    for number in range(snapshots.CALLERS + 100):
        tags = tuple(f"t{n}" for n in range(9) if number >> n & 1)
        caller = who(f"agent-{number}", tags=tags)
        code = Code.RULE_ALLOWED if tags else Code.NO_POLICY
        assert judge(policies, caller=caller).code is code
        assert len(policies.callers()) <= snapshots.CALLERS
        assert len(policies._views) <= snapshots.VIEWS


def test_two_callers_of_different_tiers_do_not_share_an_answer() -> None:
    policies = snapshot(doc("p", [ALLOW | {"requiredTrustTier": "trusted"}]))
    for tier, decision in [
        ("trusted", Decision.ALLOW),
        ("basic", Decision.DENY),
        ("privileged", Decision.ALLOW),
        ("verified", Decision.DENY),
    ]:
        for _ in range(2):
            found = run(builders.case(asks("read:doc"), who(tier=tier), policies), CHAIN)
            assert found.decision is decision


def test_a_policy_of_every_kind_of_part_keeps_its_version_when_it_is_read_back() -> None:
    human = {"requireApproval": ["x"]}
    document = doc("p", [ALLOW | DRY | CAREFUL, DENY], humanInTheLoop=human, **DRY)
    compiled = compile_policy(document)
    assert compiled.document == document
    assert json.loads(compiled.said)["rules"][0]["enforcement"] == "dry_run"
    assert Snapshot([compile_policy(compiled.document)]).version == Snapshot([compiled]).version
