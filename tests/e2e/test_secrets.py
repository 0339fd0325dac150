"""One sidecar with everything on, at debug level, is sent secrets wherever there is room for one.

What it logs, records, answers and shows of its processes has none of them. That of every other
sidecar of the suite is searched as well, when it stops (`tests/leaks.py`).
"""

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from authz.core.timestamps import rfc3339
from authz.unix_http import UnixConnection
from tests import leaks
from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, Sidecar, bearer, children, free_port, token
from tests.leaks import Leak

POLICY: Final = """
name: all-of-it
version: "1.0"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: deny, actions: ["delete:*"], reason: not that}
  - {effect: require_approval, actions: ["pay:*"]}
  - {effect: allow, actions: ["token:*"], requireActionToken: true}
  - {effect: allow, actions: ["*"]}
defaultEffect: deny
"""
ADMIN: Final = {"X-Admin-Token": ADMIN_TOKEN}
UPSTREAM_KEY: Final = "sk-upstream-4d1f6a90c2"
#: What is sent, by where.
SENT: Final = {
    "the query": "query-6f0b2a7c55",
    "the body": "body-0c93e1f7aa",
    "a cookie": "cookie-7be2c4d910",
    "a credential of the upstream": "sk-per-request-93bd04",
    "a wrong admin token": "wrong-admin-51c8e7f3",
    "a password for a proxy": "proxy-password-88e1",
    "an agent's API key": "api-key-2f6c0d81e4",
    "a header of the agent's": "custom-header-e07f45",
    "a broken token": "no-token-at-all-3bc7",
    "a password in a URL": "url-password-94ad2c",
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "all.yaml").write_text(POLICY)
    with (
        upstreams.serving() as upstream,
        starter.running(
            upstream,
            POLICIES_DIR=str(folder),
            LOG_LEVEL="debug",
            LOG_FORMAT="json",
            ACCESS_LOG="json",
            ACCESS_LOG_PROBES="true",
            METRICS_ENABLED="true",
            DESTRUCTIVE_GATE="true",
            INTENT_VERIFICATION="warn",
            FORWARD_PROXY_PORT=str(free_port()),
            FORWARD_DENY_CIDRS="169.254.0.0/16",
            SIDECAR_AGENT_ID="reviewer-1",
            PROXY_AUTHORIZATION=f"Bearer {UPSTREAM_KEY}",
        ) as sidecar,
    ):
        yield sidecar


def secrets(sidecar: Sidecar) -> dict[str, str]:
    """All that must not be found."""
    own = leaks.secrets_of(sidecar.env, sidecar.directory)
    assert {own["JWT_SECRET"], own["ADMIN_TOKEN"], own["PROXY_AUTHORIZATION"]} == {
        JWT_SECRET, ADMIN_TOKEN, UPSTREAM_KEY,
    }  # fmt: skip
    return own | SENT


def search(sidecar: Sidecar) -> None:
    """Every file of its directory, and what its processes are started with."""
    files = [
        (str(file), file.read_bytes())
        for file in sidecar.directory.rglob("*")
        if file.is_file() and file.suffix != ".key"
    ]
    names = {Path(name).name for name, _ in files}
    assert {"stderr", "stdout", "audit.db", "audit.db-wal"} <= names
    arguments = [
        (f"the arguments of process {pid}", " ".join(argv).encode())
        for pid, argv in children(sidecar.process.pid)
    ]
    assert len(arguments) >= 2
    leaks.look([*files, *arguments], secrets(sidecar))


def drive(sidecar: Sidecar) -> None:
    """Requests of all kinds, with a secret wherever there is room for one."""
    client, agent = sidecar.client, bearer()
    sent = {
        **agent,
        "Cookie": f"session={SENT['a cookie']}",
        "X-MeshGuard-Upstream-Authorization": f"Bearer {SENT['a credential of the upstream']}",
        "X-Api-Key": SENT["an agent's API key"],
        "X-Custom": SENT["a header of the agent's"],
    }
    query = {"key": SENT["the query"], "token": token(agent_id="somebody")}
    body = {"password": SENT["the body"]}
    for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS"):
        client.request(method, "/proxy/docs/x", headers=sent, params=query)
    for action in ("read:x", "pay:x", "delete:x", "token:x"):
        named = {**sent, "X-MeshGuard-Action": action}
        client.get("/proxy/check", headers=named, params=query)
        client.post("/proxy/docs/x", headers=named, json=body, params=query)
    client.post(
        "/api/v1/governance/batch", headers=sent, params=query,
        json={"actions": [{"action": "read:a"}, {"action": "delete:a"}]},
    )  # fmt: skip
    client.post("/api/v1/action-tokens", headers=sent, json={"action": "token:x"})
    bad = SENT["a broken token"]
    basic = base64.b64encode(f"u:{bad}".encode()).decode()
    tokens = [f"{token()}x", token(now=time.time() - 7200), bad]
    for credential in (*(f"Bearer {one}" for one in tokens), bad, f"Basic {basic}"):
        client.get("/proxy/docs", headers={"Authorization": credential})
        client.get("/proxy/check", headers={"X-MeshGuard-Action-Token": credential, **agent})
        client.get("/proxy/check", headers={"X-MeshGuard-Delegation": credential, **agent})
    # What Envoy refuses itself.
    client.get("/proxy/a%2Fb", headers=sent, params=query)
    client.get("/proxy/x", headers={**sent, "under_score": SENT["a header of the agent's"]})
    client.post("/proxy/check", json={"agentId": "reviewer-1", "action": "read:x", **body},
                headers={"X-API-Key": token()})  # fmt: skip


def administer(client: httpx.Client) -> dict[str, Any]:
    """What an administrator does, and somebody who is none; an agent that was made, its token."""
    wrong = SENT["a wrong admin token"]
    for headers in ({"X-Admin-Token": wrong}, {"Authorization": f"Bearer {wrong}"}, bearer(), {}):
        client.get("/admin/agents", headers=headers, params={"key": SENT["the query"]})
        client.put("/admin/mode", headers=headers, json={"mode": "bypass"})
    made: dict[str, Any] = client.post(
        "/admin/agents", headers=ADMIN, json={"name": "made", "tags": ["x"]}
    ).json()
    client.post(f"/admin/agents/{made['id']}/token", headers=ADMIN)
    client.get("/proxy/check", headers={"Authorization": f"Bearer {made['token']}",
                                        "X-MeshGuard-Action": "read:x"})  # fmt: skip
    for waiting in client.get("/admin/pending", headers=ADMIN).json()["pending"]:
        client.post(f"/admin/pending/{waiting['pendingId']}/approve", headers=ADMIN,
                    json={"approver": "ann"})  # fmt: skip
    client.post("/admin/policies/validate", headers=ADMIN, json={"secret": SENT["the body"]})
    terms: dict[str, Any] = {"targetAgentId": "another", "scope": ["read:*"]}
    terms["expiresAt"] = rfc3339(time.time() + 600)
    client.post("/relationships", headers=bearer(), json=terms).raise_for_status()
    client.delete(f"/admin/agents/{made['id']}", headers=ADMIN)
    return made


def outward(sidecar: Sidecar) -> None:
    """By the forward proxy, with a password for it and one in the URL."""
    password = SENT["a password for a proxy"]
    proxy = f"http://u:{password}@127.0.0.1:{sidecar.env['FORWARD_PROXY_PORT']}"
    target = sidecar.upstream.url.replace("://", f"://u:{SENT['a password in a URL']}@")
    with httpx.Client(proxy=proxy, timeout=starter.PATIENCE_S) as client:
        client.get(f"{target}/x", params={"key": SENT["the query"]})


def test_nothing_of_what_it_is_sent_is_left_anywhere(everything: Sidecar) -> None:
    drive(everything)
    made = administer(everything.client)
    outward(everything)
    starter.wait_until(lambda: "/proxy/docs/x" in everything.out(), "the access log")
    assert len(everything.rows()) > 20
    done = {row["action"].partition(":")[0] for row in everything.rows(control=True)}
    assert {"agent", "pending", "relationship"} <= done
    assert everything.client.get("/admin/log-level", headers=ADMIN).json()["level"] == "debug"
    search(everything)
    leaks.answered(everything.client, everything.env, everything.directory)
    # That there would be something to find: the tokens that were made up look like tokens.
    assert leaks.TOKEN.search(made["token"].encode())


def test_a_secret_that_is_logged_is_found(everything: Sidecar) -> None:
    planted = everything.directory / "data"
    planted.mkdir(exist_ok=True)
    file = planted / "planted.log"
    try:
        for secret in (JWT_SECRET, SENT["the body"], token()):
            file.write_text(f"level=debug headers={secret}\n")
            with pytest.raises(Leak, match=r"planted\.log"):
                search(everything)
    finally:
        file.unlink()


def test_every_line_is_an_event_with_the_same_members(everything: Sidecar) -> None:
    components = set()
    for line in everything.log().splitlines():
        event = json.loads(line)
        assert {"timestamp", "level", "component", "logger", "event"} <= event.keys(), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
        assert event["level"] in ("debug", "info", "warning", "error", "critical")
        assert "__main__" not in event["logger"]
        components.add(event["component"])
    assert components == {"run", "authz", "envoy"}


def test_the_level_is_changed_for_envoy_too_and_never_to_its_debug(everything: Sidecar) -> None:
    def envoys() -> set[str]:
        connection = UnixConnection(everything.run_dir / "envoy-admin.sock")
        connection.request("POST", "/logging")
        said = connection.getresponse().read().decode()
        connection.close()
        found = dict(re.findall(r"^\s+(\w+): (\w+)$", said, re.MULTILINE))
        assert found.pop("misc") == "error"
        return set(found.values())

    for level, envoy in (("error", "error"), ("info", "warning"), ("debug", "info")):
        answer = everything.client.put("/admin/log-level", headers=ADMIN, json={"level": level})
        assert answer.json()["level"] == level
        assert answer.json()["note"] == "it lasts until a restart"
        assert envoys() == {envoy}
    # The command does the same.
    done = subprocess.run(
        [sys.executable, "-m", "authz", "log-level", "warning", "--json"],
        env=everything.env, cwd=everything.directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["level"] == "warning"
    assert envoys() == {"warning"}
    changes = [row["action"] for row in everything.rows(control=True)]
    assert [one for one in changes if one.startswith("log-level:")] == [
        "log-level:error", "log-level:info", "log-level:debug", "log-level:warning",
    ]  # fmt: skip
    assert "the log level was changed from debug to error" in everything.log()
