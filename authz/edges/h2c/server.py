"""The fast transport's listener: what arrives in one turn of the event loop is one batch.

- A turn reads every connection that has something, then `check_all` judges what was asked, commits
  once, and each connection gets one write. So there is no answer before its row, and a commit is
  shared by whatever came together.
- What waits is bounded: `MAX_IN_FLIGHT` calls; the next one is turned away at once. A call whose
  caller has reset it, or whose deadline has passed, is not judged.
- Peers take turns. One that sends more than a turn allows is not read from until it has been worked
  off, one peer's turn between two looks at the sockets. Nor is one that does not read its answers.
- The newest connection is let in. When there are too many, the one goes for it whose last answer
  is longest ago; one whose calls wait for the gate never is.
- Draining: the listener closes, each peer is told (GOAWAY), and every call that was accepted is
  answered before its connection closes.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

from grpc_health.v1 import health_pb2

from authz.edges.h2c.connection import NOISE_PER_ANSWER, STREAM_S, Budget, Connection, Stream
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.grpc_status import Status
from authz.edges.h2c.queueing import FairQueue
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
#: Connections at once. Envoy has one for each of its threads.
MAX_CONNECTIONS: Final = 128
#: Seconds between two looks at what takes too long.
SWEEP_S: Final = 1.0
#: Seconds until a new connection must have said SETTINGS.
GREETING_S: Final = 5.0
#: Bytes that are read at once, and so what one peer can have waiting for its turns: 64 of Envoy's
#: calls. All peers together come to 8 MiB.
READ_SIZE: Final = 64 * 1024
#: Bytes that may wait for a peer to read them before it is not read from: hundreds of answers,
#: besides what the kernel keeps.
MAX_UNREAD: Final = 64 * 1024
#: Lines logged about violations in one sweep; the rest are counted.
MAX_LINES: Final = 3


class H2cServer:
    """Serves ext_authz on a unix socket or a loopback address."""

    def __init__(
        self,
        check_all: Callable[[Sequence[bytes]], list[bytes]],
        turned_away: Callable[[], bytes],
        address: Path | tuple[str, int],
        batch: int = BATCH,
    ) -> None:
        """
        Args:
            check_all: CheckRequests in, as many CheckResponses out; never raises.
            turned_away: the CheckResponse for a call that is not judged.
            address: a socket's path, or a loopback address and a port.
            batch: calls that are judged together at most.
        """
        self._address = address
        self._batch = batch
        self._check_all = check_all
        self._turned_away = turned_away
        #: Connections, oldest first.
        self._peers: dict[_Peer, None] = {}
        #: Those that we have closed and that have something to read before they are gone.
        self._leaving: dict[_Peer, None] = {}
        self._waiting: FairQueue[_Peer] = FairQueue(MAX_IN_FLIGHT)
        self._judging = False
        #: Peers with bytes that their turn did not reach, in the order of their next turns.
        self._behind: deque[_Peer] = deque()
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
        self._late = 0

    @property
    def abandoned(self) -> int:
        """Calls that were not judged because their caller had given up."""
        return self._late + self._waiting.abandoned

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
            peer.abort()

    # ------------------------------------------------------------ what peers ask

    def ask(self, peer: "_Peer", asked: Sequence[Stream]) -> None:
        """Queue what is for the gate, answer what is not."""
        for stream in asked:
            if stream.ended:
                self._late += 1
            elif stream.head.method != CHECK:
                self._answer_other(peer.connection, stream)
            else:
                refused = self._waiting.put(peer, stream)
                if refused is not None:
                    self._turn_away(*refused, asking=peer)
        self.judge_soon()

    def _turn_away(self, peer: "_Peer", stream: Stream, asking: "_Peer") -> None:
        if stream.ended:
            self._late += 1
            return
        self.overloaded += 1
        peer.connection.answer(stream, self._turned_away())
        if peer is not asking:
            peer.flush()

    def judge_soon(self) -> None:
        """Calls may wait, and no batch is on its way."""
        if not self._judging and self._waiting:
            self._judging = True
            self._loop.call_soon(self._judge)

    def _judge(self) -> None:
        self._judging = False
        self._judge_batch()

    def _judge_batch(self) -> None:
        """Judge, commit, answer."""
        taken = self._waiting.take(self._batch)
        if not taken:
            return  # What waits is of peers that are behind: `_next_turn` comes back to it.
        # The next one after the sockets were looked at: its calls may have been given up by then.
        self.judge_soon()
        batch: list[tuple[_Peer, Stream]] = []
        now = self._loop.time()
        touched: dict[_Peer, None] = {}
        for entry in taken:
            peer, stream = entry
            if now > stream.deadline:
                self._late += 1
                reason = "the caller's deadline has passed"
                peer.connection.refuse(stream, Status.DEADLINE_EXCEEDED, reason)
                touched[peer] = None
            else:
                batch.append(entry)
        if batch:
            answers = self._check_all([stream.message for _, stream in batch])
            for (peer, stream), answer in zip(batch, answers, strict=True):
                peer.connection.answer(stream, answer, NOISE_PER_ANSWER)
                touched[peer] = None
        for peer in touched:
            peer.answered_at = now
            peer.flush()

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

    def joined(self, peer: "_Peer") -> bool:
        """A peer has connected; False: there are too many, or we are going."""
        if not self._serving or (len(self._peers) >= MAX_CONNECTIONS and not self._made_room()):
            return False
        self._peers[peer] = None
        return True

    def _made_room(self) -> bool:
        idle = [peer for peer in self._peers if not peer.line]
        if not idle:
            return False
        min(idle, key=lambda peer: peer.answered_at).dismiss()
        return True

    def leaves(self, peer: "_Peer") -> None:
        """Nothing more is taken from a peer, which may still read what it was sent."""
        self._peers.pop(peer, None)
        self._leaving[peer] = None
        if len(self._leaving) > MAX_CONNECTIONS:
            first = next(iter(self._leaving))
            del self._leaving[first]
            first.abort()

    def left(self, peer: "_Peer") -> None:
        """A peer's connection is closed."""
        self._peers.pop(peer, None)
        self._leaving.pop(peer, None)
        self.judge_soon()

    def make_connection(self) -> Connection:
        """The protocol's side of a new peer."""
        return Connection(self._on_violation, self._budget)

    def now(self) -> float:
        """The loop's clock, seconds."""
        return self._loop.time()

    def wait_turn(self, peer: "_Peer") -> None:
        """A peer has sent more than its turn allowed: it goes on when the others have had one."""
        self._behind.append(peer)
        if len(self._behind) == 1:
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        # One, and then a look at the sockets, so that whoever asks little is not behind them all.
        peer = self._behind.popleft()
        if self._behind:
            self._loop.call_soon(self._next_turn)
        peer.go_on()
        if not peer.behind:
            # Before it is read from again, or who never stops sending would have no answer.
            self._judge_batch()

    def _on_violation(self, code: ErrorCode, reason: str) -> None:
        self.violations[code.name] += 1
        self._lines += 1
        if self._lines <= MAX_LINES:
            log.warning("ext_authz: a peer broke HTTP/2: %s (%s)", reason, code.name)

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._tell_the_rest()
            for peer in [*self._peers, *self._leaving]:
                peer.expire()
                # One in a turn: each may have a thousand streams to give up on.
                await asyncio.sleep(0)

    def _tell_the_rest(self) -> None:
        if self._lines > MAX_LINES:
            log.warning("ext_authz: peers broke HTTP/2 %d times more", self._lines - MAX_LINES)
        self._lines = 0


class _Peer(asyncio.BufferedProtocol):
    """One accepted connection."""

    def __init__(self, server: H2cServer) -> None:
        self._server = server
        self.connection = server.make_connection()
        #: Its calls that wait (`FairQueue`).
        self.line: deque[Stream] = deque()
        #: When it connected, when it last had an answer of the gate, when we closed it; 0: never.
        self._since = server.now()
        self.answered_at = 0.0
        self._left_at = 0.0
        self._transport: asyncio.Transport | None = None
        #: Since when it has not read what it was sent; 0 while it does.
        self._unread_since = 0.0
        self._reading = True
        self._in_turn = False
        self._hung_up = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own class, which is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.joined(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=MAX_UNREAD)
        self.flush()

    @property
    def behind(self) -> bool:
        """More has come of it than has been read, and will be in its next turn."""
        return self.connection.behind and not self._unread_since and not self._left_at

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._server.buffer[:nbytes]))

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
        if self.behind:
            self._receive(b"")

    def _pace(self) -> None:
        """Read what it sends while it reads what it is sent, and has nothing left to work off."""
        transport, behind = self._transport, self.connection.behind
        if transport is None or transport.is_closing():
            return
        if self.behind and not self._in_turn:
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
        self._transport = None
        self.connection.lost()
        self._server.left(self)

    def pause_writing(self) -> None:
        self._unread_since = self._server.now()
        self._pace()
        self._server.judge_soon()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        self._pace()

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
