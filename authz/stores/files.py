"""Files that somebody else writes: read whole up to a bound, and told from what they were."""

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
