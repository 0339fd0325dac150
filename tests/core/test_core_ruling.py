"""What a ruling says besides its two findings: what is counted, what needs an action token, on
which terms a person is asked, and what may be passed on; for the caller's own tier or a lower one.
"""

from collections.abc import Sequence
from typing import Any, Final

import pytest

from authz.core import snapshot as snapshots
from authz.core.call import from_check_request
from authz.core.errors import Code
from authz.core.evaluation import HUMAN, TOO_LOW, Ruling
from authz.core.facts import Facts
from authz.core.finding import ApprovalTerms, Deny, Pass
from authz.core.identity import Identity
from authz.core.limits import Limit
from authz.core.policy_doc import PolicyDoc
from authz.core.snapshot import Snapshot
from authz.core.tiers import TIERS, rank
from tests.builders import EVERYONE, check_request, snapshot

DRY: Final = {"enforcement": "dry_run"}
TOKEN: Final = {"requireActionToken": True}
TRUSTED: Final = {"requiredTrustTier": "trusted"}
ALLOW: Final[dict[str, Any]] = {"effect": "allow", "actions": ["*"]}
DENY: Final[dict[str, Any]] = {"effect": "deny", "actions": ["*"]}
ASK: Final[dict[str, Any]] = {"effect": "require_approval", "actions": ["*"]}
NEVER: Final = {"actions": ["never"]}
HUMANS: Final = {"humanInTheLoop": {"requireApproval": ["*"]}}


def doc(
    name: str,
    rules: Sequence[dict[str, Any]],
    *,
    scope: Any = EVERYONE,
    **more: Any,
) -> PolicyDoc:
    """A policy whose rules are called r0, r1, and so on."""
    named = [{"id": f"r{n}", **rule} for n, rule in enumerate(rules)]
    return PolicyDoc.model_validate(
        {"name": name, "version": "1", "appliesTo": dict(scope), "rules": named, **more}
    )


def who(tier: str = "verified", tags: tuple[str, ...] = ()) -> Identity:
    tier_rank = rank(tier) or 0
    return Identity("agent-1", "", tier, tier_rank, frozenset(tags), "", tier_rank)


def asked(
    policies: Snapshot,
    *,
    caller: Identity | None = None,
    lowered: int | None = None,
    meta: str = "",
) -> Ruling:
    headers = {"x-meshguard-action": "read:doc", "x-meshguard-meta": meta}
    call = from_check_request(check_request(headers=headers))
    facts = Facts(call, caller or who())
    first = policies.ruling(facts, lowered)
    assert policies.ruling(facts, lowered) == first
    return first


def ruled(*documents: PolicyDoc, **more: Any) -> Ruling:
    return asked(snapshot(*documents), **more)


def minute(count: int) -> dict[str, Any]:
    return {"rateLimits": {"requestsPerMinute": count}}


def counted(ruling: Ruling) -> list[tuple[str, str, int, int]]:
    return [(limit.policy, limit.rule, limit.count, limit.window_s) for limit in ruling.limits]


# Rate limits


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([doc("p", [ALLOW])], []),
        ([doc("p", [ALLOW], **minute(9))], [("p", "", 9, 60)]),
        # However the answer comes about: a denied request counts as well.
        ([doc("p", [DENY | minute(5)], **minute(9))], [("p", "", 9, 60)]),
        ([doc("p", [NEVER | ALLOW], **minute(9))], [("p", "", 9, 60)]),
        ([doc("p", [DENY | NEVER], defaultEffect="allow", **minute(9))], [("p", "", 9, 60)]),
        ([doc("p", [ALLOW | minute(5)], **minute(9))], [("p", "", 9, 60), ("p", "r0", 5, 60)]),
        ([doc("p", [ALLOW | NEVER | minute(5), ALLOW | minute(6)])], [("p", "r1", 6, 60)]),
        ([doc("p", [ALLOW, ALLOW | minute(5)])], []),
        ([doc("p", [ASK | minute(5)], **minute(9))], [("p", "", 9, 60), ("p", "r0", 5, 60)]),
        ([doc("p", [ALLOW | minute(5)], **HUMANS)], [("p", "r0", 5, 60)]),
        # Of every policy, and of the rule that decides.
        (
            [
                doc("b", [DENY | NEVER], **minute(1)),
                doc("a", [ALLOW | minute(2)], **minute(3)),
                doc("c", [ALLOW | minute(4)], scope={"agentIds": ["agent-1"]}),
            ],
            [("a", "", 3, 60), ("b", "", 1, 60), ("c", "r0", 4, 60)],
        ),
        ([doc("p", [ALLOW], scope={"tags": ["x"]}, **minute(9)), doc("q", [ALLOW])], []),
        # What is a dry run is not counted.
        ([doc("p", [ALLOW], **DRY, **minute(9)), doc("q", [ALLOW])], []),
        ([doc("p", [ALLOW | minute(5)], **DRY, **minute(9))], []),
        ([doc("p", [ALLOW | DRY | minute(5), ALLOW | minute(6)])], [("p", "r1", 6, 60)]),
        (
            [doc("p", [DENY | DRY, ALLOW | minute(6)], **minute(9))],
            [("p", "", 9, 60), ("p", "r1", 6, 60)],
        ),
    ],
)
def test_what_a_request_is_counted_against(
    documents: list[PolicyDoc], expected: list[tuple[str, str, int, int]]
) -> None:
    assert counted(ruled(*documents)) == expected


def test_every_window_has_a_limit_and_a_key_of_its_own() -> None:
    windows = {
        "requestsPerSecond": 1,
        "requestsPerMinute": 2,
        "requestsPerHour": 3,
        "requestsPerDay": 4,
    }
    found = ruled(doc("p", [ALLOW | {"rateLimits": windows}], rateLimits=windows)).limits
    assert [limit.window_s for limit in found] == [1, 60, 3600, 86_400] * 2
    assert [limit.count for limit in found] == [1, 2, 3, 4] * 2
    assert len({limit.key for limit in found}) == 8
    assert found[4] == Limit(found[4].key, "p", "r0", 0, 1, 1)
    assert found[0].rule_index is None


def test_a_key_stays_the_same_when_a_limit_or_the_place_of_its_rule_changes() -> None:
    before = ruled(doc("p", [ALLOW | minute(5)], **minute(9))).limits
    after = ruled(doc("p", [DENY | NEVER, ALLOW | minute(6) | {"id": "r0"}], **minute(1))).limits
    assert [limit.key for limit in after] == [limit.key for limit in before]
    assert after != before


def test_no_two_names_have_one_key() -> None:
    names = [("p", "r"), ("p r", ""), ("p", "r 60"), ("p:r", ""), ("p", ":r")]
    keys = set()
    for name, label in names:
        rule = ALLOW | minute(1) | ({"id": label} if label else {})
        keys |= {limit.key for limit in ruled(doc(name, [rule], **minute(1))).limits}
    assert len(keys) == len({name for name, _ in names}) + len(names)


def test_conditions_choose_the_rule_whose_limit_counts() -> None:
    small = ALLOW | minute(5) | {"conditions": {"context.n": {"lt": 5}}}
    policies = snapshot(doc("p", [small, ALLOW | minute(1)]))
    assert counted(asked(policies, meta='{"n": 1}')) == [("p", "r0", 5, 60)]
    assert counted(asked(policies, meta='{"n": 7}')) == [("p", "r1", 1, 60)]


def test_where_no_policy_applies_nothing_is_counted_and_nothing_asked() -> None:
    ruling = ruled()
    assert (ruling.limits, ruling.needs_token) == ((), None)


# Action tokens


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([doc("p", [ALLOW])], None),
        ([doc("p", [ALLOW | {"requireActionToken": False}])], None),
        ([doc("p", [ALLOW | TOKEN])], ("p", "r0", 0)),
        ([doc("p", [DENY | NEVER, ALLOW | TOKEN])], ("p", "r1", 1)),
        ([doc("p", [ALLOW, ALLOW | TOKEN])], None),
        # A requirement does not lose to an allow without one.
        ([doc("a", [ALLOW]), doc("b", [ALLOW | TOKEN])], ("b", "r0", 0)),
        (
            [doc("a", [ALLOW], scope={"agentIds": ["agent-1"]}), doc("b", [ALLOW | TOKEN])],
            ("b", "r0", 0),
        ),
        ([doc("a", [ALLOW | TOKEN]), doc("b", [ALLOW | TOKEN])], ("a", "r0", 0)),
        ([doc("a", [ALLOW | TOKEN]), doc("b", [DENY])], None),
        ([doc("a", [ALLOW | TOKEN | NEVER]), doc("b", [ALLOW])], None),
        ([doc("a", [ALLOW | TOKEN], **HUMANS)], ("a", "r0", 0)),
        ([doc("a", [ALLOW | TOKEN]), doc("b", [ASK])], ("a", "r0", 0)),
        ([doc("b", [ASK | TOKEN])], ("b", "r0", 0)),
        ([doc("a", [ALLOW | TOKEN | DRY, ALLOW])], None),
        ([doc("a", [ALLOW | TOKEN], **DRY), doc("b", [ALLOW])], None),
        ([doc("a", [ALLOW | TOKEN], **DRY)], None),
        ([doc("a", [DENY | DRY, ALLOW | TOKEN])], ("a", "r1", 1)),
    ],
)
def test_which_rule_asks_for_an_action_token(
    documents: list[PolicyDoc], expected: tuple[str, str, int] | None
) -> None:
    assert ruled(*documents).needs_token == expected


def test_asking_for_a_token_changes_nothing_of_what_is_decided() -> None:
    for effect in ("allow", "deny", "require_approval"):
        rule = {"effect": effect, "actions": ["*"]}
        plain, asking = ruled(doc("p", [rule])), ruled(doc("p", [rule | TOKEN]))
        assert asking._replace(needs_token=None) == plain


# Approvals


TERMS: Final = {"method": "slack", "timeout_seconds": 300, "message": "May it?", "url": "https://x"}


@pytest.mark.parametrize(
    ("document", "terms"),
    [
        (doc("p", [ASK]), None),
        (doc("p", [ASK | {"approval": TERMS}]), ApprovalTerms(300, "May it?", "https://x")),
        (doc("p", [ASK | {"approval": {"url": "u"}}]), ApprovalTerms(None, "", "u")),
        (doc("p", [ALLOW | {"approval": TERMS}], **HUMANS), None),
    ],
)
def test_a_rules_terms_come_with_the_denial(document: PolicyDoc, terms: object) -> None:
    finding = ruled(document).policy
    assert isinstance(finding, Deny)
    assert (finding.code, finding.approval) == (Code.APPROVAL_REQUIRED, terms)


@pytest.mark.parametrize(
    ("documents", "rule", "too_low"),
    [
        ([doc("p", [ALLOW], **HUMANS)], HUMAN, ""),
        ([doc("p", [ALLOW | TRUSTED], **HUMANS)], HUMAN, "p"),
        ([doc("p", [ALLOW], **HUMANS, **TRUSTED)], HUMAN, "p"),
        ([doc("p", [ALLOW], **HUMANS), doc("q", [ALLOW | TRUSTED])], HUMAN, "q"),
        ([doc("p", [DENY | NEVER], defaultEffect="allow", **HUMANS, **TRUSTED)], HUMAN, "p"),
        ([doc("p", [ASK])], "r0", ""),
        ([doc("p", [ASK | TRUSTED])], "r0", "p"),
        ([doc("p", [ASK]), doc("q", [ALLOW | TRUSTED])], "r0", "q"),
        ([doc("p", [ASK]), doc("q", [ALLOW | NEVER | TRUSTED])], "r0", ""),
        ([doc("p", [ASK]), doc("q", [ALLOW | TRUSTED | DRY])], "r0", ""),
    ],
)
def test_an_approval_lifts_no_tier_that_is_required(
    documents: list[PolicyDoc], rule: str, too_low: str
) -> None:
    ruling = ruled(*documents)
    assert (ruling.policy.code, ruling.policy.rule) == (Code.APPROVAL_REQUIRED, rule)
    if too_low:
        assert isinstance(ruling.privilege, Deny)
        assert (ruling.privilege.policy, ruling.privilege.rule) == (too_low, TOO_LOW)
    else:
        assert ruling.privilege == Pass()
    assert isinstance(ruled(*documents, caller=who("trusted")).privilege, Pass)


# A tier that counts for less


@pytest.mark.parametrize("own", range(5))
@pytest.mark.parametrize("lowered", [None, *range(5)])
def test_a_lower_tier_counts_where_one_is_required_and_not_for_whom_a_policy_is(
    own: int, lowered: int | None
) -> None:
    caller = who(TIERS[own])
    mine = doc("mine", [ALLOW | TRUSTED], scope={"trustTiers": [TIERS[own]]})
    others = doc("others", [DENY], scope={"trustTiers": [t for t in TIERS if t != TIERS[own]]})
    policies = snapshot(mine, others)
    for _ in range(2):
        ruling = asked(policies, caller=caller, lowered=lowered)
        assert ruling.policy.policy == "mine"
        counts = own if lowered is None else min(own, lowered)
        assert isinstance(ruling.privilege, Pass) is (counts >= 3)


def test_the_same_caller_at_two_tiers_does_not_share_an_answer() -> None:
    policies = snapshot(doc("p", [ALLOW | TRUSTED]))
    for lowered in (None, 2, 3, 0, None):
        ruling = asked(policies, caller=who("privileged"), lowered=lowered)
        assert isinstance(ruling.privilege, Pass) is (lowered in (None, 3))


def test_what_is_remembered_of_lowered_callers_is_bounded_and_right() -> None:
    policies = snapshot(doc("p", [ALLOW | TRUSTED]))
    call = from_check_request(check_request(headers={"x-meshguard-action": "read:doc"}))
    for number in range(snapshots.CALLERS + 100):
        caller = who("privileged", tags=(f"t{number}",))
        ruling = policies.ruling(Facts(call, caller), number % 4)
        assert isinstance(ruling.privilege, Pass) is (number % 4 == 3)
        assert len(policies._lowered) <= snapshots.CALLERS
    policies.forget()
    assert policies._lowered == {}


# Delegation


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([], (None, ())),
        ([doc("p", [ALLOW])], (None, ())),
        ([doc("p", [ALLOW], delegation={})], (None, ())),
        ([doc("p", [ALLOW], delegation={"maxDepth": 0})], (0, ())),
        ([doc("p", [ALLOW], delegation={"permissionCeiling": "read:*"})], (None, (("read:*",),))),
        (
            [
                doc("p", [ALLOW], delegation={"maxDepth": 3, "permissionCeiling": ["a", "b"]}),
                doc("q", [DENY], delegation={"maxDepth": 2, "permissionCeiling": ["c"]}),
                doc("r", [DENY], scope={"tags": ["x"]}, delegation={"maxDepth": 0}),
                doc("s", [DENY], **DRY, delegation={"maxDepth": 1, "permissionCeiling": ["d"]}),
            ],
            (2, (("a", "b"), ("c",))),
        ),
        ([doc("p", [ALLOW], **DRY, delegation={"maxDepth": 0})], (None, ())),
        ([doc("p", [ALLOW | DRY], delegation={"maxDepth": 1})], (1, ())),
    ],
)
def test_the_strictest_of_what_may_be_passed_on_counts(
    documents: list[PolicyDoc], expected: tuple[int | None, tuple[tuple[str, ...], ...]]
) -> None:
    policies = snapshot(*documents)
    for _ in range(2):
        assert policies.delegation_limits(who()) == expected
