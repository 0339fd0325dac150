"""A pod of service and Envoy, each in a container, with an agent beside them.

Its policies and its mode come from ConfigMaps, which change while it runs.
"""

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.containers.configmap import ConfigMap
from tests.containers.pods import PORT, UID, Pod, pod, until
from tests.e2e.load import Client
from tests.e2e.sidecar import SAMPLE_POLICIES, bearer, token

SAMPLE = (SAMPLE_POLICIES / "code-review.yaml").read_text()
#: The same agents, and nothing is allowed them.
CLOSED = """\
name: closed
version: "1"
appliesTo: {tags: [code-review]}
rules: [{effect: deny, actions: ["*"]}]
defaultEffect: deny
"""
CLIENTS = 4

#: What an agent does that knows the address of its sidecar and its own token; stdlib alone.
AGENT = """
import json, os, pathlib, socket, urllib.error, urllib.request

def ask(method, path, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["Authorization"] = "Bearer " + os.environ["AGENT_TOKEN"]
    request = urllib.request.Request(os.environ["SIDECAR"] + path, headers=headers, method=method)
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    said = [answer.headers["x-meshguard-" + name] for name in ("decision", "trace-id")]
    return [answer.status, *said]

said = {
    "read": ask("GET", "/proxy/docs", X_MeshGuard_Trace_ID=os.environ["TRACE"] + "-read"),
    "delete": ask(
        "DELETE", "/proxy/docs",
        X_MeshGuard_Action="write:delete", X_MeshGuard_Trace_ID=os.environ["TRACE"] + "-delete",
    ),
    "uid": os.getuid(),
    "there": list(filter(os.path.exists, ("/run/authz/ext_authz.sock", "/data/audit.db"))),
    "policies": sorted(os.listdir("/policies")) if os.access("/policies", os.R_OK) else None,
    # Of another pid namespace: nothing of the sidecar's can be signalled or read.
    "processes": [entry.name for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()],
    # What listens in the pod's namespace, and so can be reached by the agent.
    "ports": sorted({
        int(line.split()[1].rpartition(":")[2], 16)
        for line in open("/proc/net/tcp").read().splitlines()[1:] if line.split()[3] == "0A"
    }),
    "abstract": [line for line in open("/proc/net/unix").read().splitlines() if "@" in line],
}
print(json.dumps(said))
"""


@dataclass
class Live:
    """The pod and its ConfigMaps."""

    pod: Pod
    policies: ConfigMap
    mode: ConfigMap

    def version(self) -> str:
        return str(self.pod.client.get("/ready").json().get("policyVersion"))

    def switch(self, mode: str) -> None:
        """Change the mode, and wait until it is in force."""
        self.mode.put({"MODE": f"{mode}\n"})
        until(lambda: self.pod.client.get("/").json()["mode"] == mode, f"mode {mode}")

    def apply(self, policy: str) -> None:
        """Change the policies, and wait until they are in force."""
        before = self.version()
        self.policies.put({"policy.yaml": policy})
        until(lambda: self.version() != before, "the policies")


@pytest.fixture(scope="module")
def shared(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path = tmp_path_factory.mktemp("maps")
    policies = ConfigMap(path / "policies", {"policy.yaml": SAMPLE})
    # It starts in audit mode, of which Envoy's own configuration knows nothing.
    mode = ConfigMap(path / "mode", {"MODE": "audit\n"})
    mounts: dict[str, str] = {
        str(policies.path): "/policies:ro",
        str(mode.path): "/etc/authz/mode:ro",
    }
    with pod(image, "serve", mounts=mounts, MODE_FILE="/etc/authz/mode/MODE") as one:
        live = Live(one, policies, mode)
        assert one.client.get("/").json()["mode"] == "audit"
        yield live


@pytest.fixture
def live(shared: Live) -> Live:
    """The pod in enforce mode, with the sample's policy."""
    shared.switch("enforce")
    if (shared.policies.path / "policy.yaml").read_text() != SAMPLE:
        shared.apply(SAMPLE)
    return shared


def test_an_agent_in_the_pod_is_allowed_denied_and_recorded(live: Live) -> None:
    hits, trace = live.pod.hits(), secrets.token_hex(8)
    env = {"SIDECAR": f"http://127.0.0.1:{PORT}", "AGENT_TOKEN": token(), "TRACE": trace}
    ended = live.pod.agent("-c", AGENT, env=env)
    assert ended.code == 0, ended.log
    said = json.loads(ended.log)
    assert said["read"] == [200, "allow", f"{trace}-read"]
    assert said["delete"] == [403, "deny", f"{trace}-delete"]
    assert live.pod.hits() == hits + 1
    assert [
        (row["trace_id"], row["agent_id"], row["action"], row["decision"], row["enforced"])
        for row in live.pod.rows()[-2:]
    ] == [
        (f"{trace}-read", "reviewer-1", "read:docs", "allow", "allow"),
        (f"{trace}-delete", "reviewer-1", "write:delete", "deny", "deny"),
    ]
    # It is somebody else, and has nothing of the sidecar's but the port.
    assert said["uid"] != UID
    assert said["there"] == []
    assert said["policies"] is None
    assert said["processes"] == ["1"]
    assert said["ports"] == [PORT, 8080]
    assert said["abstract"] == []


def test_the_two_share_sockets_and_nothing_else(live: Live) -> None:
    service, envoy = live.pod.boxes["service"], live.pod.boxes["envoy"]
    program = (
        "import json, os; print(json.dumps({name: os.stat('/run/authz/' + name).st_mode & 0o777"
        " for name in os.listdir('/run/authz') if name.endswith('.sock')}))"
    )
    seen = json.loads(envoy.python(program))
    assert seen == json.loads(service.python(program))
    assert {"ext_authz.sock", "http.sock"} <= set(seen)
    assert all(mode & 0o007 == 0 for mode in seen.values()), seen
    envoy.exec("test", "!", "-e", "/data/audit.db")
    # Envoy reads requests of agents: it holds no secret that makes a token.
    assert not [one for one in envoy.container.attrs["Config"]["Env"] if "SECRET" in one]


def test_policies_are_swapped_in_place_and_no_request_is_lost(live: Live) -> None:
    """As a ConfigMap is. Each answer is of one version or of the other, and has its row."""
    started = [live.pod.service.id, live.pod.boxes["envoy"].id]
    rows = len(live.pod.rows())
    statuses = asyncio.run(_asked_while(live, (CLOSED, SAMPLE) * 3))
    assert set(statuses) == {200, 403}
    assert len(live.pod.rows()) == rows + len(statuses)
    recorded = [row["enforced"] for row in live.pod.rows()[rows:]]
    assert (recorded.count("allow"), recorded.count("deny")) == (
        statuses.count(200), statuses.count(403),
    )  # fmt: skip
    for name, box in live.pod.boxes.items():
        state = box.state()
        assert (state["Running"], box.container.attrs["RestartCount"]) == (True, 0), name
    assert started == [live.pod.service.id, live.pod.boxes["envoy"].id]


async def _asked_while(live: Live, policies: tuple[str, ...]) -> list[int]:
    stop = asyncio.Event()
    statuses: list[int] = []

    async def ask() -> None:
        client = Client(live.pod.port)
        try:
            while not stop.is_set():
                reply = await client.ask("/proxy/docs", bearer())
                assert reply is not None
                statuses.append(reply.status)
        finally:
            await client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(ask())
        for policy in policies:
            await asyncio.to_thread(live.apply, policy)
        stop.set()
    return statuses


def test_a_bad_policy_changes_nothing_and_is_told_of(live: Live) -> None:
    before = live.version()
    live.policies.put({"policy.yaml": "name: broken\nrules: [\n"})
    until(
        lambda: live.pod.client.get("/health").json()["checks"]["policies"] != "ok",
        "the complaint",
    )
    assert live.version() == before
    assert live.pod.client.get("/proxy/docs", headers=bearer()).status_code == 200
    assert "policy.yaml:" in live.pod.service.log()
    live.policies.put({"policy.yaml": SAMPLE})
    until(
        lambda: live.pod.client.get("/health").json()["checks"]["policies"] == "ok", "a good health"
    )


def test_the_mode_is_changed_in_place_and_envoy_follows(live: Live) -> None:
    """Who is denied in enforce mode is let through in audit mode, also where nobody decides."""

    def status() -> int:
        return live.pod.client.delete("/proxy/docs", headers=bearer()).status_code

    assert status() == 403
    live.switch("audit")
    assert status() == 200
    last = live.pod.rows()[-1]
    assert (last["decision"], last["enforced"], last["mode"]) == ("deny", "allow", "audit")
    # Envoy has been told by a file, which it reads by itself: only a dead service shows that.
    live.pod.service.kill()
    try:
        until(lambda: status() == 200, "Envoy to let through what nobody decides")
    finally:
        live.pod.service.start()
    live.pod.until_answering()
    assert status() == 200
    live.switch("enforce")
    assert status() == 403
    hits = live.pod.hits()
    live.pod.service.kill()
    try:
        until(lambda: status() == 503, "Envoy to refuse what nobody decides")
        assert live.pod.hits() == hits
    finally:
        live.pod.service.start()
    live.pod.until_answering()
    assert status() == 403
    assert [row["action"] for row in live.pod.rows(control=True) if "mode:" in row["action"]][
        -2:
    ] == ["mode:audit", "mode:enforce"]


def test_a_file_without_a_mode_leaves_it_as_it_is(live: Live) -> None:
    live.mode.put({"MODE": "bypassed\n"})
    until(
        lambda: "mode" in live.pod.client.get("/health").json()["checks"],
        "the complaint",
    )
    assert live.pod.client.delete("/proxy/docs", headers=bearer()).status_code == 403
