"""Durations as people write them."""

import re
from typing import Final

#: The longest one, seconds: a year. What lives for longer is not renewed but forgotten.
MAX_DURATION_S: Final = 366 * 86_400

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)")


def parse_duration(value: str) -> int:
    """Seconds of `30s`, `15m`, `24h`, `7d`, or of a bare number.

    Raises:
        ValueError: not such a text, zero, or more than a year; one sentence.
    """
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a duration; write 30s, 15m, 24h or 7d")
    seconds = int(match[1]) * _UNITS[match[2] or "s"]
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError("must be between 1 second and 366 days")
    return seconds
