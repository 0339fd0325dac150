"""What a stage found, an objection or none. A stage that cannot tell raises."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from authz.core.errors import Code
from authz.core.ledger import Put

_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
_NOTHING: Final[Mapping[str, object]] = {}


class More(NamedTuple):
    """What a finding has besides: what it changes, and what is told of it. Most have none."""

    #: Changes of the ledger that are made when this is what counts: a pass's when the call may
    #: pass, a denial's when it ends the chain.
    puts: tuple[Put, ...] = ()
    #: Risk points that the call costs.
    debit: int | None = None
    #: Risk points that are left in the wallet after it.
    remaining: int | None = None
    #: Seconds after which it is worth asking again.
    retry_after_s: int | None = None
    #: Fields of the answer's body.
    body: Mapping[str, object] = _NOTHING
    #: Members of the row's metadata, as JSON (`noted`).
    notes: str = ""


def together(found: Sequence[More]) -> More | None:
    """What several stages found, each later one's word before an earlier one's."""
    if len(found) < 2:
        return found[0] if found else None
    puts: tuple[Put, ...] = ()
    debit = remaining = retry_after_s = None
    body: Mapping[str, object] = _NOTHING
    notes = []
    for more in found:
        own_puts, own_debit, own_remaining, own_retry_after_s, own_body, own_notes = more
        if own_puts:
            puts += own_puts
        if own_debit is not None:
            debit = own_debit
        if own_remaining is not None:
            remaining = own_remaining
        if own_retry_after_s is not None:
            retry_after_s = own_retry_after_s
        if own_body:
            body = {**body, **own_body}
        if own_notes:
            notes.append(own_notes)
    return More(puts, debit, remaining, retry_after_s, body, ",".join(notes))


def noted(**members: object) -> str:
    """Members of a JSON object without its braces, so that rows need only join them."""
    return _compact(members)[1:-1]


class ApprovalTerms(NamedTuple):
    """How a rule wants a person to be asked."""

    #: Seconds until the question lapses; None: the rule does not say.
    timeout_s: int | None
    #: What the person is told, and where more is to be read. Empty where the rule does not say.
    message: str
    url: str


class Deny(NamedTuple):
    """The stage objects, and says everything the audit row and the caller need to know."""

    code: Code
    reason: str
    rule: str
    policy: str = ""
    #: 0-based place in the policy, or the document of another kind; None when no entry decided.
    rule_index: int | None = None
    #: How grave the policy's author calls it; empty where nothing is said.
    alert: str = ""
    more: More | None = None
    #: Of a rule that requires approval and has terms for it.
    approval: ApprovalTerms | None = None


class Pass(NamedTuple):
    """The stage has no objection.

    A bare `Pass()` allows nothing by itself: only a code that may pass does, and only the policy
    stage gives one, so a chain that lost its policy stage cannot allow.
    """

    code: Code = Code.UNFINISHED
    policy: str = ""
    rule: str = ""
    rule_index: int | None = None
    reason: str = ""
    alert: str = ""
    #: What a policy in dry run objects to; recorded as the decision, and not enforced.
    would: Deny | None = None
    more: More | None = None


Answer = Pass | Deny
#: `More` alone is a pass that has nothing else to say.
Finding = Answer | More
#: What a stage says that was not asked anything.
NO_OBJECTION: Final = Pass()
