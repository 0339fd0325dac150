"""A delegation holds only while each hop of it does; what is broken first is named, in one order,
and a chain that was cut, spliced or turned round is none."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from authz.core.delegation.receipt import chain_of, read_chain
from authz.core.delegation.relationship import (
    Refused,
    Relationship,
    revoke,
)
from authz.core.delegation.walk import Broken, Walked, collect, walk, with_revocations
from authz.core.errors import Code
from authz.core.limits import DelegationLimits
from tests.builders import NOW
from tests.core.delegation.chains import HOUR, Key, below, chain, first, rel, trusting

KEY = Key(1)
ABC = chain("a", "b", "c")


def walked(
    hops: Sequence[Relationship] = ABC,
    caller: str = "c",
    *,
    now: float = NOW,
    action: str = "read:docs",
    resource: str = "",
    revoked: Sequence[str] = (),
    limits: Callable[[Relationship], DelegationLimits] = lambda _: DelegationLimits(),
    may: Callable[[Relationship], tuple[bool, int]] = lambda _: (True, 3),
) -> Walked | Broken:
    return walk(
        hops,
        caller,
        now,
        action,
        resource,
        revoked_agent=revoked.__contains__,
        limits=limits,
        may=may,
    )


def changed(at: int, hops: Sequence[Relationship] = ABC, **changes: Any) -> list[Relationship]:
    """The hops with one of them changed."""
    return [hop._replace(**changes) if n == at else hop for n, hop in enumerate(hops)]


def test_a_sound_chain_holds_with_the_lowest_rank_of_its_delegators() -> None:
    ranks = {"a": 4, "b": 2}
    answer = walked(may=lambda hop: (True, ranks[hop.source]))
    assert answer == Walked(2, ABC[-1], "a", 2, requires_approval=False)
    assert walked(ABC[:1], "b") == Walked(3, ABC[0], "a", 1, requires_approval=False)


@pytest.mark.parametrize("at", [0, 1])
def test_one_hop_that_requires_approval_is_enough(at: int) -> None:
    answer = walked(changed(at, requires_approval=True))
    assert isinstance(answer, Walked)
    assert answer.requires_approval


def test_five_hops_hold() -> None:
    answer = walked(chain(*"abcdef"), "f")
    assert isinstance(answer, Walked)
    assert answer.depth == 5


XYZ = chain("x", "y", "c")

#: In the order of the checks.
BROKEN: list[tuple[str, Sequence[Relationship], Code, int]] = [
    ("the root cut off", ABC[1:], Code.DELEGATION_BROKEN, 2),
    ("turned round", ABC[::-1], Code.DELEGATION_BROKEN, 2),
    ("a hop cut out", [chain(*"abcd")[0], chain(*"abcd")[2]], Code.DELEGATION_BROKEN, 3),
    ("a hop twice", [ABC[0], ABC[0]], Code.DELEGATION_BROKEN, 1),
    ("a hop of another chain", [ABC[0], XYZ[1]], Code.DELEGATION_BROKEN, 2),
    ("another chain's hop to the same agent", [ABC[0], below(first("x", "b", id=rel(1)), "c")],
     Code.DELEGATION_BROKEN, 2),
    ("another parent", changed(1, parent=rel(9)), Code.DELEGATION_BROKEN, 2),
    ("another source", changed(1, source="x"), Code.DELEGATION_BROKEN, 2),
    ("another root", changed(1, root="b"), Code.DELEGATION_BROKEN, 2),
    ("another depth", changed(1, depth=3), Code.DELEGATION_BROKEN, 2),
    ("a first hop with another root", changed(0, ABC[:1], root="z"), Code.DELEGATION_BROKEN, 1),
    ("a first hop with a parent", changed(0, parent=rel(9)), Code.DELEGATION_BROKEN, 1),
    ("a first hop that is none", changed(0, depth=2), Code.DELEGATION_BROKEN, 1),
    ("the leaf cut off", ABC[:1], Code.DELEGATION_WRONG_DELEGATE, 1),
    ("another's", changed(1, target="d"), Code.DELEGATION_WRONG_DELEGATE, 2),
    ("no authority", changed(0, type="created_by"), Code.DELEGATION_NOT_AUTHORITY, 1),
    ("self-issued", [first("c", "c")], Code.DELEGATION_SELF_ISSUED, 1),
    ("self-issued within", chain("a", "c", "c"), Code.DELEGATION_SELF_ISSUED, 2),
    ("back to the root", [*chain("c", "b"), below(chain("c", "b")[0], "c")],
     Code.DELEGATION_CYCLE, 2),
    ("through an agent twice", chain("a", "b", "d", "b", "c"), Code.DELEGATION_CYCLE, 3),
    ("six hops", chain(*"abdefgc"), Code.DELEGATION_TOO_DEEP, 6),
    ("beyond a hop's maxDepth", changed(0, max_depth=0), Code.DELEGATION_TOO_DEEP, 1),
    ("revoked", changed(0, revoked_at=NOW - 9), Code.DELEGATION_REVOKED, 1),
    ("revoked later than now", changed(1, revoked_at=NOW + 9), Code.DELEGATION_REVOKED, 2),
    ("from the future", changed(1, created_at=NOW + 61), Code.DELEGATION_NOT_YET_VALID, 2),
    ("expired", changed(0, expires_at=NOW), Code.DELEGATION_EXPIRED, 1),
    ("cleared away", changed(1, revoked_at=NOW + 2 * HOUR), Code.DELEGATION_EXPIRED, 2),
    ("a wider scope", changed(1, scope=("read:*", "write:x")), Code.DELEGATION_WIDENED, 2),
    ("a scope beyond the scope", changed(0, scope=("read:docs",)), Code.DELEGATION_WIDENED, 2),
    ("a scope beyond the ceiling", changed(0, ceiling=("read:a",)), Code.DELEGATION_WIDENED, 2),
    ("a wider ceiling", changed(1, ceiling=("*",)), Code.DELEGATION_WIDENED, 2),
    ("any resource", changed(0, resources=("docs/*",)), Code.DELEGATION_WIDENED, 2),
    ("more resources", [first(resources=("docs/a",)), ABC[1]._replace(resources=("docs/*",))],
     Code.DELEGATION_WIDENED, 2),
    ("a later end", changed(1, expires_at=NOW + HOUR + 1), Code.DELEGATION_WIDENED, 2),
    ("as much depth", changed(1, max_depth=4), Code.DELEGATION_WIDENED, 2),
    ("a ceiling of nothing", changed(0, ceiling=()), Code.DELEGATION_WIDENED, 2),
    ("out of scope", changed(1, scope=("read:other",)), Code.DELEGATION_OUT_OF_SCOPE, 2),
    ("a scope of nothing", changed(1, scope=()), Code.DELEGATION_OUT_OF_SCOPE, 2),
    ("another resource", changed(1, resources=("keys",)), Code.DELEGATION_OUT_OF_SCOPE, 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hops", "code", "number"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_a_broken_chain_has_one_reason_and_one_hop(
    hops: Sequence[Relationship], code: Code, number: int
) -> None:
    answer = walked(hops)
    assert isinstance(answer, Broken)
    assert (answer.code, answer.edge) == (code, rel(number)), answer.reason
    assert answer.reason


def test_the_first_check_in_the_order_names_the_reason() -> None:
    """Each check fails together with all that come after it."""
    faults: list[tuple[Code, dict[str, Any]]] = [
        (Code.DELEGATION_BROKEN, {"parent": rel(7)}),
        (Code.DELEGATION_WRONG_DELEGATE, {"target": "d"}),
        (Code.DELEGATION_NOT_AUTHORITY, {"type": "created_by"}),
        (Code.DELEGATION_REVOKED, {"revoked_at": NOW - 1}),
        (Code.DELEGATION_NOT_YET_VALID, {"created_at": NOW + 61}),
        (Code.DELEGATION_EXPIRED, {"expires_at": NOW - 0.5}),
        (Code.DELEGATION_WIDENED, {"max_depth": 4}),
        (Code.DELEGATION_OUT_OF_SCOPE, {"scope": ("read:other",)}),
    ]
    for count in range(len(faults)):
        changes = {key: value for _, fault in faults[count:] for key, value in fault.items()}
        answer = walked(changed(1, **changes), may=lambda _: (False, 0))
        assert isinstance(answer, Broken)
        assert answer.code is faults[count][0]
    last = walked(may=lambda _: (False, 0))
    assert isinstance(last, Broken)
    assert last.code is Code.DELEGATOR_TIER_TOO_LOW


@pytest.mark.parametrize("agent", ["a", "b", "c"])
def test_one_revoked_agent_breaks_the_chain(agent: str) -> None:
    answer = walked(revoked=[agent])
    assert isinstance(answer, Broken)
    assert answer.code is Code.DELEGATION_REVOKED
    assert answer.edge == (rel(2) if agent == "c" else rel(1))


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (NOW - HOUR - 60, None),
        (NOW - HOUR - 60.5, Code.DELEGATION_NOT_YET_VALID),
        (NOW + HOUR - 0.001, None),
        (NOW + HOUR, Code.DELEGATION_EXPIRED),
    ],
)
def test_a_hop_begins_with_leeway_and_ends_without(now: float, code: Code | None) -> None:
    answer = walked(now=now)
    assert (answer.code if isinstance(answer, Broken) else None) is code


@pytest.mark.parametrize(
    ("action", "resource", "holds"),
    [
        ("read:docs", "docs/a", True),
        ("READ:docs", "Docs/a", True),
        ("read:docs", "", False),
        ("read:docs", "keys/a", False),
        ("read:docs", "docs/../keys/a", False),
        ("read:docs", "docs/%2e%2e/keys/a", False),
        ("write:docs", "docs/a", False),
        ("read:*", "docs/*", True),
    ],
)
def test_a_hop_covers_its_actions_on_its_resources(action: str, resource: str, holds: bool) -> None:
    answer = walked(chain_with_resources(), action=action, resource=resource)
    if holds:
        assert isinstance(answer, Walked)
    else:
        assert isinstance(answer, Broken)
        assert answer.code is Code.DELEGATION_OUT_OF_SCOPE


def chain_with_resources() -> tuple[Relationship, ...]:
    return tuple(hop._replace(resources=("docs/*",)) for hop in ABC)


@pytest.mark.parametrize("action", ["admin:users", "ADMIN:users", "admin:"])
def test_a_scope_of_everything_has_no_admin_action_in_it(action: str) -> None:
    everything = [hop._replace(scope=("*",), ceiling=("*",)) for hop in ABC]
    answer = walked(everything, action=action)
    assert isinstance(answer, Broken)
    assert answer.code is Code.DELEGATION_OUT_OF_SCOPE
    assert isinstance(walked(everything, action="administer"), Walked)


@pytest.mark.parametrize(
    ("of", "limits", "code"),
    [
        ("a", DelegationLimits(max_depth=0), Code.DELEGATION_TOO_DEEP),
        ("b", DelegationLimits(max_depth=0), None),
        ("a", DelegationLimits(max_depth=1), None),
        ("a", DelegationLimits(ceilings=(("write:*",),)), Code.DELEGATION_OVER_CEILING),
        ("b", DelegationLimits(ceilings=(("read:*",), ())), Code.DELEGATION_OVER_CEILING),
        ("b", DelegationLimits(ceilings=(("read:*",), ("*",))), None),
    ],
)
def test_the_policies_of_each_delegator_limit_what_it_delegates(
    of: str, limits: DelegationLimits, code: Code | None
) -> None:
    answer = walked(limits=lambda hop: limits if hop.source == of else DelegationLimits())
    if code is None:
        assert isinstance(answer, Walked)
    else:
        assert isinstance(answer, Broken)
        assert (answer.code, answer.edge) == (code, rel("ab".index(of) + 1))


def test_the_ceilings_above_the_leaf_cover_the_action_and_its_own_need_not() -> None:
    assert isinstance(walked(changed(1, ceiling=())), Walked)


@pytest.mark.parametrize(
    ("answers", "code", "number"),
    [
        ({"a": (True, 1), "b": (True, 3)}, Code.DELEGATOR_TIER_TOO_LOW, 1),
        ({"a": (True, 3), "b": (False, 1)}, Code.DELEGATOR_TIER_TOO_LOW, 2),
        ({"a": (False, 3), "b": (True, 3)}, Code.DELEGATOR_LOST_PERMISSION, 1),
        ({"a": (True, 3), "b": (False, 3)}, Code.DELEGATOR_LOST_PERMISSION, 2),
    ],
)
def test_each_delegator_is_still_trusted_and_still_allowed(
    answers: dict[str, tuple[bool, int]], code: Code, number: int
) -> None:
    answer = walked(may=lambda hop: answers[hop.source])
    assert isinstance(answer, Broken)
    assert (answer.code, answer.edge) == (code, rel(number))


def test_delegators_are_asked_only_about_a_chain_that_holds_otherwise() -> None:
    def may(hop: Relationship) -> tuple[bool, int]:
        raise AssertionError(hop)

    assert isinstance(walked(ABC, "d", may=may), Broken)
    assert isinstance(walked(action="write:docs", may=may), Broken)


def test_an_error_while_a_delegator_is_asked_is_no_answer() -> None:
    def may(hop: Relationship) -> tuple[bool, int]:
        raise LookupError

    with pytest.raises(LookupError):
        walked(may=may)


def test_no_hops_are_no_delegation() -> None:
    answer = walked(())
    assert isinstance(answer, Broken)
    assert answer.code is Code.DELEGATION_BROKEN


def test_a_thousand_hops_are_too_deep() -> None:
    hops = [hop._replace(max_depth=5) for hop in chain(*(f"agent-{n}" for n in range(1001)))]
    answer = walked(hops, "agent-1000")
    assert isinstance(answer, Broken)
    assert (answer.code, answer.edge) == (Code.DELEGATION_TOO_DEEP, rel(6))


def registry(*hops: Relationship) -> Callable[[str], Relationship | None]:
    return {hop.id: hop for hop in hops}.get


def test_a_chain_is_collected_from_its_leaf() -> None:
    hops = chain(*"abcdef")
    assert collect(rel(5), registry(*hops)) == hops
    assert collect(rel(1), registry(*hops)) == hops[:1]


@pytest.mark.parametrize(
    ("leaf", "hops", "code"),
    [
        (rel(9), ABC, Code.DELEGATION_UNKNOWN),
        ("", ABC, Code.DELEGATION_UNKNOWN),
        ("rel_2", ABC, Code.DELEGATION_UNKNOWN),
        ("x" * 100_000, ABC, Code.DELEGATION_UNKNOWN),
        (rel(2), ABC[1:], Code.DELEGATION_UNKNOWN),
        (rel(1), [first(parent=rel(1))], Code.DELEGATION_CYCLE),
        (rel(2), changed(0, parent=rel(2)), Code.DELEGATION_CYCLE),
        (rel(6), chain(*"abcdefg"), Code.DELEGATION_TOO_DEEP),
        (rel(1000), chain(*(f"agent-{n}" for n in range(1001))), Code.DELEGATION_TOO_DEEP),
    ],
    ids=lambda value: str(value)[:24],
)
def test_hops_that_lead_nowhere_are_refused(
    leaf: str, hops: Sequence[Relationship], code: Code
) -> None:
    asked: list[str] = []

    def get(relationship_id: str) -> Relationship | None:
        asked.append(relationship_id)
        return registry(*hops)(relationship_id)

    with pytest.raises(Refused) as refused:
        collect(leaf, get)
    assert refused.value.code is code
    assert len(refused.value.reason) < 200
    assert len(asked) <= 6


def test_a_signed_chain_walks_as_its_hops_do() -> None:
    hops = read_chain(chain_of(ABC, KEY.sign, "k1"), trusting(k1=KEY))
    assert walked(hops) == walked()


@pytest.mark.parametrize(
    ("order", "caller", "code"),
    [
        ((1,), "c", Code.DELEGATION_BROKEN),
        ((1, 0), "b", Code.DELEGATION_BROKEN),
        ((0,), "c", Code.DELEGATION_WRONG_DELEGATE),
        ((0, 0, 1), "c", Code.DELEGATION_BROKEN),
    ],
)
def test_signed_hops_in_another_order_are_no_chain(
    order: Sequence[int], caller: str, code: Code
) -> None:
    signed = chain_of(ABC, KEY.sign, "k1").split("~")
    hops = read_chain("~".join(signed[at] for at in order), trusting(k1=KEY))
    answer = walked(hops, caller)
    assert isinstance(answer, Broken)
    assert answer.code is code


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda hop: revoke(hop, NOW - 1, "left"), Code.DELEGATION_REVOKED),
        (lambda hop: hop, None),
    ],
)
def test_a_signed_hop_that_ended_here_breaks_its_chain(
    end: Callable[[Relationship], Relationship], code: Code | None
) -> None:
    answer = walked(with_revocations(ABC, registry(end(ABC[0]))))
    assert (answer.code if isinstance(answer, Broken) else None) is code
