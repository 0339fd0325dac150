"""privilege: the caller's tier is high enough for what was allowed (CONTRACT §15).

What counts is the `requiredTrustTier` of the rules and policies that would allow the action.
"""

from authz.core.case import Case
from authz.core.finding import Finding


def judge(case: Case) -> Finding:
    """Deny whoever is below the tier that one of the allowing rules requires."""
    return case.ruling.privilege
