"""Intent verification: what an agent says it does, and what the wire shows (CONTRACT §15).

- Where a `RouteMap` knows the request, the declared action and resource must be the route's.
- Elsewhere the declared verb must be the method's, if it is one of those that methods have; other
  verbs (`invoke:search`) say nothing that a method could contradict.
- `/proxy/check`, the batch and action tokens name an action and show nothing to hold against it.
"""

from enum import StrEnum
from typing import Final

from authz.core.call import VERBS, Call
from authz.core.pattern import fold

_PLAIN: Final = frozenset(VERBS.values())


class Intent(StrEnum):
    """What a difference between declared and observed action does (INTENT_VERIFICATION)."""

    OFF = "off"
    #: It is recorded.
    WARN = "warn"
    #: It is a denial.
    STRICT = "strict"


#: By the word for it: an enumeration takes longer to look one up.
INTENTS: Final = {str(intent): intent for intent in Intent}
#: The strictest last.
_ORDER: Final = {intent: place for place, intent in enumerate(Intent)}


def stricter(one: Intent, other: Intent) -> Intent:
    """The stricter of two."""
    return one if _ORDER[one] >= _ORDER[other] else other


def difference(call: Call, action: str, resource: str, *, exact: bool) -> str:
    """How the declared action differs from the observed one; empty where it does not.

    Args:
        action: what the wire shows.
        resource: that it is done to; empty where the wire does not show it.
        exact: a route says so, and not the method alone.
    """
    if call.declares_action and call.action != action and fold(call.action) != fold(action):
        declared, _, _ = fold(call.action).partition(":")
        observed, _, _ = fold(action).partition(":")
        if exact or (declared in _PLAIN and declared != observed):
            return f"{call.action} is declared, and the request is {action}"
    if exact and resource and call.declares_resource and call.resource != resource:
        return f"resource {call.resource} is declared, and the request is for {resource}"
    return ""
