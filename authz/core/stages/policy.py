"""policy: some policy allows the action and none denies it (CONTRACT §5; `core/evaluation.py`)."""

from authz.core.case import Case
from authz.core.finding import Finding


def judge(case: Case) -> Finding:
    """Whatever the policies that apply to the caller say; every answer names the one."""
    return case.ruling.policy
