"""The fast transport's listener: what arrives in one turn of the event loop is one batch.

- A turn reads every connection that has something, then `check_all` judges what was asked, commits
  once, and each connection gets one write. So there is no answer before its row, and a commit is
  shared by whatever came together.
- What waits is bounded: `MAX_IN_FLIGHT` calls; the next one is turned away at once. A call whose
  caller has reset it, or whose deadline has passed, is not judged.
- A peer that does not read its answers is not read from until it does.
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

from authz.edges.h2c.connection import STREAM_S, Budget, Connection, Stream
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.grpc_status import Status
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
#: Bytes that may wait for a peer to read them before it is not read from.
MAX_UNREAD: Final = 256 * 1024
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
        self._peers: set[_Peer] = set()
        self._waiting: deque[tuple[_Peer, Stream]] = deque()
        self._scheduled = False
        self._looked_for_room = False
        self._serving = False
        self._budget = Budget()
        self._lines = 0
        self._sweep: asyncio.TimerHandle | None = None
        #: What peers have done against the protocol, by its error code.
        self.violations: Counter[str] = Counter()
        #: Calls that were not judged because too many waited.
        self.overloaded = 0
        #: Calls that were not judged because their caller had given up.
        self.abandoned = 0

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
        self._sweep = self._loop.call_later(SWEEP_S, self._look_around)

    async def stop(self, grace_s: float) -> None:
        """Stop accepting; calls that were accepted get `grace_s` seconds to be answered."""
        self._serving = False
        self._server.close()
        if isinstance(self._address, Path):
            self._address.unlink(missing_ok=True)
        for peer in list(self._peers):
            peer.drain()
        deadline = self._loop.time() + grace_s
        while self._peers and self._loop.time() < deadline:
            await asyncio.sleep(min(0.005, grace_s))
        if self._sweep is not None:
            self._sweep.cancel()
        for peer in list(self._peers):
            peer.close()

    # ------------------------------------------------------------ what peers ask

    def ask(self, peer: "_Peer", asked: Sequence[Stream]) -> None:
        """Queue what is for the gate, answer what is not."""
        for stream in asked:
            method = stream.head.method
            if method != CHECK:
                self._answer_other(peer.connection, stream)
            elif len(self._waiting) >= MAX_IN_FLIGHT and not self._made_room():
                self.overloaded += 1
                peer.connection.answer(stream, self._turned_away())
            else:
                self._waiting.append((peer, stream))
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._judge)

    def _made_room(self) -> bool:
        """Calls that were given up leave the queue, so that they keep nobody out of it."""
        if self._looked_for_room:
            return False  # once a batch: who asks and gives up must not make everybody pay for it
        self._looked_for_room = True
        wanted = [entry for entry in self._waiting if not entry[1].ended]
        self.abandoned += len(self._waiting) - len(wanted)
        self._waiting.clear()
        self._waiting.extend(wanted)
        return len(wanted) < MAX_IN_FLIGHT

    def _judge(self) -> None:
        """One batch: judge, commit, answer."""
        waiting = self._waiting
        self._looked_for_room = False
        # The next one after the sockets were looked at: its calls may have been given up by then.
        self._scheduled = len(waiting) > self._batch
        if self._scheduled:
            self._loop.call_soon(self._judge)
        batch: list[tuple[_Peer, Stream]] = []
        now = self._loop.time()
        touched: dict[_Peer, None] = {}
        for _ in range(min(len(waiting), self._batch)):
            entry = waiting.popleft()
            peer, stream = entry
            if stream.ended:
                self.abandoned += 1
            elif now > stream.deadline:
                self.abandoned += 1
                reason = "the caller's deadline has passed"
                peer.connection.refuse(stream, Status.DEADLINE_EXCEEDED, reason)
                touched[peer] = None
            else:
                batch.append(entry)
        if batch:
            answers = self._check_all([stream.message for _, stream in batch])
            for (peer, stream), answer in zip(batch, answers, strict=True):
                peer.connection.answer(stream, answer)
                touched[peer] = None
        for peer in touched:
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
        if len(self._peers) >= MAX_CONNECTIONS or not self._serving:
            return False
        self._peers.add(peer)
        return True

    def left(self, peer: "_Peer") -> None:
        """A peer's connection is closed."""
        self._peers.discard(peer)

    def make_connection(self) -> Connection:
        """The protocol's side of a new peer."""
        return Connection(self._on_violation, self._budget)

    def now(self) -> float:
        """The loop's clock, seconds."""
        return self._loop.time()

    def _on_violation(self, code: ErrorCode, reason: str) -> None:
        self.violations[code.name] += 1
        self._lines += 1
        if self._lines <= MAX_LINES:
            log.warning("ext_authz: a peer broke HTTP/2: %s (%s)", reason, code.name)

    def _look_around(self) -> None:
        if self._lines > MAX_LINES:
            log.warning("ext_authz: peers broke HTTP/2 %d times more", self._lines - MAX_LINES)
        self._lines = 0
        for peer in list(self._peers):
            peer.expire()
        self._sweep = self._loop.call_later(SWEEP_S, self._look_around)


class _Peer(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, server: H2cServer) -> None:
        self._server = server
        self.connection = server.make_connection()
        self._since = server.now()
        self._transport: asyncio.Transport | None = None
        #: Since when it has not read what it was sent; 0 while it does.
        self._unread_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own class, which is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.joined(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=MAX_UNREAD)
        self.flush()

    def data_received(self, data: bytes) -> None:
        asked = self.connection.receive(data, self._server.now())
        if asked:
            self._server.ask(self, asked)
        self.flush()

    def eof_received(self) -> bool:
        # It may have shut down its side alone, and still wait for answers.
        self.connection.hung_up()
        self.flush()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self.connection.lost()
        self._server.left(self)

    def pause_writing(self) -> None:
        self._unread_since = self._server.now()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def flush(self) -> None:
        """Write what there is to write; close when that was all."""
        transport = self._transport
        if transport is None:
            return
        out = self.connection.take_output()
        if out:
            transport.write(out)
        if self.connection.drained:
            transport.close()

    def drain(self) -> None:
        """Tell the peer that we go."""
        self.connection.drain()
        self.flush()

    def expire(self) -> None:
        """Give up on what takes too long."""
        now = self._server.now()
        silent = not self.connection.greeted and now - self._since > GREETING_S
        if silent or (self._unread_since and now - self._unread_since > STREAM_S):
            self.close()
            return
        self.connection.expire(now)
        self.flush()

    def close(self) -> None:
        """Close now, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
