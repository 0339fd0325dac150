"""HTTP/2 frames: names, sizes, and how to write them (RFC 9113 §4, §6, §7).

Nothing here keeps state. Reading stays in `connection.py`, which does it in place; whatever is
written is written by these functions, so a frame has one spelling.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Bytes before a frame's payload (§4.1): length (24 bits), type, flags, stream id.
HEADER_SIZE: Final = 9
#: Length and type share the first word, so that a frame's header is read in one go.
HEADER: Final = Struct(">LBL")
#: Masks the reserved bit off stream ids and window increments, which a receiver ignores.
BITS_31: Final = 0x7FFF_FFFF
#: The largest flow-control window there may be (§6.9.1).
MAX_WINDOW: Final = BITS_31
#: Windows and frame size before any SETTINGS (§6.5.2, §6.9.2).
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_FRAME_SIZE: Final = 16_777_215

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x01
ACK: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
WITH_PRIORITY: Final = 0x20

SETTINGS_HEADER_TABLE_SIZE: Final = 1
SETTINGS_ENABLE_PUSH: Final = 2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 4
SETTINGS_MAX_FRAME_SIZE: Final = 5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 6

SETTING: Final = Struct(">HL")
WORD: Final = Struct(">L")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame (§6.5)."""
    payload = b"".join(SETTING.pack(name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (§6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, WORD.pack(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame (§6.4)."""
    return frame(RST_STREAM, 0, stream_id, WORD.pack(code))


def goaway(last_stream_id: int, code: ErrorCode, debug: str = "") -> bytes:
    """A GOAWAY frame (§6.8); `debug` is for whoever reads the peer's log."""
    payload = WORD.pack(last_stream_id) + WORD.pack(code) + debug.encode()
    return frame(GOAWAY, 0, 0, payload)


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)
