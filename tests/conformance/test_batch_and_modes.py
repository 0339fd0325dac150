"""§6: batches, and what each mode does."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance import decoders
from tests.conformance.conftest import POLICIES
from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
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
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar, wait_until
from tests.e2e.upstream import Upstream

BATCH = "/api/v1/governance/batch"


def _batch(
    sidecar: Sidecar, actions: object, headers: dict[str, str] | None = None
) -> httpx.Response:
    who = agent() if headers is None else headers
    return sidecar.client.post(BATCH, headers=who, json={"actions": actions})


@covers("§6 batch answer")
def test_a_batch_is_answered_in_its_order(enforcing: Sidecar) -> None:
    actions: list[Json] = [
        {"action": "read:a", "resource": "r"}, {"action": "write:delete"},
        {"action": "deploy:x", "context": {"env": "staging"}}, {"action": "READ:b"},
    ]  # fmt: skip
    answer = _batch(enforcing, actions)
    assert answer.status_code == 200
    body = json_object(answer)
    results = decoders.batch(body)
    assert [item["action"] for item in results] == [item["action"] for item in actions]
    assert [item["decision"] for item in results] == ["allow", "deny", "allow", "allow"]
    assert [("reason" in item) for item in results] == [False, True, False, False]
    total = sum(item["latencyMs"] for item in results)
    assert body["totalLatencyMs"] == pytest.approx(total)


@covers("§6 batch size")
@pytest.mark.parametrize(
    "actions",
    [[], [{"action": "read:x"}] * 101, "read:x", [7], [{}], [{"action": ""}], [{"action": None}],
     [{"action": "read:x", "context": []}], [{"action": "read:x"}, {"action": 1}], None],
)  # fmt: skip
def test_a_batch_has_one_to_a_hundred_actions(enforcing: Sidecar, actions: object) -> None:
    since = counting(enforcing)
    refusal(_batch(enforcing, actions), 400)
    assert since.rows_since() == []


@covers("§6 batch size", "§6 batch entries")
def test_each_action_of_a_batch_is_an_entry_of_one_trace(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    answer = _batch(enforcing, [{"action": f"admin:{number}"} for number in range(100)])
    # 200 also when all are denied.
    assert answer.status_code == 200
    assert {item["decision"] for item in answer.json()["results"]} == {"deny"}
    rows = since.rows_since()
    assert [row["action"] for row in rows] == [f"admin:{number}" for number in range(100)]
    assert {row["trace_id"] for row in rows} == {answer.json()["traceId"]}
    assert len({row["policy_version"] for row in rows}) == 1


@covers("§6 batch approval")
def test_what_needs_approval_is_a_denial_that_says_so(enforcing: Sidecar) -> None:
    [item] = decoders.batch(json_object(_batch(enforcing, [{"action": "pay:x"}])))
    assert (item["decision"], item["requiresApproval"]) == ("deny", True)
    assert item["pendingId"].startswith("pdact_")


@covers("§6 batch in audit mode")
def test_a_batch_in_audit_mode_allows_and_says_would_deny(auditing: Sidecar) -> None:
    answer = _batch(auditing, [{"action": "read:x"}, {"action": "write:delete"}])
    first, second = decoders.batch(json_object(answer))
    assert (first["decision"], "wouldDeny" in first) == ("allow", False)
    assert (second["decision"], second["wouldDeny"]) == ("allow", True)
    assert second["reason"] == "deleting is for people"


@covers("§6 enforce")
def test_enforce_blocks_and_audits_denials(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    refusal(enforcing.get("/proxy/x", headers={**agent(), **governed(action="admin:x")}), 403)
    assert since.forwarded() == 0
    [row] = since.rows_since()
    assert (row["decision"], row["enforced"], row["mode"]) == ("deny", "deny", "enforce")
    assert (row["policy"], row["rule"], row["rule_index"]) == ("conformance", "no-deletes", 2)
    assert row["reason"]


@covers("§6 audit", "§6 no token in audit mode")
@pytest.mark.parametrize(
    ("headers", "stage"),
    [
        ({**agent(), **governed(action="admin:x")}, "policy"),
        ({}, "auth"),
        ({"Authorization": "Bearer nonsense"}, "auth"),
        ({**agent(), **governed(action="pay:x")}, "policy"),
        (agent(tags=()), "policy"),
    ],
)
def test_audit_mode_never_blocks_and_records_what_it_would(
    auditing: Sidecar, headers: dict[str, str], stage: str
) -> None:
    since = counting(auditing)
    named = {**governed(action="read:x"), **headers}
    assert auditing.get("/proxy/x", headers=named).status_code == 200
    answer = auditing.get("/proxy/check", headers=named)
    assert (answer.status_code, json_object(answer)["wouldDeny"]) == (200, True)
    assert since.forwarded() == 1
    for row in since.rows_since():
        assert (row["decision"], row["enforced"], row["mode"]) == ("deny", "allow", "audit")
        assert row["stage"] == stage
        assert row["reason"]


@covers("§6 bypass")
def test_bypass_looks_at_nothing_and_records_nothing(bypassing: Sidecar) -> None:
    since = counting(bypassing)
    for headers in ({}, agent(), {**agent(), **governed(action="admin:x")}):
        answer = bypassing.get("/proxy/x", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["x-meshguard-mode"] == "bypass"
    assert since.forwarded() == 3
    assert check(bypassing, "admin:x", {}).status_code == 200
    assert since.rows_since() == []
    assert "bypass" in bypassing.log()


@covers("§6 admin in bypass mode")
def test_bypass_lets_nobody_administer(bypassing: Sidecar) -> None:
    for headers in ({}, agent(tier="privileged"), {"X-Admin-Token": "x"}):
        refusal(bypassing.get("/admin/agents", headers=headers), 401)
        refusal(bypassing.client.post("/admin/agents", headers=headers, json={"name": "x"}), 401)
    assert bypassing.get("/admin/agents", headers=ADMIN).status_code == 200


@pytest.fixture(scope="module")
def switched(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar whose mode and policies these tests change; it stops waiting after 100 ms."""
    directory = tmp_path_factory.mktemp("switched")
    policies = directory / "policies"
    policies.mkdir()
    shutil.copy(POLICIES, policies)
    mode = directory / "mode"
    mode.write_text("enforce\n")
    with starter.running(
        upstream, POLICIES_DIR=str(policies), MODE_FILE=str(mode), DECISION_TIMEOUT_MS="100",
        POLICIES_POLL_INTERVAL="0",
    ) as sidecar:  # fmt: skip
        yield sidecar


def _mode(sidecar: Sidecar) -> str:
    return str(sidecar.get("/").json()["mode"])


@covers("§6 SIGHUP")
def test_a_hangup_reads_mode_and_policies_again(switched: Sidecar) -> None:
    name = fresh("hangup")
    assert check(switched, "read:x", agent(tags=(name,))).status_code == 403
    text = f'name: {name}\nversion: "1"\nappliesTo: {{tags: [{name}]}}\n'
    text += 'rules: [{effect: allow, actions: ["read:*"]}]\ndefaultEffect: deny\n'
    (Path(switched.env["POLICIES_DIR"]) / "new.yaml").write_text(text)
    Path(switched.env["MODE_FILE"]).write_text("audit\n")
    switched.process.send_signal(signal.SIGHUP)
    wait_until(lambda: _mode(switched) == "audit", "the mode")
    Path(switched.env["MODE_FILE"]).write_text("enforce\n")
    switched.process.send_signal(signal.SIGHUP)
    wait_until(lambda: _mode(switched) == "enforce", "the mode")
    wait_until(
        lambda: check(switched, "read:x", agent(tags=(name,))).status_code == 200, "the policy"
    )


@covers("§6 PUT /admin/mode")
def test_the_mode_is_switched_over_http_and_the_switch_is_audited(switched: Sidecar) -> None:
    denied: Json = {**agent(), **governed(action="admin:x")}
    assert admin(switched, "GET", "/mode")["mode"] == "enforce"
    since = counting(switched)
    assert admin(switched, "PUT", "/mode", json={"mode": "audit"})["mode"] == "audit"
    assert _mode(switched) == "audit"
    assert switched.get("/proxy/x", headers=denied).status_code == 200
    assert admin(switched, "PUT", "/mode", json={"mode": "enforce"})["mode"] == "enforce"
    refusal(switched.get("/proxy/x", headers=denied), 403)
    rows = [row for row in since.rows_since(control=True) if row["source"] == "control"]
    assert [row["action"].startswith("mode") for row in rows] == [True, True]
    none: list[object] = [{"mode": "off"}, {"mode": 1}, {"mode": None}, {}, [], {"mod": "audit"}]
    for bad in none:
        answer = switched.client.put("/admin/mode", headers=ADMIN, json=bad)
        refusal(answer, 400)
    assert _mode(switched) == "enforce"


@covers("§6 breaker")
def test_no_decision_in_100_ms_is_503_and_no_denial(switched: Sidecar) -> None:
    service = switched.child("service")
    since = switched.upstream.hits
    os.kill(service, signal.SIGSTOP)
    try:
        answer = switched.get("/proxy/x", headers=agent())
    finally:
        os.kill(service, signal.SIGCONT)
    body: dict[str, Any] = refusal(answer, 503)
    assert body["code"] == "circuit_open"
    assert switched.upstream.hits == since
    wait_until(lambda: check(switched, "read:x").status_code == 200, "decisions to resume")
