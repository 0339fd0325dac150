"""Everything a stage may look at. A stage that wants more is asking for the wrong thing."""

from typing import NamedTuple

from authz.core.call import Call
from authz.core.identity import ANONYMOUS, Identity, Unidentified
from authz.core.snapshot import Snapshot


class Case(NamedTuple):
    """One call, who makes it, and the policies it is judged by."""

    call: Call
    caller: Identity | Unidentified
    snapshot: Snapshot

    @property
    def identity(self) -> Identity:
        """The caller, or the anonymous unverified one when there is no usable token."""
        return self.caller if isinstance(self.caller, Identity) else ANONYMOUS
