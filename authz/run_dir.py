"""The run directory: sockets and generated configuration, held by one sidecar at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class StartError(Exception):
    """A process cannot start; the message says why and what to do."""


@contextlib.contextmanager
def run_directory(path: Path, owner: str) -> Iterator[None]:
    """Make the run directory, and hold it: of each kind of owner there is one at a time.

    Raises:
        StartError: it cannot be made, or somebody holds it.
    """
    lock = path / f"{owner}.lock"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o770)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o660)
    except OSError as error:
        raise StartError(f"AUTHZ_RUN_DIR: {path} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(
                f"AUTHZ_RUN_DIR: another sidecar uses {path}; stop it or choose another directory"
            ) from None
        yield
    finally:
        os.close(descriptor)
