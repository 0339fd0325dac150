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
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Final

from grpc_health.v1 import health_pb2

from authz.edges.cpu_quota import Thrift
from authz.edges.h2c.connection import (
    NOISE_PER_ANSWER,
    Account,
    Budget,
    Connection,
    Stream,
)
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.grpc_status import Status
from authz.edges.h2c.peers import Caller, Peer, identity
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
#: Seconds that calls are collected for where processor time is short: what comes alone costs four
#: times what it costs among others, and a quota that is used up stops everything for tens of ms.
GATHER_S: Final = 0.002
#: Connections at once. Envoy has one for each of its threads.
MAX_CONNECTIONS: Final = 128
#: Seconds between two looks at what takes too long.
SWEEP_S: Final = 1.0
#: Bytes that are read at once, and so what one peer can have waiting for its turns, besides the
#: frame and the block that are not complete: 64 of Envoy's calls. All peers come to 11 MiB.
READ_SIZE: Final = 64 * 1024
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
        self._peers: dict[Peer, None] = {}
        #: Those that we have closed and that have something to read before they are gone.
        self._leaving: dict[Peer, None] = {}
        self._waiting: FairQueue[Peer] = FairQueue(MAX_IN_FLIGHT)
        self._callers: dict[Hashable, Caller] = {}
        #: Callers with bytes that their turn did not reach, in the order of their next turns.
        self._turns: deque[Caller] = deque()
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
        """Connections and waiting calls; since the start, calls not judged, violations by code."""
        return {
            "name": "h2c",
            "connections": len(self._peers),
            "waiting": len(self._waiting),
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
                lambda: Peer(self), sock=listener, backlog=BACKLOG
            )
        else:
            self._server = await self._loop.create_server(
                lambda: Peer(self), sock=listener, backlog=BACKLOG
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

    def has_read(self, caller: Caller) -> None:
        """A caller's bytes came, and were read as far as its allowance went."""
        self._fed.add(caller.account)
        self.schedule()

    def wait_turn(self, peer: Peer) -> None:
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
        batch: list[tuple[Peer, Stream]] = []
        now = self.now()
        touched: dict[Peer, None] = {}
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

    def ask(self, peer: Peer, asked: Sequence[Stream]) -> None:
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

    def _turn_away(self, peer: Peer, stream: Stream, asking: Peer) -> None:
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

    def joined(self, peer: Peer, transport: asyncio.Transport) -> Caller | None:
        """A peer has connected; whose connection it is, and nobody's while we are going."""
        if not self._serving:
            return None
        who = identity(transport)
        if len(self._peers) >= MAX_CONNECTIONS:
            self._make_room(who)
        caller = self._callers.get(who)
        if caller is None:
            caller = self._callers[who] = Caller(who)
            self._budget.callers = len(self._callers)
        caller.peers += 1
        self._peers[peer] = None
        return caller

    def _make_room(self, coming: Hashable) -> None:
        def connections(peer: Peer) -> int:
            return peer.caller.peers + (peer.caller.who == coming)

        most = max(map(connections, self._peers))
        of_most = [peer for peer in self._peers if connections(peer) == most]
        min(of_most, key=lambda peer: peer.used_at).dismiss()

    def leaves(self, peer: Peer) -> None:
        """Nothing more is taken from a peer, which may still read what it was sent."""
        self._forget(peer)
        self._leaving[peer] = None
        if len(self._leaving) > MAX_CONNECTIONS:
            first = next(iter(self._leaving))
            del self._leaving[first]
            first.abort()

    def left(self, peer: Peer) -> None:
        """A peer's connection is closed."""
        self._forget(peer)
        self._leaving.pop(peer, None)
        self.schedule()

    def _forget(self, peer: Peer) -> None:
        if peer in self._peers:
            del self._peers[peer]
            caller = peer.caller
            caller.peers -= 1
            if not caller.peers:
                del self._callers[caller.who]
                self._budget.callers = len(self._callers)

    def make_connection(self, caller: Caller) -> Connection:
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
