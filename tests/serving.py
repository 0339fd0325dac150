"""A service without Envoy, as `authz serve` runs it, for tests of whoever talks to its socket."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from authz.core.identity import mint
from tests import leaks

ROOT: Final = Path(__file__).parents[1]
SECRET: Final = "a secret of the tests, with more than 32 characters"
TOKEN: Final = "an admin token of the tests"
#: Seconds that anything may take on a busy machine before a test gives up.
PATIENCE_S: Final = 30.0


class Service:
    """A running service."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process
        self.policies = directory / "policies"
        self.database = directory / "audit.db"
        self.socket = directory / "run" / "http.sock"
        #: What `--gateway` takes.
        self.url = f"unix:{self.socket}"

    def ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """One request, without credentials of its own."""
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://service",
            timeout=PATIENCE_S,
        ) as client:
            return client.request(method, path, **kwargs)

    def check(self, agent: str, action: str, **headers: str) -> int:
        """Let an agent ask whether it may; the status."""
        named = {f"X-MeshGuard-{name.replace('_', '-')}": said for name, said in headers.items()}
        token = mint(SECRET, agent_id=agent, now=time.time(), ttl_s=300)
        asked = {"Authorization": f"Bearer {token}", "X-MeshGuard-Action": action, **named}
        return self.ask("GET", "/proxy/check", headers=asked).status_code


@contextlib.contextmanager
def serving(**files: str) -> Iterator[Service]:
    """A service with these policies, each in a file of that name, until the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="authz-test-"))
    (directory / "policies").mkdir()
    for name, text in files.items():
        (directory / "policies" / f"{name}.yaml").write_text(text)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "JWT_SECRET": SECRET,
        "ADMIN_TOKEN": TOKEN,
        "AUTHZ_RUN_DIR": str(directory / "run"),
        "AUDIT_DB_PATH": str(directory / "audit.db"),
        "POLICIES_DIR": str(directory / "policies"),
    }
    read, write = os.pipe()
    with (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "authz", "serve", "--ready-fd", str(write)],
            env=env, cwd=directory, stderr=stderr, pass_fds=[write],
        )  # fmt: skip
    os.close(write)
    try:
        # Nothing comes where it ends before it is ready.
        assert os.read(read, 1), (directory / "stderr").read_text()
        yield Service(directory, process)
    finally:
        os.close(read)
        process.terminate()
        process.wait(PATIENCE_S)
        try:
            leaks.left_behind(directory, env)
        finally:
            shutil.rmtree(directory)


@contextlib.contextmanager
def child(command: list[str], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """A process that does not outlive a test that fails: `Popen` alone would wait for its end."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Any, what: str) -> None:
    """Poll a condition that has no event to wait on."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what}"
        time.sleep(0.01)
