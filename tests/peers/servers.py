"""A transport that serves on a thread of its own, as it would in another process."""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import tempfile
import termios
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from authz.edges.ext_authz import ExtAuthzServer
from authz.edges.h2c.frames import HEADER, HEADER_SIZE
from authz.edges.h2c.server import SERVICE, H2cServer
from tests.e2e.sidecar import PATIENCE_S, wait_until

CHECK: Final = f"/{SERVICE}/Check"
#: What a call is told that was turned away.
AWAY: Final = b"turned away"
TRANSPORTS: Final = ("h2c", "grpc")


class Judge:
    """Answers a call with itself, backwards; keeps what was asked, and stands still when told."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._held: dict[bytes, threading.Event] = {}

    def hold(self, raw: bytes) -> None:
        """From the moment that this is asked the event loop stands still, until `release`."""
        self._held[raw] = threading.Event()

    def until_held(self, raw: bytes) -> None:
        """Wait until it is asked, and so the loop stands still."""
        wait_until(lambda: raw in self.asked, "the loop to stand still")

    def release(self, raw: bytes) -> None:
        self._held[raw].set()

    def release_all(self) -> None:
        for event in self._held.values():
            event.set()

    def check(self, raw: bytes) -> bytes:
        return self.check_all([raw])[0]

    def check_all(self, raws: Sequence[bytes]) -> list[bytes]:
        self.asked += raws
        for raw in raws:
            if raw in self._held:
                assert self._held[raw].wait(PATIENCE_S)
        return [raw[::-1] for raw in raws]


@dataclass
class Served:
    """A transport that is being served, and the loop that does it."""

    server: Any
    loop: asyncio.AbstractEventLoop
    #: As grpcio's client writes addresses.
    target: str

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it on the server's loop, to its end."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def unread(self) -> int:
        """Bytes that peers of h2c have sent and it has not read."""
        return sum(_unread(peer) for peer in list(self.server._peers))

    def frames(self) -> list[int]:
        """The types of the frames that have arrived and are not read, of a loop that stands still.

        What it read before ended with a frame: a client writes whole ones.
        """
        found = []
        for peer in list(self.server._peers):
            data = b""
            descriptor = os.dup(peer._transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=descriptor) as copy, contextlib.suppress(BlockingIOError):
                data = copy.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            while len(data) >= HEADER_SIZE:
                word, _, _ = HEADER.unpack_from(data)
                found.append(word & 0xFF)
                data = data[HEADER_SIZE + (word >> 8) :]
        return found

    def until_unread(self, least: int) -> None:
        """Wait until so many bytes have arrived at the socket of a loop that stands still."""
        wait_until(lambda: self.unread() >= least, f"{least} bytes to arrive")


def _unread(peer: Any) -> int:
    descriptor = peer._transport.get_extra_info("socket").fileno()
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))
    return int(count)


@contextlib.contextmanager
def serving(
    transport: str,
    check: Callable[[bytes], bytes],
    check_all: Callable[[Sequence[bytes]], list[bytes]],
    address: Path | tuple[str, int],
    turned_away: Callable[[], bytes] = lambda: AWAY,
    **h2c: Any,
) -> Iterator[Served]:
    """Serve at `address` until the block ends. `h2c`: what only its constructor knows."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    target = f"unix:{address}" if isinstance(address, Path) else f"{address[0]}:{address[1]}"

    async def make() -> Any:
        # Inside: grpcio's server belongs to the loop that it is made in.
        if transport == "h2c":
            server: Any = H2cServer(check_all, turned_away, address, **h2c)
        else:
            server = ExtAuthzServer(check, address)
        await server.start()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(make(), loop).result(PATIENCE_S)
        served = Served(server, loop, target)
        try:
            yield served
        finally:
            served.do(served.server.stop(0))
            served.do(_settled())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _settled() -> None:
    """Whatever closes its socket in the next turns of the loop has done so."""
    for _ in range(3):
        await asyncio.sleep(0)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A short-named temporary directory: unix socket paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="authz-") as path:
        yield Path(path)


@contextlib.contextmanager
def judging(transport: str) -> Iterator[tuple[Served, Judge]]:
    """A transport with a `Judge`, on a unix socket."""
    judge = Judge()
    with directory() as path:
        where = path / "ext_authz.sock"
        with serving(transport, judge.check, judge.check_all, where) as served:
            try:
                yield served, judge
            finally:
                judge.release_all()
