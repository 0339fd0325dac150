"""A peer that wants us to work or to remember without end: what stops it, and what it can hold.

Bounds are asserted, never times.
"""

import sys
from collections.abc import Callable
from itertools import count, islice
from typing import Final

import pytest

from authz.edges.h2c.connection import (
    MAX_FORGIVEN,
    MAX_GAPS,
    MAX_HELD,
    MAX_MESSAGE,
    MAX_NOISE,
    MAX_STREAMS,
    NOISE_PER_ANSWER,
    STREAM_S,
    Budget,
)
from authz.edges.h2c.reading import MAX_CONTINUATIONS
from tests.edges.h2c.peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROBE,
    SETTINGS_ACK,
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

CALM: Final = "ENHANCE_YOUR_CALM"
FRAME: Final = 16_384

#: Frames that ask for nothing. Streams 3 and 5 are open, 7 has been reset by us.
NOISE: Final = {
    "ping": frame(PING, payload=bytes(8)),
    "answers-to-no-ping": frame(PING, ACK, payload=bytes(8)),
    "settings": settings(),
    "settings-with-values": settings((3, 100), (0xBEEF, 1)),
    "settings-of-windows": settings((4, 65_535)),
    "settings-acknowledgements": SETTINGS_ACK,
    "priority": frame(PRIORITY, 0, 3, bytes(5)),
    "priority-of-idle-streams": frame(PRIORITY, 0, 99, bytes(5)),
    "window-update": window(0, 1),
    "window-update-of-a-stream": window(3, 1),
    "window-update-of-a-closed-stream": window(1, 1),
    "rst-stream-of-a-closed-stream": reset(1),
    "empty-data": data(3, b"", 0),
    "data-of-a-stream-that-was-reset": data(7, b"", 0),
    "trailers-of-a-stream-that-was-reset": headers(7, b""),
    "goaway": frame(GOAWAY, payload=bytes(8)),
    "unknown-frames": frame(0xAA, payload=b"x"),
}


@pytest.mark.parametrize("name", NOISE)
def test_frames_that_ask_for_nothing(name: str) -> None:
    peer = Peer().greet(acknowledged="trailers" not in name)
    peer.send(headers(3) + headers(5) + headers(7, block(fields((b"UPPER", b"")))))
    sent = 0
    while not peer.connection.over:
        peer.send(NOISE[name] * 100)
        sent += 100
        assert sent <= MAX_NOISE + 100
    assert peer.broken[-1] == CALM
    # One answer to each at most, and nothing of it is kept.
    assert peer.sent_bytes < 40 * MAX_NOISE
    assert peer.judged == []
    assert peer.connection.open_streams == 0
    assert Peer().greet().works()


def test_a_busy_and_noisy_peer_is_served() -> None:
    peer = Peer().greet()
    peer.send(peer.open(0, 2**20))
    for number in range(3, 3 + 2 * MAX_NOISE, 2):
        sent = call(number) + NOISE["ping"] * NOISE_PER_ANSWER
        assert f"answer {number} 'ih'" in peer.send(sent)
    assert peer.works(number + 2)


def test_rapid_reset() -> None:
    # CVE-2023-44487: calls are opened and given up before they can be judged.
    peer = Peer().greet()
    numbers = count(3, 2)
    while not peer.connection.over:
        peer.send(b"".join(call(n) + reset(n) for n in islice(numbers, 50)))
        assert peer.connection.open_streams == 0
    assert peer.broken == [CALM]
    assert next(numbers) <= 2 * MAX_NOISE + 200
    assert peer.judged == []


def test_streams_that_are_made_to_be_reset_by_us() -> None:
    # CVE-2025-8671: the same with frames that make the server do it.
    ways: tuple[Callable[[int], bytes], ...] = (
        lambda n: headers(n) + window(n, 0),
        lambda n: headers(n) + frame(PRIORITY, 0, n, bytes(4)),
        lambda n: headers(n, block(fields((b"UPPER", b"")))),
        lambda n: call(n) + data(n, b"x"),
        lambda n: headers(n) + window(n, 2**31 - 1),
    )
    for wrong in ways:
        peer = Peer().greet()
        numbers = count(3, 2)
        while not peer.connection.over:
            peer.send(b"".join(wrong(next(numbers)) for _ in range(50)))
            assert peer.connection.open_streams == 0
            assert len(peer.connection._forgiven) <= MAX_FORGIVEN
        assert peer.broken[-1] == CALM
        assert next(numbers) <= 2 * MAX_NOISE + 200
        assert peer.judged == []


def test_more_streams_than_allowed_without_end() -> None:
    peer = Peer().greet()
    numbers = count(3, 2)
    peer.send(b"".join(headers(next(numbers)) for _ in range(MAX_STREAMS)))
    while not peer.connection.over:
        peer.send(b"".join(headers(next(numbers)) for _ in range(50)))
        assert peer.connection.open_streams <= MAX_STREAMS
    assert peer.broken[-1] == CALM
    assert next(numbers) <= 2 * (MAX_NOISE + MAX_STREAMS) + 200


def test_numbers_that_are_left_out_without_end() -> None:
    peer = Peer().greet()
    for at in range(MAX_GAPS * 20):
        number = 5 + 4 * at
        assert peer.send(call(number)) == [f"answer {number} 'ih'"]
    assert len(peer.connection._gaps) <= MAX_GAPS
    assert peer.works()


def test_continuations_without_end() -> None:
    for part in (b"", b"\x90"):
        peer = Peer().greet()
        peer.send(headers(3, flags=0))
        for _ in range(MAX_CONTINUATIONS):
            assert peer.send(frame(CONTINUATION, 0, 3, part)) == []
        assert peer.send(frame(CONTINUATION, 0, 3, part)) == [f"goaway 1 {CALM}"]


def test_continuations_of_any_size_are_bounded() -> None:
    peer = Peer().greet()
    peer.send(headers(3, bytes(8000), 0))
    assert peer.send(frame(CONTINUATION, 0, 3, bytes(FRAME))) == [f"goaway 1 {CALM}"]


def test_frames_byte_by_byte() -> None:
    peer = Peer().greet()
    sent = call(3) + NOISE["ping"] + frame(0xAA, payload=bytes(3000)) + headers(5, flags=0)
    said = []
    for byte in sent:
        said += peer.send(bytes((byte,)))
        assert len(peer.connection._reader._unread) <= FRAME + 9
    assert said == ["answer 3 'ih'", "pong 0000000000000000"]
    assert peer.send(frame(CONTINUATION, END_HEADERS, 5) + data(5, grpc(b"ho")))[-1].startswith(
        "answer 5"
    )


def test_a_body_of_one_byte_frames_in_padding() -> None:
    # Of 257 bytes each carries one: the stream's window stops what the message's size does not.
    peer = Peer().greet()
    one = frame(DATA, PADDED, 3, b"\xff" + b"x" + bytes(255))
    peer.send(headers(3))
    sent = 0
    while peer.connection.open_streams:
        peer.send(one)
        sent += 1
        assert peer.budget.held <= MAX_MESSAGE
    assert sent <= 2 * MAX_MESSAGE // 257 + 1
    assert peer.budget.held == 0
    assert peer.works()


# ---------------------------------------------------------------- what can be held


def test_half_messages_of_many_connections_stay_within_the_budget() -> None:
    budget = Budget()
    peers = [Peer(budget=budget).greet() for _ in range(20)]
    part = bytes(FRAME)
    for number in range(3, 83, 2):
        for peer in peers:
            for sent in (headers(number), *[data(number, part, 0)] * 3):
                peer.send(sent)
                assert budget.held <= MAX_HELD + FRAME
    assert budget.held > MAX_HELD // 2
    assert sum(len(peer.broken) for peer in peers) > 0
    assert {code for peer in peers for code in peer.broken} == {CALM}
    # Calls of one frame do not depend on the budget.
    other = Peer(budget=budget).greet()
    assert other.works()
    # What does not arrive is given up, and then there is room again.
    for peer in peers:
        peer.connection.expire(STREAM_S + 1)
    assert budget.held == 0
    other.reply = lambda message: b"%d" % len(message)
    assert other.send(call(PROBE + 2, bytes(200_000))) == [f"answer {PROBE + 2} '200000'"]
    for peer in peers:
        peer.connection.lost()
    other.connection.lost()
    assert budget.held == 0


def test_answers_whose_window_is_never_opened_stay_within_the_budget() -> None:
    budget = Budget()
    peers = [Peer(budget=budget).greet((4, 0)) for _ in range(3)]
    for peer in peers:
        peer.reply = lambda _message: bytes(10_000)
        for number in range(3, 3 + 2 * 500, 2):
            peer.send(call(number))
            assert budget.held <= MAX_HELD + 10_005
    assert budget.held > MAX_HELD - 20_000
    assert {code for peer in peers for code in peer.broken} == {CALM}
    assert Peer(budget=budget).greet().works()
    for peer in peers:
        peer.connection.expire(STREAM_S + 1)
    assert budget.held == 0
    for peer in peers:
        assert all(line.endswith(" CANCEL") for line in peer.read())
        assert peer.works()


def test_an_answer_that_leaves_at_once_is_not_reset_for_what_others_hold() -> None:
    budget = Budget()
    peer = Peer(budget=budget).greet((4, 2**20))
    budget.held = MAX_HELD
    # Larger than a frame, so it takes the slow way, and is gone when that ends.
    peer.reply = lambda _message: b"x" * 20_000
    assert peer.send(call(3)) == [f"answer 3 {'x' * 20_000!r}"]
    assert budget.held == MAX_HELD


def test_windows_that_open_by_one_byte_without_end() -> None:
    peer = Peer().greet((4, 0))
    peer.holding = True
    peer.send(b"".join(call(number) for number in range(3, 3 + 2 * 500, 2)))
    peer.release()
    assert peer.budget.held == 500 * 7
    while not peer.connection.over:
        peer.send(peer.open(0, 1) * 100 + peer.open(3, 1))
    assert peer.broken == [CALM]
    assert peer.budget.held == 0


def test_settings_with_thousands_of_windows_cost_as_many_frames() -> None:
    # Each value is looked at with every open stream.
    peer = Peer().greet()
    peer.send(b"".join(map(headers, range(3, 3 + 2 * MAX_STREAMS, 2))))
    peer.send(settings(*[(4, 65_535)] * 2730) * 2)
    assert peer.connection.over
    assert peer.broken[-1] == CALM


def test_half_beginnings_hold_next_to_nothing() -> None:
    peers = [Peer() for _ in range(2000)]
    for peer in peers:
        peer.connection.receive(PREFACE[:20], 0.0)
        assert len(peer.connection._reader._unread) == 20
        assert not peer.connection.greeted
        assert sys.getsizeof(peer.connection._reader._unread) < 100
    assert Peer().greet().works()


def test_headers_without_a_body_hold_no_budget_and_end() -> None:
    peer = Peer().greet()
    peer.send(b"".join(map(headers, range(3, 3 + 2 * MAX_STREAMS, 2))))
    assert peer.budget.held == 0
    peer.connection.expire(STREAM_S + 0.1)
    said = peer.read()
    assert len(said) == 2 * MAX_STREAMS
    assert peer.connection.open_streams == 0
    assert peer.works()


def test_half_a_header_block_is_all_that_a_peer_may_have_of_them() -> None:
    peer = Peer().greet()
    peer.send(headers(3, b"\0" * 8000, 0))
    assert len(peer.connection._reader._block[2]) == 8000  # type: ignore[index]
    peer.connection.expire(1e9)
    assert peer.connection.open_streams == 0
    assert Peer().greet().works()
