"""What holds of every conversation: cut it, mangle it, or let another client have it."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from authz.edges.h2c.connection import Budget, Connection
from authz.edges.h2c.grpc_status import Status
from fuzz.h2c import Watched, one_input
from tests.edges.h2c.peer import (
    CHECK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIELDS,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Peer,
    block,
    data,
    frame,
    grpc,
    headers,
)
from tests.edges.h2c.peer import settings as settings_frame

BUSY: Final = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

# ---------------------------------------------------------------- (a) valid conversations


class Spelling(NamedTuple):
    """One of the ways to write a call down."""

    message: bytes
    #: Where the header block and the body are cut.
    block_cuts: list[int]
    body_cuts: list[int]
    padding: int | None
    priority: bool
    trailers: bool
    #: Indexed, Huffman-coded, as hpack's encoder likes it.
    encoded: bool
    metadata: list[tuple[bytes, bytes]]


SPELLINGS: Final = st.builds(
    Spelling,
    message=st.binary(max_size=300),
    block_cuts=st.lists(st.integers(0, 150), max_size=4),
    body_cuts=st.lists(st.integers(0, 300), max_size=5),
    padding=st.none() | st.integers(0, 255),
    priority=st.booleans(),
    trailers=st.booleans(),
    encoded=st.booleans(),
    metadata=st.lists(st.sampled_from([(b"x-a", b"1"), (b"x-b", b"two"), (b"x-a", b"3")])),
)

#: What may come in between, and asks for nothing.
ASIDES: Final = (
    b"",
    frame(PING, payload=b"8 octets"),
    frame(0xAA, 0xFF, 77, b"whatever"),
    frame(WINDOW_UPDATE, payload=b"\0\0\0\7"),
    frame(PRIORITY, 0, 999, bytes(5)),
    settings_frame((0xBEEF, 1)),
)


def _cut(whole: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    return [whole[a:b] for a, b in pairwise(edges)]


def _units(number: int, how: Spelling, encoder: hpack.Encoder) -> Iterator[bytes]:
    """A call's frames; a header block is one unit, for nothing may come in between."""
    fields = [*FIELDS, *how.metadata]
    encoded = encoder.encode(fields) if how.encoded else block(fields)
    first, *rest = _cut(encoded, how.block_cuts)
    before, after, flags = b"", b"", 0
    if how.padding is not None:
        before, after, flags = bytes((how.padding,)), bytes(how.padding), PADDED
    if how.priority:
        before, flags = before + b"\0\0\0\0\x0f", flags | WITH_PRIORITY
    opening = frame(HEADERS, flags | (0 if rest else END_HEADERS), number, before + first + after)
    for at, part in enumerate(rest, 1):
        opening += frame(CONTINUATION, END_HEADERS if at == len(rest) else 0, number, part)
    yield opening
    parts = _cut(grpc(how.message), how.body_cuts)
    for at, part in enumerate(parts, 1):
        ends = END_STREAM if at == len(parts) and not how.trailers else 0
        if how.padding is None:
            yield data(number, part, ends)
        else:
            yield frame(DATA, PADDED | ends, number, before[:1] + part + after)
    if how.trailers:
        yield headers(number, block([(b"x-trailer", b"1")]), END_HEADERS | END_STREAM)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, dict[int, bytes]]:
    """What a client sends after its preface, and the message of each call."""
    acknowledged = draw(st.booleans())
    encoder = hpack.Encoder()
    if acknowledged:
        encoder.header_table_size = 0
    sent = settings_frame() + SETTINGS_ACK * acknowledged
    if acknowledged:
        # The block that says that the table is empty, of a call that nobody waits for.
        encoder.encode([])
        sent += headers(1, b"\x20" + block(), END_HEADERS | END_STREAM)
    waiting = list(enumerate(draw(st.lists(SPELLINGS, min_size=1, max_size=6))))
    messages = {3 + 2 * at: how.message for at, how in waiting}
    under_way: list[Iterator[bytes]] = []
    while waiting or under_way:
        at = draw(st.integers(0, len(under_way)))
        if at == len(under_way):
            if not waiting:
                at -= 1
            else:
                # Streams open in the order of their numbers.
                index, how = waiting.pop(0)
                under_way.append(_units(3 + 2 * index, how, encoder))
        unit = next(under_way[at], None)
        if unit is None:
            under_way.pop(at)
        else:
            sent += unit + draw(st.sampled_from(ASIDES))
    return sent, messages


@BUSY
@given(conversations(), st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_a_conversation_may_be_cut_anywhere(
    conversation: tuple[bytes, dict[int, bytes]], sizes: list[int]
) -> None:
    sent, messages = conversation
    whole, cut = Peer(), Peer()
    said = whole.send(PREFACE + sent)
    answers = [line for line in said if line.startswith("answer")]
    expected = {f"answer {n} {m[::-1].decode('latin-1')!r}" for n, m in messages.items()}
    assert set(answers) == expected
    assert len(answers) == len(messages)
    pieces: list[str] = []
    left, at = PREFACE + sent, 0
    while left:
        size = sizes[at % len(sizes)]
        pieces += cut.send(left[:size])
        left, at = left[size:], at + 1
    assert [line for line in pieces if line.startswith("answer")] == answers
    assert [s for s in pieces if not s.startswith("answer")] == [
        s for s in said if not s.startswith("answer")
    ]
    assert cut.judged == whole.judged
    assert cut.broken == whole.broken == []
    assert cut.budget.held == whole.budget.held == 0


# ---------------------------------------------------------------- (b) anything at all


@BUSY
@given(conversations(), st.data())
def test_a_mangled_conversation_breaks_nothing(
    conversation: tuple[bytes, dict[int, bytes]], drawn: st.DataObject
) -> None:
    sent = bytearray(PREFACE + conversation[0])
    for _ in range(drawn.draw(st.integers(1, 6))):
        at = drawn.draw(st.integers(len(PREFACE), len(sent)))
        end = at + drawn.draw(st.integers(0, 12))
        sent[at:end] = drawn.draw(st.binary(max_size=12))
    watched = Watched(cut=drawn.draw(st.sampled_from([0, 1, 7, 100])))
    half = drawn.draw(st.integers(0, len(sent)))
    watched.send(bytes(sent[:half]))
    for move in drawn.draw(st.lists(st.sampled_from("adet"), max_size=4)):
        match move:
            case "a":
                watched.answer_all()
            case "d":
                watched.drain()
            case "e":
                watched.expire()
            case _:
                watched.expire(0.01)
    watched.send(bytes(sent[half:]))
    watched.answer_all()
    watched.end()


@BUSY
@given(st.binary(max_size=400))
def test_no_input_of_the_fuzzer_breaks_anything(raw: bytes) -> None:
    one_input(raw)


@given(st.binary(max_size=60))
def test_garbage_in_place_of_a_preface(raw: bytes) -> None:
    assume(not PREFACE.startswith(raw) and not raw.startswith(PREFACE))
    watched = Watched()
    watched.send(raw)
    assert watched.connection.over
    assert watched.waiting == []


# ---------------------------------------------------------------- (c) another implementation


class Client:
    """h2's client, talking to our connection in pieces of any size."""

    def __init__(self, window: int, frame_size: int) -> None:
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self._h2.initiate_connection()
        names = h2.settings.SettingCodes
        self._h2.update_settings(
            {names.INITIAL_WINDOW_SIZE: window, names.MAX_FRAME_SIZE: frame_size}
        )
        self.broken: list[str] = []
        self._server = Connection(lambda _code, reason: self.broken.append(reason), Budget())
        self._bodies: dict[int, list[bytes]] = {}
        self.fields: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self._unsent: dict[int, bytes] = {}

    def ask(self, message: bytes) -> int:
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, list(FIELDS))
        self._unsent[number] = grpc(message)
        self._bodies[number], self.fields[number] = [], {}
        return number

    def talk(self, sizes: list[int]) -> None:
        """Until neither has anything to say."""
        at = 0
        while True:
            self._send_bodies()
            sent = self._h2.data_to_send()
            silent = not sent
            while sent:
                size = sizes[at % len(sizes)]
                at += 1
                self._serve(sent[:size])
                while self._server.behind:
                    self._serve(b"")
                sent = sent[size:]
            heard = self._server.take_output()
            if silent and not heard:
                return
            for begin in range(0, len(heard), 10_007):
                self._hear(heard[begin : begin + 10_007])

    def _serve(self, part: bytes) -> None:
        self._server.account.refill()
        for stream in self._server.receive(part, 0.0):
            assert stream.head.method == CHECK
            if stream.message == b"no":
                self._server.refuse(stream, Status.UNAVAILABLE, "50 % größer")
            else:
                self._server.answer(stream, stream.message[::-1])

    def _hear(self, heard: bytes) -> None:
        for event in self._h2.receive_data(heard):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self.fields[event.stream_id] |= dict(event.headers)
                case h2.events.DataReceived():
                    self._bodies[event.stream_id].append(event.data)
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, event.stream_id)
                case h2.events.StreamEnded():
                    self.bodies[event.stream_id] = b"".join(self._bodies.pop(event.stream_id))
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    raise AssertionError(event)
                case _:
                    pass

    def _send_bodies(self) -> None:
        for number, body in list(self._unsent.items()):
            size = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if size <= 0:
                continue
            part, rest = body[:size], body[size:]
            self._h2.send_data(number, part, end_stream=not rest)
            self._unsent[number] = rest
            if not rest:
                del self._unsent[number]


@BUSY
@given(
    st.lists(
        st.sampled_from([0, 2, 100, 16_379, 16_380]) | st.integers(0, 90_000),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([1000, 65_535, 2**20]),
    st.sampled_from([16_384, 20_000, 2**20]),
    st.lists(st.sampled_from([1_000, 9, 50_000, 16_393]), min_size=1, max_size=3),
    st.booleans(),
)
def test_h2_s_client_is_served(
    lengths: list[int], window: int, frame_size: int, sizes: list[int], together: bool
) -> None:
    messages = [b"no" if size == 2 else bytes(i % 251 for i in range(size)) for size in lengths]
    client = Client(window, frame_size)
    asked = {}
    for message in messages:
        asked[client.ask(message)] = message
        if not together:
            client.talk(sizes)
    client.talk(sizes)
    assert client.broken == []
    for number, message in asked.items():
        fields = client.fields[number]
        assert fields[b":status"] == b"200"
        if message == b"no":
            assert fields[b"grpc-status"] == b"14"
            assert fields[b"grpc-message"] == b"50 %25 gr%C3%B6%C3%9Fer"
            assert client.bodies[number] == b""
        else:
            assert fields[b"grpc-status"] == b"0"
            assert client.bodies[number] == grpc(message[::-1])
