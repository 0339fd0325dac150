"""What a check finds: pass, warn, fail or skip, what is so, and what to do about it."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

#: What a line says that only the sidecar's own machine or container can tell.
OUTSIDE = "cannot be seen from outside; run `authz doctor` on the sidecar's machine or container"


class Status(StrEnum):
    """The worst comes last."""

    SKIP = "skip"
    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One thing that was looked at."""

    status: Status
    #: What is so: a clause without a full stop.
    found: str
    #: What to do: one sentence's worth; empty where there is nothing to do.
    cure: str = ""


def passed(found: str) -> Finding:
    """It is as it should be."""
    return Finding(Status.PASS, found)


def warned(found: str, cure: str) -> Finding:
    """It works, and somebody should know."""
    return Finding(Status.WARN, found, cure)


def failed(found: str, cure: str) -> Finding:
    """It is not fit for production."""
    return Finding(Status.FAIL, found, cure)


def skipped(found: str = OUTSIDE) -> Finding:
    """It cannot be told from here."""
    return Finding(Status.SKIP, found)


def worst(findings: Iterable[Finding]) -> Status:
    """What findings come to together."""
    order = list(Status)
    return max((one.status for one in findings), key=order.index, default=Status.SKIP)
