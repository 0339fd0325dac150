"""What the policies would say to a call: as the gate says it, and nothing comes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.stores.policies import PolicyDirectory
from tests.edges.world import World

FILE = """\
name: docs
version: "1"
appliesTo: {tags: [docs]}
rules:
  - {id: drafts, effect: deny, actions: ["*:drafts"], reason: not yet}
  - {id: reading, effect: allow, actions: ["read:*"]}
  - {id: asking, effect: require_approval, actions: ["write:*"]}
defaultEffect: deny
---
name: payments
version: "1"
appliesTo: {trustTiers: [trusted]}
rules:
  - {effect: allow, actions: ["pay:*"], conditions: {context.amount: {lte: 10}}}
defaultEffect: deny
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.policies.mkdir()
    (made.policies / "docs.yaml").write_text(FILE)
    made.loaded = PolicyDirectory(made.policies).read()
    made.versions.start(made.loaded.snapshot)
    made.admin("POST", "/agents", json={"id": "ann", "name": "Ann", "tags": ["docs"]})
    yield made
    made.close()


def ask(world: World, **body: Any) -> dict[str, Any]:
    answer = world.admin("POST", "/policies/test", json=body)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def test_an_agent_is_as_it_is_registered(world: World) -> None:
    before = world.rows()
    said = ask(world, agentId="ann", action="read:guide")
    assert (said["decision"], said["policy"], said["rule"]) == ("allow", "docs", "reading")
    assert said["policyVersion"] == world.versions.current.version
    assert "applicable" not in said
    said = ask(world, agentId="ann", action="read:drafts")
    assert (said["decision"], said["reason"], said["ruleIndex"]) == ("deny", "not yet", 0)
    assert ask(world, agentId="ann", action="write:x")["decision"] == "require_approval"
    said = ask(world, agentId="bob", action="read:guide")
    assert (said["decision"], said["code"]) == ("deny", "no_policy")
    assert said["policy"]
    assert said["rule"]
    # What is said of it counts before that.
    assert ask(world, agentId="ann", action="read:guide", tags=[])["decision"] == "deny"
    assert ask(world, agentId="bob", action="read:guide", tags=["docs"])["decision"] == "allow"
    assert world.rows() == before


def test_what_is_judged_by_is_said_line_by_line(world: World) -> None:
    said = ask(
        world, agentId="ann", action="pay:bill", trustTier="trusted", verbose=True,
        context={"amount": 11},
    )  # fmt: skip
    assert said["decision"] == "deny"
    assert [one["policy"] for one in said["applicable"]] == ["docs", "payments"]
    assert [rule["number"] for rule in said["applicable"][0]["rules"]] == [1, 2, 3]
    assert said["trace"][1] == "Rule 1: deny *:drafts → SKIP (action mismatch)"
    said = ask(world, agentId="x", action="pay:bill", trustTier="elevated", context={"amount": 9})
    assert said["decision"] == "allow"


def test_one_that_is_sent_along_is_asked_alone(world: World) -> None:
    policy = {
        "name": "mine", "version": "1", "appliesTo": {"agentIds": ["*"]},
        "rules": [{"effect": "allow", "actions": ["fly:*"]}], "defaultEffect": "deny",
    }  # fmt: skip
    said = ask(world, agentId="ann", action="fly:home", policy=policy)
    assert (said["decision"], said["policy"]) == ("allow", "mine")
    assert "policyVersion" not in said
    assert ask(world, agentId="ann", action="read:guide", policy=policy)["decision"] == "deny"
    assert ask(world, agentId="ann", action="read:guide", policy=FILE)["policy"] == "docs"
    answer = world.admin(
        "POST", "/policies/test",
        json={"agentId": "ann", "action": "a", "policy": {**policy, "rules": []}},
    )  # fmt: skip
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


def test_a_revoked_agent_is_said_to_be_one(world: World) -> None:
    world.admin("DELETE", "/agents/ann")
    assert "revoked" in ask(world, agentId="ann", action="read:guide")["note"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"agentId": "ann"},
        {"agentId": "", "action": "a"},
        {"agentId": "ann", "action": " "},
        {"agentId": "ann", "action": "a\nb"},
        {"agentId": "ann", "action": "a", "trustTier": "boss"},
        {"agentId": "ann", "action": "a", "tags": "docs"},
        {"agentId": "ann", "action": "a", "tags": ["x"] * 1001},
        {"agentId": "ann", "action": "a", "policy": 7},
        {"agentId": "ann", "action": "a", "policy": []},
        {"agentId": "ann", "action": "a", "policy": "\ud800"},
        {"agentId": "ann", "action": "a", "context": []},
        {"agentId": "ann", "action": "a", "polcy": "x"},
        {"agentId": "ann", "action": "a", "verbose": "yes"},
        {"agentId": "a" * 5000, "action": "a"},
    ],
)
def test_what_is_no_call_is_400(world: World, body: dict[str, Any]) -> None:
    answer = world.admin("POST", "/policies/test", content=json.dumps(body))
    assert answer.status_code == 400
    assert len(answer.json()["message"]) <= 300
