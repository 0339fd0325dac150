"""The members of a tar archive: regular files and directories, and nothing else.

The format is POSIX.1-2017 pax "ustar Interchange Format" and "pax Extended Header", and GNU's long
names. What GNU tar, bsdtar, busybox and Python write of plain files is read.

- A member that is no file or directory is refused: links, devices, fifos, sparse files, volumes.
- So is what programs read in two ways: a name that says more than one thing, a size that is said
  twice, an extended header that changes anything else, numbers that are not octal digits.
- Owners, modes and times do not matter, as nothing here is ever extracted. They must be numbers all
  the same: some programs end the archive in silence before a header where they are not.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from authz.bundles.errors import BundleError, Reason
from authz.bundles.inflating import Inflating
from authz.core.text import visible

#: Bytes of a block, and of a header.
BLOCK: Final = 512
#: Members, extended headers among them.
MAX_MEMBERS: Final = 20_000
#: Bytes of a name, as Linux' PATH_MAX less room for POLICIES_DIR itself.
MAX_NAME: Final = 1024
#: Bytes of an extended header: a name and the attributes of a file, its label and access list.
_MAX_EXTENDED: Final = 64 * 1024

_ZEROS: Final = bytes(BLOCK)
_OCTAL: Final = re.compile(rb" *([0-7]+)[ \0]*")
#: Fields of a header whose numbers are not used: mode, owner, group, time, major and minor device.
_UNUSED: Final = (
    slice(100, 108), slice(108, 116), slice(116, 124), slice(136, 148), slice(329, 337),
    slice(337, 345),
)  # fmt: skip
#: With what a number in binary begins, positive and negative, as GNU has them.
_BINARY: Final = (0x80, 0xFF)
#: By magic and version: POSIX', and GNU's older one.
_POSIX: Final = b"ustar\x0000"
_GNU: Final = b"ustar  \x00"
_FILE: Final = (b"0", b"\0")
_DIRECTORY: Final = b"5"
_PAX: Final = b"x"
_PAX_GLOBAL: Final = b"g"
_LONG_NAME: Final = b"L"
#: What members of other types are called.
_REFUSED: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"7": "a contiguous file",
    b"D": "a GNU directory dump",
    b"K": "a link with a long name",
    b"M": "a part of a file",
    b"S": "a sparse file",
    b"V": "a volume label",
}
#: Keys of extended headers that change nothing of what is read here.
_HARMLESS: Final = frozenset(
    ("atime", "charset", "comment", "ctime", "gid", "gname", "mtime", "uid", "uname")
)
#: The same, of the archivers that write them: attributes of the file that was archived.
_HARMLESS_PREFIXES: Final = (
    "LIBARCHIVE.creationtime",
    "LIBARCHIVE.xattr.",
    "RHT.security.selinux",
    "SCHILY.acl.",
    "SCHILY.dev",
    "SCHILY.fflags",
    "SCHILY.ino",
    "SCHILY.nlink",
    "SCHILY.xattr.",
)


class Member(NamedTuple):
    """A file or directory of the archive."""

    #: As the archive has it.
    name: str
    is_directory: bool
    #: Empty for a directory.
    content: bytes


class _Header(NamedTuple):
    name: str
    kind: bytes
    size: int


def members(stream: Inflating, max_size: int) -> Iterator[Member]:
    """Every member, in the order of the archive, up to its end.

    Args:
        max_size: bytes that a file may have.

    Raises:
        BundleError: the archive is not whole, or has what no bundle has.
    """
    name = ""
    for number in range(1, MAX_MEMBERS + 1):
        header = _next(stream, number)
        if header is None:
            if name:
                raise _bad("the archive ends after a long name")
            return
        if header.kind in (_PAX, _PAX_GLOBAL, _LONG_NAME):
            said = _extended(stream, header, number)
            if said and name:
                raise _bad(f"member {number} has two long names")
            name = said or name
            continue
        yield _member(stream, header, name or header.name, max_size)
        name = ""
    raise BundleError(f"the archive has more than {MAX_MEMBERS} members", Reason.SIZE)


def _member(stream: Inflating, header: _Header, name: str, max_size: int) -> Member:
    shown = visible(name[:200])
    is_directory = header.kind == _DIRECTORY
    if not is_directory and header.kind not in _FILE:
        what = _REFUSED.get(header.kind, f"of type {header.kind.decode('latin-1')!a}")
        raise _bad(f"{shown}: is {what}; a bundle holds files and directories alone")
    if is_directory and header.size:
        raise _bad(f"{shown}: is a directory that has a size")
    if not is_directory and name.endswith("/"):
        raise _bad(f"{shown}: is a file with the name of a directory")
    if header.size > max_size:
        raise BundleError(
            f"{shown}: has {header.size} bytes, and a file may have {max_size}", Reason.SIZE
        )
    return Member(name, is_directory, _content(stream, header.size, shown))


def _next(stream: Inflating, number: int) -> _Header | None:
    """The next header; None at the end of the archive, which is two blocks of zeros."""
    block = stream.read(BLOCK)
    if block == _ZEROS:
        if stream.read(BLOCK) != _ZEROS:
            raise _bad(f"there is one block of zeros, and not two, where member {number} would be")
        return None
    if len(block) < BLOCK:
        raise _bad("the archive is cut off; make it anew")
    if block[257:265] not in (_POSIX, _GNU):
        raise _bad(f"member {number} has no header of a POSIX or GNU tar archive")
    # The checksum is of the header with blanks in the place of the checksum.
    if sum(block) - sum(block[148:156]) + 8 * 0x20 != _number(block[148:156], number):
        raise _bad(f"member {number} has a header whose checksum is wrong")
    for place in _UNUSED:
        if block[place.start] not in _BINARY and block[place].strip(b" \0"):
            _number(block[place], number)
    name = _text(block[:100], number)
    if block[257:265] == _POSIX and (prefix := _text(block[345:500], number)):
        name = f"{prefix}/{name}"
    return _Header(name, block[156:157], _number(block[124:136], number))


def _extended(stream: Inflating, header: _Header, number: int) -> str:
    """The name that an extended header gives to the next member; empty: none."""
    if header.size > _MAX_EXTENDED:
        raise _bad(f"member {number} is an extended header of over {_MAX_EXTENDED} bytes")
    data = _content(stream, header.size, f"member {number}")
    if header.kind == _LONG_NAME:
        if not data.endswith(b"\0"):
            raise _bad(f"member {number} is a long name without an end")
        return _text(data, number) or _no_name(number)
    name = ""
    seen = set()
    for key, value in _records(data, number):
        if key in seen:
            raise _bad(f"member {number} says {visible(key[:80])} twice")
        seen.add(key)
        if key == "path" and header.kind == _PAX:
            name = _utf8(value, number) or _no_name(number)
        elif key not in _HARMLESS and not key.startswith(_HARMLESS_PREFIXES):
            raise _bad(
                f"member {number} is an extended header that sets {visible(key[:80])}; make the"
                " archive with plain `tar czf`"
            )
    return name


def _records(data: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """The records `LENGTH KEY=VALUE` of an extended header, each ended by a line feed."""
    at = 0
    while at < len(data):
        digits, blank, _ = data[at : at + 8].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not record.endswith(b"\n") or not equals or not key:
            raise _bad(f"member {number} is an extended header that cannot be read")
        yield _utf8(key, number), value
        at += length


def _content(stream: Inflating, size: int, shown: str) -> bytes:
    padded = -(-size // BLOCK) * BLOCK
    content = stream.read(padded)
    if len(content) < padded:
        raise _bad(f"{shown}: is cut off; make the archive anew")
    return content[:size]


def _number(field: bytes, number: int) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _bad(f"member {number} has a header with a number that is not octal")
    return int(match[1], 8)


def _text(field: bytes, number: int) -> str:
    """A text that ends with its field, or with a zero that only zeros follow."""
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise _bad(f"member {number} has something after the end of its name")
    return _utf8(text, number)


def _utf8(data: bytes, number: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _bad(f"member {number} has a name that is not UTF-8: {data[:80]!a}") from None


def _no_name(number: int) -> str:
    raise _bad(f"member {number} has an empty long name")


def _bad(sentence: str) -> BundleError:
    return BundleError(sentence, Reason.ARCHIVE)
