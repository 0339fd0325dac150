"""Times as people and SDKs read them."""

from datetime import UTC, datetime
from typing import Literal


def rfc3339(
    seconds: float, precision: Literal["milliseconds", "microseconds"] = "microseconds"
) -> str:
    """Seconds since the epoch as RFC 3339 in UTC: `2026-01-31T12:00:00.000001Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision)[:-6] + "Z"


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
