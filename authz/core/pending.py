"""Pending actions: what a person has to approve, or what has to cool off, first (CONTRACT §8).

- One is bound to the digest of agent, action, resource, method, path, context and delegation, and
  to the version of the policies: an approval is for this action under these rules and for nothing
  else. Where an action token is asked for there is no request yet, and so no method or path.
- Conditions look at the context (`X-MeshGuard-Meta`), and so does the person: one that was approved
  for a small amount is not approved for a large one. A query string and a body are never seen here.
- An approved one lets one retry pass, once, before it expires. It lifts the objection that it was
  made for; what else objects, a denial, a floor or an empty wallet, still does.
- Its id comes from what it is bound to, so the same action asked again while it waits, or after it
  was rejected, is the same pending action; and of an agent at most `MAX_PER_AGENT` are kept. Asking
  can fill neither the memory nor an approver's list.
- Times are seconds of the steady clock (`ledger`).
"""

import hashlib
import json
from typing import Any, Final, Literal, NamedTuple, get_args

from authz.core.call import Call
from authz.core.facts import context_of
from authz.core.ledger import Table, parsed
from authz.core.timestamps import rfc3339

#: Seconds in which somebody must have answered, and the retry come (CONTRACT §8 autoExpireMs).
EXPIRES_S: Final = 3600
#: Longest that a rule's `approval.timeout_seconds` counts, seconds.
MAX_EXPIRES_S: Final = 7 * 86_400
#: Seconds that one is still shown after its time is over.
SHOWN_S: Final = 3600
#: Pending actions of one agent that are kept, waiting or shown. Nobody answers more in an hour.
MAX_PER_AGENT: Final = 200
#: Longest reason and approver that are kept, characters.
MAX_TEXT: Final = 1024
#: Longest `X-MeshGuard-Pending-ID` that is looked up, characters.
MAX_ID: Final = 64
PREFIX: Final = "pdact_"

State = Literal["pending_approval", "pending_cooling", "approved", "rejected", "executed"]
#: What is shown of one whose time is over.
EXPIRED: Final = "expired"


class Pending(NamedTuple):
    """One pending action."""

    id: str
    #: What it is bound to; `digest_of`.
    digest: str
    policy_version: str
    state: State
    agent_id: str
    action: str
    resource: str
    method: str
    path: str
    #: Who asked for it: policy and rule, or the destructive gate's pattern.
    policy: str
    rule: str
    reason: str
    created_at: float
    expires_at: float
    #: When a cooling one is approved by time; 0 for one that a person answers.
    cools_at: float = 0.0
    answered_at: float = 0.0
    #: Who approved or rejected it, and with what words.
    approver: str = ""
    answer: str = ""
    #: Where a person can see what this is about (a rule's `approval.url`).
    url: str = ""
    #: The context that the agent gave (`context_told`).
    context: str = ""

    def state_at(self, now: float) -> str:
        """The state with what time has done to it."""
        if self.state in ("rejected", "executed"):
            return self.state
        if now >= self.expires_at:
            return EXPIRED
        if self.state == "pending_cooling" and now >= self.cools_at:
            return "approved"
        return self.state


_NOT_OVER: Final = ("pending_approval", "pending_cooling", "approved")


class NotPending(Exception):
    """It cannot be answered; one sentence."""


def digest_of(agent_id: str, call: Call, delegation_id: str) -> str:
    """What a pending action is bound to, hexadecimal SHA-256."""
    bound = [agent_id, call.action, call.resource, call.method, call.path, delegation_id]
    context = context_of(call.meta) if call.meta else None
    # What tells nothing is bound as it stands.
    bound.append(call.meta if context is None else json.dumps(context, sort_keys=True))
    return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def context_told(call: Call) -> str:
    """The context of a call as people are shown it, JSON; empty where none can be read."""
    context = context_of(call.meta) if call.meta else None
    if not context:
        return ""
    said = json.dumps(context, ensure_ascii=False, separators=(",", ":"))
    # Half a surrogate pair is JSON, and no answer could carry it.
    return said.encode("utf-8", "xmlcharrefreplace").decode()


def id_of(digest: str, policy_version: str) -> str:
    """The id of the pending action of a digest."""
    return PREFIX + hashlib.sha256(f"{digest} {policy_version}".encode()).hexdigest()[:32]


def answered(
    pending: Pending, now: float, *, approve: bool, approver: str, words: str = ""
) -> Pending:
    """The pending action approved or rejected by a person.

    Raises:
        NotPending: somebody did already, or its time is over, or the names are too long.
    """
    state = pending.state_at(now)
    # What was approved can be taken back for as long as it was not used.
    open_states = ("pending_approval", "pending_cooling") if approve else _NOT_OVER
    if state not in open_states:
        raise NotPending(f"{pending.id} is {state} already")
    if state == "pending_cooling" and approve:
        raise NotPending(f"{pending.id} cools off by time; it can only be rejected")
    for name, text in (("approver", approver), ("reason", words)):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise NotPending(f"{name}: not printable text of at most {MAX_TEXT} characters")
    if not approver.strip():
        raise NotPending("approver: empty; say who it is")
    return pending._replace(
        state="approved" if approve else "rejected",
        answered_at=now,
        approver=approver.strip(),
        answer=words,
    )


def entry(pending: Pending, now: float) -> dict[str, Any]:
    """A pending action as API answers and the CLI show it; absent fields are left out."""
    shown: dict[str, Any] = {
        "pendingId": pending.id,
        "state": pending.state_at(now),
        "agentId": pending.agent_id,
        "action": pending.action,
        "resource": pending.resource,
        "method": pending.method,
        "path": pending.path,
        "context": json.loads(pending.context) if pending.context else "",
        "policy": pending.policy,
        "rule": pending.rule,
        "reason": pending.reason,
        "policyVersion": pending.policy_version,
        "createdAt": rfc3339(pending.created_at),
        "expiresAt": rfc3339(pending.expires_at),
        "coolingEndsAt": rfc3339(pending.cools_at) if pending.cools_at else "",
        "answeredAt": rfc3339(pending.answered_at) if pending.answered_at else "",
        "approver": pending.approver,
        "answer": pending.answer,
        "url": pending.url,
    }
    return {name: value for name, value in shown.items() if value != ""}


def _dumps(pending: Pending) -> str:
    return json.dumps(pending[1:], separators=(",", ":"))


def _loads(key: str, text: str) -> Pending:
    values = parsed(text)
    kinds = (str,) * 11 + (float,) * 4 + (str,) * 4
    if not isinstance(values, list) or len(values) != len(kinds):
        raise ValueError("not a pending action")
    read: list[Any] = []
    for value, kind in zip(values, kinds, strict=True):
        known = isinstance(value, (int, float)) if kind is float else isinstance(value, str)
        if not known or isinstance(value, bool):
            raise ValueError("a part of a pending action is of another kind")
        read.append(kind(value))
    if read[2] not in get_args(State):
        raise ValueError("a pending action is in a state that there is not")
    return Pending(key, *read)


def _is_outdated(mine: Pending, theirs: Pending) -> bool:
    """Ours was used or rejected since; one that was asked for again was created later."""
    ended = ("executed", "rejected")
    return (
        mine.state in ended and theirs.state not in ended and theirs.created_at <= mine.created_at
    )


def table() -> Table[Pending]:
    """An empty table of them, by id."""
    return Table(
        "pending",
        _dumps,
        _loads,
        expires=lambda pending: pending.expires_at + SHOWN_S,
        group=lambda pending: pending.agent_id,
        is_outdated=_is_outdated,
    )
