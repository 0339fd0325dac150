"""The chain's documents, made ready: floors, gates, wallets and routes say what was written, looked
up quickly or slowly, in this process or another, now or read back from the record."""

import itertools
import json
import math
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from authz.core import remembered
from authz.core.chain_compiled import (
    CompiledChain,
    CompiledFloors,
    CompiledGate,
    CompiledRouteMap,
    CompiledWallet,
    Refill,
    compile_chain,
)
from authz.core.chain_doc import (
    CHAIN_KINDS,
    MAX_POINTS,
    Cost,
    Requirement,
    Route,
    document_of,
)
from authz.core.chain_doc import Floor as FloorLine
from authz.core.chain_doc import Refill as RefillLine
from authz.core.chain_model import seconds
from authz.core.compiled import compile_policy
from authz.core.floors import Floor, Floors
from authz.core.gates import Gates
from authz.core.identity import ANONYMOUS, Identity
from authz.core.lanes import LANES, lane_of
from authz.core.policy_doc import AppliesTo, spellings_of
from authz.core.policy_file import Parsed, parse_file
from authz.core.policy_set import Policies, PolicyFile, build
from authz.core.remembered import FirstMatch
from authz.core.routes import Mapped, Routes
from authz.core.snapshot import Snapshot
from authz.core.tiers import TIERS, rank
from authz.core.wallets import Wallet, Wallets
from tests.builders import policy


def made(kind: str, **said: Any) -> CompiledChain:
    return compile_chain(document_of({"kind": kind, "name": kind.lower(), **said}))


def floors(name: str, *lines: tuple[str | list[str], str]) -> CompiledFloors:
    written = [{"actions": actions, "tier": tier} for actions, tier in lines]
    document = made("PrivilegeFloors", name=name, floors=written)
    assert isinstance(document, CompiledFloors)
    return document


def gate(name: str, *requirements: dict[str, Any]) -> CompiledGate:
    document = made("ProvenanceGate", name=name, requirements=list(requirements))
    assert isinstance(document, CompiledGate)
    return document


def wallet(name: str = "w", **said: Any) -> CompiledWallet:
    back = {} if "refill" in said else {"window": "24h"}
    document = made("RiskWallet", name=name, **{"capacity": 10, **back, **said})
    assert isinstance(document, CompiledWallet)
    return document


def route_map(name: str, *routes: str | dict[str, Any], **said: Any) -> CompiledRouteMap:
    """Routes as mappings, or as `GET /path action` with `resource` and `host=` after it."""
    document = made("RouteMap", name=name, routes=[_route(route) for route in routes], **said)
    assert isinstance(document, CompiledRouteMap)
    return document


def _route(written: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(written, dict):
        return written
    method, path, action, *more = written.split()
    optional = dict(part.split("=", 1) for part in more)
    return {"method": method.split(","), "path": path, "action": action, **optional}


def who(agent_id: str = "a", tags: tuple[str, ...] = (), tier: str = "verified") -> Identity:
    tier_rank = rank(tier) or 0
    return Identity(agent_id, "", tier, tier_rank, frozenset(tags), "", tier_rank)


# What all of them share.

ONE_OF_EACH: Final[tuple[CompiledChain, ...]] = (
    floors("f", ("a:*", "basic")),
    gate("g", {"actions": ["a:*"], "minLane": 1}),
    wallet("w", tierMultipliers={"basic": 0.1}),
    route_map("r", "GET /a read:a"),
)


@pytest.mark.parametrize("document", ONE_OF_EACH, ids=lambda document: document.kind)
def test_a_document_is_named_by_what_it_says(document: CompiledChain) -> None:
    said = json.loads(document.said)
    assert (said["kind"], said["name"]) == (document.kind, document.name)
    again = compile_chain(document_of(said))
    assert again == document
    assert pickle.loads(pickle.dumps(document)) == document
    other = compile_chain(document_of({**said, "description": "x"}))
    assert other.digest != document.digest


@pytest.mark.parametrize("said", [None, [], "x", {}, {"kind": "Policy", "name": "n"}, {"kind": []}])
def test_what_is_no_document_of_these_kinds_is_refused(said: object) -> None:
    with pytest.raises(ValueError, match="no document of a known kind"):
        document_of(said)


def test_the_version_of_policies_alone_is_what_it_was_before_there_were_other_kinds() -> None:
    alone = Snapshot([compile_policy(policy("a", [("allow", "read:a")]))])
    assert alone.version == "5fa94092a31ef001"
    assert Snapshot(()).version == "e3b0c44298fc1c14"


def test_every_document_is_part_of_the_version_and_none_counts_as_a_policy() -> None:
    policies = [compile_policy(policy("p", [("allow", "*")]))]
    sets = [chosen for size in range(5) for chosen in itertools.combinations(ONE_OF_EACH, size)]
    snapshots = [Snapshot(policies, chosen) for chosen in sets]
    assert len({snapshot.version for snapshot in snapshots}) == len(sets)
    assert {snapshot.size for snapshot in snapshots} == {1}
    assert Snapshot(policies, ONE_OF_EACH[::-1]).version == Snapshot(policies, ONE_OF_EACH).version


# Floors


@pytest.mark.parametrize(
    ("documents", "action", "expected"),
    [
        ((), "admin:keys", ("privileged", "default", None)),
        ((), "ADMIN:", ("privileged", "default", None)),
        ((), "administer", None),
        ((), "read:admin:x", None),
        ((floors("f", ("a:*", "basic")),), "admin:x", None),
        ((floors("f", ("a:*", "basic"), ("*", "trusted")),), "a:b", ("basic", "f", 0)),
        ((floors("f", ("a:*", "basic"), ("*", "trusted")),), "b", ("trusted", "f", 1)),
        ((floors("f", (["x", "A:*"], "elevated")),), "a:b", ("trusted", "f", 0)),
        (
            (
                floors("f", ("a:*", "basic")),
                floors("g", ("*", "verified")),
                floors("h", ("c", "trusted")),
            ),
            "a:b",
            ("verified", "g", 0),
        ),
        ((floors("g", ("*", "basic")), floors("f", ("*", "basic"))), "a", ("basic", "f", 0)),
        ((floors("f", ("a", "unverified")),), "a", ("unverified", "f", 0)),
    ],
)
def test_the_first_floor_of_a_document_counts_and_of_documents_the_highest(
    documents: Sequence[CompiledFloors], action: str, expected: tuple[str, str, int | None] | None
) -> None:
    found = Floors(documents)
    for _ in range(2):
        floor = found.required(action)
        if expected is None:
            assert floor is None
        else:
            assert floor is not None
            assert (TIERS[floor.rank], floor.document, floor.place) == expected


def test_a_floor_says_what_it_is_for_and_why() -> None:
    document = made(
        "PrivilegeFloors",
        floors=[{"actions": ["x", " Pay:* "], "tier": "trusted", "reason": "ask the bank"}],
    )
    assert isinstance(document, CompiledFloors)
    assert Floors([document]).required("pay:1") == Floor(
        3, " Pay:* ", "ask the bank", "privilegefloors", 0
    )


def test_what_is_remembered_of_actions_is_bounded_and_right() -> None:
    found = Floors([floors("f", ("*7", "basic"))])
    for number in range(remembered.MEMO_SIZE + 100):
        assert (found.required(f"a{number}") is not None) is (number % 10 == 7)
        assert len(found._remembered._known) <= remembered.MEMO_SIZE
    long = "a" * (remembered.MAX_REMEMBERED + 1)
    assert found.required(long) is None
    assert long not in found._remembered._known
    found.forget()
    assert found._remembered._known == {}
    assert found.required("7") is not None


# Gates


GATES: Final = Gates(
    [
        gate("b", {"actions": ["pay:*"], "minLane": "approved"}, {"actions": "*", "minLane": 0}),
        gate(
            "a",
            {"actions": ["pay:small"], "sensitivity": "medium", "reason": "why"},
            {"actions": ["pay:*"], "requireLabels": ["x", "y"], "forbidLabels": "z"},
        ),
    ]
)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("PAY:small", [("a", 0, 1, "why"), ("b", 0, 3, "")]),
        ("pay:large", [("a", 1, None, ""), ("b", 0, 3, "")]),
        ("read", [("b", 1, 0, "")]),
    ],
)
def test_every_gate_asks_for_the_first_requirement_that_matches(
    action: str, expected: list[tuple[str, int, int | None, str]]
) -> None:
    for _ in range(2):
        found = GATES.requirements(action)
        assert [(r.document, r.place, r.min_lane, r.reason) for r in found] == expected


def test_labels_stay_as_they_are_written() -> None:
    asked = GATES.requirements("pay:large")[0]
    assert (asked.require_labels, asked.forbid_labels) == (("x", "y"), ("z",))
    assert asked.pattern == "pay:*"


def test_without_gates_nothing_is_asked() -> None:
    assert GATES
    assert not Gates(())
    assert Gates(()).requirements("pay:large") == ()


@pytest.mark.parametrize(
    ("written", "lane"), [("0", 0), (" Approved ", 3), ("observed", 1), ("4", None), ("", None)]
)
def test_a_lane_has_a_number_and_a_name(written: str, lane: int | None) -> None:
    assert lane_of(written) == lane


# Wallets


@pytest.mark.parametrize(
    ("said", "action", "tier", "lane", "points"),
    [
        ({}, "a", 2, 0, 0),
        ({"defaultCost": 7}, "a", 2, 0, 7),
        ({"costs": [{"actions": ["A"], "cost": 3}], "defaultCost": 7}, "a", 2, 0, 3),
        ({"costs": [{"actions": "a", "cost": 3}, {"actions": "*", "cost": 5}]}, "a", 2, 0, 3),
        ({"costs": [{"actions": "a", "cost": 0}, {"actions": "*", "cost": 5}]}, "a", 2, 0, 0),
        ({"costs": [{"actions": ["b", "*"], "severity": "low"}]}, "a", 2, 0, 1),
        ({"costs": [{"actions": "*", "severity": "medium"}]}, "a", 2, 0, 5),
        ({"costs": [{"actions": "*", "severity": "high"}]}, "a", 2, 0, 20),
        ({"costs": [{"actions": "*", "severity": "critical"}]}, "a", 2, 0, 50),
        # In floats 10 times 1.1 is more than 11, and 3 times 0.1 more than 0.3.
        ({"defaultCost": 10, "tierMultipliers": {"verified": 1.1}}, "a", 2, 0, 11),
        ({"defaultCost": 10, "tierMultipliers": {"trusted": 1.1}}, "a", 2, 0, 10),
        (
            {"defaultCost": 10, "tierMultipliers": {"standard": 0.1}, "laneMultipliers": {"0": 3}},
            "a", 2, 0, 3,
        ),
        ({"defaultCost": 1, "laneMultipliers": {"untrusted": 0.001}}, "a", 2, 0, 1),
        ({"defaultCost": 9, "laneMultipliers": {"approved": 0}}, "a", 2, 3, 0),
        ({"defaultCost": MAX_POINTS, "laneMultipliers": {"1": 1000}}, "a", 2, 1, MAX_POINTS),
        ({"defaultCost": 10**9 - 1, "laneMultipliers": {"1": 1}}, "a", 2, 1, 10**9 - 1),
    ],
)  # fmt: skip
def test_a_cost_is_exact_and_whole(
    said: dict[str, Any], action: str, tier: int, lane: int, points: int
) -> None:
    found = Wallet(wallet(**said))
    assert [found.cost(action, tier, lane) for _ in range(2)] == [points, points]


TENTHS: Final = st.decimals(0, 1000, places=3).map(float)


@given(
    st.integers(0, MAX_POINTS),
    st.dictionaries(st.sampled_from(TIERS), TENTHS),
    st.dictionaries(st.sampled_from(LANES), TENTHS),
)
@settings(deadline=None, max_examples=200)
def test_a_cost_is_the_ceiling_of_the_product_of_what_is_written(
    base: int, by_tier: dict[str, float], by_lane: dict[str, float]
) -> None:
    found = Wallet(wallet(defaultCost=base, tierMultipliers=by_tier, laneMultipliers=by_lane))
    for tier, lane in itertools.product(range(5), range(4)):
        factors = by_tier.get(TIERS[tier], 1), by_lane.get(LANES[lane], 1)
        exact = Fraction(base)
        for factor in factors:
            exact *= Fraction(Decimal(str(factor)))
        assert found.cost("a", tier, lane) == min(math.ceil(exact), MAX_POINTS)


@pytest.mark.parametrize(
    ("mode", "declared", "points"),
    [
        ({}, 50, 5),
        ({"declaredCost": "ignore"}, 50, 5),
        ({"declaredCost": "raise"}, 50, 50),
        ({"declaredCost": "raise"}, 4, 5),
        ({"declaredCost": "raise"}, 0, 5),
        ({"declaredCost": "raise"}, None, 5),
        ({"declaredCost": "raise"}, 10**12, MAX_POINTS),
    ],
)
def test_a_declared_cost_may_raise_and_never_lower(
    mode: dict[str, str], declared: int | None, points: int
) -> None:
    assert Wallet(wallet(defaultCost=5, **mode)).cost("a", 2, 0, declared) == points


def test_a_wallet_knows_how_its_points_come_back() -> None:
    rolling, steady = Wallet(wallet()), Wallet(wallet(refill={"points": 3, "every": "15m"}))
    assert (rolling.capacity, rolling.window_s, rolling.refill) == (10, 86_400, None)
    assert (steady.window_s, steady.refill) == (None, Refill(3, 900))
    assert not rolling.asks_for_lane
    assert Wallet(wallet(laneMultipliers={"approved": 0.5})).asks_for_lane
    assert not Wallet(wallet(laneMultipliers={"approved": 1})).asks_for_lane


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1s", 1), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)]
    + [(wrong, 0) for wrong in ("", "0s", "1", "1w", "-1s", "1.5h", "1h30m", "1 h", "٣s", "1H")],
)
def test_a_duration_is_a_whole_number_and_a_unit(written: str, expected: int) -> None:
    assert seconds(written) == expected


def test_the_most_narrowly_addressed_wallet_is_the_callers() -> None:
    found = Wallets(
        [
            wallet("z-all"),
            wallet("a-star", appliesTo={"agentIds": ["*"]}),
            wallet("tag", appliesTo={"tags": ["ops"]}),
            wallet("tag-b", appliesTo={"tags": ["ops", "dev"]}),
            wallet("mine", appliesTo={"agentIds": ["a"], "trustTiers": ["elevated"]}),
        ]
    )
    for caller, name in [
        (who("b"), "a-star"),
        (ANONYMOUS, "a-star"),
        (who("b", tags=("ops",)), "tag"),
        (who("b", tags=("dev",)), "tag-b"),
        (who("a", tags=("ops",)), "tag"),
        (who("a", tags=("ops",), tier="trusted"), "mine"),
    ]:
        for _ in range(2):
            mine = found.of(caller)
            assert mine is not None
            assert mine.name == name


def test_who_is_in_no_wallets_scope_has_none() -> None:
    snapshot = Snapshot([], [wallet(appliesTo={"tags": ["ops"]})])
    assert snapshot.wallet(who()) is None
    assert snapshot.wallet(who(tags=("ops",))) is not None
    assert Snapshot([]).wallet(who()) is None
    snapshot.forget()
    assert snapshot.wallet(who()) is None


# Routes


CRM: Final = Routes(
    [
        route_map(
            "crm",
            "GET /v1/customers list:customers",
            "GET /v1/customers/{id} read:customers resource=customer:{id}",
            "GET /v1/customers/me read:self",
            "HEAD /v1/customers/me head:self",
            "POST,PUT /v1/customers/{id}/notes write:customers.notes resource={id}/notes",
            "* /v1/customers/{id}/{rest...} execute:{rest} resource=customer:{id}",
            "GET /files/{path...} read:file resource={path}",
            "GET / read:root",
        )
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "v1/customers", ("list:customers", "")),
        ("get", "/v1/customers/", ("list:customers", "")),
        ("GET", "/v1/customers/7", ("read:customers", "customer:7")),
        ("GET", "/v1/customers/ü b", ("read:customers", "customer:ü b")),
        ("GET", "/v1/customers/{id}", ("read:customers", "customer:{id}")),
        ("GET", "/v1/customers/me", ("read:self", "")),
        ("GET", "/v1/customers/ME", ("read:customers", "customer:ME")),
        ("HEAD", "/v1/customers/me", ("head:self", "")),
        ("HEAD", "/v1/customers/7", ("read:customers", "customer:7")),
        ("POST", "/v1/customers/7/notes", ("write:customers.notes", "7/notes")),
        ("PUT", "/v1/customers/7/notes/", ("write:customers.notes", "7/notes")),
        ("GET", "/v1/customers/7/notes", ("execute:notes", "customer:7")),
        ("PURGE", "/v1/customers/7/a/b", ("execute:a/b", "customer:7")),
        ("GET", "/files/a/b/c", ("read:file", "a/b/c")),
        ("GET", "/files", None),
        ("GET", "/files/", None),
        ("GET", "/files//", None),
        ("GET", "/files//a", None),
        ("GET", "", ("read:root", "")),
        ("GET", "/", ("read:root", "")),
        ("POST", "/", None),
        ("POST", "/v1/customers/7", None),
        ("GET", "/V1/customers", None),
        ("GET", "/v1/customersx", None),
        ("OPTIONS", "/v1/customers", None),
        ("*", "/v1/customers", None),
    ],
)
def test_a_request_is_what_the_most_specific_route_says(
    method: str, path: str, expected: tuple[str, str] | None
) -> None:
    found = CRM.match(method, "api.example", path)
    assert found == (None if expected is None else Mapped(*expected, "crm"))


HOSTS: Final = Routes(
    [
        route_map("b-any", "GET /x any", "* /x star", unmapped="allow", verification="warn"),
        route_map("c-eu", "GET /x eu", hosts=["*.eu.example"], verification="strict"),
        route_map(
            "a-one",
            "GET /y one host=one.example",
            "GET /y other",
            hosts=["ONE.example", "two.example"],
            unmapped="deny",
            verification="off",
        ),
    ]
)


@pytest.mark.parametrize(
    ("host", "path", "action"),
    [
        ("elsewhere", "/x", "any"),
        ("a.eu.example", "/x", "eu"),
        ("A.EU.example.:8443", "/x", "eu"),
        ("eu.example", "/x", "any"),
        ("one.example:80", "/y", "one"),
        ("two.example", "/y", "other"),
        ("three.example", "/y", None),
        ("", "/x", "any"),
        ("[::1]:80", "/x", "any"),
    ],
)
def test_what_is_for_a_host_comes_before_what_is_for_any(
    host: str, path: str, action: str | None
) -> None:
    for _ in range(2):
        found = HOSTS.match("GET", host, path)
        assert (found and found.action) == action


@pytest.mark.parametrize(
    ("host", "verification", "denies"),
    [
        ("elsewhere", "warn", ""),
        ("a.eu.example", "strict", ""),
        ("two.example:1", "warn", "a-one"),
    ],
)
def test_the_strictest_that_the_maps_for_a_host_say_counts(
    host: str, verification: str, denies: str
) -> None:
    assert (HOSTS.verification(host), HOSTS.denies_unmapped(host)) == (verification, denies)


def test_without_maps_nothing_is_mapped_and_nothing_asked() -> None:
    found = Routes(())
    assert (found.match("GET", "h", "/"), found.verification("h")) == (None, None)
    assert found.denies_unmapped("h") == ""
    silent = Routes([route_map("r", "GET / a", hosts="other")])
    assert (silent.verification("h"), silent.verification("other")) == (None, None)


def calls_made(routes: Routes, path: str) -> int:
    """How many functions a look-up calls."""
    count = 0

    def count_it(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_it)
    try:
        routes.match("GET", "h", path)
    finally:
        sys.setprofile(None)
    return count


def test_a_look_up_costs_the_same_among_many_routes_as_among_few() -> None:
    few, many = (
        Routes([route_map("r", *(f"GET /v1/kind{n}/{{id}} read:{n}" for n in range(count)))])
        for count in (2, 2000)
    )
    for path in ("/v1/kind1/7", "/v1/kind1999/7", "/v2"):
        few.match("GET", "h", path)
        many.match("GET", "h", path)
        assert calls_made(many, path) <= calls_made(few, "/v1/kind1/7")
    assert many.match("GET", "h", "/v1/kind1999/7") == Mapped("read:1999", "", "r")


# The same once more, without a tree: every route is tried, and the best is taken.


def naive_fits(path: str, segments: Sequence[str]) -> dict[str, str] | None:
    """The parameters' values where a route's path fits."""
    pattern = ""
    for part in path.strip("/").split("/"):
        name = part.strip("{}.")
        if part.endswith("...}"):
            pattern += f"/(?P<{name}>[^/]+(?:/.*)?)"
        elif part.startswith("{"):
            pattern += f"/(?P<{name}>[^/]+)"
        elif part:
            pattern += f"/{re.escape(part)}"
    found = re.fullmatch(pattern, "".join(f"/{segment}" for segment in segments), re.DOTALL)
    return None if found is None else found.groupdict()


def naive_match(
    maps: Mapping[str, Sequence[tuple[str, str, str]]], method: str, host: str, path: str
) -> tuple[str, int] | None:
    """The map and place of the route that counts. Routes are `(methods, path, host)`."""
    path = path.removeprefix("/").removesuffix("/")
    segments = path.split("/") if path else []
    best: tuple[Any, ...] | None = None
    for name in maps:
        for place, (methods, template, own_host) in enumerate(maps[name]):
            names = methods.split(",")
            if naive_fits(template, segments) is None or own_host not in ("", host):
                continue
            if method in names:
                kind = 0
            elif method == "HEAD" and "GET" in names:
                kind = 1
            elif names == ["*"]:
                kind = 2
            else:
                continue
            parts = template.strip("/").split("/")
            shape = tuple(
                2 if part.endswith("...}") else int(part.startswith("{")) for part in parts
            )
            key = (shape, kind, own_host == "", name, place)
            best = key if best is None else min(best, key)
    return None if best is None else (best[3], best[4])


PARTS: Final = st.sampled_from(["a", "b", "{p}"])
PATHS: Final = st.builds(
    lambda parts, rest: "/" + "/".join([*_numbered(parts), *rest]),
    st.lists(PARTS, max_size=3),
    st.sampled_from([[], [], ["{rest...}"]]),
)
METHODS: Final = st.sampled_from(["GET", "POST", "HEAD", "*", "GET,POST"])
NAIVE_ROUTES: Final = st.lists(
    st.tuples(METHODS, PATHS, st.sampled_from(["", "", "h", "i"])), min_size=1, max_size=6
)
REQUESTS: Final = st.tuples(
    st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    st.sampled_from(["h", "i", "j"]),
    st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=5).map("/".join),
)


def _numbered(parts: Sequence[str]) -> list[str]:
    return [part if part != "{p}" else f"{{p{at}}}" for at, part in enumerate(parts)]


def _distinct(routes: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Without those that one map may not have beside each other."""
    kept: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str, str]] = set()
    for methods, path, host in routes:
        shapes = {(method, path, host) for method in methods.split(",")}
        if not shapes & seen:
            kept.append((methods, path, host))
            seen |= shapes
    return kept


@given(
    st.dictionaries(st.sampled_from(["m", "n"]), NAIVE_ROUTES, min_size=1),
    st.lists(REQUESTS, min_size=1, max_size=8),
)
@settings(deadline=None, max_examples=300)
def test_the_tree_finds_what_trying_every_route_finds(
    drawn: dict[str, list[tuple[str, str, str]]], requests: list[tuple[str, str, str]]
) -> None:
    maps = {name: _distinct(routes) for name, routes in drawn.items()}
    found = Routes(
        route_map(
            name,
            *(
                {
                    "method": methods.split(","),
                    "path": path,
                    "action": f"{name}:{place}",
                    **({"host": host} if host else {}),
                }
                for place, (methods, path, host) in enumerate(routes)
            ),
        )
        for name, routes in maps.items()
    )
    for method, host, path in requests:
        expected = naive_match(maps, method, host, path)
        match = found.match(method, host, path)
        assert (match and match.action) == (expected and f"{expected[0]}:{expected[1]}")


@given(st.lists(st.sampled_from(["a", "b", "a b", "ü", "{x}"]), min_size=1, max_size=4))
def test_parameters_are_what_stands_in_their_place(segments: list[str]) -> None:
    template = "/".join(f"{{p{at}}}" for at in range(len(segments)))
    text = "|".join(f"{{p{at}}}" for at in reversed(range(len(segments))))
    found = Routes([route_map("r", {"method": "*", "path": f"/{template}", "action": text})])
    match = found.match("GET", "", "/".join(segments))
    assert match is not None
    assert match.action == "|".join(reversed(segments))


@given(
    st.lists(st.lists(st.sampled_from(["a", "a*", "*b", "*", "ab"]), max_size=3), max_size=4),
    st.text("ab", max_size=4),
)
def test_the_first_list_is_found_that_matches(lists: list[list[str]], action: str) -> None:
    expected = None
    for number, patterns in reversed(list(enumerate(lists))):
        for position, pattern in reversed(list(enumerate(patterns))):
            if re.fullmatch(pattern.replace("*", ".*"), action):
                expected = number, position
    assert FirstMatch(lists).of(action) == expected


# Files


def parsed(*texts: str) -> list[tuple[str, Parsed]]:
    return [(f"{n}.yaml", parse_file(text.encode(), f"{n}.yaml")) for n, text in enumerate(texts)]


def together(*texts: str, stale: Sequence[int] = ()) -> Policies:
    return build(
        PolicyFile(name, found.policies, int(name[0]) in stale, found.chain)
        for name, found in parsed(*texts)
    )


POLICY: Final = """\
name: same
version: "1"
appliesTo: {tags: [a]}
rules: [{effect: allow, actions: [x]}]
defaultEffect: deny
"""
WALLET: Final = "kind: RiskWallet\nname: same\ncapacity: 10\nwindow: 1h\n"
FLOORS: Final = 'kind: PrivilegeFloors\nname: same\nfloors: [{actions: ["*"], tier: basic}]\n'


def test_a_file_may_hold_documents_of_every_kind() -> None:
    [(_, found)] = parsed(f"{WALLET}---\n{POLICY}---\n{FLOORS}")
    assert found.problems == ()
    assert [placed.policy.name for placed in found.policies] == ["same"]
    assert [(p.document.kind, p.line, p.column) for p in found.chain] == [
        ("RiskWallet", 2, 1),
        ("PrivilegeFloors", 13, 1),
    ]
    assert pickle.loads(pickle.dumps(found.chain)) == found.chain


def test_one_bad_document_takes_all_of_its_file_along() -> None:
    [(_, found)] = parsed(f"{WALLET}---\n{POLICY}---\n{FLOORS.replace('basic', 'lowly')}")
    assert found.is_bad
    assert not found.has_documents


def test_names_are_unique_in_each_kind() -> None:
    all_of_them = f"{WALLET}---\n{POLICY}---\n{FLOORS}"
    policies = together(all_of_them, WALLET.replace("10", "20"), FLOORS)
    assert [str(problem) for problem in policies.problems] == [
        "1.yaml:2:1: error: the RiskWallet name `same` is taken by 0.yaml:2; this one is not"
        " loaded [duplicate-name]",
        "2.yaml:2:1: error: the PrivilegeFloors name `same` is taken by 0.yaml:13; this one is not"
        " loaded [duplicate-name]",
    ]
    assert [(d.kind, d.name) for d in policies.snapshot.chain] == [
        ("PrivilegeFloors", "same"),
        ("RiskWallet", "same"),
    ]
    mine = policies.snapshot.wallet(who())
    assert mine is not None
    assert mine.capacity == 10


def test_what_a_file_says_now_comes_before_what_another_one_said_once() -> None:
    policies = together(WALLET, WALLET.replace("10", "20"), stale=[0])
    mine = policies.snapshot.wallet(who())
    assert mine is not None
    assert mine.capacity == 20
    assert str(policies.problems[0]).startswith("0.yaml:2:1: error: the RiskWallet name")


@pytest.mark.parametrize(
    ("patterns", "is_told"),
    [
        ('["deploy:*"]', True),
        ('["admin:keys"]', True),
        ('["deploy:*", "Admin:*"]', False),
        ('["a*"]', False),
        ('["*"]', False),
    ],
)
def test_floors_that_lose_the_built_in_one_are_told(patterns: str, is_told: bool) -> None:
    problems = together(FLOORS.replace('["*"]', patterns)).problems
    assert bool(problems) is is_told
    if is_told:
        assert str(problems[0]) == (
            "0.yaml:2:1: warning: floors replace the built-in one of `admin:*`, and none of these"
            " is for all of it"
        )


def test_routes_that_two_maps_have_are_told() -> None:
    def text(name: str, *routes: str, hosts: str = "") -> str:
        lines = "".join(f"  - {route}\n" for route in routes)
        return f"kind: RouteMap\nname: {name}\n{hosts}routes:\n{lines}"

    get = '{method: [GET, PUT], path: "/a/{id}", action: "read:a"}'
    post = '{method: POST, path: "/a/{id}", action: "write:a"}'
    again = '{method: [DELETE, GET], path: "/a/{name}", action: "b"}'
    assert together(text("m", get), text("n", post)).problems == []
    assert together(text("m", get), text("n", again, hosts="hosts: [h]\n")).problems == []
    [problem] = together(text("z", get, post), text("b", again, post)).problems
    assert str(problem) == (
        "0.yaml:2:1: warning: route 1 never counts for GET: `b` has the same path for the same"
        " hosts, and comes first by name; so it is 1 more times"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "kind: PrivilegeFloors\nname: f\nfloors:\n"
            '  - {actions: ["admin:*", "read:**"], tier: basic}\n'
            '  - {actions: ["Read:a ", "read:b*"], tier: trusted}\n',
            "0.yaml:5:5: warning: floor 2 never counts: floor 1 before it matches everything that"
            " it does [shadowed-rule]",
        ),
        (
            "kind: ProvenanceGate\nname: g\nrequirements:\n"
            '  - {actions: ["a:*"], minLane: 1}\n'
            '  - {actions: ["b:*"], minLane: 1}\n'
            '  - {actions: ["b:x", "a:x", "a:y"], minLane: 2}\n',
            "0.yaml:6:5: warning: requirement 3 never counts: requirements 1, 2 before it match"
            " everything that it does [shadowed-rule]",
        ),
        (
            f"{WALLET}costs:\n  - {{actions: [x], cost: 1}}\n  - {{actions: [x], cost: 2}}\n",
            "0.yaml:7:5: warning: cost 2 never counts: cost 1 before it matches everything that it"
            " does [shadowed-rule]",
        ),
        (f'{WALLET}costs: [{{actions: [x], cost: 1}}, {{actions: ["*"], cost: 2}}]\n', ""),
        (f"{WALLET}costs: [{{actions: [x], cost: 1}}, {{actions: [x, y], cost: 2}}]\n", ""),
        (f"{WALLET}costs: [{{actions: [x, x], cost: 1}}]\n", ""),
        (
            "kind: RouteMap\nname: m\nroutes:\n  - {method: get, path: /a, action: a}\n"
            "  - {method: [POST, GTE], path: /a, action: a}\n"
            "  - {method: gte, path: /b, action: a}\n",
            "0.yaml:5:21: warning: `GTE` is no registered HTTP method, did you mean `GET`?",
        ),
        (
            "kind: RouteMap\nname: m\nroutes: [{method: DELTE, path: /a, action: a}]\n",
            "0.yaml:3:19: warning: `DELTE` is no registered HTTP method, did you mean `DELETE`?",
        ),
        (
            'kind: RouteMap\nname: m\nroutes: [{method: ["*"], path: /a, action: a}]\n',
            "",
        ),
    ],
)
def test_what_never_counts_in_a_document_is_told_with_its_place(text: str, said: str) -> None:
    [(_, found)] = parsed(text)
    assert [str(problem) for problem in found.problems] == ([said] if said else [])
    assert len(found.chain) == 1


MODELS: Final[tuple[type[BaseModel], ...]] = (
    *CHAIN_KINDS.values(), AppliesTo, Cost, FloorLine, RefillLine, Requirement, Route
)  # fmt: skip
KEYS: Final = sorted(
    {key for model in MODELS for name in model.model_fields for key in spellings_of(model, name)}
    | {"apiVersion", "metadata", "spec", "bindings", "rules", "xyzzy", "0", "trusted", "observed"}
)
LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.sampled_from(
        ["", "a", "*", "GET", "/a/{id}", "{id}", "24h", "high", "trusted", "off", 0.5]
    )
)
TREES: Final = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.sampled_from([*CHAIN_KINDS, "Policy", "RiskWalet", "", 5]),
    st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_any_tree_of_known_words_gives_documents_or_errors(
    kind: object, tree: dict[str, Any], is_wrapped: bool
) -> None:
    document: dict[str, Any] = {"name": "n", **tree, "kind": kind}
    if is_wrapped:
        document = {"apiVersion": "x", "kind": kind, "metadata": {"name": "n"}, "spec": tree}
    [(_, found)] = parsed(json.dumps(document))
    assert found.has_documents is not found.is_bad
    assert all(str(problem).isprintable() for problem in found.problems)


def test_every_kind_has_a_model_that_says_so() -> None:
    for kind, model in CHAIN_KINDS.items():
        assert model.model_json_schema()["properties"]["kind"]["const"] == kind
