"""policy: some policy allows the action and none denies it (CONTRACT §5; `core/evaluation.py`).

The last part of the execution gate. Where a policy wants a person's approval the action becomes
pending (CONTRACT §8), and an approved one passes once.
"""

from authz.core.approval import settle, terms_of
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import Answer, Deny


def judge(case: Case) -> Answer:
    """Whatever the policies that apply to the caller say; every answer names the one."""
    finding = case.ruling.policy
    if isinstance(finding, Deny) and finding.code is Code.APPROVAL_REQUIRED:
        terms, asked = terms_of(finding), finding.approval
        if asked is not None and asked.message:
            finding = finding._replace(reason=asked.message)
        return settle(case, finding, terms)
    return finding
