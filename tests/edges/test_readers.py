"""Reader processes: as many as may be, gone with whoever asked, and never half an answer."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from authz.edges import background
from authz.edges.readers import process as processes
from authz.edges.readers import worker
from authz.edges.readers.frames import CHUNK, DATA, HEADER
from authz.edges.readers.pool import (
    EXPORTS,
    QUERIES,
    TAILS,
    Lane,
    Nothing,
    Readers,
    Stream,
    Unavailable,
)
from authz.edges.readers.process import Child, spawn
from tests.e2e.sidecar import PATIENCE_S, wait_until
from tests.stores.trails import varied, write

PAGE = {"filters": {}, "limit": 10, "order": "desc"}
EXPORT = {"filters": {}, "format": "jsonl"}
TAIL = {"filters": {}, "count": 1, "after": ""}


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "audit.db"
    for seed in range(4):
        write(path, varied(1500, seed))
    return path


class Started:
    """Starts processes, and remembers them."""

    def __init__(self) -> None:
        self.children: list[Any] = []

    def __call__(self, theirs: socket.socket) -> Child:
        child = spawn(theirs)
        self.children.append(child)
        return child

    def alive(self) -> int:
        return sum(child.poll() is None for child in self.children)


@pytest.fixture
def started() -> Iterator[Started]:
    made = Started()
    yield made
    # Whatever was started is gone, and was waited for.
    for child in made.children:
        assert child.wait(PATIENCE_S) is not None


def within(
    trail: Path, started: Callable[[socket.socket], Child], **options: Any
) -> contextlib.AbstractAsyncContextManager[Readers]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Readers]:
        readers = Readers(trail, start=started, **options)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield readers
        finally:
            readers.close()

    return opened()


def run(work: Coroutine[Any, Any, None]) -> None:
    """On the loop that the service has."""
    uvloop.run(work)


async def drained(stream: Stream) -> None:
    """Read to the end."""
    async for _ in stream:
        pass


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


# Answers.


def test_a_process_answers_one_question_after_the_other(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            for limit in (1, 10, 1000):
                said = json.loads(await readers.ask("audit.page", {**PAGE, "limit": limit}))
                assert [entry["seq"] for entry in said["entries"]] == [
                    6000 - number for number in range(limit)
                ]
            assert json.loads(await readers.ask("audit.stats", {"filters": {}}))["total"] > 2000

    run(scenario())
    assert len(started.children) == 1


def test_a_stream_has_all_of_it_in_small_pieces(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            stream = await readers.stream("audit.export", EXPORT, EXPORTS)
            pieces = [piece async for piece in stream]
            stream.close()
            assert max(map(len, pieces)) <= CHUNK
            assert b"".join(pieces).count(b"\n") == 6000
            await readers.ask("audit.page", PAGE)

    run(scenario())
    assert len(started.children) == 1


def test_what_there_is_none_of_and_what_cannot_be_read_is_said(
    trail: Path, started: Started, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            with pytest.raises(Nothing, match="there is no such entry"):
                await readers.ask("audit.one", {"id": "nobody"})
        async with within(tmp_path / "none", started) as readers:
            for _ in range(2):
                with pytest.raises(Unavailable, match="there is no audit database yet"):
                    await readers.ask("audit.page", PAGE)
            with pytest.raises(Unavailable, match="there is no audit database yet"):
                await readers.stream("audit.export", EXPORT, EXPORTS)

    run(scenario())
    assert len(started.children) == 2


def test_a_job_that_fails_is_told_and_the_process_lives(
    trail: Path, started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            with pytest.raises(Unavailable, match=r"audit\.page failed: KeyError"):
                await readers.ask("audit.page", {})
            assert json.loads(await readers.ask("audit.page", PAGE))["entries"]

    run(scenario())
    assert len(started.children) == 1
    assert "reading the audit trail failed: audit.page failed: KeyError" in caplog.text


# The process.


def test_a_reader_has_no_secrets_and_everybody_goes_before_it(
    trail: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JWT_SECRET", "ADMIN_TOKEN", "PROXY_AUTHORIZATION"):
        monkeypatch.setenv(name, "a secret that nobody else may know")

    async def scenario() -> None:
        async with within(trail, started) as readers:
            await readers.ask("audit.page", PAGE)
            [child] = started.children
            assert os.getpriority(os.PRIO_PROCESS, child.pid) == background.NICENESS
            assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
            assert b"a secret" not in Path(f"/proc/{child.pid}/environ").read_bytes()
            # Its socket alone, standard error, and nothing of the service's.
            files = {entry.readlink() for entry in Path(f"/proc/{child.pid}/fd").iterdir()}
            assert not [file for file in files if "audit.db" in file.name]

    run(scenario())


def test_a_reader_loads_nothing_that_decides(trail: Path) -> None:
    code = (
        "import sys; import authz.edges.readers.worker;"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " ('fastapi', 'pydantic', 'google', 'cryptography', 'uvicorn', 'yaml', 'arro3')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=processes.ROOT,
    )  # fmt: skip
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize("busy", [False, True])
def test_a_reader_ends_with_the_service(trail: Path, busy: bool) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        child = spawn(theirs)
    try:
        job = "audit.tail" if busy else "audit.page"
        params = TAIL if busy else PAGE
        with ours:
            ours.sendall(
                json.dumps({"job": job, "path": str(trail), "params": params}).encode() + b"\n"
            )
            kind, _ = HEADER.unpack(ours.recv(HEADER.size, socket.MSG_WAITALL))
            assert kind == DATA
        # As if the service was killed: nothing else tells it.
        assert child.wait(PATIENCE_S) == 0  # type: ignore[call-arg]
    finally:
        child.kill()
        child.wait()


def test_ctrl_c_is_for_the_service(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            await readers.ask("audit.page", PAGE)
            os.kill(started.children[0].pid, signal.SIGINT)
            assert await readers.ask("audit.page", PAGE)

    run(scenario())
    assert len(started.children) == 1


def test_a_process_that_nobody_needs_ends(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started, idle_s=0.01) as readers:
            await readers.ask("audit.page", PAGE)
            await until(lambda: not started.alive())
            assert await readers.ask("audit.page", PAGE)

    run(scenario())
    assert len(started.children) == 2


def test_a_process_that_ended_while_idle_is_replaced(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            await readers.ask("audit.page", PAGE)
            started.children[0].kill()
            await until(lambda: not readers._idle[0][0].alive)
            assert await readers.ask("audit.page", PAGE)

    run(scenario())
    assert len(started.children) == 2


def test_where_no_process_can_be_started_that_is_said(trail: Path) -> None:
    def start(_: socket.socket) -> Child:
        raise OSError(11, "Resource temporarily unavailable")

    async def scenario() -> None:
        async with within(trail, start) as readers:
            # More often than there are places.
            for _ in range(QUERIES.places + 1):
                with pytest.raises(Unavailable, match="no process can be started"):
                    await readers.ask("audit.page", PAGE)

    run(scenario())


# How many.


@pytest.mark.parametrize(
    ("lane", "job", "params"), [(EXPORTS, "audit.export", EXPORT), (TAILS, "audit.tail", TAIL)]
)
def test_who_comes_when_all_places_are_taken_is_told_to_come_again(
    trail: Path, started: Started, lane: Lane, job: str, params: dict[str, object]
) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            held = [await readers.stream(job, params, lane) for _ in range(lane.places)]
            with pytest.raises(Unavailable, match=f"2 {lane.name} of the audit trail run already"):
                await readers.stream(job, params, lane)
            # Nobody else has to wait for them.
            assert await readers.ask("audit.page", PAGE)
            held[0].close()
            held.append(await readers.stream(job, params, lane))
            for stream in held:
                stream.close()

    run(scenario())


def test_few_wait_for_a_place_and_the_next_is_turned_away_at_once(
    trail: Path, started: Started
) -> None:
    lane = Lane("tests", 1, 2, PATIENCE_S)

    async def scenario() -> None:
        async with within(trail, started) as readers:
            held = await readers.stream("audit.tail", TAIL, lane)
            waiting = [
                asyncio.create_task(readers.stream("audit.tail", TAIL, lane)) for _ in range(2)
            ]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await readers.stream("audit.tail", TAIL, lane)
            # Who waits and goes leaves no trace.
            waiting.pop().cancel()
            held.close()
            (await waiting.pop()).close()
            (await readers.stream("audit.tail", TAIL, lane)).close()

    run(scenario())


# Who asked has gone, or it takes too long.


def test_who_stops_reading_frees_the_place_and_ends_the_process(
    trail: Path, started: Started
) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            stream = await readers.stream("audit.export", EXPORT, EXPORTS)
            await anext(stream)
            stream.close()
            stream.close()
            await until(lambda: not started.alive())

    run(scenario())


def test_a_question_that_is_given_up_ends_its_process(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            for _ in range(QUERIES.places + 1):
                # A tail as a question never ends.
                asking = asyncio.create_task(readers.ask("audit.tail", TAIL))
                await until(started.alive)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await until(lambda: not started.alive() or readers._idle)

    run(scenario())


def test_a_question_that_takes_too_long_is_ended(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started, ask_s=0.5) as readers:
            with pytest.raises(Unavailable, match="took too long to read; ask for less"):
                await readers.ask("audit.tail", TAIL)
            await until(lambda: not started.alive())

    run(scenario())


def test_a_reader_that_hangs_is_ended(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started, silent_s=1.0) as readers:
            stream = await readers.stream("audit.tail", TAIL, TAILS)
            os.kill(started.children[0].pid, signal.SIGSTOP)
            with pytest.raises(Unavailable, match="took too long to read"):
                await drained(stream)
            stream.close()
            await until(lambda: not started.alive())

    run(scenario())


def test_a_reader_that_dies_ends_nothing_quietly(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            stream = await readers.stream("audit.tail", TAIL, TAILS)
            started.children[0].kill()
            with pytest.raises(Unavailable, match="its reader died"):
                await drained(stream)
            stream.close()

    run(scenario())


def test_a_service_that_stops_waits_for_nobody(trail: Path, started: Started) -> None:
    async def scenario() -> None:
        async with within(trail, started) as readers:
            await readers.ask("audit.page", PAGE)
            streams = [
                await readers.stream("audit.tail", TAIL, TAILS),
                await readers.stream("audit.export", EXPORT, EXPORTS),
            ]
            readers.close()
            for stream in streams:
                with pytest.raises(Unavailable, match="the service is stopping"):
                    await drained(stream)
                stream.close()
            with pytest.raises(Unavailable, match="the service is stopping"):
                await readers.ask("audit.page", PAGE)
            await until(lambda: not started.alive())

    run(scenario())


def test_a_reader_rests_where_processor_time_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "cpus_allowed", lambda: 0.25)
    slept: list[float] = []
    monkeypatch.setattr("authz.stores.pace.time.sleep", slept.append)
    clock = iter(range(100))
    monkeypatch.setattr("authz.stores.pace.time.thread_time", lambda: next(clock))
    worker.breathing()()
    # A millisecond of work, of a fortieth of a processor.
    assert slept == [pytest.approx(0.039)]
    monkeypatch.setattr(worker, "cpus_allowed", lambda: float("inf"))
    worker.breathing()()
    assert len(slept) == 1


def test_nothing_is_left_of_the_tests(trail: Path) -> None:
    # Every read transaction has ended: the WAL can begin anew.
    wait_until(
        lambda: (
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute("
                    "'PRAGMA wal_checkpoint(TRUNCATE)').fetchone()[0])",
                    str(trail),
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            == "0\n"
        ),
        "the WAL to begin anew",
    )
