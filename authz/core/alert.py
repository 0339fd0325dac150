"""Alerts as values: which audit rows raise one, how grave it is, and what it says (CONTRACT §11).

- Everything comes from the audit row, so an alert says what is on record and nothing else: no
  token, body or query has a column there.
- A row has several triggers, the narrower one first (`fuse`, then `deny`). The first that somebody
  asked for is the alert's.
- Texts that an agent chose are bounded, and their control characters shown escaped.
"""

import hashlib
import hmac
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from authz.core.alert_words import OTHER_WORDS, SEVERITIES, TEST
from authz.core.incident import Kind
from authz.core.pattern import fold
from authz.core.text import visible
from authz.core.tiers import TIERS, rank
from authz.core.timestamps import rfc3339, seconds_of

#: Characters that are kept of a text; an alert is read on a telephone.
MAX_TEXT: Final = 1024
MAX_TITLE: Final = 200
#: CONTRACT §11.
EVENT: Final = "meshguard.alert"
VERSION: Final = "1.0"

_INCIDENT: Final = "incident:"
#: Of an incident that has ended.
_OVER: Final = ":over"
_AUTH_STAGE: Final = "auth"
_POLICY_STAGE: Final = "policy"
#: The rank of CONTRACT's `unrestricted` agents.
_HIGHEST: Final = len(TIERS) - 1
_ADMIN: Final = "admin:"
#: Codes of denials that have a trigger of their own besides `deny`.
_NARROWER: Final[Mapping[str, str]] = {
    "approval_required": "approval",
    "cooling_off": "approval",
    "pending_rejected": "approval",
    "pending_expired": "approval",
    "fuse_open": "fuse",
    "wallet_exhausted": "wallet",
}
#: What a row about the sidecar itself is for, by the first part of its action.
_CONTROL: Final[Mapping[str, str]] = {
    "mode": "mode",
    "policies": "policies",
    "policy": "policies",
    "agent": "records",
    "relationship": "records",
    "pending": "records",
    "wallet": "records",
    "fuse": "records",
}
#: Rows of the audit trail about itself that are news: the others are its housekeeping.
_OF_THE_TRAIL: Final = ("audit:broken", "audit:key")
_GRAVE: Final = (Kind.BUNDLE_REFUSED, Kind.BUNDLE_EXPIRED, Kind.INGEST_REFUSED)


class Event(NamedTuple):
    """Rows that are alike, as one thing that has happened."""

    #: Columns of the first of them (`AuditRow`), absent ones left out.
    row: Mapping[str, Any]
    #: How many there are.
    times: int
    #: The narrowest first; never empty.
    triggers: tuple[str, ...]
    severity: str
    tags: frozenset[str]


class Alert(NamedTuple):
    """What is sent."""

    id: str
    #: Seconds since the epoch, when it was made.
    at: float
    severity: str
    trigger: str
    title: str
    message: str
    entry: Mapping[str, str]
    #: Things that have happened and are alike.
    times: int = 1
    instance: str = ""
    environment: str = ""


def event_of(row: Mapping[str, Any], times: int = 1) -> Event | None:
    """What rows like this one mean for whoever raises alerts; None: nothing.

    Args:
        row: columns of an audit row, `metadata` as text.
    """
    extra = _object(row.get("metadata"))
    asked = extra.get("alert")
    asked = OTHER_WORDS.get(asked, asked) if isinstance(asked, str) else ""
    triggers = _control(row) if row.get("source") == "control" else _decided(row, extra, asked)
    if not triggers:
        return None
    tags = extra.get("tags")
    return Event(
        row={name: value for name, value in row.items() if value is not None},
        times=times,
        triggers=triggers,
        severity=asked if asked in SEVERITIES else _severity(row, triggers),
        tags=frozenset(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else _NONE,
    )


_NONE: Final[frozenset[str]] = frozenset()


def _object(text: object) -> dict[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _decided(row: Mapping[str, Any], extra: Mapping[str, Any], asked: str) -> tuple[str, ...]:
    decision, code = row.get("decision"), str(row.get("code"))
    # Stages have words of their own for how grave it is; only a rule's author asks to be told.
    by_rule = ("rule",) if asked and row.get("stage") == _POLICY_STAGE else ()
    if decision == "error":
        return ("error",)
    if decision != "deny":
        return by_rule if decision == "allow" else ()
    if row.get("enforced") != "deny":
        return ("would_deny", *by_rule)
    if code == "rate_limited":
        return ("rate_limit",)
    narrower: tuple[str, ...] = ()
    if code in _NARROWER:
        narrower = (_NARROWER[code],)
    elif row.get("stage") == _AUTH_STAGE:
        narrower = ("auth",)
    elif extra.get("fuseOpened"):
        narrower = ("fuse",)
    return (*narrower, "deny", *by_rule)


def _control(row: Mapping[str, Any]) -> tuple[str, ...]:
    action = str(row.get("action"))
    if row.get("decision") == "error":
        return ("error",)  # calls that were turned away
    if action == "admin:refused":
        return ("admin",)
    if action in _OF_THE_TRAIL:
        return ("audit",)
    if action.startswith(_INCIDENT):
        kind = action.removeprefix(_INCIDENT).removesuffix(_OVER)
        return (kind,) if kind in list(Kind) else ()
    first = action.partition(":")[0]
    return (_CONTROL[first],) if first in _CONTROL else ()


def _severity(row: Mapping[str, Any], triggers: Sequence[str]) -> str:
    """CONTRACT §11, and ours for what it does not know."""
    action = str(row.get("action"))
    broad = "deny" if "deny" in triggers else triggers[0]
    if row.get("source") == "control":
        if action.endswith(_OVER):
            return "info"
        if action in ("audit:broken", "mode:bypass") or broad == "error" or broad in _GRAVE:
            return "critical"
        return "info" if broad in ("policies", "records") else "warning"
    if broad == "error":
        return "critical"
    if broad == "deny":
        is_high = rank(str(row.get("trust_tier"))) == _HIGHEST
        return "critical" if is_high or fold(action).startswith(_ADMIN) else "warning"
    return "info" if broad in ("would_deny", "rule") else "warning"


def group_key(event: Event) -> str:
    """What is alike: one alert for all of it within a while. Hexadecimal."""
    row = event.row
    known = row.get("agent_id") or row.get("source") == "control"
    # A caller that proved nothing chooses its actions; it does not get an alert for each.
    parts = (
        event.triggers[0], event.severity, row.get("agent_id", ""), row.get("policy", ""),
        row.get("rule", ""), row.get("code", ""), row.get("action", "") if known else "",
        # What an incident happened to.
        row.get("resource", "") if row.get("source") == "control" else "",
    )  # fmt: skip
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:32]


def crowd_of(event: Event) -> str:
    """The key of everything for which there is no group of its own any more."""
    return f"crowd:{event.triggers[0]}:{event.severity}"


def alert_of(
    event: Event,
    trigger: str,
    *,
    alert_id: str,
    at: float,
    instance: str = "",
    environment: str = "",
    crowd: bool = False,
) -> Alert:
    """The alert of an event.

    Args:
        at: seconds since the epoch.
        crowd: the event is the first of many that are not alike.
    """
    row = event.row
    entry = {
        name: _short(row[column])
        for name, column in _ENTRY.items()
        if isinstance(row.get(column), str) and row[column]
    }
    title = _title(row, entry)
    message = _short(row.get("reason") or title)
    if crowd:
        title = f"{event.times} more of the kind {trigger}"
        message = f"{event.times} more events that are not alike; the first: {message}"
    elif event.times > 1:
        message = f"{message} ({event.times} times)"
    return Alert(
        id=alert_id,
        at=at,
        severity=event.severity,
        trigger=trigger,
        title=title[:MAX_TITLE],
        message=message,
        entry=entry,
        times=event.times,
        instance=instance,
        environment=environment,
    )


#: The members of `entry`, in CONTRACT's order, and the columns that they are.
_ENTRY: Final[Mapping[str, str]] = {
    "traceId": "trace_id",
    "agentId": "agent_id",
    "agentName": "agent_name",
    "trustTier": "trust_tier",
    "action": "action",
    "method": "method",
    "path": "path",
    "decision": "decision",
    "policyName": "policy",
    "reason": "reason",
}


def _title(row: Mapping[str, Any], entry: Mapping[str, str]) -> str:
    action = entry.get("action", "")
    if row.get("source") == "control":
        resource = _short(row.get("resource") or "")
        said = action.removeprefix(_INCIDENT).removesuffix(_OVER).replace("_", " ")
        over = " is over" if action.endswith(_OVER) else ""
        return f"Sidecar: {said}{over}" + (f" ({resource})" if resource else "")
    who = entry.get("agentId", "somebody without a usable token")
    if row.get("decision") == "error":
        return f"Not decided ({row.get('code')}): {action} by {who}"
    if row.get("decision") == "allow":
        return f"Allowed: {action} by {who}"
    if row.get("enforced") != "deny":
        return f"Would be denied: {action} by {who}"
    said = "Rate limited" if row.get("code") == "rate_limited" else "Denied"
    return f"{said}: {action} by {who}"


def _short(text: object) -> str:
    shown = visible(str(text)[:MAX_TEXT])
    return shown if len(shown) <= MAX_TEXT else f"{shown[: MAX_TEXT - 1]}…"


def trial(alert_id: str, at: float, severity: str, instance: str, environment: str) -> Alert:
    """What `authz alerts test` sends; `at` in seconds since the epoch."""
    return Alert(
        id=alert_id,
        at=at,
        severity=severity,
        trigger=TEST,
        title="Test alert",
        message="This is a test; nothing has happened.",
        entry={},
        instance=instance,
        environment=environment,
    )


def payload(alert: Alert) -> bytes:
    """The body of a webhook (CONTRACT §11); `count` is ours. Always the same bytes."""
    said: dict[str, object] = {
        "event": EVENT,
        "version": VERSION,
        "id": alert.id,
        "timestamp": rfc3339(alert.at, "milliseconds"),
        "severity": alert.severity,
        "trigger": alert.trigger,
        "title": alert.title,
        "message": alert.message,
        "count": alert.times,
        "entry": dict(alert.entry),
    }
    said |= {"instance": alert.instance} if alert.instance else {}
    said |= {"environment": alert.environment} if alert.environment else {}
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def read_payload(body: bytes) -> Alert:
    """The alert that `payload` has written.

    Raises:
        ValueError, KeyError, TypeError: nobody has written such a body here.
    """
    said = json.loads(body)
    return Alert(
        id=said["id"],
        at=seconds_of(said["timestamp"]),
        severity=said["severity"],
        trigger=said["trigger"],
        title=said["title"],
        message=said["message"],
        entry=said["entry"],
        times=said["count"],
        instance=said.get("instance", ""),
        environment=said.get("environment", ""),
    )


def signature(secret: str, body: bytes) -> str:
    """`X-MeshGuard-Signature` (CONTRACT §11): the HMAC-SHA256 of the raw body."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def first_of(triggers: Sequence[str], asked: Collection[str]) -> str:
    """The narrowest of an event's triggers that somebody asked for; empty where none is.

    What a rule asks for needs no other word: its author wrote `alert`.
    """
    return next((one for one in triggers if one in asked or one == "rule"), "")
