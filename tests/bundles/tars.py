"""Tar archives made by hand, so that they can say what no program would write."""

import gzip
import struct
from typing import Final

POSIX: Final = b"ustar\x0000"
GNU: Final = b"ustar  \x00"
END: Final = bytes(1024)


def header(
    name: bytes,
    size: bytes = b"00000000000",
    kind: bytes = b"0",
    *,
    magic: bytes = POSIX,
    prefix: bytes = b"",
    link: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """The header of one member; `size` is the field as it stands."""
    fields = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
        name, b"0000644", b"0000000", b"0000000", size, b"00000000000", b" " * 8, kind, link,
        magic, b"", b"", b"0000000", b"0000000", prefix,
    )  # fmt: skip
    said = b"%06o\0 " % sum(fields) if checksum is None else checksum
    return fields[:148] + said + fields[156:]


def member(name: bytes, content: bytes = b"", kind: bytes = b"0", **said: bytes) -> bytes:
    """A header and what follows it."""
    size = b"%011o" % len(content)
    return header(name, size, kind, **said) + content + bytes(-len(content) % 512)


def pax(kind: bytes = b"x", **records: str) -> bytes:
    """An extended header; `__` in a key stands for a dot."""
    said = b"".join(record(key.replace("__", "."), value) for key, value in records.items())
    return member(b"././@PaxHeader", said, kind)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def packed(*members: bytes, end: bytes = END) -> bytes:
    """A gzip'ed archive of them."""
    return gzip.compress(b"".join(members) + end, mtime=0)
