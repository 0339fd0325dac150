"""A peer that wants us to work or to remember without end: what stops it, and what it can hold.

Bounds are asserted, never times.
"""

import sys
from collections.abc import Callable
from itertools import count, islice
from typing import Final

import hpack
import pytest

from authz.edges.h2c.connection import (
    FIELD_WORK,
    MAX_ALL_STREAMS,
    MAX_FORGIVEN,
    MAX_GAPS,
    MAX_HELD,
    MAX_MESSAGE,
    MAX_NOISE,
    MAX_STREAMS,
    MAX_WORK,
    NOISE_PER_ANSWER,
    STREAM_S,
    Account,
    Budget,
)
from authz.edges.h2c.reading import MAX_CONTINUATIONS
from authz.edges.h2c.requests import BYTES_PER_FIELD, MAX_KEPT_BLOCK, MAX_PATH
from tests.edges.h2c.peer import (
    ACK,
    AUTHORITY,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    METHOD,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROBE,
    SCHEME,
    SETTINGS_ACK,
    TYPE,
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


#: What is asked for, and is not here: each is answered, and none earns anything.
#: `:method: POST`, `:scheme: http`, `:path: /`, of the static table, and no content-type.
WRONG: Final[dict[str, Callable[[int], bytes]]] = {
    "no-grpc": lambda n: headers(n, b"\x83\x86\x84", END_HEADERS | END_STREAM),
    "no-grpc-and-open": lambda n: headers(n, b"\x83\x86\x84"),
    "get": lambda n: headers(n, b"\x82\x86\x84", END_HEADERS | END_STREAM),
    "no-message": lambda n: headers(n) + data(n, b""),
    "compressed": lambda n: headers(n) + data(n, b"\1" + grpc(b"")[1:]),
    "no-timeout": lambda n: call(n, b"", block(fields((b"grpc-timeout", b"soon")))),
}


@pytest.mark.parametrize("acknowledged", [True, False], ids=["known-blocks", "unknown-blocks"])
@pytest.mark.parametrize("name", WRONG)
def test_answers_to_what_is_not_here_are_not_without_end(name: str, acknowledged: bool) -> None:
    peer = Peer().greet(acknowledged=acknowledged)
    numbers = count(3, 2)
    while not peer.connection.over:
        peer.send(b"".join(WRONG[name](n) for n in islice(numbers, 50)))
        assert peer.connection.open_streams == 0
    assert peer.broken == [CALM]
    assert next(numbers) <= 2 * MAX_NOISE + 300
    assert peer.judged == []


def test_headers_above_our_goaway_are_not_without_end() -> None:
    peer = Peer().greet()
    peer.send(headers(3))
    peer.connection.drain()
    peer.send(frame(PING, ACK, payload=b"draining"))
    numbers = count(5, 2)
    while not peer.connection.over:
        assert not any("answer" in line for line in peer.send(call(next(numbers))))
        assert next(numbers) <= 4 * MAX_NOISE
    assert peer.broken == [CALM]


# ---------------------------------------------------------------- what one turn costs

#: A block of 480 fields, each of which is decoded: about the most that a block can cost.
FIELDS: Final = 480
WIDE: Final = b"\x83\x86\x84" + b"\x00\x01a\x00" * (FIELDS - 3)
#: One of a field that is long: each byte of Huffman's code is decoded for itself.
LONG: Final = b"\x83\x86\x84" + hpack.Encoder().encode([(b"a", b"a" * 12_000)], huffman=True)


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(lambda _: NOISE["ping"], id="ping"),
        pytest.param(lambda _: NOISE["unknown-frames"], id="unknown-frames"),
        pytest.param(WRONG["no-grpc"], id="no-grpc"),
        pytest.param(lambda n: call(n) + reset(n), id="reset"),
        pytest.param(call, id="calls"),
        pytest.param(lambda n: headers(n, WIDE), id="wide-blocks"),
        pytest.param(lambda n: headers(n, LONG), id="long-blocks"),
    ],
)
def test_a_turn_is_bounded_and_nothing_is_lost(piece: Callable[[int], bytes]) -> None:
    def sent(times: int) -> bytes:
        return b"".join(piece(3 + 2 * at) for at in range(times))

    size = len(piece(3))
    times = min(64 * 1024 // size, MAX_STREAMS)
    peer = Peer().greet(acknowledged=False)
    # Its first block is decoded, and may have to be worked off.
    while peer.connection.account.allowance <= 0:
        peer.turn()
    unread = times * size
    peer.turn(sent(times))
    turns = 1
    while True:
        # Every piece is two units of work at least, whatever it is.
        assert unread - peer.connection._reader.unread <= (MAX_WORK // 2 + 1) * size
        unread = peer.connection._reader.unread
        if not peer.connection.behind:
            break
        peer.turn()
        turns += 1
    assert unread == 0
    # The last one is paid for later.
    decoded = (times - 1) * {WIDE: FIELDS, LONG: len(LONG) // BYTES_PER_FIELD}.get(piece(3)[9:], 0)
    assert turns >= max(2, times * 2 // MAX_WORK, decoded * FIELD_WORK // MAX_WORK)
    assert not peer.broken
    # What it hears is what it would have heard in one turn for each.
    other = Peer().greet(acknowledged=False)
    heard = [line for at in range(times) for line in other.send(piece(3 + 2 * at))]
    assert sorted(peer.read()) == sorted(heard)


def test_what_one_connection_has_spent_is_missing_on_the_next_of_the_same_caller() -> None:
    account = Account()
    first, second = Peer(account=account).greet(), Peer(account=account).greet()
    first.turn(headers(3, WIDE, END_HEADERS | END_STREAM))
    assert account.allowance < 0
    assert second.connection.receive(call(3), 0.0) == []
    assert second.send(b"") == ["answer 3 'ih'"]
    assert Peer().greet().works()


def test_half_calls_that_are_given_up_are_not_without_end() -> None:
    peer = Peer().greet()
    numbers = count(3, 2)
    while not peer.connection.over:
        peer.send(b"".join(map(headers, islice(numbers, MAX_STREAMS))))
        peer.connection.expire(STREAM_S + 0.1)
        peer.read()
        assert next(numbers) <= 3 * MAX_NOISE
    assert peer.broken == [CALM]


def test_parts_of_blocks_are_not_without_end() -> None:
    peer = Peer().greet()
    numbers = count(3, 2)
    while not peer.connection.over:
        number = next(numbers)
        peer.send(headers(number, b"\x83\x86\x84", 0) + frame(CONTINUATION, 0, number) * 7)
        peer.send(frame(CONTINUATION, END_HEADERS, number) + reset(number))
        assert number <= MAX_NOISE
    assert peer.broken == [CALM]


def test_long_paths_are_not_kept() -> None:
    path = (b":path", b"/" + b"x" * 4000)
    long = block((METHOD, SCHEME, path, AUTHORITY, TYPE))
    for acknowledged in (True, False):
        peer = Peer().greet(acknowledged=acknowledged)
        peer.send(headers(3, long))
        [stream] = peer.connection._streams.values()
        assert len(stream.head.method) == MAX_PATH
        assert all(len(kept) <= MAX_KEPT_BLOCK for kept in peer.connection._headers._kept)


def test_whoever_opens_most_streams_is_held_to_its_share() -> None:
    budget, hog = Budget(), Account()
    budget.callers = 2
    hostile = [Peer(budget=budget, account=hog).greet() for _ in range(40)]
    numbers = range(3, 3 + 2 * MAX_STREAMS, 2)
    for peer in hostile:
        peer.send(b"".join(map(headers, numbers)))
    assert budget.streams == hog.streams == MAX_ALL_STREAMS
    assert {code for peer in hostile for code in peer.broken} == {"REFUSED_STREAM"}
    # As many as it may have are there for somebody else.
    honest = Peer(budget=budget).greet()
    honest.holding = True
    honest.send(b"".join(map(call, numbers)))
    assert len(honest.waiting) == MAX_STREAMS
    assert len(honest.release()) == MAX_STREAMS
    assert honest.broken == []
    for peer in (*hostile, honest):
        peer.connection.lost()
    assert (budget.streams, hog.streams) == (0, 0)


def test_blocks_that_cannot_be_decoded_cost_what_was_decoded_of_them() -> None:
    peer = Peer().greet()
    before = peer.connection.account.allowance
    peer.turn(headers(3, bytes((0x40, 0x7F)) + bytes(7000)))
    assert peer.connection.over
    assert before - peer.connection.account.allowance > 7000 // BYTES_PER_FIELD


def test_bytes_that_are_no_frame_yet_cost_something() -> None:
    peer = Peer().greet()
    peer.connection.account.refill()
    for byte in data(3, bytes(FRAME))[: MAX_WORK + 10]:
        assert peer.connection.receive(bytes((byte,)), 0.0) == []
    assert peer.connection.account.allowance <= 0
    assert peer.connection.behind


def test_who_has_spent_more_than_a_turn_sits_out() -> None:
    peer = Peer().greet()
    peer.turn(headers(3, WIDE, END_HEADERS | END_STREAM) + headers(5))
    sat_out = 0
    while peer.connection._last == 3:
        assert peer.connection.behind
        peer.turn()
        sat_out += 1
    assert sat_out >= FIELD_WORK * FIELDS // MAX_WORK


def test_a_call_that_was_given_up_holds_nothing_while_it_waits() -> None:
    peer = Peer().greet()
    peer.holding = True
    half = grpc(bytes(40_000))
    peer.send(headers(3) + data(3, half[:FRAME], 0) + data(3, half[FRAME : 2 * FRAME], 0))
    peer.send(data(3, half[2 * FRAME :]) + call(5, bytes(10_000)))
    whole, small = peer.waiting
    assert peer.budget.held == len(half)
    assert (len(whole.message), len(small.message)) == (40_000, 10_000)
    peer.send(reset(3) + reset(5))
    for stream in (whole, small):
        assert stream.ended
        assert (stream.message, stream.body, stream.unsent) == (b"", None, b"")
    assert peer.budget.held == 0


def test_whoever_holds_most_gives_up_and_nobody_else() -> None:
    budget = Budget()
    hog, honest = Peer(budget=budget).greet(), Peer(budget=budget).greet((4, 1000))
    part = bytes(FRAME)
    numbers = count(3, 2)
    while budget.held < MAX_HELD - FRAME:
        number = next(numbers)
        hog.send(headers(number) + data(number, part, 0))
    # A call in parts, and an answer that its window keeps back.
    half = grpc(bytes(40_000))
    honest.reply = lambda message: b"%d" % len(message)
    honest.send(headers(3) + data(3, half[:FRAME], 0) + data(3, half[FRAME : 2 * FRAME], 0))
    assert honest.send(data(3, half[2 * FRAME :])) == ["answer 3 '40000'"]
    honest.reply = lambda _message: bytes(5000)
    assert honest.send(call(5)) == []
    assert honest.send(honest.open(5, 5000)) == [f"answer 5 {(chr(0) * 5000)!r}"]
    assert honest.broken == []
    assert set(hog.broken) == {CALM}
    assert budget.held == hog.connection.held <= MAX_HELD


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
        assert peer.connection._reader.unread <= FRAME + 9
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
        # Those that had to go for others' are said with the next output, whatever it is.
        assert all(line.endswith((" CANCEL", CALM)) for line in peer.read())
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
        assert peer.connection._reader.unread == 20
        assert not peer.connection.greeted
        assert sys.getsizeof(peer.connection._reader._data) < 100
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
