"""Which patterns cover which: what may be passed on, and what is covered at use.

- `outer` covers `inner` where it matches it read as a text. A literal piece of `outer` holds no
  `*`, so a star of `inner` is covered by a star and by nothing else. Whatever `inner` matches,
  `outer` then matches too.
- Everything is compared as actions are (`pattern.fold`), patterns without the blanks around them.
- Actions that begin with `admin:` are never delegated, whatever a scope says.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

from authz.core.facts import slashed
from authz.core.pattern import compile_pattern, fold

#: Where the actions begin that nobody may pass on; folded.
ADMIN: Final = "admin:"

#: Patterns that are kept compiled: those of a thousand delegations with a few each, at most 4 MB.
_COMPILED: Final = 4096
#: Pairs of lists whose answer is kept. A chain of five hops asks for at most sixteen.
_COMPARED: Final = 512

_matcher = functools.lru_cache(maxsize=_COMPILED)(compile_pattern)

#: Encoded dots, slashes and percent signs: whoever decodes them sees another resource.
_ENCODED: Final = re.compile("%(2e|2f|5c|25)", re.IGNORECASE)


def covers(outer: str, inner: str) -> bool:
    """Whether `outer` matches everything that `inner` does."""
    return _matcher(outer)(fold(inner.strip()))


@functools.lru_cache(maxsize=_COMPARED)
def covers_all(outers: tuple[str, ...], inners: tuple[str, ...]) -> bool:
    """Whether each of `inners` is covered by one of `outers`; two that cover it together do not
    count."""
    return all(any(covers(outer, inner) for outer in outers) for inner in inners)


def allows(patterns: Iterable[str], action: str) -> bool:
    """Whether one of the patterns matches the action, or the resource."""
    folded = fold(action)
    return any(_matcher(pattern)(folded) for pattern in patterns)


def is_admin_action(action: str) -> bool:
    """Whether the action is one that nobody may pass on."""
    return fold(action).startswith(ADMIN)


def has_one_spelling(resource: str) -> bool:
    """Whether everybody reads this resource alike.

    A list of resources grants, so `docs/../keys` must not pass for one of `docs/*`. What has a
    `.` or `..` segment, a backslash, a doubled slash (except after a scheme, as in `https://`) or
    an encoded one of these is not resolved here: it is none that could be granted.
    """
    rest = resource.replace("://", ":/", 1)
    if slashed(rest) != rest or _ENCODED.search(rest):
        return False
    # Servlet containers cut `;…` off a segment before they look for dots.
    return all(segment.partition(";")[0] not in (".", "..") for segment in rest.split("/"))
