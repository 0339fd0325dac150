"""Unix sockets as DESIGN §4 wants them: mode 0660, and no trace of a dead predecessor."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def group_only() -> Iterator[None]:
    """Files and sockets made inside are for owner and group: 0660 from the first moment on."""
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)


def bind_unix(path: Path) -> socket.socket:
    """A listening stream socket at `path`.

    The caller holds the run directory's lock, so a socket that is already there has no owner.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with group_only():
            listener.bind(str(path))
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener
