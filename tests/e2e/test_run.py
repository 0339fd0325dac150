"""`authz run`: starting, saying what is wrong, staying up and stopping, as a user meets them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz.exits import Exit
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar, bearer, children, environment, free_port, wait_until
from tests.e2e.upstream import Upstream


@pytest.fixture
def workspace() -> Iterator[Path]:
    with starter.directory() as path:
        yield path


def _fails(path: Path, env: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run to the end; exit code and stderr."""
    with starter.start(path, env, *(arguments or ("run",))) as process:
        code = process.wait(starter.PATIENCE_S)
    return code, (path / "stderr").read_text()


def test_every_mistake_is_reported_at_once_and_no_value(workspace: Path) -> None:
    env = environment(
        workspace,
        3100,
        "ftp://secret-host/",
        MODE="enforced",
        PORT="99999",
        HOST="not an address",
        JWT_SECRET="too-short-secret",
        ADMIN_TOKEN="short-token",
        JWT_EXPIRES_IN="forever",
        POLICY_VERSION_LIMIT="many",
        AUDIT_ON_FAILURE="shrug",
        POLICIES_POLL_INTERVAL="often",
        MODE_FILE="/nowhere/mode",
        OTEL_ENABLED="perhaps",
        LOG_LEVEL="loud",
    )
    code, said = _fails(workspace, env)
    assert code == 2
    assert said.splitlines() == [
        "authz: ADMIN_TOKEN: shorter than 16 characters; make one with: openssl rand -hex 16",
        "authz: AUDIT_ON_FAILURE: must be deny or allow",
        "authz: HOST: not an IP address; write 0.0.0.0, 127.0.0.1 or ::",
        "authz: JWT_EXPIRES_IN: not a duration; write 30s, 15m, 24h or 7d",
        "authz: JWT_SECRET: shorter than 32 characters; make one with: openssl rand -hex 32",
        "authz: LOG_LEVEL: must be debug or info or warning or error",
        "authz: MODE: must be enforce, audit or bypass",
        "authz: MODE_FILE: /nowhere/mode cannot be read: No such file or directory",
        "authz: OTEL_ENABLED: must be true or false",
        "authz: POLICIES_POLL_INTERVAL: not a duration; write 30s, 15m, 24h or 7d",
        "authz: POLICY_VERSION_LIMIT: not a whole number from 1 to 1000",
        "authz: PORT: must be from 1 to 65535",
        "authz: PROXY_TARGET: must start with http:// or https://",
    ]
    for value in ("too-short-secret", "short-token", "secret-host"):
        assert value not in said


@pytest.mark.parametrize("command", ["run", "serve"])
def test_a_missing_secret_says_how_to_make_one(workspace: Path, command: str) -> None:
    env = environment(workspace, free_port(), "http://127.0.0.1:9", JWT_SECRET="")
    code, said = _fails(workspace, env, command)
    assert (code, said) == (2, "authz: JWT_SECRET: not set; make one with: openssl rand -hex 32\n")


def test_a_port_in_use_is_one_sentence(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = _fails(workspace, environment(workspace, port, "http://127.0.0.1:9"))
    assert code == Exit.ADDRESS
    assert said == (
        f"authz: PORT: 127.0.0.1:{port} cannot be listened on (Address already in use); stop what"
        " uses it or choose another PORT\n"
    )


def test_a_missing_envoy_is_one_sentence(workspace: Path) -> None:
    env = environment(workspace, free_port(), "http://127.0.0.1:9", ENVOY_BIN="/nowhere/envoy")
    code, said = _fails(workspace, env)
    assert code == Exit.ENVOY
    assert said == "authz: ENVOY_BIN: /nowhere/envoy is not an executable file\n"


def test_an_envoy_that_does_not_run_ends_the_run(workspace: Path) -> None:
    fake = workspace / "envoy"
    fake.write_text("#!/bin/sh\necho nonsense >&2\nexit 7\n")
    fake.chmod(0o755)
    env = environment(workspace, free_port(), "http://127.0.0.1:9", ENVOY_BIN=str(fake))
    code, said = _fails(workspace, env)
    assert code == Exit.CHILD  # and not Envoy's own number, which may be one of ours
    assert f"envoy could not start (exit code 7): {fake}" in said


def test_an_envoy_that_is_no_program_is_one_sentence(workspace: Path) -> None:
    fake = workspace / "envoy"
    fake.write_bytes(b"\x7fELF but not really")
    fake.chmod(0o755)
    env = environment(workspace, free_port(), "http://127.0.0.1:9", ENVOY_BIN=str(fake))
    code, said = _fails(workspace, env)
    assert code == Exit.ENVOY
    assert said.splitlines()[-1] == f"authz: envoy cannot be run: {fake}: Exec format error"


def test_what_keeps_the_service_from_starting_is_its_code_and_the_runs(workspace: Path) -> None:
    (workspace / "no.pem").write_text("nothing of the kind")
    env = environment(
        workspace,
        free_port(),
        "http://127.0.0.1:9",
        EXT_AUTHZ_TRANSPORT="grpc",
        EXT_AUTHZ_TLS_CERT_FILE=str(workspace / "no.pem"),
        EXT_AUTHZ_TLS_KEY_FILE=str(workspace / "no.pem"),
    )
    for command in ("serve", "run"):
        code, said = _fails(workspace, env, command)
        assert code == Exit.KEY_FILE
        assert "authz: EXT_AUTHZ_TLS_KEY_FILE: " in said
        assert "not PEM certificates" in said
    assert "was not ready within" not in said


def test_an_address_that_is_not_here_is_the_hosts_fault(workspace: Path) -> None:
    # TEST-NET-1 (RFC 5737): nobody's.
    env = environment(workspace, free_port(), "http://127.0.0.1:9", HOST="192.0.2.1")
    code, said = _fails(workspace, env)
    assert code == Exit.ADDRESS
    assert said.startswith("authz: HOST: 192.0.2.1:")
    assert said.endswith("no interface here has this address; choose one that has\n")


def test_an_upstream_that_nobody_knows_is_told_of_and_answered_503(upstream: Upstream) -> None:
    target = "http://no-such-host.invalid"
    with starter.running(upstream, target=target) as sidecar:
        answer = sidecar.get("/proxy/docs", headers=bearer())
        assert (answer.status_code, answer.json()["error"]) == (503, "upstream_unreachable")
        wait_until(lambda: "PROXY_TARGET: no-such-host.invalid cannot" in sidecar.log(), "the line")
        assert sidecar.stop() == 0


def test_an_unusable_run_directory_is_one_sentence(workspace: Path) -> None:
    (workspace / "file").touch()
    target = "http://127.0.0.1:9"
    env = environment(workspace, free_port(), target, AUTHZ_RUN_DIR=str(workspace / "file" / "run"))
    code, said = _fails(workspace, env)
    assert code == Exit.RUN_DIRECTORY
    assert said.startswith("authz: AUTHZ_RUN_DIR: ")
    assert said.endswith("cannot be used: Not a directory\n")
    long = environment(workspace, free_port(), target, AUTHZ_RUN_DIR="/tmp/" + "x" * 200)
    code, said = _fails(workspace, long)
    assert code == 2
    assert "choose a shorter directory" in said


def test_an_unreadable_policy_directory_denies_and_says_so(upstream: Upstream) -> None:
    with starter.running(upstream, POLICIES_DIR="/nowhere/policies") as sidecar:
        answer = sidecar.get("/proxy/docs", headers=bearer())
        assert (answer.status_code, answer.json()["code"]) == (403, "no_policy")
        expected = "/nowhere/policies:1:1: error: cannot be read: No such file or directory"
        assert expected in sidecar.log()


def test_a_second_sidecar_in_the_same_directory_is_refused(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar, starter.directory() as path:
        env = sidecar.env | {"PORT": str(free_port())}
        code, said = _fails(path, env)
        assert code == Exit.RUN_DIRECTORY
        assert "another sidecar uses" in said
        code, said = _fails(path, env, "serve")
        assert code == Exit.RUN_DIRECTORY
        assert "another sidecar uses" in said
        assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_cleanly(upstream: Upstream, number: int) -> None:
    with starter.running(upstream) as sidecar:
        pids = [pid for pid, _ in children(sidecar.process.pid)]
        assert len(pids) == 2
        assert sidecar.stop(number) == 0
        assert not any(_alive(pid) for pid in pids)
        assert "killed" not in sidecar.log()
        assert not (sidecar.run_dir / "http.sock").exists()


def test_a_hangup_stops_nothing_and_drops_no_request(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        pids = {pid for pid, _ in children(sidecar.process.pid)}
        for times in range(1, 4):
            sidecar.process.send_signal(signal.SIGHUP)
            assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
            wait_until(lambda n=times: _read_again(sidecar) >= n, "the reading")  # type: ignore[misc]
        assert sidecar.log().count("[run] SIGHUP: reading policies and mode again") == 3
        assert {pid for pid, _ in children(sidecar.process.pid)} == pids
        assert sidecar.stop() == 0


def _read_again(sidecar: Sidecar) -> int:
    return sidecar.log().count("[authz] policies: read again, still version ")


def test_a_hangup_while_starting_stops_nothing_either(upstream: Upstream) -> None:
    with starter.directory() as path:
        env = environment(path, free_port(), upstream.url)
        with starter.start(path, env, "run") as process:
            # It holds its lock from the moment on that it knows its signals.
            wait_until((path / "run" / "supervisor.lock").exists, "it to begin")

            def is_up() -> bool:
                process.send_signal(signal.SIGHUP)
                return process.poll() is not None or "listening on" in (path / "stderr").read_text()

            wait_until(is_up, "it to listen")
            said = (path / "stderr").read_text()
            assert process.poll() is None, said
            assert "ended" not in said


def test_a_terminal_that_goes_away_stops_it(upstream: Upstream) -> None:
    """SIGHUP as the kernel sends it to who was started in a terminal that is closed."""
    with starter.directory() as path:
        env = environment(path, free_port(), upstream.url)
        begin = (
            "import fcntl, os, sys, termios\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'authz', 'run'])\n"
        )
        terminal, inner = os.openpty()
        with (path / "stderr").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", begin],
                cwd=path,
                env=env,
                stdin=inner,
                stderr=err,
                start_new_session=True,
            )
        os.close(inner)
        try:
            wait_until(lambda: "listening on" in (path / "stderr").read_text(), "it to listen")
            pids = [pid for pid, _ in children(process.pid)]
            process.send_signal(signal.SIGHUP)  # the terminal is there: this is a reload
            wait_until(lambda: "read again" in (path / "stderr").read_text(), "the reading")
            os.close(terminal)
            terminal = -1
            assert process.wait(starter.PATIENCE_S) == 0
            assert not any(_alive(pid) for pid in pids)
        finally:
            if terminal >= 0:
                os.close(terminal)
            if process.poll() is None:
                process.kill()
                process.wait()


def test_a_request_in_flight_survives_the_stop(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        # The upstream answers once the body is complete, so this request is in flight until then.
        body = b'{"late": true}'
        head = (
            f"POST /proxy/docs HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            f"authorization: {bearer()['Authorization']}\r\n"
            "x-meshguard-action: read:docs\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", sidecar.port)) as connection:
            before = upstream.hits
            connection.sendall(head.encode() + body[:1])
            wait_until(lambda: upstream.hits > before, "the request to be at the upstream")
            sidecar.process.send_signal(signal.SIGTERM)
            wait_until(lambda: _refuses(sidecar.port), "the listener to close")
            connection.sendall(body[1:])
            connection.settimeout(10)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert sidecar.process.wait(starter.PATIENCE_S) == 0


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_nothing_outlives_a_killed_supervisor(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        pids = [pid for pid, _ in children(sidecar.process.pid)]
        sidecar.process.kill()
        sidecar.process.wait()
        wait_until(lambda: not any(_alive(pid) for pid in pids), "the children to end")


def test_it_starts_again_after_being_killed(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        sidecar.get("/proxy/docs", headers=bearer())
        pids = [pid for pid, _ in children(sidecar.process.pid)]
        for pid in (sidecar.process.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        sidecar.process.wait()
        wait_until(lambda: not any(_alive(pid) for pid in pids), "everything to be gone")
        with starter.start(sidecar.directory, sidecar.env, "run"):
            wait_until(lambda: starter.answers(sidecar), "it to answer again")
            assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
            assert len(sidecar.rows()) == 2


def test_two_sidecars_live_side_by_side(upstream: Upstream) -> None:
    with starter.running(upstream) as one, starter.running(upstream, MODE="audit") as other:
        for sidecar, status in ((one, 403), (other, 200)):
            assert sidecar.get("/proxy/x", headers=bearer(tags=())).status_code == status
            assert len(sidecar.rows()) == 1


def test_the_demos_banner_can_be_copied_line_by_line() -> None:
    with starter.demo(HOST="") as sidecar:  # as a compose file passes on what is not there
        banner = sidecar.out()
        token = re.search(r"^TOKEN=(\S+)$", banner, re.MULTILINE)
        curls = re.findall(r"^curl .*$", banner, re.MULTILINE)
        assert token is not None
        assert len(curls) == 3
        outs = [
            subprocess.run(
                ["bash", "-c", f"TOKEN={token[1]}\n{curl}"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for curl in curls
        ]
        assert outs[0].startswith("HTTP/1.1 200 OK")
        assert '"path": "/docs/intro"' in outs[0]
        assert outs[1].startswith("HTTP/1.1 403 Forbidden")
        assert "policy code-review-policy denies write:delete" in outs[1]
        assert re.findall(r'"decision":"(\w+)"', outs[2]) == ["allow", "deny"]
        assert "listening on 127.0.0.1" in sidecar.log()


def test_the_demo_honours_what_is_given(upstream: Upstream) -> None:
    given = {"JWT_SECRET": starter.JWT_SECRET, "PROXY_TARGET": upstream.url, "MODE": "audit"}
    with starter.demo(**given) as sidecar:
        before = upstream.hits
        assert sidecar.get("/proxy/anything").status_code == 200
        assert upstream.hits == before + 1
        assert not (sidecar.directory / "data" / "echo").exists()


def test_development_secrets_stay_and_are_private() -> None:
    with starter.directory() as path:
        env = {"PATH": os.environ["PATH"], "AUTHZ_RUN_DIR": str(path / "run")}
        minted = []
        for _ in range(2):
            arguments = ("token", "mint", "--agent", "a", "--insecure-dev-secrets")
            with starter.start(path, env, *arguments) as process:
                assert process.wait(starter.PATIENCE_S) == 0
            minted.append((path / "stdout").read_text().strip())
        file = path / "run" / "dev-secrets.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert len({token.split(".")[0] for token in minted}) == 1
        assert starter.JWT_SECRET not in file.read_text()


def test_a_demo_that_is_not_ready_says_so() -> None:
    with starter.directory() as path:
        database = path / "corrupt.db"
        database.write_bytes(b"no database" * 1000)
        with starter.demo(AUDIT_DB_PATH=str(database)) as sidecar:
            expected = "up, but NOT READY (database: failing: file is not a database), at "
            assert expected in sidecar.out()


@pytest.mark.parametrize("moment", ["imports", "before the loop", "set-up", "children"])
def test_ctrl_c_while_starting_ends_it(workspace: Path, moment: str) -> None:
    """The signal comes from inside, so that it comes at that moment and no other."""
    where = {
        "imports": "import authz.cli.run; kill()",
        "before the loop": "import authz.logs as m; before(m, 'configure')",
        "set-up": "import authz.supervisor as m; before(m, 'require_free_port')",
        # It is another program by then, which is here run in the first one's process.
        "children": "import authz.supervisor as m; before(m, '_envoy_child');"
        " os.execve = lambda path, argv, env: sys.exit(m.main(argv[3:]))",
    }
    program = workspace / "program.py"
    program.write_text(
        "import os, signal, sys\n"
        # As in a terminal: what a shell starts in the background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def kill():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "def before(module, name):\n"
        "    real = getattr(module, name)\n"
        "    setattr(module, name, lambda *a: (kill(), real(*a))[1])\n"
        "from authz.cli import main\n"
        "try:\n"
        f"    {where[moment]}\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(130)\n"
        "main()\n"
    )
    env = environment(workspace, free_port(), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, program, "run"],
        env=env,
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=starter.PATIENCE_S,
        check=False,
    )
    assert done.returncode in (0, 130)
    assert "Traceback" not in done.stderr


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_json_logs_are_json_from_both(upstream: Upstream) -> None:
    with starter.running(upstream, LOG_FORMAT="json", LOG_LEVEL="debug") as sidecar:
        sidecar.get("/proxy/docs", headers=bearer())
        # Envoy listens before that is said.
        wait_until(lambda: "listening on" in sidecar.log(), "what `run` itself says")
        events = [json.loads(line) for line in sidecar.log().splitlines()]
    assert {"authz", "run", "envoy"} <= {event["component"] for event in events}
    assert all(event["timestamp"].endswith("Z") for event in events)
