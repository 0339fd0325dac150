"""An objection that a person, or time, can lift: it makes an action pending (`pending`).

Who objects calls `settle` with the objection: it comes back as a denial that names the pending
action, or as a pass for the one retry that an approval is good for.
"""

from typing import Final, NamedTuple

from authz.core.call import Call
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import Answer, Deny, More, Pass, noted
from authz.core.ledger import Put
from authz.core.pending import (
    EXPIRED,
    EXPIRES_S,
    MAX_EXPIRES_S,
    MAX_ID,
    MAX_PER_AGENT,
    Pending,
    context_told,
    digest_of,
    id_of,
)

#: Who may approve, as answers name them (CONTRACT §8 allowedApprovers).
APPROVERS: Final = ("human",)
HEADER: Final = "X-MeshGuard-Pending-ID"


class Terms(NamedTuple):
    """How an objection can be lifted."""

    #: Seconds in which somebody must answer and the retry come.
    expires_s: int = EXPIRES_S
    #: Seconds after which it is lifted by itself; 0 where a person has to.
    cooling_s: int = 0
    #: Where a person can see what this is about.
    url: str = ""
    #: More fields of the answer.
    category: str = ""
    severity: str = ""


def terms_of(objection: Deny) -> Terms:
    """How a policy's objection can be lifted."""
    asked = objection.approval
    return Terms() if asked is None else Terms(asked.timeout_s or EXPIRES_S, url=asked.url)


def settle(case: Case, objection: Deny, terms: Terms) -> Answer:
    """The objection as it stands now: denied and pending, denied for good, or lifted."""
    call, agent_id = case.call, case.identity.agent_id
    if call.source == "mint":
        # Leave for the action is asked for, whatever request it will be made with.
        call = call._replace(method="", path="")
    table = case.environment.state.pending
    digest = digest_of(agent_id, call, case.delegation_id)
    own = id_of(digest, case.snapshot.version)
    named = case.named_pending
    known = table.get((named or own)[:MAX_ID])
    if named and (known is None or known.agent_id != agent_id):
        return _denied(objection, Code.PENDING_UNKNOWN, f"{HEADER}: no such pending action")
    if known is None or (not named and known.state_at(case.steady) in ("executed", EXPIRED)):
        return _asked(case, call, objection, terms, digest, own)
    if not (known.path and call.path):
        # One of them is bound to no request: the same action on the same resource is what counts,
        # and a token that is minted for a request's pending action is held against it when used.
        call = call._replace(method=known.method, path=known.path)
        digest = digest_of(agent_id, call, case.delegation_id)
    if known.digest != digest:
        said = (
            f"{HEADER}: {known.id} is for another action, resource, method, path, context or"
            " delegation"
        )
        return _denied(objection, Code.PENDING_MISMATCH, said)
    if known.policy_version != case.snapshot.version:
        said = f"the policies have changed since {known.id} became pending; ask again without it"
        return _denied(objection, Code.PENDING_OUTDATED, said)
    return _told(case, call, objection, terms, known, is_named=bool(named))


def _told(
    case: Case, call: Call, objection: Deny, terms: Terms, known: Pending, *, is_named: bool
) -> Answer:
    """What a pending action that is bound to this very call says."""
    state = known.state_at(case.steady)
    if known.cools_at and not terms.cooling_s and state != "rejected":
        # Time does not lift what a person has to.
        return _asked(case, call, objection, terms, known.digest, known.id)
    match state:
        case "approved" if is_named or case.call.source == "mint":
            executed = known._replace(state="executed")
            use = () if case.call.source == "mint" else (_put(case, executed),)
            return Pass(
                Code.APPROVED,
                objection.policy,
                objection.rule,
                objection.rule_index,
                f"{known.id} was approved" + (f" by {known.approver}" if known.approver else ""),
                objection.alert,
                more=More(use, body={"pendingId": known.id}, notes=noted(pendingId=known.id)),
            )
        case "approved":
            reason = f"{objection.reason}; {known.id} is approved, send it as {HEADER}"
            return _waits(case, objection, known, reason)
        case "rejected":
            words = f": {known.answer}" if known.answer else ""
            said = f"{known.id} was rejected by {known.approver}{words}"
            return _denied(objection, Code.PENDING_REJECTED, said, known.id)
        case "executed":
            said = f"{known.id} was good for one request, which was made; ask again without it"
            return _denied(objection, Code.PENDING_USED, said, known.id)
        case "expired":
            said = f"{known.id} has expired; ask again without it"
            return _denied(objection, Code.PENDING_EXPIRED, said, known.id)
    return _waits(case, objection, known, objection.reason)


def _asked(case: Case, call: Call, objection: Deny, terms: Terms, digest: str, own: str) -> Answer:
    """Make the action pending."""
    table, now = case.environment.state.pending, case.steady
    agent_id = case.identity.agent_id
    if table.get(own) is None and len(table.keys_of(agent_id)) >= MAX_PER_AGENT:
        said = f"{objection.reason}; {MAX_PER_AGENT} actions of this agent are pending already"
        return objection._replace(reason=said)
    pending = Pending(
        id=own,
        digest=digest,
        policy_version=case.snapshot.version,
        state="pending_cooling" if terms.cooling_s else "pending_approval",
        agent_id=agent_id,
        action=call.action,
        resource=call.resource,
        method=call.method,
        path=call.path,
        policy=objection.policy,
        rule=objection.rule,
        reason=objection.reason,
        created_at=now,
        expires_at=now + min(terms.expires_s, MAX_EXPIRES_S) + terms.cooling_s,
        cools_at=now + terms.cooling_s if terms.cooling_s else 0.0,
        url=terms.url,
        context=context_told(call),
    )
    finding = _waits(case, objection, pending, objection.reason)
    assert finding.more is not None
    kind = {"category": terms.category, "severity": terms.severity}
    body = {**finding.more.body, **{name: value for name, value in kind.items() if value}}
    return finding._replace(more=finding.more._replace(puts=(_put(case, pending),), body=body))


def _waits(case: Case, objection: Deny, pending: Pending, reason: str) -> Deny:
    """A denial that says what the action waits for (CONTRACT §8)."""
    body: dict[str, object] = {"pendingId": pending.id, "pendingState": pending.state}
    wait_s = None
    if pending.state == "pending_cooling":
        wait = max(pending.cools_at - case.steady, 0.0)
        wait_s = int(wait) + 1
        body["waitMs"] = round(wait * 1000)
    else:
        body["requiresApproval"] = True
        body["approvers"] = list(APPROVERS)
    if pending.url:
        body["approvalUrl"] = pending.url
    notes = noted(pendingId=pending.id)
    more = More(retry_after_s=wait_s, body=body, notes=notes)
    code = Code.COOLING_OFF if pending.cools_at else Code.APPROVAL_REQUIRED
    return objection._replace(code=code, reason=reason, more=more)


def _denied(objection: Deny, code: Code, reason: str, pending_id: str = "") -> Deny:
    more = None
    if pending_id:
        more = More(body={"pendingId": pending_id}, notes=noted(pendingId=pending_id))
    return objection._replace(code=code, reason=reason, more=more)


def _put(case: Case, pending: Pending) -> Put:
    return Put(case.environment.state.pending, pending.id, pending)
