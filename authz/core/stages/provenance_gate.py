"""provenance-gate: what led to the action is trustworthy enough for it (CONTRACT §15).

The requirements are `ProvenanceGate` documents; where there are none, nothing is read. A request
that does not say what influenced it counts as lane 0, untrusted, wherever a requirement matches.
"""

import functools

from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More, noted
from authz.core.gates import Requirement
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
    for name in case.names:
        for requirement in gates.requirements(name):
            lane = requirement.min_lane
            if lane is not None and influence.lane < lane:
                return _too_low(name, requirement, lane, said)
            if requirement.require_labels or requirement.forbid_labels:
                reason = _labels(name, requirement, influence)
                if reason:
                    return _denied(Code.PROVENANCE_LABEL, "label", reason, requirement, said)
    return NO_OBJECTION if said is None else _passed(said)


def _too_low(action: str, requirement: Requirement, lane: int, said: Influence | None) -> Deny:
    how = "and nothing says what influenced it"
    if said is not None:
        how = f"and what is {LANES[said.lane]} did"
    reason = f"{action} may only be influenced by what is {LANES[lane]}, {how}"
    return _denied(Code.PROVENANCE_TOO_LOW, "too-low", reason, requirement, said)


def _labels(action: str, requirement: Requirement, influence: Influence) -> str:
    """What is wrong with the labels; empty where nothing is."""
    for label in requirement.forbid_labels:
        if label in influence.labels:
            return f"what is labelled {label} may not influence {action}"
    for label in requirement.require_labels:
        if label not in influence.labels:
            return f"{action} needs an influence labelled {label}"
    return ""


def _denied(
    code: Code, cause: str, reason: str, requirement: Requirement, said: Influence | None
) -> Deny:
    return Deny(
        code,
        requirement.reason or reason,
        rule=f"{NAME}:{cause}",
        policy=requirement.document,
        rule_index=requirement.place,
        more=More(notes=_notes(said)),
    )


@functools.lru_cache(maxsize=64)
def _passed(influence: Influence) -> More:
    return More(notes=_notes(influence))


def _notes(influence: Influence | None) -> str:
    if influence is None:
        return ""
    labels = {"labels": sorted(influence.labels)} if influence.labels else {}
    return noted(provenance={"lane": influence.lane, **labels})
