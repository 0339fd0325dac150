"""What the service answers itself: probes, `/proxy/check`, batches, and the published SDK."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from meshguard import MeshGuardClient
from meshguard.exceptions import AuthenticationError, PolicyDeniedError

from authz.stores.policies import load
from tests.e2e.sidecar import ADMIN_TOKEN, SAMPLE_POLICIES, Sidecar, bearer, token

BATCH = "/api/v1/governance/batch"


def test_health_ready_and_root(enforcing: Sidecar) -> None:
    health = enforcing.get("/health")
    assert health.status_code == 200
    body = health.json()
    assert (body["status"], body["mode"]) == ("healthy", "enforce")
    assert body["checks"] == {"database": "ok", "policies": "ok"}
    assert body["timestamp"].endswith("Z")
    assert body["uptime"] >= 0
    ready = enforcing.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["policies"] == 3
    assert enforcing.get("/").json()["name"] == "MeshGuard Gateway"


def test_probes_need_no_token_and_leave_no_rows(enforcing: Sidecar) -> None:
    before = len(enforcing.rows())
    for path in ("/health", "/ready", "/", "/nothing-here"):
        enforcing.get(path)
    assert len(enforcing.rows()) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/health", 405), ("DELETE", "/proxy/check", 405),
     ("GET", "/health/", 404), ("GET", BATCH, 405)],
)  # fmt: skip
def test_every_refusal_is_a_json_object(
    enforcing: Sidecar, method: str, path: str, status: int
) -> None:
    answer = enforcing.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "message"}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/proxy/check", 200), ("/proxy/governance/check", 200), ("/api/v1/evaluate", 200),
     ("/proxy/audit", 202), ("/proxy/governance/record", 202), ("/api/v1/audit", 202)],
)  # fmt: skip
def test_what_other_sdks_send_is_answered_here_and_not_forwarded(
    enforcing: Sidecar, path: str, status: int
) -> None:
    before = enforcing.upstream.hits
    said = {"agentId": "x", "action": "read:x", "result": "success"}
    answer = enforcing.client.post(path, headers=bearer(), json=said)
    assert answer.status_code == status
    assert isinstance(answer.json(), dict)
    assert enforcing.client.post(path, json=said).status_code == 401
    # Only whole segments are ours.
    assert enforcing.client.post(f"{path}x", headers=bearer()).status_code in (403, 404)
    assert enforcing.upstream.hits == before


def test_check_allows_denies_and_records_but_forwards_nothing(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits
    headers = bearer(tier="standard") | {"X-MeshGuard-Action": "read:x"}
    allowed = enforcing.get("/proxy/check", headers=headers)
    assert allowed.status_code == 200
    body = allowed.json()
    assert (body["allowed"], body["decision"], body["policy"]) == (
        True, "allow", "code-review-policy",
    )  # fmt: skip
    assert body["trustTier"] == "standard"
    assert allowed.headers["x-meshguard-decision"] == "allow"
    denied = enforcing.get("/proxy/check", headers=bearer() | {"X-MeshGuard-Action": "admin:users"})
    assert denied.status_code == 403
    assert denied.json()["rule"] == "rules[2]"
    assert enforcing.upstream.hits == before
    rows = enforcing.rows()[-2:]
    assert [(row["source"], row["action"]) for row in rows] == [
        ("check", "read:x"), ("check", "admin:users"),
    ]  # fmt: skip
    assert rows[0]["resource"] is None


def test_check_without_an_action_is_400(enforcing: Sidecar) -> None:
    answer = enforcing.get("/proxy/check", headers=bearer())
    assert answer.status_code == 400
    assert answer.json()["message"] == "the X-MeshGuard-Action header is missing or empty"


def test_check_in_audit_mode_is_200_and_says_would_deny(auditing: Sidecar) -> None:
    answer = auditing.get("/proxy/check", headers=bearer() | {"X-MeshGuard-Action": "write:delete"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["allowed"], body["wouldDeny"], body["code"]) == (True, True, "rule_denied")


def test_a_batch_is_decided_in_order_with_a_row_each(enforcing: Sidecar) -> None:
    actions = [
        {"action": "read:customers", "resource": "customer-db"},
        {"action": "write:orders"},
        {"action": "admin:delete", "resource": "customer-db", "context": {"x": 1}},
    ]
    answer = enforcing.client.post(BATCH, headers=bearer(), json={"actions": actions})
    assert answer.status_code == 200
    body = answer.json()
    assert [(item["action"], item["decision"]) for item in body["results"]] == [
        ("read:customers", "allow"), ("write:orders", "deny"), ("admin:delete", "deny"),
    ]  # fmt: skip
    assert "reason" not in body["results"][0]
    assert body["results"][2]["reason"] == "policy code-review-policy denies admin:*"
    assert body["totalLatencyMs"] == pytest.approx(
        sum(item["latencyMs"] for item in body["results"])
    )
    rows = enforcing.rows()[-3:]
    assert {row["trace_id"] for row in rows} == {body["traceId"]}
    assert [row["resource"] for row in rows] == ["customer-db", None, "customer-db"]
    assert {row["policy_version"] for row in rows} == {body["policyVersion"]}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is missing"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"[]", 400, "the body must be a JSON object"),
        (b"{}", 400, "actions: "),
        (b'{"actions":[]}', 400, "actions: "),
        (b'{"actions":[{"action":""}]}', 400, "actions.0.action: "),
        (b'{"actions":[{"action":7}]}', 400, "actions.0.action: "),
        (b'{"actions":[' + b",".join([b'{"action":"read:x"}'] * 101) + b"]}", 400, "actions: "),
        (b'{"actions":"' + b"x" * 300_000 + b'"}', 413, "Envoy does not carry this request"),
    ],
)  # fmt: skip
def test_a_bad_batch_is_refused_whole(
    enforcing: Sidecar, body: bytes, status: int, message: str
) -> None:
    before = len(enforcing.rows())
    answer = enforcing.client.post(BATCH, headers=bearer(), content=body)
    assert answer.status_code == status
    assert answer.json()["message"].startswith(message)
    assert len(enforcing.rows()) == before


def test_a_hundred_actions_are_fine(enforcing: Sidecar) -> None:
    actions = [{"action": f"read:{number}"} for number in range(100)]
    answer = enforcing.client.post(BATCH, headers=bearer(), json={"actions": actions})
    assert [item["decision"] for item in answer.json()["results"]] == ["allow"] * 100


def test_a_batch_without_a_token_is_401(enforcing: Sidecar) -> None:
    answer = enforcing.client.post(BATCH, json={"actions": [{"action": "read:x"}]})
    assert answer.status_code == 401
    assert answer.json()["code"] == "token_missing"


def test_a_batch_in_audit_mode_allows_and_says_would_deny(auditing: Sidecar) -> None:
    answer = auditing.client.post(
        BATCH, headers=bearer(), json={"actions": [{"action": "admin:x"}]}
    )
    [item] = answer.json()["results"]
    assert (item["decision"], item["wouldDeny"]) == ("allow", True)


@pytest.fixture
def sdk(enforcing: Sidecar) -> Iterator[MeshGuardClient]:
    """The published Python SDK, as it comes."""
    client = MeshGuardClient(gateway_url=enforcing.url, agent_token=token())
    yield client
    client._client.close()


def test_the_published_sdk_checks(sdk: MeshGuardClient) -> None:
    allowed = sdk.check("read:contacts")
    assert (allowed.allowed, allowed.policy) == (True, "code-review-policy")
    denied = sdk.check("write:delete", resource="contacts")
    assert (denied.allowed, denied.policy, denied.rule) == (
        False, "code-review-policy", "rules[2]",
    )  # fmt: skip
    assert denied.reason == "policy code-review-policy denies write:delete"
    assert denied.trace_id == sdk.trace_id


def test_the_published_sdk_enforces_and_governs(sdk: MeshGuardClient) -> None:
    assert sdk.enforce("read:contacts").allowed
    with pytest.raises(PolicyDeniedError):
        sdk.enforce("admin:users")
    with sdk.govern("read:contacts"):
        pass


def test_the_published_sdk_sees_a_bad_token_as_that(enforcing: Sidecar) -> None:
    client = MeshGuardClient(gateway_url=enforcing.url, agent_token="nonsense")
    with client._client, pytest.raises(AuthenticationError):
        client.check("read:contacts")


def test_the_published_sdk_sees_audit_mode_as_allowed(auditing: Sidecar) -> None:
    client = MeshGuardClient(gateway_url=auditing.url, agent_token=token())
    with client._client:
        assert client.check("write:delete").allowed


def test_another_sidecar_can_have_the_policies_as_the_seed_fetches_them(
    enforcing: Sidecar, tmp_path: Path
) -> None:
    (tmp_path / "policies").mkdir()
    script = """
curl -sf $URL/admin/policies/bundle \\
  -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -o policies.tar.gz && \\
tar xzf policies.tar.gz -C policies/
"""
    env = {"PATH": os.environ["PATH"], "URL": enforcing.url, "ADMIN_TOKEN": ADMIN_TOKEN}
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=env, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    version = load(tmp_path / "policies").snapshot.version
    assert version == enforcing.get("/ready").json()["policyVersion"]
    for file in (tmp_path / "policies").rglob("*.yaml"):
        name = file.relative_to(tmp_path / "policies")
        assert file.read_bytes() == (SAMPLE_POLICIES / name).read_bytes()
