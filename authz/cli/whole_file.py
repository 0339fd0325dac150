"""A file that is there when it is whole, and not before.

What is written goes into a file beside it, for its owner alone, that gets its name at the end.
Whatever happens until then, an interrupt too, leaves what was there.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail

#: What a file system without hard links says.
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


@contextlib.contextmanager
def whole_file(option: str, output: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A stream that becomes the file when the block ends well.

    Args:
        option: what sentences begin with: `--output`.
        replace: a file of that name may be there.
    """
    if os.path.lexists(output):
        if not replace:
            fail([f"{option}: {output} is there; --force replaces it"], BAD_ARGUMENTS)
        if not output.is_file():
            fail([f"{option}: {output} is not a regular file"], BAD_ARGUMENTS)
    # Through a link, as writing to it would go.
    target = Path(os.path.realpath(output)) if replace else output
    try:
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.")
    except OSError as error:
        fail([f"{option}: {output} cannot be written: {error.strerror}"], FAILED)
    try:
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(handle)
            _put(draft, target, replace=replace)
        except FileExistsError:
            fail([f"{option}: {output} is there by now; --force replaces it"], FAILED)
        except OSError as error:
            fail([f"{option}: {output} cannot be written: {error.strerror}"], FAILED)
    finally:
        Path(draft).unlink(missing_ok=True)


def _put(draft: str, target: Path, *, replace: bool) -> None:
    if replace:
        Path(draft).replace(target)
        return
    try:
        # A rename would replace whatever has come there meanwhile.
        os.link(draft, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        Path(draft).replace(target)
