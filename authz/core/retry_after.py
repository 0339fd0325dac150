"""`Retry-After` (RFC 9110 §10.2.3): when whoever has refused something wants to be asked again."""

import re
from email.utils import parsedate_to_datetime
from typing import Final

#: Characters that are looked at; a date has 29.
_LONGEST: Final = 64


def retry_after(said: str, now: float) -> float:
    """Seconds to wait; 0 where nothing usable is said. Whoever waits knows how long is too long.

    Args:
        said: the header, empty where there is none.
        now: seconds since the epoch.
    """
    if re.fullmatch(r"[0-9]{1,15}", said, re.ASCII):
        return float(said)
    try:
        return max(parsedate_to_datetime(said[:_LONGEST]).timestamp() - now, 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0
