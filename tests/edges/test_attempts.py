"""What an agent might try to get more than was decided; each of these was possible once."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz.core import reply
from authz.core.destructive import destructive
from authz.core.mode import Mode
from authz.core.wire_pb2 import CheckResponse
from tests.builders import check_request
from tests.edges.world import World, policies

RULES = policies("""
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rateLimits: {requestsPerHour: 1000}
humanInTheLoop: {requireApproval: ["sign:*"]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {id: wire, effect: require_approval, actions: ["wire:*"], requireActionToken: true}
  - {id: sign, effect: allow, actions: ["sign:*"], requireActionToken: true}
defaultEffect: deny
""")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, RULES)
    yield made
    made.close()


def approved(world: World, action: str, **headers: str) -> str:
    """The id of a pending action of `agent` that was asked for with a check, and approved."""
    pending = str(world.check("agent", action, **headers).json()["pendingId"])
    answer = world.admin("POST", f"/pending/{pending}/approve", json={"approver": "ann"})
    assert answer.status_code == 200, answer.text
    return pending


@pytest.mark.parametrize("action", ["wire:money", "sign:letter"])
def test_an_approval_does_not_stand_for_the_action_token_that_a_rule_asks_for(
    world: World, action: str
) -> None:
    pending = approved(world, action)
    refused = world.check("agent", action, pending_id=pending)
    assert (refused.status_code, refused.json()["code"]) == (403, "action_token_required")
    minted = world.ask(
        "POST", "/api/v1/action-tokens", headers=world.agent("agent"),
        json={"action": action, "pendingId": pending},
    )  # fmt: skip
    assert minted.status_code == 200
    token = minted.json()["actionToken"]
    named = world.check("agent", action, pending_id=pending, action_token=token)
    assert (named.status_code, named.json()["pendingId"]) == (200, pending)


def test_what_only_looks_writes_nothing_that_others_would_miss(tmp_path: Path) -> None:
    """An agent that looked at its relationships hid a revocation from the other sidecar."""
    here, there = World(tmp_path, RULES, mode=Mode.AUDIT), World(tmp_path, RULES)
    for world in (here, there):
        world.check("agent", "read:x")
    with contextlib.closing(sqlite3.connect(here.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert here.check("another", "read:x").status_code == 200  # and has no row
    assert here.ask("GET", "/relationships", headers=here.agent("agent")).status_code == 200
    answer = there.admin("DELETE", "/agents/agent", params={"unknown": "true"})
    assert answer.status_code == 200
    here.gate.mode = Mode.ENFORCE
    assert here.check("agent", "read:x").json()["code"] == "agent_revoked"
    assert there.check("another", "read:x").status_code == 200
    assert any(key.endswith("\nanother") for key in there.state.counts.entries)
    for world in (here, there):
        world.close()


def test_what_was_approved_in_one_context_is_not_done_in_another(world: World) -> None:
    pending = approved(world, "sign:letter", meta='{"amount": 5, "to": "ann"}')
    entry = world.admin("GET", f"/pending/{pending}").json()
    assert entry["context"] == {"amount": 5, "to": "ann"}
    token = world.operations.action_token(world.operations.pending(pending)).token
    for meta in (
        '{"amount": 5000, "to": "ann"}',
        '{"amount": 5}',
        "{}",
        "",
        '{"amount": 5,',
        "[5]",
    ):
        given = {"meta": meta} if meta else {}
        answer = world.check("agent", "sign:letter", action_token=token, **given)
        assert (answer.status_code, answer.json()["code"]) == (403, "pending_mismatch"), meta
    spelled = '{"to":"\\u0061nn","amount":5}'
    assert world.check("agent", "sign:letter", action_token=token, meta=spelled).status_code == 200


def test_a_context_that_no_text_can_hold_is_no_reason_to_fail(world: World) -> None:
    body = '{"actions": [{"action": "wire:money", "context": {"\\ud800": "\\udfff"}}]}'
    answer = world.ask(
        "POST", "/api/v1/governance/batch", headers=world.agent("agent"), content=body
    )
    [result] = answer.json()["results"]
    assert (answer.status_code, result["code"]) == (200, "approval_required")
    [shown] = world.admin("GET", "/pending").json()["pending"]
    assert (shown["pendingId"], shown["context"]) == (result["pendingId"], {"&#55296;": "&#57343;"})


ALLOWS = 'rules: [{effect: allow, actions: ["*"]}]'
STRICTER = [
    (ALLOWS, "kind: PrivilegeFloors\nfloors: [{actions: ['delete:*'], tier: trusted}]",
     "insufficient_trust_tier"),
    (ALLOWS, "kind: ProvenanceGate\nrequirements: [{actions: ['delete:*'], minLane: 1}]",
     "provenance_too_low"),
    (ALLOWS, "kind: RiskWallet\ncapacity: 5\nwindow: 1h\ncosts: [{actions: ['delete:*'], cost: 6}]",
     "wallet_exhausted"),
    ('rules: [{effect: allow, actions: ["delete:*"], requireActionToken: true},'
     ' {effect: allow, actions: ["*"]}]', "", "action_token_required"),
    ('rules: [{effect: allow, actions: ["delete:*"], rateLimit: {max_per_minute: 1}},'
     ' {effect: allow, actions: ["*"]}]', "", "rate_limited"),
    ('rules: [{effect: deny, actions: ["delete:*"]}, {effect: allow, actions: ["*"]}]', "",
     "rule_denied"),
    (ALLOWS, "", "cooling_off"),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "document", "code"), STRICTER)
def test_no_stage_is_got_around_by_another_name_where_verification_is_strict(
    tmp_path: Path, rules: str, document: str, code: str
) -> None:
    text = f'name: p\nversion: "1"\nappliesTo: {{agentIds: ["*"]}}\n{rules}\ndefaultEffect: deny\n'
    if document:
        text += f'---\n{document}\nname: d\nversion: "1"\n'
    world = World(tmp_path, policies(text), INTENT_VERIFICATION="strict", DESTRUCTIVE_GATE="true")
    path = "/proxy/users/purge" if code == "cooling_off" else "/proxy/users/5"
    for name in ("delete:users/5", "invoke:tidy"):
        headers = {
            "authorization": world.agent("agent")["Authorization"],
            "x-meshguard-action": name,
        }
        for _ in range(2):
            world.gate.check(check_request("DELETE", path, headers))
        assert world.rows()[-1]["code"] == code, name
    world.close()


def test_an_approval_that_the_request_itself_needs_can_be_given(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        policies("""
name: p
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {id: asked, effect: require_approval, actions: ["delete:*"]}
  - {id: named, effect: allow, actions: ["invoke:tidy"]}
defaultEffect: deny
"""),
        INTENT_VERIFICATION="strict",
    )
    headers = {
        "authorization": world.agent("agent")["Authorization"],
        "x-meshguard-action": "invoke:tidy",
    }
    world.gate.check(check_request("DELETE", "/proxy/users/5", headers))
    [pending] = world.state.pending.entries
    assert world.rows()[-1]["reason"].startswith("the request is also delete:users/5")
    world.admin("POST", f"/pending/{pending}/approve", json={"approver": "ann"})
    headers["x-meshguard-pending-id"] = pending
    codes = []
    for path in ("/proxy/users/6", "/proxy/users/5", "/proxy/users/5"):
        world.gate.check(check_request("DELETE", path, headers))
        row = world.rows()[-1]
        codes.append((row["code"], row["rule"]))
    assert codes == [
        ("pending_mismatch", "asked"), ("rule_allowed", "named"), ("pending_used", "asked"),
    ]  # fmt: skip
    world.close()


def test_an_older_copy_of_the_file_brings_no_approval_back(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        policies("""
name: p
version: "1"
appliesTo: {agentIds: ["*"]}
rules: [{effect: require_approval, actions: ["pay:*"]}]
defaultEffect: deny
"""),
    )
    used, rejected = (
        approved(world, "pay:bill"),
        str(world.check("agent", "pay:rent").json()["pendingId"]),
    )
    copy = tmp_path / "copy.db"
    with (
        contextlib.closing(sqlite3.connect(world.database)) as here,
        contextlib.closing(sqlite3.connect(copy)) as there,
    ):
        here.backup(there)
    assert world.check("agent", "pay:bill", pending_id=used).status_code == 200
    world.admin("POST", f"/pending/{rejected}/reject", json={"approver": "ann", "reason": "no"})
    copy.rename(world.database)
    for pending, action, code in (
        (used, "pay:bill", "pending_used"), (rejected, "pay:rent", "pending_rejected"),
    ):  # fmt: skip
        assert world.check("agent", action, pending_id=pending).json()["code"] == code
    # Who asks again may be answered again, and another process hears of that.
    world.now += 1
    another = World(tmp_path, world.snapshot)
    assert world.check("agent", "pay:bill").json()["pendingId"] == used
    answer = another.admin("POST", f"/pending/{used}/approve", json={"approver": "ann"})
    assert answer.status_code == 200
    assert world.check("agent", "pay:bill", pending_id=used).status_code == 200
    for process in (another, world):
        process.close()


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("delete:account", "delete-account"),
        ("invoke:deleteAccount", "delete-account"),
        ("invoke:delete::account", "delete-account"),
        ("invoke:delete - account", "delete-account"),
        ("invoke:dRop_tAble", "drop-table"),
        ("INVOKE:PURGE", "bulk-delete"),
        ("read:accounts", None),
        ("delete:discount", None),
    ],
)
def test_what_is_destructive_is_so_in_every_spelling(action: str, kind: str | None) -> None:
    found = destructive(action)
    assert (found and found.id) == kind


def test_no_token_is_good_again_because_anothers_clock_is_ahead(tmp_path: Path) -> None:
    here, ahead = (
        World(
            tmp_path,
            policies("""
name: p
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: allow, actions: ["seal:*"], requireActionToken: true}
  - {effect: allow, actions: ["read:*"]}
defaultEffect: deny
"""),
        )
        for _ in range(2)
    )
    ahead.now += 3600
    minted = here.ask(
        "POST", "/api/v1/action-tokens", headers=here.agent("agent"), json={"action": "seal:x"}
    )
    sealing = {"action_token": minted.json()["actionToken"]}
    assert here.check("agent", "seal:x", **sealing).status_code == 200
    for _ in range(3):
        ahead.check("other", "read:x")
        answer = here.check("agent", "seal:x", **sealing)
        assert answer.json()["code"] == "action_token_replayed"
    # By both clocks its time is over, and then it is forgotten everywhere.
    here.now += 301
    for process in (here, ahead, here):
        process.check("other", "read:x")
    for process in (here, ahead):
        assert not process.state.used.entries
        process.close()


def test_names_of_headers_that_an_agent_makes_up_fill_no_memory(world: World) -> None:
    def ask(name: str) -> bytes:
        headers = {"authorization": world.agent("agent")["Authorization"], name: "1"}
        return world.gate.check(check_request(path="/proxy/x", headers=headers))

    ask("x-meshguard-cost")
    before = reply._encoded.cache_info()
    made_up = f"x-meshguard-{'a' * reply.MAX_KEPT}"
    answer = CheckResponse.FromString(ask(made_up))
    assert list(answer.ok_response.headers_to_remove)[:1] == [made_up]
    assert reply._encoded.cache_info() == before
    ask("x-meshguard-cost")
    assert reply._encoded.cache_info().hits == before.hits + 1
