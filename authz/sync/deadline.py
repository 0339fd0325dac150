"""An end to what a hostile peer can draw out: a header line a minute is no timeout of a socket.

The kernel's timer interrupts whatever the main thread waits for, so a turn has the main thread.
"""

import contextlib
import signal
import time
from collections.abc import Iterator


class TookTooLong(BaseException):
    """The time is over. No `Exception`, so that nobody on the way takes it for something else."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """What happens in the block is interrupted after so many seconds.

    Raises:
        TookTooLong: it was.
    """

    def ring(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    # Again each second: the first ring may come where an exception is swallowed, in a destructor.
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left_s:
            # Somebody else's timer goes on; where its time is over, it rings at once.
            left_s = max(left_s - (time.monotonic() - began), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left_s, every_s)
