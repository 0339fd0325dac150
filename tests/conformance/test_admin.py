"""§1.3: what administrators do with agents and pending actions, and how anybody is refused."""

import json

import pytest

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
    PREFIXES,
    Json,
    admin,
    agent,
    check,
    counting,
    fresh,
    governed,
    json_object,
    refusal,
)
from tests.e2e.sidecar import Sidecar


@covers("§1.3 two prefixes")
@pytest.mark.parametrize(
    "path",
    ["/agents", "/policies", "/policies/versions", "/pending", "/audit", "/audit/stats", "/mode",
     "/analytics/overview", "/wallets", "/fuses"],
)  # fmt: skip
def test_both_prefixes_are_one(enforcing: Sidecar, path: str) -> None:
    answers = [enforcing.get(f"{prefix}{path}", headers=ADMIN) for prefix in PREFIXES]
    assert [answer.status_code for answer in answers] == [200, 200]
    first, second = (json_object(answer) for answer in answers)
    assert first.keys() == second.keys()
    for prefix in PREFIXES:
        refusal(enforcing.get(f"{prefix}{path}"), 401)


@covers("§1.3 401 never 403")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/agents"), ("POST", "/agents"), ("GET", "/agents/x"), ("PATCH", "/agents/x"),
        ("PUT", "/agents/x"), ("DELETE", "/agents/x"), ("POST", "/agents/x/token"),
        ("GET", "/policies"), ("GET", "/policies/x"), ("PUT", "/policies/x"),
        ("DELETE", "/policies/x"), ("POST", "/policies/validate"), ("POST", "/policies/test"),
        ("GET", "/policies/versions"), ("POST", "/policies/rollback"), ("GET", "/mode"),
        ("PUT", "/mode"), ("GET", "/audit"), ("GET", "/audit/stats"), ("GET", "/audit/trace/x"),
        ("GET", "/audit/export"), ("GET", "/audit/tail"), ("GET", "/pending"),
        ("POST", "/pending/x/approve"), ("POST", "/pending/x/reject"), ("GET", "/wallets"),
        ("GET", "/fuses"), ("GET", "/analytics/overview"), ("GET", "/relationships"),
    ],
)  # fmt: skip
def test_whoever_may_not_is_401_and_learns_nothing(
    enforcing: Sidecar, method: str, path: str
) -> None:
    wrong: list[dict[str, str]] = [{}, {"X-Admin-Token": "wrong"}, agent(tier="privileged")]
    said = set()
    for prefix in PREFIXES:
        for headers in wrong:
            answer = enforcing.client.request(method, f"{prefix}{path}", headers=headers)
            refusal(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            said.add(answer.json()["message"])
    assert len(said) <= 2


@covers("§1.3 GET agents")
def test_agents_are_listed_as_every_sdk_reads_them(enforcing: Sidecar) -> None:
    name = fresh("listed")
    sent = {"name": name, "trustTier": "elevated", "tags": ["a", "b"], "metadata": {"k": 1}}
    made = admin(enforcing, "POST", "/agents", status=201, json=sent)
    gone = admin(enforcing, "POST", "/agents", status=201, json={"name": fresh("gone")})
    admin(enforcing, "DELETE", f"/agents/{gone['id']}")
    body = admin(enforcing, "GET", "/agents")
    decoders.no_nulls(body)
    found = {found["id"]: found for found in decoders.go_agents(body)}
    mine = found[made["id"]]
    assert (mine["name"], mine["trustTier"], mine["tags"]) == (name, "elevated", ["a", "b"])
    assert mine["metadata"] == {"k": 1}
    assert "token" not in json.dumps(body)
    assert decoders.moment(found[gone["id"]], "revokedAt")


@covers("§1.3 GET agents")
def test_agents_come_a_page_at_a_time(enforcing: Sidecar) -> None:
    made = {
        admin(enforcing, "POST", "/agents", status=201, json={"name": fresh("page")})["id"]
        for _ in range(3)
    }
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        body = admin(enforcing, "GET", "/agents", params=query)
        page = [found["id"] for found in decoders.python_agents(body)]
        assert 0 < len(page) <= 2
        seen += page
        if "next" not in body:
            break
        query["after"] = body["next"]
    assert len(seen) == len(set(seen))
    assert made <= set(seen)


@covers("§1.3 POST agents")
def test_a_new_agent_gets_a_token_that_works(enforcing: Sidecar) -> None:
    name = fresh("made")
    made = decoders.rust_agent_created(
        admin(enforcing, "POST", "/agents", status=(200, 201), json={"name": name})
    )
    assert (made["name"], made["trustTier"], made["tags"]) == (name, "verified", [])
    assert made["apiKey"] == made["api_key"] == made["token"]
    full = {"name": fresh("full"), "trustTier": "trusted", "tags": ["conform"],
            "capabilities": ["x"], "description": "d", "metadata": {"a": {"b": [1]}}}  # fmt: skip
    made = admin(enforcing, "POST", "/agents", status=(200, 201), json=full)
    assert {key: made[key] for key in full} == full
    answer = check(enforcing, "read:x", {"Authorization": f"Bearer {made['token']}"})
    assert answer.status_code == 200
    assert answer.headers["x-meshguard-agent-id"] == made["id"]


@covers("§1.3 POST agents", "§4 unknown tier")
@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": ""}, {"name": 7}, {"name": None}, {"name": "x", "trustTier": "emperor"},
        {"name": "x", "trustTier": 3}, {"name": "x", "tags": "a"}, {"name": "x", "tags": [1]},
        {"name": "x", "metadata": [1]}, {"name": "x", "admin": True}, [], "x", 7,
    ],
)  # fmt: skip
def test_what_is_no_agent_is_not_registered(enforcing: Sidecar, body: object) -> None:
    since = counting(enforcing)
    refusal(enforcing.client.post("/admin/agents", headers=ADMIN, json=body), 400)
    assert since.rows_since(control=True) == []


@covers("§1.3 GET agents/:id")
def test_one_agent_is_shown_and_an_unknown_one_is_404(enforcing: Sidecar) -> None:
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": fresh("one")})
    body = admin(enforcing, "GET", f"/agents/{made['id']}")
    assert body["id"] == made["id"]
    assert decoders.moment(body, "createdAt")
    assert "token" not in body
    decoders.no_nulls(body)
    refusal(enforcing.get("/admin/agents/nobody", headers=ADMIN), 404)


@covers("§1.3 DELETE agents/:id")
def test_revoking_is_immediate_permanent_and_answered_in_json(enforcing: Sidecar) -> None:
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": "x", "tags": ["conform"]})
    who = {"Authorization": f"Bearer {made['token']}"}
    path = f"/admin/agents/{made['id']}"
    answer = enforcing.client.delete(path, headers=ADMIN)
    assert answer.status_code == 204 or (
        200 <= answer.status_code < 300 and json_object(answer)["id"] == made["id"]
    )
    refusal(check(enforcing, "read:x", who), 401)
    for method, tail, body in (
        ("PATCH", "", {"name": "back"}), ("PUT", "", {"trustTier": "trusted"}),
        ("POST", "/token", {}),
    ):  # fmt: skip
        refused = enforcing.client.request(method, path + tail, headers=ADMIN, json=body)
        refusal(refused, 409)
    again = enforcing.client.post(
        "/admin/agents", headers=ADMIN, json={"name": "again", "id": made["id"]}
    )
    refusal(again, 409)
    refusal(check(enforcing, "read:x", who), 401)
    refusal(enforcing.client.delete("/admin/agents/nobody", headers=ADMIN), 404)


@covers("§1.3 POST agents/:id/token")
def test_a_new_token_works_until_it_says(enforcing: Sidecar) -> None:
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": "t", "tags": ["conform"]})
    body = admin(enforcing, "POST", f"/agents/{made['id']}/token")
    assert decoders.moment(body, "expiresAt")
    assert body["token"]
    answer = check(enforcing, "read:x", {"Authorization": f"Bearer {body['token']}"})
    assert answer.headers["x-meshguard-agent-id"] == made["id"]
    refusal(enforcing.client.post("/admin/agents/nobody/token", headers=ADMIN), 404)


def _pending(sidecar: Sidecar, who: dict[str, str]) -> str:
    answer = sidecar.client.post("/proxy/bills", headers={**who, **governed(action="pay:bill")})
    return str(refusal(answer, 403)["pendingId"])


@covers("§1.3 pending", "§3 X-MeshGuard-Pending-ID")
def test_what_waits_is_listed_approved_once_or_rejected(enforcing: Sidecar) -> None:
    who = agent("payer")
    since = counting(enforcing)
    pending = _pending(enforcing, who)
    assert pending.startswith("pdact_")
    listed: list[Json] = admin(enforcing, "GET", "/pending", params={"agentId": "payer"})["pending"]
    assert [entry["pendingId"] for entry in listed] == [pending]
    decoders.no_nulls(listed)
    path = f"/pending/{pending}"
    assert admin(enforcing, "GET", path)["pendingId"] == pending
    refusal(enforcing.client.post(f"/admin{path}/approve", headers=ADMIN, json={}), 400)
    admin(enforcing, "POST", f"{path}/approve", json={"approver": "ann"})
    retry = {**who, **governed(action="pay:bill", pending_id=pending)}
    assert enforcing.client.post("/proxy/bills", headers=retry).status_code == 200
    refusal(enforcing.client.post("/proxy/bills", headers=retry), 403)
    assert since.forwarded() == 1
    other = _pending(enforcing, agent("refused"))
    sent = {"approver": "ann", "reason": "too much"}
    admin(enforcing, "POST", f"/pending/{other}/reject", json=sent)
    again = enforcing.client.post(f"/admin/pending/{other}/approve", headers=ADMIN, json=sent)
    refusal(again, 409)
    refusal(enforcing.get("/admin/pending/pdact_none", headers=ADMIN), 404)
