"""`authz probe`: the health of a sidecar, asked as often as containers ask and for next to nothing.

- Nothing of ours and of others is imported, and of the standard library only `socket`: where a
  sidecar has a quarter of a CPU, the whole command line would use more of it than its decisions.
  So the defaults stand here once more; a test holds them to `settings`.
- One deadline holds for the whole of it, whoever dawdles.
- One sentence: which check fails, and how. Exit codes are CONTRACT §14's.

`http.client` would cost three times as much, and has no deadline for an answer that trickles.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

HEALTHY: Final = 0
UNHEALTHY: Final = 1
BAD_ARGUMENTS: Final = 2
NOBODY: Final = 5

#: Seconds, when nothing is said: fewer than what probes wait that call us.
TIMEOUT_S: Final = 2.0
MAX_TIMEOUT_S: Final = 60.0
#: Bytes of an answer that are read; ours have a few hundred.
MAX_ANSWER: Final = 65_536
#: Characters of somebody else's sentence that are repeated.
MAX_SAID: Final = 500

DEFAULT_PORT: Final = 3100
DEFAULT_RUN_DIR: Final = "data/run"
HTTP_SOCKET: Final = "http.sock"
ENVOY_ADMIN_SOCKET: Final = "envoy-admin.sock"

_Address = tuple[str, int] | str


class Asked(NamedTuple):
    """What is to be looked at."""

    #: Whether it should get traffic, and not only whether it works.
    ready: bool = False
    #: The service's own socket, past Envoy.
    socket: bool = False
    #: Envoy's admin socket.
    envoy: bool = False
    timeout_s: float = TIMEOUT_S


class _Failed(Exception):
    """One sentence, and what to exit with."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code: Final = code


def main(arguments: Sequence[str]) -> int | None:
    """Probe as the command line says; returns the exit code.

    None: these arguments are for the whole command line, which knows help and mistakes.
    """
    asked = Asked()
    rest = list(arguments)
    while rest:
        match rest.pop(0).partition("="):
            case ("--ready", "", ""):
                asked = asked._replace(ready=True)
            case ("--socket", "", ""):
                asked = asked._replace(socket=True)
            case ("--envoy", "", ""):
                asked = asked._replace(envoy=True)
            case ("--timeout", _, value):
                value = value or (rest.pop(0) if rest else "")
                try:
                    asked = asked._replace(timeout_s=float(value))
                except ValueError:
                    return None
            case _:
                return None
    return run(asked, os.environ)


def run(asked: Asked, env: Mapping[str, str]) -> int:
    """Probe, say how it is in one sentence, and return the exit code."""
    try:
        said = "; ".join(_probed(asked, env))
    except _Failed as failed:
        sys.stderr.write(f"authz: {_visible(str(failed))}\n")
        return failed.code
    sys.stdout.write(f"{_visible(said)}\n")
    return HEALTHY


def _probed(asked: Asked, env: Mapping[str, str]) -> list[str]:
    if asked.socket and asked.envoy:
        raise _Failed("give --socket or --envoy, not both", BAD_ARGUMENTS)
    if not 0 < asked.timeout_s <= MAX_TIMEOUT_S:
        raise _Failed(
            f"--timeout: must be more than 0 and at most {MAX_TIMEOUT_S:g} seconds", BAD_ARGUMENTS
        )
    deadline = time.monotonic() + asked.timeout_s
    path = "/ready" if asked.ready else "/health"
    run_dir = _given(env, "AUTHZ_RUN_DIR") or DEFAULT_RUN_DIR
    service = os.path.join(run_dir, HTTP_SOCKET)  # noqa: PTH118 - pathlib is dear
    if asked.socket:
        return [_look(service, service, path, deadline)]
    if asked.envoy:
        return [_envoy(env, run_dir, deadline)]
    if _given(env, "TLS_CERT_FILE"):
        # The door opens to whoever has the right certificates, and we need not: it is asked from
        # behind, on both sides of the service's socket.
        return [_envoy(env, run_dir, deadline), _look(service, service, path, deadline)]
    host, port = _front_door(env)
    return [_look((host, port), f"http://{_written(host, port)}", path, deadline)]


def _envoy(env: Mapping[str, str], run_dir: str, deadline: float) -> str:
    """Whether Envoy works: by its admin endpoint, else (ENVOY_ADMIN=off) by who takes PORT's calls.

    Envoy takes none before it is ready.
    """
    if _given(env, "ENVOY_ADMIN").lower() != "off":
        admin = os.path.join(run_dir, ENVOY_ADMIN_SOCKET)  # noqa: PTH118
        return _look(admin, admin, "/ready", deadline)
    host, port = _front_door(env)
    where = _written(host, port)
    try:
        socket.create_connection((host, port), timeout=_left(deadline)).close()
    except TimeoutError:
        raise _Failed(f"{where}: no answer in time", UNHEALTHY) from None
    except ConnectionRefusedError as error:
        raise _Failed(f"{where}: nobody there: {error.strerror}", NOBODY) from None
    except OSError as error:
        raise _Failed(f"{where}: {error.strerror or error}", UNHEALTHY) from None
    return f"{where}: accepts connections"


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _given(env: Mapping[str, str], name: str) -> str:
    return env.get(name, "").strip()


def _front_door(env: Mapping[str, str]) -> tuple[str, int]:
    """Where Envoy can be reached from here, given where it listens."""
    port = _given(env, "PORT") or str(DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and len(port) < 10 and 0 < int(port) < 65_536):
        raise _Failed("PORT: not a whole number from 1 to 65535", BAD_ARGUMENTS)
    host = _given(env, "HOST").strip("[]")
    if host in ("", "localhost"):
        return "127.0.0.1", int(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host)
    except OSError:
        raise _Failed(
            "HOST: not an IP address; write 0.0.0.0, 127.0.0.1 or ::", BAD_ARGUMENTS
        ) from None
    if any(packed):
        return host, int(port)
    # All addresses of this kind: its loopback one is one of them.
    return "127.0.0.1" if family == socket.AF_INET else "::1", int(port)


def _look(address: _Address, name: str, path: str, deadline: float) -> str:
    """Ask for a path; returns what is well.

    Raises:
        _Failed: it is not.
    """
    where = f"{name}{path}" if name.startswith("http:") else f"{name} {path}"
    try:
        answer = _exchange(address, path, deadline)
    except TimeoutError:
        raise _Failed(f"{where}: no answer in time", UNHEALTHY) from None
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise _Failed(f"{where}: nobody there: {error.strerror}", NOBODY) from None
    except OSError as error:
        raise _Failed(f"{where}: {error.strerror or error}", UNHEALTHY) from None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)
    if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].isdigit():
        raise _Failed(f"{where}: the answer is not HTTP", UNHEALTHY)
    if status[1] == b"200":
        return f"{where}: {'ready' if path == '/ready' else 'healthy'}"
    code = status[1].decode("ascii")
    raise _Failed(f"{where}: {_reason(body) or 'unhealthy'} (HTTP {code})", UNHEALTHY)


def _exchange(address: _Address, path: str, deadline: float) -> bytes:
    """Send one request, and read until the other side closes."""
    family = (
        socket.AF_UNIX
        if isinstance(address, str)
        else socket.AF_INET6
        if ":" in address[0]
        else socket.AF_INET
    )
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with socket.socket(family) as peer:
        peer.settimeout(_left(deadline))
        peer.connect(address)
        peer.sendall(request.encode("ascii"))
        answer = b""
        while len(answer) < MAX_ANSWER:
            peer.settimeout(_left(deadline))
            more = peer.recv(MAX_ANSWER)
            if not more:
                break
            answer += more
    return answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(body: bytes) -> str:
    """What the service, or Envoy in its place, gives as the reason."""
    import json  # noqa: PLC0415 - only now is there time

    begin, end = body.find(b"{"), body.rfind(b"}")
    try:
        said: Any = json.loads(body[begin : end + 1])
    except (ValueError, RecursionError):
        # Envoy's own endpoint has a word for its state.
        return body[:MAX_SAID].decode("ascii", "replace").strip()
    if not isinstance(said, dict):
        return ""
    checks = said.get("checks")
    if isinstance(checks, dict):
        failing = [f"{name}: {how}" for name, how in checks.items() if how != "ok"]
        return "; ".join([str(said.get("status", "unhealthy")), *failing])[:MAX_SAID]
    return str(said.get("message") or said.get("status") or "")[:MAX_SAID]


def _visible(text: str) -> str:
    # As core.text has it: what hides, moves or breaks a line is shown escaped.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
