"""Each rule of who may pass on what has its code and its sentence, and what was issued can be
used."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.delegation.issue import MAX_EDGES, MAX_LIFETIME_S, Delegator, Terms, issue
from authz.core.delegation.relationship import Refused, Relationship, widening
from authz.core.delegation.walk import Broken, Walked, walk
from authz.core.errors import Code
from authz.core.limits import DelegationLimits
from tests.builders import NOW
from tests.core.delegation.chains import HOUR, below, chain, first, rel

A = Delegator("a", "Agent A", "trusted", 3, ("ci",), "acme")
B = A._replace(agent_id="b", name="Agent B")
ROOT = first(scope=("read:*", "write:docs/*"), ceiling=("read:*",), resources=("docs/*",))
TERMS = Terms("b", ["read:*"], NOW + HOUR)
CHILD = Terms("c", ["read:docs/*"], NOW + HOUR, resources=["docs/public/*"])


def issued(
    terms: Terms = TERMS,
    source: Delegator = A,
    *,
    edges: Mapping[str, Collection[str]] | None = None,
    parent: Relationship | None = None,
    limits: DelegationLimits | None = None,
    relationship_id: str = rel(9),
) -> Relationship:
    return issue(
        terms,
        source,
        relationship_id=relationship_id,
        now=NOW,
        edges=edges or {},
        parent=parent,
        limits=limits or DelegationLimits(),
    )


def test_a_first_hop_keeps_what_was_asked_for_and_what_is_known_of_the_source() -> None:
    terms = TERMS._replace(
        scope=[" read:* "], resources=["docs/*"], max_depth=2, requires_approval=True, org_id="acme"
    )
    assert issued(terms) == Relationship(
        id=rel(9),
        org_id="acme",
        source="a",
        target="b",
        type="delegates_to",
        scope=("read:*",),
        resources=("docs/*",),
        ceiling=("read:*",),
        max_depth=2,
        requires_approval=True,
        created_at=NOW,
        expires_at=NOW + HOUR,
        parent="",
        root="a",
        depth=1,
        revoked_at=None,
        revoked_reason="",
        source_name="Agent A",
        source_tier="trusted",
        source_tags=("ci",),
        source_org="acme",
    )


def test_a_hop_below_another_belongs_to_its_chain() -> None:
    made = issued(CHILD, B, parent=ROOT)
    assert (made.parent, made.root, made.depth) == (ROOT.id, "a", 2)
    assert made.ceiling == made.scope
    assert widening(made, ROOT) == ""


def test_an_empty_ceiling_passes_nothing_on_and_none_is_the_scope() -> None:
    assert issued(TERMS._replace(ceiling=[])).ceiling == ()
    assert issued(TERMS._replace(ceiling=None)).ceiling == ("read:*",)


def test_a_scope_may_be_everything() -> None:
    assert issued(TERMS._replace(scope=["*"])).scope == ("*",)


#: Values that a body of JSON may hold in place of the ones that are meant.
UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"target": ""}, "targetAgentId: empty"),
    ({"target": 7}, "targetAgentId: not printable text of at most 256 characters"),
    ({"target": "b\n"}, "targetAgentId: not printable text of at most 256 characters"),
    ({"target": "b" * 257}, "targetAgentId: not printable text of at most 256 characters"),
    ({"org_id": None}, "orgId: not printable text of at most 256 characters"),
    (
        {"type": "owns"},
        "relationshipType: unknown; write one of delegates_to, created_by, supervised_by,"
        " consumes_skill",
    ),
    ({"scope": []}, "scope: empty, so nothing would be delegated; name actions, or *"),
    ({"scope": "read:*"}, "scope: not a list of at most 64 patterns"),
    ({"scope": ["read:*"] * 65}, "scope: not a list of at most 64 patterns"),
    ({"scope": ["read:*", " "]}, "scope[1]: not a pattern of printable characters"),
    ({"scope": ["read:\u202e*"]}, "scope[0]: not a pattern of printable characters"),
    ({"scope": [7]}, "scope[0]: not a pattern of printable characters"),
    ({"scope": ["x" * 257]}, "scope[0]: longer than 256 characters"),
    ({"scope": ["*" * 9]}, "scope[0]: more than 8 stars"),
    (
        {"resources": ["x" * 256] * 32},
        "scope: with resources and permissionCeiling longer than 8192 characters",
    ),
    ({"resources": [""]}, "resources[0]: not a pattern of printable characters"),
    ({"ceiling": {"a": 1}}, "permissionCeiling: not a list of at most 64 patterns"),
    ({"max_depth": 6}, "maxDepth: not a whole number from 0 to 5"),
    ({"max_depth": -1}, "maxDepth: not a whole number from 0 to 5"),
    ({"max_depth": True}, "maxDepth: not a whole number from 0 to 5"),
    ({"max_depth": 1.0}, "maxDepth: not a whole number from 0 to 5"),
    ({"requires_approval": 1}, "requiresApproval: neither true nor false"),
    ({"expires_at": None}, "expiresAt: missing; a delegation has to end"),
    ({"expires_at": "soon"}, "expiresAt: not a time"),
    ({"expires_at": float("nan")}, "expiresAt: not a time between 1970 and 9999"),
    ({"expires_at": float("inf")}, "expiresAt: not a time between 1970 and 9999"),
    ({"expires_at": 10**400}, "expiresAt: not a time between 1970 and 9999"),
    ({"expires_at": NOW}, "expiresAt: not in the future, or more than 366 days away"),
    (
        {"expires_at": NOW + MAX_LIFETIME_S + 1},
        "expiresAt: not in the future, or more than 366 days away",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), UNUSABLE, ids=lambda value: str(value)[:40])
def test_unusable_terms_are_told_by_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        issued(TERMS._replace(**changes))
    assert (refused.value.code, refused.value.reason) == (Code.MALFORMED, sentence)


def test_terms_at_every_bound_are_good() -> None:
    longest = [f"{at:02d}{'*' * 8}{'x' * 246}" for at in range(64)]
    most = [f"{at:02d}{'x' * 62}" for at in range(64)]
    terms = Terms(
        "b" * 256, longest[:8], NOW + MAX_LIFETIME_S, resources=most, ceiling=longest[:8],
        max_depth=5,
    )  # fmt: skip
    made = issued(terms, A._replace(tags=tuple(longest)))
    assert (made.scope, made.resources) == (tuple(longest[:8]), tuple(most))
    assert made.source_tags == tuple(longest)


def test_an_id_that_is_none_makes_no_relationship() -> None:
    with pytest.raises(Refused) as refused:
        issued(relationship_id="rel_1")
    assert refused.value.code is Code.MALFORMED


@pytest.mark.parametrize("rank", [0, 1])
def test_an_agent_below_verified_does_not_delegate(rank: int) -> None:
    with pytest.raises(Refused) as refused:
        issued(source=A._replace(rank=rank))
    assert refused.value.code is Code.DELEGATOR_TIER_TOO_LOW
    assert issued(source=A._replace(rank=2))


@pytest.mark.parametrize("kind", ["delegates_to", "created_by"])
def test_no_agent_delegates_to_itself(kind: str) -> None:
    with pytest.raises(Refused) as refused:
        issued(TERMS._replace(target="a", type=kind))
    assert refused.value.code is Code.DELEGATION_SELF_ISSUED


@pytest.mark.parametrize("pattern", ["admin:*", "ADMIN:users", "admin:*:x"])
def test_what_only_admins_do_is_not_delegated(pattern: str) -> None:
    with pytest.raises(Refused) as refused:
        issued(TERMS._replace(scope=["read:*", pattern]))
    assert refused.value.code is Code.DELEGATION_OUT_OF_SCOPE
    assert refused.value.reason.startswith("scope[1]: ")


@pytest.mark.parametrize(
    ("edges", "cyclic"),
    [
        ({}, False),
        ({"b": ["a"]}, True),
        ({"b": ["c"], "c": ["d", "e"], "e": ["a"]}, True),
        ({"b": ["c"], "c": ["b"]}, False),
        ({"c": ["a"]}, False),
        ({"a": ["b"]}, False),
    ],
)
def test_no_agent_comes_to_act_for_itself(edges: dict[str, list[str]], cyclic: bool) -> None:
    if not cyclic:
        assert issued(edges=edges)
        return
    with pytest.raises(Refused) as refused:
        issued(edges=edges)
    assert refused.value.code is Code.DELEGATION_CYCLE


def test_a_cycle_that_cannot_be_ruled_out_is_refused() -> None:
    edges = {f"x{at}": [f"x{at + 1}"] for at in range(MAX_EDGES + 1)} | {"b": ["x0"]}
    with pytest.raises(Refused) as refused:
        issued(edges=edges)
    assert refused.value.code is Code.DELEGATION_CYCLE
    assert "ruled out" in refused.value.reason


def test_a_relationship_without_authority_closes_no_cycle_and_needs_no_scope() -> None:
    terms = TERMS._replace(type="supervised_by", scope=[])
    assert issued(terms, edges={"b": ["a"]}).scope == ()


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (DelegationLimits(max_depth=0), Code.DELEGATION_TOO_DEEP),
        (DelegationLimits(ceilings=(("read:docs",),)), Code.DELEGATION_OVER_CEILING),
        (
            DelegationLimits(ceilings=(("read:*", "write:*"), ("write:*",))),
            Code.DELEGATION_OVER_CEILING,
        ),
        (DelegationLimits(ceilings=((),)), Code.DELEGATION_OVER_CEILING),
        (DelegationLimits(ceilings=(("read:*",),)), Code.DELEGATION_OVER_CEILING),
        (DelegationLimits(max_depth=1, ceilings=(("read:*", "write:*"), ("*",))), None),
        (DelegationLimits(), None),
    ],
)
def test_the_policies_of_the_source_limit_what_it_delegates(
    limits: DelegationLimits, code: Code | None
) -> None:
    terms = TERMS._replace(scope=["read:x"], ceiling=["read:*", "write:*"], max_depth=1)
    if code is None:
        assert issued(terms, limits=limits)
        return
    with pytest.raises(Refused) as refused:
        issued(terms, limits=limits)
    assert refused.value.code is code


@pytest.mark.parametrize(
    ("terms", "parent", "code"),
    [
        ({}, {"target": "x"}, Code.DELEGATION_BROKEN),
        ({"target": "a"}, {}, Code.DELEGATION_CYCLE),
        ({"target": "z"}, {"root": "z"}, Code.DELEGATION_CYCLE),
        ({}, {"type": "created_by"}, Code.DELEGATION_NOT_AUTHORITY),
        ({"type": "created_by"}, {}, Code.DELEGATION_NOT_AUTHORITY),
        ({"type": "created_by"}, {"type": "created_by"}, Code.DELEGATION_NOT_AUTHORITY),
        ({}, {"revoked_at": NOW - 1}, Code.DELEGATION_REVOKED),
        ({}, {"expires_at": NOW}, Code.DELEGATION_EXPIRED),
        ({}, {"depth": 5}, Code.DELEGATION_TOO_DEEP),
        ({}, {"max_depth": 0}, Code.DELEGATION_TOO_DEEP),
        ({"max_depth": 4}, {}, Code.DELEGATION_WIDENED),
        ({"scope": ["read:*", "delete:x"]}, {}, Code.DELEGATION_WIDENED),
        # In the scope, and not in the ceiling.
        ({"scope": ["write:docs/a"]}, {}, Code.DELEGATION_WIDENED),
        ({"ceiling": ["*"]}, {}, Code.DELEGATION_WIDENED),
        ({"resources": []}, {}, Code.DELEGATION_WIDENED),
        ({"resources": ["docs/public/*", "keys"]}, {}, Code.DELEGATION_WIDENED),
        ({"expires_at": NOW + HOUR + 1}, {}, Code.DELEGATION_WIDENED),
        ({}, {"ceiling": ()}, Code.DELEGATION_WIDENED),
        ({}, {"scope": ("read:docs/a",)}, Code.DELEGATION_WIDENED),
    ],
)
def test_a_hop_below_another_never_reaches_further(
    terms: dict[str, Any], parent: dict[str, Any], code: Code
) -> None:
    with pytest.raises(Refused) as refused:
        issued(CHILD._replace(**terms), B, parent=ROOT._replace(**parent))
    assert refused.value.code is code
    assert refused.value.reason


def test_a_chain_ends_with_its_fifth_hop() -> None:
    hops = chain("a", "b", "c", "d", "e")
    agent = A._replace(agent_id="e")
    fifth = issued(Terms("f", ["read:*"], NOW + 1), agent, parent=hops[-1])
    assert fifth.depth == 5
    with pytest.raises(Refused) as refused:
        issued(
            Terms("g", ["read:*"], NOW + 1),
            A._replace(agent_id="f"),
            parent=fifth._replace(max_depth=5),
        )
    assert refused.value.code is Code.DELEGATION_TOO_DEEP


def used(hops: Sequence[Relationship], action: str) -> Walked | Broken:
    """What the last agent of sound hops is told about an action on the resource `ab`."""
    return walk(
        hops,
        hops[-1].target,
        NOW,
        action,
        "ab",
        revoked_agent=lambda _: False,
        limits=lambda _: DelegationLimits(),
        may=lambda _: (True, 3),
    )


PATTERNS = st.lists(st.text(alphabet="ab*", min_size=1, max_size=3), min_size=1, max_size=3)


@given(
    st.lists(st.tuples(PATTERNS, st.none() | PATTERNS, PATTERNS), min_size=1, max_size=4),
    st.text(alphabet="ab", max_size=3),
)
@settings(deadline=None, max_examples=300)
def test_a_chain_that_was_issued_hop_by_hop_allows_what_its_last_hop_does(
    asked: list[tuple[list[str], list[str] | None, list[str]]], action: str
) -> None:
    hops: list[Relationship] = []
    codes = set()
    for at, (scope, ceiling, resources) in enumerate(asked):
        terms = Terms(
            f"agent-{at + 1}",
            scope,
            NOW + HOUR,
            resources=resources,
            ceiling=ceiling,
            max_depth=4 - at,
        )
        source = A._replace(agent_id=f"agent-{at}")
        parent = hops[-1] if hops else None
        try:
            hops.append(issued(terms, source, parent=parent, relationship_id=rel(at)))
        except Refused as refused:
            codes.add(refused.code)
            break
    assert codes <= {Code.DELEGATION_WIDENED}
    leaf = hops[-1]._replace(parent="", root=hops[-1].source, depth=1)
    answer, alone = used(hops, action), used([leaf], action)
    assert isinstance(answer, Walked) is isinstance(alone, Walked)
    if isinstance(answer, Broken):
        assert answer.code is Code.DELEGATION_OUT_OF_SCOPE


def test_a_child_of_a_sound_hop_is_no_wider() -> None:
    parent = first(resources=("docs/*",))
    assert widening(below(parent, "c"), parent) == ""
