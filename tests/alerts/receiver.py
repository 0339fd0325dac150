"""A real HTTP server that takes alerts, and that can be as bad as receivers are."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Taken(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """What has come, and what is answered."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        #: Statuses of the next answers; the last one stays.
        self.statuses: list[int] = [204]
        self.headers: dict[str, str] = {}
        self.body = b""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=a-secret-of-the-hook"

    def answer(self, *statuses: int, body: bytes = b"", **headers: str) -> None:
        """What is answered from now on."""
        self.statuses, self.body = list(statuses), body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def next_status(self) -> int:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.taken.append(Taken(self.path, dict(self.headers), body))
            status = receiver.next_status()
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"" if status == 204 else receiver.body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def speaking(*pieces: bytes, pause_s: float = 0.0, keep_open: bool = True) -> Iterator[int]:
    """The port of a server that says the same to everybody, however odd.

    Args:
        pause_s: seconds between two pieces.
        keep_open: and then nothing more is said, for as long as the test lasts.
    """
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def serve() -> None:
        open_ones: list[socket.socket] = []
        while not stop.is_set():
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            with contextlib.suppress(OSError):
                for piece in pieces:
                    peer.sendall(piece)
                    if stop.wait(pause_s):
                        break
            if keep_open:
                open_ones.append(peer)
            else:
                peer.close()
        for one in open_ones:
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join()
        listener.close()
