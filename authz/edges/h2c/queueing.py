"""Calls that wait for the gate, taken in turns of who asked.

- Every caller has its own line, and one call of each is taken before a second one of any. So
  whoever asks most waits longest, and keeps nobody else waiting.
- There is a limit for all together. Beyond it the longest line gives its newest call up.
- A call that was given up holds no place when places are needed. While more of what a peer has
  sent is about to be read, its calls stay, and what is behind them in the line: what comes next may
  be that they were given up.
"""

from collections import deque
from typing import Final, Generic, Protocol, TypeVar

from authz.edges.h2c.connection import Stream


class Peer(Protocol):
    """The connection that a call came over."""

    @property
    def being_read(self) -> bool:
        """The rest is about to be read, and worth waiting for."""


P = TypeVar("P", bound=Peer)


class Line(Generic[P]):
    """The calls of one caller, oldest first. The queue alone changes it."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls: deque[tuple[P, Stream]] = deque()


class FairQueue(Generic[P]):
    """Calls of many callers, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit: Final = limit
        self._size = 0
        #: Those with calls in them, in the order of their turns.
        self._lines: deque[Line[P]] = deque()
        self._tidied = False
        #: Calls that were dropped because they were given up.
        self.abandoned = 0

    def __len__(self) -> int:
        return self._size

    def put(self, line: Line[P], peer: P, stream: Stream) -> tuple[P, Stream] | None:
        """Add a call to a line; the one that has to go for it, which may be the call itself."""
        refused = None
        if self._size >= self._limit and not self._tidy():
            # Whoever has its share when all places are taken is not who needs one.
            if len(line.calls) >= self._limit // len(self._lines):
                return peer, stream
            longest = max(self._lines, key=lambda other: len(other.calls))
            refused = longest.calls.pop()
            self._size -= 1
            if not longest.calls:
                self._lines.remove(longest)
        if not line.calls:
            self._lines.append(line)
        line.calls.append((peer, stream))
        self._size += 1
        return refused

    def take(self, count: int) -> list[tuple[P, Stream]]:
        """The next calls, at most so many; those that were given up are left out."""
        self._tidied = False
        taken: list[tuple[P, Stream]] = []
        lines = self._lines
        passed: list[Line[P]] = []
        while lines and len(taken) < count:
            line = lines.popleft()
            peer, stream = line.calls[0]
            if peer.being_read and not stream.ended:
                passed.append(line)
                continue
            line.calls.popleft()
            self._size -= 1
            if line.calls:
                lines.append(line)
            if stream.ended:
                self.abandoned += 1
            else:
                taken.append((peer, stream))
        lines.extend(passed)
        return taken

    def _tidy(self) -> bool:
        """Drop what was given up; whether that made room."""
        if self._tidied:
            return False  # once a batch: who asks and gives up must not make everybody pay for it
        self._tidied = True
        for line in self._lines:
            wanted = [entry for entry in line.calls if not entry[1].ended]
            dropped = len(line.calls) - len(wanted)
            if dropped:
                self.abandoned += dropped
                self._size -= dropped
                line.calls.clear()
                line.calls.extend(wanted)
        self._lines = deque(line for line in self._lines if line.calls)
        return self._size < self._limit
