"""The whole chain through a real Envoy: what people do counts from the next request on."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from meshguard import MeshGuardClient
from meshguard.exceptions import AuthenticationError

from authz.core.timestamps import rfc3339
from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer
from tests.e2e.upstream import Upstream, echoed

POLICIES = """
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {effect: require_approval, actions: ["pay:*"]}
  - {effect: allow, actions: ["seal:*"], requireActionToken: true}
  - {effect: allow, actions: ["count:*"], rateLimit: {max_per_hour: 2}}
  - {effect: allow, actions: ["spend:*"]}
defaultEffect: deny
---
kind: RiskWallet
name: points
version: "1"
capacity: 10
window: 1h
costs: [{actions: ["spend:*"], cost: 4}]
"""
ADMIN = {"X-Admin-Token": ADMIN_TOKEN}
LATER = rfc3339(time.time() + 3600)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    # An upstream that tells agents what only we may.
    lies = [("x-meshguard-wallet-remaining", "999"), ("x-meshguard-decision", "deny")]
    with upstreams.serving(headers=lies) as serving:
        yield serving


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("policies")
    (directory / "chain.yaml").write_text(POLICIES)
    return directory


@pytest.fixture(scope="module")
def chained(upstream: Upstream, policies: Path) -> Iterator[Sidecar]:
    with starter.running(upstream, POLICIES_DIR=str(policies), METRICS_ENABLED="true") as sidecar:
        yield sidecar


def send(sidecar: Sidecar, agent_id: str, action: str, **headers: str) -> httpx.Response:
    """A request to the upstream; `pending_id` is X-MeshGuard-Pending-ID."""
    named = {f"X-MeshGuard-{n.replace('_', '-')}": value for n, value in headers.items()}
    return sidecar.client.post(
        "/proxy/work",
        headers={**bearer(agent_id=agent_id), "X-MeshGuard-Action": action, **named},
    )


def admin(sidecar: Sidecar, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
    answer = sidecar.client.request(method, f"/admin{path}", headers=ADMIN, **kwargs)
    assert answer.status_code in (200, 201), answer.text
    body: dict[str, Any] = answer.json()
    return body


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def delegated(sidecar: Sidecar, source: str, target: str, **more: Any) -> dict[str, Any]:
    terms = {"targetAgentId": target, "scope": ["read:*"], "expiresAt": LATER}
    answer = sidecar.client.post(
        "/relationships", headers=bearer(agent_id=source), json={**terms, **more}
    )
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_an_agent_is_created_allowed_and_revoked(chained: Sidecar) -> None:
    made = admin(chained, "POST", "/agents", json={"name": "helper"})
    headers = {"Authorization": f"Bearer {made['token']}"}
    answer = chained.get("/proxy/docs", headers=headers)
    assert (answer.status_code, answer.headers["x-meshguard-agent-id"]) == (200, made["id"])
    before = chained.upstream.hits
    admin(chained, "DELETE", f"/agents/{made['id']}", json={"reason": "left"})
    assert code(chained.get("/proxy/docs", headers=headers)) == (401, "agent_revoked")
    assert chained.upstream.hits == before


def test_the_published_sdk_manages_agents(chained: Sidecar) -> None:
    with MeshGuardClient(gateway_url=chained.url, admin_token=ADMIN_TOKEN) as client:
        made = client.create_agent("by the sdk", trust_tier="trusted", tags=["sdk"])
        [found] = [agent for agent in client.list_agents() if agent.id == made["id"]]
        assert (found.name, found.trust_tier, found.tags) == ("by the sdk", "trusted", ["sdk"])
        with MeshGuardClient(gateway_url=chained.url, agent_token=made["token"]) as agent:
            assert agent.check("read:x").allowed
            client.revoke_agent(made["id"])
            with pytest.raises(AuthenticationError):
                agent.check("read:x")


def test_an_approved_request_passes_once(chained: Sidecar) -> None:
    before = chained.upstream.hits
    waiting = send(chained, "payer", "pay:bill")
    assert code(waiting) == (403, "approval_required")
    pending = waiting.json()["pendingId"]
    assert code(send(chained, "payer", "pay:bill", pending_id=pending))[0] == 403
    admin(chained, "POST", f"/pending/{pending}/approve", json={"approver": "ann"})
    assert code(send(chained, "thief", "pay:bill", pending_id=pending))[1] == "pending_unknown"
    assert chained.upstream.hits == before
    passed = send(chained, "payer", "pay:bill", pending_id=pending)
    assert passed.status_code == 200
    assert chained.upstream.hits == before + 1
    assert not [n for n in echoed(passed.text)["headers"] if n.startswith("x-meshguard-")]
    assert code(send(chained, "payer", "pay:bill", pending_id=pending)) == (403, "pending_used")
    assert chained.upstream.hits == before + 1


def test_an_action_token_is_good_for_one_request(chained: Sidecar) -> None:
    needed = send(chained, "sealer", "seal:letter")
    assert code(needed) == (403, "action_token_required")
    minted = chained.client.post(
        "/api/v1/action-tokens",
        headers=bearer(agent_id="sealer"),
        json={"action": "seal:letter", "resource": "work"},
    )
    token = minted.json()["actionToken"]
    passed = send(chained, "sealer", "seal:letter", action_token=token)
    assert passed.status_code == 200
    assert token not in passed.text
    replayed = send(chained, "sealer", "seal:letter", action_token=token)
    assert code(replayed) == (403, "action_token_replayed")


def test_a_wallet_is_spent_told_and_empty(chained: Sidecar) -> None:
    before = chained.upstream.hits
    for left in ("6", "2"):
        answer = send(chained, "spender", "spend:x", wallet_remaining="7")
        assert answer.status_code == 200
        # Not what the client or the upstream says.
        assert answer.headers.get_list("x-meshguard-wallet-remaining") == [left]
        assert answer.headers.get_list("x-meshguard-decision") == ["allow"]
        assert "x-meshguard-wallet-remaining" not in echoed(answer.text)["headers"]
    empty = send(chained, "spender", "spend:x")
    assert code(empty) == (403, "wallet_exhausted")
    assert empty.headers.get_list("x-meshguard-wallet-remaining") == ["2"]
    assert 0 < int(empty.headers["retry-after"]) <= 2 * 3600
    assert chained.upstream.hits == before + 2
    assert 'remaining{agent="spender",wallet="points"} 2.0' in chained.get("/metrics").text
    admin(chained, "POST", "/wallets/points/spender/reset")
    assert send(chained, "spender", "spend:x").status_code == 200


def test_too_many_requests_are_429_with_a_time_to_come_back(chained: Sidecar) -> None:
    for _ in range(2):
        assert send(chained, "counter", "count:x").status_code == 200
    answer = send(chained, "counter", "count:x")
    assert code(answer) == (429, "rate_limited")
    assert answer.json()["limit"] == "2 requests per hour"
    assert int(answer.headers["retry-after"]) == answer.json()["retry_after"] > 0


def test_a_delegation_is_good_until_a_hop_is_revoked(chained: Sidecar) -> None:
    first = delegated(chained, "root", "middle", maxDepth=1)
    edge = first["relationship"]["id"]
    second = delegated(chained, "middle", "leaf", parentRelationshipId=edge)
    below = second["relationship"]["id"]
    before = chained.upstream.hits
    for named in (below, second["chain"]):
        assert send(chained, "leaf", "read:x", delegation=named).status_code == 200
        refused = send(chained, "thief", "read:x", delegation=named)
        assert code(refused) == (403, "delegation_wrong_delegate")
    path = f"/api/v1/relationships/{edge}"
    ended = chained.client.request(
        "DELETE", path, headers=bearer(agent_id="root"), json={"reason": "enough"}
    )
    assert ended.status_code == 200
    for named in (below, second["chain"]):
        refused = send(chained, "leaf", "read:x", delegation=named)
        assert code(refused) == (403, "delegation_revoked")
    assert chained.upstream.hits == before + 2
    assert {row["delegation_id"] for row in chained.rows()[-6:]} >= {below, edge}


def test_a_signed_chain_is_good_where_only_the_key_is_known(
    chained: Sidecar, policies: Path, tmp_path: Path
) -> None:
    made = delegated(chained, "root", "leaf")
    keys = tmp_path / "keys.json"
    keys.write_text(chained.client.get("/admin/delegation/keys", headers=ADMIN).text)
    with starter.running(
        chained.upstream, POLICIES_DIR=str(policies), DELEGATION_JWKS_FILE=str(keys)
    ) as other:
        chain = made["chain"]
        assert send(other, "leaf", "read:x", delegation=chain).status_code == 200
        by_id = send(other, "leaf", "read:x", delegation=made["relationship"]["id"])
        assert code(by_id) == (403, "delegation_unknown")
        forged = chain[:-4] + ("AAAA" if chain[-4:] != "AAAA" else "BBBB")
        assert code(send(other, "leaf", "read:x", delegation=forged))[0] == 403


def test_what_people_did_outlives_the_service(chained: Sidecar) -> None:
    made = admin(chained, "POST", "/agents", json={"name": "gone"})
    admin(chained, "DELETE", f"/agents/{made['id']}")
    before = chained.child("service")
    os.kill(before, signal.SIGKILL)
    starter.wait_until(
        lambda: chained.get("/health").status_code == 200 and chained.child("service") != before,
        "the service to be back",
    )
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert code(chained.get("/proxy/docs", headers=headers)) == (401, "agent_revoked")


def test_without_metrics_enabled_there_are_none(enforcing: Sidecar) -> None:
    assert enforcing.get("/metrics").status_code == 404
