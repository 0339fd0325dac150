"""Files that others read or write: read whole up to a bound, told from what they were, replaced."""

import contextlib
import errno
import os
import stat
from pathlib import Path

#: A file's inode, size and time of change in nanoseconds.
Mark = tuple[int, int, int]


def mark(path: Path) -> Mark | None:
    """What tells a file from what it was; None where there is none."""
    try:
        return _mark_of(path.stat())
    except OSError:
        return None


def _mark_of(status: os.stat_result) -> Mark:
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_file(path: Path, limit: int) -> tuple[bytes, Mark]:
    """A regular file's bytes, at most one more than the limit, and what tells them from others.

    Raises:
        OSError: it cannot be read, or is none.
    """
    # Without O_NONBLOCK, opening a FIFO that a link leads to would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return stream.read(limit + 1), _mark_of(status)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Give a file this content: whole, or as it was; on the disk when this returns.

    For one writer: the draft beside it always has the same name, so that what a killed process has
    left is used again.

    Raises:
        OSError: it was not replaced.
    """
    draft = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, mode), "wb") as stream:  # noqa: PTH123 - with O_NOFOLLOW
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    settle(path.parent)


def settle(directory: Path) -> None:
    """Have the names in a directory on the disk.

    Raises:
        OSError: they may not be.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
