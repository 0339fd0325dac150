"""What an agent tells of what it did: an entry of its own making, as an audit row.

- It stands in the trail as an agent's word and as nothing else: `source` client, `code` and
  `decision` reported, no policy and no rule. Whatever it says of a decision, a policy or a time is
  in `metadata`, so that nothing an agent writes can be taken, or counted, for a decision of ours.
- Whose word it is says the token; an agent that the entry names besides is what it claims.
- All of it is bounded. A text that is too long is cut, a value is left out whole, and both are said
  in the row: an entry that came is never lost for being long.
"""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from authz.core.audit import AuditRow, shortened
from authz.core.call import MAX_LABEL, MAX_META
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.facts import MAX_PARTS
from authz.core.finding import Finding, Pass
from authz.core.identity import Identity
from authz.core.outcome import Outcome
from authz.core.stages import auth
from authz.core.stages.stage import Stage
from authz.core.timestamps import rfc3339

#: `decision` and `enforced` of a row that is an agent's word.
REPORTED: Final = str(Code.REPORTED)
#: The member of `metadata` that holds what the agent says, and that of it which names what is not
#: there.
SAID: Final = "reported"
LEFT_OUT: Final = "leftOut"

_compact: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Report(NamedTuple):
    """One entry. Action and resource are as a call may have them."""

    action: str
    resource: str = ""
    #: The agent that it says it is about; empty where it does not say.
    claimed_agent: str = ""
    #: Whatever else it says, by the names that it used: texts, numbers, JSON.
    said: Mapping[str, object] = {}


def _accept(_: Case) -> Finding:
    return Pass(Code.REPORTED, reason="recorded as the agent tells it")


#: What decides whether a report is taken: who makes it, as everywhere, and nothing else.
REPORTS: Final[tuple[Stage, ...]] = (Stage("auth", auth.judge), Stage("report", _accept))


def report_row(outcome: Outcome, report: Report, row_id: str) -> AuditRow:
    """The row of an entry.

    Args:
        outcome: of the request that brought it, which may be an unknown caller's in audit mode.
    """
    call, identity, caller = outcome.case.call, outcome.case.identity, outcome.case.caller
    is_known = isinstance(caller, Identity)
    action, resource, path = report.action, report.resource, call.path
    if not is_known:
        # Who proved nothing does not get to fill the disk.
        action, resource, path = map(shortened, (action, resource, path))
    metadata = {
        "host": call.host,
        "claimedAgentId": (report.claimed_agent or call.claimed_agent)[:MAX_LABEL],
        SAID: _told(report.said, is_known=is_known),
    }
    return AuditRow(
        id=row_id,
        timestamp=rfc3339(outcome.decided_at),
        source="client",
        agent_id=identity.agent_id or None,
        agent_name=identity.name or None,
        trust_tier=identity.tier if is_known else None,
        org_id=identity.org_id or None,
        action=action,
        resource=resource or None,
        method=call.method or None,
        path=path or None,
        decision=REPORTED,
        enforced=REPORTED,
        mode=str(outcome.mode),
        # Why nobody knows who it was.
        stage=None if is_known else outcome.verdict.stage or None,
        code=REPORTED,
        policy=None,
        rule=None,
        rule_index=None,
        reason=None if is_known else outcome.verdict.reason or None,
        policy_version=outcome.case.snapshot.version,
        trace_id=outcome.trace_id,
        latency_us=0,
        metadata=_compact({name: value for name, value in metadata.items() if value}),
    )


def _told(said: Mapping[str, object], *, is_known: bool) -> dict[str, object]:
    """What fits of it. Of a caller that nobody knows only short texts and numbers are kept."""
    kept: dict[str, object] = {}
    left_out = []
    for name, value in said.items():
        told = shortened(value) if isinstance(value, str) else value
        if (is_known or not isinstance(told, (dict, list))) and _fits(told):
            kept[name] = told
        else:
            left_out.append(name)
    return {**kept, LEFT_OUT: left_out} if left_out else kept


def _fits(value: object) -> bool:
    """Whether whoever reads the record can read this: JSON, valid Unicode, not long, not deep."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        return False
    return len(text) <= MAX_META and text.count("{") + text.count("[") <= MAX_PARTS
