"""Make a bundle: the same bytes for the same files and the same manifest, whoever makes it.

- The tar archive inside is the same everywhere: sorted, owned by nobody, every time `created`,
  plain ustar (POSIX.1-2017) where names fit and pax headers where they do not.
- Around it is gzip without a name, a time or a system. What deflate makes of the archive is zlib's:
  it has been the same in all releases of zlib since 1.2.11 and differs in zlib-ng and others. Where
  two machines differ in that, `authz bundle inspect` still shows the same files and digests.
- What is built can be taken: it is unpacked again before it is handed out.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from typing import Final

from authz.bundles import archive, manifest
from authz.bundles.errors import BundleError, Reason
from authz.bundles.manifest import Manifest
from authz.bundles.tar_members import BLOCK

#: Permissions of what is extracted.
_FILE_MODE: Final = 0o644
#: Bytes that tar writes at a time, and to which it fills the archive (`tar -b 20`).
_RECORD: Final = 20 * BLOCK
#: deflate at its best, with the window and memory that gzip has; each is said, as the defaults are
#: the library's to choose.
_LEVEL: Final = 9
_MEMORY: Final = 8
#: Magic, deflate, no flags, no time, slowest algorithm, unknown system (RFC 1952 §2.3).
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
#: Bytes of the fields for a name in a header, and for what stands before its last slash.
_NAME: Final = 100
_PREFIX: Final = 155


def build(
    files: Mapping[str, bytes],
    *,
    version: int,
    created: float,
    not_after: float | None = None,
    revision: str = "",
) -> bytes:
    """A bundle with a manifest.

    Args:
        files: by relative name.
        version: what the floor compares, 1 and up.
        created: seconds since the epoch; whole seconds count.
        not_after: until when it may be taken, seconds since the epoch.
        revision: free text.

    Raises:
        BundleError: a name, a size or a field that no bundle may have.
    """
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    until = None if not_after is None else int(not_after)
    said = Manifest(version, int(created), until, revision, digests)
    return _packed({manifest.NAME: manifest.dump(said)}, files, int(created))


def build_plain(files: Mapping[str, bytes], *, created: float) -> bytes:
    """A bundle without a manifest, as `tar czf` makes it: it has no version.

    Raises:
        BundleError: as `build`.
    """
    return _packed({}, files, int(created))


def _packed(first: Mapping[str, bytes], files: Mapping[str, bytes], created: int) -> bytes:
    if not files:
        raise BundleError("there is no file for the bundle", Reason.ARCHIVE)
    parts = []
    for name, content in (*first.items(), *sorted(files.items())):
        archive.check_name(name)
        parts += [_headers(name, len(content), created), _padded(content)]
    tar = b"".join(parts)
    tar += bytes(2 * BLOCK)
    tar += bytes(-len(tar) % _RECORD)
    data = _gzipped(tar)
    archive.unpack(data)
    return data


def _gzipped(content: bytes) -> bytes:
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15, _MEMORY, zlib.Z_DEFAULT_STRATEGY)
    trailer = struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFF_FFFF)
    return _GZIP_HEADER + deflate.compress(content) + deflate.flush() + trailer


def _headers(name: str, size: int, mtime: int) -> bytes:
    """The header of a file, after one with its name where that is not ASCII or too long."""
    fields = _split(name)
    if fields is not None:
        return _header(*fields, size, mtime, b"0")
    record = _pax_record("path", name)
    short = name.encode("ascii", "replace").replace(b"/", b"_")[:_NAME]
    return (
        _header(b"././@PaxHeader", b"", len(record), mtime, b"x")
        + _padded(record)
        + _header(short, b"", size, mtime, b"0")
    )


def _split(name: str) -> tuple[bytes, bytes] | None:
    """A name as the two fields of a ustar header; None where they cannot hold it."""
    if not name.isascii():
        return None
    raw = name.encode()
    if len(raw) <= _NAME:
        return raw, b""
    # The slash between them is in neither.
    slash = raw.find(b"/", len(raw) - _NAME - 1)
    if 0 < slash <= _PREFIX:
        return raw[slash + 1 :], raw[:slash]
    return None


def _pax_record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    # The length is that of the whole record, its own digits included.
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def _header(name: bytes, prefix: bytes, size: int, mtime: int, kind: bytes) -> bytes:
    fields = struct.pack(
        "100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x",
        name,
        b"%07o" % _FILE_MODE,
        b"%07o" % 0,
        b"%07o" % 0,
        b"%011o" % size,
        b"%011o" % min(mtime, 0o77777777777),
        b" " * 8,
        kind,
        b"",
        b"ustar\0",
        b"00",
        b"",
        b"",
        b"%07o" % 0,
        b"%07o" % 0,
        prefix,
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)
