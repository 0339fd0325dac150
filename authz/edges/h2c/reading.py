"""Bytes to frames, wherever the network cut them (RFC 9113 §3.4, §4, §6.2, §6.10).

- What comes out is whole: a frame when all of it is there, a header block when its last
  CONTINUATION is. Of those that are not, one frame and one block are kept, both of bounded size.
- Frames are taken one by one, and who takes them may stop: the rest waits where it is, and is as
  much as was fed at once.
- Which streams there are, and what a frame means, is not known here.
"""

from collections.abc import Iterator
from typing import Final

from authz.edges.h2c import frames
from authz.edges.h2c.frames import HEADER, HEADER_SIZE, ErrorCode
from authz.edges.h2c.requests import MAX_BLOCK

#: CONTINUATION frames of a block. The largest block fits into one frame of the smallest size that
#: a peer may be held to, so that even one is odd.
MAX_CONTINUATIONS: Final = 8

_FRAME_SIZE: Final = frames.DEFAULT_FRAME_SIZE

#: Type, flags, stream id; and the payload as a part of some bytes, which saves a copy of it.
Frame = tuple[int, int, int, bytes, int, int]


class Violation(Exception):
    """The peer broke the protocol in a way that ends the connection."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class FrameReader:
    """One connection's frames, in order."""

    def __init__(self) -> None:
        self._greeting = True
        #: Bytes that have come, and how many of them have been read.
        self._data = b""
        self._at = 0
        #: A header block that is not complete: its stream, flags, and what there is of it.
        self._block: tuple[int, int, bytearray] | None = None
        self._continuations = 0

    @property
    def unread(self) -> int:
        """Bytes that have come and belong to no frame that was read."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Take more bytes, which follow those that are there."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def clear(self) -> None:
        """Nothing of what came is read any more."""
        self._data, self._at = b"", 0

    def frames(self) -> Iterator[Frame]:
        """The frames that are complete. Who stops early gets the next one of the next call, not of
        the same iterator.

        HEADERS come with the whole block, without padding and priority, when its last part is
        there; for each part before that there is an empty CONTINUATION. DATA come as they are,
        since padding counts against the window.

        Raises:
            Violation: where the bytes are no frames; nothing may be read after that.
        """
        data, start = self._data, self._at
        end = len(data)
        if self._greeting:
            expected = frames.PREFACE
            if data[: len(expected)] != expected[:end]:
                reason = "the connection does not begin with HTTP/2"
                raise Violation(ErrorCode.PROTOCOL_ERROR, reason)
            if end < len(expected):
                return
            self._greeting, start = False, len(expected)
        while end - start >= HEADER_SIZE:
            word, flags, number = HEADER.unpack_from(data, start)
            kind = word & 0xFF
            stop = start + HEADER_SIZE + (word >> 8)
            if word >> 8 > _FRAME_SIZE:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a frame above the size that we take")
            if stop > end:
                break
            start += HEADER_SIZE
            self._at = stop
            number &= frames.BITS_31
            if self._block is not None and (
                kind != frames.CONTINUATION or number != self._block[0]
            ):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            if kind in (frames.HEADERS, frames.CONTINUATION):
                whole = self._read_block(kind, flags, number, data[start:stop])
                if whole is None:
                    yield frames.CONTINUATION, 0, number, b"", 0, 0
                else:
                    first_flags, block = whole
                    yield frames.HEADERS, first_flags, number, block, 0, len(block)
            else:
                yield kind, flags, number, data, start, stop
            start = stop
        # Not all that came is kept for the sake of its end.
        self._data, self._at = data[start:], 0

    def _read_block(
        self, kind: int, flags: int, number: int, payload: bytes
    ) -> tuple[int, bytes] | None:
        """A part of a header block: the flags of its first, and all of it, once it is complete."""
        if kind == frames.HEADERS:
            if flags & (frames.PADDED | frames.WITH_PRIORITY):
                payload = unpadded(payload, flags, 5 if flags & frames.WITH_PRIORITY else 0)
            if flags & frames.END_HEADERS and len(payload) <= MAX_BLOCK:
                return flags, payload
            self._block = (number, flags, bytearray(payload))
            self._continuations = 0
        elif self._block is None:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block")
        else:
            self._block[2].extend(payload)
            self._continuations += 1
        _, first_flags, block = self._block
        if len(block) > MAX_BLOCK or self._continuations > MAX_CONTINUATIONS:
            raise Violation(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a header block above {MAX_BLOCK} bytes or {MAX_CONTINUATIONS} CONTINUATION",
            )
        if not flags & frames.END_HEADERS:
            return None
        self._block = None
        return first_flags, bytes(block)


def unpadded(payload: bytes, flags: int, skipped: int = 0) -> bytes:
    """A payload without its padding (§6.1) and without the `skipped` bytes before it.

    Raises:
        Violation: the frame is shorter than its fields, or padded by more than it has.
    """
    padding = 0
    if flags & frames.PADDED:
        if not payload:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its pad length")
        padding = payload[0]
        skipped += 1
    if len(payload) < skipped:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a frame that is shorter than its fields")
    if padding > len(payload) - skipped:
        raise Violation(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[skipped : len(payload) - padding]
