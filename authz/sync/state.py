"""What is known between turns: a directory with a file and a lock for each direction.

- `pull.json` and `push.json` are replaced whole, and on the disk before a turn says that it's done.
  A damaged one is as if there were none: what is here is then fetched or sent again.
- `pull.lock` and `push.lock` are held (flock) while a turn works, so that there are never two, a
  CronJob's and the sidecar's for instance; a process that dies lets go.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from authz.ownership import why_not_written
from authz.stores.files import replace
from authz.sync.errors import Cause, SyncFailed

Direction = Literal["pull", "push"]
#: Bytes of a state file: the names of as many files as a bundle may have, with their hashes.
MAX_STATE: Final = 32 * 1024 * 1024


class State:
    """One direction's."""

    def __init__(self, directory: Path, direction: Direction) -> None:
        self.directory: Final = directory
        self._direction: Final = direction
        self._file: Final = directory / f"{direction}.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else has a turn of this direction meanwhile.

        Raises:
            SyncFailed: somebody has, or the directory cannot be made.
        """
        lock = self.directory / f"{self._direction}.lock"
        with writing("SYNC_STATE_DIR", lock):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SyncFailed(
                    Cause.LOCKED,
                    f"another sync {self._direction} is at work with {self.directory}; nothing was"
                    " done here",
                ) from None
            yield
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, Any]:
        """What was kept; empty where there is nothing usable."""
        try:
            with self._file.open("rb") as stream:
                found = json.loads(stream.read(MAX_STATE))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, values: Mapping[str, Any]) -> None:
        """Replace what is kept; it is on the disk when this returns.

        Raises:
            SyncFailed: it cannot be written.
        """
        with writing("SYNC_STATE_DIR", self._file):
            replace(self._file, json.dumps(values, separators=(",", ":")).encode(), 0o600)


@contextlib.contextmanager
def writing(variable: str, path: Path) -> Iterator[None]:
    """Around writing: what the system says as one of our sentences.

    Raises:
        SyncFailed: it could not be written.
    """
    try:
        yield
    except OSError as error:
        said = f"{variable}: {path} cannot be written: {error.strerror or type(error).__name__}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = "make room; until then what is in force stays"
        else:
            why = why_not_written(path)
        raise SyncFailed(Cause.DISK, f"{said}; {why}" if why else said) from None
