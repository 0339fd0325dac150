"""A peer that floods the fast transport, as a process of its own.

    python -m bench.hostile KIND CONNECTIONS SOCKET

It sends as fast as it is read from, reads whatever comes back, and connects again when it is cut
off, until SIGTERM. `KINDS` says with what.
"""

import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import asked
from tests.edges.h2c.peer import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    SETTINGS_ACK,
    call,
    headers,
    reset,
    settings,
    window,
)

#: `:method: POST`, `:scheme: http`, `:path: /`: what costs most for its size, and is answered 415.
_SMALL: Final = b"\x83\x86\x84"
#: 480 fields of one letter and no value.
_WIDE: Final = _SMALL + b"\x00\x01a\x00" * 477
_BYTES: Final = 16_384
_AGAIN_S: Final = 0.01
#: A stream's number ends where 31 bits do; whoever gets there begins anew.
_LAST: Final = 2**31 - 1

_ASKED: Final = asked.check_request()

#: What is sent of one stream; and whether SETTINGS are acknowledged, so that a block that has been
#: seen is not decoded again.
KINDS: Final[dict[str, tuple[Callable[[int], bytes], bool]]] = {
    "small": (lambda n: headers(n, _SMALL, END_HEADERS | END_STREAM), True),
    "unknown": (lambda n: headers(n, _SMALL, END_HEADERS | END_STREAM), False),
    "wide": (lambda n: headers(n, _WIDE, END_HEADERS | END_STREAM), False),
    "resets": (lambda n: call(n, _ASKED) + reset(n), True),
    "calls": (lambda n: call(n, _ASKED), True),
}


class _Flood:
    """One connection and what it is to send next."""

    def __init__(
        self, connected: socket.socket, piece: Callable[[int], bytes], known: bool
    ) -> None:
        self._socket = connected
        self._piece = piece
        self._number = 1
        opened = window(0, _LAST - 65_535)
        self._unsent = PREFACE + settings() + SETTINGS_ACK * known + opened
        # RFC 7541 §4.2: after the acknowledgement a block says once that the table is empty.
        self._first = b"\x20" if known else b""

    def go_on(self, events: int) -> None:
        """Raises OSError when it is cut off."""
        if events & selectors.EVENT_READ and not self._socket.recv(1 << 18):
            raise ConnectionResetError
        if events & selectors.EVENT_WRITE:
            if not self._unsent:
                self._unsent = self._more()
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _more(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            self._number += 2
            return headers(self._number - 2, first + _SMALL, END_HEADERS | END_STREAM)
        if self._number > _LAST - _BYTES:
            raise ConnectionResetError
        count = max(1, _BYTES // len(self._piece(1)))
        start, self._number = self._number, self._number + 2 * count
        return b"".join(self._piece(n) for n in range(start, self._number, 2))


def flood(kind: str, connections: int, address: Path) -> None:
    """Until the process is ended."""
    piece, known = KINDS[kind]
    selector = selectors.DefaultSelector()
    while True:
        while len(selector.get_map()) < connections:
            connected = socket.socket(socket.AF_UNIX)
            try:
                connected.connect(str(address))
            except OSError:
                connected.close()
                time.sleep(_AGAIN_S)
                break
            connected.setblocking(False)
            one = _Flood(connected, piece, known=known)
            selector.register(connected, selectors.EVENT_READ | selectors.EVENT_WRITE, one)
        for key, events in selector.select(_AGAIN_S):
            try:
                key.data.go_on(events)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(key.fileobj)
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


def main() -> None:
    """Flood."""
    kind, connections, address = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    flood(kind, int(connections), Path(address))


if __name__ == "__main__":
    main()
