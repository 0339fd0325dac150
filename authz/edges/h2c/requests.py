"""Header blocks to what is asked (RFC 7541, RFC 9113 §8, gRPC over HTTP/2).

- The peer is told SETTINGS_HEADER_TABLE_SIZE=0. Until it has acknowledged that, and said so in a
  block of its own, a block may refer to earlier ones and goes through the stateful decoder.
  Afterwards the table stays empty, so a block means the same whenever it comes: it is decoded once
  and looked up from then on.
- What does not follow RFC 9113 §8 is malformed, and never reaches a method.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import hpack

from authz.edges.h2c.frames import ErrorCode

#: Bytes of a header block. Envoy's for ext_authz has about 200; grpcio's servers take 8 KiB of
#: metadata. Decoding is pure Python, and this bounds what one block may cost.
MAX_BLOCK: Final = 8192
#: What a block may decode to, counted as SETTINGS_MAX_HEADER_LIST_SIZE is (RFC 9113 §6.5.2).
MAX_HEADER_LIST: Final = 16_384
#: Bytes of a path that are looked at: no method that is served has so many.
MAX_PATH: Final = 256
#: Bytes of a block that cost as much as a field: those of Huffman's code are decoded one by one.
BYTES_PER_FIELD: Final = 24
#: Decoded blocks that are kept. Envoy's differ in what a trace context or a timeout makes of them.
MAX_KEPT: Final = 256
#: Bytes of a block that is kept: with `MAX_KEPT` it bounds what a hostile peer can make us remember
#: (a quarter of a MiB of blocks, and as much of paths) instead of 2 MiB a connection.
MAX_KEPT_BLOCK: Final = 1024

_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
#: RFC 9113 §8.2.1: what a field name may not contain, besides a colon that is not its first byte.
_BAD_NAME: Final = re.compile(rb"[\x00-\x20A-Z\x7f-\xff]|(?<!^):")
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
#: RFC 9113 §8.2.2: fields that belong to one hop of HTTP/1.1.
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
#: RFC 7541 §4.2: a block begins with two dynamic table size updates at most. Without this, one of
#: 8 KiB of nothing else costs 15 ms.
_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
_GRPC: Final = b"application/grpc"
#: Of a content-length: more is no size that anybody has.
MAX_DIGITS: Final = 18


class Head(NamedTuple):
    """What a request's header block says."""

    #: The path of the gRPC method, `MAX_PATH` bytes of it; empty when no method is asked for.
    method: bytes
    #: Why no method is reached, as an answer: status 0 when one is.
    http_status: int
    #: `grpc-timeout` in seconds; infinite without one, negative when it cannot be read.
    timeout_s: float
    #: Bytes of body that are announced; -1 without a content-length.
    content_length: int
    #: Why the request is malformed, one sentence; empty when it is not.
    malformed: str


class CompressionError(Exception):
    """The block cannot be decoded, and so none after it: the connection is over."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class HeaderReader:
    """One connection's header blocks, in the order in which they arrive."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_HEADER_LIST)
        self._stateless = False
        self._kept: dict[bytes, Head] = {}
        #: What has been decoded, in fields: a block is two, its size and what it has are added. For
        #: whoever sets it back to 0.
        self.decoded = 0

    def table_forbidden(self) -> None:
        """The peer has acknowledged that there is no dynamic table."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> Head:
        """Decode the block of a request.

        Raises:
            CompressionError: the block is not HPACK, or decodes to too much.
        """
        # Without a table no block depends on another one, and none changes anything.
        head = self._kept.get(block)
        if head is None:
            head = _head_of(self._decode(block))
            if self._stateless and len(block) <= MAX_KEPT_BLOCK:
                if len(self._kept) >= MAX_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[block] = head
        return head

    def read_trailers(self, block: bytes) -> str:
        """Decode the block after a body; why it is malformed, or nothing.

        Raises:
            CompressionError: as `read`.
        """
        return _defect_of_fields(self._decode(block), pseudo=False)

    def _decode(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        if _SIZE_UPDATES.match(block):
            reason = "a header block with more than two table size updates"
            raise CompressionError(ErrorCode.COMPRESSION_ERROR, reason)
        self.decoded += 2 + len(block) // BYTES_PER_FIELD
        try:
            fields: Sequence[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)  # type: ignore[assignment]
        except hpack.OversizedHeaderListError:
            raise CompressionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header list above {MAX_HEADER_LIST} bytes"
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever hostile bytes make of the decoder
            reason = f"a header block cannot be decoded: {type(error).__name__}"
            raise CompressionError(ErrorCode.COMPRESSION_ERROR, reason) from None
        self.decoded += len(fields)
        decoder = self._decoder
        # From this block on, not before it: it may still have used the table.
        self._stateless = decoder.max_allowed_table_size == 0 == decoder.header_table_size
        return fields


def timeout_s(value: str) -> float:
    """A `grpc-timeout` in seconds; negative when it is none (gRPC over HTTP/2, Timeout)."""
    match = _TIMEOUT.fullmatch(value)
    return -1.0 if match is None else int(match[1]) * _UNITS[match[2]]


def _malformed(reason: str) -> Head:
    return Head(b"", 0, 0.0, -1, reason)


def _head_of(fields: Sequence[tuple[bytes, bytes]]) -> Head:
    defect = _defect_of_fields(fields, pseudo=True)
    if defect:
        return _malformed(defect)
    said = dict(fields)
    method, path = said.get(b":method"), said.get(b":path")
    if method == b"CONNECT":
        # §8.5: it has neither scheme nor path, and whatever it connects to is not here.
        if path is not None or b":scheme" in said or not said.get(b":authority"):
            return _malformed("CONNECT with :scheme or :path, or without :authority")
        return Head(b"", 405, 0.0, -1, "")
    if not method or not path or not said.get(b":scheme"):
        return _malformed("a request without :method, :scheme or :path")
    content_length = -1
    lengths = {value for name, value in fields if name == b"content-length"}
    if lengths:
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > MAX_DIGITS:
            return _malformed("a content-length that is not one number")
        content_length = int(length)
    content_type = said.get(b"content-type", b"")
    if method != b"POST":
        return Head(b"", 405, 0.0, content_length, "")
    # `application/grpc`, alone or with `+proto` or a parameter after it.
    if not content_type.startswith(_GRPC) or content_type[16:17] not in (b"", b"+", b";"):
        return Head(b"", 415, 0.0, content_length, "")
    timeouts = [value for name, value in fields if name == b"grpc-timeout"]
    patience = timeout_s(timeouts[-1].decode("latin-1")) if timeouts else float("inf")
    return Head(path[:MAX_PATH], 0, patience, content_length, "")


def _defect_of_fields(fields: Sequence[tuple[bytes, bytes]], *, pseudo: bool) -> str:
    """Why these fields may not be in one block (RFC 9113 §8.2, §8.3); empty when they may."""
    seen: set[bytes] = set()
    regular = False
    for name, value in fields:
        if not name or _BAD_NAME.search(name):
            return "a field name with a character that may not be in one"
        if _BAD_VALUE.search(value):
            return "a field value with a character that may not be in one"
        if name.startswith(b":"):
            if not pseudo or regular:
                return "a pseudo-header field in the wrong place"
            if name not in _PSEUDO or name in seen:
                return "a pseudo-header field that is unknown or repeated"
            seen.add(name)
            continue
        regular = True
        if name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
            return "a field that belongs to one hop of HTTP/1.1"
    return ""
