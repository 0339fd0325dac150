"""A decided call: what was asked, what was decided, what is done, and the names it goes by."""

from typing import NamedTuple

from authz.core.case import Case
from authz.core.mode import Mode
from authz.core.tracing import Trace
from authz.core.verdict import Decision, Verdict


class Outcome(NamedTuple):
    """Everything the reply and the audit row are made of."""

    case: Case
    verdict: Verdict
    mode: Mode
    enforced: Decision
    #: Names this decision in the row, the reply and Envoy's metadata.
    decision_id: str
    #: The caller's, else that of the trace it belongs to where traces are on, else the decision id.
    trace_id: str
    #: When the decision was made, seconds since the epoch.
    decided_at: float
    latency_us: int
    #: The same time on the steady clock (`core/ledger.py`).
    steady: float
    #: Where the decision is traced.
    trace: Trace | None = None

    @property
    def would_deny(self) -> bool:
        """Enforce mode would have blocked this call."""
        return self.enforced is Decision.ALLOW and self.verdict.decision is not Decision.ALLOW
