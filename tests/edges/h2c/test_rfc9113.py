"""RFC 9113, sentence by sentence: what a client may break, and what it then hears.

An id is the section and what it says. Every case runs before and after the acknowledgement of our
SETTINGS, which change how header blocks are read.
"""

from typing import Final

import pytest

from authz.edges.h2c.connection import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW
from tests.edges.h2c.peer import (
    ACK,
    AUTHORITY,
    CHECK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIELDS,
    GOAWAY,
    HEADERS,
    METHOD,
    PADDED,
    PATH,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SCHEME,
    SETTINGS,
    SETTINGS_ACK,
    TE,
    TYPE,
    WINDOW_UPDATE,
    WITH_PRIORITY,
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
    reset,
    run,
    settings,
    window,
)

BODY: Final = grpc(b"hi")
ANSWER: Final = ("answer 3 'ih'",)
HI: Final = (b"hi",)
UNKNOWN: Final = 0xAA
HIGH_BIT: Final = 0x8000_0000
MAX_WINDOW: Final = 2**31 - 1
PRIORITY_FIELDS: Final = b"\x80\x00\x00\x07\xff"


def _gone(code: str, last: int = 1) -> tuple[str, ...]:
    return (f"goaway {last} {code}",)


def _broken(code: str) -> tuple[str, ...]:
    return (f"reset 3 {code}",)


# ---------------------------------------------------------------- §3: the beginning

#: Before anything was said: bytes, and what is heard besides our SETTINGS.
BEGINNINGS: Final[dict[str, tuple[bytes, tuple[str, ...]]]] = {
    "3.4-http-1.1": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", _gone("PROTOCOL_ERROR", 0)),
    "3.4-tls": (b"\x16\x03\x01\x02\x00\x01\x00", _gone("PROTOCOL_ERROR", 0)),
    "3.4-wrong-at-its-last-byte": (PREFACE[:-1] + b"\r", _gone("PROTOCOL_ERROR", 0)),
    "3.4-settings-without-preface": (settings(), _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-ping": (PREFACE + frame(PING, payload=b"8 octets"), _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-a-call": (PREFACE + call(1), _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-window-update": (PREFACE + window(0, 1), _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-goaway": (PREFACE + frame(GOAWAY, payload=bytes(8)), _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-an-unknown-frame": (PREFACE + frame(UNKNOWN), _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-an-acknowledgement": (PREFACE + SETTINGS_ACK, _gone("PROTOCOL_ERROR", 0)),
    "3.4-then-settings-on-a-stream": (
        PREFACE + frame(SETTINGS, stream=1),
        _gone("PROTOCOL_ERROR", 0),
    ),
    "3.4-then-settings-of-five-bytes": (
        PREFACE + frame(SETTINGS, payload=bytes(5)),
        _gone("FRAME_SIZE_ERROR", 0),
    ),
    "3.4-then-empty-settings": (PREFACE + settings(), ("ack",)),
    "3.4-nothing": (b"", ()),
    "3.4-a-part-of-it": (PREFACE[:10], ()),
    "3.4-it-alone": (PREFACE, ()),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "by-byte"])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_beginning(name: str, at_once: bool) -> None:
    sent, expected = BEGINNINGS[name]
    peer = Peer()
    said = peer.send(sent) if at_once else [s for byte in sent for s in peer.send(bytes((byte,)))]
    said = said or peer.read()
    assert said[:2] == ["settings", "window 0 +16711681"] or said == []
    assert tuple(said[2:]) == expected
    assert peer.judged == []
    assert peer.connection.over == bool(expected and expected[0] != "ack")
    assert Peer().greet().works()


def test_a_beginning_that_comes_byte_by_byte_is_one() -> None:
    peer = Peer()
    said = [s for byte in PREFACE + settings() + call(1) for s in peer.send(bytes((byte,)))]
    assert said == ["settings", "window 0 +16711681", "ack", "answer 1 'ih'"]


# ---------------------------------------------------------------- the table

FRAMES: Final[dict[str, Case]] = {
    # §4.1
    "4.1-unknown-types-are-discarded": Case(
        b"".join(frame(kind, 0xFF, 5, b"whatever") for kind in (0xA, 0xB, 0x10, 0xFF)) + call(3),
        ANSWER, HI,
    ),
    "4.1-an-unknown-type-may-be-empty": Case(frame(UNKNOWN) + call(3), ANSWER, HI),
    "4.1-undefined-flags-are-ignored": Case(
        headers(3, flags=END_HEADERS | 0xD2) + data(3, BODY, END_STREAM | 0xF6), ANSWER, HI
    ),
    "4.1-undefined-flags-of-other-frames": Case(
        (
            frame(SETTINGS, 0xFE),
            frame(PING, 0xFE, 0, b"8 octets"),
            frame(WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1"),
            frame(PRIORITY, 0xFF, 5, bytes(5)),
        ),
        ("ack", "pong 38206f6374657473"),
    ),
    "4.1-the-reserved-bit-is-ignored": Case(
        headers(3 | HIGH_BIT) + data(3 | HIGH_BIT, BODY), ANSWER, HI
    ),
    "4.1-the-reserved-bit-on-the-connection": Case(
        frame(PING, 0, HIGH_BIT, b"8 octets"), ("pong 38206f6374657473",)
    ),
    # §4.2
    "4.2-data-above-the-size": Case(
        headers(3) + data(3, bytes(16_385)), _gone("FRAME_SIZE_ERROR", 3)
    ),
    "4.2-an-unknown-frame-above-the-size": Case(
        frame(UNKNOWN, payload=bytes(16_385)), _gone("FRAME_SIZE_ERROR")
    ),
    "4.2-it-is-not-waited-for": Case(
        b"\xff\xff\xff\x00\x01\x00\x00\x00\x03", _gone("FRAME_SIZE_ERROR")
    ),
    "4.2-a-frame-of-the-size": Case(call(3, bytes(16_379)), (f"answer 3 {chr(0) * 16_379!r}",),
                                    (bytes(16_379),)),
    "4.2-an-unknown-frame-of-the-size": Case(frame(UNKNOWN, payload=bytes(16_384))),
    # §4.3
    "4.3-a-block-that-cannot-be-decoded": Case(headers(3, b"\x80"), _gone("COMPRESSION_ERROR", 3)),
    "4.3-trailers-that-cannot-be-decoded": Case(
        headers(3) + data(3, BODY, 0) + headers(3, b"\x80", END_HEADERS | END_STREAM),
        _gone("COMPRESSION_ERROR", 3),
    ),
    "4.3-a-block-on-a-stream-that-was-reset-is-still-decoded": Case(
        headers(3, block(fields(TYPE, (b"Upper", b"x")))) + headers(3, b"\x80"),
        (*_broken("PROTOCOL_ERROR"), *_gone("COMPRESSION_ERROR", 3)),
    ),
    # §5.1
    "5.1-idle-data": Case(data(5, BODY), _gone("PROTOCOL_ERROR")),
    "5.1-idle-rst-stream": Case(reset(5), _gone("PROTOCOL_ERROR")),
    "5.1-idle-window-update": Case(window(5, 1), _gone("PROTOCOL_ERROR")),
    "5.1-idle-priority-is-allowed": Case(frame(PRIORITY, 0, 5, bytes(5)) + call(3), ANSWER, HI),
    "5.1-data-on-a-stream-of-the-server": Case(data(2, BODY), _gone("PROTOCOL_ERROR")),
    "5.1-rst-stream-on-a-stream-of-the-server": Case(reset(2), _gone("PROTOCOL_ERROR")),
    "5.1-half-closed-data": Case(call(3) + data(3, b"", 0), _broken("STREAM_CLOSED")),
    "5.1-half-closed-headers": Case(
        call(3) + headers(3, flags=END_HEADERS | END_STREAM), _broken("STREAM_CLOSED")
    ),
    "5.1-half-closed-later": Case((call(3), data(3, b"x")), _broken("STREAM_CLOSED"), held=True),
    "5.1-half-closed-what-is-allowed": Case(
        (call(3), window(3, 1), frame(PRIORITY, 0, 3, bytes(5))), ANSWER, HI, held=True
    ),
    "5.1-half-closed-reset": Case((call(3), reset(3)), (), (), held=True),
    "5.1-closed-by-end-stream-data": Case(
        (call(3), data(3, b"x")), (*ANSWER, *_gone("STREAM_CLOSED", 3)), HI
    ),
    "5.1-closed-by-end-stream-headers": Case(
        (call(3), headers(3)), (*ANSWER, *_gone("STREAM_CLOSED", 3)), HI
    ),
    "5.1-closed-by-end-stream-what-is-ignored": Case(
        (call(3), reset(3) + window(3, 7) + frame(PRIORITY, 0, 3, bytes(5))), ANSWER, HI
    ),
    "5.1-closed-by-the-peer-data": Case(
        headers(3) + reset(3) + data(3, BODY), _gone("STREAM_CLOSED", 3)
    ),
    "5.1-closed-by-the-peer-headers": Case(
        headers(3) + reset(3) + headers(3), _gone("STREAM_CLOSED", 3)
    ),
    "5.1-closed-by-us-what-was-under-way-is-ignored": Case(
        (
            headers(3, block(fields((b"UPPER", b"x")))),
            data(3, BODY, 0) + window(3, 1) + data(3, BODY),
            headers(3, block([(b"a", b"b")]), END_HEADERS | END_STREAM) + reset(3),
        ),
        _broken("PROTOCOL_ERROR"),
    ),
    # §5.1.1
    "5.1.1-even": Case(call(4), _gone("PROTOCOL_ERROR")),
    "5.1.1-zero": Case(headers(0), _gone("PROTOCOL_ERROR")),
    "5.1.1-below-an-earlier-one": Case(
        (call(9), call(5)), ("answer 9 'ih'", *_gone("PROTOCOL_ERROR", 9)), HI
    ),
    "5.1.1-reused": Case((call(3), call(3)), (*ANSWER, *_gone("STREAM_CLOSED", 3)), HI),
    "5.1.1-numbers-may-be-left-out": Case(
        call(3) + call(7) + call(101), ("answer 3 'ih'", "answer 7 'ih'", "answer 101 'ih'"), HI * 3
    ),
    # §5.5
    "5.5-an-unknown-frame-in-a-header-block": Case(
        headers(3, flags=0) + frame(UNKNOWN), _gone("PROTOCOL_ERROR")
    ),
    # §6.1
    "6.1-data-on-the-connection": Case(data(0, b"x"), _gone("PROTOCOL_ERROR")),
    "6.1-padding-as-long-as-the-payload": Case(
        headers(3) + frame(DATA, PADDED, 3, b"\x08" + bytes(7)), _gone("PROTOCOL_ERROR", 3)
    ),
    "6.1-more-padding-than-payload": Case(
        headers(3) + frame(DATA, PADDED, 3, b"\xff" + bytes(7)), _gone("PROTOCOL_ERROR", 3)
    ),
    "6.1-padded-and-without-a-length": Case(
        headers(3) + frame(DATA, PADDED, 3), _gone("FRAME_SIZE_ERROR", 3)
    ),
    "6.1-nothing-but-padding": Case(
        headers(3) + frame(DATA, PADDED, 3, b"\x07" + bytes(7)) + data(3, BODY), ANSWER, HI
    ),
    "6.1-padding-of-nothing": Case(
        headers(3) + frame(DATA, PADDED | END_STREAM, 3, b"\0" + BODY), ANSWER, HI
    ),
    "6.1-padding": Case(
        headers(3) + frame(DATA, PADDED | END_STREAM, 3, b"\xff" + BODY + bytes(255)), ANSWER, HI
    ),
    "6.1-padding-in-every-part": Case(
        headers(3)
        + frame(DATA, PADDED, 3, b"\x02" + BODY[:3] + bytes(2))
        + frame(DATA, PADDED | END_STREAM, 3, b"\x01" + BODY[3:] + bytes(1)),
        ANSWER, HI,
    ),
    "6.1-empty-data": Case(
        headers(3) + data(3, b"", 0) + data(3, BODY, 0) + data(3, b""), ANSWER, HI
    ),
    # §6.2
    "6.2-padded": Case(
        headers(3, b"\x03" + block() + bytes(3), END_HEADERS | PADDED) + data(3, BODY), ANSWER, HI
    ),
    "6.2-priority": Case(
        headers(3, flags=END_HEADERS | WITH_PRIORITY, before=PRIORITY_FIELDS) + data(3, BODY),
        ANSWER, HI,
    ),
    "6.2-padded-and-priority": Case(
        headers(
            3,
            b"\x05" + PRIORITY_FIELDS + block() + bytes(5),
            END_HEADERS | PADDED | WITH_PRIORITY,
        ) + data(3, BODY),
        ANSWER, HI,
    ),
    "6.2-padding-longer-than-what-is-left": Case(
        headers(3, b"\x06" + PRIORITY_FIELDS + bytes(5), END_HEADERS | PADDED | WITH_PRIORITY),
        _gone("PROTOCOL_ERROR"),
    ),
    "6.2-padded-and-without-a-length": Case(
        frame(HEADERS, END_HEADERS | PADDED, 3), _gone("FRAME_SIZE_ERROR")
    ),
    "6.2-priority-of-four-bytes": Case(
        frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, bytes(4)), _gone("FRAME_SIZE_ERROR")
    ),
    "6.2-priority-alone-is-an-empty-block": Case(
        frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, PRIORITY_FIELDS), _broken("PROTOCOL_ERROR")
    ),
    "6.2-padding-alone-is-an-empty-block": Case(
        frame(HEADERS, END_HEADERS | PADDED, 3, b"\x02\0\0"), _broken("PROTOCOL_ERROR")
    ),
    "6.2-another-stream-before-the-end-of-the-block": Case(
        headers(3, flags=0) + call(5), _gone("PROTOCOL_ERROR")
    ),
    # §6.3
    "6.3-priority-on-the-connection": Case(
        frame(PRIORITY, 0, 0, bytes(5)), _gone("PROTOCOL_ERROR")
    ),
    "6.3-priority-of-four-bytes": Case(
        headers(3) + frame(PRIORITY, 0, 3, bytes(4)), _broken("FRAME_SIZE_ERROR")
    ),
    "6.3-priority-of-six-bytes": Case(
        headers(3) + frame(PRIORITY, 0, 3, bytes(6)), _broken("FRAME_SIZE_ERROR")
    ),
    "6.3-priority-of-six-bytes-on-no-stream": Case(
        frame(PRIORITY, 0, 3, bytes(6)), _gone("FRAME_SIZE_ERROR")
    ),
    "6.3-a-stream-that-depends-on-itself-is-no-matter": Case(
        frame(PRIORITY, 0, 3, b"\0\0\0\3\x10") + call(3), ANSWER, HI
    ),
    # §6.4
    "6.4-rst-stream-on-the-connection": Case(reset(0), _gone("PROTOCOL_ERROR")),
    "6.4-rst-stream-of-three-bytes": Case(
        headers(3) + frame(RST_STREAM, 0, 3, bytes(3)), _gone("FRAME_SIZE_ERROR", 3)
    ),
    "6.4-rst-stream-of-five-bytes": Case(
        headers(3) + frame(RST_STREAM, 0, 3, bytes(5)), _gone("FRAME_SIZE_ERROR", 3)
    ),
    "6.4-a-reset-call-is-not-judged": Case(call(3) + reset(3)),
    "6.4-a-code-that-nobody-knows": Case(call(3) + reset(3, 0xFFFF_FFFF)),
    # §6.5
    "6.5-an-acknowledgement-with-a-payload": Case(
        frame(SETTINGS, ACK, 0, bytes(6)), _gone("FRAME_SIZE_ERROR")
    ),
    "6.5-on-a-stream": Case(frame(SETTINGS, 0, 3), _gone("PROTOCOL_ERROR")),
    "6.5-an-acknowledgement-on-a-stream": Case(frame(SETTINGS, ACK, 3), _gone("PROTOCOL_ERROR")),
    "6.5-of-five-bytes": Case(frame(SETTINGS, 0, 0, bytes(5)), _gone("FRAME_SIZE_ERROR")),
    "6.5-of-seven-bytes": Case(frame(SETTINGS, 0, 0, bytes(7)), _gone("FRAME_SIZE_ERROR")),
    "6.5-empty": Case(settings(), ("ack",)),
    "6.5.2-enable-push-of-two": Case(settings((2, 2)), _gone("PROTOCOL_ERROR")),
    "6.5.2-enable-push": Case(settings((2, 1)) + settings((2, 0)), ("ack", "ack")),
    "6.5.2-window-above-the-highest": Case(settings((4, 2**31)), _gone("FLOW_CONTROL_ERROR")),
    "6.5.2-the-highest-window": Case(settings((4, 2**31 - 1)), ("ack",)),
    "6.5.2-frame-size-below-the-least": Case(settings((5, 16_383)), _gone("PROTOCOL_ERROR")),
    "6.5.2-frame-size-above-the-most": Case(settings((5, 2**24)), _gone("PROTOCOL_ERROR")),
    "6.5.2-frame-sizes-that-are-allowed": Case(
        settings((5, 16_384)) + settings((5, 2**24 - 1)), ("ack", "ack")
    ),
    "6.5.2-unknown-settings-are-ignored": Case(
        settings((0, 1), (7, 2), (8, 3), (0x1A2A, 2**32 - 1), (0xFFFF, 0)), ("ack",)
    ),
    "6.5.2-any-other-value": Case(settings((1, 2**32 - 1), (3, 0), (6, 0)), ("ack",)),
    "6.5.3-values-count-in-their-order": Case(settings((4, 2**31), (4, 100)), _gone(
        "FLOW_CONTROL_ERROR")),
    "6.5.3-each-is-acknowledged": Case(settings() * 3 + call(3), ("ack",) * 3 + ANSWER, HI),
    "6.5.3-acknowledgements-of-nothing": Case(call(3), ANSWER, HI),
    # §6.6
    "6.6-push-promise": Case(
        frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block()), _gone("PROTOCOL_ERROR")
    ),
    # §6.7
    "6.7-ping-is-echoed": Case(frame(PING, 0, 0, b"\0\1\2\3\4\5\6\7"), ("pong 0001020304050607",)),
    "6.7-an-answer-to-no-ping": Case(frame(PING, ACK, 0, b"8 octets")),
    "6.7-the-drain's-answer-before-the-drain": Case(frame(PING, ACK, 0, b"draining")),
    "6.7-on-a-stream": Case(frame(PING, 0, 3, b"8 octets"), _gone("PROTOCOL_ERROR")),
    "6.7-of-seven-bytes": Case(frame(PING, 0, 0, bytes(7)), _gone("FRAME_SIZE_ERROR")),
    "6.7-of-nine-bytes": Case(frame(PING, ACK, 0, bytes(9)), _gone("FRAME_SIZE_ERROR")),
    # §6.8
    "6.8-goaway-on-a-stream": Case(frame(GOAWAY, 0, 3, bytes(8)), _gone("PROTOCOL_ERROR")),
    "6.8-goaway-of-seven-bytes": Case(frame(GOAWAY, 0, 0, bytes(7)), _gone("FRAME_SIZE_ERROR")),
    "6.8-calls-under-way-are-answered": Case(
        (call(3), frame(GOAWAY, 0, 0, bytes(8) + b"that was all")), ANSWER, HI, held=True
    ),
    # §6.9
    "6.9-window-update-of-zero-on-a-stream": Case(
        headers(3) + window(3, 0), _broken("PROTOCOL_ERROR")
    ),
    "6.9-window-update-of-zero-on-the-connection": Case(window(0, 0), _gone("PROTOCOL_ERROR")),
    "6.9-the-reserved-bit-is-no-part-of-an-increment": Case(
        window(0, HIGH_BIT | 1) + headers(3) + window(3, HIGH_BIT | 1) + data(3, BODY), ANSWER, HI
    ),
    "6.9-zero-but-for-the-reserved-bit": Case(window(0, HIGH_BIT), _gone("PROTOCOL_ERROR")),
    "6.9-of-three-bytes": Case(frame(WINDOW_UPDATE, payload=bytes(3)), _gone("FRAME_SIZE_ERROR")),
    "6.9-of-five-bytes-on-a-stream": Case(
        headers(3) + frame(WINDOW_UPDATE, 0, 3, bytes(5)), _gone("FRAME_SIZE_ERROR", 3)
    ),
    "6.9.1-a-stream's-window-overflows": Case(
        headers(3) + window(3, MAX_WINDOW - 65_535) + window(3, 1), _broken("FLOW_CONTROL_ERROR")
    ),
    "6.9.1-a-stream's-highest-window": Case(
        headers(3) + window(3, MAX_WINDOW - 65_535) + data(3, BODY), ANSWER, HI
    ),
    "6.9.1-the-connection's-window-overflows": Case(
        window(0, MAX_WINDOW), _gone("FLOW_CONTROL_ERROR")
    ),
    "6.9.2-a-setting-overflows-a-stream's-window": Case(
        headers(3) + window(3, MAX_WINDOW - 65_535) + settings((4, 65_536)),
        _gone("FLOW_CONTROL_ERROR", 3),
    ),
    "6.9.2-and-so-it-does-for-a-moment": Case(
        headers(3) + window(3, MAX_WINDOW - 65_535) + settings((4, 65_536), (4, 0)),
        _gone("FLOW_CONTROL_ERROR", 3),
    ),
    # §6.10
    "6.10-without-headers": Case(frame(CONTINUATION, END_HEADERS, 3), _gone("PROTOCOL_ERROR")),
    "6.10-after-the-end-of-the-block": Case(
        headers(3) + frame(CONTINUATION, END_HEADERS, 3), _gone("PROTOCOL_ERROR", 3)
    ),
    "6.10-on-the-connection": Case(
        headers(3, flags=0) + frame(CONTINUATION, END_HEADERS), _gone("PROTOCOL_ERROR")
    ),
    "6.10-on-another-stream": Case(
        headers(3, flags=0) + frame(CONTINUATION, END_HEADERS, 5), _gone("PROTOCOL_ERROR")
    ),
    "6.10-data-instead": Case(headers(3, flags=0) + data(3, BODY), _gone("PROTOCOL_ERROR")),
    "6.10-settings-instead": Case(headers(3, flags=0) + settings(), _gone("PROTOCOL_ERROR")),
    "6.10-ping-instead": Case(
        headers(3, flags=0) + frame(PING, payload=bytes(8)), _gone("PROTOCOL_ERROR")
    ),
    "6.10-a-block-in-parts": Case(
        headers(3, block()[:7], 0)
        + frame(CONTINUATION, 0, 3, block()[7:8])
        + frame(CONTINUATION, END_HEADERS, 3, block()[8:])
        + data(3, BODY),
        ANSWER, HI,
    ),
    "6.10-nothing-in-headers-and-all-in-continuation": Case(
        headers(3, b"", 0) + frame(CONTINUATION, END_HEADERS, 3, block()) + data(3, BODY),
        ANSWER, HI,
    ),
    "6.10-an-empty-end-of-the-block": Case(
        headers(3, flags=0)
        + frame(CONTINUATION, 0, 3)
        + frame(CONTINUATION, END_HEADERS, 3)
        + data(3, BODY),
        ANSWER, HI,
    ),
    "6.10-end-stream-is-of-the-headers-frame": Case(
        headers(3, flags=END_STREAM) + frame(CONTINUATION, END_HEADERS, 3), ("status 3 INTERNAL",)
    ),
    "6.10-end-stream-is-no-flag-of-continuation": Case(
        headers(3, b"", 0)
        + frame(CONTINUATION, END_HEADERS | END_STREAM, 3, block())
        + data(3, BODY),
        ANSWER, HI,
    ),
    "6.10-across-reads": Case(
        (
            headers(3, block()[:9], 0)[:4],
            headers(3, block()[:9], 0)[4:] + frame(CONTINUATION, 0, 3, block()[9:20])[:10],
            frame(CONTINUATION, 0, 3, block()[9:20])[10:],
            frame(CONTINUATION, END_HEADERS, 3, block()[20:]) + data(3, BODY),
        ),
        ANSWER, HI,
    ),
    "6.10-trailers-in-parts": Case(
        headers(3)
        + data(3, BODY, 0)
        + headers(3, block([(b"a", b"b")])[:2], END_STREAM)
        + frame(CONTINUATION, END_HEADERS, 3, block([(b"a", b"b")])[2:]),
        ANSWER, HI,
    ),
    # §8.1
    "8.1-trailers": Case(
        headers(3)
        + data(3, BODY, 0)
        + headers(3, block([(b"a", b"b")]), END_HEADERS | END_STREAM),
        ANSWER, HI,
    ),
    "8.1-trailers-that-do-not-end-the-stream": Case(
        headers(3) + data(3, BODY, 0) + headers(3, block([(b"a", b"b")])),
        _broken("PROTOCOL_ERROR"),
    ),
    "8.1-pseudo-headers-in-trailers": Case(
        headers(3) + data(3, BODY, 0) + headers(3, block([PATH]), END_HEADERS | END_STREAM),
        _broken("PROTOCOL_ERROR"),
    ),
    "8.1-trailers-with-a-field-that-is-none": Case(
        headers(3) + data(3, BODY, 0) + headers(3, block([(b"A", b"")]), END_HEADERS | END_STREAM),
        _broken("PROTOCOL_ERROR"),
    ),
    "8.1-no-body": Case(headers(3, flags=END_HEADERS | END_STREAM), ("status 3 INTERNAL",)),
    "8.1.1-a-content-length-that-is-true": Case(
        call(3, b"hi", block(fields((b"content-length", b"7")))), ANSWER, HI
    ),
    "8.1.1-a-content-length-that-is-true-of-parts": Case(
        headers(3, block(fields((b"content-length", b"7"))))
        + frame(DATA, PADDED, 3, b"\x09" + BODY[:2] + bytes(9))
        + data(3, BODY[2:]),
        ANSWER, HI,
    ),
    "8.1.1-a-content-length-too-small": Case(
        call(3, b"hi", block(fields((b"content-length", b"6")))), _broken("PROTOCOL_ERROR")
    ),
    "8.1.1-a-content-length-of-0": Case(
        call(3, b"hi", block(fields((b"content-length", b"0")))), _broken("PROTOCOL_ERROR")
    ),
    "8.1.1-a-content-length-too-large": Case(
        call(3, b"hi", block(fields((b"content-length", b"8")))), _broken("PROTOCOL_ERROR")
    ),
    "8.1.1-a-content-length-of-parts-too-small": Case(
        headers(3, block(fields((b"content-length", b"6"))))
        + data(3, BODY[:2], 0) + data(3, BODY[2:], 0) + data(3, b""),
        _broken("PROTOCOL_ERROR"),
    ),
    "8.1.1-a-content-length-and-no-body": Case(
        headers(3, block(fields((b"content-length", b"7"))), END_HEADERS | END_STREAM),
        _broken("PROTOCOL_ERROR"),
    ),
    "8.1.1-a-content-length-and-trailers": Case(
        headers(3, block(fields((b"content-length", b"8"))))
        + data(3, BODY, 0)
        + headers(3, b"", END_HEADERS | END_STREAM),
        _broken("PROTOCOL_ERROR"),
    ),
    # §8.5
    "8.5-connect": Case(
        headers(3, block([(b":method", b"CONNECT"), AUTHORITY])), ("http 3 405", "reset 3 NO_ERROR")
    ),
    "8.5-connect-with-a-path": Case(
        headers(3, block([(b":method", b"CONNECT"), AUTHORITY, PATH])), _broken("PROTOCOL_ERROR")
    ),
    "8.5-connect-with-a-scheme": Case(
        headers(3, block([(b":method", b"CONNECT"), AUTHORITY, SCHEME])), _broken("PROTOCOL_ERROR")
    ),
    "8.5-connect-without-an-authority": Case(
        headers(3, block([(b":method", b"CONNECT")])), _broken("PROTOCOL_ERROR")
    ),
}  # fmt: skip

ACKNOWLEDGED: Final = pytest.mark.parametrize(
    "acknowledged", [False, True], ids=["before-the-ack", "after-the-ack"]
)


@ACKNOWLEDGED
@pytest.mark.parametrize("name", FRAMES)
def test_frames_and_streams(name: str, acknowledged: bool) -> None:
    run(FRAMES[name], acknowledged=acknowledged)


# ---------------------------------------------------------------- §8.2, §8.3: fields

MALFORMED: Final[dict[str, tuple[Field, ...]]] = {
    "8.2.1-an-upper-case-name": fields((b"X-Meta", b"1")),
    "8.2.1-an-empty-name": fields((b"", b"1")),
    "8.2.1-a-space-in-a-name": fields((b"x meta", b"1")),
    "8.2.1-a-null-in-a-name": fields((b"x\0", b"1")),
    "8.2.1-a-line-feed-in-a-name": fields((b"x\n", b"1")),
    "8.2.1-delete-in-a-name": fields((b"x\x7f", b"1")),
    "8.2.1-a-byte-above-ascii-in-a-name": fields((b"caf\xc3\xa9", b"1")),
    "8.2.1-a-colon-inside-a-name": fields((b"x:y", b"1")),
    "8.2.1-a-colon-at-the-end-of-a-name": fields((b"x:", b"1")),
    "8.2.1-two-colons": fields((b"::path", b"1")),
    "8.2.1-a-null-in-a-value": fields((b"x", b"a\0b")),
    "8.2.1-a-carriage-return-in-a-value": fields((b"x", b"a\rb")),
    "8.2.1-a-line-feed-in-a-value": fields((b"x", b"a\nb: c")),
    "8.2.1-a-line-feed-at-the-end-of-a-value": fields((b"x", b"a\n")),
    "8.2.1-a-value-that-begins-with-a-space": fields((b"x", b" a")),
    "8.2.1-a-value-that-begins-with-a-tab": fields((b"x", b"\ta")),
    "8.2.1-a-value-that-ends-with-a-space": fields((b"x", b"a ")),
    "8.2.1-a-value-that-ends-with-a-tab": fields((b"x", b"a\t")),
    "8.2.1-a-null-in-a-path": (METHOD, SCHEME, (b":path", CHECK + b"\0"), TYPE),
    "8.2.2-connection": fields((b"connection", b"close")),
    "8.2.2-proxy-connection": fields((b"proxy-connection", b"keep-alive")),
    "8.2.2-keep-alive": fields((b"keep-alive", b"timeout=5")),
    "8.2.2-transfer-encoding": fields((b"transfer-encoding", b"chunked")),
    "8.2.2-upgrade": fields((b"upgrade", b"h2c")),
    "8.2.2-te-of-anything-else": fields((b"te", b"gzip"), without=(TE,)),
    "8.2.2-te-of-more": fields((b"te", b"trailers, gzip"), without=(TE,)),
    "8.3-an-unknown-pseudo-header": ((b":protocol", b"websocket"), *FIELDS),
    "8.3-a-pseudo-header-of-responses": ((b":status", b"200"), *FIELDS),
    "8.3-a-pseudo-header-after-a-field": (METHOD, SCHEME, TYPE, PATH),
    "8.3-method-twice": (METHOD, *FIELDS),
    "8.3-path-twice": (PATH, *FIELDS),
    "8.3-scheme-twice": (SCHEME, *FIELDS),
    "8.3-authority-twice": (AUTHORITY, *FIELDS),
    "8.3.1-no-method": fields(without=(METHOD,)),
    "8.3.1-no-scheme": fields(without=(SCHEME,)),
    "8.3.1-no-path": fields(without=(PATH,)),
    "8.3.1-an-empty-path": (METHOD, SCHEME, (b":path", b""), TYPE),
    "8.3.1-an-empty-method": ((b":method", b""), SCHEME, PATH, TYPE),
    "8.3.1-nothing-at-all": (),
    "8.1.1-content-lengths-that-differ": fields((b"content-length", b"7"), (b"content-length", b"8")
                                                ),
    "8.1.1-a-content-length-that-is-no-number": fields((b"content-length", b"seven")),
    "8.1.1-a-content-length-with-a-sign": fields((b"content-length", b"+7")),
    "8.1.1-a-negative-content-length": fields((b"content-length", b"-1")),
    "8.1.1-a-content-length-of-two": fields((b"content-length", b"7, 7")),
    "8.1.1-an-empty-content-length": fields((b"content-length", b"")),
    "8.1.1-a-content-length-in-other-digits": fields((b"content-length", b"\xd9\xa7")),
    "8.1.1-a-content-length-of-a-googol": fields((b"content-length", b"7" + b"0" * 100)),
}  # fmt: skip

WELL_FORMED: Final[dict[str, tuple[Field, ...]]] = {
    "8.2.1-other-bytes-in-a-value": fields((b"x", bytes(range(0x21, 0x100)) + b"\x01\x7f")),
    "8.2.1-spaces-inside-a-value": fields((b"x", b"a b\tc")),
    "8.2.1-an-empty-value": fields((b"x", b"")),
    "8.2.1-every-character-of-a-token": fields((b"!#$%&'*+-.^_`|~0a", b"1")),
    "8.2.2-te-trailers": fields((b"te", b"trailers")),
    "8.2.3-cookies-in-parts": fields((b"cookie", b"a=1"), (b"cookie", b"b=2")),
    "8.3.1-no-authority": fields(without=(AUTHORITY,)),
    "8.3.1-host-instead": fields((b"host", b"ext_authz"), without=(AUTHORITY,)),
    "8.3.1-another-scheme": (METHOD, (b":scheme", b"https"), PATH, TYPE),
    "8.3-another-order": (PATH, AUTHORITY, SCHEME, METHOD, TYPE),
    "8.1.1-one-content-length-said-twice": fields(
        (b"content-length", b"7"), (b"content-length", b"7")
    ),
}


@ACKNOWLEDGED
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests(name: str, acknowledged: bool) -> None:
    encoded = block(MALFORMED[name])
    broken = Case(call(3, b"hi", encoded), _broken("PROTOCOL_ERROR"))
    run(broken, acknowledged=acknowledged)
    # Once more, from the memory of blocks, and with END_STREAM.
    again = headers(3, encoded, END_HEADERS | END_STREAM) + headers(5, encoded)
    said = (*_broken("PROTOCOL_ERROR"), "reset 5 PROTOCOL_ERROR")
    run(Case(again, said), acknowledged=acknowledged)


@ACKNOWLEDGED
@pytest.mark.parametrize("name", WELL_FORMED)
def test_requests_that_are_not_malformed(name: str, acknowledged: bool) -> None:
    run(Case(call(3, b"hi", block(WELL_FORMED[name])), ANSWER, HI), acknowledged=acknowledged)


# ---------------------------------------------------------------- §5.1.2: how many streams


def test_streams_above_the_limit_are_refused_and_the_others_answered() -> None:
    peer = Peer().greet()
    numbers = range(3, 3 + 2 * MAX_STREAMS, 2)
    assert peer.send(b"".join(map(headers, numbers))) == []
    assert peer.send(call(5001, b"too many")) == ["reset 5001 REFUSED_STREAM"]
    assert peer.connection.open_streams == MAX_STREAMS
    said = peer.send(b"".join(data(number, BODY) for number in numbers))
    assert said == [f"answer {number} 'ih'" for number in numbers]
    assert b"too many" not in peer.judged
    assert peer.works()


# ---------------------------------------------------------------- §6.9: their window


def test_an_answer_leaves_piece_by_piece_as_the_window_opens() -> None:
    peer = Peer().greet((4, 0))
    peer.reply = lambda message: message * 100
    assert peer.send(call(3, b"abc")) == []
    said: list[str] = []
    for step in (1, 3, 1, 2, 100, 150, 47):
        assert said == []
        said += peer.send(peer.open(3, step))
    assert sum((1, 3, 1, 2, 100, 150, 47)) < 305 < sum((1, 3, 1, 2, 100, 150, 47)) + 2
    said += peer.send(peer.open(3, 1))
    assert said == [f"answer 3 {'abc' * 100!r}"]
    assert peer.connection.open_streams == 0
    assert peer.works()


def test_answers_leave_in_order_when_the_connection_s_window_opens() -> None:
    peer = Peer().greet((4, 2**20))
    peer.reply = lambda message: message * 5000
    said = peer.send(b"".join(call(n, b"0123456789"[:9] + b"%d" % (n % 10)) for n in (3, 5, 7)))
    assert said == ["answer 3 " + repr("0123456783" * 5000)]
    assert peer.window == 0
    while len(said) < 3:
        said += peer.send(peer.open(0, 10_007))
    assert said[1:] == [f"answer {n} " + repr(f"012345678{n}" * 5000) for n in (5, 7)]
    assert peer.budget.held == 0


def test_an_answer_behind_one_that_is_kept_back_overtakes_it_when_only_its_stream_is_shut() -> None:
    peer = Peer().greet((4, 0))
    assert peer.send(call(3)) == []
    # §5.2.1: flow control of one stream does not hold another one up.
    assert peer.send(headers(5) + peer.open(5, 7) + data(5, BODY)) == ["answer 5 'ih'"]
    assert peer.send(peer.open(3, 7)) == ["answer 3 'ih'"]


def test_the_initial_window_changes_in_the_middle_of_an_answer() -> None:
    peer = Peer().greet((4, 1000))
    peer.reply = lambda message: message * 3000
    assert peer.send(call(3, b"x")) == []
    # §6.9.2: 1000 are sent, so the stream's window is now -900, and must be counted up from there.
    peer.initial = 100
    assert peer.send(settings((4, 100))) == ["ack"]
    assert peer.send(peer.open(3, 900)) == []
    assert peer.credits[3] == -100
    assert peer.send(peer.open(3, 1)) == []
    assert peer.credits[3] == -100  # one byte more came
    peer.initial = 2103
    assert peer.send(settings((4, 2103))) == ["ack"]
    assert peer.send(peer.open(3, 1)) == ["answer 3 " + repr("x" * 3000)]
    assert peer.works()


def test_nothing_is_sent_in_between_two_values_of_a_settings_frame() -> None:
    # §6.5.3: the window of 7 was open at no time.
    peer = Peer().greet((4, 0))
    assert peer.send(call(3)) == []
    assert peer.send(settings((4, 7), (4, 0))) == ["ack"]
    peer.initial = 7
    assert peer.send(settings((4, 0), (4, 7))) == ["ack", "answer 3 'ih'"]


def test_a_large_answer_keeps_to_the_peer_s_frame_size() -> None:
    for size in (16_384, 20_000):
        peer = Peer().greet((4, 2**20), (5, size))  # `Peer.read` refuses larger ones.
        peer.reply = lambda message: message * 60_000
        assert peer.send(call(3, b"x")) == [f"answer 3 {'x' * 60_000!r}"]


# ---------------------------------------------------------------- §6.9: our window


def test_our_connection_window_is_replenished_over_100_mib() -> None:
    peer = Peer().greet()
    peer.reply = lambda _message: b""
    message = bytes(200_000)
    left, total = CONNECTION_WINDOW, 0
    for number in range(3, 3 + 2 * 530, 2):
        left -= len(message) + 5
        total += len(message) + 5
        assert left >= 0, "the server lets its window run out"
        for line in peer.send(call(number, message)):
            if line.startswith("window 0 +"):
                left += int(line.removeprefix("window 0 +"))
            else:
                assert line == f"answer {number} ''"
        assert left <= CONNECTION_WINDOW
    assert total > 100 * 2**20
    assert peer.sent_bytes < 100 * 530


def test_padding_and_data_of_closed_streams_count_against_our_windows() -> None:
    peer = Peer().greet()
    assert peer.send(headers(3, block(fields((b"A", b"")))))[0] == "reset 3 PROTOCOL_ERROR"
    said: list[str] = []
    for _ in range(CONNECTION_WINDOW // 2 // 16_384 + 1):
        said += peer.send(data(3, bytes(16_384), 0))
    assert said == [f"window 0 +{CONNECTION_WINDOW // 2 + 10}"]  # Ten: the first call.
    assert peer.works()


def test_a_stream_that_exceeds_our_window_is_reset() -> None:
    peer = Peer().greet()
    peer.send(headers(3))
    padded = frame(DATA, PADDED, 3, b"\xff" + bytes(255))
    for _ in range(STREAM_WINDOW // 256):
        assert peer.send(padded) == []
    assert peer.send(padded) == ["reset 3 FLOW_CONTROL_ERROR"]
    assert peer.works()


def test_a_peer_that_exceeds_our_connection_window_is_told_to_go() -> None:
    # We replenish at half, in the same turn, so only a single read can hold that much.
    peer = Peer().greet()
    peer.connection._receive_left = 16
    assert peer.send(headers(3) + data(3, bytes(17))) == ["goaway 3 FLOW_CONTROL_ERROR"]
    assert peer.connection.over


# ---------------------------------------------------------------- §6.8: we go

DRAIN: Final = b"draining".hex()


def test_a_drain_is_announced_and_then_said_with_the_last_stream() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3))
    peer.connection.drain()
    assert peer.read() == [f"goaway {2**31 - 1} NO_ERROR", f"ping {DRAIN}"]
    assert not peer.connection.drained
    # Between the two it may not know yet, and is served.
    assert peer.send(call(5, b"between")) == []
    assert peer.send(frame(PING, ACK, 0, b"draining")) == ["goaway 5 NO_ERROR"]
    assert not peer.connection.drained
    # Above the number that it was told nothing is for us, and nothing is said of it.
    assert peer.send(call(7, b"too late")) == []
    assert peer.release() == ["answer 3 'ih'", "answer 5 'neewteb'"]
    assert peer.judged == [b"hi", b"between"]
    assert peer.connection.drained


def test_a_drain_is_said_once_and_needs_its_own_answer() -> None:
    peer = Peer().greet()
    peer.connection.drain()
    peer.connection.drain()
    assert len(peer.read()) == 2
    assert peer.send(frame(PING, ACK, 0, b"another!")) == []
    assert peer.send(frame(PING, 0, 0, b"draining")) == [f"pong {DRAIN}"]
    assert not peer.connection.drained
    assert peer.send(frame(PING, ACK, 0, b"draining") * 2) == ["goaway 1 NO_ERROR"]
    assert peer.connection.drained


def test_a_peer_that_hung_up_is_answered_and_then_done() -> None:
    for drained_before in (False, True):
        peer = Peer().greet()
        peer.holding = True
        peer.send(call(3) + headers(5))
        if drained_before:
            peer.connection.drain()
            peer.send(frame(PING, ACK, 0, b"draining"))
        peer.connection.hung_up()
        assert peer.release() == ["answer 3 'ih'"]
        assert not peer.connection.drained
        peer.connection.expire(1e9)
        assert peer.read() == ["status 5 DEADLINE_EXCEEDED", "reset 5 NO_ERROR"]
        assert peer.connection.drained


def test_blocks_above_the_last_stream_are_decoded_all_the_same() -> None:
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3))
    peer.connection.drain()
    peer.send(frame(PING, ACK, 0, b"draining"))
    assert peer.send(headers(5, b"\x80"))[-1] == "goaway 3 COMPRESSION_ERROR"


def test_the_last_stream_is_never_told_to_be_higher_than_before() -> None:
    # §6.8: endpoints MUST NOT increase the value they send in the last stream identifier.
    peer = Peer().greet()
    peer.holding = True
    peer.send(call(3))
    peer.connection.drain()
    assert peer.send(frame(PING, ACK, 0, b"draining"))[-1] == "goaway 3 NO_ERROR"
    peer.send(call(5))
    assert peer.send(frame(PING)) == ["goaway 3 FRAME_SIZE_ERROR"]


def test_a_broken_connection_is_not_drained_and_says_nothing_more() -> None:
    peer = Peer().greet()
    assert peer.send(frame(PING)) == ["goaway 1 FRAME_SIZE_ERROR"]
    peer.connection.drain()
    peer.connection.expire(1e9)
    assert peer.read() == []
    assert peer.connection.drained


def test_a_call_that_was_complete_before_the_peer_broke_the_connection_is_not_judged() -> None:
    peer = Peer().greet()
    assert peer.send(call(3) + frame(PING)) == ["goaway 3 FRAME_SIZE_ERROR"]
    assert peer.judged == []
