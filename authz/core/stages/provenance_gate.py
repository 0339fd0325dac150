"""provenance-gate: what led to the action is trustworthy enough for it (CONTRACT §15).

The requirements are `ProvenanceGate` documents; where there are none, nothing is read. A request
that does not say what influenced it counts as lane 0, untrusted, wherever a requirement matches.
"""

from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More, Pass
from authz.core.lanes import LANES
from authz.core.provenance import Influence, Unclear

NAME = "provenance-gate"
_UNSAID = Influence(0, frozenset())


def judge(case: Case) -> Finding:
    """Deny what was influenced by less than the first matching requirement of a gate asks for."""
    gates = case.snapshot.gates
    if not gates:
        return NO_OBJECTION
    said = case.influence
    if isinstance(said, Unclear):
        return Deny(Code.PROVENANCE_MALFORMED, said.reason, rule=f"{NAME}:malformed")
    influence = _UNSAID if said is None else said
    for requirement in gates.requirements(case.call.action):
        code, reason = Code.PROVENANCE_LABEL, ""
        missing = [label for label in requirement.require_labels if label not in influence.labels]
        forbidden = [label for label in requirement.forbid_labels if label in influence.labels]
        lane = requirement.min_lane
        if lane is not None and influence.lane < lane:
            code = Code.PROVENANCE_TOO_LOW
            needed, there = LANES[lane], LANES[influence.lane]
            how = "and nothing says what influenced it" if said is None else f"and {there} did"
            reason = f"{case.call.action} may only be influenced by what is {needed}, {how}"
        elif forbidden:
            reason = f"what is labelled {forbidden[0]} may not influence {case.call.action}"
        elif missing:
            reason = f"{case.call.action} needs an influence labelled {missing[0]}"
        if reason:
            cause = "too-low" if code is Code.PROVENANCE_TOO_LOW else "label"
            return Deny(
                code,
                requirement.reason or reason,
                rule=f"{NAME}:{cause}",
                policy=requirement.document,
                more=More(notes=_notes(said)),
            )
    return NO_OBJECTION if said is None else Pass(more=More(notes=_notes(said)))


def _notes(influence: Influence | None) -> dict[str, object]:
    if influence is None:
        return {}
    labels = {"labels": sorted(influence.labels)} if influence.labels else {}
    return {"provenance": {"lane": influence.lane, **labels}}
