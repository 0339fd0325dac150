"""HTTP over a unix socket, by the standard library alone: who uses it has little memory."""

import http.client
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float = 1.0) -> None:
        super().__init__("sidecar", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect, as HTTPConnection does when it has to."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
