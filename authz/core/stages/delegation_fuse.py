"""delegation-fuse: whoever acts for another agent may do so now (CONTRACT §7, §15).

A request that names no delegation acts on its own authority and passes. One that does is as good as
its weakest hop; a hop that fails again and again opens its fuse, and is then not even walked.
"""

from authz.core.approval import Terms, settle
from authz.core.case import Case
from authz.core.delegated import Refusal, failure
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More, noted, together
from authz.core.tiers import TIERS

NAME = "delegation-fuse"


def judge(case: Case) -> Finding:
    """Deny whoever names a delegation that does not carry this action to it."""
    found = case.delegated
    if found is None:
        return NO_OBJECTION
    if isinstance(found, Refusal):
        puts, opened = failure(case, found)
        cause = str(found.code).removeprefix("delegation_").replace("_", "-")
        return Deny(
            found.code,
            found.reason,
            rule=f"{NAME}:{cause}",
            alert="critical" if opened else "",
            more=More(
                puts,
                retry_after_s=found.retry_after_s,
                notes=noted(fuseOpened=opened) if opened else "",
            ),
        )
    acting = {
        "root": found.root,
        "depth": found.depth,
        "effectiveTier": TIERS[case.effective_rank],
    }
    more = More(notes=noted(delegation=acting))
    if found.requires_approval:
        said = f"delegation {found.leaf.id} requires a person's approval for each action"
        objection = Deny(Code.APPROVAL_REQUIRED, said, rule=f"{NAME}:requires-approval")
        finding = settle(case, objection, Terms())
        if isinstance(finding, Deny):
            return finding
        if finding.more is not None:
            return together((more, finding.more)) or more
    return more
