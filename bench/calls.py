"""A client of the ext_authz sockets that costs nothing to start: unary calls, many in one write.

HTTP/2 by the `h2` library. A batch is encoded before it is sent, so whoever answers gets all of its
calls at once, as from an Envoy that has as many requests at hand.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, StreamReset

from authz.edges.h2c.server import SERVICE

_HEADERS: Final = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", f"/{SERVICE}/Check"),
    (":authority", "ext_authz"),
    ("te", "trailers"),
    ("grpc-timeout", "5000m"),
    ("content-type", "application/grpc"),
]
_TIMEOUT_S: Final = 10.0
_PREFIX: Final = 5
_READ: Final = 256 * 1024


class Calls:
    """One connection to an authorizer."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._send()

    def ask(self, message: bytes, count: int = 1) -> list[bytes]:
        """Ask the same so many times at once; the answers.

        Raises:
            OSError: there was none in time, or the connection broke.
        """
        framed = b"\0" + len(message).to_bytes(4) + message
        answers: dict[int, bytes] = {}
        for _ in range(count):
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, _HEADERS)
            self._h2.send_data(stream, framed, end_stream=True)
            answers[stream] = b""
        self._send()
        waiting = set(answers)
        while waiting:
            received = self._socket.recv(_READ)
            if not received:
                raise ConnectionError("the authorizer has closed the connection")
            for event in self._h2.receive_data(received):
                if isinstance(event, DataReceived):
                    answers[event.stream_id] += event.data
                    self._h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                elif isinstance(event, StreamEnded):
                    waiting.discard(event.stream_id)
                elif isinstance(event, StreamReset):
                    raise ConnectionError(f"the authorizer reset a call ({event.error_code})")
            self._send()
        return [said[_PREFIX:] for said in answers.values()]

    def _send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())


@contextlib.contextmanager
def connected(address: Path) -> Iterator[Calls]:
    """A connection to whoever listens on a socket.

    Raises:
        OSError: nobody does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(str(address))
        yield Calls(connection)
