"""The fast transport's listener: what arrives in one turn of the event loop is judged together.

- A turn reads every connection that has something, then `check_all` judges a batch of what waits
  and commits once, and then its answers are written. So there is no answer before its row, and a
  commit is shared by what came together.
- What waits is bounded: `MAX_IN_FLIGHT` calls; the next one is turned away at once. A call whose
  caller has reset it, or whose deadline has passed, is not judged.
- Callers take turns: processes, whatever number of connections they have; where the kernel does
  not say which process it is, connections. One that sends more than a turn allows is not read from
  until that has been worked off: by one turn more between two looks at the sockets, of one such
  caller. Nor is one that does not read its answers.
- The newest connection is let in. When there are too many, one goes for it of the caller that has
  most: the one that was not of use for longest.
- Draining: the listener closes, each peer is told (GOAWAY), and every call that was accepted is
  answered before its connection closes.
"""

import asyncio
import logging
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Final, cast

from grpc_health.v1 import health_pb2

from authz.edges.cpu_quota import Thrift
from authz.edges.h2c.connection import (
    NOISE_PER_ANSWER,
    STREAM_S,
    Account,
    Budget,
    Connection,
    Stream,
)
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.grpc_status import Status
from authz.edges.h2c.queueing import FairQueue, Line
from authz.edges.sockets import BACKLOG, bind_local

log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.auth.v3.Authorization"
CHECK: Final = f"/{SERVICE}/Check".encode()
HEALTH: Final = b"/grpc.health.v1.Health/Check"

#: Calls that may wait. At 70 µs each the last one waits for half of the 100 ms that Envoy gives
#: it, so whoever is let in is answered in time. Envoy itself asks up to 1,024 at once.
MAX_IN_FLIGHT: Final = 512
#: Calls judged before their answers leave: Envoy works on these while we judge the next. More in
#: one batch save a little of the commit and let the two wait for each other (bench/README.md).
BATCH: Final = 8
#: Seconds that calls are collected for where processor time is short: what comes alone costs four
#: times what it costs among others, and a quota that is used up stops everything for tens of ms.
GATHER_S: Final = 0.002
#: Seconds that calls wait at a stretch for the rest of what their peer has sent: that they were
#: given up is in there, if they were, and is worth waiting for; but others can make that take long.
PATIENCE_S: Final = 0.02
#: Connections at once. Envoy has one for each of its threads.
MAX_CONNECTIONS: Final = 128
#: Seconds between two looks at what takes too long.
SWEEP_S: Final = 1.0
#: Seconds until a new connection must have said SETTINGS.
GREETING_S: Final = 5.0
#: Bytes that are read at once, and so what one peer can have waiting for its turns, besides the
#: frame and the block that are not complete: 64 of Envoy's calls. All peers come to 11 MiB.
READ_SIZE: Final = 64 * 1024
#: Bytes that may wait for a peer to read them before it is not read from: hundreds of answers,
#: besides what the kernel keeps.
MAX_UNREAD: Final = 64 * 1024
#: Lines logged about violations in one sweep; the rest are counted.
MAX_LINES: Final = 3


#: Linux's SO_PEERCRED and `struct ucred` (unix(7)); other systems have others, or none.
_CREDENTIALS: Final = getattr(socket, "SO_PEERCRED", 0)
_UCRED: Final = struct.Struct("3i")


class H2cServer:
    """Serves ext_authz on a unix socket or a loopback address."""

    def __init__(
        self,
        check_all: Callable[[Sequence[bytes]], list[bytes]],
        turned_away: Callable[[], bytes],
        address: Path | tuple[str, int],
        batch: int = BATCH,
        thrift: Thrift | None = None,
    ) -> None:
        """
        Args:
            check_all: CheckRequests in, as many CheckResponses out; never raises.
            turned_away: the CheckResponse for a call that is not judged.
            address: a socket's path, or a loopback address and a port.
            batch: calls that are judged together at most.
            thrift: when to save processor time; where there is enough, never.
        """
        self._thrift = thrift
        self._address = address
        self._batch = batch
        self._check_all = check_all
        self._turned_away = turned_away
        #: Connections, oldest first.
        self._peers: dict[_Peer, None] = {}
        #: Those that we have closed and that have something to read before they are gone.
        self._leaving: dict[_Peer, None] = {}
        self._waiting: FairQueue[_Peer] = FairQueue(MAX_IN_FLIGHT)
        self._callers: dict[Hashable, _Caller] = {}
        #: Callers with bytes that their turn did not reach, in the order of their next turns.
        self._turns: deque[_Caller] = deque()
        #: Those who have been read from since the last round.
        self._fed: set[Account] = set()
        #: A round follows; and it is the one that calls were collected for.
        self._scheduled = False
        self._gathered = False
        self._serving = False
        #: Where all peers are read into, one after the other.
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._budget = Budget()
        self._lines = 0
        self._sweep: asyncio.Task[None] | None = None
        #: What peers have done against the protocol, by its error code.
        self.violations: Counter[str] = Counter()
        #: Calls that were not judged because too many waited.
        self.overloaded = 0
        self._given_up = 0

    @property
    def abandoned(self) -> int:
        """Calls that were not judged because their caller had given up."""
        return self._given_up + self._waiting.abandoned

    def figures(self) -> dict[str, object]:
        """Connections now; since the start, calls not judged and violations by error code."""
        return {
            "name": "h2c",
            "connections": len(self._peers),
            "overloaded": self.overloaded,
            "abandoned": self.abandoned,
            "violations": dict(self.violations),
        }

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ValueError: the address can be reached from other hosts, whom cleartext does not serve.
            OSError: it cannot be listened on.
        """
        self._loop = asyncio.get_running_loop()
        listener = bind_local(self._address)
        if isinstance(self._address, Path):
            self._server: asyncio.Server = await self._loop.create_unix_server(
                lambda: _Peer(self), sock=listener, backlog=BACKLOG
            )
        else:
            self._server = await self._loop.create_server(
                lambda: _Peer(self), sock=listener, backlog=BACKLOG
            )
        self._serving = True
        self._sweep = self._loop.create_task(self._look_around())

    async def stop(self, grace_s: float) -> None:
        """Stop accepting; calls that were accepted get `grace_s` seconds to be answered."""
        self._serving = False
        self._server.close()
        if isinstance(self._address, Path):
            self._address.unlink(missing_ok=True)
        for peer in list(self._peers):
            peer.drain()
        deadline = self._loop.time() + grace_s
        while (self._peers or self._leaving) and self._loop.time() < deadline:
            await asyncio.sleep(min(0.005, grace_s))
        if self._sweep is not None:
            self._sweep.cancel()
        for peer in [*self._peers, *self._leaving]:
            # Now, not when the loop gets to it: nothing is judged any more once we have returned.
            peer.connection.lost()
            peer.abort()

    # ------------------------------------------------------------ rounds

    def schedule(self) -> None:
        """There is something to do once the sockets have been looked at."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._round)

    def has_read(self, caller: "_Caller") -> None:
        """A caller's bytes came, and were read as far as its allowance went."""
        self._fed.add(caller.account)
        self.schedule()

    def wait_turn(self, peer: "_Peer") -> None:
        """Not all that a peer has sent was read: it goes on when the others have had a turn."""
        caller = peer.caller
        if not caller.behind:
            self._turns.append(caller)
        caller.behind.append(peer)
        self.schedule()

    def _round(self) -> None:
        """What comes between two looks at the sockets: one turn more, and one batch."""
        self._scheduled = False
        peer = None
        if self._turns:
            # One alone, so that whoever asks little is not behind all that ask much.
            caller = self._turns.popleft()
            peer = caller.behind.popleft()
            if caller.behind:
                self._turns.append(caller)
            self._fed.add(caller.account)
        for account in self._fed:
            account.refill()
        self._fed.clear()
        if peer is not None:
            peer.go_on()
        if self._waiting:
            if self._should_gather():
                # Not a timer: each call that came meanwhile would wake us, and that is the cost.
                time.sleep(GATHER_S)
                self.schedule()
            else:
                self._judge()
        if self._turns:
            self.schedule()

    def _should_gather(self) -> bool:
        """Whether more calls are worth waiting for; not twice in succession."""
        self._gathered = (
            self._thrift is not None
            and not self._gathered
            and not self._turns
            and len(self._waiting) < self._batch
            and self._thrift.short(self.now())
        )
        return self._gathered

    def _judge(self) -> None:
        """One batch: judge, commit, answer."""
        taken = self._waiting.take(self._batch)
        if not taken:
            # What waits, if anything does, is of those who are being read, for whose turns there
            # are rounds, or who are about to leave, which makes another.
            return
        if self._waiting:
            self.schedule()
        batch: list[tuple[_Peer, Stream]] = []
        now = self.now()
        touched: dict[_Peer, None] = {}
        for entry in taken:
            peer, stream = entry
            touched[peer] = None
            if now > stream.deadline:
                self._given_up += 1
                reason = "the caller's deadline has passed"
                peer.connection.refuse(stream, Status.DEADLINE_EXCEEDED, reason)
            else:
                batch.append(entry)
        if batch:
            try:
                answers = self._check_all([stream.message for _, stream in batch])
            except Exception:
                log.exception("ext_authz: the gate failed")
                for peer, stream in batch:
                    peer.connection.refuse(stream, Status.INTERNAL, "the gate failed")
            else:
                for (peer, stream), answer in zip(batch, answers, strict=True):
                    peer.connection.answer(stream, answer, NOISE_PER_ANSWER)
        for peer in touched:
            peer.answered_at = now
            peer.flush()

    # ------------------------------------------------------------ what peers ask

    def ask(self, peer: "_Peer", asked: Sequence[Stream]) -> None:
        """Queue what is for the gate, answer what is not."""
        for stream in asked:
            if stream.ended:
                self._given_up += 1
            elif stream.head.method != CHECK:
                self._answer_other(peer.connection, stream)
            else:
                refused = self._waiting.put(peer.caller.line, peer, stream)
                if refused is not None:
                    self._turn_away(*refused, asking=peer)

    def _turn_away(self, peer: "_Peer", stream: Stream, asking: "_Peer") -> None:
        if stream.ended:
            self._given_up += 1
            return
        self.overloaded += 1
        peer.connection.answer(stream, self._turned_away())
        if peer is not asking:
            peer.wake()

    def _answer_other(self, connection: Connection, stream: Stream) -> None:
        if stream.head.method != HEALTH:
            connection.refuse(stream, Status.UNIMPLEMENTED, "there is no such method here")
            return
        try:
            service = health_pb2.HealthCheckRequest.FromString(stream.message).service
        except Exception:  # noqa: BLE001 - protobuf's decoder names no class for all its errors
            connection.refuse(stream, Status.INTERNAL, "not a HealthCheckRequest")
            return
        if service not in ("", SERVICE):
            connection.refuse(stream, Status.NOT_FOUND, "there is no such service here")
            return
        state = health_pb2.HealthCheckResponse
        said = state(status=state.SERVING if self._serving else state.NOT_SERVING)
        connection.answer(stream, said.SerializeToString())

    # ------------------------------------------------------------ connections

    def joined(self, peer: "_Peer", transport: asyncio.Transport) -> "_Caller | None":
        """A peer has connected; whose connection it is, and nobody's while we are going."""
        if not self._serving:
            return None
        who = self.identity(transport)
        if len(self._peers) >= MAX_CONNECTIONS:
            self._make_room(who)
        caller = self._callers.get(who)
        if caller is None:
            caller = self._callers[who] = _Caller(who)
            self._budget.callers = len(self._callers)
        caller.peers += 1
        self._peers[peer] = None
        return caller

    def identity(self, transport: asyncio.Transport) -> Hashable:
        """Who is at the other end, as far as the kernel says: a process and its user.

        One in another PID namespace has the number 0, as all in there have; then, and where there
        is no unix socket, every connection counts for itself.
        """
        if isinstance(self._address, Path) and _CREDENTIALS:
            raw = transport.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, _CREDENTIALS, _UCRED.size
            )
            process, user, _ = _UCRED.unpack(raw)
            if process:
                return process, user
        return object()

    def _make_room(self, coming: Hashable) -> None:
        def connections(peer: _Peer) -> int:
            return peer.caller.peers + (peer.caller.who == coming)

        most = max(map(connections, self._peers))
        of_most = [peer for peer in self._peers if connections(peer) == most]
        min(of_most, key=lambda peer: peer.used_at).dismiss()

    def leaves(self, peer: "_Peer") -> None:
        """Nothing more is taken from a peer, which may still read what it was sent."""
        self._forget(peer)
        self._leaving[peer] = None
        if len(self._leaving) > MAX_CONNECTIONS:
            first = next(iter(self._leaving))
            del self._leaving[first]
            first.abort()

    def left(self, peer: "_Peer") -> None:
        """A peer's connection is closed."""
        self._forget(peer)
        self._leaving.pop(peer, None)
        self.schedule()

    def _forget(self, peer: "_Peer") -> None:
        if peer in self._peers:
            del self._peers[peer]
            caller = peer.caller
            caller.peers -= 1
            if not caller.peers:
                del self._callers[caller.who]
                self._budget.callers = len(self._callers)

    def make_connection(self, caller: "_Caller") -> Connection:
        """The protocol's side of a new peer."""
        return Connection(self._on_violation, self._budget, caller.account)

    def soon(self, call: Callable[[], None]) -> None:
        """In the loop's next turn."""
        self._loop.call_soon(call)

    def now(self) -> float:
        """The loop's clock, seconds."""
        return self._loop.time()

    def _on_violation(self, code: ErrorCode, reason: str) -> None:
        self.violations[code.name] += 1
        self._lines += 1
        if self._lines <= MAX_LINES:
            log.warning("ext_authz: a peer broke HTTP/2: %s (%s)", reason, code.name)

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self._tell_the_rest()
                if self._thrift:
                    self._thrift.renew()
                for peer in [*self._peers, *self._leaving]:
                    peer.expire()
                    # One in a turn: each may have a thousand streams to give up on.
                    await asyncio.sleep(0)
            except Exception:
                log.exception("ext_authz: looking for what takes too long failed")

    def _tell_the_rest(self) -> None:
        if self._lines > MAX_LINES:
            log.warning("ext_authz: peers broke HTTP/2 %d times more", self._lines - MAX_LINES)
        self._lines = 0


class _Caller:
    """Who asks, over one or more connections."""

    __slots__ = ("account", "behind", "line", "peers", "who")

    def __init__(self, who: Hashable) -> None:
        self.who = who
        self.account = Account()
        #: Its calls that wait.
        self.line: Line[_Peer] = Line()
        #: Its connections with bytes that were not read yet, in the order of their turns.
        self.behind: deque[_Peer] = deque()
        #: How many it has.
        self.peers = 0


class _Peer(asyncio.BufferedProtocol):
    """One accepted connection."""

    #: Whose it is, and what is said on it; set when it is let in.
    caller: _Caller
    connection: Connection

    def __init__(self, server: H2cServer) -> None:
        self._server = server
        #: When it connected; when a call of it was last answered and when we closed it, or 0.
        self._since = server.now()
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
        caller = self._server.joined(self, accepted)
        if caller is None:
            accepted.abort()
            return
        self._transport = accepted
        self.caller = caller
        self.connection = self._server.make_connection(caller)
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
            and self._server.now() - self._behind_since < PATIENCE_S
        )

    @property
    def _can_go_on(self) -> bool:
        return self.connection.behind and not self._unread_since and not self._left_at

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._server.buffer[:nbytes]))
        self._server.has_read(self.caller)

    def _receive(self, data: bytes) -> None:
        asked = self.connection.receive(data, self._server.now())
        if asked:
            self._server.ask(self, asked)
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
            self._behind_since = self._server.now()
        if self._can_go_on and not self._in_turn:
            self._in_turn = True
            self._server.wait_turn(self)
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
            self._server.left(self)

    def pause_writing(self) -> None:
        self._unread_since = self._server.now()
        self._pace()
        self._server.schedule()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        self._pace()

    def wake(self) -> None:
        """There is something to write that came about in another peer's turn."""
        if not self._waking:
            self._waking = True
            self._server.soon(self._awake)

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
            self._left_at = self._server.now()
            transport.close()
            self._server.leaves(self)

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
        now = self._server.now()
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
