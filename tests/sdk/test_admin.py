"""What an administrator does with the SDK: agents, policies and the trail, alike in every mode."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from meshguard import AuthenticationError, MeshGuardClient, MeshGuardError, PolicyDeniedError
from meshguard.client import Agent

from tests.sdk.gateway import POLICY, Gateway, Judged
from tests.sdk.surface import drives

ADMINISTERING = (
    "MeshGuardClient.list_agents", "MeshGuardClient.create_agent", "MeshGuardClient.revoke_agent",
    "MeshGuardClient.list_policies", "MeshGuardClient.get_audit_log",
)  # fmt: skip


def every_way(client: MeshGuardClient, agent_id: str) -> list[Callable[[], object]]:
    """Each method that wants the admin token."""
    return [
        client.list_agents,
        lambda: client.create_agent("made-by-nobody", "privileged", ["sdk"]),
        lambda: client.revoke_agent(agent_id),
        client.list_policies,
        client.get_audit_log,
    ]


def nulls(said: Any) -> list[Any]:
    """Everything in it that has a null."""
    inside = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return [said for value in inside if value is None] + [x for v in inside for x in nulls(v)]


@drives(*ADMINISTERING[:3], "MeshGuardClient.check", "Agent", "AuthenticationError")
def test_an_agents_life(gateway: Gateway) -> None:
    admin = gateway.admin()
    made = admin.create_agent("life", tags=["sdk", "short"])
    assert (made["name"], made["trustTier"], made["tags"]) == ("life", "verified", ["sdk", "short"])
    assert nulls(made) == []
    listed = Agent(made["id"], "life", "verified", ["sdk", "short"], None)
    assert listed in admin.list_agents()

    client = gateway.client(made["token"])
    assert client.check("read:contacts").allowed
    assert admin.revoke_agent(made["id"]) is None
    if gateway.blocks:
        with pytest.raises(AuthenticationError):
            client.check("read:contacts")
        with pytest.raises(AuthenticationError):
            client.get("contacts", "read:contacts")
    else:
        assert client.check("read:contacts").allowed
        assert client.get("contacts", "read:contacts").status_code == 200
    said = [(row["decision"], row["code"]) for row in gateway.rows(client)]
    denied = [("deny", "agent_revoked")] * 2
    assert said == ([("allow", "rule_allowed"), *denied] if gateway.records else [])

    # It stays revoked, is told once, and is still known.
    assert admin.revoke_agent(made["id"]) is None
    assert listed in admin.list_agents()
    assert gateway.changes(made["id"]) == ["agent:create", "agent:token", "agent:revoke"]


def test_ten_that_revoke_at_once_revoke_once(gateway: Gateway) -> None:
    agent = gateway.agent()
    admins = [gateway.admin() for _ in range(10)]
    with ThreadPoolExecutor(len(admins)) as pool:
        done = list(pool.map(lambda admin: admin.revoke_agent(agent.id), admins))
    assert done == [None] * len(admins)
    assert gateway.changes(agent.id).count("agent:revoke") == 1
    if gateway.blocks:
        with pytest.raises(AuthenticationError):
            agent.client.check("read:contacts")


@drives("MeshGuardClient.create_agent", "MeshGuardClient.list_agents", "Agent")
@pytest.mark.parametrize(
    "tier",
    ["unverified", "basic", "verified", "trusted", "privileged", "untrusted", "anonymous"],
)
def test_a_tier_is_kept_as_it_is_spelt(gateway: Gateway, tier: str) -> None:
    admin = gateway.admin()
    made = admin.create_agent(f"tier {tier}", tier)
    assert (made["trustTier"], made["tags"]) == (tier, [])
    assert Agent(made["id"], f"tier {tier}", tier, [], None) in admin.list_agents()


@drives("MeshGuardClient.create_agent", "MeshGuardClient.enforce")
def test_a_tier_counts_in_what_is_decided(gateway: Gateway) -> None:
    trusted = gateway.agent("trusted", tags=())
    assert trusted.client.check("write:report").allowed
    reason = "secrets are for people, not for agents of any tier"
    if gateway.blocks:
        with pytest.raises(PolicyDeniedError) as caught:
            trusted.client.enforce("read:secrets/1")
        error = caught.value
        assert (error.policy, error.rule, error.reason) == ("trusted-tiers", "no-secrets", reason)
    else:
        assert trusted.client.enforce("read:secrets/1").allowed
    gateway.assert_recorded(
        trusted.client, trusted,
        Judged("write:report", "allow", "rule_allowed"),
        Judged("read:secrets/1", "deny", "rule_denied"),
    )  # fmt: skip
    assert {row["trust_tier"] for row in gateway.rows(trusted.client)} <= {"trusted"}


@drives("MeshGuardClient.create_agent", "MeshGuardClient.list_agents")
@pytest.mark.parametrize(
    "name", ["O'Brien\"; DROP TABLE agents; --", "\u00fcber \u4e2d \U0001f600", "a/../b", "%00"]
)  # fmt: skip
def test_a_name_is_a_name(gateway: Gateway, name: str) -> None:
    admin = gateway.admin()
    made = admin.create_agent(name, tags=["x'y"])
    assert made["name"] == name
    assert Agent(made["id"], name, "verified", ["x'y"], None) in admin.list_agents()


@drives("MeshGuardClient.create_agent", "MeshGuardClient.list_agents", "MeshGuardError")
@pytest.mark.parametrize(
    ("name", "tier", "tags", "said"),
    [
        ("", "verified", [], "name: must not be empty"),
        ("x" * 10_000, "verified", [], "name: "),
        ("a\r\nb", "verified", [], "name: "),
        (7, "verified", [], "name: "),
        (None, "verified", [], "name: "),
        ("a", "emperor", [], "trustTier: unknown tier"),
        ("a", "", [], "trustTier: "),
        ("a", "verified", [7], "tags"),
        ("a", "verified", "admin", "tags"),
        ("a", "verified", ["t"] * 4_000, "tags"),
    ],
)
def test_a_bad_agent_is_not_made(
    gateway: Gateway, name: Any, tier: Any, tags: Any, said: str
) -> None:
    admin = gateway.admin()
    before = admin.list_agents()
    with pytest.raises(MeshGuardError, match=r"^Request failed: 400 ") as caught:
        admin.create_agent(name, tier, tags)
    assert type(caught.value) is MeshGuardError
    assert said in str(caught.value)
    assert admin.list_agents() == before


@drives(*ADMINISTERING, "AuthenticationError")
def test_nobody_administers_without_the_admin_token(gateway: Gateway) -> None:
    victim = gateway.agent("privileged")
    before = gateway.admin().list_agents()
    for way in every_way(gateway.client(victim.token), victim.id):
        # The SDK does not even ask.
        with pytest.raises(AuthenticationError, match=r"^Admin token required"):
            way()
    secret = gateway.secret("ADMIN_TOKEN")
    wrong = ("wrong", victim.token, gateway.demo_token, secret[:-1], secret + "x", secret.upper())
    for token in wrong:
        for way in every_way(gateway.client(victim.token, admin_token=token), victim.id):
            with pytest.raises(AuthenticationError, match=r"^Invalid or expired token$"):
                way()
    assert gateway.admin().list_agents() == before
    assert victim.client.check("read:contacts").allowed


@drives("MeshGuardClient.revoke_agent", "MeshGuardError")
@pytest.mark.parametrize(
    "agent_id",
    ["nobody", "", "a/b", "%2e%2e", "..%2fpolicies", "x'; --", "x" * 4000, "*", "\u00fc"],
)  # fmt: skip
def test_nobody_is_revoked_by_an_id_that_nobody_has(gateway: Gateway, agent_id: str) -> None:
    other = gateway.agent()
    admin = gateway.admin()
    policies = admin.list_policies()
    with pytest.raises(MeshGuardError, match=r"^Request failed: 4") as caught:
        admin.revoke_agent(agent_id)
    assert type(caught.value) is MeshGuardError
    assert other.client.check("read:contacts").allowed
    assert admin.list_policies() == policies


@drives("MeshGuardClient.revoke_agent", "MeshGuardClient.list_policies")
def test_an_id_with_dots_is_resolved_by_the_sdk_and_recorded_as_what_it_came_to(
    gateway: Gateway,
) -> None:
    """An id is put into a path as it is: who takes one from an agent hands it the admin token."""
    admin = gateway.admin()
    text = "name: short-lived\nrules: [{effect: deny, actions: ['x:y']}]\n"
    headers = {"X-Admin-Token": gateway.secret("ADMIN_TOKEN"), "Content-Type": "application/yaml"}
    put = gateway.sidecar.client.put("/admin/policies/short-lived", headers=headers, content=text)
    assert put.is_success, put.text
    assert "short-lived" in [policy["name"] for policy in admin.list_policies()]
    assert admin.revoke_agent("../policies/short-lived") is None
    assert "short-lived" not in [policy["name"] for policy in admin.list_policies()]
    assert gateway.changes("Policy short-lived") == ["policy:put", "policy:delete"]


@drives("MeshGuardClient.list_policies")
def test_policies_are_listed_as_they_are_written(gateway: Gateway) -> None:
    policies = {policy["name"]: policy for policy in gateway.admin().list_policies()}
    assert set(policies) == {POLICY, "code-review-policy", "release-bot", "trusted-tiers"}
    assert nulls(policies) == []
    ours = policies[POLICY]
    assert (ours["id"], ours["version"], ours["defaultEffect"]) == (POLICY, "1", "deny")
    assert ours["appliesTo"] == {"tags": ["sdk"]}
    assert [(rule["id"], rule["effect"]) for rule in ours["rules"]] == [
        ("reading", "allow"), ("never", "deny"), ("asked", "require_approval"),
        ("counted", "allow"), ("public", "allow"),
    ]  # fmt: skip
    for policy in policies.values():
        assert all(isinstance(rule["id"], str) for rule in policy["rules"])


@drives("MeshGuardClient.get_audit_log")
def test_the_trail_is_read_newest_first(gateway: Gateway) -> None:
    agent = gateway.agent()
    for action in ("read:first", "drop:second", "read:third"):
        agent.client.check(action)
    admin = gateway.admin()
    entries = admin.get_audit_log(limit=200)
    assert nulls(entries) == []
    assert [entry["seq"] for entry in entries] == sorted((e["seq"] for e in entries), reverse=True)
    assert len(admin.get_audit_log()) <= 50
    assert len(admin.get_audit_log(1)) == 1
    for entry in entries:
        assert all(isinstance(entry[key], str) for key in ("id", "timestamp", "action", "decision"))

    mine = [entry for entry in entries if entry["traceId"] == agent.client.trace_id]
    expected = [
        ("read:third", "allow", "allow"),
        ("drop:second", "deny", "deny" if gateway.blocks else "allow"),
        ("read:first", "allow", "allow"),
    ]
    said = [(entry["action"], entry["decision"], entry["enforced"]) for entry in mine]
    assert said == (expected if gateway.records else [])
    for entry in mine:
        assert (entry["agentId"], entry["agentName"], entry["policy"], entry["mode"]) == (
            agent.id, agent.name, POLICY, gateway.mode,
        )  # fmt: skip
    text = str(entries)
    secrets = (agent.token, gateway.secret("ADMIN_TOKEN"), gateway.secret("JWT_SECRET"))
    assert [secret for secret in secrets if secret in text] == []


@drives("MeshGuardClient.get_audit_log")
@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_the_trail_is_asked_for_one_decision(gateway: Gateway, decision: str) -> None:
    agent = gateway.agent()
    agent.client.check("read:x")
    agent.client.check("drop:x")
    entries = gateway.admin().get_audit_log(100, decision)
    assert {entry["decision"] for entry in entries} <= {decision}
    action = {"allow": "read:x", "deny": "drop:x"}[decision]
    mine = [entry["action"] for entry in entries if entry["traceId"] == agent.client.trace_id]
    assert mine == ([action] if gateway.records else [])


@drives("MeshGuardClient.get_audit_log", "MeshGuardError")
@pytest.mark.parametrize(
    ("limit", "decision", "said"),
    [
        (0, None, "limit: must be at least 1"),
        (-1, None, "limit: must be at least 1"),
        (1_000_000, None, "limit: must be at most 1000"),
        (10**40, None, "limit: "),
        ("many", None, "limit: "),
        (1.5, None, "limit: "),
        ("1; DROP TABLE audit", None, "limit: "),
        (5, "perhaps", "decision: "),
        (5, "allow' OR '1'='1", "decision: "),
        (5, "allow\u0000", "decision: "),
    ],
)
def test_a_bad_question_is_an_error_of_one_sentence(
    gateway: Gateway, limit: Any, decision: str | None, said: str
) -> None:
    with pytest.raises(MeshGuardError, match=r"^Request failed: 400 ") as caught:
        gateway.admin().get_audit_log(limit, decision)
    assert type(caught.value) is MeshGuardError
    assert said in str(caught.value)
    leaks = ("Traceback", "sqlite", "SELECT", ".py", str(gateway.sidecar.directory))
    assert [leak for leak in leaks if leak in str(caught.value)] == []
