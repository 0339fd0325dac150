"""`authz agent`, `pending`, `delegation`, `wallet` and `fuse`, run as a user runs them.

Beside them a gate has the same database open, and decides by what they change.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from typer.testing import CliRunner

from authz import memory
from authz.cli import app, records, words
from authz.core import call as calls
from authz.core.audit import AuditRow, change_row
from authz.core.delegation import fuse
from authz.core.identity import Identity, TokenVerifier, mint
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.state import State
from authz.core.timestamps import seconds_of
from authz.gate import Gate
from authz.memory import Delegations
from authz.settings import Settings
from authz.stores import policies
from authz.stores.audit_key import default_key_file
from authz.stores.audit_log import AuditLog, AuditReader
from authz.stores.audit_maintenance import AuditMaintenance
from tests.builders import SECRET

ROOT: Final = Path(__file__).parents[1]

POLICIES: Final = """\
name: everyone
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {id: ask, effect: require_approval, actions: ["pay:*"]}
  - {id: read, effect: allow, actions: ["read:*"]}
defaultEffect: deny
delegation: {maxDepth: 1, permissionCeiling: ["read:*"]}
---
kind: RiskWallet
name: points
capacity: 100
window: 24h
costs:
  - {actions: ["read:dear"], cost: 60}
"""


class Done(NamedTuple):
    """A command that has ended by itself."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)


def authz(*arguments: str | Path, **env: str | None) -> Done:
    """Run a command; a variable that is None is not set."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the audit database is; the environment is a sidecar's."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "all.yaml").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    for name in ("DB_PATH", "MODE", "MODE_FILE", "AUDIT_SYNC", "JWKS_FILE", "DELEGATION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUDIT_DB_PATH", str(tmp_path / "audit.db"))
    monkeypatch.setenv("POLICIES_DIR", str(tmp_path / "policies"))
    monkeypatch.setenv("JWT_SECRET", SECRET)
    return tmp_path / "audit.db"


class Sidecar:
    """A gate as the service makes it, with its own connection to the database."""

    def __init__(self, path: Path, **env: str) -> None:
        settings = Settings.from_env({"JWT_SECRET": SECRET, "AUDIT_DB_PATH": str(path)} | env)
        self.state = State()
        self.audit = AuditLog(path, monotonic=time.monotonic, ledger=self.state.ledger)
        assert self.audit.open(), self.audit.failure
        snapshot = policies.load(Path("policies")).snapshot
        ids = iter(range(1, 1000))
        self.gate = Gate(
            snapshot=lambda: snapshot,
            tokens=TokenVerifier(SECRET, registry=self.state.agents),
            recorder=self.audit,
            environment=memory.environment(
                settings, self.state, Delegations(settings), memory.action_tokens(settings)
            ),
            mode=Mode.ENFORCE,
            now=time.time,
            monotonic_ns=time.perf_counter_ns,
            steady_offset=memory.steady_offset(self.audit, time.time(), time.perf_counter()),
            new_id=lambda: f"decision-{next(ids)}",
        )

    def ask(self, agent: str, action: str, **headers: str) -> Outcome:
        """What the gate decides for an agent; headers by the last word of their name."""
        token = mint(SECRET, agent_id=agent, now=time.time(), ttl_s=60)
        said = {"x-meshguard-action": action, "authorization": f"Bearer {token}"}
        said |= {f"x-meshguard-{name.replace('_', '-')}": text for name, text in headers.items()}
        call = calls.from_http("check", "GET", "/proxy/check", "", said.get)
        [outcome] = self.gate.batch([call])
        return outcome

    def code(self, agent: str, action: str, **headers: str) -> str:
        return str(self.ask(agent, action, **headers).verdict.code)

    def asked_for(self, agent: str, action: str) -> str:
        """The id of the pending action that this makes."""
        more = self.ask(agent, action).verdict.more
        assert more is not None
        return str(more.body["pendingId"])


@pytest.fixture
def sidecar(path: Path) -> Iterator[Sidecar]:
    made = Sidecar(path)
    with contextlib.closing(made.audit):
        yield made


def registered(*agents: str) -> None:
    for agent in agents:
        assert authz("agent", "create", agent.title(), "--id", agent).code == 0


def delegated(source: str = "ann", target: str = "bob", *options: str) -> str:
    done = authz("delegation", "issue", source, target, "--scope", "read:*", *options)
    assert done.code == 0, done.err
    return done.out.strip()


def changes(path: Path) -> list[dict[str, Any]]:
    """The rows of changes, oldest first."""
    return [row for row in AuditReader(path).tail(1000) if row["source"] == "control"]


# Agents.


def test_an_agent_is_made_with_a_token_that_is_shown_once(path: Path) -> None:
    done = authz("agent", "create", "Ann", "--trust", "trusted", "--tag", "x", "--tag", "y")
    assert (done.code, done.err) == (0, "")
    agent_id, token = done.out.splitlines()
    assert re.fullmatch("agent_[0-9a-f]{16}", agent_id)
    caller = TokenVerifier(SECRET).identify(f"Bearer {token}", time.time())
    assert isinstance(caller, Identity)
    assert (caller.agent_id, caller.name, caller.tier, caller.tags) == (
        agent_id, "Ann", "trusted", frozenset("xy"),
    )  # fmt: skip
    assert token.encode() not in path.read_bytes()
    shown = authz("agent", "show", agent_id, "--json").body
    assert shown == {
        "id": agent_id, "name": "Ann", "trustTier": "trusted", "tags": ["x", "y"],
        "status": "active", "createdAt": shown["createdAt"],
    }  # fmt: skip
    lines = authz("agent", "show", agent_id).out.splitlines()
    assert lines[:4] == [
        f"id         {agent_id}", "name       Ann", "trustTier  trusted", "tags       x, y",
    ]  # fmt: skip


def test_a_token_in_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("before")
    file.chmod(0o644)
    done = authz("agent", "create", "Ann", "--id", "ann", "--output", file, "--ttl", "1h", "--json")
    assert (done.code, done.err) == (0, "")
    assert "token" not in done.body
    assert file.stat().st_mode & 0o777 == 0o600
    caller = TokenVerifier(SECRET).identify(f"Bearer {file.read_text().strip()}", time.time())
    assert isinstance(caller, Identity)
    assert 3500 < seconds_of(done.body["expiresAt"]) - time.time() <= 3600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["audit.db", "policies", "token"]


def test_without_a_secret_an_agent_is_registered_and_has_no_token(path: Path) -> None:
    unsigned = (
        "JWT_SECRET is not set, so no token was made; with it `authz agent token ID` makes one"
    )
    done = authz("agent", "create", "Ann", "--id", "ann", JWT_SECRET=None)
    assert done == (0, "ann\n", f"authz: {unsigned}\n")
    for command in (("token", "ann"), ("create", "Bob", "--ttl", "1h")):
        refused = authz("agent", *command, JWT_SECRET=None)
        assert refused == (
            2, "", "authz: JWT_SECRET: not set, so there is nothing to sign a token with\n",
        )  # fmt: skip
    assert [row["action"] for row in changes(path)] == ["agent:create"]


def test_a_token_is_printed_alone() -> None:
    registered("ann")
    done = authz("agent", "token", "ann", "--ttl", "15m")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    as_json = authz("agent", "token", "ann", "--json").body
    assert set(as_json) == {"token", "expiresAt"}
    for token in (done.out.strip(), as_json["token"]):
        assert isinstance(TokenVerifier(SECRET).identify(f"Bearer {token}", time.time()), Identity)


def test_what_is_not_named_in_an_update_stays() -> None:
    authz("agent", "create", "Ann", "--id", "ann", "--tag", "x", "--org", "acme")
    done = authz("agent", "update", "ann", "--trust", "basic", "--tag", "y", "--json")
    assert done.code == 0
    assert {name: done.body[name] for name in ("name", "trustTier", "tags", "orgId")} == {
        "name": "Ann", "trustTier": "basic", "tags": ["y"], "orgId": "acme",
    }  # fmt: skip
    assert authz("agent", "update", "ann", "--no-tags", "--json").body["tags"] == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ["eve", "bob", "ann"]),
        (("--trust", "verified"), ["bob", "ann"]),
        (("--trust", "standard"), ["bob", "ann"]),
        (("--status", "revoked"), ["eve", "bob"]),
        (("--status", "active", "--trust", "trusted"), []),
    ],
)
def test_agents_are_listed_newest_first(options: tuple[str, ...], found: list[str]) -> None:
    registered("ann", "bob")
    authz("agent", "revoke", "bob")
    authz("agent", "revoke", "eve", "--unknown")
    done = authz("agent", "list", *options)
    assert done.out.splitlines()[0].split() == ["ID", "NAME", "TRUST", "STATUS", "CREATED"]
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == found
    assert [agent["id"] for agent in authz("agent", "list", *options, "--json").body["agents"]] == (
        found
    )


def test_a_sidecar_refuses_whom_a_command_has_revoked_from_the_next_request_on(
    sidecar: Sidecar,
) -> None:
    registered("ann")
    assert sidecar.code("ann", "read:x") == "rule_allowed"
    assert authz("agent", "revoke", "ann", "--reason", "lost") == (0, "agent ann is revoked\n", "")
    sidecar.audit.begin()
    sidecar.audit.cancel()
    known = sidecar.state.agents.get("ann")
    assert known is not None
    assert known.revoked_reason == "lost"
    assert sidecar.code("ann", "read:x") == "agent_revoked"
    assert sidecar.code("eve", "read:x") == "rule_allowed"
    assert authz("agent", "revoke", "eve") == (
        1, "", "authz: there is no agent eve; with --unknown an id that is not registered is"
        " revoked too\n",
    )  # fmt: skip
    assert authz("agent", "revoke", "eve", "--unknown", "--json").body["status"] == "revoked"
    assert sidecar.code("eve", "read:x") == "agent_revoked"
    assert authz("agent", "revoke", "ann").code == 0
    refused = authz("agent", "update", "ann", "--name", "A")
    assert (refused.code, refused.err) == (
        1, "authz: a revoked agent cannot be changed; register another one\n",
    )  # fmt: skip
    assert authz("agent", "token", "ann") == (1, "", "authz: agent ann was revoked\n")


# Pending actions.


def test_an_action_that_was_approved_passes_once(sidecar: Sidecar) -> None:
    pending_id = sidecar.asked_for("ann", "pay:invoice")
    sidecar.asked_for("bob", "pay:invoice")
    [row] = authz("pending", "list", "--agent", "ann").out.splitlines()[1:]
    assert row.split() == [pending_id, "approval", "59m", "ann", "pay:invoice"]
    assert "state          pending_approval" in authz("pending", "show", pending_id).out
    done = authz("pending", "approve", pending_id, "--by", "The boss", "--json")
    assert (done.body["state"], done.body["approver"]) == ("approved", "The boss")
    assert sidecar.code("ann", "pay:invoice") == "approval_required"
    assert sidecar.code("bob", "pay:invoice", pending_id=pending_id) == "pending_unknown"
    assert sidecar.code("ann", "pay:invoice", pending_id=pending_id) == "approved"
    assert sidecar.code("ann", "pay:invoice", pending_id=pending_id) == "pending_used"
    assert authz("pending", "approve", pending_id) == (
        1, "", f"authz: {pending_id} is executed already\n",
    )  # fmt: skip
    [row] = authz("pending", "list", "--agent", "ann").out.splitlines()[1:]
    assert row.split() == [pending_id, "executed", "-", "ann", "pay:invoice"]


def test_the_action_token_of_an_approval_is_good_for_a_sidecar_of_the_same_secret(
    sidecar: Sidecar,
) -> None:
    pending_id = sidecar.asked_for("ann", "pay:invoice")
    first, second = authz("pending", "approve", pending_id).out.splitlines()
    assert first == f"X-MeshGuard-Pending-ID: {pending_id}"
    token = second.removeprefix("X-MeshGuard-Action-Token: ")
    assert sidecar.code("ann", "pay:other", action_token=token) == "action_token_mismatch"
    assert sidecar.code("ann", "pay:invoice", action_token=token) == "approved"
    other = sidecar.asked_for("bob", "pay:invoice")
    assert authz("pending", "approve", other, JWT_SECRET=None) == (
        0, f"X-MeshGuard-Pending-ID: {other}\n", "",
    )  # fmt: skip


def test_a_rejected_action_is_denied_with_the_reason(sidecar: Sidecar) -> None:
    pending_id = sidecar.asked_for("ann", "pay:invoice")
    assert authz("pending", "reject", pending_id).code == 2
    done = authz("pending", "reject", pending_id, "--reason", "too dear")
    assert done == (0, f"{pending_id} is rejected\n", "")
    verdict = sidecar.ask("ann", "pay:invoice").verdict
    assert str(verdict.code) == "pending_rejected"
    assert verdict.reason == f"{pending_id} was rejected by {words.login()}: too dear"
    for state, count in (("rejected", 1), ("approval", 0), ("pending_approval", 0)):
        found = authz("pending", "list", "--state", state, "--json").body["pending"]
        assert len(found) == count


# Delegations.


def test_a_delegation_holds_until_it_is_revoked(sidecar: Sidecar) -> None:
    registered("ann", "bob")
    made = delegated("ann", "bob", "--resource", "docs/*", "--depth", "1")
    assert re.fullmatch("rel_[0-9a-f]{32}", made)
    assert sidecar.code("bob", "read:x", delegation=made, resource="docs/1") == "rule_allowed"
    assert (
        sidecar.code("bob", "read:x", delegation=made, resource="keys/1")
        == "delegation_out_of_scope"
    )
    [row] = authz("delegation", "list", "--agent", "bob").out.splitlines()[1:]
    assert row.split() == [made, "active", "59m", "ann", "bob", "read:*"]
    assert authz("delegation", "list", "--agent", "eve", "--json").body == {"relationships": []}
    assert authz("delegation", "revoke", made, "--reason", "done").out == f"{made} is revoked\n"
    assert sidecar.code("bob", "read:x", delegation=made, resource="docs/1") == "delegation_revoked"
    shown = authz("delegation", "show", made, "--json").body
    assert (shown["status"], shown["reason"], shown["maxDepth"]) == ("revoked", "done", 1)
    assert authz("delegation", "chain", made) == (4, "", f"authz: {made} was revoked\n")


def test_a_delegation_below_one_that_ended_is_listed_as_broken() -> None:
    registered("ann", "bob", "carl")
    first = delegated("ann", "bob", "--depth", "1")
    second = delegated("bob", "carl", "--parent", first)
    assert "BROKEN BY" not in authz("delegation", "list").out
    assert authz("agent", "revoke", "ann").code == 0
    rows = [row.split() for row in authz("delegation", "list").out.splitlines()]
    assert rows[0][-2:] == ["BROKEN", "BY"]
    assert {(row[0], *row[1:3], row[-1]) for row in rows[1:]} == {
        (first, "broken", "-", first), (second, "broken", "-", first)
    }  # fmt: skip
    shown = authz("delegation", "show", second, "--json").body
    assert (shown["status"], shown["brokenBy"]) == ("broken", first)


def test_a_delegate_that_is_not_registered_is_told_on_stderr() -> None:
    registered("ann")
    done = authz("delegation", "issue", "ann", "bbo", "--scope", "read:*")
    assert (done.code, done.out[:4]) == (0, "rel_")
    assert done.err.startswith("authz: agent bbo is not registered here, so see that the id")


def test_a_chain_is_good_where_only_its_key_is_known(tmp_path: Path, sidecar: Sidecar) -> None:
    registered("ann", "bob", "carl")
    first = delegated("ann", "bob", "--depth", "1")
    second = delegated("bob", "carl", "--parent", first, "--chain")
    assert second.count("~") == 1
    keys = tmp_path / "jwks.json"
    keys.write_text(authz("delegation", "key").out)
    elsewhere = Sidecar(tmp_path / "other.db", DELEGATION_JWKS_FILE=str(keys))
    with contextlib.closing(elsewhere.audit):
        for gate in (elsewhere, sidecar):
            assert gate.code("carl", "read:x", delegation=second) == "rule_allowed"
            assert gate.code("eve", "read:x", delegation=second) == "delegation_wrong_delegate"
        leaf = authz("delegation", "list", "--agent", "carl", "--json").body["relationships"][0]
        assert authz("delegation", "chain", leaf["id"]).out.strip() == second
        assert authz("delegation", "chain", leaf["id"], "--json").body == {"chain": second}


def test_a_delegation_as_json_has_a_receipt_and_its_chain() -> None:
    registered("ann", "bob")
    arguments = ("delegation", "issue", "ann", "bob", "--scope", "read:*", "--approval", "--json")
    body = authz(*arguments).body
    assert set(body) == {"relationship", "receipt"}
    assert body["relationship"]["requiresApproval"] is True
    assert body["receipt"]["receiptId"].removeprefix("rcpt_") == (
        body["relationship"]["id"].removeprefix("rel_")
    )
    assert set(authz(*arguments, "--chain").body) == {"relationship", "receipt", "chain"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("eve", "bob", "--scope", "read:*"), 1, "FROM: there is no agent eve"),
        (("ann", "ann", "--scope", "read:*"), 4, "TO: an agent may not delegate to itself"),
        (("ann", "bob", "--scope", " "), 2,
         "--scope[0]: not a pattern of printable characters"),
        (("ann", "bob", "--scope", "admin:x"), 4,
         "--scope[0]: actions that begin with admin: cannot be delegated"),
        (("ann", "bob", "--scope", "write:x"), 4,
         "--scope: the permissionCeiling in the source agent's policies does not cover it"),
        (("ann", "bob", "--scope", "read:*", "--depth", "2"), 4,
         "--depth: the source agent's policies allow at most 1"),
        (("ann", "bob", "--scope", "read:*", "--depth", "9"), 2,
         "--depth: not a whole number from 0 to 5"),
        (("ann", "bob", "--scope", "read:*", "--parent", "rel_x"), 1,
         "--parent: there is no relationship rel_x"),
        (("ann", "bob", "--scope", "read:*", "--ttl", "soon"), 2,
         "--ttl: not a duration; write 30s, 15m, 24h or 7d"),
        (("low", "bob", "--scope", "read:*"), 4,
         "FROM: an agent below tier verified may not delegate"),
    ],
)  # fmt: skip
def test_a_delegation_that_may_not_be(arguments: tuple[str, ...], code: int, said: str) -> None:
    registered("ann", "bob")
    authz("agent", "create", "Low", "--id", "low", "--trust", "basic")
    done = authz("delegation", "issue", *arguments)
    assert done == (code, "", f"authz: {said}\n")
    assert authz("delegation", "list", "--json").body == {"relationships": []}


def test_nothing_is_delegated_by_policies_that_cannot_all_be_read(tmp_path: Path) -> None:
    registered("ann", "bob")
    (tmp_path / "policies" / "bad.yaml").write_text("name: x\n")
    done = authz("delegation", "issue", "ann", "bob", "--scope", "read:*")
    assert done.code == 2
    assert "the policies have errors" in done.err
    assert authz("agent", "revoke", "ann").code == 0


# Wallets and fuses.


def test_what_was_spent_is_listed_and_given_back(sidecar: Sidecar) -> None:
    assert sidecar.code("ann", "read:dear") == "rule_allowed"
    assert sidecar.code("ann", "read:dear") == "wallet_exhausted"
    assert authz("wallet", "list").out.splitlines()[1].split() == (
        ["points", "ann", "60", "40", "100"]
    )
    assert authz("wallet", "list", "--agent", "ann", "--json").body["wallets"] == [
        {"wallet": "points", "agentId": "ann", "spent": 60, "capacity": 100, "remaining": 40}
    ]
    assert authz("wallet", "list", "--agent", "bob", "--json").body == {"wallets": []}
    assert authz("wallet", "list", POLICIES_DIR="nowhere").out.splitlines()[1].split() == (
        ["points", "ann", "60", "-", "-"]
    )
    done = authz("wallet", "reset", "points", "ann")
    assert done == (0, "60 points given back to ann in wallet points\n", "")
    assert sidecar.code("ann", "read:dear") == "rule_allowed"
    assert authz("wallet", "reset", "points", "bob") == (
        1, "", "authz: agent bob has spent nothing of wallet points\n",
    )  # fmt: skip


def test_a_fuse_that_is_reset_lets_the_delegation_be_used_again(sidecar: Sidecar) -> None:
    registered("ann", "bob")
    made = delegated()
    for _ in range(fuse.FAILURES):
        assert sidecar.code("bob", "write:x", delegation=made) == "delegation_out_of_scope"
    assert sidecar.code("bob", "read:x", delegation=made) == "fuse_open"
    [row] = authz("fuse", "list").out.splitlines()[1:]
    assert row.split() == [made, "open", "4m", "0", "bob", "ann"]
    [shown] = authz("fuse", "list", "--json").body["fuses"]
    assert (shown["relationshipId"], shown["state"], shown["timesOpened"]) == (made, "open", 1)
    assert authz("fuse", "reset", made) == (0, f"the fuse of {made} is closed\n", "")
    assert sidecar.code("bob", "read:x", delegation=made) == "rule_allowed"
    assert authz("fuse", "reset", made) == (
        1, "", f"authz: relationship {made} has no fuse that could be reset\n",
    )  # fmt: skip


# The record.


def test_every_change_is_a_row_of_a_trail_that_verifies(path: Path, sidecar: Sidecar) -> None:
    maintenance = AuditMaintenance(
        sidecar.audit,
        path,
        key_file=default_key_file(path),
        retention_days=0,
        change=_change,
        now=time.time,
        monotonic=time.monotonic,
    )
    maintenance.tick()
    registered("ann", "bob")
    authz("agent", "update", "ann", "--tag", "x")
    made = delegated()
    sidecar.ask("bob", "write:x", delegation=made)
    pending_id = sidecar.asked_for("ann", "pay:x")
    sidecar.ask("ann", "read:dear")
    authz("pending", "approve", pending_id, "--by", "boss")
    authz("wallet", "reset", "points", "ann")
    authz("fuse", "reset", made)
    authz("delegation", "revoke", made)
    authz("agent", "revoke", "ann")
    rows = [row for row in changes(path) if row["action"].partition(":")[0] != "audit"]
    assert [(row["action"], row["resource"]) for row in rows] == [
        ("agent:create", "ann"),
        ("agent:token", "ann"),
        ("agent:create", "bob"),
        ("agent:token", "bob"),
        ("agent:update", "ann"),
        ("relationship:create", made),
        ("pending:approve", pending_id),
        ("wallet:reset", "points ann"),
        ("fuse:reset", made),
        ("relationship:revoke", made),
        ("agent:revoke", "ann"),
    ]
    assert {row["reason"] for row in rows} == {f"by cli:{words.login()}"}
    assert {row["policyVersion"] for row in rows} == {
        policies.load(Path("policies")).snapshot.version
    }
    told = {row["action"]: row["metadata"] for row in rows}
    assert told["agent:update"]["before"]["tags"] == []
    assert told["agent:update"]["after"]["tags"] == ["x"]
    assert told["pending:approve"]["after"]["approver"] == "boss"
    assert told["wallet:reset"] == {"before": {"spent": 60}, "after": {"spent": 0}}
    assert told["agent:revoke"]["after"]["status"] == "revoked"
    maintenance.finish()
    done = authz("audit", "verify")
    assert (done.code, done.out.splitlines()[-1]) == (0, "the trail verifies")


def _change(action: str, resource: str, reason: str) -> AuditRow:
    return change_row(
        row_id=reason, at=time.time(), action=action, resource=resource, reason=reason,
        mode=Mode.ENFORCE, policy_version="v",
    )  # fmt: skip


def test_a_row_names_the_policies_that_a_sidecar_judges_by(path: Path) -> None:
    registered("ann")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(
            "INSERT INTO policy_versions (version, sha256, policies) VALUES ('pinned', '', '[]')"
        )
        other.execute(
            "INSERT INTO policy_activations (at, version, why, pinned)"
            " VALUES ('2026-01-01T00:00:00.000000Z', 'pinned', 'rollback', 1)"
        )
        other.commit()
    authz("agent", "revoke", "ann")
    assert changes(path)[-1]["policyVersion"] == "pinned"


# Mistakes.

LISTS: Final = [("agent",), ("pending",), ("delegation",), ("wallet",), ("fuse",)]


@pytest.mark.parametrize("group", LISTS)
def test_a_list_of_a_database_that_is_not_there_makes_none(group: tuple[str], path: Path) -> None:
    assert authz(*group, "list") == (1, "", f"authz: {path}: there is no audit database yet\n")
    assert not path.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("agent", "revoke", "a"),
        ("agent", "update", "a", "--name", "b"),
        ("pending", "approve", "pdact_x"),
        ("delegation", "issue", "a", "b", "--scope", "x"),
        ("wallet", "reset", "w", "a"),
        ("fuse", "reset", "rel_x"),
    ],
)
def test_a_change_of_a_database_that_is_not_there_makes_none(
    command: tuple[str, ...], path: Path
) -> None:
    assert authz(*command) == (1, "", f"authz: {path}: there is no audit database yet\n")
    assert not path.exists()


@pytest.mark.parametrize(
    "command", [*((*group, "list") for group in LISTS), ("agent", "create", "a")]
)
def test_what_is_no_audit_database_is_a_sentence(command: tuple[str, ...], path: Path) -> None:
    path.write_text("no database" * 1000)
    done = authz(*command)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(
        rf"authz: {path}: (not an audit database|cannot be changed): file is not a database\n",
        done.err,
    )


@pytest.mark.parametrize("command", [("agent", "list"), ("agent", "revoke", "ann")])
def test_a_ledger_that_cannot_be_read_is_named(command: tuple[str, ...], path: Path) -> None:
    registered("ann")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE ledger SET value = '{'")
        other.commit()
    done = authz(*command)
    assert (done.code, done.out) == (1, "")
    assert "its ledger's entry 'agent' 'ann' cannot be read" in done.err
    assert done.err.count("\n") == 1


def test_a_database_that_somebody_else_keeps_locked_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered("ann")
    monkeypatch.setattr(records, "PATIENCE_S", 0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = authz("agent", "revoke", "ann")
        assert (done.code, done.err) == (
            1, f"authz: {path}: cannot be changed: database is locked\n",
        )  # fmt: skip
        assert authz("agent", "show", "ann", "--json").body["status"] == "active"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("agent", "create", ""), 2, "name: must not be empty"),
        (("agent", "create", "a", "--id", "ann"), 1,
         "there is an agent ann already, or was before"),
        (("agent", "create", "a", "--trust", "emperor"), 2,
         "--trust: unknown tier; write one of unverified, basic, verified, trusted, privileged"),
        (("agent", "list", "--trust", "emperor"), 2,
         "--trust: unknown tier; write one of unverified, basic, verified, trusted, privileged"),
        (("agent", "create", "a", "--ttl", "0"), 2, "--ttl: must be between 1 second and 366 days"),
        (("agent", "create", "a", "--output", "policies"), 2,
         "--output: policies is not a regular file"),
        (("agent", "create", "a", "--output", "no/where"), 1,
         "--output: no/where cannot be written: No such file or directory"),
        (("agent", "show", "\x1b[2J"), 1, "there is no agent \\x1b[2J"),
        (("agent", "update", "ann"), 2,
         "nothing to change: give --name, --trust, --tag, --no-tags, --org or --description"),
        (("agent", "update", "ann", "--tag", "x", "--no-tags"), 2,
         "give --tag or --no-tags, not both"),
        (("agent", "revoke", "ann", "--reason", "\n"), 2,
         "reason: not printable text of at most 1024 characters"),
        (("agent", "token", "eve"), 1, "there is no agent eve"),
        (("pending", "list", "--state", "lost"), 2,
         "--state: unknown state; write one of approval, cooling, approved, rejected, executed,"
         " expired"),
        (("pending", "show", "pdact_x"), 1, "there is no pending action pdact_x"),
        (("pending", "reject", "pdact_x", "--reason", "r"), 1,
         "there is no pending action pdact_x"),
        (("delegation", "show", "rel_x"), 1, "there is no relationship rel_x"),
        (("delegation", "chain", "rel_x"), 1, "there is no relationship rel_x"),
        (("delegation", "revoke", "rel_x"), 1, "there is no relationship rel_x"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_and_changes_nothing(
    command: tuple[str, ...], code: int, said: str, path: Path
) -> None:
    registered("ann")
    before = len(changes(path))
    assert authz(*command) == (code, "", f"authz: {said}\n")
    assert len(changes(path)) == before


def test_settings_that_cannot_be_used_are_sentences(tmp_path: Path) -> None:
    assert authz("agent", "list", MODE="loud") == (
        2, "", "authz: MODE: must be enforce, audit or bypass\n",
    )  # fmt: skip
    assert authz("agent", "create", "a", JWT_SECRET="short").code == 2
    (tmp_path / "k.pub").write_text("no key")
    done = authz("delegation", "key", DELEGATION_KEY_FILE=str(tmp_path / "k.key"))
    assert done == (
        2, "", f"authz: DELEGATION_KEY_FILE: {tmp_path}/k.pub: not an Ed25519 public key in PEM\n",
    )  # fmt: skip


def test_the_database_can_be_named(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "deep" / "other.db"
    assert authz("agent", "create", "Ann", "--id", "ann", "--database", other).code == 0
    assert authz("agent", "list", "--database", other, "--json").body["agents"][0]["id"] == "ann"
    assert not path.exists()
    keys = authz("delegation", "key", "--database", other).body["keys"]
    assert [key["crv"] for key in keys] == ["Ed25519"]
    assert other.with_name("other.db.delegation.key").stat().st_mode & 0o777 == 0o600


# On a terminal.


def on_terminal(*arguments: str, typed: str = "") -> tuple[int, str]:
    """A command on a terminal of 80 columns: its exit code, and what is seen there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "authz", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        env=env,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed.encode())
    seen = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as stream:  # noqa: PTH123
        while part := stream.read(4096):
            seen += part
    return process.wait(), seen.decode().replace("\r\n", "\n")


def test_tables_fit_on_a_terminal_of_80_columns(sidecar: Sidecar) -> None:
    long = "a-name-that-goes-on-and-on-"
    registered(f"{long}1", f"{long}2")
    made = delegated(f"{long}1", f"{long}2")
    for _ in range(fuse.FAILURES):
        sidecar.ask(f"{long}2", "write:x", delegation=made)
    pending_id = sidecar.asked_for(f"{long}1", "pay:an-action-with-a-name-that-goes-on-and-on")
    sidecar.ask(f"{long}1", "read:dear")
    for group, whole in (
        ("agent", "verified  active"),
        ("pending", pending_id),
        ("delegation", made),
        ("fuse", made),
        ("wallet", "points"),
    ):
        code, seen = on_terminal(group, "list")
        assert code == 0, seen
        assert max(map(len, seen.splitlines())) <= 80
        assert whole in seen


@pytest.mark.parametrize(
    ("options", "typed", "code", "status"),
    [
        ((), "n\n", 1, "active"),
        ((), "y\n", 0, "revoked"),
        (("--yes",), "", 0, "revoked"),
    ],
)
def test_a_person_is_asked_before_an_agent_is_revoked(
    options: tuple[str, ...], typed: str, code: int, status: str
) -> None:
    registered("ann")
    done, seen = on_terminal("agent", "revoke", "ann", *options, typed=typed)
    assert done == code, seen
    assert ("Revoke agent ann for ever? [y/N]:" in seen) is (not options)
    assert authz("agent", "show", "ann", "--json").body["status"] == status


@pytest.mark.parametrize("group", ["agent", "pending", "delegation", "wallet", "fuse"])
def test_every_command_has_json_and_help(group: str) -> None:
    listed = authz(group, "--help").out
    commands = re.findall(r"^│ ([a-z]+) ", listed, re.MULTILINE)
    assert "list" in commands
    for command in commands:
        assert "--json" in authz(group, command, "--help").out
