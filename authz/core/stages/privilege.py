"""privilege: the caller's tier is high enough for what was allowed (CONTRACT §15).

What counts is the effective tier: the lowest of the registry's, the token's and those of all who
delegate. It is held against the `requiredTrustTier` of the rules and policies that would allow the
action, and against the `PrivilegeFloors` (`admin:*` needs privileged where there are none).
"""

from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import Deny, Finding
from authz.core.tiers import TIERS

NAME = "privilege"


def judge(case: Case) -> Finding:
    """Deny whoever is below the tier that an allowing rule or a floor requires."""
    finding = case.ruling.privilege
    if isinstance(finding, Deny):
        return finding
    for name in case.names:
        floor = case.snapshot.floors.required(name)
        if floor is None or case.effective_rank >= floor.rank:
            continue
        tier = TIERS[case.effective_rank]
        said = f"{name} needs tier {TIERS[floor.rank]}, and the caller counts as {tier}"
        return Deny(
            Code.INSUFFICIENT_TRUST_TIER,
            floor.reason or said,
            rule=f"{NAME}:floor",
            policy=floor.document,
            rule_index=floor.place,
        )
    return finding
