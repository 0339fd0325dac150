"""Why a turn has failed: one sentence, and a cause of the closed list."""

from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """What was wrong. `said` is what anybody may know of it: no host, no path."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    TLS = "tls"
    REDIRECTED = "redirected"
    NOT_A_GATEWAY = "not_a_gateway"
    UNAUTHORISED = "unauthorised"
    MISSING = "missing"
    BUSY = "busy"
    BROKEN_OFF = "broken_off"
    SERVER = "server"
    REFUSED_THERE = "refused_there"
    BUNDLE = "bundle"
    DISK = "disk"
    TRAIL = "trail"
    LOCKED = "locked"
    INTERNAL = "internal"

    @property
    def said(self) -> str:
        """In words, for `/health`."""
        return _SAID[self]


_SAID: Final = {
    Cause.UNREACHABLE: "the control plane cannot be reached",
    Cause.SLOW: "the control plane is too slow",
    Cause.TLS: "the control plane's certificate is not trusted",
    Cause.REDIRECTED: "the control plane answers with a redirect",
    Cause.NOT_A_GATEWAY: "what answers is no control plane",
    Cause.UNAUTHORISED: "the control plane does not take the token",
    Cause.MISSING: "the control plane does not offer this",
    Cause.BUSY: "the control plane is busy",
    Cause.BROKEN_OFF: "the transfer breaks off",
    Cause.SERVER: "the control plane fails",
    Cause.REFUSED_THERE: "the control plane refuses the rows",
    Cause.BUNDLE: "the bundle is refused",
    Cause.DISK: "what was fetched cannot be written here",
    Cause.TRAIL: "the audit trail cannot be read",
    Cause.LOCKED: "another one synchronises",
    Cause.INTERNAL: "it was ended, or failed",
}


class SyncFailed(Exception):
    """A turn has failed, and left what there was as it was."""

    def __init__(
        self, cause: Cause, sentence: str, retry_after_s: float = 0.0, known: int | None = None
    ) -> None:
        """
        Args:
            sentence: what, where, and what to do, without a secret. It is the same for the same
                failure: it is recorded once, however often it happens.
            retry_after_s: seconds that the other side wants to be left alone; 0 where it has not
                said.
            known: the last row of this trail that the other side has, where rows contradict that.
        """
        super().__init__(sentence)
        self.cause: Final = cause
        self.sentence: Final = sentence
        self.retry_after_s: Final = retry_after_s
        self.known: Final = known
