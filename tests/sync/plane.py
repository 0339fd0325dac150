"""A control plane that does as a test says, over real sockets; and what it has to give away."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from authz.bundles.build import build
from authz.sync.plan import Plan
from tests.bundling import Key

TOKEN: Final = "a token of the control plane's"
CREATED: Final = 1_700_000_000

#: What answers one request.
Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request, as it came."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        self.server.plane.requests.append((f"GET {self.path}", dict(self.headers.items())))
        self.server.plane.answer(self)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["content-length"]))
        self.server.plane.requests.append((f"POST {self.path}", dict(self.headers.items())))
        self.server.plane.answer(self)

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; `_` stands for `-` in names of headers."""
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"content-length": str(len(body))} | given).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        """Nothing."""

    def handle_one_request(self) -> None:
        # Whoever asked may have gone.
        with contextlib.suppress(OSError):
            super().handle_one_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    plane: "Plane"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that go are what is tested."""


class Plane:
    """A server on a port of its own."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.plane = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answer: Answer = lambda request: request.say(404)

    def sent(self, name: str) -> list[str]:
        """A header of each request, empty where it was not there."""
        return [
            next((v for k, v in headers.items() if k.lower() == name), "")
            for _, headers in self.requests
        ]


@contextlib.contextmanager
def plane() -> Iterator[Plane]:
    """One that answers until the block ends."""
    made = Plane()
    thread = threading.Thread(target=made._server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made._server.shutdown()
        made._server.server_close()


def plan(directory: Path, url: str, **changes: Any) -> Plan:
    """Settings of a sidecar that lives in this directory."""
    given: dict[str, Any] = {
        "url": url,
        "token": TOKEN,
        "ca_file": "",
        "state_dir": str(directory / "state"),
        "policies_dir": str(directory / "policies"),
        "bundle": "",
        "signature": "",
        "keys": (),
        "require_signed": False,
        "floor_file": "",
        "database": str(directory / "audit.db"),
        "retention_days": 90,
        "log_format": "text",
        **changes,
    }
    return Plan(**given)


def policy(name: str, effect: str = "deny") -> bytes:
    """A policy file."""
    return (
        f"name: {name}\nappliesTo:\n  tags: [code-review]\nrules:\n"
        f'  - effect: {effect}\n    actions: ["write:*"]\ndefaultEffect: allow\n'
    ).encode()


def bundle(version: int = 1, *names: str, **files: bytes) -> bytes:
    """A bundle of some policies, with a manifest."""
    made = {f"{name}.yaml": policy(name) for name in names}
    made |= {f"{name}.yaml": data for name, data in files.items()}
    return build(made, version=version, created=CREATED)


class Signer:
    """A key pair, and signatures as cosign makes them."""

    def __init__(self) -> None:
        self._key = Key()

    def sign(self, data: bytes) -> str:
        """Base64 of DER."""
        return self._key.sign(data).decode()

    def public(self, path: Path) -> Path:
        """The public half, in a file."""
        path.write_bytes(self._key.pem)
        return path


def giving(data: bytes, *, etag: str = "", signature: str = "", **headers: str) -> Answer:
    """Answers as a gateway does that gives this bundle away."""

    def answer(request: Request) -> None:
        tag = etag or f'"{hash(data)}"'
        given: dict[str, str] = {"etag": tag, "content_type": "application/gzip", **headers}
        if signature:
            given["x_meshguard_bundle_signature"] = signature
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            request.say(401, b'{"message": "no"}')
        elif request.path != "/admin/policies/bundle":
            request.say(404)
        elif request.headers["if-none-match"] == tag:
            request.say(304, b"", **given)
        else:
            request.say(200, data, **given)

    return answer
