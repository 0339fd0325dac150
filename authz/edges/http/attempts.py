"""Requests for `/admin` that were refused: the trail knows of them, and cannot be filled by them.

The first one is a row at once. Those of the minute after it are one row together, at its end, and
so on while they come: an attempt costs neither a row nor the audit database's lock.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import Request

from authz.core.errors import AuditUnavailable
from authz.core.text import visible

log = logging.getLogger(__name__)

#: Seconds between two rows.
EVERY_S: Final = 60.0
#: Characters of a path that a row has.
MAX_PATH: Final = 128


class Attempts:
    """Counts and records them. One event loop's."""

    def __init__(self, record: Callable[[int, Mapping[str, object]], None]) -> None:
        """
        Args:
            record: writes one row for so many attempts, with what is known of the last one.
        """
        self._record = record
        self._count = 0
        self._last: dict[str, object] = {}
        self._timer: asyncio.TimerHandle | None = None

    def refused(self, request: Request, why: str) -> None:
        """An attempt was refused."""
        path = str(request.scope["path"])
        self._count += 1
        self._last = {
            "method": visible(request.method[:MAX_PATH]),
            "path": visible(path[:MAX_PATH]),
            "why": why,
        }
        if self._timer is None:
            self._tell()

    def close(self) -> None:
        """Record what no row tells of yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._write()

    def _tell(self) -> None:
        self._timer = None
        if self._count:
            self._write()
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._tell)

    def _write(self) -> None:
        if not self._count:
            return
        try:
            self._record(self._count, self._last)
        except AuditUnavailable as error:
            # They are counted on, and the next row tells of them too.
            log.error("refused requests for /admin could not be recorded: %s", error)
        else:
            self._count = 0
