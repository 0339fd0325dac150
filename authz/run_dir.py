"""The run directory: sockets and generated configuration, held by one sidecar at a time."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from authz.exits import Exit
from authz.ownership import who_may


class StartError(Exception):
    """A process cannot start; the message says why and what to do, `code` what it ends with."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code: Final = code


@contextlib.contextmanager
def run_directory(path: Path, owner: str) -> Iterator[None]:
    """Make the run directory, and hold it: of each kind of owner there is one at a time.

    Raises:
        StartError: it cannot be made, or somebody holds it.
    """
    descriptor = hold(path, owner)
    try:
        yield
    finally:
        os.close(descriptor)


def hold(path: Path, owner: str) -> int:
    """As `run_directory`, until the descriptor that this returns is closed.

    Raises:
        StartError: it cannot be made, or somebody holds it.
    """
    lock = path / f"{owner}.lock"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o770)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o660)
    except OSError as error:
        raise StartError(unusable(path, error), Exit.RUN_DIRECTORY) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StartError(
            f"AUTHZ_RUN_DIR: another sidecar uses {path}; stop it or choose another directory",
            Exit.RUN_DIRECTORY,
        ) from None
    return descriptor


def unusable(path: Path, error: OSError) -> str:
    """Why the run directory cannot be used, and what to do."""
    said = f"AUTHZ_RUN_DIR: {path} cannot be used: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM):
        whose = who_may(path)
        return f"{said}; {whose}" if whose else said
    if error.errno == errno.EROFS:
        return f"{said}; mount a directory that can be written there: an emptyDir, or a tmpfs"
    return said
