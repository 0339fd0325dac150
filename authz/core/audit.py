"""Outcome to audit row: a value, not a write (DESIGN §6, CONTRACT §9).

Absent texts are None, so that the column is NULL and a reader can leave the field out. Tokens,
query strings, bodies and credentials have no column to end up in.
"""

import functools
import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from authz.core.errors import Code
from authz.core.facts import context_of
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.timestamps import rfc3339
from authz.core.verdict import Decision

#: Made once: `json.dumps` would make one for each row.
_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
#: Characters that are kept of each text of a caller without identity, and of what agents tell.
MAX_UNKNOWN: Final = 512


class AuditRow(NamedTuple):
    """One decision. The fields are the columns of the `audit` table, in its order."""

    id: str
    #: RFC 3339, UTC, microseconds.
    timestamp: str
    source: str
    agent_id: str | None
    agent_name: str | None
    trust_tier: str | None
    org_id: str | None
    action: str
    resource: str | None
    method: str | None
    path: str | None
    #: What was decided: allow, deny or error; `reported` where nobody has (`core/report.py`).
    decision: str
    #: What was done about it under `mode`: one of the same.
    enforced: str
    mode: str
    stage: str | None
    code: str
    #: The deciding policy's name, which is its id: unique in a snapshot.
    policy: str | None
    rule: str | None
    #: 0-based place in the policy's rules, or in the floors or requirements of the document that
    #: `policy` names then; NULL when none of them decided.
    rule_index: int | None
    reason: str | None
    policy_version: str
    trace_id: str
    latency_us: int
    #: A JSON object of what is recorded but never trusted.
    metadata: str | None
    #: The relationship that the call acts under; where that broke, the hop that did.
    delegation_id: str | None = None
    #: Risk points that the call cost; NULL where no wallet is for the agent, or it did not pass.
    debit: int | None = None


def row_of(outcome: Outcome) -> AuditRow:
    """The row of a decided call."""
    call, snapshot = outcome.case.call, outcome.case.snapshot
    identity, verdict = outcome.case.identity, outcome.verdict
    known = bool(identity.agent_id)
    tags = identity.tags if known else None
    if not known:
        # A caller that proved nothing does not get to fill the disk.
        call = call._replace(
            action=shortened(call.action),
            resource=shortened(call.resource),
            path=shortened(call.path),
        )
    metadata = _metadata(
        call.host, call.claimed_agent, verdict.alert, verdict.dry_run, tags, call.meta
    )
    more = verdict.more
    if more is not None and more.notes:
        # Two objects become one.
        metadata = f"{metadata[:-1]},{more.notes}}}" if metadata else f"{{{more.notes}}}"
    # In the order of the fields: naming all of them takes a third as long again.
    return AuditRow(
        outcome.decision_id,
        rfc3339(outcome.decided_at),
        call.source,
        identity.agent_id or None,
        identity.name or None,
        identity.tier if known else None,
        identity.org_id or None,
        call.action,
        call.resource or None,
        call.method or None,
        call.path or None,
        verdict.decision.value,
        outcome.enforced.value,
        outcome.mode.value,
        verdict.stage or None,
        verdict.code.value,
        verdict.policy or None,
        verdict.rule or None,
        verdict.rule_index,
        verdict.reason or None,
        snapshot.version,
        outcome.trace_id,
        outcome.latency_us,
        metadata,
        outcome.case.delegation_id or None,
        None if more is None else more.debit,
    )


@functools.lru_cache(maxsize=256)
def _metadata(
    host: str, claimed_agent: str, alert: str, dry_run: bool, tags: frozenset[str] | None, meta: str
) -> str | None:
    """The row's JSON object; `tags` and `meta` are those of a caller that is known."""
    extra: dict[str, object] = {
        "host": host,
        "claimedAgentId": claimed_agent,
        "alert": alert,
        "dryRun": dry_run,
    }
    if tags is not None:
        # With these a recorded call can be judged again by other policies.
        extra["tags"] = sorted(tags)
        context = context_of(meta) if meta else {}
        extra["meta"] = context
        # Conditions tell one that tells nothing from one that was not there.
        extra["unclearMeta"] = context is None
    extra = {key: value for key, value in extra.items() if value}
    return _compact(extra) if extra else None


def change_row(
    *,
    row_id: str,
    at: float,
    action: str,
    resource: str,
    reason: str,
    mode: Mode,
    policy_version: str,
    metadata: Mapping[str, object] | None = None,
) -> AuditRow:
    """The row of a change that is no decision; `at` in seconds since the epoch."""
    return AuditRow(
        id=row_id,
        timestamp=rfc3339(at),
        source="control",
        agent_id=None,
        agent_name=None,
        trust_tier=None,
        org_id=None,
        action=action,
        resource=resource,
        method=None,
        path=None,
        decision=str(Decision.ALLOW),
        enforced=str(Decision.ALLOW),
        mode=str(mode),
        stage=None,
        code=str(Code.CHANGED),
        policy=None,
        rule=None,
        rule_index=None,
        reason=reason,
        policy_version=policy_version,
        trace_id=row_id,
        latency_us=0,
        metadata=_compact(metadata) if metadata else None,
    )


def overload_row(
    *, row_id: str, at: float, count: int, mode: Mode, policy_version: str
) -> AuditRow:
    """The row of `count` calls that were answered without being judged; `at` as `change_row`."""
    decision = Decision.ERROR if mode is Mode.ENFORCE else Decision.ALLOW
    return change_row(
        row_id=row_id,
        at=at,
        action="overload",
        resource=f"{count} calls",
        reason=f"{count} calls were not judged: too many waited",
        mode=mode,
        policy_version=policy_version,
    )._replace(decision=str(Decision.ERROR), enforced=str(decision), code=str(Code.OVERLOADED))


def refused_admin_row(
    *,
    row_id: str,
    at: float,
    count: int,
    mode: Mode,
    policy_version: str,
    metadata: Mapping[str, object],
) -> AuditRow:
    """The row of `count` requests for the admin API without its token; `at` as `change_row`."""
    said = "1 request" if count == 1 else f"{count} requests"
    return change_row(
        row_id=row_id,
        at=at,
        action="admin:refused",
        resource=said,
        reason=f"{said} for the admin API without its token",
        mode=mode,
        policy_version=policy_version,
        metadata=metadata,
    )._replace(
        decision=str(Decision.DENY),
        enforced=str(Decision.DENY),
        code=str(Code.ADMIN_REFUSED),
    )


def shortened(text: str) -> str:
    """As much of a text as is kept of a caller without identity, and how much more there was."""
    more = len(text) - MAX_UNKNOWN
    return text if more <= 0 else f"{text[:MAX_UNKNOWN]}… and {more} more characters"
