"""intent: the action that is declared is the one that the request does (CONTRACT §15).

The first part of the execution gate. What the wire shows comes from a `RouteMap`, where one knows
the request, else from its method and path.
"""

from authz.core.approval import settle, terms_of
from authz.core.call import verb_and_path
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More, noted
from authz.core.intent import Intent, difference
from authz.core.sources import FORWARDED

NAME = "intent"


def judge(case: Case) -> Finding:
    """Deny, or note, a declared action that is not the observed one."""
    call, routes = case.call, case.snapshot.routes
    if call.source not in FORWARDED:
        return NO_OBJECTION
    mapped = case.mapped
    if mapped is None and (unmapped := routes.denies_unmapped(case.host)):
        what = f"/{call.upstream_path}" if call.path else call.host
        said = f"no route of RouteMap {unmapped} fits {call.method} {what}"
        return Deny(Code.INTENT_UNMAPPED, said, rule=f"{NAME}:unmapped", policy=unmapped)
    if call.destination:
        return _observed_too(case)
    if not (call.declares_action or call.declares_resource):
        return NO_OBJECTION
    verification = case.verification
    if verification is Intent.OFF:
        return NO_OBJECTION
    if mapped is not None:
        action, resource = mapped.action, mapped.resource
    else:
        action, resource = verb_and_path(call), ""
    differs = difference(call, action, resource, exact=mapped is not None)
    if differs and verification is Intent.WARN:
        return More(notes=noted(intent=differs))
    if differs:
        policy = mapped.map_name if mapped is not None else ""
        return Deny(Code.INTENT_MISMATCH, differs, rule=f"{NAME}:mismatch", policy=policy)
    return NO_OBJECTION if len(case.names) == 1 else _observed_too(case)


def _observed_too(case: Case) -> Finding:
    """Where both names are true, or may be, the policies must allow the action by either."""
    passed: Finding = NO_OBJECTION
    for name, ruling in zip(case.names[1:], case.rulings[1:], strict=True):
        for finding in (ruling.policy, ruling.privilege):
            if not isinstance(finding, Deny):
                continue
            objection = finding._replace(reason=f"the request is also {name}: {finding.reason}")
            if finding.code is not Code.APPROVAL_REQUIRED:
                return objection
            settled = settle(case, objection, terms_of(finding))
            if isinstance(settled, Deny):
                return settled
            # The policy stage says whether it is allowed; here only this objection is lifted.
            passed = settled.more or NO_OBJECTION
    return passed
