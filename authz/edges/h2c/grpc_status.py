"""The header blocks of gRPC answers: all of them are known before anybody asks.

They are literals that touch no dynamic table and use no Huffman code (RFC 7541 §6.2.2), so a block
is the same bytes on every connection.
"""

import functools
from enum import IntEnum
from typing import Final
from urllib.parse import quote


class Status(IntEnum):
    """The gRPC status codes that are answered with."""

    OK = 0
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


def _field(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing, new name (RFC 7541 §6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    # §5.1: what does not fit into the prefix follows seven bits at a time.
    out, size = bytearray((127,)), size - 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + text


#: `:status: 200` is entry 8 of the static table (RFC 7541 appendix A).
_OK: Final = b"\x88"
_CONTENT_TYPE: Final = _field(b"content-type", b"application/grpc")

RESPONSE_HEADERS: Final = _OK + _CONTENT_TYPE
OK_TRAILERS: Final = _field(b"grpc-status", b"0")


@functools.lru_cache(maxsize=64)
def trailers_only(status: Status, reason: str) -> bytes:
    """The block of an answer without a message (gRPC over HTTP/2, Trailers-Only)."""
    # Status-Message: percent-encoded, space to tilde as they are.
    said = quote(reason, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    block = RESPONSE_HEADERS + _field(b"grpc-status", b"%d" % status)
    if status is Status.UNIMPLEMENTED:
        block += _field(b"grpc-accept-encoding", b"identity")
    return block + _field(b"grpc-message", said.encode("ascii"))


@functools.lru_cache(maxsize=64)
def http_only(status: int) -> bytes:
    """The block of an answer to what is no gRPC call."""
    block = _field(b":status", b"%d" % status) + _field(b"content-length", b"0")
    return block + _field(b"allow", b"POST") if status == 405 else block
