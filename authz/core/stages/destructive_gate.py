"""destructive-gate: what cannot be undone waits, or needs a person (CONTRACT §8).

Passes everything unless DESTRUCTIVE_GATE=true: the seed does not ask for it, and it stops actions
that a policy allows.
"""

from authz.core.approval import Terms, settle
from authz.core.case import Case
from authz.core.destructive import PATTERNS, destructive
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding

NAME = "destructive-gate"


def judge(case: Case) -> Finding:
    """Make a destructive action pending, until it has cooled off or a person has approved it."""
    if not case.environment.destructive_gate:
        return NO_OBJECTION
    kinds = [kind for kind in map(destructive, case.names) if kind is not None]
    if not kinds:
        return NO_OBJECTION
    kind = min(kinds, key=PATTERNS.index)
    if kind.needs_person:
        code, said = Code.APPROVAL_REQUIRED, "requires a person's approval"
    else:
        code, said = Code.COOLING_OFF, f"has to cool off for {kind.cooling_s} seconds"
    reason = f"{case.call.action} is destructive ({kind.category}) and {said}"
    objection = Deny(code, reason, rule=f"{NAME}:{kind.id}", alert=kind.severity)
    terms = Terms(
        cooling_s=0 if kind.needs_person else kind.cooling_s,
        category=kind.category,
        severity=kind.severity,
    )
    finding = settle(case, objection, terms)
    # The policy has allowed it; what is lifted here is only this objection.
    return finding if isinstance(finding, Deny) else finding.more or NO_OBJECTION
