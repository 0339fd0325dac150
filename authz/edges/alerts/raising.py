"""From the audit trail to the outbox: which rows become alerts, and how many.

- Not in a request's path: a thread reads what is committed, twice a second. Whoever decides only
  hands over what could not be recorded (`watching`).
- What is alike within a while is one alert; what comes after it is counted, and told of when that
  while is over. So a flood is a few alerts, however long it lasts.
- Beyond the rate alerts are dropped, counted and warned of (CONTRACT §11). A critical one is never
  dropped because of others that are less.
- An alert, the counts and how far the trail was read are committed together.
"""

import json
import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from authz.core.alert import Event, alert_of, crowd_of, event_of, group_key, payload
from authz.core.alert_routes import AlertRoutes, Sending
from authz.core.alert_words import TRIGGERS
from authz.core.incident import Kind
from authz.core.timestamps import rfc3339
from authz.stores import alert_outbox as box
from authz.stores.alert_outbox import Group, Outbox
from authz.stores.alert_trail import Alike, Part, Trail
from authz.stores.audit_query import Unreadable

log = logging.getLogger(__name__)

#: Seconds: what is older when the trail is read is not told any more. A sidecar that was away for
#: longer has an audit trail; nobody wants its week in one minute.
CATCH_UP_S: Final = 3600.0
#: Seconds between two warnings of what was dropped.
_WARN_S: Final = 60.0
#: Characters that are kept of a column while a group lasts.
_KEPT: Final = 2048
#: Columns of no use in an alert.
_DROPPED: Final = frozenset({"metadata", "policy_version", "latency_us", "debit"})


class Raiser:
    """What reads and decides about alerts. For one thread."""

    def __init__(
        self,
        trail: Trail,
        outbox: Outbox,
        *,
        asked: Collection[str],
        destinations: Sequence[str],
        rate: int,
        now: Callable[[], float],
        new_id: Callable[[], str],
        counts: Counter[str],
        instance: str = "",
        environment: str = "",
    ) -> None:
        """
        Args:
            asked: triggers of ALERT_ON.
            destinations: names of those there are.
            rate: alerts a minute.
            now: seconds since the epoch.
            counts: is counted into (`service.COUNTS`).
        """
        self._trail = trail
        self._outbox = outbox
        #: The chain's documents in force; whoever has them sets it.
        self.documents: Callable[[], Sequence[object]] = tuple
        self._asked = asked
        self._destinations = frozenset(destinations)
        self._rate = rate
        self._now = now
        self._new_id = new_id
        self._counts = counts
        self._instance = instance
        self._environment = environment
        #: What the routes were made of.
        self._chain: Sequence[object] | None = None
        self._routes = AlertRoutes((), asked)
        #: What could not be recorded, with how often; bounded by whoever appends.
        self.unrecorded: deque[Alike] = deque(maxlen=1000)
        #: Seconds since the epoch when a group ends, as far as is known.
        self._ends = 0.0
        self._warned = 0.0

    def begin(self) -> None:
        """Begin at the trail's end, where no outbox says how far it was read.

        Raises:
            Unreadable, Unusable: not now.
        """
        end = self._trail.end()
        with self._outbox.changing() as connection:
            if box.position_in(connection) is None:
                box.set_position(connection, end)

    def turn(self) -> bool:
        """Look once; true where there is more to read at once.

        Raises:
            Unreadable, Unusable: not now; nothing of it is lost.
        """
        now = self._now()
        position = self._outbox.position()
        part, failure = None, None
        try:
            if position is None:
                self.begin()
                return True
            part = self._trail.after(position, rfc3339(now - CATCH_UP_S))
        except Unreadable as error:
            # What could not be recorded is just then what there is to tell.
            failure = error
        waiting = [self.unrecorded.popleft() for _ in range(len(self.unrecorded))]
        is_new = part is not None and part.upto != position
        if is_new or waiting or self._ends <= now:
            try:
                self._take_in(position, part, waiting, now)
            except BaseException:
                self.unrecorded.extendleft(reversed(waiting))
                raise
        if failure is not None:
            raise failure
        return part is not None and part.is_more

    def _take_in(
        self, position: object, part: Part | None, waiting: Sequence[Alike], now: float
    ) -> None:
        chain = self.documents()
        if chain is not self._chain:
            self._routes, self._chain = AlertRoutes(chain, self._asked), chain
        with self._outbox.changing() as connection:
            for group in box.groups_that_end(connection, now):
                self._over(connection, group, now)
            # Another process has the same outbox, and was faster: its reading counts.
            if part is not None and box.position_in(connection) == position:
                for alike in part.found:
                    self._saw(connection, alike, now)
                if part.more:
                    self._crowd(connection, part, now)
                box.set_position(connection, part.upto)
            for alike in waiting:
                self._saw(connection, alike, now)
        self._ends = self._outbox.next_end()

    def _saw(self, connection: sqlite3.Connection, alike: Alike, now: float) -> None:
        event = event_of(alike.row, alike.times)
        sending = self._routes.of(event) if event is not None else None
        if event is None or sending is None:
            return
        key = group_key(event)
        is_new = box.group_in(connection, key) is None
        is_crowd = is_new and box.groups_are_full(connection)
        key = crowd_of(event) if is_crowd else key
        self._take(connection, key, event, sending, now, crowd=is_crowd)

    def _crowd(self, connection: sqlite3.Connection, part: Part, now: float) -> None:
        """Rows of which too many are not alike: the last of those that are told stands for them."""
        for alike in reversed(part.found):
            event = event_of(alike.row, part.more)
            sending = self._routes.of(event) if event is not None else None
            if event is not None and sending is not None:
                break
        else:
            return
        self._take(connection, crowd_of(event), event, sending, now, crowd=True)

    def _take(
        self,
        connection: sqlite3.Connection,
        key: str,
        event: Event,
        sending: Sending,
        now: float,
        *,
        crowd: bool,
    ) -> None:
        """Count an event in its group, or make an alert of it and begin one."""
        group = box.group_in(connection, key)
        if group is not None and group.ends <= now + sending.group_s:
            # Its end is further away only where the clock was set back.
            box.put_group(connection, group._replace(times=group.times + event.times))
            self._counts["grouped"] += event.times
            return
        times = self._raise(connection, event, sending, now, crowd=crowd)
        self._counts["grouped"] += times
        box.put_group(connection, Group(key, now + sending.group_s, times, _kept(event)))

    def _over(self, connection: sqlite3.Connection, group: Group, now: float) -> None:
        """A group's time is over: what has come since is told, and another time begins."""
        event = _read(group)
        sending = self._routes.of(event) if event is not None else None
        if event is None or sending is None or not group.times:
            box.end_group(connection, group.key)
            return
        is_crowd = group.key.startswith("crowd:")
        times = self._raise(connection, event, sending, now, crowd=is_crowd)
        box.put_group(connection, group._replace(ends=now + sending.group_s, times=times))

    def _raise(
        self,
        connection: sqlite3.Connection,
        event: Event,
        sending: Sending,
        now: float,
        *,
        crowd: bool,
    ) -> int:
        """Make an alert of it; how often it happened that is still to be told, 0 where all is done.

        What is critical and has to give way to the rate is told when there is room: an agent that
        causes ten such alerts a minute does not hide what it does next.
        """
        to = self._destinations if sending.to is None else self._destinations & sending.to
        if event.triggers[0] == Kind.ALERT_FAILED:
            # Not to the one that does not take them.
            to -= {str(event.row.get("resource"))}
        if not to:
            self._counts["unrouted"] += 1
            return 0
        rate, most = sending.rate or ("", self._rate)
        if event.row.get("source") == "control":
            # Agents, who choose what is denied to them, do not use up what the sidecar may tell.
            rate = f"control/{rate}"
        if box.made_since(connection, now, rate, event.severity) >= most:
            if event.severity == "critical":
                return event.times
            self._dropped("dropped_rate", event, now)
            return 0
        alert = alert_of(
            event,
            sending.trigger,
            alert_id=self._new_id(),
            at=now,
            instance=self._instance,
            environment=self._environment,
            crowd=crowd,
        )
        made: Mapping[str, Any] = {
            "id": alert.id,
            "made": now,
            "severity": alert.severity,
            "rate": rate,
            "trigger": alert.trigger,
            "body": payload(alert),
        }
        if box.put_alert(connection, made, sorted(to)):
            self._counts["raised"] += 1
        else:
            self._dropped("dropped_full", event, now)
        return 0

    def _dropped(self, why: str, event: Event, now: float) -> None:
        self._counts[why] += 1
        if abs(now - self._warned) >= _WARN_S:
            self._warned = now
            said = {
                "dropped_rate": "there are more than ALERT_RATE_LIMIT, or its route, lets through",
                "dropped_full": "too many wait for delivery",
            }
            log.warning(
                "an alert was dropped (%s, %s): %s; `authz alerts list` counts them",
                event.triggers[0],
                event.severity,
                said[why],
            )


def _kept(event: Event) -> str:
    row = {
        name: value[:_KEPT] if isinstance(value, str) else value
        for name, value in event.row.items()
        if name not in _DROPPED
    }
    return json.dumps([row, event.triggers, event.severity, sorted(event.tags)])


def _read(group: Group) -> Event | None:
    try:
        row, triggers, severity, tags = json.loads(group.event)
        event = Event(dict(row), group.times, tuple(triggers), str(severity), frozenset(tags))
    except (ValueError, TypeError):
        return None
    return event if event.triggers and set(event.triggers) <= set(TRIGGERS) else None
