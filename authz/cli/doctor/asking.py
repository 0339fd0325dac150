"""What a sidecar says over HTTP, by its socket, its PORT or a gateway's URL.

- Unlike `remote.py` this takes every answer as one: a wrong status is what a check looks for.
- It runs within the sidecar's own memory limit, where httpx would be a tenth of it: so it is the
  standard library's client, an answer a connection.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from authz.cli.doctor.facts import Answer
from authz.unix_http import UnixConnection

#: Seconds for each answer. A service that does not answer in this time is not well.
PATIENCE_S: Final = 5.0
#: Bytes of an answer that are read.
MAX_ANSWER: Final = 256 * 1024


class Asker:
    """One way to a sidecar."""

    def __init__(
        self, base_url: str, socket_path: Path | None = None, *, is_ours: bool = False
    ) -> None:
        """
        Args:
            is_ours: it is on this machine, so that its certificate need not be for this name.
        """
        self.base_url = base_url
        self._parts = urlsplit(base_url)
        self._socket_path = socket_path
        self._is_ours = is_ours

    def ask(self, path: str, token: str = "") -> Answer | None:
        """The answer to a GET; None where there is none."""
        headers = {"accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        try:
            connection = self._connection()
            try:
                connection.request("GET", self._parts.path.rstrip("/") + path, headers=headers)
                answer = connection.getresponse()
                return Answer(answer.status, _object(answer.read(MAX_ANSWER)))
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._socket_path is not None:
            return UnixConnection(self._socket_path, PATIENCE_S)
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        context = ssl.create_default_context()
        if self._is_ours:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return http.client.HTTPSConnection(host, port, timeout=PATIENCE_S, context=context)
        proxy = _proxy(host)
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=PATIENCE_S, context=context)
        through = http.client.HTTPSConnection(*proxy, timeout=PATIENCE_S, context=context)
        through.set_tunnel(host, port or http.client.HTTPS_PORT)
        return through


def _proxy(host: str) -> tuple[str, int] | None:
    """The environment's proxy for an https URL; what goes through it stays unread there."""
    # Only here: it is large, and most sidecars are asked from inside.
    import urllib.request

    url = urllib.request.getproxies().get("https", "")
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if not parts.hostname or urllib.request.proxy_bypass(host):
        return None
    return parts.hostname, parts.port or 3128


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
