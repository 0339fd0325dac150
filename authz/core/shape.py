"""What came from outside, in one strict form: each reader gives the value, or says what is wrong.

Every function raises ValueError with one sentence that begins with `where`, the name of the value
in the place where it was written. Nothing of the value is repeated.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from authz.core.facts import distinct
from authz.core.identity import MAX_CLAIM

#: Patterns in one list, characters of each, and stars: two lists are compared in a few
#: milliseconds, and each star of one pattern may be looked for all along another.
MAX_PATTERNS: Final = 64
MAX_PATTERN: Final = 256
MAX_STARS: Final = 8
#: 9999-12-31T00:00:00Z, seconds since the epoch: times of the year 10000 have no RFC 3339 form,
#: and a day is left for rounding and offsets.
MAX_TIME: Final = 253_402_214_400


def json_object(where: str, text: str) -> dict[str, Any]:
    """A JSON object whose keys are distinct at every depth, and nothing after it."""
    try:
        value = json.loads(text, object_pairs_hook=distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: not one JSON object with distinct keys") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a JSON object")
    return value


def members(
    where: str, value: object, required: Collection[str], optional: Collection[str] = ()
) -> Mapping[str, Any]:
    """An object that has all the required keys and no others than these and the optional ones."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not an object")
    if not value.keys() >= set(required):
        missing = next(key for key in required if key not in value)
        raise ValueError(f"{where}: {missing} is missing")
    if not value.keys() <= {*required, *optional}:
        raise ValueError(f"{where}: has keys that are not known")
    return value


def name(where: str, value: object, *, optional: bool = False, most: int = MAX_CLAIM) -> str:
    """Printable text of at most so many characters; else as many as a claim of a token may have."""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError(f"{where}: not printable text of at most {most} characters")
    if not (optional or value.strip()):
        raise ValueError(f"{where}: empty")
    return value


def names(where: str, value: object, most: int) -> tuple[str, ...]:
    """At most `most` names, such as tags; an empty one among them is accepted, as in tokens."""
    if not isinstance(value, (list, tuple)) or len(value) > most:
        raise ValueError(f"{where}: not a list of at most {most}")
    return tuple(name(f"{where}[{at}]", one, optional=True) for at, one in enumerate(value))


def patterns(where: str, value: object) -> tuple[str, ...]:
    """At most `MAX_PATTERNS` patterns, without the blanks around them."""
    if not isinstance(value, (list, tuple)) or len(value) > MAX_PATTERNS:
        raise ValueError(f"{where}: not a list of at most {MAX_PATTERNS} patterns")
    for at, one in enumerate(value):
        if not isinstance(one, str) or not one.strip() or not one.isprintable():
            raise ValueError(f"{where}[{at}]: not a pattern of printable characters")
        if len(one) > MAX_PATTERN:
            raise ValueError(f"{where}[{at}]: longer than {MAX_PATTERN} characters")
        if one.count("*") > MAX_STARS:
            raise ValueError(f"{where}[{at}]: more than {MAX_STARS} stars")
    return tuple(one.strip() for one in value)


def count(where: str, value: object, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{where}: not a whole number from {least} to {most}")
    return value


def flag(where: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where}: neither true nor false")
    return value


def moment(where: str, value: object) -> float:
    """A time in seconds since the epoch, before `MAX_TIME`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: not a time")
    # Also false for NaN.
    if not 0 <= value < MAX_TIME:
        raise ValueError(f"{where}: not a time between 1970 and 9999")
    return float(value)


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
