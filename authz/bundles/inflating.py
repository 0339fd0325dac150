"""The content of a gzip file (RFC 1952), a few bytes at a time and never more than is allowed.

- Nothing is decompressed that was not asked for: a bomb costs what was read of it when a bound was
  reached, and that is a small part of the bounds.
- It ends where it says: one member, its checksum and length right, and nothing after it. Programs
  differ in what they make of a second member or of bytes that follow.
"""

import zlib
from typing import Final

from authz.bundles.errors import BundleError, Reason

#: Bytes that all of it may have: half of what POLICIES_DIR may hold, in a service of 128 MiB.
MAX_CONTENT: Final = 32 << 20
#: How many times its packed size the content may have. A thousand small policies that differ in a
#: word each come to about 65, mostly of tar's own zeros; deflate cannot do more than 1032.
MAX_RATIO: Final = 200
#: Bytes up to which the ratio does not matter: tar pads the smallest archive to 10 KiB.
FREE_OF_RATIO: Final = 1 << 20

_MAGIC: Final = b"\x1f\x8b\x08"
#: Bytes put in and taken out at a time.
_STEP: Final = 64 * 1024
#: For `zlib`: a gzip header and trailer around the deflated bytes.
_GZIP: Final = 31


class Inflating:
    """The content, read from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        """`data`: the whole file.

        Raises:
            BundleError: it does not begin as a gzip file does.
        """
        if not data.startswith(_MAGIC):
            raise BundleError(
                "not a gzip file; a bundle is what `authz bundle build` or `tar czf` writes",
                Reason.ARCHIVE,
            )
        self._data = memoryview(data)
        self._allowed = min(MAX_CONTENT, max(FREE_OF_RATIO, MAX_RATIO * len(data)))
        self._fed = 0
        self._unzip = zlib.decompressobj(_GZIP)
        self._pending = b""
        self._at = 0
        self._inflated = 0

    def read(self, size: int) -> bytes:
        """So many bytes of the content; fewer only where it ends.

        Raises:
            BundleError: the file is damaged or cut off, or its content larger than is allowed.
        """
        end = self._at + size
        if end <= len(self._pending):
            piece = self._pending[self._at : end]
            self._at = end
            return piece
        pieces = [self._pending[self._at :]]
        missing = size - len(pieces[0])
        while missing > 0 and (more := self._more()):
            pieces.append(more[:missing])
            self._pending, self._at = more, min(missing, len(more))
            missing -= self._at
        if missing > 0:
            self._pending, self._at = b"", 0
        return b"".join(pieces)

    def finish(self) -> None:
        """That nothing but zeros, with which tar fills its last block, is left, and then the end.

        Raises:
            BundleError: something is.
        """
        while rest := self.read(_STEP):
            if rest.count(0) != len(rest):
                raise BundleError(
                    "there is something after the end of the tar archive; make it anew",
                    Reason.ARCHIVE,
                )
        left = len(self._unzip.unused_data) + len(self._data) - self._fed
        if left:
            raise BundleError(
                f"there are {left} bytes after the end of the gzip file; make it anew",
                Reason.ARCHIVE,
            )

    def _more(self) -> bytes:
        """The next bytes of the content; none where it ends."""
        while not self._unzip.eof:
            piece: bytes | memoryview = self._unzip.unconsumed_tail
            if not piece:
                piece = self._data[self._fed : self._fed + _STEP]
                self._fed += len(piece)
            try:
                more = self._unzip.decompress(piece, _STEP)
            except zlib.error:
                raise BundleError(
                    "the gzip file is damaged, or its checksum is wrong; fetch it again",
                    Reason.ARCHIVE,
                ) from None
            self._inflated += len(more)
            if self._inflated > self._allowed:
                raise BundleError(
                    f"the content is larger than {self._allowed} bytes, which is more than a bundle"
                    " of this size may hold",
                    Reason.SIZE,
                )
            if more:
                return more
            if not piece:
                raise BundleError("the gzip file is cut off; fetch it again", Reason.ARCHIVE)
        return b""
