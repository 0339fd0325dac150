"""How much there was in the last so many seconds, in a bounded number of slots.

A window is cut into `SLOTS` slots, and a slot counts until all of it lies outside. So no stretch
of the window's length ever holds more than the limit, and what was used comes back up to a slot's
width late. A value never changes: adding to one makes another, and the one before can be put back.

`now` is seconds of a clock that does not step back (`ledger`); where it did, the newest slot is
the one that counts.
"""

from typing import Final, NamedTuple

#: Slots of a window: the steps in which it moves on. A minute moves on every 3 seconds.
SLOTS: Final = 20


class Window(NamedTuple):
    """Amounts by slot, oldest first; slots without any are not there."""

    #: Seconds.
    length: int
    #: Number of the slot since the epoch, and what was added in it.
    slots: tuple[tuple[int, int], ...] = ()
    #: All of them together.
    sum: int = 0

    def total(self, now: float) -> int:
        """What was added within the window that ends now."""
        return self._moved(now)[1]

    def add(self, now: float, amount: int) -> "Window":
        """The window with an amount more, and without what is too old to count."""
        moved = self.take(now, amount, self.sum + amount)
        assert moved is not None
        return moved

    def take(self, now: float, amount: int, limit: int) -> "Window | None":
        """`add`, where that does not go beyond a limit; None where it would."""
        slots, total, current = self._moved(now)
        total += amount
        if total > limit:
            return None
        if slots and slots[-1][0] == current:
            amount += slots[-1][1]
            slots = slots[:-1]
        return Window(self.length, (*slots, (current, amount)), total)

    def _moved(self, now: float) -> tuple[tuple[tuple[int, int], ...], int, int]:
        """The slots that count now, all of them together, and the number of the current one."""
        slots, total = self.slots, self.sum
        current = int(now * SLOTS // self.length)
        if slots:
            last, gone = slots[-1][0], current - SLOTS
            if last > current:
                current, gone = last, last - SLOTS
            while slots and slots[0][0] < gone:
                total -= slots[0][1]
                slots = slots[1:]
        return slots, total, current

    def wait(self, now: float, room: int, limit: int) -> float:
        """Seconds until there is room for an amount under a limit; `room` <= `limit`."""
        slots, total, _ = self._moved(now)
        over = total + room - limit
        for slot, amount in slots:
            if over <= 0:
                break
            over -= amount
            if over <= 0:
                return max((slot + SLOTS + 1) * self.length / SLOTS - now, 0.0)
        return 0.0

    @property
    def expires(self) -> float:
        """When nothing of it counts any more, seconds of the steady clock."""
        return (self.slots[-1][0] + SLOTS + 1) * self.length / SLOTS if self.slots else 0.0

    def to_json(self) -> str:
        """As it is stored."""
        inside = ",".join([f"[{slot},{amount}]" for slot, amount in self.slots])
        return f"[{self.length},[{inside}]]"


def window_of(said: object) -> Window:
    """A window as it was stored, out of JSON.

    Raises:
        ValueError: this is none.
    """
    match said:
        case [int(length), list(slots)] if length > 0 and len(slots) <= SLOTS + 1:
            found = []
            for slot in slots:
                match slot:
                    case [int(number), int(amount)] if amount >= 0:
                        found.append((number, amount))
                    case _:
                        raise ValueError("a slot of a window is no pair of numbers")
            return Window(length, tuple(sorted(found)), sum(amount for _, amount in found))
    raise ValueError("not a window")
