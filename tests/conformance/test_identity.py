"""§4: whose token it is."""

import json
import time
from typing import Any

import jwt
import pytest

from tests.conformance.rows import covers
from tests.conformance.wire import admin, agent, check, counting, fresh, refusal
from tests.e2e.sidecar import JWT_SECRET, Sidecar, bearer


def _signed(algorithm: str = "HS256", secret: str = JWT_SECRET, **changes: Any) -> dict[str, str]:
    claims = {"sub": "somebody", "exp": int(time.time()) + 300, "tags": ["conform"], **changes}
    given = {name: value for name, value in claims.items() if value is not None}
    return {"Authorization": f"Bearer {jwt.encode(given, secret, algorithm)}"}


@covers("§4 pinned algorithm")
def test_a_token_does_not_choose_its_algorithm(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    assert check(enforcing, "read:x", _signed()).status_code == 200
    wrong = (
        _signed("none", ""), _signed("HS512", JWT_SECRET * 2), _signed("HS384", JWT_SECRET * 2),
        _signed(secret="another secret of more than 32 characters"),
    )  # fmt: skip
    for headers in wrong:
        refusal(enforcing.get("/proxy/x", headers=headers), 401)
    assert since.forwarded() == 0


@covers("§4 sub and exp")
@pytest.mark.parametrize(
    "changes",
    [{"sub": None}, {"exp": None}, {"sub": ""}, {"exp": 1}, {"sub": 7}, {"exp": "soon"},
     {"nbf": 2_000_000_000}, {"tags": "conform"}],
)  # fmt: skip
def test_a_token_says_whose_it_is_and_until_when(
    enforcing: Sidecar, changes: dict[str, Any]
) -> None:
    # What jwt.encode will not write it is not asked to check.
    given = {"sub": "somebody", "exp": int(time.time()) + 300, **changes}
    claims = {name: value for name, value in given.items() if value is not None}
    signed = jwt.api_jws.encode(json.dumps(claims).encode(), JWT_SECRET, "HS256")
    refusal(check(enforcing, "read:x", {"Authorization": f"Bearer {signed}"}), 401)


@covers("§4 issuer")
def test_an_issuer_is_ours_where_there_is_one(enforcing: Sidecar) -> None:
    assert check(enforcing, "read:x", _signed(iss="meshguard")).status_code == 200
    assert check(enforcing, "read:x", _signed()).status_code == 200
    refusal(check(enforcing, "read:x", _signed(iss="somebody-else")), 401)


@covers("§4 unknown agent")
def test_an_agent_that_nobody_registered_is_who_its_token_says(enforcing: Sidecar) -> None:
    answer = check(enforcing, "read:x", agent("never-registered"))
    assert (answer.status_code, answer.headers["x-meshguard-agent-id"]) == (
        200, "never-registered",
    )  # fmt: skip


@covers("§4 revocation wins")
def test_a_revocation_wins_over_any_token(enforcing: Sidecar) -> None:
    name = fresh("unregistered")
    assert check(enforcing, "read:x", agent(name)).status_code == 200
    admin(enforcing, "DELETE", f"/agents/{name}", params={"unknown": "true"})
    since = counting(enforcing)
    refusal(enforcing.get("/proxy/x", headers=agent(name, tier="privileged")), 401)
    assert since.forwarded() == 0


@covers("§4 pinned agent")
def test_a_sidecar_of_one_agent_takes_no_other(pinned: Sidecar) -> None:
    since = counting(pinned)
    assert pinned.get("/proxy/x", headers=agent("the-one")).status_code == 200
    refusal(pinned.get("/proxy/x", headers=agent("another")), 401)
    assert since.forwarded() == 1


@covers("§4 aliases", "§4 ranks")
@pytest.mark.parametrize(
    ("tier", "is_trusted"),
    [("trusted", True), ("elevated", True), ("Elevated", True), ("verified", False),
     ("standard", False), ("basic", False), ("unverified", False), ("untrusted", False),
     ("anonymous", False), ("sandboxed", False), ("restricted", False), ("privileged", False)],
)  # fmt: skip
def test_aliases_of_a_tier_compare_equal(enforcing: Sidecar, tier: str, is_trusted: bool) -> None:
    answer = check(enforcing, "tier:x", bearer(tags=(), tier=tier))
    assert (answer.status_code == 200) is is_trusted


@covers("§4 ranks")
@pytest.mark.parametrize(
    ("tier", "may"),
    [("unverified", False), ("basic", False), ("verified", True), ("standard", True),
     ("trusted", True), ("unrestricted", True), ("privileged", True)],
)  # fmt: skip
def test_tiers_are_a_ladder(enforcing: Sidecar, tier: str, may: bool) -> None:
    given = enforcing.client.post(
        "/relationships",
        headers=agent(tier=tier),
        json={"targetAgentId": fresh("below"), "scope": ["read:*"]},
    )
    assert (given.status_code == 201) is may


@covers("§4 unknown tier")
def test_a_tier_on_no_rung_is_no_tier(enforcing: Sidecar) -> None:
    refusal(check(enforcing, "read:x", _signed(tier="emperor")), 401)


@covers("§4 dashboard token")
def test_a_dashboards_token_is_no_agents(enforcing: Sidecar) -> None:
    dashboard = _signed(
        sub=None, orgId="acme", email="a@b.c", plan="pro", isSuperAdmin=True,
        iat=int(time.time()), iss="meshguard",
    )  # fmt: skip
    refusal(check(enforcing, "read:x", dashboard), 401)
    refusal(enforcing.get("/admin/agents", headers=dashboard), 401)
