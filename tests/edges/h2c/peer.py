"""A peer made by hand: its frames are written here from the RFCs, byte by byte, and what the server
sends back is read by other people's code (hyperframe, hpack), which checks our windows and frame
sizes on the way.

`Peer.send` gives everything that the server said as one line each, so that a case can state it
all: `answer 3 'ih'`, `status 3 INTERNAL`, `http 3 405`, `reset 3 CANCEL`, `goaway 1 NO_ERROR`,
`ack`, `pong 70696e6721212121`, `ping …`, `window 0 +8388609`, `settings`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import hpack
from hyperframe import frame as hyper

from authz.edges.h2c.connection import NOISE_PER_ANSWER, Account, Budget, Connection, Stream
from authz.edges.h2c.frames import ErrorCode
from authz.edges.h2c.grpc_status import Status

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

CHECK: Final = b"/envoy.service.auth.v3.Authorization/Check"
Field = tuple[bytes, bytes]
METHOD: Final[Field] = (b":method", b"POST")
SCHEME: Final[Field] = (b":scheme", b"http")
PATH: Final[Field] = (b":path", CHECK)
AUTHORITY: Final[Field] = (b":authority", b"ext_authz")
TYPE: Final[Field] = (b"content-type", b"application/grpc")
TE: Final[Field] = (b"te", b"trailers")
FIELDS: Final = (METHOD, SCHEME, PATH, AUTHORITY, TYPE, TE)

#: The number of the call that shows that a connection still works.
PROBE: Final = 9001


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """RFC 9113 §4.1."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def integer(value: int, prefix_bits: int, first: int = 0) -> bytes:
    """RFC 7541 §5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((first | value,))
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes((*out, value))


def text(value: bytes) -> bytes:
    """RFC 7541 §5.2, without Huffman."""
    return integer(len(value), 7) + value


def literal(name: bytes, value: bytes) -> bytes:
    """RFC 7541 §6.2.2: without indexing."""
    return b"\0" + text(name) + text(value)


def indexed_literal(name: bytes, value: bytes) -> bytes:
    """RFC 7541 §6.2.1: into the dynamic table."""
    return b"\x40" + text(name) + text(value)


def block(fields: Iterable[Field] = FIELDS) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def fields(*more: Field, without: Sequence[Field] = ()) -> tuple[Field, ...]:
    """A correct call's fields, some left out, more behind them."""
    return (*(field for field in FIELDS if field not in without), *more)


def grpc(message: bytes, flag: int = 0) -> bytes:
    """gRPC over HTTP/2, Length-Prefixed-Message."""
    return bytes((flag,)) + len(message).to_bytes(4) + message


def headers(
    stream: int, encoded: bytes | None = None, flags: int = END_HEADERS, *, before: bytes = b""
) -> bytes:
    return frame(HEADERS, flags, stream, before + (block() if encoded is None else encoded))


def data(stream: int, payload: bytes, flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, stream, payload)


def call(stream: int, message: bytes = b"hi", encoded: bytes | None = None) -> bytes:
    """A correct call, its body cut to frames of the smallest size that a peer may be held to."""
    body = grpc(message)
    parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    sent = [data(stream, part, 0) for part in parts[:-1]]
    return headers(stream, encoded) + b"".join(sent) + data(stream, parts[-1])


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(n.to_bytes(2) + v.to_bytes(4) for n, v in pairs))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4))


SETTINGS_ACK: Final = frame(SETTINGS, ACK)


def backwards(message: bytes) -> bytes:
    return message[::-1]


class Said(NamedTuple):
    """One answer as it comes in."""

    fields: dict[bytes, bytes]
    body: bytearray


class Listener:
    """What a server sends, as lines; and whether it keeps to our windows and frame size."""

    def __init__(self) -> None:
        #: What the server may send: RFC 9113 §6.9 from the receiver's side.
        self.window = 65_535
        self.initial = 65_535
        self.credits: dict[int, int] = {}
        self.frame_size = 16_384
        self._decoder = hpack.Decoder()
        self._answers: dict[int, Said] = {}
        self._ended: set[int] = set()
        self._unread = b""

    def open(self, stream: int, increment: int) -> bytes:
        """A WINDOW_UPDATE that our own bookkeeping knows of."""
        if stream:
            self.credits[stream] = self.credits.get(stream, 0) + increment
        else:
            self.window += increment
        return window(stream, increment)

    def hear(self, output: bytes) -> list[str]:
        self._unread += output
        lines = []
        while len(self._unread) >= 9:
            one, size = hyper.Frame.parse_frame_header(memoryview(self._unread[:9]), strict=True)
            assert size <= self.frame_size, "a frame above the peer's SETTINGS_MAX_FRAME_SIZE"
            if len(self._unread) < 9 + size:
                break
            one.parse_body(memoryview(self._unread[9 : 9 + size]))
            self._unread = self._unread[9 + size :]
            lines += self._lines(one)
        return lines

    def _lines(self, one: hyper.Frame) -> list[str]:
        number = one.stream_id
        match one:
            case hyper.SettingsFrame():
                return ["ack" if "ACK" in one.flags else "settings"]
            case hyper.PingFrame():
                return [("pong " if "ACK" in one.flags else "ping ") + one.opaque_data.hex()]
            case hyper.GoAwayFrame():
                return [f"goaway {one.last_stream_id} {ErrorCode(one.error_code).name}"]
            case hyper.RstStreamFrame():
                return [f"reset {number} {ErrorCode(one.error_code).name}"]
            case hyper.WindowUpdateFrame():
                return [f"window {number} +{one.window_increment}"]
            case hyper.HeadersFrame():
                assert number not in self._ended, "HEADERS after the end of an answer"
                assert "END_HEADERS" in one.flags
                decoded = dict(self._decoder.decode(one.data, raw=True))
                said = self._answers.setdefault(number, Said({}, bytearray()))
                assert not said.fields.keys() & decoded.keys()
                said.fields.update(decoded)
            case hyper.DataFrame():
                assert number in self._answers, "DATA before HEADERS"
                assert number not in self._ended, "DATA after the end of an answer"
                self._account(number, one.flow_controlled_length)
                self._answers[number].body.extend(one.data)
            case _:
                raise AssertionError(f"a server does not send {one}")
        if "END_STREAM" in one.flags:
            self._ended.add(number)
            return [_summary(number, self._answers.pop(number))]
        return []

    def _account(self, number: int, size: int) -> None:
        self.window -= size
        self.credits[number] = self.credits.get(number, 0) - size
        if size:
            assert self.window >= 0, "the connection's window is exceeded"
            assert self.initial + self.credits[number] >= 0, "a stream's window is exceeded"


class Peer(Listener):
    """One connection in memory, with a gate that answers with the message backwards."""

    def __init__(self, *, budget: Budget | None = None, account: Account | None = None) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.budget = budget or Budget()
        self.connection = Connection(self._on_violation, self.budget, account)
        #: Messages that the gate has seen.
        self.judged: list[bytes] = []
        self.now = 0.0
        #: While it is set, calls wait for `release`.
        self.holding = False
        self.waiting: list[Stream] = []
        self.reply: Callable[[bytes], bytes] = backwards
        self.sent_bytes = 0

    def greet(self, *pairs: tuple[int, int], acknowledged: bool = True) -> "Peer":
        """Preface, SETTINGS, and a first call (number 1), as every client begins."""
        for name, value in pairs:
            self.initial = value if name == 4 else self.initial
            self.frame_size = value if name == 5 else self.frame_size
        said = self.send(PREFACE + settings(*pairs) + SETTINGS_ACK * acknowledged)
        assert said == ["settings", "window 0 +16711681", "ack"], said
        # RFC 7541 §4.2: the block after the acknowledgement says that the table is empty.
        encoded = (b"\x20" if acknowledged else b"") + block()
        # So that this works with a window of nothing as well.
        opened = self.open(1, 1000) if self.initial < 1000 else b""
        first = self.send(headers(1, encoded) + opened + data(1, grpc(b"first")))
        assert first == ["answer 1 'tsrif'"], first
        self.judged.clear()
        return self

    def send(self, sent: bytes) -> list[str]:
        self.turn(sent)
        while self.connection.behind:
            self.turn()
        return self.read()

    def turn(self, sent: bytes = b"") -> None:
        """What one turn allows of what has been sent. It is judged when all has been read."""
        self.connection.account.refill()
        self.waiting += self.connection.receive(sent, self.now)
        if not self.holding and not self.connection.behind:
            self._judge()

    def release(self) -> list[str]:
        self.holding = False
        self._judge()
        return self.read()

    def works(self, number: int = PROBE) -> bool:
        """A correct call is answered, and nothing else is said."""
        self.judged.clear()
        self.reply = backwards
        opened = self.open(0, 100) if self.window < 100 else b""
        if self.initial < 1000:
            opened += headers(number) + self.open(number, 1000) + data(number, grpc(b"probe"))
        else:
            opened += call(number, b"probe")
        return self.send(opened) == [f"answer {number} 'eborp'"] and self.judged == [b"probe"]

    def read(self) -> list[str]:
        """What the server has said since the last time."""
        output = self.connection.take_output()
        self.sent_bytes += len(output)
        lines = self.hear(output)
        assert not self._unread, "half a frame"
        return lines

    def _judge(self) -> None:
        waiting, self.waiting = self.waiting, []
        for stream in waiting:
            if not stream.ended:
                self.judged.append(stream.message)
                answer = self.reply(stream.message)
                self.connection.answer(stream, answer, NOISE_PER_ANSWER)

    def _on_violation(self, code: ErrorCode, reason: str) -> None:
        assert reason
        self.broken.append(code.name)


def _summary(number: int, said: Said) -> str:
    if said.fields[b":status"] != b"200":
        assert not said.body
        return f"http {number} {said.fields[b':status'].decode()}"
    assert said.fields[b"content-type"] == b"application/grpc"
    status = Status(int(said.fields[b"grpc-status"]))
    if status is not Status.OK:
        assert not said.body
        assert said.fields[b"grpc-message"]
        return f"status {number} {status.name}"
    body = bytes(said.body)
    assert body[0] == 0
    assert int.from_bytes(body[1:5]) == len(body) - 5
    message = body[5:]
    return f"answer {number} {message.decode('latin-1')!r}"


class Case(NamedTuple):
    """What a peer sends after its first call, and all that it hears."""

    #: One piece, or what arrives one after the other.
    sent: bytes | tuple[bytes, ...]
    said: tuple[str, ...] = ()
    #: What the gate sees; nothing in most cases.
    judged: tuple[bytes, ...] = ()
    #: Calls wait meanwhile, and are judged in the end.
    held: bool = False


def run(case: Case, *, acknowledged: bool) -> None:
    """The case itself, and that a call is answered afterwards: here, or on a new connection."""
    peer = Peer().greet(acknowledged=acknowledged)
    peer.holding = case.held
    said: list[str] = []
    for part in case.sent if isinstance(case.sent, tuple) else (case.sent,):
        said += peer.send(part)
    if case.held:
        said += peer.release()
    assert said == list(case.said)
    assert peer.judged == list(case.judged)
    ends = [line.split()[-1] for line in said if line.startswith(("reset", "goaway"))]
    assert peer.broken == [code for code in ends if code != "NO_ERROR"]
    if said and said[-1].startswith("goaway"):
        assert peer.connection.over
        assert peer.connection.drained
        assert peer.connection.open_streams == 0
        assert peer.broken[-1] == said[-1].split()[-1]
        assert peer.send(call(PROBE)) == []
        assert peer.judged == list(case.judged)
        assert Peer().greet().works()
    else:
        assert not peer.connection.over
        assert peer.works()
    assert peer.budget.held == 0
