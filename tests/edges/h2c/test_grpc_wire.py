"""gRPC over HTTP/2: what a call is, and the status of everything that is none."""

import math
from typing import Final

import pytest

from authz.edges.h2c.connection import MAX_MESSAGE, STREAM_S
from authz.edges.h2c.grpc_status import Status, http_only, trailers_only
from authz.edges.h2c.requests import timeout_s
from tests.edges.h2c.peer import (
    END_HEADERS,
    END_STREAM,
    METHOD,
    SETTINGS_ACK,
    TYPE,
    Case,
    Field,
    Peer,
    block,
    call,
    data,
    fields,
    frame,
    grpc,
    headers,
    literal,
    reset,
    run,
)

ANSWER: Final = ("answer 3 'ih'",)
HI: Final = (b"hi",)
INTERNAL: Final = ("status 3 INTERNAL",)
TOO_LARGE: Final = ("status 3 RESOURCE_EXHAUSTED",)


def _body(body: bytes, *, cut: int = 16_384) -> bytes:
    parts = [body[at : at + cut] for at in range(0, len(body), cut)] or [b""]
    sent = [data(3, part, 0) for part in parts[:-1]]
    return headers(3) + b"".join(sent) + data(3, parts[-1])


def _with(*more: Field, without: tuple[Field, ...] = ()) -> bytes:
    return call(3, b"hi", block(fields(*more, without=without)))


BODIES: Final[dict[str, Case]] = {
    "one-message": Case(_body(grpc(b"hi")), ANSWER, HI),
    "an-empty-message": Case(_body(grpc(b"")), ("answer 3 ''",), (b"",)),
    "byte-by-byte": Case(_body(grpc(b"hi"), cut=1), ANSWER, HI),
    "end-stream-of-its-own": Case(
        headers(3) + data(3, grpc(b"hi"), 0) + data(3, b""), ANSWER, HI
    ),
    "no-body": Case(headers(3, flags=END_HEADERS | END_STREAM), INTERNAL),
    "an-empty-body": Case(_body(b""), INTERNAL),
    "half-a-prefix": Case(_body(b"\0\0\0\0"), INTERNAL),
    "shorter-than-it-says": Case(_body(grpc(b"hello")[:-1]), INTERNAL),
    "longer-than-it-says": Case(_body(grpc(b"hello") + b"!"), INTERNAL),
    "two-messages": Case(_body(grpc(b"hi") + grpc(b"ho")), INTERNAL),
    "two-messages-the-first-one-empty": Case(_body(grpc(b"") + grpc(b"ho")), INTERNAL),
    "compressed": Case(_body(grpc(b"hi", flag=1)), ("status 3 UNIMPLEMENTED",)),
    "compressed-and-said-so": Case(
        headers(3, block(fields((b"grpc-encoding", b"gzip")))) + data(3, grpc(b"hi", flag=1)),
        ("status 3 UNIMPLEMENTED",),
    ),
    "an-encoding-that-is-not-used": Case(_with((b"grpc-encoding", b"gzip")), ANSWER, HI),
    "a-flag-that-nobody-knows": Case(_body(grpc(b"hi", flag=2)), INTERNAL),
    "the-highest-flag": Case(_body(grpc(b"hi", flag=255)), INTERNAL),
    "one-byte-too-large": Case(_body(grpc(b"x" * (MAX_MESSAGE + 1))), TOO_LARGE),
    "too-large-and-not-finished": Case(
        headers(3) + data(3, grpc(b"x" * (MAX_MESSAGE + 1))[:5], 0)
        + data(3, bytes(16_384), 0) * 17,
        (*TOO_LARGE, "reset 3 NO_ERROR"),
    ),
    "too-large-and-more-of-it": Case(
        headers(3) + data(3, bytes(16_384), 0) * 20 + data(3, b""),
        (*TOO_LARGE, "reset 3 NO_ERROR"),
    ),
    "said-to-be-too-large": Case(_body(b"\0\xff\xff\xff\xffhi"), INTERNAL),
    "reset-before-it-is-judged": Case((call(3), reset(3)), (), (), held=True),
    "reset-in-the-middle-of-the-body": Case(headers(3) + data(3, b"\0\0", 0) + reset(3)),
}  # fmt: skip

HEADS: Final[dict[str, Case]] = {
    "content-type-with-a-codec": Case(
        _with((b"content-type", b"application/grpc+proto"), without=(TYPE,)), ANSWER, HI
    ),
    "content-type-with-a-parameter": Case(
        _with((b"content-type", b"application/grpc; charset=utf-8"), without=(TYPE,)), ANSWER, HI
    ),
    "no-content-type": Case(_with(without=(TYPE,)), ("http 3 415", "reset 3 NO_ERROR")),
    "content-type-of-the-web": Case(
        _with((b"content-type", b"application/grpc-web"), without=(TYPE,)),
        ("http 3 415", "reset 3 NO_ERROR"),
    ),
    "content-type-of-something-else": Case(
        _with((b"content-type", b"application/json"), without=(TYPE,)),
        ("http 3 415", "reset 3 NO_ERROR"),
    ),
    "content-type-of-something-else-in-one": Case(
        headers(3, block(fields(without=(TYPE,))), END_HEADERS | END_STREAM), ("http 3 415",)
    ),
    "get": Case(
        headers(3, block(((b":method", b"GET"), *fields(without=(METHOD,)))),
                END_HEADERS | END_STREAM),
        ("http 3 405",),
    ),
    "get-with-a-body": Case(
        call(3, b"hi", block(((b":method", b"GET"), *fields(without=(METHOD,))))),
        ("http 3 405", "reset 3 NO_ERROR"),
    ),
    "post-in-lower-case": Case(
        call(3, b"hi", block(((b":method", b"post"), *fields(without=(METHOD,))))),
        ("http 3 405", "reset 3 NO_ERROR"),
    ),
    "no-te": Case(call(3, b"hi", block(fields()[:5])), ANSWER, HI),
    "a-timeout": Case(_with((b"grpc-timeout", b"100m")), ANSWER, HI),
    "a-timeout-of-nothing": Case(
        _with((b"grpc-timeout", b"0m")), ("status 3 DEADLINE_EXCEEDED",)
    ),
    "a-timeout-that-is-none": Case(_with((b"grpc-timeout", b"soon")), INTERNAL),
    "a-timeout-without-a-unit": Case(_with((b"grpc-timeout", b"100")), INTERNAL),
    "metadata-of-any-kind": Case(
        _with((b"x-bin", b"AAECAw=="), (b"user-agent", b"grpc-c++/1.80")), ANSWER, HI
    ),
}  # fmt: skip


@pytest.mark.parametrize("acknowledged", [False, True], ids=["before-the-ack", "after-the-ack"])
@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str, acknowledged: bool) -> None:
    run(BODIES[name], acknowledged=acknowledged)


@pytest.mark.parametrize("acknowledged", [False, True], ids=["before-the-ack", "after-the-ack"])
@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str, acknowledged: bool) -> None:
    run(HEADS[name], acknowledged=acknowledged)


def test_a_message_as_large_as_may_be() -> None:
    peer = Peer().greet()
    peer.reply = lambda message: b"%d" % len(message)
    message = b"x" * MAX_MESSAGE
    assert peer.send(call(3, message)) == [f"answer 3 '{MAX_MESSAGE}'"]
    assert peer.judged == [message]
    assert peer.budget.held == 0
    assert peer.works()


def test_fields_of_the_answers() -> None:
    assert http_only(405).endswith(literal(b"allow", b"POST"))
    assert b"allow" not in http_only(415)
    assert literal(b"grpc-accept-encoding", b"identity") in trailers_only(Status.UNIMPLEMENTED, "x")
    # gRPC over HTTP/2, Status-Message: percent-encoded UTF-8, `%` as well.
    said = trailers_only(Status.INTERNAL, "50 % größer\n")
    assert said.endswith(literal(b"grpc-message", b"50 %25 gr%C3%B6%C3%9Fer%0A"))
    # RFC 7541 §5.1: a length that does not fit into seven bits, and one that fits exactly not.
    for size in (126, 127, 128, 254, 255, 1000, 20_000):
        assert trailers_only(Status.OK, "x" * size).endswith(literal(b"grpc-message", b"x" * size))


# ---------------------------------------------------------------- grpc-timeout

TIMEOUTS: Final = {
    "1H": 3600.0, "2M": 120.0, "3S": 3.0, "4m": 0.004, "5u": 5e-6, "6n": 6e-9,
    "0S": 0.0, "00000001S": 1.0, "99999999H": 99_999_999 * 3600.0,
}  # fmt: skip
NO_TIMEOUTS: Final = (
    "", "S", "1", "-1S", "+1S", "1.5S", "1s", "1h", " 1S", "1S ", "1S\n", "1SS", "S1", "0x1S",
    "100000000S", "1 S", "1ms", "1_0S", "\u0661S", "\xb2S", "infinity", "nan",
)  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), TIMEOUTS.items())
def test_a_timeout_in_every_unit(value: str, seconds: float) -> None:
    assert math.isclose(timeout_s(value), seconds)


@pytest.mark.parametrize("value", NO_TIMEOUTS)
def test_what_is_no_timeout(value: str) -> None:
    assert timeout_s(value) < 0


def test_a_deadline_counts_from_the_headers() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.now = 100.0
    peer.send(headers(3, block(fields((b"grpc-timeout", b"250m")))))
    peer.now = 100.2
    peer.send(data(3, grpc(b"hi")))
    assert [stream.deadline for stream in peer.waiting] == [100.25]


def test_without_a_timeout_there_is_no_deadline() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3))
    assert peer.waiting[0].deadline == math.inf


@pytest.mark.parametrize(("timeout", "patience"), [(b"2S", 2.0), (b"1H", STREAM_S)])
def test_a_request_that_does_not_arrive_in_time(timeout: bytes, patience: float) -> None:
    peer = Peer().greet()
    peer.send(headers(3, block(fields((b"grpc-timeout", timeout)))) + data(3, b"\0\0", 0))
    peer.connection.expire(patience - 0.01)
    assert peer.read() == []
    peer.connection.expire(patience + 0.01)
    assert peer.read() == ["status 3 DEADLINE_EXCEEDED", "reset 3 NO_ERROR"]
    # Its rest was under way, and is nobody's.
    assert peer.send(data(3, b"\0\0\0")) == []
    assert peer.judged == []
    assert peer.works()


def test_a_request_that_waits_for_its_answer_does_not_expire_here() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3))
    peer.connection.expire(1e9)
    assert peer.read() == []
    assert peer.release() == ["answer 3 'ih'"]


def test_an_answer_that_does_not_leave_in_time() -> None:
    peer = Peer().greet((4, 0))
    assert peer.send(call(3)) == []
    peer.connection.expire(STREAM_S)
    assert peer.read() == []
    peer.connection.expire(STREAM_S + 0.01)
    assert peer.read() == ["reset 3 CANCEL"]
    assert peer.budget.held == 0
    assert peer.works()


# ---------------------------------------------------------------- answers nobody waits for


def test_an_answer_to_a_call_that_was_reset_is_dropped() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3) + call(5))
    one, other = peer.waiting
    peer.send(reset(3))
    peer.connection.answer(one, b"late")
    peer.connection.refuse(one, Status.UNAVAILABLE, "late")
    assert peer.read() == []
    peer.connection.answer(other, b"in time")
    peer.connection.answer(other, b"twice")
    peer.connection.refuse(other, Status.UNAVAILABLE, "twice")
    assert peer.read() == ["answer 5 'in time'"]


def test_an_answer_to_a_lost_connection_is_dropped() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3) + headers(5) + data(5, b"\0", 0))
    peer.connection.lost()
    peer.connection.lost()
    peer.connection.answer(peer.waiting[0], b"late")
    assert peer.read() == []
    assert peer.budget.held == 0
    assert peer.send(SETTINGS_ACK + frame(6)) == []
