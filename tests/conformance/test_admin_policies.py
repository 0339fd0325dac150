"""§1.3: policies over HTTP."""

import json
from typing import Any

import httpx
import pytest
import yaml

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
    Json,
    admin,
    agent,
    check,
    counting,
    fresh,
    json_object,
    refusal,
)
from tests.e2e.sidecar import Sidecar

#: What is no name of a policy, since it is one of a route.
RESERVED = ("bundle", "validate", "test", "versions")


def _policy(name: str, **changes: Any) -> Json:
    return {
        "name": name,
        "version": "1",
        "appliesTo": {"tags": [name]},
        "rules": [{"id": "r", "effect": "allow", "actions": ["read:*"]}],
        "defaultEffect": "deny",
        **changes,
    }


def _put(sidecar: Sidecar, name: str, body: object = None, **kwargs: Any) -> httpx.Response:
    if body is not None:
        kwargs["json"] = body
    headers = {**ADMIN, **kwargs.pop("headers", {})}
    return sidecar.client.put(f"/admin/policies/{name}", headers=headers, **kwargs)


@covers("§1.3 GET policies")
def test_policies_are_listed_as_every_sdk_reads_them(enforcing: Sidecar) -> None:
    answer = enforcing.get("/admin/policies", headers=ADMIN)
    found = {policy["name"]: policy for policy in decoders.rust_policies(json_object(answer))}
    mine = found["conformance"]
    assert (mine["version"], mine["description"]) == ("1.0", "An answer of each kind")
    assert mine["appliesTo"] == {"tags": ["conform"]}
    assert (mine["defaultEffect"], mine["active"]) == ("deny", True)
    rules = {rule["id"]: rule for rule in mine["rules"]}
    assert rules["reads"]["name"] == "Reads"
    assert rules["no-deletes"]["effect"] == "deny"
    assert rules["no-deletes"]["actions"] == ["write:delete", "admin:*"]
    for key in ("createdAt", "updatedAt"):
        if key in mine:
            decoders.moment(mine, key)
    again = enforcing.get(
        "/admin/policies", headers={**ADMIN, "If-None-Match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


@covers("§1.3 GET policies/:name")
def test_one_policy_is_shown_and_an_unknown_one_is_404(enforcing: Sidecar) -> None:
    body = admin(enforcing, "GET", "/policies/conformance")
    shown = body.get("policy", body)
    assert shown["name"] == "conformance"
    assert decoders.rust_policies({"policies": [shown]})
    refusal(enforcing.get("/admin/policies/none", headers=ADMIN), 404)


@covers("§1.3 PUT policies/:name", "§1.3 DELETE policies/:name")
@pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
def test_a_policy_is_in_force_once_it_is_put_and_gone_once_deleted(
    enforcing: Sidecar, kind: str
) -> None:
    name = fresh("put")
    who = agent(tags=(name,))
    assert check(enforcing, "read:x", who).status_code == 403
    if kind == "application/json":
        made = _put(enforcing, name, _policy(name))
    else:
        text = yaml.safe_dump(_policy(name))
        made = _put(enforcing, name, content=text, headers={"content-type": kind})
    assert made.status_code in (200, 201), made.text
    json_object(made)
    assert check(enforcing, "read:x", who).json()["policy"] == name
    since = counting(enforcing)
    changed = _policy(name, rules=[{"id": "r", "effect": "deny", "actions": ["*"]}])
    assert _put(enforcing, name, changed).status_code == 200
    assert check(enforcing, "read:x", who).json()["rule"] == "r"
    rows = [row for row in since.rows_since(control=True) if row["source"] == "control"]
    assert [row for row in rows if row["action"].startswith("polic")]
    deleted = enforcing.client.delete(f"/admin/policies/{name}", headers=ADMIN)
    assert deleted.status_code == 204 or json_object(deleted)
    assert check(enforcing, "read:x", who).json()["code"] == "no_policy"
    refusal(enforcing.client.delete(f"/admin/policies/{name}", headers=ADMIN), 404)


@covers("§1.3 PUT policies/:name")
def test_what_is_no_policy_is_not_put_in_force(enforcing: Sidecar) -> None:
    before = admin(enforcing, "GET", "/policies")
    name = fresh("bad")
    bad: list[tuple[str, object]] = [
        (name, _policy(name, rules=[])),
        (name, _policy(name, rules=[{"effect": "allwo", "actions": ["*"]}])),
        (name, _policy("another")),
        (name, []),
        (name, {}),
        (name, _policy(name, rules=[{"effect": "allow", "actions": ["*"],
                                     "conditions": {"moon": "full"}}])),
        *((word, _policy(word)) for word in RESERVED),
    ]  # fmt: skip
    for path, body in bad:
        refusal(_put(enforcing, path, body), (400, 405, 409, 422))
    text = {"headers": {"content-type": "text/html"}, "content": "name: x"}
    refusal(_put(enforcing, name, **text), 415)
    assert admin(enforcing, "GET", "/policies") == before


@covers("§1.3 PUT policies/:name")
@pytest.mark.parametrize("name", ["..%2f..%2fx", "%2e%2e", "a%00b", "a%0ab", "x" * 3000])
def test_a_name_is_never_a_path(enforcing: Sidecar, name: str) -> None:
    before = admin(enforcing, "GET", "/policies")
    answer = _put(enforcing, name, _policy("x"))
    refusal(answer, range(400, 432))
    assert admin(enforcing, "GET", "/policies") == before


@covers("§1.3 POST policies/validate")
def test_validation_says_what_the_action_says(enforcing: Sidecar) -> None:
    def validate(body: object, status: int) -> Json:
        answer = enforcing.client.post(
            "/admin/policies/validate",
            headers={"Authorization": f"Bearer {enforcing.env['ADMIN_TOKEN']}"},
            json=body,
        )
        assert answer.status_code == status, answer.text
        said = json_object(answer)
        assert said["valid"] is (status == 200)
        assert isinstance(said["errors"], list)
        assert isinstance(said["warnings"], list)
        assert bool(said["errors"]) is (status != 200)
        return said

    before = admin(enforcing, "GET", "/policies")
    assert validate(_policy("v"), 200)["warnings"] == []
    for missing in ("name", "rules"):
        validate({key: value for key, value in _policy("v").items() if key != missing}, 422)
    for rules in (
        [],
        [{"effect": "allow"}],
        [{"effect": "allow", "actions": []}],
        [{"actions": ["*"]}],
        [{"effect": "maybe", "actions": ["*"]}],
        [{"effect": "allow", "actions": ["*"], "conditions": {"moon": "full"}}],
    ):
        validate(_policy("v", rules=rules), 422)
    for missing in ("version", "appliesTo", "defaultEffect"):
        policy = {key: value for key, value in _policy("v").items() if key != missing}
        assert validate(policy, 200)["warnings"], missing
    assert validate(_policy("v", appliesTo={}), 200)["warnings"]
    assert validate(_policy("v", surprise=1), 200)["warnings"]
    wrapped = {"apiVersion": "governance.toolkit/v1", "kind": "Policy",
               "metadata": {"name": "v", "version": "1"},
               "spec": {"bindings": {"tags": ["x"]}, "defaultEffect": "Deny",
                        "rules": [{"effect": "Allow", "actions": ["read:*"]}]}}  # fmt: skip
    assert validate(wrapped, 200)["warnings"] == []
    assert validate({**wrapped, "apiVersion": "other/v9"}, 200)["warnings"]
    terraform = _policy("v", appliesTo=["a"], rules=[{"effect": "allow", "conditions":
                        {"action": "read", "path": "/x"}}])  # fmt: skip
    validate(terraform, 422)
    assert admin(enforcing, "GET", "/policies") == before


@covers("§1.3 POST policies/test", "§16 11 policy test is 2xx")
def test_a_policy_test_is_2xx_whatever_it_decides(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    for action, decision in (("read:x", "allow"), ("write:x", "deny")):
        sent = {"policy": _policy("t", appliesTo={"agentIds": ["*"]}), "agentId": "a",
                "action": action, "context": {"k": 1}}  # fmt: skip
        answer = enforcing.client.post("/admin/policies/test", headers=ADMIN, json=sent)
        assert 200 <= answer.status_code < 300, answer.text
        body = json_object(answer)
        assert body["decision"] == decision
        assert body["policy"] == "t"
        for key in ("rule", "reason"):
            assert decoders.text(body, key)
        decoders.no_nulls(body)
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": "t", "tags": ["conform"]})
    sent = {"agentId": made["id"], "action": "write:delete"}
    body = admin(enforcing, "POST", "/policies/test", json=sent)
    assert (body["decision"], body["policy"], body["rule"]) == ("deny", "conformance", "no-deletes")
    rows = [row for row in since.rows_since(control=True) if row["source"] != "control"]
    assert rows == []
    for bad in ({}, {"agentId": "a"}, {"agentId": "a", "action": ""}, {"agentId": 1, "action": "x"},
                {"agentId": "a", "action": "x", "policy": {"name": "x"}}):  # fmt: skip
        refused = enforcing.client.post("/admin/policies/test", headers=ADMIN, json=bad)
        refusal(refused, (400, 422))


@covers("§1.3 GET policies/versions", "§1.3 POST policies/rollback")
def test_versions_are_listed_and_gone_back_to(enforcing: Sidecar) -> None:
    first = admin(enforcing, "GET", "/policies/versions")["versions"]
    for version in first:
        decoders.no_nulls(version)
        assert decoders.text(version, "version")
        assert len(decoders.text(version, "sha256")) == 64
        decoders.moment(version, "activatedAt")
        for policy in version["policies"]:
            decoders.text(policy, "name")
    at = admin(enforcing, "GET", "/policies/versions", params={"at": first[0]["activatedAt"]})
    assert at["versions"][0]["version"] == first[0]["version"]
    refusal(enforcing.get("/admin/policies/versions?at=yesterday", headers=ADMIN), 400)
    name = fresh("version")
    who = agent(tags=(name,))
    assert _put(enforcing, name, _policy(name)).status_code == 201
    assert check(enforcing, "read:x", who).status_code == 200
    back = {"version": first[0]["version"]}
    admin(enforcing, "POST", "/policies/rollback", json=back)
    assert check(enforcing, "read:x", who).status_code == 403
    admin(enforcing, "POST", "/policies/release", json={})
    assert check(enforcing, "read:x", who).status_code == 200
    none = enforcing.client.post("/admin/policies/rollback", headers=ADMIN, json={"version": "x"})
    refusal(none, 404)
    assert enforcing.client.delete(f"/admin/policies/{name}", headers=ADMIN).status_code == 200


@covers("§0 rule order")
def test_a_rule_that_never_decides_is_a_warning(enforcing: Sidecar) -> None:
    rules = [{"effect": "deny", "actions": ["*"]}, {"effect": "allow", "actions": ["read:*"]}]
    said = admin(enforcing, "POST", "/policies/validate", json=_policy("shadow", rules=rules))
    assert said["valid"] is True
    assert "shadowed-rule" in json.dumps(said["warnings"])
