"""What decisions tell alerts directly: only those that could not be recorded.

Everything else is read from the audit trail. So a decision that is on record costs one comparison
here, whatever it is, and a flood of denials costs no more.
"""

import collections
from collections.abc import Sequence

from authz.core.audit import row_of
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.verdict import Decision
from authz.stores.alert_trail import Alike


class Watch:
    """An observer of the gate, on the event loop's thread."""

    def __init__(self, unrecorded: collections.deque[Alike]) -> None:
        """`unrecorded`: the raiser's; bounded, the oldest makes room."""
        self._unrecorded = unrecorded

    def decided(self, outcomes: Sequence[Outcome], commit_ns: int) -> None:
        """Take in what has no row; in bypass mode nothing has one, and nothing is told."""
        if commit_ns:
            return
        for outcome in outcomes:
            if (
                outcome.verdict.decision is not Decision.ALLOW
                and outcome.mode is not Mode.BYPASS
                # What an agent tells of itself has a row whose cost is not measured.
                and outcome.case.call.source != "client"
            ):
                self._unrecorded.append(Alike(1, row_of(outcome)._asdict()))

    def turned_away(self, mode: Mode) -> None:
        """Nothing: how many there were gets a row of its own."""
        del mode
