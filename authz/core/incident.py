"""What happens to the sidecar itself and operators want to know of: the closed list.

A kind is the audit row's action (`incident:KIND`), the metric's label and an alert's trigger, so a
kind is added here or nowhere.
"""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What happened."""

    BUNDLE_REFUSED = "bundle_refused"
    BUNDLE_EXPIRED = "bundle_expired"
    SYNC_PULL_FAILED = "sync_pull_failed"
    SYNC_PUSH_FAILED = "sync_push_failed"
    INGEST_REFUSED = "ingest_refused"
    ALERT_FAILED = "alert_failed"


class Incident(NamedTuple):
    """One of them."""

    kind: Kind
    #: What it happened to: a file, an address without user and query, a destination's name.
    subject: str
    #: What happened and what to do, in one sentence without secrets.
    sentence: str
    #: It has ended; the sentence is what it was.
    is_over: bool = False
