"""Everything a stage may look at. A stage that wants more is asking for the wrong thing."""

from authz.core.call import Call
from authz.core.evaluation import Ruling
from authz.core.facts import Facts
from authz.core.identity import ANONYMOUS, Identity, Unidentified
from authz.core.snapshot import Snapshot


class Case:
    """One call, who makes it, and the policies it is judged by. Never changed once made."""

    __slots__ = ("_ruling", "call", "caller", "identity", "snapshot")

    def __init__(self, call: Call, caller: Identity | Unidentified, snapshot: Snapshot) -> None:
        self.call = call
        self.caller = caller
        self.snapshot = snapshot
        #: The caller, or the anonymous unverified one when there is no usable token.
        self.identity = caller if isinstance(caller, Identity) else ANONYMOUS
        self._ruling: Ruling | None = None

    @property
    def ruling(self) -> Ruling:
        """What the policies say; looked up when the first stage asks."""
        if self._ruling is None:
            self._ruling = self.snapshot.ruling(Facts(self.call, self.identity))
        return self._ruling
