"""A trail as a gateway's admin API answers for it."""

import json
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any, Final, Literal

from authz.cli.audit.trail import Entry, Given, Layout, Moved
from authz.cli.event_stream import Event, EventStream, TooLong
from authz.cli.remote import Broken, Remote
from authz.cli.shared import FAILED, UNREACHABLE, fail, note

#: Entries of a page.
PAGE: Final = 1000
#: Pages in a row on which nothing was found: each is some seconds' search of a long trail.
MAX_EMPTY_PAGES: Final = 10_000
#: Seconds without a byte after which a tail is dead. A sidecar sends something every ten.
SILENT_S: Final = 35.0
#: The same of an export: where filters want little, its rows are far from each other.
EXPORT_SILENT_S: Final = 300.0
#: Attempts in a row to follow on, and the seconds before the first; each waits twice as long.
ATTEMPTS: Final = 6
FIRST_WAIT_S: Final = 0.5


class RemoteTrail:
    """The trail of a sidecar that answers somewhere."""

    unit = "bytes"

    def __init__(self, there: Remote, which: Literal["local", "ingested"] = "local") -> None:
        self._there = there
        # One that is older knows no such parameter, and has no other trail.
        self._which = {"trail": which} if which != "local" else {}

    def entries(
        self, filters: Given, *, order: Literal["asc", "desc"], limit: int | None
    ) -> Iterator[Entry]:
        """As `Trail.entries`, page after page."""
        query: dict[str, str | int] = {**filters, **self._which, "order": order}
        left, empty = limit, 0
        while left is None or left > 0:
            query["limit"] = PAGE if left is None else min(left, PAGE)
            answer = self._there.ask("GET", "/admin/audit", params=query)
            found = answer.get("entries")
            if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
                self._there.no_sidecar("its answer has no list of entries")
            yield from found
            left = None if left is None else left - len(found)
            after = answer.get("next", "")
            if not after:
                return
            # One that took too long to search has no entries perhaps, and is gone on from.
            empty = 0 if found else empty + 1
            if not isinstance(after, str) or after == query.get("after") or empty > MAX_EMPTY_PAGES:
                self._there.no_sidecar("its list has no end")
            query["after"] = after

    def stats(self, filters: Given) -> dict[str, Any]:
        """As `Trail.stats`."""
        return self._there.ask("GET", "/admin/audit/stats", params={**filters, **self._which})

    def export(
        self, layout: Layout, filters: Given, *, write: Callable[[bytes], object], moved: Moved
    ) -> int:
        """As `Trail.export`; a download that breaks off ends the command."""
        done = 0
        try:
            with self._there.stream(
                "/admin/audit/export",
                params={**filters, **self._which, "format": layout},
                headers={"accept": "*/*"},
                silent_s=EXPORT_SILENT_S,
            ) as answer:
                for data in answer.iter_bytes():
                    write(data)
                    done += len(data)
                    moved(done, None)
        except Broken as error:
            said = f"{self._there.name}: the export broke off after {done} bytes: {error}"
            fail([said], FAILED if done else UNREACHABLE)
        return done

    def follow(self, filters: Given, count: int) -> Iterator[list[Entry]]:
        """As `Trail.follow`; where it breaks off it goes on after the last entry that came."""
        stream, failures = EventStream(), 0
        while True:
            try:
                for entries in self._connected(filters, count, stream):
                    failures = 0
                    yield entries
                why = "it ended the connection"
            except Broken as error:
                why = str(error)
            failures += 1
            if failures >= ATTEMPTS:
                fail([f"{self._there.name}: the sidecar cannot be reached any more: {why}"],
                     UNREACHABLE)  # fmt: skip
            note(f"{self._there.name}: {why}; asking again")
            sleep(FIRST_WAIT_S * 2 ** (failures - 1))
            stream = EventStream(stream.last_id)

    def _connected(self, filters: Given, count: int, stream: EventStream) -> Iterator[list[Entry]]:
        """What one connection brings; a list without entries for what only shows that it lives."""
        resumed = {"last-event-id": stream.last_id} if stream.last_id else {}
        params: dict[str, str | int] = {**filters, **self._which, "n": 0 if resumed else count}
        headers = {"accept": "text/event-stream", **resumed}
        with self._there.stream(
            "/admin/audit/tail", params=params, headers=headers, silent_s=SILENT_S
        ) as answer:
            kind = answer.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                self._there.no_sidecar(f"it sends no events but {kind or 'something untyped'}")
            for data in answer.iter_raw():
                try:
                    events = list(stream.feed(data))
                except TooLong as error:
                    self._there.no_sidecar(str(error))
                yield [entry for entry in map(self._entry, events) if entry is not None]

    def _entry(self, event: Event) -> Entry | None:
        try:
            said = json.loads(event.data)
        except (ValueError, RecursionError):
            said = None
        if event.name == "error":
            message = said.get("message") if isinstance(said, dict) else None
            fail([str(message or "the sidecar has ended the tail")], FAILED)
        if event.name not in ("decision", "control"):
            return None  # what a newer sidecar may tell besides
        if not isinstance(said, dict):
            self._there.no_sidecar("an event of it is no entry")
        return said
