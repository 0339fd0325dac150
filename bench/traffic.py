"""Requests over keep-alive connections, and what came back and when.

Two ways to send: `closed`, every connection sends when it has its answer; `paced`, requests are
due at even intervals whether or not the ones before were answered, and a request that waits for a
connection is late by its own clock. HTTP/1.1 over raw asyncio streams: an HTTP client's own time
would be most of what is measured.

A pace of one a millisecond takes a loop with finer timers than that: epoll's, which asyncio and
uvloop have, are of whole milliseconds, so that requests would leave in bursts of two and three.
`precise_loop` waits in select(2), whose are of microseconds.
"""

import asyncio
import gc
import selectors
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

#: Seconds after which a request counts as failed.
TIMEOUT_S: Final = 5.0


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a pace of a thousand a second and more."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class Ask(NamedTuple):
    """A request to make."""

    kind: str
    method: str
    path: str


class Answer(NamedTuple):
    """What came of a request. Times are seconds since the epoch."""

    kind: str
    #: The trace id it was sent with.
    trace: str
    #: 0 where no answer came.
    status: int
    #: The `X-MeshGuard-Decision` of the answer.
    decision: str
    #: When it was to be sent, and when it was.
    due: float
    sent: float
    done: float

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return (self.done - self.due) * 1000


class _Due(NamedTuple):
    at: float
    ask: Ask
    trace: str


class Traffic:
    """Connections to one port. All requests carry the same headers and a trace id of their own."""

    def __init__(self, port: int, headers: dict[str, str], connections: int) -> None:
        self._port = port
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._connections = connections
        self._count = 0
        # One clock that does not step, shown as the time of day.
        self._epoch = time.time() - time.perf_counter()
        #: Milliseconds by which the sender itself was late, of each paced request.
        self.late_ms: list[float] = []

    async def closed(self, asks: Iterator[Ask], seconds: float) -> list[Answer]:
        """Send as fast as answers come."""
        answers: list[Answer] = []
        until = self._now() + seconds

        async def keep_asking() -> None:
            connection = _Connection(self._port, self._head)
            try:
                while (now := self._now()) < until:
                    answers.append(await self._one(connection, self._due(next(asks), now)))
            finally:
                connection.close()

        async with _undisturbed():
            await asyncio.gather(*(keep_asking() for _ in range(self._connections)))
        return answers

    async def paced(self, asks: Iterator[Ask], seconds: float, rate: float) -> list[Answer]:
        """Send `rate` requests a second."""
        answers: list[Answer] = []
        waiting: asyncio.Queue[_Due | None] = asyncio.Queue()

        async def keep_asking() -> None:
            connection = _Connection(self._port, self._head)
            try:
                while (due := await waiting.get()) is not None:
                    if (now := self._now()) - due.at > TIMEOUT_S:
                        # It has waited for a connection too long to be sent at all.
                        answers.append(Answer(due.ask.kind, due.trace, 0, "", due.at, now, now))
                    else:
                        answers.append(await self._one(connection, due))
            finally:
                connection.close()

        async with _undisturbed():
            senders = [asyncio.create_task(keep_asking()) for _ in range(self._connections)]
            start = self._now()
            for number in range(int(rate * seconds)):
                at = start + number / rate
                if (early := at - self._now()) > 0:
                    await asyncio.sleep(early)
                self.late_ms.append((self._now() - at) * 1000)
                waiting.put_nowait(self._due(next(asks), at))
            for _ in senders:
                waiting.put_nowait(None)
            await asyncio.gather(*senders)
        return answers

    def _now(self) -> float:
        return self._epoch + time.perf_counter()

    def _due(self, ask: Ask, at: float) -> _Due:
        self._count += 1
        return _Due(at, ask, f"bench-{self._count}")

    async def _one(self, connection: "_Connection", due: _Due) -> Answer:
        sent = self._now()
        status, decision = await connection.ask(due)
        return Answer(due.ask.kind, due.trace, status, decision, due.at, sent, self._now())


class _Connection:
    def __init__(self, port: int, head: str) -> None:
        self._port = port
        self._head = head
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, due: _Due) -> tuple[int, str]:
        """Status and decision; zero and nothing where no answer came, on a new connection next."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._exchange(due)
        except (OSError, EOFError, TimeoutError, ValueError):
            self.close()
            return 0, ""

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None

    async def _exchange(self, due: _Due) -> tuple[int, str]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        request = (
            f"{due.ask.method} {due.ask.path} HTTP/1.1\r\nhost: bench\r\n{self._head}"
            f"x-meshguard-trace-id: {due.trace}\r\n\r\n"
        )
        writer.write(request.encode())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return int(first.split()[1]), fields.get("x-meshguard-decision", "")


@asynccontextmanager
async def _undisturbed() -> AsyncIterator[None]:
    # A collection of our own garbage would be measured as the sidecar's latency.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
