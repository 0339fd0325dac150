"""What a sidecar says over HTTP, by its socket, its PORT or a gateway's URL.

Unlike `remote.py` this takes every answer as one: a wrong status is what a check looks for.
"""

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from authz.cli.doctor.facts import Answer

#: Seconds for each answer. A service that does not answer in this time is not well.
PATIENCE_S: Final = 5.0
#: Bytes of an answer that are read.
MAX_ANSWER: Final = 256 * 1024


class Asker:
    """One way to a sidecar."""

    def __init__(
        self, base_url: str, socket_path: Path | None = None, *, is_trusted: bool = False
    ) -> None:
        """
        Args:
            is_trusted: it is this machine's, so that its certificate need not be for this name.
        """
        self.base_url = base_url
        self._socket_path = socket_path
        verify: ssl.SSLContext | bool = True
        if is_trusted:
            verify = ssl.create_default_context()
            verify.check_hostname = False
            verify.verify_mode = ssl.CERT_NONE
        transport = None if socket_path is None else httpx.HTTPTransport(uds=str(socket_path))
        self._client = httpx.Client(
            base_url=base_url,
            transport=transport,
            verify=verify,
            trust_env=base_url.startswith("https:") and not is_trusted,
            follow_redirects=False,
            timeout=PATIENCE_S,
        )

    def ask(self, path: str, token: str = "") -> Answer | None:
        """The answer to a GET; None where there is none."""
        if self._socket_path is not None and not _is_there(self._socket_path):
            return None
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            with self._client.stream("GET", path, headers=headers) as answer:
                read = bytearray()
                for part in answer.iter_bytes():
                    read += part
                    if len(read) > MAX_ANSWER:
                        break
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return None
        return Answer(answer.status_code, _object(bytes(read)))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


@contextlib.contextmanager
def asker(
    base_url: str, socket_path: Path | None = None, *, is_trusted: bool = False
) -> Iterator[Asker]:
    """An `Asker` for as long as the block lasts."""
    one = Asker(base_url, socket_path, is_trusted=is_trusted)
    try:
        yield one
    finally:
        one.close()


def _is_there(path: Path) -> bool:
    """Somebody listens on a unix socket. httpcore leaves one open that it could not connect."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PATIENCE_S)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
