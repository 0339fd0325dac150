"""Provenance lanes: how far what influenced an action is to be trusted (CONTRACT §15)."""

from typing import Final

#: The name of each lane, lowest first.
LANES: Final = ("untrusted", "observed", "verified", "approved")
#: What a requirement may say instead of a lane: how sensitive an action is, lowest first.
SENSITIVITIES: Final = ("low", "medium", "high", "critical")


def lane_of(word: str) -> int | None:
    """The number of a lane, given as number or name; None for any other word."""
    word = word.strip().lower()
    if word in LANES:
        return LANES.index(word)
    return int(word) if word in ("0", "1", "2", "3") else None
