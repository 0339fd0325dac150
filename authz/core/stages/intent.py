"""intent: the action that is declared is the one that the request does (CONTRACT §15).

The first part of the execution gate. What the wire shows comes from a `RouteMap`, where one knows
the request, else from its method and path.
"""

from authz.core.call import VERBS
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.facts import Facts
from authz.core.finding import NO_OBJECTION, Deny, Finding, More, noted
from authz.core.intent import Intent, difference, stricter

NAME = "intent"


def judge(case: Case) -> Finding:
    """Deny, or note, a declared action that is not the observed one."""
    call, routes = case.call, case.snapshot.routes
    if call.source != "proxy":
        return NO_OBJECTION
    mapped = case.mapped
    if mapped is None and (unmapped := routes.denies_unmapped(case.host)):
        said = f"no route of RouteMap {unmapped} fits {call.method} /{call.upstream_path}"
        return Deny(Code.INTENT_UNMAPPED, said, rule=f"{NAME}:unmapped", policy=unmapped)
    if not (call.declares_action or call.declares_resource):
        return NO_OBJECTION
    asked = routes.verification(case.host)
    verification = case.environment.intent
    if asked is not None:
        verification = stricter(verification, Intent(asked))
    if verification is Intent.OFF:
        return NO_OBJECTION
    if mapped is not None:
        action, resource = mapped.action, mapped.resource
    else:
        action, resource = f"{VERBS.get(call.method.upper(), 'execute')}:{call.upstream_path}", ""
    differs = difference(call, action, resource, exact=mapped is not None)
    if differs and verification is Intent.WARN:
        return More(notes=noted(intent=differs))
    if differs:
        return Deny(Code.INTENT_MISMATCH, differs, rule=f"{NAME}:mismatch")
    if verification is Intent.STRICT and call.action != action:
        return _observed_too(case, action)
    return NO_OBJECTION


def _observed_too(case: Case, action: str) -> Finding:
    """Where both names may be true, the policies must allow the action by either."""
    facts = Facts(case.call._replace(action=action), case.identity)
    ruling = case.snapshot.ruling(facts, case.effective_rank)
    for finding in (ruling.policy, ruling.privilege):
        if isinstance(finding, Deny):
            reason = f"the request is also {action}: {finding.reason}"
            return finding._replace(reason=reason, more=None)
    return NO_OBJECTION
