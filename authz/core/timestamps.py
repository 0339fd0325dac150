"""Times as people and SDKs read them."""

import functools
import math
from datetime import UTC, datetime
from typing import Literal


def rfc3339(
    seconds: float, precision: Literal["milliseconds", "microseconds"] = "microseconds"
) -> str:
    """Seconds since the epoch as RFC 3339 in UTC: `2026-01-31T12:00:00.000001Z`."""
    whole = math.floor(seconds)
    micros = round((seconds - whole) * 1_000_000)
    if micros == 1_000_000:
        whole, micros = whole + 1, 0
    if precision == "milliseconds":
        return f"{_second(whole)}.{micros // 1000:03d}Z"
    return f"{_second(whole)}.{micros:06d}Z"


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    # Thousands of rows have the same one.
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def seconds_of(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time or date; without an offset it is UTC.

    Raises:
        ValueError: it is none; one sentence.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("not a time; write 2026-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
