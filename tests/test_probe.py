"""`authz probe` against servers that answer well, badly, slowly and not at all.

Real sidecars are probed in tests/e2e/test_probe.py.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from authz import probe, settings
from authz.probe import Asked
from authz.settings import Settings

Answer = Callable[[socket.socket], None]

#: Seconds; nothing here waits for it to pass unless nobody answers.
PATIENCE_S = 30.0


def http(status: int, body: object = b"") -> Answer:
    """Answers a request once and closes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n\r\n" % (status, len(content)))
        peer.sendall(content)

    return answer


class Server:
    """Reads a request, answers it, and keeps what it was."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self.requests: list[bytes] = []
        self._listener = listener
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                with peer, contextlib.suppress(OSError):
                    self.requests.append(peer.recv(4096))
                    self._answer(peer)

    def stop(self) -> None:
        # It wakes the thread that waits for somebody to come.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)


@contextlib.contextmanager
def serving(listener: socket.socket, answer: Answer) -> Iterator[Server]:
    server = Server(listener, answer)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def door(answer: Answer, host: str = "127.0.0.1") -> Iterator[tuple[Server, dict[str, str]]]:
    """A front door, and the environment that it is found by."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    with serving(listener, answer) as server:
        yield server, {"PORT": str(listener.getsockname()[1])}


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="authz-"))
    yield path
    shutil.rmtree(path)


def unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_what_it_takes_for_granted_is_what_the_settings_say() -> None:
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert default["port"] == probe.DEFAULT_PORT
    assert str(default["run_dir"]) == probe.DEFAULT_RUN_DIR
    assert (probe.HTTP_SOCKET, probe.ENVOY_ADMIN_SOCKET) == (
        settings.HTTP_SOCKET,
        settings.ENVOY_ADMIN_SOCKET,
    )
    # All addresses, and loopback is one of them.
    assert default["host"] == "0.0.0.0"


@pytest.mark.parametrize("arguments", [(), ("--ready",), ("--socket",), ("--envoy",)])
def test_nothing_but_the_standard_library_is_imported(arguments: tuple[str, ...]) -> None:
    with door(http(200)) as (_, env):
        done = subprocess.run(
            # Without site-packages, and without what `-m` itself imports.
            [sys.executable, "-S", "-X", "importtime", "-c",
             "from authz.__main__ import main; main()", "probe", *arguments],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1]), **env},
            check=False,
        )  # fmt: skip
    assert done.returncode == (5 if {"--socket", "--envoy"} & set(arguments) else 0)
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert {name for name in imported if name.startswith("authz")} == {
        "authz", "authz.__main__", "authz.probe",
    }  # fmt: skip
    dear = {
        "argparse", "asyncio", "email", "http.client", "importlib.metadata", "json", "pathlib",
        "ssl", "typing_extensions",
    }  # fmt: skip
    assert not imported & dear


@pytest.mark.parametrize(("asked", "path"), [(Asked(), "/health"), (Asked(ready=True), "/ready")])
def test_a_sidecar_that_is_well(
    asked: Asked, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with door(http(200, {"status": "healthy"})) as (server, env):
        assert probe.run(asked, env) == 0
    [request] = server.requests
    assert request.startswith(b"GET %s HTTP/1.1\r\n" % path.encode())
    how = "ready" if asked.ready else "healthy"
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"http://127.0.0.1:{env['PORT']}{path}: {how}\n", "")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, {"status": "unhealthy", "checks": {"policies": "ok", "database": "failing: full"}},
         "unhealthy; database: failing: full (HTTP 503)"),
        (503, {"status": "not_ready", "checks": {"policies": "no valid policy is loaded"}},
         "not_ready; policies: no valid policy is loaded (HTTP 503)"),
        (503, {"error": "unavailable", "message": "the authorization service is not running"},
         "the authorization service is not running (HTTP 503)"),
        (503, b"INITIALIZING\n", "INITIALIZING (HTTP 503)"),
        (301, b"", "unhealthy (HTTP 301)"),
        (404, b'["no", "object"]', '["no", "object"] (HTTP 404)'),
        (500, b"[" * 60_000 + b"{" * 4000, "[[["),
        (500, b"\x1b[2J\r\nred", "\\x1b[2J\\r\\nred (HTTP 500)"),
        (500, {"message": "x" * 5000}, "x" * 500 + " (HTTP 500)"),
    ],
)  # fmt: skip
def test_a_sidecar_that_is_not_well_says_what_fails(
    status: int, body: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with door(http(status, body)) as (_, env):
        assert probe.run(Asked(), env) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"authz: http://127.0.0.1:{env['PORT']}/health: {said}")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 700


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 \r\n\r\n", b"HTTP/1.1 OK 200\r\n\r\n"]
)
def test_somebody_who_speaks_something_else(
    answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with door(lambda peer: peer.sendall(answer)) as (_, env):
        assert probe.run(Asked(), env) == 1
    assert "the answer is not HTTP" in capsys.readouterr().err


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nx: "])
def test_one_deadline_holds_for_an_answer_that_does_not_end(
    drip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    over = threading.Event()

    def dawdle(peer: socket.socket) -> None:
        # A byte now and then would keep a time limit for each read alive for ever.
        peer.sendall(drip)
        while not over.wait(0.02):
            peer.sendall(drip and b"y")

    with door(dawdle) as (_, env):
        try:
            assert probe.run(Asked(timeout_s=0.2), env) == 1
        finally:
            over.set()
    assert capsys.readouterr().err.endswith("/health: no answer in time\n")


def test_an_answer_without_an_end_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def flood(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"z" * 65_536)

    with door(flood) as (_, env):
        assert probe.run(Asked(timeout_s=PATIENCE_S), env) == 0
    assert capsys.readouterr().out


def test_nobody_at_the_door(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    assert probe.run(Asked(), {"PORT": port}) == 5
    assert capsys.readouterr().err == (
        f"authz: http://127.0.0.1:{port}/health: nobody there: Connection refused\n"
    )


@pytest.mark.parametrize(
    ("host", "listens", "url"),
    [
        ("", "127.0.0.1", "http://127.0.0.1:"),
        ("0.0.0.0", "127.0.0.1", "http://127.0.0.1:"),
        ("localhost", "127.0.0.1", "http://127.0.0.1:"),
        ("127.0.0.2", "127.0.0.2", "http://127.0.0.2:"),
        ("::", "::1", "http://[::1]:"),
        ("[::1]", "::1", "http://[::1]:"),
    ],
)
def test_the_door_is_where_envoy_listens(
    host: str, listens: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with door(http(200), listens) as (_, env):
        assert probe.run(Asked(), {**env, "HOST": host}) == 0
    assert capsys.readouterr().out.startswith(url)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PORT": "http"}, "PORT: not a whole number from 1 to 65535"),
        ({"PORT": "0"}, "PORT: not a whole number from 1 to 65535"),
        ({"PORT": "65536"}, "PORT: not a whole number from 1 to 65535"),
        ({"PORT": "٣"}, "PORT: not a whole number from 1 to 65535"),
        ({"PORT": "1" * 5000}, "PORT: not a whole number from 1 to 65535"),
        ({"HOST": "sidecar"}, "HOST: not an IP address; write 0.0.0.0, 127.0.0.1 or ::"),
    ],
)
def test_an_environment_that_no_sidecar_would_take(
    env: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe.run(Asked(), env) == 2
    assert capsys.readouterr().err == f"authz: {said}\n"


@pytest.mark.parametrize(
    ("asked", "name", "path"),
    [
        (Asked(socket=True), "http.sock", "/health"),
        (Asked(socket=True, ready=True), "http.sock", "/ready"),
        (Asked(envoy=True), "envoy-admin.sock", "/ready"),
    ],
)
def test_each_process_can_be_asked_by_its_socket(
    asked: Asked, name: str, path: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"AUTHZ_RUN_DIR": str(run_dir)}
    assert probe.run(asked, env) == 5
    nobody = f"authz: {run_dir}/{name} {path}: nobody there: No such file or directory\n"
    assert capsys.readouterr().err == nobody
    with serving(unix(run_dir / name), http(200)) as server:
        assert probe.run(asked, env) == 0
    assert server.requests[0].startswith(b"GET %s " % path.encode())
    # A process that was killed leaves its socket.
    assert probe.run(asked, env) == 5
    assert "nobody there: Connection refused" in capsys.readouterr().err


def test_a_door_that_speaks_tls_is_asked_from_behind(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"AUTHZ_RUN_DIR": str(run_dir), "TLS_CERT_FILE": "/certs/tls.crt", "PORT": "1"}
    with serving(unix(run_dir / "envoy-admin.sock"), http(200)):
        assert probe.run(Asked(), env) == 5
        with serving(unix(run_dir / "http.sock"), http(503, {"message": "no"})):
            assert probe.run(Asked(), env) == 1
        (run_dir / "http.sock").unlink()
        with serving(unix(run_dir / "http.sock"), http(200)) as service:
            assert probe.run(Asked(ready=True), env) == 0
    assert service.requests[0].startswith(b"GET /ready ")
    said = f"{run_dir}/envoy-admin.sock /ready: ready; {run_dir}/http.sock /ready: ready\n"
    assert capsys.readouterr().out == said


def test_an_envoy_without_an_admin_endpoint_is_asked_whether_it_takes_calls(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = {"TLS_CERT_FILE": "/certs/tls.crt"}
    with door(http(200)) as (_, found):
        env = found | {"AUTHZ_RUN_DIR": str(run_dir), "ENVOY_ADMIN": "off"}
        where = f"127.0.0.1:{found['PORT']}: accepts connections"
        assert probe.run(Asked(envoy=True), env) == 0
        assert capsys.readouterr().out == f"{where}\n"
        assert probe.run(Asked(), env | certificate) == 5
        with serving(unix(run_dir / "http.sock"), http(200)):
            assert probe.run(Asked(), env | certificate) == 0
        assert capsys.readouterr().out == f"{where}; {run_dir}/http.sock /health: healthy\n"
    assert probe.run(Asked(envoy=True), env) == 5
    assert "nobody there: Connection refused" in capsys.readouterr().err


def test_a_run_directory_whose_name_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.run(Asked(socket=True), {"AUTHZ_RUN_DIR": "/x" * 100}) == 1
    assert "AF_UNIX path too long" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan", "inf"])
def test_a_timeout_that_is_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([f"--timeout={seconds}"]) == 2
    assert capsys.readouterr().err == (
        "authz: --timeout: must be more than 0 and at most 60 seconds\n"
    )


def test_one_process_is_asked_or_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["--socket", "--envoy"]) == 2
    assert capsys.readouterr().err == "authz: give --socket or --envoy, not both\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--wrong"], ["now"], ["--timeout"], ["--timeout", "soon"], ["--ready=1"],
     ["--gateway", "http://x"]],
)  # fmt: skip
def test_what_it_does_not_know_is_the_command_lines(arguments: list[str]) -> None:
    assert probe.main(arguments) is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("probe", "--help"), 0, "authz probe [OPTIONS]"),
        (("probe", "--wrong"), 2, "--wrong"),
        (("--gateway", "http://x", "probe"), 2, "asks no sidecar"),
        # By the long way: it does the same.
        (("--quiet", "probe", "--timeout", "5"), 5, "nobody there"),
    ],
)
def test_the_command_line_has_it_too(arguments: tuple[str, ...], code: int, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-m", "authz", *arguments],
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PORT": port,
        },
        check=False,
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
