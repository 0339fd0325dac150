"""Times as people and SDKs read them."""

from datetime import UTC, datetime
from typing import Literal


def rfc3339(
    seconds: float, precision: Literal["milliseconds", "microseconds"] = "microseconds"
) -> str:
    """Seconds since the epoch as RFC 3339 in UTC: `2026-01-31T12:00:00.000001Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision)[:-6] + "Z"
