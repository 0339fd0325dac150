"""Records over HTTP: each change is made with its audit row or not at all, and nobody else's is."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.core.identity import MAX_CLAIM
from authz.core.jwks import parse
from authz.core.ledger import Put
from authz.core.names import MAX_BODY
from authz.core.snapshot import Snapshot
from authz.core.timestamps import rfc3339
from tests.builders import NOW
from tests.edges.world import ADMIN, TOKEN, World, policies

RULES = policies("""
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {effect: require_approval, actions: ["pay:*"]}
defaultEffect: deny
---
kind: RiskWallet
name: points
version: "1"
capacity: 10
window: 1h
costs: [{actions: ["read:dear"], cost: 4}]
""")
LATER = rfc3339(NOW + 3600)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, RULES)
    yield made
    made.close()


def created(world: World, name: str = "helper", **more: Any) -> dict[str, Any]:
    answer = world.admin("POST", "/agents", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def pending(world: World, agent_id: str = "payer", action: str = "pay:bill") -> str:
    answer = world.check(agent_id, action)
    assert answer.status_code == 403
    return str(answer.json()["pendingId"])


def delegated(world: World, headers: dict[str, str], **more: Any) -> httpx.Response:
    body = {"targetAgentId": "child", "scope": ["read:*"], "expiresAt": LATER, **more}
    return world.ask("POST", "/relationships", headers=headers, json=body)


# Who may.

ADMINS = [
    ("GET", "agents"), ("POST", "agents"), ("GET", "agents/x"), ("PATCH", "agents/x"),
    ("PUT", "agents/x"), ("DELETE", "agents/x"), ("POST", "agents/x/token"), ("GET", "pending"),
    ("GET", "pending/x"), ("POST", "pending/x/approve"), ("POST", "pending/x/reject"),
    ("GET", "wallets"), ("POST", "wallets/x/y/reset"), ("GET", "fuses"),
    ("POST", "fuses/x/reset"), ("GET", "delegation/keys"), ("GET", "relationships"),
    ("POST", "relationships"), ("GET", "relationships/x"), ("DELETE", "relationships/x"),
]  # fmt: skip


@pytest.mark.parametrize("prefix", ["/admin", "/api/v1/admin"])
@pytest.mark.parametrize(("method", "path"), ADMINS)
def test_only_the_admin_token_opens_what_is_the_admins(
    world: World, prefix: str, method: str, path: str
) -> None:
    agent = world.agent("helper", tier="privileged")
    sent = {"content": b"not JSON"} if method in ("POST", "PATCH", "PUT") else {}
    for headers in ({}, agent, {**agent, "X-Admin-Token": "wrong"}, {"X-API-Key": TOKEN}):
        answer = world.ask(method, f"{prefix}/{path}", headers=headers, **sent)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error", "message"}
    for headers in (ADMIN, {"Authorization": f"Bearer {TOKEN}"}, {**agent, **ADMIN}):
        assert world.ask(method, f"{prefix}/{path}", headers=headers, **sent).status_code != 401


def test_without_an_admin_token_only_agents_have_a_place(tmp_path: Path) -> None:
    world = World(tmp_path, RULES, token="")
    for method, path in ADMINS:
        answer = world.ask(method, f"/admin/{path}", headers={"X-Admin-Token": ""})
        assert answer.status_code == 404
    assert world.ask("GET", "/relationships", headers=ADMIN).status_code == 401
    assert world.ask("GET", "/relationships", headers=world.agent("a")).status_code == 200
    world.close()


# Agents.


def test_an_agent_lives_from_its_creation_to_its_revocation(world: World) -> None:
    body: dict[str, Any] = {
        "name": "Helper", "trustTier": "standard", "tags": ["a"], "capabilities": ["code"],
        "description": "helps", "metadata": {"team": {"b": 1, "a": 2}}, "orgId": "acme",
    }  # fmt: skip
    made = created(world, **body)
    token = made.pop("token")
    assert made.pop("apiKey") == made.pop("api_key") == token
    assert made.pop("expiresAt") == rfc3339(NOW + 86_400)
    agent_id = made["id"]
    assert agent_id.startswith("agent_")
    assert made == {**body, "id": agent_id, "status": "active", "createdAt": rfc3339(NOW)}
    assert world.admin("GET", f"/agents/{agent_id}").json() == made
    headers = {"Authorization": f"Bearer {token}", "X-MeshGuard-Action": "read:x"}
    answer = world.ask("GET", "/proxy/check", headers=headers)
    assert (answer.status_code, answer.json()["trustTier"]) == (200, "standard")

    for method, change in (("PATCH", {"trustTier": "basic"}), ("PUT", {"metadata": None})):
        world.now += 1
        answer = world.admin(method, f"/agents/{agent_id}", json=change)
        assert answer.status_code == 200
    assert answer.json() == {
        **{name: value for name, value in made.items() if name != "metadata"},
        "trustTier": "basic",
        "updatedAt": rfc3339(NOW + 2),
    }
    # The registry wins over the token that says another tier.
    assert world.ask("GET", "/proxy/check", headers=headers).json()["trustTier"] == "basic"

    answer = world.admin("DELETE", f"/agents/{agent_id}", json={"reason": "left"})
    assert (answer.status_code, answer.json()["status"]) == (200, "revoked")
    assert world.admin("DELETE", f"/agents/{agent_id}").json() == answer.json()
    refused = world.ask("GET", "/proxy/check", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "agent_revoked")
    assert world.admin("POST", f"/agents/{agent_id}/token").status_code == 409
    assert world.changes() == [
        (action, agent_id, "by admin")
        for action in ("agent:create", "agent:token", "agent:update", "agent:update",
                       "agent:revoke")
    ]  # fmt: skip
    updated = world.rows()[3]["metadata"]
    assert (updated["before"]["trustTier"], updated["after"]["trustTier"]) == ("standard", "basic")
    assert token not in str(world.rows())


def test_what_others_changed_in_the_file_counts_at_once(tmp_path: Path, world: World) -> None:
    other = World(tmp_path)
    agent_id = created(other)["id"]
    assert world.admin("GET", f"/agents/{agent_id}").status_code == 200
    other.admin("DELETE", f"/agents/{agent_id}")
    assert world.ask("GET", "/relationships", headers=world.agent(agent_id)).status_code == 401
    assert world.admin("GET", "/agents").json()["agents"][0]["status"] == "revoked"
    other.close()


def test_an_agent_of_elsewhere_is_revoked_where_that_is_meant(world: World) -> None:
    assert world.admin("DELETE", "/agents/stranger").status_code == 404
    assert world.check("stranger", "read:x").status_code == 200
    answer = world.admin("DELETE", "/agents/stranger?unknown=true")
    assert (answer.status_code, answer.json()["status"]) == (200, "revoked")
    assert world.check("stranger", "read:x").json()["code"] == "agent_revoked"
    assert world.admin("POST", "/agents", json={"name": "x", "id": "stranger"}).status_code == 409


def test_whoever_revokes_an_agent_that_is_not_there_is_told_of_the_other_way(world: World) -> None:
    answer = world.admin("DELETE", "/agents/nope")
    assert answer.status_code == 404
    assert "there is no agent nope; with ?unknown=true " in answer.json()["message"]


def test_agents_are_listed_newest_first_a_page_at_a_time(world: World) -> None:
    ids = []
    for number, tier in enumerate(["verified", "trusted", "standard", "basic", "verified"]):
        world.now += number % 2  # some in the same second
        ids.append(created(world, trustTier=tier)["id"])
    world.admin("DELETE", f"/agents/{ids[0]}")

    def listed(query: str) -> list[str]:
        found: list[str] = []
        after = ""
        while True:
            answer = world.admin("GET", f"/agents?{query}&after={after}").json()
            found += [agent["id"] for agent in answer["agents"]]
            after = answer.get("next", "")
            if not after:
                return found

    whole = listed("limit=100")
    assert sorted(whole) == sorted(ids)
    times = [world.state.agents.entries[agent_id].created_at for agent_id in whole]
    assert times == sorted(times, reverse=True)
    for limit in (1, 2, 3, 5):
        assert listed(f"limit={limit}") == whole
    kept = [agent_id for agent_id in whole if agent_id in (ids[0], ids[2], ids[4])]
    assert listed("trust=verified&limit=1") == kept  # standard is another word for it
    assert listed("trust=verified&status=active") == [i for i in kept if i != ids[0]]
    assert listed("status=revoked") == [ids[0]]
    assert world.admin("GET", "/agents?after=nobody").status_code == 400


def test_a_token_lasts_as_long_as_it_is_told_to(world: World) -> None:
    agent_id = created(world)["id"]
    path = f"/agents/{agent_id}/token"
    answer = world.admin("POST", path, json={"expiresIn": "90s"})
    assert (answer.status_code, answer.json()["expiresAt"]) == (200, rfc3339(NOW + 90))
    assert world.admin("POST", path).json()["expiresAt"] == rfc3339(NOW + 86_400)
    for bad in ("0s", "9999d", "soon", "", "1.5h"):
        answer = world.admin("POST", path, json={"expiresIn": bad})
        assert (answer.status_code, answer.json()["message"][:11]) == (400, "expiresIn: "), bad


def test_without_a_secret_agents_are_registered_and_bring_their_own_tokens(tmp_path: Path) -> None:
    world = World(tmp_path, secret="")
    made = created(world)
    assert made["note"] == (
        "the agent is registered, and has no token: JWT_SECRET is not set, so no token can be"
        " signed here"
    )
    assert not {"token", "apiKey", "api_key", "expiresAt"} & set(made)
    assert world.admin("POST", f"/agents/{made['id']}/token").status_code == 409
    world.close()


# Bodies.

GOOD_AGENT = {"name": "x"}
BAD_AGENTS: list[tuple[bytes | dict[str, Any], str]] = [
    (b"", 'the body is missing; send {"name": …}'),
    (b"name=x", "the body is not JSON"),
    (b'{"name":"x","name":"y"}', "the body is not JSON"),
    (b'{"name":"x","metadata":{"a":{"b":1,"b":2}}}', "the body is not JSON"),
    (b'{"name":"x","metadata":{"a":NaN}}', "the body is not JSON"),
    (b'{"name":"x","metadata":{"a":' + b"9" * 5000 + b"}}", "the body is not JSON"),
    (b"[" * 100_000, "the body is not JSON"),
    (b"[]", "the body must be a JSON object"),
    (b"null", "the body must be a JSON object"),
    ({}, 'name: missing; send {"name": …}'),
    ({"name": ""}, "name: "),
    ({"name": 7}, "name: must be text"),
    ({"name": None}, "name: "),
    ({"name": "x" * (MAX_CLAIM + 1)}, "name: "),
    ({"name": "a\nb"}, "name: "),
    (b'{"name":"\\ud800"}', "name: "),
    ({"name": "x", "tier": "verified"}, "unknown key `tier`, did you mean `trustTier`?"),
    (
        {"name": "x", "trust_tier": "verified"},
        "unknown key `trust_tier`, did you mean `trustTier`?",
    ),
    ({"name": "x", "trustTier": "mighty"}, "trustTier: "),
    ({"name": "x", "trustTier": ["verified"]}, "trustTier: "),
    ({"name": "x", "tags": "code"}, "tags: must be a list"),
    ({"name": "x", "tags": [1]}, "tags.0: must be text"),
    ({"name": "x", "tags": ["t"] * 65}, "tags: "),
    ({"name": "x", "metadata": []}, "metadata: must be a JSON object"),
    ({"name": "x", "metadata": {"a": "x" * 5000}}, "metadata: "),
    (b'{"name":"x","metadata":{"a":1e999}}', "metadata: "),
    (b'{"name":"x","metadata":{"a":"\\ud800"}}', "metadata: "),
    (b'{"name":"x","metadata":{"a":' + b"[" * 300 + b"]" * 300 + b"}}", "metadata: "),
    ({"name": "x", "id": ""}, "id: "),
    ({"name": "x", "id": "a/b"}, "id: "),
    ({"name": "x", "id": ".."}, "id: "),
    ({"name": "x", "id": "a\u200bb"}, "id: "),
    ({"name": "x", "\ud800": 1}, "unknown key `\\ud800`, known are name, trustTier, "),
    ({"name": "x", "metadata": {"\ud800": 1}}, "metadata"),
    ({"name": "x", "k" * 100_000: 1}, "unknown key `kkk"),
]


@pytest.mark.parametrize(("body", "message"), BAD_AGENTS)
def test_a_bad_agent_is_refused_with_a_sentence_and_leaves_nothing(
    world: World, body: bytes | dict[str, Any], message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = world.admin("POST", "/agents", content=content)
    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert answer.json()["message"].startswith(message), answer.json()
    assert len(answer.content) < 500
    assert not world.rows()
    assert not world.state.agents.entries


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit: must be at least 1"),
        ("limit=1001", "limit: must be at most 1000"),
        ("limit=all", "limit: must be a whole number"),
        (f"agentId={'x' * 2000}", "agentId: is longer than "),
    ],
)
def test_what_is_wrong_with_a_query_is_said_in_our_words(
    world: World, query: str, said: str
) -> None:
    answer = world.admin("GET", f"/pending?{query}")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(said)


def test_whoever_approves_without_a_body_is_told_what_to_send(world: World) -> None:
    path = f"/pending/{pending(world)}/approve"
    for content, where in ((b"", "the body is"), (b"{}", "approver:")):
        answer = world.admin("POST", path, content=content)
        assert answer.status_code == 400
        assert answer.json()["message"] == f'{where} missing; send {{"approver": …}}'


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "/agents/ID", {}, 400),
        ("PATCH", "/agents/ID", {"name": ""}, 400),
        ("PATCH", "/agents/ID", {"id": "other"}, 400),
        ("PATCH", "/agents/nobody", {"name": "y"}, 404),
        ("PATCH", "/agents/REVOKED", {"name": "y"}, 409),
        ("PUT", "/agents/REVOKED", {"trustTier": "trusted"}, 409),
        ("DELETE", "/agents/ID", {"because": "x"}, 400),
        ("DELETE", "/agents/ID", {"reason": "x" * 2000}, 400),
        ("DELETE", "/agents/ID?unknown=perhaps", {}, 400),
        ("POST", "/agents/nobody/token", {}, 404),
        ("POST", "/agents/ID/token", {"expiresIn": 60}, 400),
        ("POST", "/pending/nothing/approve", {"approver": "ann"}, 404),
        ("POST", "/pending/nothing/reject", {"approver": "ann", "reason": "no"}, 404),
        ("POST", "/pending/PENDING/approve", {}, 400),
        ("POST", "/pending/PENDING/approve", {"approver": ""}, 400),
        ("POST", "/pending/PENDING/approve", {"approver": "a\x00b"}, 400),
        ("POST", "/pending/PENDING/approve", {"approver": "x" * 5000}, 400),
        ("POST", "/pending/PENDING/reject", {"approver": "ann"}, 400),
        ("POST", "/wallets/points/nobody/reset", None, 404),
        ("POST", "/fuses/rel_0/reset", None, 404),
        ("GET", "/agents?trust=mighty", None, 400),
        ("GET", "/agents?status=asleep", None, 400),
        ("GET", "/agents?limit=0", None, 400),
        ("GET", "/agents?limit=1001", None, 400),
        ("GET", "/pending?state=maybe", None, 400),
        ("GET", "/pending?after=nothing", None, 400),
        ("GET", "/fuses?state=broken", None, 400),
        ("GET", "/pending/nothing", None, 404),
        ("GET", "/relationships/rel_0", None, 404),
        ("GET", "/relationships?status=over", None, 400),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    world: World, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    path = path.replace("ID", created(world)["id"]).replace("PENDING", pending(world))
    if "REVOKED" in path:
        path = path.replace("REVOKED", created(world, "other")["id"])
        assert world.admin("DELETE", path).status_code == 200
    before = len(world.rows())
    answer = world.admin(method, path, **({} if body is None else {"json": body}))
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "message"}
    assert len(world.rows()) == before


@pytest.mark.parametrize("path", ["/admin/agents", "/relationships", "/api/v1/action-tokens"])
def test_a_body_of_too_many_values_is_413_before_it_is_read(world: World, path: str) -> None:
    """Reading them would keep decisions waiting."""
    answer = world.ask(
        "POST", path, headers=world.agent("a") | ADMIN, content=b"[" + b"1," * 8193 + b"1]"
    )
    assert (answer.status_code, "more than 8192 commas" in answer.json()["message"]) == (413, True)


@pytest.mark.parametrize("path", ["/admin/agents", "/relationships", "/api/v1/action-tokens"])
def test_a_body_that_is_too_large_is_413(world: World, path: str) -> None:
    headers = {**world.agent("a"), **ADMIN}
    answer = world.ask("POST", path, headers=headers, content=b" " * (MAX_BODY + 1))
    assert answer.status_code == 413


def test_what_cannot_be_recorded_is_not_done(world: World) -> None:
    waiting, agent_id = pending(world), created(world)["id"]
    with contextlib.closing(sqlite3.connect(world.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for method, path, body in [
            ("POST", "/agents", GOOD_AGENT),
            ("DELETE", f"/agents/{agent_id}", {}),
            ("POST", f"/pending/{waiting}/approve", {"approver": "ann"}),
            ("GET", "/agents", None),
        ]:
            answer = world.admin(method, path, json=body)
            assert answer.status_code == 503
            assert answer.json()["code"] == "audit_unavailable"
            assert answer.headers["retry-after"] == "1"
        other.execute("ROLLBACK")
    assert len(world.state.agents.entries) == 1
    assert world.admin("GET", f"/pending/{waiting}").json()["state"] == "pending_approval"
    assert world.admin("GET", f"/agents/{agent_id}").json()["status"] == "active"


# Pending actions.


def test_an_approved_action_passes_once(world: World) -> None:
    waiting = pending(world)
    [entry] = world.admin("GET", "/pending?state=pending_approval&agentId=payer").json()["pending"]
    assert entry == world.admin("GET", f"/pending/{waiting}").json()
    assert (entry["pendingId"], entry["agentId"], entry["action"]) == (waiting, "payer", "pay:bill")
    answer = world.admin("POST", f"/pending/{waiting}/approve", json={"approver": "ann"})
    body = answer.json()
    assert (answer.status_code, body["state"], body["approver"]) == (200, "approved", "ann")
    assert body["actionTokenExpiresAt"] == rfc3339(NOW + 300)
    again = world.admin("POST", f"/pending/{waiting}/approve", json={"approver": "bob"})
    assert again.status_code == 409
    assert world.admin("GET", "/pending?state=pending_approval").json() == {"pending": []}

    other = world.check("thief", "pay:bill", action_token=body["actionToken"])
    assert other.json()["code"] == "action_token_mismatch"
    passed = world.check("payer", "pay:bill", action_token=body["actionToken"])
    assert (passed.status_code, passed.json()["allowed"]) == (200, True)
    replayed = world.check("payer", "pay:bill", action_token=body["actionToken"])
    assert replayed.json()["code"] == "action_token_replayed"
    used = world.check("payer", "pay:bill", pending_id=waiting)
    assert used.json()["code"] == "pending_used"
    assert ("pending:approve", waiting, "by admin") in world.changes()
    assert body["actionToken"] not in str(world.rows())


def test_a_rejected_action_stays_denied(world: World) -> None:
    waiting = pending(world)
    said = {"approver": "ann", "reason": "too dear"}
    answer = world.admin("POST", f"/pending/{waiting}/reject", json=said)
    assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
    refused = world.check("payer", "pay:bill", pending_id=waiting)
    assert refused.json()["code"] == "pending_rejected"
    assert refused.json()["reason"] == f"{waiting} was rejected by ann: too dear"


# Wallets and fuses.


def test_wallets_are_told_and_reset(world: World) -> None:
    for agent_id in ("carl", "anna", "berta"):
        answer = world.check(agent_id, "read:dear")
        assert answer.headers["x-meshguard-wallet-remaining"] == "6"
    world.check("anna", "read:dear")
    empty = world.check("anna", "read:dear")
    assert (empty.status_code, empty.json()["code"]) == (403, "wallet_exhausted")
    assert empty.headers["x-meshguard-wallet-remaining"] == "2"
    assert int(empty.headers["retry-after"]) > 0

    anna = {"agentId": "anna", "wallet": "points", "spent": 8, "capacity": 10, "remaining": 2}
    assert world.admin("GET", "/wallets?agentId=anna").json() == {"wallets": [anna]}
    assert world.admin("GET", "/wallets?wallet=other").json() == {"wallets": []}
    after = ""
    for agent_id, is_last in (("anna", False), ("berta", False), ("carl", True)):
        body = world.admin("GET", f"/wallets?limit=1&after={after}").json()
        assert [entry["agentId"] for entry in body["wallets"]] == [agent_id]
        after = body.get("next", "")
        assert bool(after) is not is_last

    answer = world.admin("POST", "/wallets/points/anna/reset")
    assert answer.json() == {**anna, "spent": 0, "remaining": 10, "givenBack": 8}
    assert world.check("anna", "read:dear").headers["x-meshguard-wallet-remaining"] == "6"
    assert ("wallet:reset", "points anna", "by admin") in world.changes()


def test_a_wallet_without_its_document_says_what_was_spent(world: World) -> None:
    world.check("anna", "read:dear")
    world.snapshot = Snapshot(())
    assert world.admin("GET", "/wallets").json()["wallets"] == [
        {"agentId": "anna", "wallet": "points", "spent": 4}
    ]


def test_a_fuse_that_opened_is_told_and_reset(world: World) -> None:
    created(world, id="root")
    made = delegated(world, world.agent("root"), scope=["read:docs/*"]).json()
    edge = made["relationship"]["id"]
    for _ in range(5):
        answer = world.check("child", "read:other", delegation=edge)
        assert answer.json()["code"] == "delegation_out_of_scope"
    assert world.check("child", "read:docs/x", delegation=edge).json()["code"] == "fuse_open"
    [fuse] = world.admin("GET", "/fuses?state=open").json()["fuses"]
    assert (fuse["relationshipId"], fuse["agentId"], fuse["timesOpened"]) == (edge, "child", 1)
    assert world.admin("GET", "/fuses?state=closed").json() == {"fuses": []}
    answer = world.admin("POST", f"/fuses/{edge}/reset")
    assert answer.json() == {"relationshipId": edge, "state": "closed"}
    assert world.check("child", "read:docs/x", delegation=edge).status_code == 200
    assert ("fuse:reset", edge, "by admin") in world.changes()


# Relationships.


def test_an_agent_delegates_and_takes_back_what_it_gave(world: World) -> None:
    created(world, id="root")
    created(world, id="child")
    root, child, stranger = (world.agent(name) for name in ("root", "child", "stranger"))
    answer = delegated(world, root, sourceAgentId="root", maxDepth=1, resources=["docs/*"])
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == {"relationship", "receipt", "chain"}
    entry = made["relationship"]
    assert (entry["sourceAgentId"], entry["targetAgentId"]) == ("root", "child")
    assert (entry["expiresAt"], entry["status"]) == (LATER, "active")
    assert made["receipt"]["issuer"]["agentId"] == "root"
    assert made["chain"].count(".") == 2
    edge = entry["id"]

    for headers, found in ((root, [entry]), (child, [entry]), (stranger, []), (ADMIN, [entry])):
        for prefix in ("", "/api/v1"):
            answer = world.ask("GET", f"{prefix}/relationships", headers=headers)
            assert answer.json() == {"relationships": found}
            answer = world.ask("GET", f"{prefix}/relationships/{edge}", headers=headers)
            assert answer.status_code == (200 if found else 404)
    hidden = world.ask("GET", f"/relationships/{edge}", headers=stranger).json()["message"]
    missing = world.ask("GET", f"/relationships/{edge[:-1]}", headers=stranger).json()["message"]
    assert hidden.removesuffix(edge) == missing.removesuffix(edge[:-1])

    onward = delegated(
        world, child, targetAgentId="leaf", parentRelationshipId=edge, resources=["docs/a"]
    )
    assert onward.status_code == 201, onward.text
    assert onward.json()["chain"].count("~") == 1
    below = onward.json()["relationship"]["id"]
    asked = {"delegation": below, "resource": "docs/a"}
    assert world.check("leaf", "read:x", **asked).status_code == 200

    assert world.ask("DELETE", f"/relationships/{edge}", headers=stranger).status_code == 404
    assert world.ask("DELETE", f"/relationships/{edge}", headers=child).status_code == 403
    answer = world.ask("DELETE", f"/relationships/{edge}", headers=root, json={"reason": "enough"})
    assert answer.json()["relationship"]["status"] == "revoked"
    assert answer.json()["relationship"]["reason"] == "enough"
    assert world.check("leaf", "read:x", **asked).json()["code"] == "delegation_revoked"
    chained = {**asked, "delegation": onward.json()["chain"]}
    assert world.check("leaf", "read:x", **chained).json()["code"] == "delegation_revoked"
    assert [(action, by) for action, _, by in world.changes() if action[:4] == "rela"] == [
        ("relationship:create", "by agent root"),
        ("relationship:create", "by agent child"),
        ("relationship:revoke", "by agent root"),
    ]


def test_an_administrator_delegates_for_any_registered_agent(world: World) -> None:
    created(world, id="root")
    body = {"sourceAgentId": "root", "targetAgentId": "child", "scope": ["*"], "expiresAt": LATER}
    for path in ("/admin/relationships", "/api/v1/admin/relationships", "/relationships"):
        answer = world.ask("POST", path, headers=ADMIN, json=body)
        assert (answer.status_code, "chain" in answer.json()) == (201, True)
    listed = world.admin("GET", "/relationships?agentId=root&status=active&limit=2").json()
    assert len(listed["relationships"]) == 2
    rest = world.admin("GET", f"/relationships?after={listed['next']}").json()
    assert len(rest["relationships"]) == 1
    edge = rest["relationships"][0]["id"]
    assert world.admin("DELETE", f"/relationships/{edge}").status_code == 200
    assert len(world.admin("GET", "/relationships?status=revoked").json()["relationships"]) == 1
    assert world.changes()[-1] == ("relationship:revoke", edge, "by admin")


def test_a_delegation_lasts_an_hour_and_no_longer_than_the_one_above_where_nothing_is_said(
    world: World,
) -> None:
    root, child = world.agent("root"), world.agent("child")
    assert delegated(world, root, expiresAt=None).json()["relationship"]["expiresAt"] == LATER
    soon = rfc3339(NOW + 60)
    above = delegated(world, root, expiresAt=soon, maxDepth=1).json()["relationship"]["id"]
    body = {"targetAgentId": "leaf", "scope": ["read:*"], "parentRelationshipId": above}
    made = world.ask("POST", "/relationships", headers=child, json=body).json()
    assert made["relationship"]["expiresAt"] == soon


def test_how_long_may_be_said_in_place_of_until_when(world: World) -> None:
    root = world.agent("root")
    made = delegated(world, root, expiresAt=None, expiresIn="15m")
    assert made.json()["relationship"]["expiresAt"] == rfc3339(NOW + 900)
    for body, said in (
        ({"expiresIn": "15m", "expiresAt": LATER}, "expiresIn: give it or expiresAt, not both"),
        (
            {"expiresIn": "soon", "expiresAt": None},
            "expiresIn: not a duration; write 30s, 15m, 24h or 7d",
        ),
    ):
        refused = delegated(world, root, **body)
        assert (refused.status_code, refused.json()["message"]) == (400, said)
    agent = world.admin("POST", "/agents", json={"name": "Ann", "expiresIn": "15m"})
    assert agent.json()["expiresAt"] == rfc3339(NOW + 900)
    refused = world.admin("POST", "/agents", json={"name": "Bob", "id": "bob", "expiresIn": "0"})
    assert refused.status_code == 400
    assert world.admin("GET", "/agents/bob").status_code == 404


def test_a_chain_can_be_had_again_by_whom_it_concerns_while_it_holds(world: World) -> None:
    root, child, stranger = (world.agent(name) for name in ("root", "child", "stranger"))
    made = delegated(world, root).json()
    edge = made["relationship"]["id"]
    for headers in (root, child, ADMIN):
        answer = world.ask("GET", f"/relationships/{edge}/chain", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"chain": made["chain"]})
    assert world.admin("GET", f"/relationships/{edge}/chain").json() == {"chain": made["chain"]}
    hidden = world.ask("GET", f"/relationships/{edge}/chain", headers=stranger)
    assert (hidden.status_code, hidden.json()["message"]) == (
        404, f"there is no relationship {edge}",
    )  # fmt: skip
    world.admin("DELETE", f"/relationships/{edge}")
    ended = world.ask("GET", f"/relationships/{edge}/chain", headers=child)
    assert (ended.status_code, ended.json()["code"]) == (409, "delegation_revoked")


def test_a_delegate_that_is_not_registered_is_a_note_and_no_error(world: World) -> None:
    root = world.agent("root")
    made = delegated(world, root)
    assert made.status_code == 201
    assert made.json()["note"].startswith("agent child is not registered here")
    created(world, id="child")
    assert "note" not in delegated(world, root).json()
    fact = delegated(world, root, targetAgentId="x", relationshipType="created_by")
    assert "not registered" not in str(fact.json())


def test_what_hangs_below_a_hop_that_ended_is_shown_as_broken(world: World) -> None:
    def edge(source: str, target: str, parent: str | None = None) -> str:
        answer = delegated(
            world, world.agent(source), targetAgentId=target, parentRelationshipId=parent,
            maxDepth=2 - len(edges),
        )  # fmt: skip
        assert answer.status_code == 201, answer.text
        return str(answer.json()["relationship"]["id"])

    def shown() -> dict[str, tuple[str, str | None]]:
        listed = world.admin("GET", "/relationships").json()["relationships"]
        for entry in listed:
            one = world.admin("GET", f"/relationships/{entry['id']}").json()["relationship"]
            assert one == entry
        return {entry["id"]: (entry["status"], entry.get("brokenBy")) for entry in listed}

    edges: list[str] = []
    for source, target in (("root", "child"), ("child", "leaf"), ("leaf", "end")):
        edges.append(edge(source, target, edges[-1] if edges else None))
    first, second, third = edges
    assert set(shown().values()) == {("active", None)}

    world.admin("DELETE", "/agents/end?unknown=true")
    assert shown() == {
        first: ("active", None), second: ("active", None), third: ("broken", third)
    }  # fmt: skip
    world.admin("DELETE", f"/relationships/{first}")
    assert shown() == {
        first: ("revoked", None), second: ("broken", first), third: ("broken", first)
    }  # fmt: skip
    for status, ids in (("active", set()), ("broken", {second, third}), ("revoked", {first})):
        listed = world.admin("GET", f"/relationships?status={status}").json()["relationships"]
        assert {entry["id"] for entry in listed} == ids


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"sourceAgentId": "other"}, 403, "sourceAgentId: "),
        ({"parentRelationshipId": "rel_" + "0" * 32}, 404, "parentRelationshipId: "),
        ({"parentRelationshipId": "OTHERS"}, 404, "parentRelationshipId: "),
        ({"targetAgentId": "root"}, 409, "targetAgentId: "),
        ({"scope": ["admin:*"]}, 409, "scope[0]: "),
        ({"scope": []}, 400, "scope: "),
        ({"scope": "read:*"}, 400, "scope: "),
        ({"scope": ["x" * 300]}, 400, "scope[0]: "),
        ({"relationshipType": "owns"}, 400, "relationshipType: "),
        ({"expiresAt": "tomorrow"}, 400, "expiresAt: "),
        ({"expiresAt": NOW + 60}, 400, "expiresAt: "),
        ({"expiresAt": rfc3339(NOW)}, 400, "expiresAt: "),
        ({"expiresAt": "9999-12-31T23:59:59-23:59"}, 400, "expiresAt: "),
        ({"maxDepth": 6}, 400, "maxDepth: "),
        ({"maxDepth": True}, 400, "maxDepth: "),
        ({"maxDepth": 10**400}, 400, "maxDepth: "),
        ({"requiresApproval": "yes"}, 400, "requiresApproval: "),
        ({"source": "root"}, 400, "unknown key `source`, did you mean `sourceAgentId`?"),
    ],
)
def test_what_may_not_be_delegated_is_refused(
    world: World, change: dict[str, Any], status: int, said: str
) -> None:
    created(world, id="other")
    others = delegated(world, world.agent("other")).json()["relationship"]["id"]
    change = {n: others if value == "OTHERS" else value for n, value in change.items()}
    before = len(world.rows())
    answer = delegated(world, world.agent("root"), **change)
    assert answer.status_code == status, answer.text
    assert answer.json()["message"].startswith(said)
    assert (status == 409) is ("code" in answer.json())
    assert len(world.rows()) == before


def test_whoever_is_not_known_delegates_nothing_in_any_mode(world: World) -> None:
    for headers, code in (
        ({}, "token_missing"),
        ({"Authorization": "Bearer nonsense"}, "token_malformed"),
    ):
        answer = delegated(world, headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code)
    wrong = delegated(world, {**world.agent("root"), "X-Admin-Token": "wrong"})
    assert (wrong.status_code, wrong.json()["message"]) == (401, "the admin token is wrong")
    low = delegated(world, world.agent("low", tier="basic"))
    assert (low.status_code, low.json()["code"]) == (409, "delegator_tier_too_low")


def test_a_delegation_that_cannot_be_signed_is_good_by_its_id(tmp_path: Path) -> None:
    key = tmp_path / "no.key"
    key.write_text("no key")
    world = World(tmp_path, RULES, DELEGATION_KEY_FILE=str(key))
    answer = delegated(world, world.agent("root"))
    assert answer.status_code == 201
    assert set(answer.json()) == {"relationship", "note"}
    assert str(key) not in answer.text
    edge = answer.json()["relationship"]["id"]
    assert world.check("child", "read:x", delegation=edge).status_code == 200
    assert world.admin("GET", "/delegation/keys").status_code == 409
    world.close()


def test_the_key_of_receipts_is_a_jwk_set_that_another_sidecar_trusts(
    tmp_path: Path, world: World
) -> None:
    answer = world.admin("GET", "/delegation/keys")
    [key] = answer.json()["keys"]
    assert {**key, "x": "", "kid": ""} == {
        "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "x": "", "kid": "",
    }  # fmt: skip
    assert parse(answer.content).kids("EdDSA") == [key["kid"]]
    chain = delegated(world, world.agent("root")).json()["chain"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keys.json").write_bytes(answer.content)
    other = World(elsewhere, RULES, DELEGATION_JWKS_FILE=str(elsewhere / "keys.json"))
    assert other.check("child", "read:x", delegation=chain).status_code == 200
    assert other.check("thief", "read:x", delegation=chain).json()["code"] == (
        "delegation_wrong_delegate"
    )
    other.close()


# Figures.


def test_metrics_tell_what_is_remembered(world: World) -> None:
    world.check("anna", "read:dear")
    waiting = pending(world)
    world.admin("POST", f"/pending/{waiting}/approve", json={"approver": "ann"})
    pending(world, action="pay:more")
    answer = world.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert {
        'meshguard_risk_wallet_remaining{agent="anna",wallet="points"} 6.0',
        "meshguard_risk_wallet_hidden 0.0",
        "meshguard_delegation_fuses_open 0.0",
        'meshguard_pending_actions{state="pending_approval"} 1.0',
        'meshguard_pending_actions{state="pending_cooling"} 0.0',
        'meshguard_pending_actions{state="approved"} 1.0',
    } <= set(answer.text.splitlines())


def test_the_series_of_metrics_are_bounded(world: World) -> None:
    world.check("anna", "read:dear")
    [known] = world.state.wallets.values()
    for number in range(1500):
        put = Put(world.state.wallets, f"points\nagent {number}", known)
        world.state.ledger.put(put)
    text = world.ask("GET", "/metrics").text
    assert text.count("\nmeshguard_risk_wallet_remaining{") == 1000
    assert "\nmeshguard_risk_wallet_hidden 501.0\n" in text
