"""A reader process: `python -m authz.edges.readers.worker`, with its socket as standard input.

- Everybody else goes first: it runs when a processor has nothing better to do. A container's limit
  of processor time is for all processes together, whatever their priority, so where there is one it
  also rests most of the time.
- It ends with the service, however that ends: the socket is read all the time, and its end is the
  process's. That is also how the service cancels a job.
- It opens the database for each job and only reads; it has no secrets, not even in its environment.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from authz.edges.background import step_back

#: The share of the processor time that a container may use which one process takes at most.
SHARE: Final = 0.1
#: Seconds of work between two rests.
WORK_S: Final = 0.001

if __name__ == "__main__":
    # Before the imports, which are a good part of the work.
    step_back()

from authz.edges.cpu_quota import cpus_allowed  # noqa: E402
from authz.edges.readers.frames import CHUNK, DATA, END, FAILED, HEADER, Failure  # noqa: E402
from authz.edges.readers.jobs import JOBS, Task  # noqa: E402
from authz.stores.audit_query import NothingFound, TooMuch, Unreadable, opened  # noqa: E402
from authz.stores.pace import Pace  # noqa: E402


def main() -> None:
    """Do jobs until the service is gone."""
    # Ctrl-C is for the service, which then lets go of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=os.dup(0)), gone=lambda: os._exit(0))


def serve(service: socket.socket, gone: Callable[[], object]) -> None:
    """Do one job after the other.

    Args:
        gone: is called, in another thread, when the service is gone or has enough.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    ended = threading.Event()

    def listen() -> None:
        with contextlib.suppress(OSError), service.makefile("rb") as stream:
            for line in stream:
                lines.put(line)
        ended.set()
        lines.put(b"")
        gone()

    threading.Thread(target=listen, daemon=True).start()
    breathe = breathing()
    # Who listens for the service cannot end a thread that is at work; a process it does.
    with service, contextlib.suppress(OSError):
        while (line := lines.get()) and not ended.is_set():
            asked = json.loads(line)
            out = Out(service)
            failure = do(asked["job"], Path(asked["path"]), asked["params"], out, breathe)
            if failure is None:
                out.flush()
                out.frame(END)
            else:
                out.frame(FAILED, failure.encoded())


def breathing() -> Callable[[], None]:
    """What a long job calls now and then: it rests where processor time is limited."""
    share = cpus_allowed() * SHARE
    if share >= 1:
        return lambda: None
    return Pace(WORK_S, WORK_S / share - WORK_S).rest


def do(
    job: str, path: Path, params: dict[str, object], out: "Out", breathe: Callable[[], None]
) -> Failure | None:
    """One job; what has gone wrong, if anything.

    Raises:
        OSError: the service is gone.
    """
    try:
        with contextlib.closing(opened(path, breathe)) as connection:
            JOBS[job](Task(connection, path, params, out.write, out.flush, breathe))
    except NothingFound as error:
        return Failure("nothing", str(error))
    except (Unreadable, TooMuch) as error:
        return Failure("unavailable", str(error))
    except sqlite3.Error as error:
        return Failure("unavailable", f"the audit database cannot be read: {error}")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - the next job may be a better one
        sys.stderr.write(traceback.format_exc())
        return Failure("broken", f"{job} failed: {type(error).__name__}")
    return None


class Out:
    """Frames of an answer. As a file it is one that is only written, from its beginning on."""

    closed = False

    def __init__(self, service: socket.socket) -> None:
        self._service = service
        self._kept = bytearray()

    def write(self, data: bytes) -> int:
        """Send a piece, once there is a frame's worth; waits while the service has enough."""
        self._kept += data
        while len(self._kept) >= CHUNK:
            self.frame(DATA, bytes(self._kept[:CHUNK]))
            del self._kept[:CHUNK]
        return len(data)

    def flush(self) -> None:
        """Send what is there."""
        if self._kept:
            self.frame(DATA, bytes(self._kept))
            self._kept.clear()

    def frame(self, kind: bytes, data: bytes = b"") -> None:
        """Send a frame."""
        self._service.sendall(HEADER.pack(kind, len(data)) + data)


if __name__ == "__main__":
    main()
