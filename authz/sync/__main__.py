"""The process that does a turn for the service: `python -m authz.sync`, a socket as standard input.

- Others go first: it is nice, and the first to be killed where memory is short. Not idle: a policy
  that was published is to be in force soon, also where the processors have enough to do.
- It ends with the service, however that ends, also in the middle of a turn.
- The token comes by the socket; the environment has none.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from typing import Final

from authz import cgroups

#: Nice(2).
NICENESS: Final = 10


def main() -> None:
    """Do turns until the service is gone, or has enough."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    cgroups.give_way()
    # Ctrl-C is for the service, which then lets go of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # httpx brings a command line where `rich` is there, and does without where it is not: importing
    # it is most of its import, and this process is started for each turn.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    # What is above comes before the work of importing.
    from authz.edges.readers.frames import DATA, END, HEADER  # noqa: PLC0415
    from authz.sync.turn import answered  # noqa: PLC0415

    reading, writing = os.pipe()

    def listen() -> None:
        """Hand on what comes; the end of it is ours, in the middle of whatever we do."""
        with contextlib.suppress(OSError):
            while piece := service.recv(65536):
                os.write(writing, piece)
        os._exit(0)

    with socket.socket(fileno=os.dup(0)) as service, open(reading, "rb") as lines:  # noqa: PTH123
        threading.Thread(target=listen, daemon=True).start()
        with contextlib.suppress(OSError):
            for line in lines:
                told = answered(line)
                service.sendall(HEADER.pack(DATA, len(told)) + told + HEADER.pack(END, 0))


if __name__ == "__main__":
    main()
