"""Outcome to the answers of SDKs that read a body and not a status (CONTRACT §1.2).

- What was decided is answered 200, also a denial: these SDKs take every other status for a gateway
  that failed. What was not decided, and who is nobody, keeps its status; so an SDK that cannot tell
  one from the other does not act.
- `reply.http_answer` says what there is to say; here it is only put where they look.
"""

from collections.abc import Mapping
from typing import Final

from authz.core.errors import Code
from authz.core.identity import Identity
from authz.core.outcome import Outcome
from authz.core.reply import Answer, http_answer
from authz.core.timestamps import rfc3339
from authz.core.verdict import Decision

#: What the plugin's own type has for how grave it is, by what policies call it.
_ALERTS: Final[Mapping[str, str]] = {"low": "info", "medium": "warning", "high": "warning"}
#: What an answer of `http_answer` says of the whole, and not of the decision.
_OF_THE_WHOLE: Final = frozenset(
    {"allowed", "decision", "error", "message", "action", "mode", "traceId", "trace_id"}
    | {"decisionId", "trustTier", "stage"}
)


def checked(outcome: Outcome) -> Answer:
    """As `GET /proxy/check`, and 200 with `allowed` for what a stage denies."""
    answer = http_answer(outcome)
    if answer.status != 403:
        return answer
    body = {"allowed": False, **answer.body}
    del body["error"]
    caller = outcome.case.caller
    if isinstance(caller, Identity):
        body["trustTier"] = caller.tier
    return Answer(200, answer.headers, body)


def evaluated(outcome: Outcome) -> Answer:
    """An evaluation: 200 for what was decided, a limit that is reached included."""
    answer = http_answer(outcome)
    if answer.status not in (200, 403, 429):
        return answer
    verdict = outcome.verdict
    decision: dict[str, object] = {"effect": _effect(outcome)}
    decision.update({k: v for k, v in answer.body.items() if k not in _OF_THE_WHOLE})
    if verdict.alert:
        decision["alert"] = _ALERTS.get(verdict.alert, verdict.alert)
    body: dict[str, object] = {
        "decision": decision,
        "evaluationId": outcome.decision_id,
        "evaluatedAt": rfc3339(outcome.decided_at),
        "policyVersion": outcome.case.snapshot.version,
        "mode": str(outcome.mode),
        "traceId": outcome.trace_id,
    }
    return Answer(200, answer.headers, body)


def _effect(outcome: Outcome) -> str:
    if outcome.enforced is Decision.ALLOW:
        return "allow"
    needs_a_person = outcome.verdict.code is Code.APPROVAL_REQUIRED
    return "approval_required" if needs_a_person else "deny"
