"""The mode at run time: what MODE_FILE says, until an administrator says something else.

- A MODE_FILE that is read again and says what it said before changes nothing: files are looked at
  every 30 s, and an administrator's word is to last longer than that. One that says something else
  counts, and so does whatever it says when it is read because of SIGHUP.
- A change by an administrator is recorded before it is made. One by the file is made at once, and
  recorded as soon as it can be (`Versions.note`): nobody is there to be told that it cannot.
- The gate and Envoy change together: Envoy decides what happens while the service is away.
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

from authz.core.mode import Mode
from authz.gate import Gate
from authz.operations import Operations
from authz.stores.versions import Versions

log = logging.getLogger(__name__)

BYPASS_WARNING: Final = "MODE is bypass: nothing is evaluated and nothing is recorded"

Source = Literal["MODE", "MODE_FILE", "admin"]


class ModeSwitch:
    """Changes the mode. On the event loop's thread, as the gate."""

    def __init__(
        self,
        gate: Gate,
        versions: Versions,
        *,
        has_file: bool,
        tell_envoy: Callable[[Mode], bool],
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            has_file: there is a MODE_FILE, and the gate's mode is what it said.
            tell_envoy: writes what Envoy reads; false where that failed.
            now: seconds since the epoch.
        """
        self._gate = gate
        self._versions = versions
        self._tell_envoy = tell_envoy
        self._now = now
        self._in_file = gate.mode if has_file else None
        self.has_file: Final = has_file
        #: Who has said what is in force.
        self.source: Source = "MODE_FILE" if has_file else "MODE"
        #: Since when it is, seconds since the epoch.
        self.since = now()

    @property
    def mode(self) -> Mode:
        """The mode that is in force."""
        return self._gate.mode

    def reread(self) -> None:
        """Let the next reading of MODE_FILE count whatever it says (SIGHUP)."""
        self._in_file = None

    def follow(self, mode: Mode) -> None:
        """Take over what MODE_FILE says."""
        said, self._in_file = self._in_file, mode
        if mode is said:
            return
        before = self.mode
        self.source = "MODE_FILE"
        if mode is before:
            return
        self._change(mode)
        reason = f"the mode was changed from {before} to {mode}"
        self._versions.note(f"mode:{mode}", before, reason)

    def switch(self, mode: Mode, operations: Operations, *, by: str) -> bool:
        """Change it because an administrator says so; false where Envoy could not be told.

        Raises:
            AuditUnavailable: it cannot be recorded, and so is not changed.
        """
        before = self.mode
        if mode is not before:
            operations.record(
                f"mode:{mode}",
                before,
                by=by,
                before={"mode": str(before)},
                after={"mode": str(mode)},
            )
        self.source = "admin"
        return mode is before or self._change(mode)

    def _change(self, mode: Mode) -> bool:
        log.warning("the mode is %s now; it was %s", mode, self.mode)
        self._gate.mode = mode
        self.since = self._now()
        if mode is Mode.BYPASS:
            log.warning(BYPASS_WARNING)
        return self._tell_envoy(mode)
