"""auth: the caller has a token that we can verify (CONTRACT §4)."""

from authz.core.case import Case
from authz.core.finding import NO_OBJECTION, Deny, Finding
from authz.core.identity import Unidentified


def judge(case: Case) -> Finding:
    """Deny whoever could not be identified, with the reason `TokenVerifier` found."""
    caller = case.caller
    if isinstance(caller, Unidentified):
        return Deny(caller.code, caller.reason, rule=f"auth:{caller.code}")
    return NO_OBJECTION
