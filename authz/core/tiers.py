"""Trust tiers: one ladder, many spellings (CONTRACT §4).

Published documents name the same rung differently. Aliases share a rank and compare equal; the
spelling a client sent is kept and echoed. A word that is on no rung has no rank: the caller
decides what that means, and it never means a guess.
"""

from typing import Final

UNVERIFIED: Final = 0

_RANKS: Final = {
    "unverified": 0,
    "untrusted": 0,
    "anonymous": 0,
    "sandboxed": 0,
    "restricted": 0,
    "basic": 1,
    "verified": 2,
    "standard": 2,
    "trusted": 3,
    "elevated": 3,
    "privileged": 4,
    "unrestricted": 4,
}

#: The preferred spelling of each rank, lowest first.
TIERS: Final = ("unverified", "basic", "verified", "trusted", "privileged")


def rank(tier: str) -> int | None:
    """The rung of a tier, 0 (unverified) to 4 (privileged), or None for an unknown word."""
    return _RANKS.get(tier.strip().lower())


def spellings(place: int) -> tuple[str, ...]:
    """The words for a rung."""
    return tuple(word for word, rung in _RANKS.items() if rung == place)
