"""Reader processes, as many as are needed and no more than are allowed.

- A process is started when there is a job and none is idle, does one job at a time, and ends when
  nobody has needed it for a while: an idle one has memory that the pod may not have to spare.
- Whatever can be long has its own few places: who exports or follows keeps nobody from asking. Who
  finds them taken waits a moment, in a line that is no longer than a few, and is then told to come
  again. Nothing grows with the number of those who ask.
- An answer is taken as fast as its asker takes it, a frame at a time; the process waits meanwhile.
- Whose asker is gone is ended with its process, at once, wherever it is.
- What was not answered whole is told: before an answer begins by `Unavailable`, and in the middle
  of one too, so that half of it is never taken for all of it.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from authz.edges.readers.frames import DATA, END, Failure
from authz.edges.readers.process import Frame, Process, Start, spawn

log = logging.getLogger(__name__)

#: Seconds that a whole answer may take, and that a stream may be silent: a tail says something
#: every ten.
ASK_S: Final = 25.0
SILENT_S: Final = 30.0
#: Seconds after which a process that nobody needs ends.
IDLE_S: Final = 30.0
#: Bytes of a whole answer; a page is far below it.
MAX_ANSWER: Final = 16 * 1024 * 1024


#: Which trail is meant: our own, or what other sidecars have sent.
TrailName = Literal["local", "ingested"]
LOCAL: Final[TrailName] = "local"
INGESTED: Final[TrailName] = "ingested"


class Lane(NamedTuple):
    """Jobs of a kind, and how many there may be."""

    name: str
    #: At once.
    places: int
    #: Who may wait for a place, and for how many seconds.
    waiting: int
    wait_s: float


QUERIES: Final = Lane("queries", 2, 16, 10.0)
EXPORTS: Final = Lane("exports", 2, 2, 1.0)
TAILS: Final = Lane("tails", 2, 2, 1.0)


class Unavailable(Exception):
    """There is no answer now; one sentence."""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Nothing(Exception):
    """There is no such thing; one sentence."""


class _Places:
    """The places of a lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._free = asyncio.Semaphore(lane.places)
        self._waiting = 0

    async def take(self) -> None:
        """
        Raises:
            Unavailable: there is none, nor soon.
        """
        lane = self._lane
        if self._free.locked():
            if self._waiting >= lane.waiting:
                raise self._full()
            self._waiting += 1
            try:
                async with asyncio.timeout(lane.wait_s):
                    await self._free.acquire()
            except TimeoutError:
                raise self._full() from None
            finally:
                self._waiting -= 1
        else:
            await self._free.acquire()

    def give(self) -> None:
        self._free.release()

    def _full(self) -> Unavailable:
        lane = self._lane
        return Unavailable(f"{lane.places} {lane.name} of the audit trail run already; try later")


class Readers:
    """The reader processes of one audit database. Everything here belongs to one event loop."""

    def __init__(
        self,
        path: Path,
        *,
        ingested: Path | None = None,
        start: Start = spawn,
        ask_s: float = ASK_S,
        silent_s: float = SILENT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """
        Args:
            path: AUDIT_DB_PATH.
            ingested: where the trails of other sidecars are.
            start: makes a process, in a thread.
        """
        self._paths: dict[str, Path | None] = {LOCAL: path, INGESTED: ingested}
        self._start = start
        self._ask_s = ask_s
        self._silent_s = silent_s
        self._idle_s = idle_s
        self._places: dict[Lane, _Places] = {}
        #: The one that was used last at the end, so that the others become old.
        self._idle: list[tuple[Process, asyncio.TimerHandle]] = []
        self._busy: set[Process] = set()
        self._closing = False

    async def ask(self, job: str, params: Mapping[str, object], trail: TrailName = LOCAL) -> bytes:
        """A job's whole answer, a JSON object as it is to be sent.

        It is not taken apart here: a page of a thousand rows would hold the event loop.

        Raises:
            Nothing: there is no such thing.
            Unavailable: there is no answer now.
        """
        try:
            async with asyncio.timeout(self._ask_s):
                stream = await self.stream(job, params, QUERIES, trail)
                pieces: list[bytes] = []
                size = 0
                try:
                    async for piece in stream:
                        pieces.append(piece)
                        size += len(piece)
                        if size > MAX_ANSWER:
                            raise Unavailable("the answer is too large; ask for less")
                finally:
                    stream.close()
                return b"".join(pieces)
        except TimeoutError:
            raise Unavailable("the audit trail took too long to read; ask for less") from None

    async def stream(
        self, job: str, params: Mapping[str, object], lane: Lane, trail: TrailName = LOCAL
    ) -> "Stream":
        """A job's answer as it comes, once it has begun. Whoever gets it has to close it.

        Raises:
            Nothing: there is no such thing.
            Unavailable: there is no answer now.
        """
        path = str(self._path_of(trail).absolute())
        line = json.dumps({"job": job, "path": path, "params": params}).encode()
        places = self._places.get(lane)
        if places is None:
            places = self._places[lane] = _Places(lane)
        await places.take()
        process = None
        try:
            process = await self._process()
            process.send(line)
            stream = Stream(self, places, process, self._silent_s)
            try:
                await stream.begin()
            except BaseException:
                stream.close()
                raise
        except BaseException:
            if process is None:
                places.give()
            raise
        return stream

    def _path_of(self, trail: TrailName) -> Path:
        path = self._paths[trail]
        if path is None or (trail == INGESTED and not path.exists()):
            raise Nothing("nothing was ingested yet")
        return path

    async def _process(self) -> Process:
        while self._idle:
            process, timer = self._idle.pop()
            timer.cancel()
            if process.alive:
                self._busy.add(process)
                return process
            process.end()
        self._still_open()
        starting = asyncio.ensure_future(Process.start(self._start))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Nobody needs it any more, but it is being started.
            starting.add_done_callback(self._unneeded)
            raise
        except OSError as error:
            log.error("no process can be started to read the audit trail: %s", error)
            raise Unavailable("no process can be started to read the audit trail") from None
        self._busy.add(process)
        if self._closing:
            self.done(process, whole=False)
        self._still_open()
        return process

    def _still_open(self) -> None:
        if self._closing:
            raise Unavailable("the service is stopping")

    def _unneeded(self, starting: "asyncio.Task[Process]") -> None:
        if not starting.cancelled() and starting.exception() is None:
            self.done(starting.result(), whole=True)

    def done(self, process: Process, *, whole: bool) -> None:
        """Take a process back; one that has not come to the end of its job is ended."""
        self._busy.discard(process)
        if not whole or self._closing or not process.alive:
            process.end()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((process, loop.call_later(self._idle_s, self._retire, process)))

    def _retire(self, process: Process) -> None:
        self._idle = [entry for entry in self._idle if entry[0] is not process]
        process.end()

    def close(self) -> None:
        """End all processes: who is being answered hears that there is no more."""
        self._closing = True
        for process, timer in self._idle:
            timer.cancel()
            process.end()
        self._idle.clear()
        for process in self._busy:
            process.end()

    @property
    def closing(self) -> bool:
        """The service is stopping."""
        return self._closing


class Stream:
    """An answer that comes in pieces."""

    def __init__(
        self, readers: Readers, places: _Places, process: Process, silent_s: float
    ) -> None:
        self._readers = readers
        self._places = places
        self._process = process
        self._silent_s = silent_s
        self._first: Frame | None = None
        self._whole = False
        self._closed = False

    async def begin(self) -> None:
        """Wait for the first piece, so that what can go wrong at once is known.

        Raises:
            Nothing, Unavailable: as `Readers.stream`.
        """
        self._first = await self._next()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        Raises:
            Unavailable: there is no more, and it was not all.
        """
        frame, self._first = self._first, None
        if frame is None:
            frame = await self._next()
        if frame.kind == END:
            raise StopAsyncIteration
        return frame.data

    async def _next(self) -> Frame:
        if self._whole:
            return Frame(END, b"")
        try:
            async with asyncio.timeout(self._silent_s):
                frame = await self._process.frame()
        except TimeoutError:
            self.close()
            raise Unavailable("the audit trail took too long to read") from None
        if frame is None:
            why = "the service is stopping" if self._readers.closing else "its reader died"
            raise Unavailable(f"the audit trail cannot be read now: {why}")
        if frame.kind == DATA:
            return frame
        self._whole = True
        if frame.kind == END:
            return frame
        failure = Failure.decoded(frame.data)
        if failure.kind == "nothing":
            raise Nothing(failure.message)
        if failure.kind == "broken":
            log.error("reading the audit trail failed: %s", failure.message)
        raise Unavailable(failure.message)

    def close(self) -> None:
        """Give the process back, or end it. May be called more than once."""
        if not self._closed:
            self._closed = True
            self._readers.done(self._process, whole=self._whole)
            self._places.give()
