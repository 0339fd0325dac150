"""Server-Sent Events, as far as a reader needs them (WHATWG HTML, "Interpreting an event stream").

What arrives was written by somebody else: a line and an event have bounds.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

#: Bytes of an event: a row's texts have some KiB each, and JSON at most six times that.
MAX_EVENT: Final = 1 << 20
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class TooLong(ValueError):
    """An event that nobody could mean."""


class Event(NamedTuple):
    """Something that was sent."""

    #: `message` where the sender gives it no name.
    name: str
    data: str
    #: The newest id that was sent, with this event or before it; what to resume after.
    event_id: str


class EventStream:
    """Makes events of bytes, however they are cut up."""

    def __init__(self, last_id: str = "") -> None:
        """`last_id`: that of another stream that this one goes on with."""
        #: The newest id of an event that was complete.
        self.last_id = last_id
        self._rest = b""
        self._at_start = True
        self._name = ""
        self._id = last_id
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete.

        Raises:
            TooLong: an event has more than `MAX_EVENT` bytes.
        """
        *lines, self._rest = _LINE_END.split(self._rest + data)
        if lines and data.endswith(b"\r") and not self._rest:
            # Perhaps half of a line's end: it is held back until the other half could have come.
            self._rest = lines.pop() + b"\r"
        if len(self._rest) + self._size > MAX_EVENT:
            raise TooLong("an event is longer than any row of a trail")
        for line in lines:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)  # noqa: PLW2901 - as the standard says it
            if line:
                self._field(line)
            elif (event := self._ended()) is not None:
                yield event

    def _field(self, line: bytes) -> None:
        self._size += len(line)
        if self._size > MAX_EVENT:
            raise TooLong("an event is longer than any row of a trail")
        name, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode(errors="replace")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value
        elif name == b"id" and "\0" not in value:
            self._id = value

    def _ended(self) -> Event | None:
        data, name = "\n".join(self._data), self._name
        has_data = bool(self._data)
        self.last_id = self._id
        self._data, self._name, self._size = [], "", 0
        return Event(name or "message", data, self._id) if has_data else None
