"""A real upstream that records what reached it: the bundled echo, served on a thread."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from authz.edges.echo_upstream import EchoUpstream


@dataclass
class Upstream:
    """Where it listens, and how many requests have reached it."""

    app: EchoUpstream
    url: str

    @property
    def hits(self) -> int:
        return self.app.hits


@contextlib.contextmanager
def serving(
    *,
    host: str = "127.0.0.1",
    certificate: Path | None = None,
    key: Path | None = None,
    headers: list[tuple[str, str]] | None = None,
    app: EchoUpstream | None = None,
) -> Iterator[Upstream]:
    """Serve until the block ends. `headers` are added to every answer, `app` is another echo."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    app = app or EchoUpstream()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        headers=headers,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    scheme = "http" if certificate is None else "https"
    shown = f"[{host}]" if ":" in host else host
    try:
        yield Upstream(app, f"{scheme}://{shown}:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def echoed(body: str) -> dict[str, Any]:
    """What the echo said it received."""
    said: dict[str, Any] = json.loads(body)
    return said
