"""The listener: batches, limits, draining. On asyncio's own loop and on uvloop's."""

import asyncio
import contextlib
import os
import socket
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import pytest
import uvloop
from grpc_health.v1 import health_pb2

from authz.edges.cpu_quota import Thrift
from authz.edges.h2c import peers
from authz.edges.h2c import server as h2c
from authz.edges.h2c.connection import MAX_NOISE, MAX_STREAMS, STREAM_S, Connection, Stream
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.peers import GREETING_S, MAX_UNREAD, Caller
from authz.edges.h2c.server import MAX_CONNECTIONS, SERVICE, H2cServer
from authz.edges.sockets import BACKLOG
from tests.edges.h2c.peer import (
    ACK,
    AUTHORITY,
    END_HEADERS,
    END_STREAM,
    METHOD,
    PING,
    PREFACE,
    SCHEME,
    SETTINGS_ACK,
    TYPE,
    Listener,
    Peer,
    block,
    call,
    data,
    fields,
    frame,
    grpc,
    headers,
    reset,
    settings,
    window,
)

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
Play = Callable[[Coroutine[Any, Any, None]], None]
PATIENCE_S: Final = 10.0


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario to its end, on one of the two loops."""

    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(scenario, 60))

    return run


@pytest.fixture(autouse=True)
def nobody_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection counts for itself, as if its process were in another container."""
    monkeypatch.setattr(h2c, "identity", lambda _transport: object())


class Clocked(H2cServer):
    """A server whose patience can be tried without waiting."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def look_around(self) -> None:
        for peer in [*self._peers, *self._leaving]:
            peer.expire()


class Judge:
    """Answers a call with itself, backwards, and keeps what was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        #: What happens at a message.
        self.at: dict[bytes, Callable[[], object]] = {}
        self.reply: Callable[[bytes], bytes] = lambda raw: raw[::-1]

    def __call__(self, raws: Sequence[bytes]) -> list[bytes]:
        self.batches.append(list(raws))
        for raw in raws:
            if raw in self.at:
                self.at[raw]()
        return [self.reply(raw) for raw in raws]

    @property
    def asked(self) -> list[bytes]:
        return [raw for batch in self.batches for raw in batch]


class Wire(Listener):
    """A client's end of a real socket."""

    def __init__(self, address: Path | tuple[str, int]) -> None:
        super().__init__()
        if isinstance(address, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(address))
        else:
            self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self.gone = False
        self.lines: list[str] = []

    def say(self, sent: bytes) -> None:
        """Now, without giving the server a turn."""
        assert self.socket.send(sent) == len(sent)

    async def greet(self, *pairs: tuple[int, int]) -> "Wire":
        self.say(PREFACE + settings(*pairs))
        assert await self.hear_lines(3) == ["settings", "window 0 +16711681", "ack"]
        return self

    async def hear_lines(self, count: int) -> list[str]:
        """At least so many; fewer when the server closes."""
        while len(self.lines) < count and await self.hear_more():
            pass
        lines, self.lines = self.lines, []
        return lines

    async def hear_more(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                received = await loop.sock_recv(self.socket, 65_536)
        except ConnectionResetError:
            received = b""
        self.gone = not received
        for line in self.hear(received):
            if line.startswith("ping "):
                self.say(frame(PING, ACK, 0, bytes.fromhex(line.removeprefix("ping "))))
            self.lines.append(line)
        return not self.gone

    async def to_the_end(self) -> list[str]:
        while await self.hear_more():
            pass
        return self.lines

    def close(self) -> None:
        self.socket.close()


@contextlib.asynccontextmanager
async def serving(
    judge: Callable[[Sequence[bytes]], list[bytes]], batch: int = 64, thrift: Thrift | None = None
) -> AsyncIterator[tuple[Clocked, Path]]:
    with tempfile.TemporaryDirectory(prefix="authz-") as directory:
        path = Path(directory) / "ext_authz.sock"
        server = Clocked(judge, lambda: b"away", path, batch, thrift)
        await server.start()
        try:
            yield server, path
        finally:
            await server.stop(0)
            await asyncio.sleep(0.01)  # For the sockets to be closed within their loop.


@contextlib.contextmanager
def closing(*wires: Wire) -> Any:
    try:
        yield
    finally:
        for wire in wires:
            wire.close()


# ---------------------------------------------------------------- batches


def test_what_several_connections_ask_in_one_turn_is_one_batch(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge) as (_, path):
            wires = [Wire(path) for _ in range(5)]
            with closing(*wires):
                for wire in wires:
                    await wire.greet()
                for at, wire in enumerate(wires):
                    wire.say(b"".join(call(n, b"%d-%d" % (at, n)) for n in (1, 3, 5)))
                for at, wire in enumerate(wires):
                    heard = await wire.hear_lines(3)
                    assert heard == [f"answer {n} '{n}-{at}'" for n in (1, 3, 5)]
                assert len(judge.batches) == 1
                # Of each connection in its order.
                for at in range(5):
                    of_it = [raw for raw in judge.asked if raw.startswith(b"%d-" % at)]
                    assert of_it == [b"%d-%d" % (at, n) for n in (1, 3, 5)]

    play(scenario())


def test_a_batch_is_bounded_and_the_order_is_kept(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=4) as (_, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(b"".join(call(n, b"%d" % n) for n in range(1, 21, 2)))
                assert len(await wire.hear_lines(10)) == 10
                assert [len(batch) for batch in judge.batches] == [4, 4, 2]
                assert judge.asked == [b"%d" % n for n in range(1, 21, 2)]

    play(scenario())


@pytest.mark.parametrize("play", ["uvloop"], indirect=True)
def test_where_processor_time_is_short_calls_are_collected(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    # asyncio's own loop looks at the sockets only after what is due, so nothing comes together.
    used = count()
    # Each look finds more than there is.
    thrift = Thrift(lambda: 0.25, lambda: next(used) * 1e9)
    thrift.short(0)

    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=3, thrift=thrift) as (_, path):
            one, other = Wire(path), Wire(path)
            with closing(one, other):
                await one.greet()
                await other.greet()
                slept: list[float] = []

                def sleep(seconds: float) -> None:
                    slept.append(seconds)
                    other.say(call(len(slept) * 2 - 1, b"second"))

                monkeypatch.setattr(h2c, "time", SimpleNamespace(sleep=sleep))
                one.say(call(1, b"first"))
                assert await one.hear_lines(1) == ["answer 1 'tsrif'"]
                assert await other.hear_lines(1) == ["answer 1 'dnoces'"]
                assert [sorted(batch) for batch in judge.batches] == [[b"first", b"second"]]
                assert slept == [h2c.GATHER_S]
                # As many as one batch takes need not wait for more.
                one.say(b"".join(call(n, b"full") for n in (3, 5, 7)))
                assert len(await one.hear_lines(3)) == 3
                assert len(slept) == 1
                # And where there is time again, nothing waits.
                monkeypatch.setattr(thrift, "short", lambda _now: False)
                one.say(call(9, b"alone"))
                assert await one.hear_lines(1) == ["answer 9 'enola'"]
                assert len(slept) == 1

    play(scenario())


def test_the_next_call_is_turned_away_at_once(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2c, "MAX_IN_FLIGHT", 16)
    # They take several turns to be read, which on a busy machine is longer than the gate waits.
    monkeypatch.setattr(peers, "PATIENCE_S", PATIENCE_S)

    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=4) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(b"".join(call(n) for n in range(1, 41, 2)))
                heard = await wire.hear_lines(20)
                # They do not wait behind those that are let in.
                assert heard[:4] == [f"answer {n} 'away'" for n in range(33, 41, 2)]
                assert heard[4:] == [f"answer {n} 'ih'" for n in range(1, 33, 2)]
                assert server.overloaded == 4
                assert len(judge.asked) == 16
                # Health is not for the gate, so it is never turned away.
                wire.say(b"".join(call(n) for n in range(41, 81, 2)) + _health(81))
                heard = await wire.hear_lines(21)
                assert sum("'away'" in line for line in heard) == 4
                assert "answer 81 '\\x08\\x01'" in heard

    play(scenario())


def _health(number: int, service: str = "") -> bytes:
    asked = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return call(number, asked, _path(b"/grpc.health.v1.Health/Check"))


def _path(path: bytes) -> bytes:
    return block((METHOD, SCHEME, (b":path", path), AUTHORITY, TYPE))


def test_calls_that_were_given_up_are_not_judged(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(call(1, b"one") + call(3, b"two") + reset(1) + call(5, b"three"))
                assert await wire.hear_lines(2) == ["answer 3 'owt'", "answer 5 'eerht'"]
                assert judge.asked == [b"two", b"three"]
                assert server.abandoned == 1

    play(scenario())


def test_calls_of_a_connection_that_went_are_not_judged(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=1) as (server, path):
            one, other = Wire(path), Wire(path)
            with closing(one, other):
                await one.greet()
                await other.greet()
                # While the first is judged, its connection breaks.
                judge.at[b"1"] = one.close
                one.say(b"".join(call(n, b"%d" % n) for n in (1, 3, 5, 7)))
                while not judge.asked:
                    await asyncio.sleep(0)
                other.say(call(1, b"other"))
                assert await other.hear_lines(1) == ["answer 1 'rehto'"]
                assert b"7" not in judge.asked
                assert server.figures()["connections"] == 1

    play(scenario())


def test_a_call_whose_deadline_has_passed_while_it_waited_is_not_judged(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=1) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                judge.at[b"slow"] = lambda: time.sleep(0.05)
                impatient = block(fields((b"grpc-timeout", b"20m")))
                patient = block(fields((b"grpc-timeout", b"20S")))
                wire.say(call(1, b"slow") + call(3, b"late", impatient) + call(5, b"ok", patient))
                assert await wire.hear_lines(3) == [
                    "answer 1 'wols'", "status 3 DEADLINE_EXCEEDED", "answer 5 'ko'"
                ]  # fmt: skip
                assert judge.asked == [b"slow", b"ok"]
                assert server.abandoned == 1

    play(scenario())


class Desk:
    """What `H2cServer.ask` knows of a peer, without a socket."""

    being_read = False

    def __init__(self, peer: Peer) -> None:
        self.connection: Connection = peer.connection
        self.caller = Caller(self)
        self.heard: list[str] = []
        self.answered_at = 0.0
        self._peer = peer

    def flush(self) -> None:
        self.heard += self._peer.read()

    wake = flush

    def asks(self, sent: bytes) -> list[Stream]:
        asked = self.connection.receive(sent, 0.0)
        while self.connection.behind:
            self.connection.account.refill()
            asked += self.connection.receive(b"", 0.0)
        self.connection.account.refill()
        return asked


def test_calls_that_were_given_up_hold_no_place_in_the_queue(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2c, "MAX_IN_FLIGHT", 64)

    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=8) as (server, _):
            hostile, honest = Desk(Peer().greet()), Desk(Peer().greet())
            numbers = range(3, 3 + 2 * 64, 2)
            server.ask(hostile, hostile.asks(b"".join(map(call, numbers))))  # type: ignore[arg-type]
            hostile.asks(b"".join(map(reset, numbers)))
            server.schedule()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            server.ask(honest, honest.asks(b"".join(map(call, range(3, 99, 2)))))  # type: ignore[arg-type]
            assert server.overloaded == 0

    play(scenario())


def test_a_gate_that_raises_costs_its_batch_and_nobody_else(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        def fail() -> None:
            raise RuntimeError("a bug of ours")

        judge = Judge()
        judge.at[b"bad"] = fail
        async with serving(judge, batch=1) as (server, path):
            one, other = Wire(path), Wire(path)
            with closing(one, other):
                await one.greet()
                await other.greet()
                one.say(call(1, b"bad") + call(3, b"good"))
                other.say(call(1, b"mine"))
                assert await one.hear_lines(2) == ["status 1 INTERNAL", "answer 3 'doog'"]
                assert await other.hear_lines(1) == ["answer 1 'enim'"]
                assert all(peer.connection.open_streams == 0 for peer in server._peers)
        assert caplog.messages == ["ext_authz: the gate failed"]

    play(scenario())


# ---------------------------------------------------------------- turns

#: `:method: POST`, `:scheme: http`, `:path: /`: it is answered by 415, and costs us most per byte.
CHEAP: Final = b"\x83\x86\x84"


def _cheap(numbers: range) -> bytes:
    return b"".join(headers(n, CHEAP, END_HEADERS | END_STREAM) for n in numbers)


def test_one_call_does_not_wait_for_a_flood(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            flood = Wire(path)
            await flood.greet()
            [peer] = server._peers
            honest = Wire(path)
            with closing(flood, honest):
                await honest.greet()
                numbers = range(1, 2 * 5000, 2)
                flood.say(_cheap(numbers))
                honest.say(call(1))
                assert await honest.hear_lines(1) == ["answer 1 'ih'"]
                assert peer.connection.behind
                assert peer.connection._last < numbers[-1] // 4
                assert await flood.hear_lines(5000) == [f"http {n} 415" for n in numbers]
                # It is read from again.
                flood.say(call(10_001))
                assert await flood.hear_lines(1) == ["answer 10001 'ih'"]

    play(scenario())


def test_whoever_fills_the_queue_turns_nobody_else_away(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2c, "MAX_IN_FLIGHT", 16)

    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=4) as (server, _):
            hog, honest = Desk(Peer().greet()), Desk(Peer().greet())
            calls = b"".join(call(n, b"hog") for n in range(3, 3 + 2 * 16, 2))
            server.ask(hog, hog.asks(calls))  # type: ignore[arg-type]
            assert (server.overloaded, hog.heard) == (0, [])
            server.ask(honest, honest.asks(call(3, b"one") + call(5, b"two")))  # type: ignore[arg-type]
            # Its newest calls, and it hears of it at once.
            assert server.overloaded == 2
            assert hog.heard == ["answer 33 'away'", "answer 31 'away'"]
            server.schedule()
            await _until(lambda: len(honest.heard) == 2)
            assert judge.batches[0] == [b"hog", b"one", b"hog", b"two"]
            await _until(lambda: len(hog.heard) == 16)
            assert not any("away" in line for line in honest.heard)

    play(scenario())


def test_there_is_one_batch_a_turn_whoever_never_stops_sending(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        turn, turns = 0, []
        judge.at[b"hi"] = lambda: turns.append(turn)
        async with serving(judge, batch=1) as (_, path):
            flood, steady = Wire(path), Wire(path)
            with closing(flood, steady):
                for wire in (flood, steady):
                    await wire.greet()
                    wire.say(SETTINGS_ACK + wire.open(0, 2**30))
                # RFC 7541 §4.2: what follows says first that the table is empty.
                unsent = {
                    flood: headers(1, b"\x20" + block()) + data(1, grpc(b"hi")),
                    steady: headers(1, b"\x20" + block()) + data(1, grpc(b"hi")),
                }
                numbers = {flood: count(3, 2), steady: count(3, 2)}
                while len(turns) < 1000:
                    turn += 1
                    # One sends more than is read in a turn; the other always has calls that wait.
                    for wire, calls in ((flood, 300), (steady, 2)):
                        unsent[wire] = unsent[wire] or b"".join(
                            map(call, islice(numbers[wire], calls))
                        )
                        with contextlib.suppress(BlockingIOError):
                            unsent[wire] = unsent[wire][wire.socket.send(unsent[wire]) :]
                        with contextlib.suppress(BlockingIOError):
                            wire.socket.recv(1 << 20)
                    await asyncio.sleep(0)
                assert max(Counter(turns).values()) == 1

    play(scenario())


def test_calls_and_their_resets_are_read_to_the_end_before_any_is_judged(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PATIENCE_S", 3600.0)

    async def scenario() -> None:
        judge = Judge()
        async with serving(judge) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                numbers = range(1, 2 * 300, 2)
                wire.say(b"".join(map(call, numbers)) + b"".join(map(reset, numbers)))
                wire.say(_health(601))
                assert await wire.hear_lines(1) == ["answer 601 '\\x08\\x01'"]
                await _until(lambda: server.abandoned == 300)
                assert judge.asked == []
                assert server.overloaded == 0

    play(scenario())


def test_a_call_does_not_wait_for_long_for_what_is_behind_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PATIENCE_S", 0.0)

    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                [peer] = server._peers
                wire.say(call(1) + _cheap(range(3, 8003, 2)))
                heard: list[str] = []
                while "answer 1 'ih'" not in heard:
                    heard += await wire.hear_lines(1)
                assert peer.connection.behind
                assert len(heard) < 2000

    play(scenario())


def test_calls_given_up_in_the_same_read_are_not_turned_away(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2c, "MAX_IN_FLIGHT", 4)

    async def scenario() -> None:
        judge = Judge()
        async with serving(judge) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(b"".join(call(n) + reset(n) for n in range(1, 41, 2)) + call(41))
                assert await wire.hear_lines(1) == ["answer 41 'ih'"]
                assert judge.asked == [b"hi"]
                assert (server.abandoned, server.overloaded) == (20, 0)

    play(scenario())


def test_who_says_the_end_behind_a_flood_is_answered(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(_cheap(range(1, 4001, 2)) + call(4001))
                wire.socket.shutdown(socket.SHUT_WR)
                heard = await wire.to_the_end()
                assert heard[-1] == "answer 4001 'ih'"
                assert len(heard) == 2001
            await _until(lambda: server.figures()["connections"] == 0)

    play(scenario())


def test_what_is_behind_a_flood_is_answered_before_we_go(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                [peer] = server._peers
                wire.say(_cheap(range(1, 4001, 2)) + call(4001))
                await _until(lambda: peer.connection.behind)
                stopping = asyncio.ensure_future(server.stop(PATIENCE_S))
                heard = await wire.to_the_end()
                assert "answer 4001 'ih'" in heard
                assert heard[-1] == "goaway 4001 NO_ERROR"
                await stopping

    play(scenario())


def test_a_flood_whose_answers_are_not_read_is_not_worked_off(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            deaf = Wire(path)
            await deaf.greet()
            [peer] = server._peers
            assert peer._transport is not None
            peer._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
            )
            other = Wire(path)
            with closing(deaf, other):
                await other.greet()
                numbers = range(1, 2 * 4000, 2)
                deaf.say(_cheap(numbers))
                await _until(lambda: peer._unread_since)
                # 48 KiB came in one read, and the answers to half of it are more than is kept.
                before = peer.connection._last
                assert 1 < before < numbers[-1]
                other.say(call(1))
                assert await other.hear_lines(1) == ["answer 1 'ih'"]
                assert peer.connection._last == before
                # Once it reads, all comes, in order.
                assert await deaf.hear_lines(4000) == [f"http {n} 415" for n in numbers]

    play(scenario())


def test_what_cannot_be_answered_is_not_asked_without_end(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                unknown = _path(b"/no/such")
                number = 1
                while not server.violations:
                    wire.say(
                        b"".join(call(n, b"", unknown) for n in range(number, number + 400, 2))
                    )
                    number += 400
                    await wire.hear_lines(200)
                assert server.violations == {"ENHANCE_YOUR_CALM": 1}
                assert 2 * MAX_NOISE < number <= 2 * MAX_NOISE + 1000
                # Asking for health is not that, and nor is being turned away.
            checking = Wire(path)
            with closing(checking):
                await checking.greet()
                for start in range(1, 3 * MAX_NOISE, 400):
                    numbers = range(start, start + 400, 2)
                    checking.say(checking.open(0, 2000) + b"".join(map(_health, numbers)))
                    assert len(await checking.hear_lines(200)) == 200

    play(scenario())


# ---------------------------------------------------------------- what is not for the gate


def test_health_and_methods_that_there_are_not(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(
                    _health(1)
                    + _health(3, SERVICE)
                    + _health(5, "another.Service")
                    + call(7, b"\xff\xff", _path(b"/grpc.health.v1.Health/Check"))
                    + call(9, b"", _path(b"/grpc.health.v1.Health/Watch"))
                    + call(11, b"", _path(f"/{SERVICE}/Other".encode()))
                    + call(13, b"", _path(f"/{SERVICE}/Check/".encode()))
                    + call(15, b"", _path(f"/{SERVICE}/check".encode()))
                    + call(17, b"", _path(f"/{SERVICE}/Check?x".encode()))
                    + call(19, b"", _path(b"*"))
                )
                assert await wire.hear_lines(10) == [
                    "answer 1 '\\x08\\x01'",
                    "answer 3 '\\x08\\x01'",
                    "status 5 NOT_FOUND",
                    "status 7 INTERNAL",
                    *(f"status {n} UNIMPLEMENTED" for n in range(9, 21, 2)),
                ]
                assert judge.asked == []
                judge.at[b"wait"] = lambda: setattr(server, "_serving", False)
                wire.say(call(21, b"wait"))
                await wire.hear_lines(1)
                wire.say(_health(23))
                assert await wire.hear_lines(1) == ["answer 23 '\\x08\\x02'"]

    play(scenario())


# ---------------------------------------------------------------- draining


def test_stop_loses_no_answer(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=4) as (server, path):
            wires = [Wire(path) for _ in range(4)]
            with closing(*wires):
                for wire in wires:
                    await wire.greet()
                numbers = range(1, 101, 2)
                for wire in wires:
                    wire.say(b"".join(map(call, numbers)))
                stopping = asyncio.ensure_future(server.stop(PATIENCE_S))
                for wire in wires:
                    heard = await wire.to_the_end()
                    answers = [line for line in heard if line.startswith("answer")]
                    assert answers == [f"answer {n} 'ih'" for n in numbers]
                    assert [s for s in heard if s.startswith("goaway")] == [
                        f"goaway {2**31 - 1} NO_ERROR", "goaway 99 NO_ERROR"
                    ]  # fmt: skip
                await stopping
                assert len(judge.asked) == 200
                assert server.figures()["connections"] == 0
                assert not path.exists()

    play(scenario())


def test_idle_connections_are_closed_by_stop_at_once(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                stopping = asyncio.ensure_future(server.stop(1e9))
                await wire.to_the_end()
                await stopping

    play(scenario())


def test_stop_ends_within_its_grace_whatever_peers_do(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            silent, half, early = Wire(path), Wire(path), Wire(path)
            with closing(silent, half, early):
                await silent.greet()
                await half.greet()
                half.say(headers(1) + data(1, b"\0", 0))
                early.say(PREFACE[:5])
                await asyncio.sleep(0.01)
                # None of them says that it has heard of it.
                await asyncio.wait_for(server.stop(0.05), PATIENCE_S)
                await asyncio.sleep(0.01)
                assert server.figures()["connections"] == 0

    play(scenario())


def test_nothing_is_judged_once_it_has_stopped(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with serving(judge, batch=1) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                judge.at[b"hi"] = lambda: time.sleep(0.005)
                wire.say(b"".join(map(call, range(1, 81, 2))))
                await _until(lambda: judge.asked)
                await server.stop(0)
                judged = len(judge.asked)
                for _ in range(5):
                    await asyncio.sleep(0)
                assert len(judge.asked) == judged < 40

    play(scenario())


def test_a_bug_of_ours_costs_one_connection(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(h2c, "SWEEP_S", 0.01)

    def fail(*_: object) -> NoReturn:
        raise RuntimeError("a bug of ours")

    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            flood = Wire(path)
            await flood.greet()
            [peer] = server._peers
            other = Wire(path)
            with closing(flood, other):
                await other.greet()
                # In a look at what takes too long, and then in a turn of its own.
                monkeypatch.setattr(peer, "expire", fail)
                await _until(lambda: len(caplog.messages) == 2)
                monkeypatch.undo()
                flood.say(_cheap(range(1, 8001, 2)))
                await _until(lambda: peer.connection.behind)
                monkeypatch.setattr(peer.connection, "receive", fail)
                await flood.to_the_end()
                other.say(call(1))
                assert await other.hear_lines(1) == ["answer 1 'ih'"]
                await _until(lambda: server.figures()["connections"] == 1)
        assert {*caplog.messages} == {
            "ext_authz: looking for what takes too long failed",
            "ext_authz: a connection failed",
        }

    play(scenario())


def test_nobody_is_let_in_while_it_stops_and_the_path_is_free_again(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            await server.stop(0)
            assert not path.exists()
            again = Clocked(Judge(), lambda: b"away", path)
            await again.start()
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(call(1))
                assert await wire.hear_lines(1) == ["answer 1 'ih'"]
            await again.stop(0)

    play(scenario())


# ---------------------------------------------------------------- half-closed


def test_a_peer_that_has_sent_everything_is_still_answered(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge(), batch=2) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(b"".join(call(n) for n in range(1, 11, 2)))
                wire.socket.shutdown(socket.SHUT_WR)
                heard = await wire.to_the_end()
                answers = [line for line in heard if line.startswith("answer")]
                assert answers == [f"answer {n} 'ih'" for n in range(1, 11, 2)]
            await _until(lambda: server.figures()["connections"] == 0)

    play(scenario())


@pytest.mark.parametrize("before", [b"", PREFACE[:9], PREFACE + settings()], ids=len)
def test_a_peer_that_leaves_is_forgotten(play: Play, before: bytes) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                if before:
                    wire.say(before)
                await _until(lambda: server.figures()["connections"] == 1)
                wire.socket.shutdown(socket.SHUT_WR)
                await wire.to_the_end()
            await _until(lambda: server.figures()["connections"] == 0)

    play(scenario())


def test_half_a_call_does_not_keep_a_half_closed_connection(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet()
                wire.say(headers(1) + data(1, b"\0", 0))
                wire.socket.shutdown(socket.SHUT_WR)
                await asyncio.sleep(0.02)
                server.ahead = STREAM_S + 1
                server.look_around()
                heard = await wire.to_the_end()
                assert "status 1 DEADLINE_EXCEEDED" in heard
            await _until(lambda: server.figures()["connections"] == 0)

    play(scenario())


async def _until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.001)


# ---------------------------------------------------------------- limits


def test_2000_connections(play: Play) -> None:
    """The newest is let in, for the one that has not been of use for longest."""

    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            with contextlib.ExitStack() as stack:

                def connect() -> Wire:
                    wire = Wire(path)
                    stack.callback(wire.close)
                    return wire

                useful = [connect() for _ in range(3)]
                for wire in useful:
                    await wire.greet()
                others: list[Wire] = []
                for number in range(1, 41, 2):
                    server.ahead = number
                    wires = [connect() for _ in range(100)]
                    for wire in wires:
                        await wire.greet()
                    others += wires
                    for wire in useful:
                        wire.say(call(number))
                        assert await wire.hear_lines(1) == [f"answer {number} 'ih'"]
                    assert server.figures()["connections"] == min(len(others) + 3, MAX_CONNECTIONS)
                kept = others[3 - MAX_CONNECTIONS :]
                for wire in others[: -len(kept)]:
                    # It is told that it was not heard, and may come again.
                    assert await wire.to_the_end() == ["goaway 0 NO_ERROR"]
                for wire in kept[:5] + kept[-5:]:
                    wire.say(call(1))
                    assert await wire.hear_lines(1) == ["answer 1 'ih'"]

    play(scenario())


def test_whoever_has_most_connections_loses_one(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2c, "MAX_CONNECTIONS", 4)
    whose = iter(["honest", "hog", "hog", "hog", "hog", "other", "hog"])
    monkeypatch.setattr(h2c, "identity", lambda _transport: next(whose))

    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            wires: list[Wire] = []
            with contextlib.ExitStack() as stack:
                for at in range(7):
                    server.ahead = at
                    wires.append(Wire(path))
                    stack.callback(wires[-1].close)
                    await wires[-1].greet()
                    # What waits or is under way keeps nobody in.
                    wires[-1].say(headers(1) + data(1, b"\0", 0))
                    await asyncio.sleep(0.01)
                gone = [at for at, wire in enumerate(wires) if _has_ended(wire.socket)]
                assert gone == [1, 2, 3]
                assert [peer.caller.who for peer in server._peers] == [
                    "honest", "hog", "other", "hog"
                ]  # fmt: skip
                assert set(server._callers) == {"honest", "other", "hog"}
                for at in (0, 4, 5, 6):
                    wires[at].say(call(3))
                    assert await wires[at].hear_lines(1) == ["answer 3 'ih'"]

    play(scenario())


def _has_ended(one: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        while one.recv(65_536):
            pass
        return True
    return False


HOARDER: Final = """
import socket, sys
kept = []
for _ in range(200):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    one.sendall(bytes.fromhex(sys.argv[2]))
    kept.append(one)
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not peers.CREDENTIALS, reason="the kernel does not say whose a connection is")
def test_a_process_that_hoards_connections_takes_none_of_another(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2c, "identity", peers.identity)

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="authz-") as directory:
            path = Path(directory) / "ext_authz.sock"
            server = H2cServer(Judge(), lambda: b"away", path)
            await server.start()
            first = Wire(path)
            await first.greet()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", HOARDER, str(path), (PREFACE + settings()).hex(),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert await process.stdout.readline() == b"connected\n"
            await _until(lambda: server.figures()["connections"] == MAX_CONNECTIONS)
            second = Wire(path)
            with closing(first, second):
                await second.greet()
                for wire in (first, second):
                    wire.say(call(1))
                    assert await wire.hear_lines(1) == ["answer 1 'ih'"]
                mine = [
                    peer for peer in server._peers if peer.caller.who == (os.getpid(), os.getuid())
                ]
                assert len(mine) == 2
                process.stdin.close()
                await process.wait()
                await _until(lambda: server.figures()["connections"] == 2)
                assert len(server._callers) == 1
            await server.stop(0)
            await asyncio.sleep(0.01)

    play(scenario())


def test_connections_that_we_ended_and_that_do_not_read_keep_nobody_out(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2c, "MAX_CONNECTIONS", 2)

    async def scenario() -> None:
        judge = Judge()
        judge.reply = lambda raw: raw * 1000
        async with serving(judge) as (server, path):
            with contextlib.ExitStack() as stack:
                for turn in range(4):
                    deaf = Wire(path)
                    stack.callback(deaf.close)
                    await deaf.greet((4, 2**31 - 1))
                    deaf.say(window(0, 2**31 - 1 - 65_535))
                    number = 1
                    with contextlib.suppress(BlockingIOError):
                        while number < 1000:
                            deaf.say(call(number, b"0123456789"))
                            number += 2
                            await asyncio.sleep(0)
                    # More than the kernel takes is there, and it is the peer that goes.
                    await _until(lambda: any(peer._unread_since for peer in server._peers))
                    for peer in list(server._peers):
                        peer.connection._end(ErrorCode.PROTOCOL_ERROR, "a mistake")
                        peer.flush()
                    assert server.figures()["connections"] == 0
                    assert len(server._leaving) == min(turn + 1, 2)
                wire = Wire(path)
                stack.callback(wire.close)
                await wire.greet()
                server.ahead = STREAM_S + 1
                server.look_around()
                await _until(lambda: not server._leaving)
                judge.reply = lambda raw: raw
                wire.say(call(1))
                assert await wire.hear_lines(1) == ["answer 1 'hi'"]

    play(scenario())


def test_as_many_may_wait_to_be_accepted_as_the_socket_was_made_for(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (_, path):
            with contextlib.ExitStack() as stack:
                for _ in range(BACKLOG // 2):
                    waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                    waiting.setblocking(False)
                    waiting.connect(str(path))

    play(scenario())


def test_a_connection_that_does_not_greet_is_closed(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            silent, half, greeted = Wire(path), Wire(path), Wire(path)
            with closing(silent, half, greeted):
                half.say(PREFACE[:20])
                await greeted.greet()
                await _until(lambda: server.figures()["connections"] == 3)
                server.ahead = GREETING_S - 1
                server.look_around()
                await asyncio.sleep(0.01)
                assert server.figures()["connections"] == 3
                server.ahead = GREETING_S + 1
                server.look_around()
                assert (await silent.to_the_end())[:1] in ([], ["settings"])
                assert (await half.to_the_end())[:1] in ([], ["settings"])
                greeted.say(call(1))
                assert await greeted.hear_lines(1) == ["answer 1 'ih'"]

    play(scenario())


def test_violations_are_counted_and_logged_a_few_at_a_time(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (server, path):
            for sent in (b"GET / HTTP/1.1\r\n\r\n", *[PREFACE + settings() + frame(PING)] * 4):
                wire = Wire(path)
                with closing(wire):
                    wire.say(sent)
                    assert (await wire.to_the_end())[-1].startswith("goaway 0 ")
            assert server.figures()["violations"] == {"PROTOCOL_ERROR": 1, "FRAME_SIZE_ERROR": 4}
            assert len(caplog.messages) == h2c.MAX_LINES
            server._tell_the_rest()
            assert caplog.messages[-1] == "ext_authz: peers broke HTTP/2 2 times more"

    play(scenario())


def test_answers_that_are_not_read(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        judge.reply = lambda raw: raw * 1000
        async with serving(judge) as (server, path):
            deaf, other = Wire(path), Wire(path)
            with closing(deaf, other):
                await deaf.greet((4, 2**31 - 1))
                await other.greet()
                deaf.say(window(0, 2**31 - 1 - 65_535))
                (peer,) = [p for p in server._peers if p.connection._peer_window > 65_535]
                number, refused = 1, 0
                while refused < 50 and number < 100_000:
                    try:
                        deaf.socket.send(call(number, b"0123456789"))
                        number += 2
                    except BlockingIOError:
                        refused += 1
                    await asyncio.sleep(0)
                # It is not read from any more, so it cannot ask any more.
                assert refused == 50
                assert peer._transport is not None
                waiting = peer._transport.get_write_buffer_size()
                assert MAX_UNREAD < waiting <= MAX_UNREAD + MAX_STREAMS * 10_100
                judge.reply = lambda raw: raw
                other.say(call(1))
                assert await other.hear_lines(1) == ["answer 1 'hi'"]
                server.ahead = STREAM_S + 1
                server.look_around()
                await _until(lambda: server.figures()["connections"] == 1)

    play(scenario())


def test_answers_that_are_read_late_all_come(play: Play) -> None:
    async def scenario() -> None:
        judge = Judge()
        judge.reply = lambda raw: raw * 1000
        async with serving(judge) as (server, path):
            wire = Wire(path)
            with closing(wire):
                await wire.greet((4, 2**20))
                wire.initial = 2**20
                wire.say(wire.open(0, 2**30))
                number = 1
                while not any(peer._unread_since for peer in server._peers):
                    wire.say(call(number, b"0123456789"))
                    number += 2
                    await asyncio.sleep(0)
                heard: list[str] = []
                while len(heard) < number // 2:
                    heard += await wire.hear_lines(1)
                assert heard == [f"answer {n} {'0123456789' * 1000!r}" for n in range(1, number, 2)]
                # It is read from again, and is not one that does not read.
                server.ahead = STREAM_S + 1
                server.look_around()
                judge.reply = lambda raw: raw
                wire.say(call(number))
                assert await wire.hear_lines(1) == [f"answer {number} 'hi'"]

    play(scenario())


# ---------------------------------------------------------------- where it listens


def test_the_socket_is_for_owner_and_group(play: Play) -> None:
    async def scenario() -> None:
        async with serving(Judge()) as (_, path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660

    play(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_is_served(play: Play, host: str) -> None:
    async def scenario() -> None:
        server = H2cServer(Judge(), lambda: b"away", (host, 0))
        try:
            await server.start()
        except OSError:
            pytest.skip(f"this host has no {host}")
        wire = Wire(server._server.sockets[0].getsockname()[:2])
        with closing(wire):
            await wire.greet()
            wire.say(call(1))
            assert await wire.hear_lines(1) == ["answer 1 'ih'"]
        await server.stop(0)
        await asyncio.sleep(0.01)

    play(scenario())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "2001:db8::1", "::ffff:192.0.2.1"])
def test_what_other_hosts_can_reach_is_refused(play: Play, host: str) -> None:
    async def scenario() -> None:
        sentence = f"{host} is not a loopback address, and cleartext HTTP/2 is for this host alone"
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - its whole text is compared
            await H2cServer(Judge(), lambda: b"", (host, 0)).start()
        assert str(raised.value) == sentence

    play(scenario())
