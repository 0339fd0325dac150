"""grpcio's client against both transports: where they should agree they do, limits included.

What is only so for the fast transport says why: grpcio's server has no place where a call can still
be given up once its bytes have been read.
"""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz.edges.ext_authz import MAX_MESSAGE
from authz.edges.h2c import connection, server
from authz.edges.h2c.frames import HEADERS, RST_STREAM
from authz.edges.h2c.server import SERVICE
from tests.e2e.sidecar import PATIENCE_S, wait_until
from tests.peers.servers import AWAY, CHECK, TRANSPORTS, Judge, Served, directory, judging, serving

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)

#: A test's channel shares no connection with another's, and tries again at once.
OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    # Not the client's own limit, but the server's.
    ("grpc.max_send_message_length", -1),
)


@contextlib.contextmanager
def _channel(target: str, **more: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target, options=OPTIONS, **more) as channel:
        yield channel


def _check(channel: grpc.Channel, method: str = CHECK) -> Any:
    """The raw method: bytes in, bytes out."""
    return channel.unary_unary(method)


def _refusal(call: Any, raw: bytes = b"x", **how: Any) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as raised:
        call(raw, **{"timeout": PATIENCE_S, **how})
    refusal: Any = raised.value
    return cast("grpc.Call", refusal)


@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"x" * 16_384, b"x" * 65_536, b"ab" * (MAX_MESSAGE // 2)], ids=len
)
def test_a_message_of_any_size_up_to_the_limit_goes_through(transport: str, raw: bytes) -> None:
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        assert _check(channel)(raw, timeout=PATIENCE_S) == raw[::-1]
        assert judge.asked == [raw]


def test_a_byte_beyond_the_limit_is_refused_and_the_connection_goes_on(transport: str) -> None:
    assert connection.MAX_MESSAGE == MAX_MESSAGE
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        refusal = _refusal(_check(channel), b"x" * (MAX_MESSAGE + 1))
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _check(channel)(b"next", timeout=PATIENCE_S) == b"txen"
        assert judge.asked == [b"next"]


def test_calls_one_after_the_other_on_one_connection(transport: str) -> None:
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        asked = [b"%d" % number for number in range(500)]
        check = _check(channel)
        assert [check(raw, timeout=PATIENCE_S) for raw in asked] == [raw[::-1] for raw in asked]
        assert judge.asked == asked


def test_a_thousand_calls_at_once_are_each_answered_with_their_own(transport: str) -> None:
    """None is lost or swapped. Beyond 512 that wait the fast transport turns away, at once."""
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        asked = [b"%d" % number for number in range(1000)]
        check = _check(channel)
        calls = [check.future(raw, timeout=PATIENCE_S) for raw in asked]
        answers = [call.result(PATIENCE_S) for call in calls]
        away = answers.count(AWAY)
        assert all(answer in (raw[::-1], AWAY) for raw, answer in zip(asked, answers, strict=True))
        assert sorted(judge.asked) == sorted(
            raw for raw, answer in zip(asked, answers, strict=True) if answer != AWAY
        )
        assert served.server.figures().get("overloaded", 0) == away
        assert len(judge.asked) >= server.MAX_IN_FLIGHT


def test_the_asyncio_client_gets_the_same(transport: str) -> None:
    judge = Judge()

    async def scenario(socket: Path) -> None:
        # In one loop: grpcio's asyncio side does not bear two in one process.
        serving: Any = (
            server.H2cServer(judge.check_all, lambda: AWAY, socket)
            if transport == "h2c"
            else _reference(judge, socket)
        )
        await serving.start()
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=OPTIONS) as channel:
            check: Any = channel.unary_unary(CHECK)
            asked = [b"%d" % number for number in range(300)]
            answers = await asyncio.gather(
                *(check(raw, timeout=PATIENCE_S, wait_for_ready=True) for raw in asked)
            )
            assert answers == [raw[::-1] for raw in asked]
            other: Any = channel.unary_unary(f"/{SERVICE}/Other")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await other(b"", timeout=PATIENCE_S)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
            given_up = check(b"given up")
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await check(b"next", timeout=PATIENCE_S) == b"txen"
        await serving.stop(0)
        for _ in range(3):
            await asyncio.sleep(0)

    with directory() as path:
        asyncio.run(scenario(path / "s"))


def _reference(judge: Judge, socket: Path) -> Any:
    from authz.edges.ext_authz import ExtAuthzServer  # noqa: PLC0415

    return ExtAuthzServer(judge.check, socket)


def test_metadata_of_every_kind_is_taken_and_changes_nothing(transport: str) -> None:
    metadata = (
        ("x-ascii", "a value, with blanks"),
        ("x-empty", ""),
        ("x-repeated", "1"),
        ("x-repeated", "2"),
        ("x-binary-bin", bytes(range(256))),
        # Above 8 KiB in all grpcio refuses some by chance.
        ("x-large", "v" * 6 * 1024),
    )
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        answer, call = _check(channel).with_call(b"ab", timeout=PATIENCE_S, metadata=metadata)
        assert answer == b"ba"
        assert call.code() is grpc.StatusCode.OK
        # Once more, when the client's table would know it.
        assert _check(channel)(b"cd", timeout=PATIENCE_S, metadata=metadata) == b"dc"
        assert judge.asked == [b"ab", b"cd"]


def test_metadata_above_what_is_taken_reaches_no_method(transport: str) -> None:
    """The client keeps to SETTINGS_MAX_HEADER_LIST_SIZE, or is told; no decision either way."""
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        refusal = _refusal(_check(channel), metadata=(("x-large", "v" * 20_000),))
        assert refusal.code() in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.INTERNAL,
        )
        assert judge.asked == []
        assert _check(channel)(b"ab", timeout=PATIENCE_S, wait_for_ready=True) == b"ba"


@pytest.mark.parametrize(
    "method",
    [f"/{SERVICE}/Other", f"/{SERVICE}/check", "/other.Service/Check", "/grpc.health.v1.Health/X"],
)
def test_a_method_that_is_not_there_is_unimplemented(transport: str, method: str) -> None:
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        assert _refusal(_check(channel, method)).code() is grpc.StatusCode.UNIMPLEMENTED
        assert judge.asked == []


def test_a_compressed_message_is_not_decided_by_what_cannot_read_it(transport: str) -> None:
    """gzip is grpcio's to unpack; the fast transport takes none, and says UNIMPLEMENTED."""
    with (
        judging(transport) as (served, judge),
        _channel(served.target, compression=grpc.Compression.Gzip) as channel,
    ):
        raw = b"x" * 4096
        if transport == "grpc":
            assert _check(channel)(raw, timeout=PATIENCE_S) == raw[::-1]
            return
        refusal = _refusal(_check(channel), raw)
        assert refusal.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "compressed" in (refusal.details() or "")
        assert judge.asked == []


def test_health_is_answered_for_both_names_and_no_other(transport: str) -> None:
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            said = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
            assert said.status == health_pb2.HealthCheckResponse.SERVING
        refusal = _refusal(stub.Check, health_pb2.HealthCheckRequest(service="x"))  # type: ignore[arg-type]
        assert refusal.code() is grpc.StatusCode.NOT_FOUND
        assert judge.asked == []


def test_a_channel_waits_for_a_server_that_is_not_there_yet(transport: str) -> None:
    judge = Judge()
    with directory() as path, _channel(f"unix:{path / 's'}") as channel:
        call = _check(channel).future(b"ab", timeout=PATIENCE_S, wait_for_ready=True)
        assert _refusal(_check(channel)).code() is grpc.StatusCode.UNAVAILABLE
        with serving(transport, judge.check, judge.check_all, path / "s"):
            assert call.result(PATIENCE_S) == b"ba"


def test_a_channel_comes_back_to_a_server_that_was_restarted(transport: str) -> None:
    judge = Judge()
    with directory() as path, _channel(f"unix:{path / 's'}") as channel:
        for round_ in range(3):
            with serving(transport, judge.check, judge.check_all, path / "s"):
                answer = _check(channel)(b"%d!" % round_, timeout=PATIENCE_S, wait_for_ready=True)
                assert answer == b"!%d" % round_
            assert _refusal(_check(channel)).code() is grpc.StatusCode.UNAVAILABLE
        assert judge.asked == [b"0!", b"1!", b"2!"]


def test_what_was_accepted_before_a_stop_is_answered(transport: str) -> None:
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        judge.hold(b"ab")
        call = _check(channel).future(b"ab", timeout=PATIENCE_S)
        judge.until_held(b"ab")
        stopping = asyncio.run_coroutine_threadsafe(served.server.stop(PATIENCE_S), served.loop)
        judge.release(b"ab")
        assert call.result(PATIENCE_S) == b"ba"
        stopping.result(PATIENCE_S)
        assert _refusal(_check(channel)).code() is grpc.StatusCode.UNAVAILABLE


class _Waiting:
    """A fast transport whose loop stands still in a first call, and a channel to it."""

    def __init__(self, served: Served, judge: Judge, channel: grpc.Channel) -> None:
        self.served, self.judge = served, judge
        self.check = _check(channel)
        judge.hold(b"first")
        self.first = self.check.future(b"first", timeout=PATIENCE_S)
        judge.until_held(b"first")

    def go_on(self) -> None:
        """Let the loop go, and see that the connection serves the next call."""
        self.judge.release_all()
        assert self.first.result(PATIENCE_S) == b"tsrif"
        assert self.check(b"next", timeout=PATIENCE_S) == b"txen"


def test_a_call_that_was_cancelled_while_it_waited_is_not_decided(transport: str) -> None:
    if transport == "grpc":
        return  # its bytes may have been read before the loop stood still: then it is decided
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        waiting = _Waiting(served, judge, channel)
        call = waiting.check.future(b"x" * 5000, timeout=PATIENCE_S)
        served.until_unread(5000)
        call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        # It leaves after the caller has been told.
        wait_until(lambda: RST_STREAM in served.frames(), "the reset")
        waiting.go_on()
        assert judge.asked == [b"first", b"next"]
        assert served.server.abandoned == 1


def test_a_call_whose_deadline_passed_while_it_waited_is_not_decided(transport: str) -> None:
    if transport == "grpc":
        return  # as above
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        waiting = _Waiting(served, judge, channel)
        patience = 0.1
        while HEADERS not in served.frames():
            # A busy machine may take longer than that to send it; then once more, with more.
            refusal = _refusal(waiting.check, b"x" * 5000, timeout=patience)
            assert refusal.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            patience *= 2
        # The caller's reset leaves after it has been told.
        wait_until(
            lambda: served.frames().count(RST_STREAM) == served.frames().count(HEADERS),
            "the resets",
        )
        waiting.go_on()
        assert judge.asked == [b"first", b"next"]
        assert served.server.abandoned >= 1


def test_a_call_whose_deadline_passed_in_the_queue_is_not_decided(transport: str) -> None:
    """It was read in time, and its turn came too late."""
    if transport == "grpc":
        return  # it has no queue of ours
    with judging(transport) as (served, judge), _channel(served.target) as channel:
        waiting = _Waiting(served, judge, channel)
        judge.hold(b"held")
        # A whole batch that stands still, and one more.
        filling = [b"held", *(b"filling" for _ in range(server.BATCH - 1))]
        calls = [waiting.check.future(raw, timeout=PATIENCE_S) for raw in filling]
        served.until_unread(sum(map(len, filling)))
        before = served.unread()
        late = waiting.check.future(b"x" * 5000, timeout=PATIENCE_S)
        served.until_unread(before + 5000)
        judge.release(b"first")
        judge.until_held(b"held")
        [line] = served.server._waiting._lines
        [(_, stream)] = line.calls
        assert 0 < stream.deadline - stream.opened <= PATIENCE_S + 1  # it rounds up
        stream.deadline = served.loop.time() - 0.001
        waiting.go_on()
        assert [call.result(PATIENCE_S) for call in calls] == [raw[::-1] for raw in filling]
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert late.details() == "the caller's deadline has passed"
        assert judge.asked == [b"first", *filling, b"next"]
        assert served.server.abandoned == 1


def test_connections_come_and_go_and_leave_nothing(transport: str) -> None:
    with judging(transport) as (served, judge):

        def one(number: int) -> bytes:
            with _channel(served.target) as channel:
                # Of some thousand connections the client does not notice one's SETTINGS, tries
                # again after 20 s, and fails a call meanwhile that does not wait.
                asked = _check(channel)(b"%d" % number, timeout=PATIENCE_S, wait_for_ready=True)
                return bytes(asked)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, range(100)))
        assert answers == [(b"%d" % number)[::-1] for number in range(100)]
        assert len(judge.asked) == 100
        if transport == "h2c":
            wait_until(lambda: not served.server.figures()["connections"], "them to be gone")
            assert not served.server.violations
