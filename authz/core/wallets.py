"""Risk wallets: whose there is, and what an action costs (CONTRACT §15).

A cost is whole points, rounded up: what costs something never costs nothing for being a fraction.
What is spent and what is left is kept elsewhere; nothing here changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from authz.core.chain_compiled import CompiledWallet, Refill
from authz.core.chain_doc import MAX_POINTS
from authz.core.identity import Identity
from authz.core.pattern import fold
from authz.core.remembered import FirstMatch, Remembered

#: Identities that are remembered; as many as a snapshot remembers for policies.
CALLERS: Final = 1024


class Wallet:
    """What a `RiskWallet` document says of the agents that it is for."""

    def __init__(self, document: CompiledWallet) -> None:
        self.document: Final = document
        self.name: Final = document.name
        #: Points.
        self.capacity: Final = document.capacity
        #: Seconds; None: there is a refill instead.
        self.window_s: Final[int | None] = document.window_s
        self.refill: Final[Refill | None] = document.refill
        #: A cost depends on what influenced the action.
        self.asks_for_lane: Final = any(factor != 1 for factor in document.lane_factors)
        self._first = FirstMatch(patterns for patterns, _ in document.costs)
        self._base = Remembered(self._find)
        #: By rank and lane: both factors together, as numerator and denominator.
        self._factors = [
            [(tier * lane).as_integer_ratio() for lane in document.lane_factors]
            for tier in document.tier_factors
        ]

    def cost(self, action: str, rank: int, lane: int, declared: int | None = None) -> int:
        """Points that an action costs, 0 to `MAX_POINTS`.

        Args:
            rank: the caller's, 0 to 4.
            lane: the lowest that influenced the action, 0 to 3.
            declared: points that the request declares itself; counts where it is more, and the
                document lets it count.
        """
        numerator, denominator = self._factors[rank][lane]
        points = -(-self._base(action) * numerator // denominator)
        if declared is not None and self.document.declared_raises:
            points = max(points, declared)
        return min(points, MAX_POINTS)

    def forget(self) -> None:
        """Drop what is remembered."""
        self._base.forget()

    def _find(self, action: str) -> int:
        match = self._first.of(fold(action))
        return self.document.default_cost if match is None else self.document.costs[match[0]][1]


class Wallets:
    """All wallets that are in force."""

    def __init__(self, documents: Iterable[CompiledWallet]) -> None:
        ordered = sorted(documents, key=lambda d: (-d.scope.specificity, d.name))
        self._wallets: Sequence[Wallet] = [Wallet(document) for document in ordered]
        self._callers: dict[Identity, Wallet | None] = {}

    def __iter__(self) -> Iterator[Wallet]:
        return iter(self._wallets)

    def of(self, identity: Identity) -> Wallet | None:
        """The most narrowly addressed one that is for this caller, of equals the first by name."""
        if not self._wallets:
            return None
        try:
            return self._callers[identity]
        except KeyError:
            pass
        found = next((w for w in self._wallets if w.document.scope.includes(identity)), None)
        if len(self._callers) >= CALLERS:
            del self._callers[next(iter(self._callers))]
        self._callers[identity] = found
        return found

    def forget(self) -> None:
        """Drop what is remembered."""
        self._callers.clear()
        for wallet in self._wallets:
            wallet.forget()
