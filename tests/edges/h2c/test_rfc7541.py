"""RFC 7541: header blocks that are valid, broken, or mean something else on another day.

Our SETTINGS forbid the dynamic table. What a block means therefore changes once: before the peer
has acknowledged that, it may refer to earlier blocks; afterwards it never does.
"""

from typing import Final

import hpack
import pytest

from authz.edges.h2c.requests import MAX_BLOCK, MAX_HEADER_LIST, MAX_KEPT, MAX_KEPT_BLOCK
from tests.edges.h2c.peer import (
    AUTHORITY,
    CHECK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FIELDS,
    METHOD,
    PATH,
    PREFACE,
    SCHEME,
    SETTINGS_ACK,
    TE,
    TYPE,
    Case,
    Peer,
    block,
    call,
    data,
    fields,
    frame,
    grpc,
    headers,
    indexed_literal,
    integer,
    literal,
    run,
    settings,
    text,
)

ANSWER: Final = ("answer 3 'ih'",)
HI: Final = (b"hi",)
BROKEN: Final = ("goaway 3 COMPRESSION_ERROR",)

#: `:method: POST`, `:scheme: http` and the names of `:path` and `content-type` in the static table.
STATIC: Final = b"\x83\x86\x04" + text(CHECK) + integer(31, 4) + text(TYPE[1])
EMPTY_TABLE: Final = b"\x20"


def _huffman(value: bytes) -> bytes:
    """A literal field `x` whose value is these bytes, said to be Huffman code."""
    return b"\0" + text(b"x") + integer(len(value), 7, 0x80) + value


VALID: Final[dict[str, bytes]] = {
    "5.1-an-integer-in-its-longest-form": STATIC + b"\0\x7f\x81\x80\x80\x00" + b"x" * 128 + b"\0",
    "5.2-huffman-of-everything": b"",  # made in the test: an encoder keeps a table
    "5.2-huffman-padded-with-seven-ones": STATIC + _huffman(b"\xf8\x7f"),  # '&': 11111000
    "5.2-huffman-padded-with-nothing": STATIC + _huffman(b"\xf8"),
    "5.2-huffman-of-nothing": STATIC + _huffman(b""),
    "6.1-the-static-table": STATIC,
    "6.2.2-names-of-the-static-table": STATIC + b"\x0f\x2b" + text(b"a"),
    "6.2.3-never-indexed": block(FIELDS[:4]) + b"\x10" + text(TYPE[0]) + text(TYPE[1]),
    "6.3-the-table-emptied": EMPTY_TABLE + STATIC,
    "6.3-the-table-emptied-twice": EMPTY_TABLE * 2 + STATIC,
}

INVALID: Final[dict[str, bytes]] = {
    "2.3.3-index-0": STATIC + b"\x80",
    "2.3.3-an-index-beyond-both-tables": STATIC + b"\xff\x00" + STATIC,
    "2.3.3-an-index-far-beyond": STATIC + b"\xff\xff\xff\xff\x0f",
    "2.3.3-a-name-beyond-both-tables": STATIC + b"\x0f\xff\x7f" + text(b"a"),
    "5.1-an-integer-that-does-not-end": STATIC + b"\xff\x80",
    "5.1-an-integer-above-any-limit": STATIC + b"\xff" + b"\xff" * 30 + b"\x7f",
    "5.1-an-integer-of-nothing-but-zeros": STATIC + b"\xff" + b"\x80" * 1000 + b"\x00",
    "5.1-a-length-above-any-limit": STATIC + b"\0\x7f" + b"\xff" * 30 + b"\x7f",
    "5.2-a-name-longer-than-the-block": STATIC + b"\0\x05abc",
    "5.2-a-value-longer-than-the-block": STATIC + b"\0\x01a\x05abc",
    "5.2-no-value": STATIC + b"\0\x01a",
    "5.2-no-name": STATIC + b"\0",
    "5.2-huffman-with-eos-inside": STATIC + _huffman(b"\xff\xff\xff\xff\x1f"),
    "5.2-huffman-with-eos-at-the-end": STATIC + _huffman(b"\x1f\xff\xff\xff\xff"),
    "5.2-huffman-padded-with-eight-ones": STATIC + _huffman(b"\xf8\xff"),
    "5.2-huffman-padded-with-eleven-ones": STATIC + _huffman(b"\x1f\xff"),
    "5.2-huffman-of-padding-alone": STATIC + _huffman(b"\xff"),
    "5.2-huffman-padded-with-zeros": STATIC + _huffman(b"\x18"),
    "5.2-huffman-that-stops-inside-a-code": STATIC + _huffman(b"\xff\xc0"),
    "6.3-a-size-above-the-limit": b"\x3f\xe2\x1f" + STATIC,  # 4097
    "6.3-a-size-update-after-a-field": STATIC + EMPTY_TABLE,
    "4.2-three-size-updates": EMPTY_TABLE * 3 + STATIC,
    "4.2-as-many-as-there-is-room-for": EMPTY_TABLE * MAX_BLOCK,
    "4.2-three-in-long-forms": b"\x3f\x80\x00" * 3 + STATIC,
}

BEFORE: Final[dict[str, Case]] = {
    "2.3.2-an-entry-of-an-earlier-block": Case(
        call(3, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE))
        + call(5, b"ho", block(FIELDS[:4]) + b"\xbe"),
        ("answer 3 'ih'", "answer 5 'oh'"), (b"hi", b"ho"),
    ),
    "2.3.2-an-entry-of-the-same-block": Case(
        call(3, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE) + b"\xbe"), ANSWER, HI
    ),
    "2.3.2-a-name-of-an-earlier-block": Case(
        call(3, b"hi", STATIC + indexed_literal(b"x-meta", b"1"))
        + call(5, b"ho", STATIC + b"\x7e" + text(b"2") + b"\xbf\xbe"),
        ("answer 3 'ih'", "answer 5 'oh'"), (b"hi", b"ho"),
    ),
    "2.3.2-an-entry-of-a-malformed-request": Case(
        headers(3, indexed_literal(*TYPE) + block(FIELDS[:4]))
        + call(5, b"ho", block(FIELDS[:4]) + b"\xbe"),
        ("reset 3 PROTOCOL_ERROR", "answer 5 'oh'"), (b"ho",),
    ),
    "2.3.2-an-entry-of-trailers": Case(
        headers(3) + data(3, grpc(b"hi"), 0)
        + headers(3, indexed_literal(*TYPE), END_HEADERS | END_STREAM)
        + call(5, b"ho", block(FIELDS[:4]) + b"\xbe"),
        ("answer 3 'ih'", "answer 5 'oh'"), (b"hi", b"ho"),
    ),
    "2.3.2-an-entry-of-a-call-that-was-reset": Case(
        headers(3, indexed_literal(*TYPE)[:3], 0)
        + frame(CONTINUATION, END_HEADERS, 3, indexed_literal(*TYPE)[3:])
        + headers(5, block(FIELDS[:4]) + b"\xbe") + data(5, grpc(b"ho")),
        ("reset 3 PROTOCOL_ERROR", "answer 5 'oh'"), (b"ho",),
    ),
    "2.3.2-the-same-bytes-mean-another-thing-later": Case(
        (
            call(3, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE)),
            call(5, b"ho", block(FIELDS[:4]) + b"\xbe"),
            headers(7, STATIC + indexed_literal(b"x-other", b"1"), END_HEADERS | END_STREAM),
            call(9, b"he", block(FIELDS[:4]) + b"\xbe"),
        ),
        ("answer 3 'ih'", "answer 5 'oh'", "status 7 INTERNAL", "http 9 415", "reset 9 NO_ERROR"),
        (b"hi", b"ho"),
    ),
    "4.4-an-entry-above-the-table-empties-it": Case(
        (
            call(3, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE)),
            call(5, b"ho", STATIC + indexed_literal(b"x", b"y" * 4064)),
            headers(7, block(FIELDS[:4]) + b"\xbe"),
        ),
        ("answer 3 'ih'", "answer 5 'oh'", "goaway 7 COMPRESSION_ERROR"), (b"hi", b"ho"),
    ),
    "6.3-the-table-may-shrink-and-grow": Case(
        call(3, b"hi", EMPTY_TABLE + b"\x3f\xe1\x1f" + block(FIELDS[:4]) + indexed_literal(*TYPE))
        + call(5, b"ho", block(FIELDS[:4]) + b"\xbe"),
        ("answer 3 'ih'", "answer 5 'oh'"), (b"hi", b"ho"),
    ),
}  # fmt: skip

#: After the acknowledgement and the size update that has to follow it.
AFTER: Final[dict[str, Case]] = {
    "6.5.3-nothing-goes-into-the-table": Case(
        (
            call(3, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE)),
            headers(5, block(FIELDS[:4]) + b"\xbe"),
        ),
        ("answer 3 'ih'", "goaway 5 COMPRESSION_ERROR"), HI,
    ),
    "6.5.3-nor-within-a-block": Case(
        headers(3, block(FIELDS[:4]) + indexed_literal(*TYPE) + b"\xbe"), BROKEN
    ),
    "6.3-a-size-above-0": Case(headers(3, b"\x21" + STATIC), BROKEN),
    "6.3-a-size-of-4096": Case(headers(3, b"\x3f\xe1\x1f" + STATIC), BROKEN),
    "6.3-a-size-above-0-and-back": Case(headers(3, b"\x21\x20" + STATIC), BROKEN),
}  # fmt: skip


@pytest.mark.parametrize("acknowledged", [False, True], ids=["before-the-ack", "after-the-ack"])
class TestBlocks:
    """What holds before and after the acknowledgement."""

    @pytest.mark.parametrize("name", VALID)
    def test_valid(self, name: str, acknowledged: bool) -> None:
        # A Huffman-coded or static spelling of the same fields; twice, for the memory of blocks.
        sent = VALID[name]
        if name == "5.2-huffman-of-everything":
            encoder = hpack.Encoder()
            encoder.header_table_size = 0
            sent = encoder.encode(FIELDS, huffman=True)
        run(
            Case(call(3, b"hi", sent) + call(5, b"ho", sent), (*ANSWER, "answer 5 'oh'"),
                 (b"hi", b"ho")),
            acknowledged=acknowledged,
        )  # fmt: skip

    @pytest.mark.parametrize("name", INVALID)
    def test_invalid(self, name: str, acknowledged: bool) -> None:
        run(Case(headers(3, INVALID[name]), BROKEN), acknowledged=acknowledged)

    def test_a_header_list_above_the_limit(self, acknowledged: bool) -> None:
        # RFC 9113 §6.5.2: a field counts as its bytes and 32 more, and static ones cost one byte.
        size = sum(len(name) + len(value) + 32 for name, value in FIELDS)
        path = len(PATH[0]) + len(b"/") + 32
        most = (MAX_HEADER_LIST - size) // (len(b"accept-encoding") + len(b"gzip, deflate") + 32)
        assert path < 200
        run(Case(call(3, b"hi", block() + b"\x90" * most), ANSWER, HI), acknowledged=acknowledged)
        run(
            Case(headers(3, block() + b"\x90" * (most + 4)), ("goaway 3 ENHANCE_YOUR_CALM",)),
            acknowledged=acknowledged,
        )

    def test_a_block_above_the_limit(self, acknowledged: bool) -> None:
        room = MAX_BLOCK - len(block()) - len(literal(b"x", bytes(1000))) + 1000
        long = block(fields((b"x", b"a" * room)))
        assert len(long) == MAX_BLOCK
        run(Case(call(3, b"hi", long), ANSWER, HI), acknowledged=acknowledged)
        for sent in (
            headers(3, long + b"\x90"),
            headers(3, long, 0) + frame(CONTINUATION, END_HEADERS, 3, b"\x90"),
        ):
            run(Case(sent, ("goaway 1 ENHANCE_YOUR_CALM",)), acknowledged=acknowledged)


@pytest.mark.parametrize("name", BEFORE)
def test_before_the_acknowledgement(name: str) -> None:
    run(BEFORE[name], acknowledged=False)


@pytest.mark.parametrize("name", AFTER)
def test_after_the_acknowledgement(name: str) -> None:
    run(AFTER[name], acknowledged=True)


# ---------------------------------------------------------------- the acknowledgement itself


def test_a_block_after_the_acknowledgement_without_a_size_update_ends_the_connection() -> None:
    # RFC 9113 §4.3.1
    for encoded in (block(), STATIC, b""):
        peer = Peer()
        peer.send(PREFACE + settings() + SETTINGS_ACK)
        assert peer.send(headers(1, encoded)) == ["goaway 1 COMPRESSION_ERROR"]


def test_a_size_update_before_the_acknowledgement_counts() -> None:
    # A peer with no table of its own says 0 at once, and then has nothing to reduce.
    peer = Peer()
    peer.send(PREFACE + settings() + call(1, b"hi", EMPTY_TABLE + STATIC))
    assert peer.send(SETTINGS_ACK + call(3, b"ho", STATIC)) == ["answer 3 'oh'"]
    assert peer.works()


def test_trailers_may_bring_the_size_update() -> None:
    peer = Peer()
    peer.send(PREFACE + settings() + headers(1, STATIC) + data(1, grpc(b"hi"), 0))
    peer.send(SETTINGS_ACK)
    assert peer.send(headers(1, EMPTY_TABLE, END_HEADERS | END_STREAM)) == ["answer 1 'ih'"]
    assert peer.works()


def test_entries_from_before_the_acknowledgement_are_gone_after_it() -> None:
    peer = Peer()
    peer.send(PREFACE + settings() + call(1, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE)))
    again = block(FIELDS[:4]) + b"\xbe"
    assert peer.send(call(3, b"ho", again)) == ["answer 3 'oh'"]
    assert peer.send(SETTINGS_ACK + headers(5, EMPTY_TABLE + again)) == [
        "goaway 5 COMPRESSION_ERROR"
    ]


def test_blocks_from_before_the_acknowledgement_are_not_remembered() -> None:
    """The same bytes, valid with the table and invalid without it."""
    peer = Peer()
    again = block(FIELDS[:4]) + b"\xbe"
    peer.send(PREFACE + settings() + call(1, b"hi", block(FIELDS[:4]) + indexed_literal(*TYPE)))
    assert peer.send(call(3, b"ho", again)) == ["answer 3 'oh'"]
    assert peer.connection._headers._kept == {}
    peer.send(SETTINGS_ACK + call(5, b"he", EMPTY_TABLE + STATIC))
    assert peer.send(headers(7, again)) == ["goaway 7 COMPRESSION_ERROR"]


# ---------------------------------------------------------------- blocks that are remembered


def _spelling(number: int) -> bytes:
    return STATIC + literal(b"grpc-timeout", b"%dS" % (number + 1))


def test_remembered_blocks_are_never_confused() -> None:
    peer = Peer().greet()
    # Alike but for one byte, whose deadlines tell them apart; asked in two orders.
    numbers = [*range(50), *range(49, -1, -1)]
    peer.holding = True
    for at, number in enumerate(numbers):
        peer.send(call(3 + 2 * at, b"%d" % number, _spelling(number)))
    assert [stream.deadline for stream in peer.waiting] == [number + 1 for number in numbers]
    assert len(peer.connection._headers._kept) == 51


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_decoded_again() -> None:
    peer = Peer().greet()
    peer.holding = True
    numbers = [*range(MAX_KEPT * 2), 0, 1, 0]
    for at, number in enumerate(numbers):
        peer.send(call(3 + 2 * at, b"", _spelling(number)))
        assert len(peer.connection._headers._kept) <= MAX_KEPT
    assert [stream.deadline for stream in peer.waiting] == [number + 1 for number in numbers]
    peer.release()
    assert peer.works()


def test_long_blocks_are_not_remembered() -> None:
    peer = Peer().greet()
    for at in range(MAX_KEPT):
        padding = literal(b"x", b"%04d" % at + b"y" * MAX_KEPT_BLOCK)
        assert len(peer.send(call(3 + 2 * at, b"", STATIC + padding))) == 1
    kept = peer.connection._headers._kept
    assert sum(map(len, kept)) <= MAX_KEPT * MAX_KEPT_BLOCK
    assert all(len(one) <= MAX_KEPT_BLOCK for one in kept)


def test_malformed_requests_are_remembered_as_what_they_are() -> None:
    peer = Peer().greet()
    bad = block((METHOD, SCHEME, PATH, TYPE, AUTHORITY, TE, (b"X", b"")))
    for at in range(3):
        number = 3 + 2 * at
        assert peer.send(call(number, b"", bad)) == [f"reset {number} PROTOCOL_ERROR"]
    assert bad in peer.connection._headers._kept
    assert peer.judged == []


def test_connections_remember_apart() -> None:
    one, other = Peer().greet(), Peer()
    again = STATIC + literal(b"x", b"1")
    assert one.send(call(3, b"hi", again)) == ["answer 3 'ih'"]
    other.send(PREFACE + settings() + SETTINGS_ACK)
    # Here the size update is still missing, whatever another connection knows of these bytes.
    assert other.send(headers(1, again)) == ["goaway 1 COMPRESSION_ERROR"]
