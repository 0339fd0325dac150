"""What influenced an action: `X-MeshGuard-Provenance` (CONTRACT §3, §15 "provenance-gate").

    lane=2;source=crm;label=pii, lane=0;source=web

- One influence is `lane=` (a number or a name) and then, in any order, `source=` and `label=`,
  which may be repeated. Influences are joined with commas, as repeated headers are.
- The lowest lane wins, and every label of any influence counts: an action is as trustworthy as the
  least of what led to it.
- What cannot be read is not guessed at; who asks for it denies.
"""

import functools
import re
from typing import Final, NamedTuple

from authz.core.lanes import LANES, lane_of
from authz.core.text import word

#: Influences of one action that are read; a prompt has some dozens of sources.
MAX_INFLUENCES: Final = 64
#: Longest header that is read, characters.
MAX_HEADER: Final = 8192

_VALUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+#~-]{0,255}", re.ASCII)


class Influence(NamedTuple):
    """Everything that influenced an action, taken together."""

    #: The lowest lane, 0 to 3.
    lane: int
    labels: frozenset[str]


class Unclear(NamedTuple):
    """Why a header cannot be read, one sentence."""

    reason: str


@functools.lru_cache(maxsize=256)
def influence_of(header: str) -> Influence | Unclear:
    """Read the header's value, which is not empty."""
    if len(header) > MAX_HEADER:
        return _unclear(f"longer than {MAX_HEADER} characters")
    parts = header.split(",")
    if len(parts) > MAX_INFLUENCES:
        return _unclear(f"more than {MAX_INFLUENCES} influences")
    lowest = len(LANES) - 1
    labels: set[str] = set()
    for number, part in enumerate(parts, 1):
        lane: int | None = None
        for parameter in part.split(";"):
            name, _, value = parameter.strip().partition("=")
            name, value = name.strip().lower(), value.strip()
            if name == "lane" and lane is None:
                lane = lane_of(value)
                if lane is None:
                    return _unclear(f"influence {number} has no lane `{word(value)}` (0 to 3)")
            elif name not in ("source", "label"):
                return _unclear(f"influence {number} has a part that is no lane, source or label")
            elif not _VALUE.fullmatch(value):
                return _unclear(f"influence {number} has a {name} that is not a plain word")
            elif name == "label":
                labels.add(value.lower())
        if lane is None:
            return _unclear(f"influence {number} has no lane")
        lowest = min(lowest, lane)
    return Influence(lowest, frozenset(labels))


def _unclear(reason: str) -> Unclear:
    return Unclear(f"X-MeshGuard-Provenance: {reason}")
