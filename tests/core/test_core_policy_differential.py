"""For any set of policies, callers and requests, what is recorded and what is enforced are what
`naive_policy` says, which was written from the contract alone and shares no line with the core.

- One snapshot answers many requests of many callers, each of them twice: what it remembers and how
  it finds policies change no answer.
- What is large is drawn from small alphabets, so that policies overlap; what is small is tried in
  full: every operator on every kind of value, every order of rules, every pair of scopes.
- The last tests show that every kind of answer, operator and truth value is really reached.
"""

import json
import operator
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, combinations_with_replacement, permutations, product
from typing import Any, Final, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from authz.core import policy_file, tiers
from authz.core.call import from_check_request
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.verdict import enforced, judge
from tests import builders
from tests.builders import check_request
from tests.core import naive_policy
from tests.core.naive_policy import Answer, Truth, decide

HOST: Final = "upstream.example"
VERBS: Final = {"GET": "read", "POST": "write", "DELETE": "delete", "TRACE": "execute"}

#: In no order, and in another one with upper case before lower.
NAMES: Final = ("b", "A", "a", "Z", "default")
IDS: Final = ("a", "b", "A")
TIERS: Final = ("unverified", "Untrusted", "basic", "verified", "standard", "Trusted", "privileged")
ACTIONS: Final = ("a", "b", "ab", "Ab", "a:b", "a:B", "b:a", "aa:b", "ab:ab")
PATHS: Final = ("", "a", "A/b", "docs/a")
RESOURCES: Final = ("a", "A", "ab", "docs/a", "Docs/A/b", "b/a", "1", "\u00c9a", "stra\u00dfe")
TEXTS: Final = ("a", "A", "ab", "docs", "/a", "docs/A", "GET", HOST, "1", "\u00e9a")
GLOBS: Final = ("*", "**", "A*", "*a", "**/a", "a/**", "docs/**/a", "d*/A/*", " *b ", "*.example")
METAS_WITHOUT_OBJECT: Final = ("[1]", "{", '"k"', "null")


class Asked(NamedTuple):
    """A request as it comes in; None is a header that is not sent."""

    method: str
    path: str
    action: str | None
    resource: str | None
    meta: str | None

    @property
    def acts(self) -> str:
        return self.action or f"{VERBS[self.method]}:{self.path}"


class World(NamedTuple):
    policies: list[dict[str, Any]]
    #: The documents as YAML's blocks, else as JSON.
    in_blocks: bool
    callers: list[Identity]
    requests: list[Asked]

    def questions(self) -> Iterator[tuple[Asked, Identity]]:
        """Everybody's every request, and all of it once more from the end."""
        pairs = list(product(self.requests, self.callers))
        yield from pairs
        yield from reversed(pairs)


# Requests


def _often(*weighted: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of these, each as often as its weight says; `one_of` knows no weights."""
    each = [strategy for weight, strategy in weighted for _ in range(weight)]
    return st.sampled_from(each).flatmap(lambda strategy: strategy)


SCALARS: Final = st.sampled_from(("a", "A", "ab", "1", "", 0, 1, 1.0, 0.5, True, False))
VALUES: Final = _often(
    (4, SCALARS),
    (2, st.lists(st.one_of(SCALARS, st.sampled_from((None, [1], {"n": 1}))), max_size=3)),
    (2, st.fixed_dictionaries({"n": st.one_of(SCALARS, st.none())})),
    (1, st.sampled_from((None, {}, []))),
)
METAS: Final = _often(
    (4, st.fixed_dictionaries({"k": VALUES, "m": VALUES}).map(json.dumps)),
    (2, st.fixed_dictionaries({"k": VALUES}).map(json.dumps)),
    (1, st.sampled_from((None, *METAS_WITHOUT_OBJECT))),
)
REQUESTS: Final = st.builds(
    Asked,
    method=st.sampled_from(tuple(VERBS)),
    path=st.sampled_from(PATHS),
    action=st.sampled_from((*ACTIONS, None)),
    resource=st.sampled_from((*RESOURCES, None, None)),
    meta=METAS,
)
CALLERS: Final = st.builds(
    lambda agent_id, tier, tags, org: Identity(
        agent_id, "", tier, tiers.rank(tier) or 0, frozenset(tags), org, tiers.rank(tier) or 0
    ),
    st.sampled_from(IDS),
    st.sampled_from(TIERS),
    st.sampled_from([tags for size in range(4) for tags in combinations(IDS, size)]),
    st.sampled_from(("", *IDS)),
)


# Policies. A draw costs more than a decision: what can be listed is listed, and drawn in one go.


def _one_of_each(*choices: Sequence[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """One of each choice, merged."""
    return st.sampled_from([dict(ChainMap(*parts)) for parts in product(*choices)])


def patterns_for(actions: Iterable[str]) -> list[str]:
    """Actions, parts of them with stars for the rest, and misses by a character at either end; in
    any case, with blanks around or without."""
    found: list[str] = []
    for action in actions:
        size = len(action)
        for first, second in combinations_with_replacement(range(size + 1), 2):
            head, middle, tail = action[:first], action[first:second], action[second:]
            found += [f"{head}*{tail}", f"*{middle}*", f"*{middle}{tail}", f"{head}{middle}*"]
            found += [f"{head}**{tail}", f"{head}*{middle}*{tail}"]
        found += [action] * size
    found += [f"{pattern}b" for pattern in found[::3]] + [f"a{pattern}" for pattern in found[::3]]
    found += [f" {pattern.swapcase()} " for pattern in found[::7]]
    found += [pattern.upper() for pattern in found[::3]]
    return found


def _one_or_more(single: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(single, st.lists(single, min_size=1, max_size=3))


PLAIN_TEXTS: Final = st.sampled_from(TEXTS)
CONDITION_PATTERNS: Final = st.one_of(
    PLAIN_TEXTS,
    st.sampled_from(GLOBS),
    st.text("abAd/*", min_size=1, max_size=6).filter(lambda text: "***" not in text),
)
NUMBERS: Final = st.sampled_from((0, 1, 2, -1, 1.0, 0.5))
TEXTS_AND_SCALARS: Final = st.one_of(PLAIN_TEXTS, SCALARS)
TESTS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "equals": TEXTS_AND_SCALARS,
    "notEquals": TEXTS_AND_SCALARS,
    "in": st.lists(TEXTS_AND_SCALARS, min_size=1, max_size=3),
    "notIn": st.lists(TEXTS_AND_SCALARS, min_size=1, max_size=3),
    "matches": _one_or_more(CONDITION_PATTERNS),
    "notMatches": _one_or_more(CONDITION_PATTERNS),
    "startsWith": _one_or_more(PLAIN_TEXTS),
    "endsWith": _one_or_more(PLAIN_TEXTS),
    "contains": _one_or_more(TEXTS_AND_SCALARS),
    "lt": NUMBERS,
    "lte": NUMBERS,
    "gt": NUMBERS,
    "gte": NUMBERS,
    "exists": st.booleans(),
}
TAG_TESTS: Final = {name: TESTS[name] for name in ("contains", "exists")}
TIER_NAMES: Final = st.sampled_from(TIERS)
TIER_TESTS: Final[dict[str, st.SearchStrategy[Any]]] = {
    **dict.fromkeys(("equals", "notEquals", "lt", "lte", "gt", "gte"), TIER_NAMES),
    **dict.fromkeys(("in", "notIn"), st.lists(TIER_NAMES, min_size=1, max_size=3)),
    "exists": st.booleans(),
}


def _tests(operators: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """A value or a list of them, where both may be meant, or one or two operators."""
    bare = [operators[name] for name in ("equals", "in") if name in operators]
    single, double = (
        st.one_of(
            [
                st.fixed_dictionaries({name: operators[name] for name in names})
                for names in combinations(operators, size)
            ]
        )
        for size in (1, 2)
    )
    return _often((3, single), (2, double), (1, st.one_of(bare) if bare else single))


ANY_TESTS: Final[st.SearchStrategy[Any]] = _tests(TESTS)
TESTS_OF_TEXT: Final = _often(
    (3, _tests({name: test for name, test in TESTS.items() if test is not NUMBERS})), (1, ANY_TESTS)
)
FACTS: Final[dict[str, st.SearchStrategy[Any]]] = {
    **dict.fromkeys(("context.k", "context.m", "context.k.n"), ANY_TESTS),
    "context": st.sampled_from((("k",), ("m",), ("k.n",), ("k", "m"))).flatmap(
        lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, ANY_TESTS))
    ),
    **dict.fromkeys(
        ("resource", "method", "path", "host", "agent.id", "agent.orgId"), TESTS_OF_TEXT
    ),
    "agent.tags": _tests(TAG_TESTS),
    "agent.trustTier": _tests(TIER_TESTS),
}
LINES: Final = _often(
    *(
        (
            3 if names[0].startswith("context") else 1,
            st.fixed_dictionaries({n: FACTS[n] for n in names}),
        )
        for names in [*((name,) for name in FACTS), ("resource", "context.k"), ("context", "path")]
    )
)


def _nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """All, any or none of some conditions, beside a fact or alone."""
    several = st.lists(inner, min_size=1, max_size=2)
    words: list[dict[str, st.SearchStrategy[Any]]] = [
        {"all": several},
        {"any": several},
        {"not": inner},
        {"not": inner, "any": several},
    ]
    beside = [{**word, "context.m": ANY_TESTS} for word in words]
    return st.one_of([st.fixed_dictionaries(mapping) for mapping in [*words, *beside]])


CONDITIONS: Final = _often(
    (4, LINES), (2, _nested(LINES)), (1, _nested(st.one_of(LINES, _nested(LINES))))
)

NO: Final[dict[str, Any]] = {}
ENFORCEMENTS: Final = [NO] * 6 + [
    {"enforcement": word} for word in ("dry_run", "dry_run", "enforce")
]
FLOORS: Final = [NO] * 4 + [
    {"requiredTrustTier": tier}
    for tier in ("Anonymous", "basic", "standard", "elevated", "privileged")
]
EFFECTS: Final = ("allow", "allow", "allow", "ALLOW", "deny", "deny", "Deny", "require_approval")


#: Stands for the pattern of this number, modulo their count, among those for the world's actions.
PATTERNS: Final = st.lists(st.integers(0, 10_000), min_size=1, max_size=2)
PLAIN_RULES: Final = st.fixed_dictionaries({"actions": PATTERNS})
RULES: Final = st.builds(
    operator.or_,
    _often(
        (2, PLAIN_RULES),
        (1, st.fixed_dictionaries({"actions": PATTERNS, "conditions": CONDITIONS})),
    ),
    _one_of_each([{"effect": effect} for effect in EFFECTS], ENFORCEMENTS, FLOORS),
)


def _names(known: Sequence[str]) -> list[list[str]]:
    """Lists of `appliesTo`: mostly some of the known names, a few with `*` or with nobody."""
    some = [list(names) for size in (1, 2, 3) for names in combinations(known, size)]
    return [*some, ["*"], ["nobody", "*"], ["nobody", known[0]], ["nobody"], []]


LISTS: Final = {"agentIds": _names(IDS), "tags": _names(IDS), "orgIds": _names(IDS)} | {
    "trustTiers": _names(TIERS)
}
APPLIES_TO: Final = _often(
    (10, st.just({"agentIds": ["*"]})),
    (1, st.just({})),
    *(
        (5 - size, st.fixed_dictionaries({name: st.sampled_from(LISTS[name]) for name in names}))
        for size in (1, 2, 3, 4)
        for names in combinations(LISTS, size)
    ),
)
POLICY_EXTRAS: Final = _one_of_each(
    [NO, *({"defaultEffect": effect} for effect in ("deny", "allow", "allow", "allow"))],
    [NO] * 3 + [{"ruleOrder": order} for order in ("deny-overrides", "first-match")],
    ENFORCEMENTS,
    FLOORS,
)


PLAIN_POLICIES: Final = st.fixed_dictionaries(
    {"appliesTo": APPLIES_TO, "rules": st.lists(RULES, min_size=1, max_size=4)}
)
POLICIES: Final = st.builds(
    operator.or_,
    _often(
        (5, PLAIN_POLICIES),
        (
            1,
            st.builds(
                lambda own, asked: {**own, "humanInTheLoop": {"requireApproval": asked}},
                PLAIN_POLICIES,
                PATTERNS,
            ),
        ),
    ),
    POLICY_EXTRAS,
)


def _policy(name: str, drawn: dict[str, Any], patterns: list[str]) -> dict[str, Any]:
    """What was drawn, with a name and with patterns instead of their numbers."""

    def at(numbers: list[int]) -> list[str]:
        return [patterns[number % len(patterns)] for number in numbers]

    rules = [{**rule, "actions": at(rule["actions"])} for rule in drawn["rules"]]
    policy = {"name": name, "version": "1", **drawn, "rules": rules}
    if "humanInTheLoop" in drawn:
        asked = drawn["humanInTheLoop"]["requireApproval"]
        policy["humanInTheLoop"] = {"requireApproval": at(asked)}
    return policy


def _world(
    requests: list[Asked],
    callers: list[Identity],
    names: list[str],
    drawn: list[dict[str, Any]],
    in_blocks: bool,
) -> World:
    patterns = patterns_for(request.acts for request in requests)
    # The names are as many as there are policies, or more.
    policies = [_policy(name, policy, patterns) for name, policy in zip(names, drawn, strict=False)]
    return World(policies, in_blocks, callers, requests)


WORLDS: Final = st.builds(
    _world,
    requests=st.integers(1, 4).flatmap(lambda size: st.lists(REQUESTS, min_size=size, max_size=4)),
    callers=st.integers(1, 3).flatmap(lambda size: st.lists(CALLERS, min_size=size, max_size=3)),
    names=st.permutations(NAMES),
    drawn=st.integers(1, 4).flatmap(lambda size: st.lists(POLICIES, min_size=size, max_size=4)),
    in_blocks=st.booleans(),
)


def _conditional_world(
    several: list[dict[str, Any]], seen: list[Asked], callers: list[Identity], in_blocks: bool
) -> World:
    """Every condition under an allow and under a deny, which tell its three values apart."""
    cases = [
        (
            f"{effect}:{index}",
            {"effect": effect, "actions": [f"{effect}:{index}"], "conditions": it},
        )
        for index, it in enumerate(several)
        for effect in ("allow", "deny")
    ]
    policy = {
        "name": "conditions",
        "version": "1",
        "appliesTo": {"agentIds": ["*"]},
        "defaultEffect": "allow",
        "rules": [rule for _, rule in cases],
    }
    requests = [asked._replace(action=action) for action, _ in cases for asked in seen]
    return World([policy], in_blocks, callers, requests)


CONDITIONAL_WORLDS: Final = st.builds(
    _conditional_world,
    several=st.integers(1, 6).flatmap(lambda size: st.lists(CONDITIONS, min_size=size, max_size=6)),
    seen=st.lists(REQUESTS, min_size=1, max_size=4),
    callers=st.lists(CALLERS, min_size=1, max_size=2),
    in_blocks=st.booleans(),
)


# The two answers


def naive_request(asked: Asked, caller: Identity) -> dict[str, Any]:
    return {
        "action": asked.acts,
        "resource": asked.resource or asked.path,
        "context": naive_policy.UNREADABLE
        if asked.meta in METAS_WITHOUT_OBJECT
        else json.loads(asked.meta or "{}"),
        "method": asked.method,
        "path": f"/{asked.path}",
        "host": HOST,
        "agent": {
            "id": caller.agent_id,
            "tags": sorted(caller.tags),
            "trustTier": caller.tier,
            "orgId": caller.org_id,
        },
    }


def snapshot_of(world: World) -> Snapshot:
    text = (
        yaml.safe_dump_all(world.policies, sort_keys=False)
        if world.in_blocks
        else "\n---\n".join(json.dumps(document) for document in world.policies)
    )
    parsed = policy_file.parse_file(text.encode(), "f.yaml")
    assert not parsed.is_bad, [str(p) for p in parsed.problems if p.severity == "error"]
    assert len(parsed.policies) == len(world.policies)
    return Snapshot([placed.policy for placed in parsed.policies])


def real_answer(snapshot: Snapshot, asked: Asked, caller: Identity) -> Answer:
    headers = {
        "x-meshguard-action": asked.action,
        "x-meshguard-resource": asked.resource,
        "x-meshguard-meta": asked.meta,
    }
    sent = {name: value for name, value in headers.items() if value is not None}
    call = from_check_request(check_request(asked.method, f"/proxy/{asked.path}", sent))
    assert not call.defect
    verdict = judge(builders.case(call, caller, snapshot), CHAIN)
    return Answer(
        decision=verdict.decision.value,
        code=verdict.code.value,
        policy=verdict.policy,
        rule_index=verdict.rule_index,
        dry_run=verdict.dry_run,
        enforced=enforced(verdict, Mode.ENFORCE).value,
    )


def assert_they_agree(world: World) -> None:
    snapshot = snapshot_of(world)
    for asked, caller in world.questions():
        expected = decide(world.policies, naive_request(asked, caller))
        assert real_answer(snapshot, asked, caller) == expected, (asked, caller)


#: A world takes a while to draw, and that is all right.
PATIENT: Final = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@settings(PATIENT, max_examples=300)
@given(WORLDS)
def test_policies_decide_as_the_naive_reading_does(world: World) -> None:
    assert_they_agree(world)


@settings(PATIENT, max_examples=100)
@given(CONDITIONAL_WORLDS)
def test_conditions_decide_as_the_naive_reading_does(world: World) -> None:
    assert_they_agree(world)


# Every operator on every kind of value

NOBODY: Final = Identity("a", "", "verified", 2, frozenset(), "", 2)
PLAIN: Final = Asked("GET", "a", None, None, None)
VALUES_OF_K: Final[tuple[Any, ...]] = (
    *(None, "", "a", "A", "ab", "docs/a/A", "\u00c9a", "1"),
    *(True, False, -1, 0, 1, 1.0, 0.5, 2**53 + 1),
    *([], ["a"], ["b", "A"], ["b"], [1], [1.0, "x"], [True], [None], [["a"]], [{}, 0.5]),
    *({}, {"n": 1}),
)
SUBJECTS: Final[dict[str, list[tuple[Asked, Identity]]]] = {
    "context.k": [
        (PLAIN._replace(meta=meta), NOBODY)
        for meta in (*(json.dumps({"k": value}) for value in VALUES_OF_K), "{}", "[1]", "{", None)
    ],
    "context.k.n": [
        (PLAIN._replace(meta=json.dumps({"k": value})), NOBODY)
        for value in (*({"n": inner} for inner in VALUES_OF_K), *VALUES_OF_K)
    ],
    "resource": [(PLAIN._replace(resource=it), NOBODY) for it in (*RESOURCES, None)]
    + [(PLAIN._replace(path=""), NOBODY)],
    "method": [(PLAIN._replace(method=it), NOBODY) for it in VERBS],
    "path": [(PLAIN._replace(path=it), NOBODY) for it in PATHS],
    "host": [(PLAIN, NOBODY)],
    "agent.id": [(PLAIN, NOBODY._replace(agent_id=it)) for it in (*IDS, "ab")],
    "agent.orgId": [(PLAIN, NOBODY._replace(org_id=it)) for it in (*IDS, "ab", "")],
    "agent.tags": [
        (PLAIN, NOBODY._replace(tags=frozenset(it))) for it in ((), "a", "A", "b", "aA", "bx")
    ],
    "agent.trustTier": [
        (PLAIN, NOBODY._replace(tier=it, rank=tiers.rank(it) or 0))
        for it in (*TIERS, "restricted", "unrestricted")
    ],
}
SINGLES: Final = (
    "a",
    "A",
    "ab",
    "\u00e9A",
    "get",
    HOST.upper(),
    "STRASSE",
    "/",
    "1",
    0,
    1,
    0.5,
    True,
    False,
)
OPERANDS: Final[dict[str, Sequence[Any]]] = {
    **dict.fromkeys(("equals", "notEquals"), SINGLES),
    **dict.fromkeys(
        ("in", "notIn", "contains"),
        ([0], ["a"], ["a", "B", "get"], ["x", 1], [True, 0.5], [False, "ab", 0], [HOST, "/A"]),
    ),
    **dict.fromkeys(
        ("matches", "notMatches"),
        (
            *GLOBS,
            "a",
            "*ss*",
            "docs/**",
            "d**/A",
            ["x", "*E*"],
            ["**/b", "docs/*/**/a"],
            ["x", "y"],
        ),
    ),
    **dict.fromkeys(
        ("startsWith", "endsWith"),
        ("a", "A", "docs", "/A", "STRASSE", ["x", "b"], ["\u00c9", "t", "M"]),
    ),
    **dict.fromkeys(("lt", "lte", "gt", "gte"), (0, 1, 1.0, 0.5, 2**53)),
    "exists": (True, False),
}
OPERANDS_OF_TIER: Final[dict[str, Sequence[Any]]] = {
    **dict.fromkeys(("equals", "notEquals", "lt", "lte", "gt", "gte"), TIERS),
    **dict.fromkeys(("in", "notIn"), (["Basic"], ["sandboxed", "standard"], ["elevated"])),
    "exists": (True, False),
}


def operands_for(fact: str) -> dict[str, Sequence[Any]]:
    if fact == "agent.trustTier":
        return OPERANDS_OF_TIER
    if fact == "agent.tags":
        singles = [it for it in SINGLES if it != "/"]
        return {"contains": [*singles, *OPERANDS["contains"]], "exists": OPERANDS["exists"]}
    return {**OPERANDS, "contains": [*SINGLES, *OPERANDS["contains"]]}


@pytest.mark.parametrize("fact", SUBJECTS)
def test_every_operator_has_the_naive_value(fact: str) -> None:
    several = [
        {fact: {name: operand}}
        for name, operands in operands_for(fact).items()
        for operand in operands
    ]
    world = _conditional_world(several, [], [], in_blocks=False)
    snapshot = snapshot_of(world)
    for (asked, caller), (index, it) in product(SUBJECTS[fact], enumerate(several)):
        allow, deny = (
            real_answer(snapshot, asked._replace(action=f"{effect}:{index}"), caller).code
            for effect in ("allow", "deny")
        )
        value = VALUE_BY_CODES[allow, deny]
        assert value is naive_policy.all_of_facts(it, naive_request(asked, caller)), (it, asked)


#: What became of an action that conditions allow, and of one that they deny, in turn.
VALUE_BY_CODES: Final[dict[tuple[str, str], Truth]] = {
    ("rule_allowed", "rule_denied"): True,
    ("default_allowed", "default_allowed"): False,
    ("default_allowed", "rule_denied"): None,
}


# Every order of rules, every pair of scopes


@pytest.mark.parametrize("order", ["first-match", "deny-overrides"])
def test_every_order_of_rules_decides_as_the_naive_reading_does(order: str) -> None:
    kinds = [
        {"effect": effect, "actions": ["a"], **extra}
        for effect in ("allow", "deny", "require_approval")
        for extra in (NO, {"enforcement": "dry_run"})
    ]
    documents = [
        {
            "name": f"p{number}",
            "version": "1",
            "appliesTo": {"agentIds": [f"agent-{number}"]},
            "ruleOrder": order,
            "rules": list(several),
            "defaultEffect": "allow",
        }
        for number, several in enumerate(product(kinds, repeat=3))
    ]
    callers = [NOBODY._replace(agent_id=f"agent-{number}") for number in range(len(documents))]
    assert_they_agree(World(documents, False, callers, [PLAIN._replace(action="a")]))


def test_every_pair_of_scopes_is_weighed_as_in_the_naive_reading() -> None:
    caller = Identity("a", "", "basic", 1, frozenset({"t"}), "o", 1)
    lists = {"agentIds": ["a"], "tags": ["t"], "trustTiers": ["basic"], "orgIds": ["o"]}
    scopes = [
        {name: lists[name] for name in names}
        for size in (1, 2, 3, 4)
        for names in combinations(lists, size)
    ]
    scopes += [{"agentIds": ["*"]}, {"agentIds": ["*"], "orgIds": ["o"]}, {"tags": ["t", "*"]}]
    rule = {"effect": "deny", "actions": ["*"]}
    for left, right in permutations(scopes, 2):
        documents = [
            {"name": name, "version": "1", "appliesTo": scope, "rules": [rule]}
            for name, scope in (("a", left), ("b", right))
        ]
        assert_they_agree(World(documents, False, [caller], [PLAIN]))


# What the generator reaches

CODES: Final = (
    "rule_allowed",
    "rule_denied",
    "default_denied",
    "default_allowed",
    "no_policy",
    "approval_required",
    "insufficient_trust_tier",
)
#: What is rare, by the ways in which an answer comes about.
SITUATIONS: Final = (
    "dry run denies",
    "dry run denies for want of a tier",
    "dry run asks for approval",
    "dry run denies by default",
    "dry run alone allows",
    "a dry-run rule is passed over",
    "approval by humanInTheLoop",
    "approval by rule",
    "tier of a rule",
    "tier of a default",
    "tier of another policy than the first",
    "decided by a rule with true conditions",
    "decided by a rule with unknown conditions",
    "decided by name among equals",
    "decided by specificity against the name",
    "a deny among allows",
    "deny-overrides changes the rule",
)


def situations_of(world: World, asked: Asked, caller: Identity) -> Iterator[str]:
    """What is remarkable about an answer, by the naive reading."""
    request = naive_request(asked, caller)
    got = decide(world.policies, request)
    yield got.code
    applicable = [p for p in world.policies if naive_policy.applies(p, request["agent"])]
    if not applicable:
        return
    all_dry = all(naive_policy.is_dry(p) for p in applicable)
    if got.dry_run:
        yield {
            "rule_denied": "dry run denies",
            "insufficient_trust_tier": "dry run denies for want of a tier",
            "approval_required": "dry run asks for approval",
            "default_denied": "dry run denies by default",
        }[got.code]
    elif all_dry:
        yield "dry run alone allows"
    elif decide([naive_policy.without_enforcement(p) for p in applicable], request) != got:
        yield "a dry-run rule is passed over"
    if got.code == "approval_required":
        yield f"approval by {'humanInTheLoop' if got.rule_index is None else 'rule'}"
    if got.code == "insufficient_trust_tier":
        yield f"tier of a {'default' if got.rule_index is None else 'rule'}"
        cleared = [without_tiers(p) for p in world.policies]
        if decide(cleared, request).policy != got.policy:
            yield "tier of another policy than the first"
    by_name = {p["name"]: p for p in applicable}
    decider = by_name[got.policy]
    if got.rule_index is not None:
        rule = decider["rules"][got.rule_index]
        if "conditions" in rule:
            truth = naive_policy.all_of_facts(rule["conditions"], request)
            yield f"decided by a rule with {'true' if truth else 'unknown'} conditions"
        if decide([{**p, "ruleOrder": "first-match"} for p in world.policies], request) != got:
            yield "deny-overrides changes the rule"
    said = [naive_policy.answer(naive_policy.without_enforcement(p), request) for p in applicable]
    alike = [by_name[s.policy] for s in said if s.code == got.code and s.policy != got.policy]
    for other in alike:
        mine, others = naive_policy.specificity(decider), naive_policy.specificity(other)
        if mine == others:
            yield "decided by name among equals"
        elif mine > others and decider["name"] > other["name"]:
            yield "decided by specificity against the name"
    if got.code == "rule_denied" and any(s.code == "rule_allowed" for s in said):
        yield "a deny among allows"


def without_tiers(policy: dict[str, Any]) -> dict[str, Any]:
    """The policy for any tier."""
    rules = [{k: v for k, v in r.items() if k != "requiredTrustTier"} for r in policy["rules"]]
    return {k: v for k, v in policy.items() if k != "requiredTrustTier"} | {"rules": rules}


def test_the_generator_reaches_every_answer() -> None:
    missing = {*CODES, *SITUATIONS}
    # The first two are enough where nothing has changed.
    for number in (0, 5, *range(20)):

        @seed(number)
        @settings(PATIENT, max_examples=50, database=None)
        @given(WORLDS)
        def look(world: World) -> None:
            for asked, caller in product(world.requests, world.callers):
                missing.difference_update(situations_of(world, asked, caller))

        look()
        if not missing:
            return
    raise AssertionError(missing)


def test_the_table_of_operators_reaches_every_value() -> None:
    seen = {
        (name, naive_policy.one_fact(fact, {name: operand}, naive_request(asked, caller)))
        for fact, subjects in SUBJECTS.items()
        for name, operands in operands_for(fact).items()
        for (asked, caller), operand in product(subjects, operands)
    }
    assert seen == {*product(TESTS, (True, False, None))}
