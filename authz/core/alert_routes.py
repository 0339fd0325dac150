"""Where an event goes: ALERT_ON, and the `AlertRoute` documents that are in force.

- Every route that matches counts: the alert goes to all that they name, once. One that mutes counts
  most. So neither the names of documents nor their files' order means anything.
- Where there is no document, and for what none of them matches, the alert goes everywhere.
- The shortest time of grouping counts, and the strictest rate.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from authz.core.alert import Event, first_of
from authz.core.chain_compiled import CompiledAlertRoute
from authz.core.pattern import Matcher, compile_pattern, fold

#: Seconds in which what is alike is one alert, where no document says otherwise.
GROUP_S: Final = 60


class Sending(NamedTuple):
    """What becomes of an event that is worth an alert."""

    trigger: str
    #: Destinations by name; None: all there are.
    to: frozenset[str] | None
    group_s: int
    #: The document whose rate counts, and the rate; None: the environment's.
    rate: tuple[str, int] | None


class _Route:
    """A document whose patterns are ready."""

    def __init__(self, document: CompiledAlertRoute) -> None:
        self.document = document
        self._agents = _matchers(document.agents)
        self._actions = _matchers(document.actions)
        self._policies = _matchers(document.policies)

    def trigger(self, event: Event, asked: Collection[str]) -> str:
        """The trigger that this route takes the event for; empty where it does not."""
        document, row = self.document, event.row
        wanted = asked if document.triggers is None else document.triggers
        if document.severities is not None and event.severity not in document.severities:
            return ""
        if document.tags is not None and document.tags.isdisjoint(event.tags):
            return ""
        for matchers, column in (
            (self._agents, "agent_id"),
            (self._actions, "action"),
            (self._policies, "policy"),
        ):
            if matchers is not None and not _any(matchers, row.get(column)):
                return ""
        if document.triggers is None:
            return first_of(event.triggers, wanted)
        return next((one for one in event.triggers if one in wanted), "")


def _matchers(patterns: tuple[str, ...] | None) -> tuple[Matcher, ...] | None:
    return None if patterns is None else tuple(map(compile_pattern, patterns))


def _any(matchers: tuple[Matcher, ...], value: Any) -> bool:
    if not isinstance(value, str):
        return False
    text = fold(value)
    return any(matches(text) for matches in matchers)


class AlertRoutes:
    """The documents of one snapshot, beside what the environment asks for."""

    def __init__(self, documents: Iterable[object], asked: Collection[str]) -> None:
        """
        Args:
            documents: those of a snapshot's chain; other kinds are passed over.
            asked: triggers of ALERT_ON.
        """
        self._routes = [_Route(d) for d in documents if isinstance(d, CompiledAlertRoute)]
        self._asked = asked

    def of(self, event: Event) -> Sending | None:
        """What becomes of an event; None: nothing."""
        found = [(route.document, route.trigger(event, self._asked)) for route in self._routes]
        found = [(document, trigger) for document, trigger in found if trigger]
        if any(document.mute for document, _ in found):
            return None
        if not found:
            trigger = first_of(event.triggers, self._asked)
            return Sending(trigger, None, GROUP_S, None) if trigger else None
        rates = [(d.max_per_minute, d.name) for d, _ in found if d.max_per_minute is not None]
        rate = min(rates, default=None)
        return Sending(
            # The narrowest of those that they take it for.
            min((trigger for _, trigger in found), key=event.triggers.index),
            frozenset(name for document, _ in found for name in document.to),
            min(GROUP_S if d.group_s is None else d.group_s for d, _ in found),
            None if rate is None else (rate[1], rate[0]),
        )
