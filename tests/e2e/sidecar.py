"""Starts a whole sidecar, the way a user does, in a directory and on a port of its own."""

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from authz.core.identity import mint
from tests import leaks
from tests.e2e.upstream import Upstream

JWT_SECRET = "an end to end secret of more than 32 characters"
ADMIN_TOKEN = "an admin token of the tests"
SAMPLE_POLICIES = Path(__file__).parents[2] / "policies"

#: Seconds that anything may take on a busy machine before a test gives up.
PATIENCE_S = 30.0


@dataclass
class Sidecar:
    """A running `authz run`."""

    process: subprocess.Popen[str]
    directory: Path
    port: int
    upstream: Upstream
    client: httpx.Client
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def database(self) -> Path:
        named = (self.env.get(name) for name in ("AUDIT_DB_PATH", "DB_PATH"))
        return self.directory / next(filter(None, named), "data/audit.db")

    def rows(self, *, control: bool = False) -> list[dict[str, Any]]:
        """The rows of requests, oldest first; with `control` also those about the sidecar."""
        with contextlib.closing(
            sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)
        ) as db:
            db.row_factory = sqlite3.Row
            rows = [dict(row) for row in db.execute("SELECT * FROM audit ORDER BY seq")]
        return [row for row in rows if control or row["source"] != "control"]

    def row(self) -> dict[str, Any]:
        """The only row there is."""
        [row] = self.rows()
        return row

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.client.get(path, **kwargs)

    def until_started(self) -> None:
        """Until the supervisor knows that it has started: it answers a moment before that."""
        wait_until(lambda: "listening on" in self.log(), "the start to be over")

    def log(self) -> str:
        """What all processes have written to stderr so far."""
        return (self.directory / "stderr").read_text(encoding="utf-8", errors="replace")

    def out(self) -> str:
        """What was printed to stdout so far."""
        return (self.directory / "stdout").read_text(encoding="utf-8")

    def child(self, name: str) -> int:
        """The process id of `service` or `envoy`."""
        marks = {"service": "serve", "envoy": "--config-path"}
        return next(pid for pid, argv in children(self.process.pid) if marks[name] in argv)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def token(**claims: Any) -> str:
    """A valid token for a code reviewer, with changes."""
    given: dict[str, Any] = {
        "agent_id": "reviewer-1",
        "now": time.time(),
        # Some are made when a module is imported, and used at the end of a long run.
        "ttl_s": 3600,
        "tags": ("code-review",),
        **claims,
    }
    return mint(JWT_SECRET, **given)


def bearer(**claims: Any) -> dict[str, str]:
    """The header with such a token."""
    return {"Authorization": f"Bearer {token(**claims)}"}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition that has no event to wait on."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S} s for: {what}")
        time.sleep(0.01)


def children(pid: int) -> list[tuple[int, list[str]]]:
    """The direct child processes of a process, with their arguments (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            parent = re.search(r"^PPid:\s+(\d+)$", (entry / "status").read_text(), re.MULTILINE)
            if parent is not None and int(parent[1]) == pid:
                argv = (entry / "cmdline").read_bytes().decode().split("\0")
                found.append((int(entry.name), argv))
    return found


def environment(directory: Path, port: int, target: str, **env: str) -> dict[str, str]:
    """The environment of a sidecar: nothing inherited but what finds programs."""
    base = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PROXY_TARGET": target,
        "JWT_SECRET": JWT_SECRET,
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "POLICIES_DIR": str(SAMPLE_POLICIES),
        "AUDIT_DB_PATH": str(directory / "audit.db"),
        "AUTHZ_RUN_DIR": str(directory / "run"),
        # Other tests have the processors too; how long a decision takes is a benchmark's to say.
        "DECISION_TIMEOUT_MS": "10000",
    }
    return {name: value for name, value in (base | env).items() if value}


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A short-named temporary directory: unix socket paths have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="authz-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running(
    upstream: Upstream, *, arguments: tuple[str, ...] = ("run",), target: str = "", **env: str
) -> Iterator[Sidecar]:
    """A sidecar that answers. `env` overrides variables; an empty value removes one."""
    with directory() as path:
        port = free_port()
        full = environment(path, port, target or upstream.url, **env)
        with start(path, full, *arguments) as process:
            sidecar = Sidecar(
                process,
                path,
                port,
                upstream,
                httpx.Client(base_url=f"http://127.0.0.1:{port}"),
                full,
            )
            try:
                wait_until(
                    lambda: answers(sidecar) or process.poll() is not None, "the sidecar to answer"
                )
                assert process.poll() is None, sidecar.log()
                with contextlib.closing(sidecar.client):
                    yield sidecar
                    if process.poll() is None:
                        leaks.answered(sidecar.client, full, path)
            except BaseException:
                sys.stderr.write(sidecar.log()[-6000:])
                raise


@contextlib.contextmanager
def demo(**env: str) -> Iterator[Sidecar]:
    """`authz run --demo` as `make run` starts it: an environment with next to nothing in it.

    Its upstream is the one it brings along, which it starts itself.
    """
    with directory() as path:
        port = free_port()
        given = {"PATH": os.environ["PATH"], "HOME": str(path), "PORT": str(port)}
        given |= {"POLICIES_DIR": str(SAMPLE_POLICIES)} | env
        with start(path, given, "run", "--demo") as process:
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}")
            sidecar = Sidecar(process, path, port, upstream=None, client=client, env=given)  # type: ignore[arg-type]
            wait_until(lambda: "Ctrl-C stops it." in sidecar.out() or process.poll(), "the banner")
            assert process.poll() is None, sidecar.log()
            with client:
                yield sidecar
                leaks.answered(client, given, path)


@contextlib.contextmanager
def start(path: Path, env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`authz ARGUMENTS` in `path`, its output in the files `stdout` and `stderr` there.

    Where nothing else has failed, no secret may be in what it leaves there (`tests/leaks.py`).
    """
    with (path / "stdout").open("w") as out, (path / "stderr").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "authz", *arguments],
            cwd=path,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    # Others print a token because they are asked for one.
    is_silent = arguments[0] in ("run", "serve") and "--demo" not in arguments
    leaks.left_behind(path, env, prints_token=not is_silent)


def answers(sidecar: Sidecar) -> bool:
    """A request to the port gets an answer from the service."""
    try:
        return sidecar.client.get("/").status_code == 200
    except httpx.TransportError:
        return False
