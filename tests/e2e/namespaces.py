"""A pod and the world in two network namespaces, joined by a wire. Needs root and iproute2 (Linux).

The world has servers that say who they are and write down whatever reaches them, and a DNS server.
"""

import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.certificates import self_signed
from tests.e2e.sidecar import PATIENCE_S, wait_until

AGENT_UID: Final = 20_001
#: A user without any capability, and without a way to get one.
_AS_AGENT: Final = (
    "setpriv", f"--reuid={AGENT_UID}", f"--regid={AGENT_UID}", "--clear-groups",
    "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
)  # fmt: skip
#: The world's addresses: two hosts, and where clouds keep their credentials.
GOOD, EVIL, METADATA = "10.77.0.2", "10.77.0.3", "169.254.169.254"
GOOD6, EVIL6 = "fd77::2", "fd77::3"
#: What the world's DNS says.
NAMES: Final[Mapping[str, Sequence[str]]] = {
    "good.test": (GOOD, GOOD6),
    "evil.test": (EVIL, EVIL6),
    # Its owner says one address to be looked at, and another one to be connected to.
    "two.test": (EVIL, METADATA),
    "metadata.test": (METADATA,),
    "home.test": ("127.0.0.1", "::1"),
}


def usable() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "setpriv", "iptables-nft", "ip6tables-nft"):
        if shutil.which(program) is None:
            return f"network namespaces need {program}"
    if not _agents_python():
        return "network namespaces need a Python that another user can run"
    name = f"authz-probe-{secrets.token_hex(4)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces cannot be made here"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


@functools.cache
def _agents_python() -> str:
    """A Python that the agent can run: ours may lie where only its owner can look."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [*_AS_AGENT, candidate, "-c", "import ssl"]
        if not subprocess.run(command, capture_output=True, check=False, cwd="/").returncode:
            return candidate
    return ""


@dataclass
class Pod:
    """Two namespaces."""

    name: str
    world: str
    directory: Path

    def command(self, *arguments: str, as_agent: bool = False) -> list[str]:
        """A command as it is run in the pod."""
        return ["ip", "netns", "exec", self.name, *(_AS_AGENT if as_agent else ()), *arguments]

    def run(
        self, *arguments: str, as_agent: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments, as_agent=as_agent), capture_output=True, text=True,
            check=False, timeout=PATIENCE_S, env={"PATH": os.environ["PATH"], **env}, cwd="/",
        )  # fmt: skip

    def agent(self, *arguments: str) -> dict[str, Any]:
        """What the agent gets when it tries (`agent_tries`)."""
        script = str(self.directory / "agent_tries.py")
        done = self.run(_agents_python(), script, *arguments, as_agent=True)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    @contextlib.contextmanager
    def agent_at(self, *arguments: str) -> Iterator[None]:
        """The agent is at it until the block ends (`agent_tries`)."""
        script = str(self.directory / "agent_tries.py")
        process = subprocess.Popen(
            self.command(_agents_python(), script, *arguments, as_agent=True),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd="/", env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        try:
            yield
        finally:
            process.communicate(timeout=PATIENCE_S)

    def arrived(self) -> list[dict[str, Any]]:
        """What has reached the world so far, oldest first, DNS queries not among it."""
        lines = (self.directory / "arrived").read_text().splitlines()
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def pod() -> Iterator[Pod]:
    """Both, with what is in the world; nothing is captured yet."""
    # Unix socket paths are short, and another user reads it.
    directory = Path(tempfile.mkdtemp(prefix="authz-"))
    directory.chmod(0o755)
    # Names of interfaces have 15 characters.
    mark = secrets.token_hex(4)
    here = Pod(f"authz-pod-{mark}", f"authz-world-{mark}", directory)
    etc = Path("/etc/netns") / here.name
    process: subprocess.Popen[str] | None = None
    try:
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(f"nameserver {GOOD}\noptions timeout:1 attempts:1\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n")
        _wire(here, f"ap{mark}", f"aw{mark}")
        (directory / "arrived").touch()
        shutil.copy(Path(__file__).with_name("agent_tries.py"), directory)
        certificate, key = self_signed(directory)
        script = Path(__file__).with_name("world_serves.py")
        with (directory / "world.log").open("w") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", here.world, sys.executable, str(script), str(certificate),
                 str(key), str(directory / "arrived"), json.dumps(NAMES)],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", (directory / "world.log").read_text()
        yield here
    finally:
        if process is not None:
            process.kill()
            process.communicate()
        for name in (here.name, here.world):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        shutil.rmtree(etc, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


def _wire(here: Pod, inside: str, outside: str) -> None:
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    for name in (here.name, here.world):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", inside, "netns", here.name, "type", "veth", "peer", "name", outside,
       "netns", here.world)  # fmt: skip
    for name, wire, addresses in (
        (here.name, inside, ("10.77.0.1/24", "fd77::1/64")),
        (here.world, outside, (f"{GOOD}/24", f"{EVIL}/24", f"{METADATA}/32", f"{GOOD6}/64",
                               f"{EVIL6}/64")),
    ):  # fmt: skip
        for address in addresses:
            # Without waiting for duplicates to be looked for, an IPv6 address is there at once.
            nodad = ("nodad",) if ":" in address else ()
            ip("-n", name, "address", "add", address, "dev", wire, *nodad)
        ip("-n", name, "link", "set", wire, "up")
    ip("-n", here.name, "route", "add", "default", "via", GOOD)
    ip("-n", here.name, "route", "add", "default", "via", GOOD6)


@contextlib.contextmanager
def sidecar(here: Pod, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`authz run` in the pod until the block ends."""
    log = here.directory / "stderr"
    with log.open("w") as err:
        process = subprocess.Popen(
            here.command(sys.executable, "-m", "authz", "run"),
            cwd=here.directory, env={**env, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, text=True,
        )  # fmt: skip
    try:
        wait_until(
            lambda: "CAPTURE_PORT: listening" in log.read_text() or process.poll() is not None,
            "the sidecar to listen",
        )
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
