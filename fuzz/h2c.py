"""Whatever bytes a peer sends to the fast transport, and what must hold all the same.

- Nothing raises, and nothing is kept beyond its limit.
- A message is given out when it was sent whole, with its END_STREAM, and never else: a second,
  simple-minded reader of the same bytes (`_Sent`) has to find it.
- What we send are frames, on streams that the peer has opened, and nothing follows an end.

The first byte of an input says how the rest is read: 0 a CheckRequest; odd, what a peer sends after
its preface; even, the moves of a conversation. Its upper half cuts what is sent into pieces.
"""

from collections.abc import Iterator
from typing import Final

from authz.core.call import Call, from_check_request
from authz.edges.h2c import connection as limits
from authz.edges.h2c.connection import Budget, Connection, Stream
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.grpc_status import Status
from authz.edges.h2c.requests import MAX_KEPT, MAX_KEPT_BLOCK

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_SIZE: Final = 16_384
#: Bytes that are cut into pieces.
MAX_CUT: Final = 2048
#: What may be held is looked at after it was added.
SLACK: Final = 2 * FRAME_SIZE
#: Frames of noise that one frame can count for: SETTINGS, of every open stream for each value.
NOISE_SLACK: Final = FRAME_SIZE // 6 * limits.MAX_STREAMS

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, PADDED = 0x1, 0x8


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


_NAMES: Final = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/envoy.service.auth.v3.Authorization/Check"),
    (b":authority", b"a"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
_CALL: Final = b"".join(b"\0" + _text(name) + _text(value) for name, value in _NAMES)
#: Header blocks worth repeating: good ones, and the first byte of many bad ones.
BLOCKS: Final = (
    _CALL,
    b"\x20" + _CALL,
    _CALL + b"\x40\x0cgrpc-timeout\x021m",
    _CALL + b"\xbe",
    _CALL + b"\x0f\x0d\x017",  # content-length: 7
    _CALL + b"\0\x01A\x01b",
    b"\x82\x86\x84",
    b"\x40\x01a\x01b",
    b"\xbe",
    b"\x80",
    b"",
    _CALL + b"\x90" * 300,
)


def one_input(raw: bytes) -> None:
    """What the fuzzer calls, and the replay of the corpus."""
    if not raw:
        return
    mode, rest = raw[0], raw[1:]
    if mode == 0:
        assert isinstance(from_check_request(rest), Call)
        return
    watched = Watched(cut=mode >> 4)
    if mode & 1:
        watched.send(PREFACE + rest)
        watched.answer_all()
        watched.expire()
    else:
        watched.send(PREFACE + _frame(SETTINGS))
        play(watched, rest)
    watched.end()


class Watched:
    """A connection, everything that was sent to it, and what must hold after each move."""

    def __init__(self, cut: int = 0) -> None:
        self._cut = cut
        self._sent = _Sent()
        self._output = _Output()
        self._budget = Budget()
        self.connection = Connection(self._violated, self._budget)
        self.waiting: list[Stream] = []
        self.now = 0.0
        self.violations = 0

    def send(self, raw: bytes) -> None:
        # A large part in small pieces costs time, and nothing new comes of it.
        size = self._cut if self._cut and len(raw) < MAX_CUT else max(len(raw), 1)
        for at in range(0, len(raw), size):
            part = raw[at : at + size]
            was_over = self.connection.over
            self._sent.add(part)
            asked = self._turn(part)
            assert not (was_over and asked)
            while self.connection.behind:
                self._turn(b"")
        self.check()

    def _turn(self, part: bytes) -> list[Stream]:
        self.connection.account.refill()
        asked = self.connection.receive(part, self.now)
        for stream in asked:
            # What was given up within the same turn is not kept.
            assert not (stream.ended and stream.message)
            if not stream.ended:
                self._sent.must_have(stream)
        self.waiting += asked
        return asked

    def answer(self, which: int, message: bytes) -> None:
        if self.waiting:
            stream = self.waiting.pop(which % len(self.waiting))
            assert isinstance(from_check_request(stream.message), Call)
            if which & 1:
                self.connection.refuse(stream, Status.UNAVAILABLE, "not today")
            else:
                self.connection.answer(stream, message)
            self.check()

    def answer_all(self) -> None:
        while self.waiting:
            self.answer(0, b"yes")

    def expire(self, seconds: float = limits.STREAM_S + 1) -> None:
        self.now += seconds
        self.connection.expire(self.now)
        self.check()

    def drain(self) -> None:
        self.connection.drain()
        self.check()

    def end(self) -> None:
        self.connection.lost()
        self.check()
        assert self._budget.held == 0
        assert self.connection.open_streams == 0

    def check(self) -> None:
        seen = self.connection
        streams = seen._streams.values()
        assert seen.open_streams <= limits.MAX_STREAMS
        assert self._budget.held == seen.held == sum(stream.held for stream in streams)
        assert self._budget.streams == len(streams)
        assert seen.held <= limits.MAX_HELD + SLACK
        for stream in streams:
            parts = len(stream.body or b"") + len(stream.unsent)
            # A message that came in parts stays counted while it waits, as it came.
            whole = len(stream.message) + limits.PREFIX_SIZE
            assert stream.held in (parts, whole), "bytes that nobody counts"
        assert not any(stream.ended for stream in streams)
        shut = {*seen._blocked, *seen._starved}
        assert shut == {stream.id for stream in streams if stream.unsent}
        assert seen._noise <= limits.MAX_NOISE + NOISE_SLACK
        assert seen._reader.unread < FRAME_SIZE + 9
        assert len(seen._forgiven) <= limits.MAX_FORGIVEN
        assert len(seen._gaps) <= limits.MAX_GAPS
        kept = seen._headers._kept
        assert len(kept) <= MAX_KEPT
        assert all(len(block) <= MAX_KEPT_BLOCK for block in kept)
        if seen.over:
            assert not streams
            assert seen.drained
        self._output.read(seen.take_output(), self._sent.opened)
        assert not self._output.ended & {stream.id for stream in streams}, "kept after its end"

    def _violated(self, code: ErrorCode, reason: str) -> None:
        assert code in ErrorCode
        assert reason
        self.violations += 1


class _Sent:
    """The peer's bytes, read by the rules for senders alone: bodies, and which are complete."""

    def __init__(self) -> None:
        self._raw = b""
        self._bodies: dict[int, bytes] = {}
        self._ended: set[int] = set()
        self.opened: set[int] = set()

    def add(self, part: bytes) -> None:
        self._raw += part
        if not self._raw.startswith(PREFACE):
            return
        at = len(PREFACE)
        for kind, flags, number, payload in _frames(self._raw[at:]):
            at += 9 + len(payload)
            if kind == HEADERS:
                self.opened.add(number)
            if kind == DATA and number not in self._ended:
                padding = payload[0] if flags & PADDED and payload else 0
                start = 1 if flags & PADDED else 0
                part = payload[start : len(payload) - padding]
                self._bodies[number] = self._bodies.get(number, b"") + part
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self._ended.add(number)
        self._raw = PREFACE + self._raw[at:]

    def must_have(self, stream: Stream) -> None:
        assert stream.id in self._ended, "a call that was not finished"
        message = stream.message
        body = self._bodies.get(stream.id, b"")
        assert body == b"\0" + len(message).to_bytes(4) + message, "a message that was not sent"


class _Output:
    """What we send, as a peer would read it."""

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self.ended: set[int] = set()

    def read(self, raw: bytes, opened: set[int]) -> None:
        size = 0
        for kind, flags, number, payload in _frames(raw):
            size += 9 + len(payload)
            if kind in (SETTINGS, PING, GOAWAY):
                assert number == 0
                continue
            assert kind in (HEADERS, DATA, RST_STREAM) or (kind == WINDOW_UPDATE and number == 0)
            if kind == WINDOW_UPDATE:
                assert 0 < int.from_bytes(payload) < 2**31
                continue
            assert number in opened, "a stream that the peer did not open"
            if kind == RST_STREAM:
                assert payload == bytes(4) or number not in self.ended
                self.ended.add(number)
                continue
            assert number not in self.ended, "more after the end"
            assert kind == HEADERS or number in self._begun
            self._begun.add(number)
            if flags & END_STREAM:
                self.ended.add(number)
        assert size == len(raw), "half a frame"


def _frames(raw: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + 9 <= len(raw):
        size = int.from_bytes(raw[at : at + 3])
        if at + 9 + size > len(raw):
            return
        number = int.from_bytes(raw[at + 5 : at + 9]) & 0x7FFF_FFFF
        yield raw[at + 3], raw[at + 4], number, raw[at + 9 : at + 9 + size]
        at += 9 + size


def _frame(kind: int, flags: int = 0, number: int = 0, payload: bytes = b"") -> bytes:
    payload = payload[:FRAME_SIZE]
    return len(payload).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4) + payload


class _Moves:
    """The bytes of an input, taken a few at a time; zeros when they have run out."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._raw) - self._at

    def take(self, size: int) -> bytes:
        part = self._raw[self._at : self._at + size]
        self._at += size
        return part

    def byte(self) -> int:
        return int.from_bytes(self.take(1))


def play(watched: Watched, raw: bytes) -> None:
    """A conversation: one byte a move, and a few for what it is about."""
    moves = _Moves(raw)
    next_number = 1
    while moves.left > 0 and not watched.connection.over:
        move, what = moves.byte(), moves.byte()
        # Streams that exist, or do not yet, or never can.
        number = max(0, next_number - 2 * (what & 7) + 2 * (what >> 7)) ^ (what >> 6 & 1)
        match move % 12:
            case 0:  # a call in one frame
                message = moves.take(what)
                block = BLOCKS[0 if move < 128 else what % len(BLOCKS)]
                body = b"\0" + len(message).to_bytes(4) + message
                sent = _frame(HEADERS, 4, next_number, block)
                watched.send(sent + _frame(DATA, END_STREAM, next_number, body))
                next_number += 2
            case 1:  # the head of a call
                block = BLOCKS[moves.byte() % len(BLOCKS)]
                watched.send(_frame(HEADERS, moves.byte(), next_number, block))
                next_number += 2
            case 2:  # a large part of a body
                watched.send(_frame(DATA, 0, number, bytes(FRAME_SIZE)) * (move >> 4))
            case 3:  # a part of a body
                watched.send(_frame(DATA, moves.byte(), number, moves.take(what & 31)))
            case 4:  # any frame
                kind, flags = moves.byte() % 11, moves.byte()
                watched.send(_frame(kind, flags, number, moves.take(move >> 3)))
            case 5:  # an answer: small, of some frames, larger than the first windows
                watched.answer(what, b"y" * (1, 20_000, 70_000)[move % 3])
            case 6:
                watched.expire((0.1, limits.STREAM_S + 1)[what & 1])
            case 7:
                watched.drain()
                if what & 1:
                    watched.send(_frame(PING, 1, 0, b"draining"))
            case 8:  # settings that matter, and their acknowledgement
                name, value = (4, 5, 1, 6)[what & 3], moves.take(4).rjust(4, b"\0")
                watched.send(_frame(SETTINGS, 0, 0, bytes((0, name)) + value))
                if what & 4:
                    watched.send(_frame(SETTINGS, 1))
            case 9:  # a window, by a little or much
                size = moves.take(1 + (what >> 4 & 3)).rjust(4, b"\0")
                watched.send(_frame(WINDOW_UPDATE, 0, 0 if what & 8 else number, size))
            case 10:  # many calls
                numbers = range(next_number, next_number + 2 * what, 2)
                next_number += 2 * what
                calls = (
                    _frame(HEADERS, 4, n, BLOCKS[0]) + _frame(DATA, END_STREAM, n, bytes(5))
                    for n in numbers
                )
                watched.send(b"".join(calls))
            case _:
                watched.send(moves.take(what))
