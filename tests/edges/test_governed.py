"""Decisions by name: checks, batches and action tokens, with everything the chain remembers."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.core.mode import Mode
from authz.core.timestamps import rfc3339
from tests.builders import NOW, check_request
from tests.edges.world import World, policies

RULES = policies("""
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {id: sealed, effect: allow, actions: ["seal:*"], requireActionToken: true}
  - {id: asked, effect: require_approval, actions: ["pay:*"]}
  - {id: both, effect: require_approval, actions: ["wire:*"], requireActionToken: true}
  - {id: counted, effect: allow, actions: ["count:*"], rateLimit: {max_per_minute: 3}}
  - {effect: allow, actions: ["spend:*"]}
  - {id: dry, effect: deny, actions: ["dry:*"], enforcement: dry_run}
  - {effect: allow, actions: ["dry:*", "delete:database"]}
defaultEffect: deny
---
kind: RiskWallet
name: points
version: "1"
capacity: 10
window: 1h
declaredCost: raise
costs: [{actions: ["spend:*"], cost: 3}]
---
kind: ProvenanceGate
name: lanes
version: "1"
requirements: [{actions: ["read:secret"], minLane: 2}]
""")
BATCH = "/api/v1/governance/batch"
MINT = "/api/v1/action-tokens"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, RULES, DESTRUCTIVE_GATE="true")
    yield made
    made.close()


def batch(world: World, *items: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    answer = world.ask(
        "POST", BATCH, headers=world.agent("a", **headers), json={"actions": list(items)}
    )
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def mint(world: World, action: str, agent_id: str = "a", **more: Any) -> httpx.Response:
    headers = world.agent(agent_id, **more.pop("headers", {}))
    return world.ask("POST", MINT, headers=headers, json={"action": action, **more})


def codes(items: list[dict[str, Any]]) -> list[str]:
    return [str(item.get("code", item["decision"])) for item in items]


# Checks.


def test_a_check_says_what_a_limit_leaves_and_when_to_come_back(world: World) -> None:
    for _ in range(3):
        assert world.check("a", "count:x").status_code == 200
    answer = world.check("a", "count:x")
    body = answer.json()
    assert (answer.status_code, body["error"], body["code"]) == (
        429,
        "rate_limited",
        "rate_limited",
    )
    assert body["limit"] == "3 requests per minute"
    assert answer.headers["retry-after"] == str(body["retry_after"])
    assert world.check("b", "count:x").status_code == 200
    world.now += body["retry_after"]
    assert world.check("a", "count:x").status_code == 200


def test_a_check_says_what_an_action_waits_for(world: World) -> None:
    answer = world.check("a", "delete:database")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (403, "approval_required")
    assert (body["requiresApproval"], body["approvers"]) == (True, ["human"])
    assert (body["category"], body["severity"]) == ("data_deletion", "critical")
    assert body["pendingId"].startswith("pdact_")


# Batches.


def test_a_batch_spends_in_its_order_and_ends_where_nothing_is_left(world: World) -> None:
    spends = [{"action": "spend:x"}] * 4
    assert codes(batch(world, *spends, {"action": "read:x"})) == [
        "allow", "allow", "allow", "wallet_exhausted", "allow",
    ]  # fmt: skip
    assert [row["debit"] for row in world.rows()] == [3, 3, 3, None, 0]
    assert codes(batch(world, *[{"action": "count:x"}] * 4)) == ["allow"] * 3 + ["rate_limited"]


def test_a_batch_is_judged_by_one_snapshot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        type(world), "snapshot", property(lambda _: next(snapshots), lambda *_: None), raising=False
    )
    snapshots = itertools.chain([RULES], itertools.repeat(policies("""
name: nobody
version: "1"
appliesTo: {agentIds: ["*"]}
rules: [{effect: deny, actions: ["*"]}]
defaultEffect: deny
""")))  # fmt: skip
    assert codes(batch(world, *[{"action": "read:x"}] * 5)) == ["allow"] * 5
    assert {row["policy_version"] for row in world.rows()} == {RULES.version}


def test_what_an_item_says_of_itself_counts_before_the_headers(world: World) -> None:
    root = world.agent("root")
    body = {"targetAgentId": "a", "scope": ["read:docs"], "expiresAt": rfc3339(NOW + 60)}
    made = world.ask("POST", "/relationships", headers=root, json=body).json()
    edge, chain = made["relationship"]["id"], made["chain"]
    secret, docs = {"action": "read:secret"}, {"action": "read:docs"}
    items = batch(
        world,
        secret,
        {**secret, "provenance": "lane=1"},
        {**secret, "provenance": ""},
        {"action": "spend:x", "cost": 7},
        docs,
        {**docs, "delegation": edge},
        {**docs, "delegatedBy": edge},
        {**docs, "delegation": chain},
        {**docs, "delegation": ""},
        {"action": "read:other", "delegatedBy": edge},
        provenance="lane=2;source=crm",
    )
    assert codes(items) == [
        "allow", "provenance_too_low", "provenance_too_low", "allow", "allow", "allow", "allow",
        "allow", "allow", "delegation_out_of_scope",
    ]  # fmt: skip
    rows = world.rows()[1:]
    assert [row["delegation_id"] for row in rows] == [None] * 5 + [edge] * 3 + [None, edge]
    assert [row["debit"] for row in rows][3:5] == [7, 0]
    batch(world, docs, {**docs, "cost": 0}, cost="2")
    assert [row["debit"] for row in world.rows()][-2:] == [2, 0]
    wrong = codes(batch(world, docs, {**docs, "delegation": ""}, delegation="rel_" + "0" * 32))
    assert wrong == ["delegation_unknown", "allow"]


def test_a_batch_names_what_waits_and_passes_once_it_was_approved(world: World) -> None:
    [first, second] = batch(world, {"action": "pay:a"}, {"action": "pay:b"})
    assert (first["decision"], first["requiresApproval"]) == ("deny", True)
    assert first["pendingId"] != second["pendingId"]
    path = f"/pending/{first['pendingId']}/approve"
    assert world.admin("POST", path, json={"approver": "ann"}).status_code == 200
    named = {"pendingId": first["pendingId"]}
    assert codes(
        batch(world, {"action": "pay:b", **named}, {"action": "pay:a", **named},
              {"action": "pay:a", **named})
    ) == ["pending_mismatch", "allow", "pending_used"]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"delegation": "a", "delegatedBy": "b"}, "actions.0: delegation and delegatedBy"),
        ({"delegatedBy": 7}, "actions.0.delegatedBy"),
        ({"provenance": ["lane=1"]}, "actions.0.provenance"),
        ({"pendingId": "x" * 30_000}, "actions.0.pendingId"),
        ({"cost": "7"}, "actions.0.cost"),
        ({"cost": -1}, "actions.0.cost"),
        ({"cost": True}, "actions.0.cost"),
        ({"cost": 10**300}, "actions.0.cost"),
        ({"cost": 1.5}, "actions.0.cost: must be a whole number"),
        # Without it the agent would act on its own authority.
        ({"delegatoin": "rel"}, "actions.0: unknown key `delegatoin`, did you mean `delegation`?"),
        ({"pending_id": "x"}, "actions.0: unknown key `pending_id`, did you mean `pendingId`?"),
        ({"agentId": "a"}, "actions.0: unknown key `agentId`, known are action, resource, "),
    ],
)
def test_a_bad_item_refuses_the_whole_batch(world: World, item: dict[str, Any], where: str) -> None:
    body = {"actions": [{"action": "read:x", **item}, {"action": "read:y"}]}
    answer = world.ask("POST", BATCH, headers=world.agent("a"), json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(where), answer.json()
    assert not world.rows()


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (BATCH, {"actions": []}, "actions: must not be empty"),
        (BATCH, {"actions": [1]}, "actions.0: must be a JSON object"),
        (BATCH, {"actions": [{}]}, "actions.0.action: missing"),
        (BATCH, {"action": "read:x"}, "unknown key `action`, did you mean `actions`?"),
        (MINT, {"action": "read:x", "delegate": "rel"}, "unknown key `delegate`, did you mean"),
        (MINT, {}, 'action: missing; send {"action": …}'),
    ],
)
def test_what_is_wrong_with_a_body_is_said_in_our_words(
    world: World, path: str, body: dict[str, Any], said: str
) -> None:
    answer = world.ask("POST", path, headers=world.agent("a"), json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(said), answer.json()
    assert not world.rows()


# Action tokens.


def test_a_token_is_minted_for_what_is_allowed_and_is_good_once(world: World) -> None:
    needed = world.check("a", "seal:letter", resource="letters/1")
    assert needed.json()["code"] == "action_token_required"
    answer = mint(world, "seal:letter", resource="letters/1")
    body = answer.json()
    assert (answer.status_code, body["decision"], body["allowed"]) == (200, "allow", True)
    assert body["expiresAt"] == rfc3339(NOW + 300)
    assert answer.headers["x-meshguard-decision"] == "allow"
    row = world.rows()[-1]
    assert (row["source"], row["action"], row["resource"]) == ("mint", "seal:letter", "letters/1")
    token = body["actionToken"]
    assert token not in str(world.rows())

    sealing = {"resource": "letters/1", "action_token": token}
    assert world.check("b", "seal:letter", **sealing).json()["code"] == "action_token_mismatch"
    assert world.check("a", "seal:other", **sealing).json()["code"] == "action_token_mismatch"
    elsewhere = {**sealing, "resource": "letters/2"}
    assert world.check("a", "seal:letter", **elsewhere).json()["code"] == "action_token_mismatch"
    assert world.check("a", "seal:letter", **sealing).status_code == 200
    assert world.check("a", "seal:letter", **sealing).json()["code"] == "action_token_replayed"


def test_a_token_is_worth_nothing_late_or_under_other_policies(world: World) -> None:
    late, outdated = (mint(world, "seal:letter").json()["actionToken"] for _ in range(2))
    world.now += 300
    assert world.check("a", "seal:letter", action_token=late).json()["code"] == (
        "action_token_expired"
    )
    world.now -= 1
    world.snapshot = policies("""
name: others
version: "1"
appliesTo: {agentIds: ["*"]}
rules: [{effect: allow, actions: ["*"]}]
defaultEffect: deny
""")
    assert world.check("a", "seal:letter", action_token=outdated).json()["code"] == (
        "action_token_outdated"
    )


def test_asking_for_a_token_uses_nothing_up(world: World) -> None:
    for _ in range(5):
        assert mint(world, "count:x").status_code == 200
        answer = mint(world, "spend:x", cost=9)
        assert answer.headers["x-meshguard-wallet-remaining"] == "10"
    assert world.check("a", "spend:x").headers["x-meshguard-wallet-remaining"] == "7"
    exhausted = mint(world, "spend:x", cost=9)
    assert (exhausted.status_code, exhausted.json()["code"]) == (403, "wallet_exhausted")
    assert "actionToken" not in exhausted.json()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("action", ["pay:bill", "wire:bill"])
def test_a_token_is_minted_once_a_person_has_approved(
    world: World, action: str, named: bool
) -> None:
    denied = mint(world, action, resource="bills/1")
    assert (denied.status_code, denied.json()["code"]) == (403, "approval_required")
    pending = denied.json()["pendingId"]
    entry = world.admin("GET", f"/pending/{pending}").json()
    assert not {"method", "path"} & set(entry)
    world.admin("POST", f"/pending/{pending}/approve", json={"approver": "ann"})
    headers = {"pending_id": pending} if named else {}
    tokens = [
        mint(world, action, resource="bills/1", headers=headers).json()["actionToken"]
        for _ in range(2)
    ]
    request = {
        "authorization": world.agent("a")["Authorization"],
        "x-meshguard-action": action,
        "x-meshguard-resource": "bills/1",
    }
    answers = []
    for token in tokens:
        raw = check_request("POST", "/proxy/bills", {**request, "x-meshguard-action-token": token})
        world.gate.check(raw)
        answers.append(world.rows()[-1]["code"])
    # Two tokens, one approval.
    assert answers == ["approved", "pending_used"]
    assert world.admin("GET", f"/pending/{pending}").json()["state"] == "executed"


def test_what_only_passes_gets_no_token(tmp_path: Path, world: World) -> None:
    dry = mint(world, "dry:x")
    assert (dry.status_code, dry.json()["wouldDeny"]) == (200, True)
    assert "actionToken" not in dry.json()
    for mode, action, headers in (
        (Mode.AUDIT, "write:x", None),
        (Mode.AUDIT, "read:x", {}),
        (Mode.BYPASS, "read:x", None),
    ):
        world.gate.mode = mode
        answer = world.ask(
            "POST", MINT, headers=world.agent("a") if headers is None else {},
            json={"action": action},
        )  # fmt: skip
        assert (answer.status_code, answer.json()["allowed"]) == (200, True)
        assert "actionToken" not in answer.json()
    world.gate.mode = Mode.AUDIT
    assert "actionToken" in mint(world, "read:x").json()


def test_whoever_is_not_known_is_refused_before_the_body_is_read(world: World) -> None:
    answer = world.ask("POST", MINT, content=b"not JSON")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
    assert [(row["source"], row["action"]) for row in world.rows()] == [("mint", "mint")]


def test_a_denial_is_answered_as_a_check_is(world: World) -> None:
    def told(answer: httpx.Response) -> dict[str, Any]:
        own = ("decisionId", "traceId", "trace_id")
        return {name: value for name, value in answer.json().items() if name not in own}

    minted, checked = mint(world, "write:x"), world.check("a", "write:x")
    assert (minted.status_code, told(minted)) == (403, told(checked))
    assert mint(world, "a\u0007b").json()["code"] == "malformed"


# The documentation.


def test_the_requests_of_the_documentation_are_understood(world: World) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    curls = re.findall(
        r"^\$ curl -s http://127\.0\.0\.1:3100(\S+) .*?--json '(.*?)'$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    answers = {
        path: world.ask("POST", path, headers=world.agent("a"), content=body)
        for path, body in curls
    }
    assert set(answers) == {BATCH, MINT, "/relationships"}
    assert answers[BATCH].status_code == 200
    assert answers[MINT].status_code in (200, 403)
    assert answers["/relationships"].status_code == 201
