"""The pods of deploy/rendered, run as they are: they decide, and follow their ConfigMaps."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.containers.kubelet import Pod, running
from tests.containers.pods import ECHO_PORT, until
from tests.deploy.objects import read
from tests.deploy.render import RENDERED
from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, token

#: One container and two, plain and native, by helm and by kustomize, with each kind of probe.
PODS: Final = ["helm-loopback", "kustomize-two-container-native"]

#: What an agent does, with nothing but what its variables say.
_ASK: Final = """
import json, os, sys, urllib.error, urllib.request
request = urllib.request.Request(
    os.environ["API_BASE_URL"] + "/docs",
    headers={
        "Authorization": "Bearer " + os.environ["MESHGUARD_AGENT_TOKEN"],
        "X-MeshGuard-Action": sys.argv[1],
    },
)
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(json.dumps([answer.status, dict(answer.headers)]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, json.load(error)]))
"""

#: What it can see of the sidecar: its sockets, files, processes, and whether it can become it.
_LOOK: Final = """
import json, os, pathlib
found = [str(p) for d in ("/run/authz", "/data", "/policies", "/etc/authz")
         if os.access(d, os.X_OK) for p in pathlib.Path(d).rglob("*")]
processes = [p.name for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines)
print(json.dumps({
    "files": found,
    "others": [p for p in processes if p not in ("1", str(os.getpid()))],
    "uid": os.getuid(),
    "capabilities": int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"],
    "secrets": [name for name in os.environ if name in ("JWT_SECRET", "ADMIN_TOKEN")],
}))
"""


#: What it tries past the sidecar: another host by TLS, and a datagram, which nobody could judge.
_PAST: Final = """
import json, socket, ssl, sys
said = {}
try:
    context = ssl.create_default_context()
    with socket.create_connection((sys.argv[1], 443), 10) as raw:
        context.wrap_socket(raw, server_hostname="api.example.com")
    said["tls"] = "there"
except OSError as error:
    said["tls"] = type(error).__name__
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
    try:
        datagram.sendto(b"x", (sys.argv[1], 9))
        said["udp"] = "sent"
    except OSError as error:
        said["udp"] = type(error).__name__
print(json.dumps(said))
"""


def _asks(pod: Pod, action: str) -> tuple[int, dict[str, Any]]:
    status, answer = json.loads(pod.exec("agent", "python", "-c", _ASK, action))
    return status, answer


def _running(name: str, image: str, directory: Path) -> AbstractContextManager[Pod]:
    return running(
        read(RENDERED / f"{name}.yaml"),
        image,
        directory,
        secrets={
            "authz-secrets": {"jwt-secret": JWT_SECRET, "admin-token": ADMIN_TOKEN},
            "code-reviewer-token": {"token": token(agent_id="code-reviewer")},
        },
        settings={"PROXY_TARGET": f"http://127.0.0.1:{ECHO_PORT}"},
        agent=["sleep", "600"],
    )


def _decisions(pod: Pod) -> list[tuple[str, str, str]]:
    """Action, mode and code of each row of the trail."""
    lines = pod.exec("authz", "authz", "--json", "audit", "tail").splitlines()
    return [(row["action"], row["mode"], row["code"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_comes_up_and_governs_its_agent(name: str, image: str, tmp_path: Path) -> None:
    with _running(name, image, tmp_path) as pod:
        manifest = pod.manifest
        pod.wait(manifest.front["name"], "readinessProbe")
        pod.wait("authz", "livenessProbe")

        assert _asks(pod, "read:docs")[0] == 200
        status, denial = _asks(pod, "write:delete")
        assert (status, denial["policy"]) == (403, "code-review-policy")

        seen = json.loads(pod.exec("agent", "python", "-c", _LOOK))
        assert seen == {
            "files": [],
            "others": [],
            "uid": 10002,
            "capabilities": 0,
            "no_new_privileges": "1",
            "secrets": [],
        }

        # No restart: the ConfigMaps change in place, and the next answers are others.
        pod.maps["mode"].put({"MODE": "audit"})
        until(lambda: _asks(pod, "write:delete")[0] == 200, "audit mode")
        [(file, text)] = manifest.data("code-reviewer-policies").items()
        pod.maps["policies"].put({file: text.replace("write:delete", "write:never")})
        pod.maps["mode"].put({"MODE": "enforce"})
        until(
            lambda: _asks(pod, "write:delete")[1].get("code") == "default_denied", "the new policy"
        )

        decided = _decisions(pod)
        assert ("read:docs", "enforce", "rule_allowed") in decided
        assert ("write:delete", "audit", "rule_denied") in decided
        assert decided[-1] == ("write:delete", "enforce", "default_denied")
        # What an ordinary sidecar's preStop runs.
        assert pod.exec("authz", "sleep", "0") == ""
        for container in pod.containers.values():
            container.reload()
            assert container.status == "running" or not container.attrs["State"]["ExitCode"]


def test_a_captured_agent_cannot_go_round_its_sidecar(image: str, tmp_path: Path) -> None:
    with _running("kustomize-capture", image, tmp_path) as pod:
        pod.wait("authz", "readinessProbe")
        # To its sidecar it speaks as before.
        assert _asks(pod, "read:docs")[0] == 200

        said = json.loads(pod.exec("agent", "python", "-c", _PAST, pod.node))
        assert said["udp"] == "PermissionError"
        assert said["tls"] in ("ConnectionResetError", "SSLEOFError")
        # It was the sidecar that said no, by the name that it asked for.
        decided = ("connect:api.example.com:443", "enforce", "default_denied")
        assert decided in _decisions(pod)
