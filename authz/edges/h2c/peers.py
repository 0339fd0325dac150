"""One accepted connection, and whose it is.

- It is read from while it reads what it is sent and nothing of what it sent is left to read.
- What is left is read in its caller's turns; that it has hung up counts when that is done.
- It is closed when everything is said, and gone when it does not read that in time.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Protocol, cast

from authz.edges.h2c.connection import STREAM_S, Account, Connection, Stream
from authz.edges.h2c.queueing import Line

log = logging.getLogger(__name__)

#: Seconds that calls wait at a stretch for the rest of what their peer has sent: that they were
#: given up is in there, if they were, and is worth waiting for; but others can make that take long.
PATIENCE_S: Final = 0.02
#: Seconds until a new connection must have said SETTINGS.
GREETING_S: Final = 5.0
#: Bytes that may wait for a peer to read them before it is not read from: hundreds of answers,
#: besides what the kernel keeps.
MAX_UNREAD: Final = 64 * 1024

#: Linux's SO_PEERCRED and `struct ucred` (unix(7)); other systems have others, or none.
CREDENTIALS: Final = getattr(socket, "SO_PEERCRED", 0)
_UCRED: Final = struct.Struct("3i")


class Hub(Protocol):
    """What a peer needs of its server."""

    #: Where all peers are read into, one after the other.
    buffer: memoryview

    def now(self) -> float:
        """The loop's clock, seconds."""

    def soon(self, call: Callable[[], None]) -> None:
        """In the loop's next turn."""

    def schedule(self) -> None:
        """There is something to do once the sockets have been looked at."""

    def joined(self, peer: "Peer", transport: asyncio.Transport) -> "Caller | None":
        """A peer has connected; whose connection it is, and nobody's while we are going."""

    def make_connection(self, caller: "Caller") -> Connection:
        """The protocol's side of a new peer."""

    def ask(self, peer: "Peer", asked: Sequence[Stream]) -> None:
        """Queue what is for the gate, answer what is not."""

    def has_read(self, caller: "Caller") -> None:
        """A caller's bytes came, and were read as far as its allowance went."""

    def wait_turn(self, peer: "Peer") -> None:
        """Not all that a peer has sent was read: it goes on when the others have had a turn."""

    def leaves(self, peer: "Peer") -> None:
        """Nothing more is taken from a peer, which may still read what it was sent."""

    def left(self, peer: "Peer") -> None:
        """A peer's connection is closed."""


def identity(transport: asyncio.Transport) -> Hashable:
    """Who is at the other end, as far as the kernel says: a process and its user.

    One in another PID namespace has the number 0, as all in there have; then, and where it is no
    unix socket, every connection counts for itself.
    """
    accepted = transport.get_extra_info("socket")
    if accepted.family == socket.AF_UNIX and CREDENTIALS:
        raw = accepted.getsockopt(socket.SOL_SOCKET, CREDENTIALS, _UCRED.size)
        process, user, _ = _UCRED.unpack(raw)
        if process:
            return process, user
    return object()


class Caller:
    """Who asks, over one or more connections."""

    __slots__ = ("account", "behind", "line", "peers", "who")

    def __init__(self, who: Hashable) -> None:
        self.who = who
        self.account = Account()
        #: Its calls that wait.
        self.line: Line[Peer] = Line()
        #: Its connections with bytes that were not read yet, in the order of their turns.
        self.behind: deque[Peer] = deque()
        #: How many it has.
        self.peers = 0


class Peer(asyncio.BufferedProtocol):
    """One accepted connection."""

    #: Whose it is, and what is said on it; set when it is let in.
    caller: Caller
    connection: Connection

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: When it connected; when a call of it was last answered and when we closed it, or 0.
        self._since = hub.now()
        self.answered_at = 0.0
        self._left_at = 0.0
        self._transport: asyncio.Transport | None = None
        #: Since when it has not read what it was sent; 0 while it does.
        self._unread_since = 0.0
        #: Since when there is something left to read of what it has sent; 0 while there is not.
        self._behind_since = 0.0
        self._reading = True
        self._in_turn = False
        self._waking = False
        self._hung_up = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own class, which is no subclass of asyncio's.
        accepted = cast("asyncio.Transport", transport)
        caller = self._hub.joined(self, accepted)
        if caller is None:
            accepted.abort()
            return
        self._transport = accepted
        self.caller = caller
        self.connection = self._hub.make_connection(caller)
        self.connection.wake = self.wake
        accepted.set_write_buffer_limits(high=MAX_UNREAD)
        self.flush()

    @property
    def used_at(self) -> float:
        """When it was last of use."""
        return max(self._since, self.answered_at)

    @property
    def being_read(self) -> bool:
        """More has come of it than has been read, and is about to be: it may be a reset."""
        return (
            self._behind_since > 0
            and self._can_go_on
            and self._hub.now() - self._behind_since < PATIENCE_S
        )

    @property
    def _can_go_on(self) -> bool:
        return self.connection.behind and not self._unread_since and not self._left_at

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._hub.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._hub.buffer[:nbytes]))
        self._hub.has_read(self.caller)

    def _receive(self, data: bytes) -> None:
        asked = self.connection.receive(data, self._hub.now())
        if asked:
            self._hub.ask(self, asked)
        self.flush()
        if self.connection.behind or not self._reading or self._hung_up:
            self._pace()

    def go_on(self) -> None:
        """Its turn: what came is read further."""
        self._in_turn = False
        if not self._can_go_on:
            return
        try:
            self._receive(b"")
        except Exception:
            # Nobody else would read it any further. The loop does as much for what it calls itself.
            log.exception("ext_authz: a connection failed")
            self.abort()

    def _pace(self) -> None:
        """Read what it sends while it reads what it is sent, and has nothing left to work off."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        behind = self.connection.behind
        if not behind:
            self._behind_since = 0.0
        elif not self._behind_since:
            self._behind_since = self._hub.now()
        if self._can_go_on and not self._in_turn:
            self._in_turn = True
            self._hub.wait_turn(self)
        if self._hung_up and not behind:
            self.connection.hung_up()
            self.flush()
        elif self._reading != (not behind and not self._unread_since):
            self._reading = not self._reading
            if self._reading:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def eof_received(self) -> bool:
        # It may have shut down its side alone, and still wait for answers.
        self._hung_up = True
        self._pace()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._transport is not None:
            self._transport = None
            self.connection.lost()
            self._hub.left(self)

    def pause_writing(self) -> None:
        self._unread_since = self._hub.now()
        self._pace()
        self._hub.schedule()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        self._pace()

    def wake(self) -> None:
        """There is something to write that came about in another peer's turn."""
        if not self._waking:
            self._waking = True
            self._hub.soon(self._awake)

    def _awake(self) -> None:
        self._waking = False
        self.flush()

    def flush(self) -> None:
        """Write what there is to write; close when that was all."""
        transport = self._transport
        if transport is None:
            return
        out = self.connection.take_output()
        if out:
            transport.write(out)
        if self.connection.drained and not self._left_at:
            self._left_at = self._hub.now()
            transport.close()
            self._hub.leaves(self)

    def drain(self) -> None:
        """Tell the peer that we go."""
        self.connection.drain()
        self.flush()

    def dismiss(self) -> None:
        """Let the connection go, which may come again."""
        self.connection.dismiss()
        self.flush()

    def expire(self) -> None:
        """Give up on what takes too long."""
        now = self._hub.now()
        silent = not self.connection.greeted and now - self._since > GREETING_S
        deaf = self._unread_since and now - self._unread_since > STREAM_S
        gone = self._left_at and now - self._left_at > STREAM_S
        if silent or deaf or gone:
            self.abort()
            return
        self.connection.expire(now)
        self.flush()

    def abort(self) -> None:
        """Close now, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
