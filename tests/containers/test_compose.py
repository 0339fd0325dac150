"""The compose files as they are shipped, brought up for real.

Each ends with its agent's own verdict: 0 where all that it saw is what it expected, in the mode
that the sidecar says it is in.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.containers import engine
from tests.e2e.sidecar import free_port

#: linux/sockios.h: the address of an interface.
_SIOCGIFADDR: Final = 0x8915
#: Seconds that a command may take: the images' layers are there, or an agent's are installed.
PATIENCE_S: Final = 200


class Project:
    """One project of compose: a file, and labels by which what it makes is found again.

    Held to a quarter of a processor, and looked at every other second, it would take a minute and
    show the same; what it does under its limits is looked at in `test_load`.
    """

    def __init__(self, name: str, file: Path, directory: Path) -> None:
        self.name = name
        self._files = (file, directory / "more.json")
        said = yaml.safe_load(file.read_text())
        made = {
            kind: {name: {"labels": engine.LABELS} for name in said.get(kind, {})}
            for kind in ("services", "volumes", "networks")
        }
        for service, extra in made["services"].items():
            extra.update(_hurried(said["services"][service]))
        self._files[1].write_text(json.dumps(made))
        self.port = free_port()

    def compose(self, *arguments: str, code: int = 0, **env: str) -> str:
        """What a command prints to stdout."""
        files = [word for file in self._files for word in ("--file", str(file))]
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, *files, *arguments],
            # Relative paths are those of the first file.
            cwd=engine.ROOT,
            # Other tests have the processors, too.
            env=os.environ | {"DECISION_TIMEOUT_MS": "10000", "NO_COLOR": "1"} | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == code, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    def up(self, *agents: str) -> dict[str, str]:
        """Bring everything up, and wait for the agents, which end with 0; what each printed."""
        # `--abort-on-container-exit` would be another way, but only one agent is waited for then.
        self.compose("up", "--no-build", "--detach", PUBLISHED_PORT=str(self.port))
        return {agent: self._ended(agent) for agent in agents}

    def again(self, agent: str) -> str:
        """Run an agent once more."""
        return self.compose("run", "--rm", "-T", "--no-deps", agent)

    def trail(self, sidecar: str) -> list[dict[str, Any]]:
        """The rows of a sidecar, which is running, and that they verify."""
        said = self.inside(sidecar, "authz", "audit", "verify")
        assert said.endswith("the trail verifies\n")
        lines = self.inside(sidecar, "authz", "--json", "audit", "query", "--limit", "1000")
        return [json.loads(line) for line in lines.splitlines()]

    def inside(self, service: str, *command: str) -> str:
        """What a command prints in a running container."""
        return self.compose("exec", "-T", service, *command)

    def _ended(self, service: str) -> str:
        mine = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        [container] = engine.client().containers.list(all=True, filters={"label": mine})
        code = container.wait(timeout=PATIENCE_S)["StatusCode"]
        said: Any = container.logs()
        log = str(said.decode())
        assert code == 0, log
        return log


def _hurried(service: dict[str, Any]) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if "cpus" in service:
        more["cpus"] = 2
    if "healthcheck" in service:
        more["healthcheck"] = {"interval": "300ms", "retries": 200}
    return more


def _build_agent() -> None:
    """The agents' image: of its own files, and so with the builder's cache."""
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", "authz-agent:local", engine.ROOT / "deploy/agent"],
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=PATIENCE_S,
    )


@contextlib.contextmanager
def _project(image: str, file: str, directory: Path) -> Iterator[Project]:
    # Under the name that the files have for it.
    engine.client().images.get(image).tag("authz-sidecar", "local")
    project = Project(f"authz-tests-{secrets.token_hex(4)}", engine.ROOT / file, directory)
    try:
        _build_agent()
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "5")


def _is_on(project: Project, network: str) -> bool:
    """Whether the engine's machine has an address on a network of the project (netdevice(7))."""
    [found] = engine.client().networks.list(names=[f"{project.name}_{network}"], greedy=True)
    asked = struct.pack("256s", f"br-{str(found.id)[:12]}".encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCGIFADDR, asked)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise  # there is no such bridge
    return True


def test_one_agent_and_its_sidecar_in_both_modes(image: str, tmp_path: Path) -> None:
    with _project(image, "compose.yaml", tmp_path) as project:
        enforced = project.up("agent")["agent"]
        assert "  ALLOW      code-review-policy" in enforced
        assert "  DENY       code-review-policy" in enforced
        assert "AUDIT-ONLY" not in enforced
        assert "All of it as expected in mode enforce." in enforced
        # It was made up, is said to be, and is not the agent's.
        service = project.compose("logs", "--no-log-prefix", "service")
        assert "JWT_SECRET and ADMIN_TOKEN not set: made up for trying things out" in service
        made_up = json.loads(project.inside("service", "cat", "/run/authz/dev-secrets.json"))
        switched = httpx.put(
            f"http://127.0.0.1:{project.port}/admin/mode",
            headers={"Authorization": f"Bearer {made_up['ADMIN_TOKEN']}"},
            json={"mode": "audit"},
        )
        assert switched.status_code == 200, switched.text
        audited = project.again("agent")
        assert "  AUDIT-ONLY code-review-policy" in audited
        assert "All of it as expected in mode audit." in audited
        rows = project.trail("service")
        proxied = [row for row in rows if row["source"] == "proxy"]
        assert {(row["decision"], row["enforced"], row["mode"]) for row in proxied} == {
            ("allow", "allow", "enforce"),
            ("deny", "deny", "enforce"),
            ("allow", "allow", "audit"),
            ("deny", "allow", "audit"),
        }
        assert {row["agentId"] for row in proxied} == {"code-reviewer"}
        # Nor is the machine in reach, with all that it serves on every address.
        assert (_is_on(project, "upstreams"), _is_on(project, "agents")) == (True, False)


def test_two_agents_with_a_sidecar_each(image: str, tmp_path: Path) -> None:
    agents = ("code-reviewer", "summarizer")
    with _project(image, "compose.multi-agent.yaml", tmp_path) as project:
        for agent, said in project.up(*agents).items():
            assert f"I am {agent}." in said
            assert "  ALLOW  " in said
            assert "  DENY  " in said
            assert "All of it as expected in mode enforce." in said
        for agent, other in (agents, agents[::-1]):
            rows = project.trail(f"{agent}-sidecar")
            proxied = {
                (row["agentId"], row["decision"]) for row in rows if row["source"] == "proxy"
            }
            # The other one tried, too, and was refused.
            assert {(agent, "allow"), (agent, "deny")} <= proxied
            assert (other, "allow") not in proxied
            assert any(row["code"] == "token_wrong_agent" for row in rows)
        assert not _is_on(project, "mesh")
