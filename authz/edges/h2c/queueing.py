"""Calls that wait for the gate, taken in turns of who asked.

- Every peer has its own line, and one call of each is taken before a second one of any. So whoever
  asks most waits longest, and keeps nobody else waiting.
- There is a limit for all together. Beyond it the longest line gives its newest call up.
- A call whose caller has given up holds no place. While there is more to read of what a peer has
  sent, its calls stay: what comes next may be that it has.
"""

from collections import deque
from typing import Final, Generic, Protocol, TypeVar

from authz.edges.h2c.connection import Stream


class Asker(Protocol):
    """Whose calls wait."""

    @property
    def line(self) -> deque[Stream]:
        """Its calls, oldest first. The queue alone changes it."""

    @property
    def behind(self) -> bool:
        """More has come of it than has been read."""


P = TypeVar("P", bound=Asker)


class FairQueue(Generic[P]):
    """Calls of many peers, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit: Final = limit
        self._size = 0
        #: Who has calls here, in the order of their turns.
        self._turns: deque[P] = deque()
        self._tidied = False
        #: Calls that were dropped because their caller had given up.
        self.abandoned = 0

    def __len__(self) -> int:
        return self._size

    def put(self, peer: P, stream: Stream) -> tuple[P, Stream] | None:
        """Add a call; the one that has to go for it, which may be the call itself."""
        refused = None
        if self._size >= self._limit and not self._tidy():
            # Whoever has its share when all places are taken is not who needs one.
            if len(peer.line) >= self._limit // len(self._turns):
                return peer, stream
            longest = max(self._turns, key=lambda other: len(other.line))
            refused = longest, longest.line.pop()
            self._size -= 1
            if not longest.line:
                self._turns.remove(longest)
        if not peer.line:
            self._turns.append(peer)
        peer.line.append(stream)
        self._size += 1
        return refused

    def take(self, count: int) -> list[tuple[P, Stream]]:
        """The next calls, at most so many; those that were given up are left out."""
        self._tidied = False
        taken: list[tuple[P, Stream]] = []
        turns = self._turns
        passed = 0
        while passed < len(turns) and len(taken) < count:
            peer = turns[0]
            if peer.behind:
                passed += 1
                turns.rotate(-1)
                continue
            passed = 0
            line = peer.line
            stream = line.popleft()
            self._size -= 1
            if line:
                turns.rotate(-1)
            else:
                turns.popleft()
            if stream.ended:
                self.abandoned += 1
            else:
                taken.append((peer, stream))
        return taken

    def _tidy(self) -> bool:
        """Drop what was given up; whether that made room."""
        if self._tidied:
            return False  # once a batch: who asks and gives up must not make everybody pay for it
        self._tidied = True
        for peer in self._turns:
            wanted = [stream for stream in peer.line if not stream.ended]
            dropped = len(peer.line) - len(wanted)
            if dropped:
                self.abandoned += dropped
                self._size -= dropped
                peer.line.clear()
                peer.line.extend(wanted)
        self._turns = deque(peer for peer in self._turns if peer.line)
        return self._size < self._limit
