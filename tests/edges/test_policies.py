"""Policies and the mode over HTTP: what is in force, what could be, and who is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.core.mode import Mode
from authz.stores.policies import PolicyDirectory
from tests.edges.world import ADMIN, World

FILE = """\
name: zoo
version: "2"
description: animals
appliesTo: {tags: [x]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {id: never, effect: deny, actions: ["drop:*"], reason: not here}
---
name: aviary
appliesTo: {agentIds: [ann]}
rules: [{effect: allow, action: "fly:*"}]
defaultEffect: deny
---
kind: RiskWallet
name: points
version: "1"
capacity: 10
window: 1h
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.policies.mkdir()
    (made.policies / "zoo.yaml").write_text(FILE)
    read(made)
    yield made
    made.close()


def read(world: World) -> None:
    """Put in force what the files say."""
    world.loaded = PolicyDirectory(world.policies).read()
    world.versions.start(world.loaded.snapshot)


def test_what_is_in_force_is_listed_with_ids_of_policies_and_rules(world: World) -> None:
    body = world.admin("GET", "/policies").json()
    assert [one["id"] for one in body["policies"]] == ["aviary", "zoo"]
    zoo = body["policies"][1]
    assert (zoo["name"], zoo["version"], zoo["file"]) == ("zoo", "2", "zoo.yaml")
    assert [rule["id"] for rule in zoo["rules"]] == ["rules[0]", "never"]
    assert zoo["defaultEffect"] == "deny"
    assert [one["kind"] for one in body["documents"]] == ["RiskWallet"]
    assert body["policyVersion"] == world.versions.current.version
    assert "null" not in json.dumps(body)


def test_a_page_ends_and_goes_on(world: World) -> None:
    first = world.admin("GET", "/policies?limit=1").json()
    assert [one["name"] for one in first["policies"]] == ["aviary"]
    second = world.admin("GET", f"/policies?limit=1&after={first['next']}").json()
    assert [one["name"] for one in second["policies"]] == ["zoo"]
    assert "documents" not in second
    assert "next" not in second


def test_one_is_shown_by_name_and_kind(world: World) -> None:
    assert world.admin("GET", "/policies/zoo").json()["description"] == "animals"
    assert world.admin("GET", "/policies/points?kind=RiskWallet").json()["capacity"] == 10
    for path in ("points", "zoo?kind=RiskWallet", "nothing", "Zoo"):
        assert world.admin("GET", f"/policies/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/policies", "/policies/zoo"])
def test_whoever_has_it_already_is_told_so(world: World, path: str) -> None:
    tag = world.admin("GET", path).headers["etag"]
    again = {**ADMIN, "If-None-Match": f'"other", {tag}'}
    answer = world.ask("GET", f"/admin{path}", headers=again)
    assert (answer.status_code, answer.content) == (304, b"")
    (world.policies / "zoo.yaml").write_text(FILE.replace("animals", "plants"))
    read(world)
    assert world.ask("GET", f"/admin{path}", headers=again).status_code == 200


def test_a_file_that_says_something_else_by_now_is_not_named(world: World) -> None:
    world.versions.pin()
    (world.policies / "zoo.yaml").write_text(FILE.replace("animals", "plants"))
    world.loaded = PolicyDirectory(world.policies).read()
    shown = world.admin("GET", "/policies/zoo").json()
    assert shown["description"] == "animals"
    assert "file" not in shown
    assert world.admin("GET", "/policies").json()["pinned"] is True


def post(world: World, body: bytes, media: str) -> tuple[int, dict[str, Any]]:
    headers = {**ADMIN, "Content-Type": media}
    answer = world.ask("POST", "/admin/policies/validate", headers=headers, content=body)
    return answer.status_code, answer.json()


def test_a_text_is_valid_or_it_is_said_where_it_is_not(world: World) -> None:
    for media in ("application/yaml", "application/x-yaml; charset=utf-8", "text/yaml"):
        status, said = post(world, FILE.encode(), media)
        assert (status, said["valid"], said["errors"]) == (200, True, [])
        assert said["warnings"]
    status, said = post(world, b"name: x\nrules: []\n", "application/yaml")
    assert (status, said["valid"], said["error"]) == (422, False, "invalid")
    assert said["errors"][0]["line"] == 2
    assert said["message"] == f"line 2: {said['errors'][0]['message']}"
    good = {"name": "x", "version": "1", "appliesTo": {"tags": ["y"]}, "defaultEffect": "deny",
            "rules": [{"effect": "allow", "actions": ["read:*"]}]}  # fmt: skip
    assert post(world, json.dumps(good).encode(), "application/json")[0] == 200
    status, said = post(world, json.dumps({**good, "rules": 7}).encode(), "application/json")
    assert status == 422
    assert "line" not in said["errors"][0]


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"name: x", "application/json", 400),
        (b"name: x", "text/plain", 415),
        (b"name=x", "application/x-www-form-urlencoded", 415),
        (b"[]", "application/yaml", 422),
        (b"\xff\xfe", "application/yaml", 422),
        (b"# nothing", "application/yaml", 422),
        (b"a: &a [*a, *a]", "application/yaml", 422),
        (b"x" * (256 * 1024 + 1), "application/yaml", 413),
    ],
)
def test_what_is_no_policy_is_refused(world: World, body: bytes, media: str, status: int) -> None:
    assert post(world, body, media)[0] == status


def test_json_of_more_values_than_are_read_beside_decisions_is_sent_as_yaml(world: World) -> None:
    many = b"[" + b"0," * 8192
    assert post(world, many + b"0]", "application/yaml")[0] == 422
    status, said = post(world, many + b"0,0]", "application/json")
    assert (status, said["message"]) == (
        413,
        "the body has more than 8192 commas; send it as YAML",
    )


def test_the_mode_is_changed_recorded_and_shown(world: World) -> None:
    assert world.admin("GET", "/mode").json()["source"] == "MODE"
    answer = world.admin("PUT", "/mode", json={"mode": "audit"})
    assert answer.status_code == 200
    assert (answer.json()["mode"], answer.json()["source"]) == ("audit", "admin")
    assert "restart" in answer.json()["note"]
    assert str(world.gate.mode) == "audit"
    [row] = [row for row in world.rows() if row["action"] == "mode:audit"]
    assert row["metadata"]["before"] == {"mode": "enforce"}
    assert row["metadata"]["after"] == {"mode": "audit"}
    # Once more changes nothing.
    assert world.admin("PUT", "/mode", json={"mode": "audit"}).status_code == 200
    assert len([row for row in world.rows() if row["action"] == "mode:audit"]) == 1
    assert (
        "nothing is recorded" in world.admin("PUT", "/mode", json={"mode": "bypass"}).json()["note"]
    )
    assert world.gate.mode is Mode.BYPASS
    assert world.ask("PUT", "/admin/mode", json={"mode": "enforce"}).status_code == 401


@pytest.mark.parametrize("body", [{}, {"mode": "off"}, {"mode": 1}, {"mode": "AUDIT"}, [],
                                  {"mode": "audit", "reason": "x"}])  # fmt: skip
def test_a_mode_that_is_none_changes_nothing(world: World, body: Any) -> None:
    assert world.admin("PUT", "/mode", json=body).status_code == 400
    assert world.gate.mode is Mode.ENFORCE


def test_who_is_refused_is_told_of_once_and_then_together(world: World) -> None:
    for number in range(5):
        headers = {"X-Admin-Token": f"guess {number}"}
        assert world.ask("GET", f"/admin/agents/a{number}", headers=headers).status_code == 401
    refused = [row for row in world.rows() if row["code"] == "admin_refused"]
    assert len(refused) == 1
    assert refused[0]["metadata"]["path"] == "/admin/agents/a0"
    assert "guess" not in str(refused)
    world.attempts.close()
    refused = [row for row in world.rows() if row["code"] == "admin_refused"]
    assert [row["resource"] for row in refused] == ["1 request", "4 requests"]
    assert {row["decision"] for row in refused} == {"deny"}


def test_an_agents_token_is_no_admins(world: World) -> None:
    for path in ("/admin/policies", "/admin/mode", "/admin/policies/zoo"):
        assert world.ask("GET", path, headers=world.agent("ann")).status_code == 401
        assert world.ask("GET", f"/api/v1{path}", headers=ADMIN).status_code == 200
