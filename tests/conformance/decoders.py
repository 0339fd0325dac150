"""How the published SDKs decode what they are sent, as strictly as their languages do.

- A Rust field that is no `Option` takes no null and has to be there; serde fails the whole answer.
- Go's `time.Time` takes RFC 3339 and nothing else, and one bad value fails the whole list.
- The Python and JavaScript SDKs index `id`, `name` and `trustTier`.
- .NET reads `result` of an audit entry, which has no `decision` there.

Each function takes a decoded body and raises AssertionError where its SDK would fail.
"""

import re
from typing import Any, Final

Json = dict[str, Any]

#: RFC 3339 §5.6, as Go's time.RFC3339Nano reads it: upper-case T, a zone, and no space.
_RFC3339: Final = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
)


def no_nulls(value: object, where: str = "$") -> None:
    """No null at any depth. Absent is absent."""
    assert value is not None, f"{where} is null"
    if isinstance(value, dict):
        for key, inner in value.items():
            no_nulls(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            no_nulls(inner, f"{where}[{number}]")


def text(body: Json, key: str) -> str:
    """A string that has to be there."""
    assert isinstance(body.get(key), str), f"{key}: {body.get(key)!r} in {body}"
    return str(body[key])


def optional(body: Json, key: str, kind: type | tuple[type, ...]) -> None:
    """Absent, or of its kind. Never null."""
    if key in body:
        assert isinstance(body[key], kind), f"{key}: {body[key]!r}"
        assert kind is bool or not isinstance(body[key], bool), f"{key}: {body[key]!r}"


def texts(body: Json, key: str) -> list[str]:
    """A list of strings that has to be there."""
    assert isinstance(body.get(key), list), f"{key}: {body.get(key)!r}"
    assert all(isinstance(item, str) for item in body[key]), body[key]
    return list(body[key])


def objects(body: object, key: str) -> list[Json]:
    """The list of objects in an object."""
    assert isinstance(body, dict), type(body)
    assert isinstance(body.get(key), list), f"{key}: {body.get(key)!r}"
    assert all(isinstance(item, dict) for item in body[key])
    return list(body[key])


def moment(body: Json, key: str) -> str:
    """A time that Go can read."""
    said = text(body, key)
    assert _RFC3339.fullmatch(said), f"{key}: {said}"
    return said


def python_agents(body: object) -> list[Json]:
    """py, js: these three are indexed, `tags` and `orgId` only if they are there."""
    found = objects(body, "agents")
    for agent in found:
        for key in ("id", "name", "trustTier"):
            text(agent, key)
        optional(agent, "tags", list)
        optional(agent, "orgId", str)
    return found


def go_agents(body: object) -> list[Json]:
    """go: `createdAt` as a time."""
    found = python_agents(body)
    for agent in found:
        if "createdAt" in agent:
            moment(agent, "createdAt")
        if "revokedAt" in agent:
            moment(agent, "revokedAt")
        optional(agent, "metadata", dict)
    return found


def rust_agent_created(body: object) -> Json:
    """rust: what registering an agent answers; `token` and `trustTier` are no options."""
    assert isinstance(body, dict)
    for key in ("id", "name", "token", "trustTier"):
        assert text(body, key)
    texts(body, "tags")
    no_nulls(body)
    return body


def rust_policies(body: object) -> list[Json]:
    """rust and go: string ids on policies and rules; `rules[].action`, if sent, is a string."""
    found = objects(body, "policies")
    for policy in found:
        no_nulls(policy)
        assert text(policy, "id")
        text(policy, "name")
        optional(policy, "description", str)
        optional(policy, "version", str)
        for rule in objects(policy, "rules"):
            assert text(rule, "id")
            assert text(rule, "effect") in ("allow", "deny", "require_approval")
            texts(rule, "actions")
            optional(rule, "action", str)
            optional(rule, "name", str)
    return found


def go_audit(body: object) -> list[Json]:
    """go: `timestamp` as a time, `meta` as an object."""
    found = objects(body, "entries")
    for entry in found:
        moment(entry, "timestamp")
        text(entry, "decision")
        optional(entry, "meta", dict)
    return found


_ENTRY_TEXTS: Final = (
    "agentId", "agentName", "trustTier", "orgId", "resource", "method", "path", "policy", "rule",
    "reason", "traceId", "mode", "enforced", "stage", "policyVersion", "source",
)  # fmt: skip


def rust_audit(body: object) -> list[Json]:
    """rust: strings are strings wherever they are there."""
    found = objects(body, "entries")
    for entry in found:
        # What the caller put into its own context is free JSON, also to an SDK.
        no_nulls({key: value for key, value in entry.items() if key not in ("meta", "metadata")})
        for key in ("id", "timestamp", "action", "decision"):
            assert text(entry, key)
        for key in _ENTRY_TEXTS:
            optional(entry, key, str)
        optional(entry, "ruleIndex", int)
        optional(entry, "durationMs", (int, float))
        optional(entry, "latencyMs", (int, float))
        optional(entry, "metadata", dict)
    return found


def net_audit(body: object) -> list[Json]:
    """net: `result` says what was decided, and where it is missing everything was allowed."""
    found = objects(body, "entries")
    for entry in found:
        assert text(entry, "result") == entry["decision"]
    return found


def net_check(body: object) -> Json:
    """net before its rewrite: `allowed` is no option."""
    assert isinstance(body, dict)
    assert isinstance(body.get("allowed"), bool), body
    for key in ("reason", "policy", "trustTier"):
        optional(body, key, str)
    return body


def openclaw_evaluation(body: object) -> Json:
    """oclaw: what an evaluation says; whatever else blocks the tool."""
    assert isinstance(body, dict)
    no_nulls(body)
    decision = body.get("decision")
    assert isinstance(decision, dict), body
    assert decision.get("effect") in ("allow", "deny", "approval_required")
    for key in ("rule", "ruleDescription", "alert", "reason"):
        optional(decision, key, str)
    assert text(body, "evaluationId")
    moment(body, "evaluatedAt")
    optional(body, "policyVersion", str)
    return body


def batch(body: object) -> list[Json]:
    """The answer of a batch (seed)."""
    found = objects(body, "results")
    assert isinstance(body, dict)
    no_nulls(body)
    for item in found:
        text(item, "action")
        assert text(item, "decision") in ("allow", "deny")
        assert isinstance(item["latencyMs"], int | float)
        assert "resource" not in item
        optional(item, "reason", str)
    assert isinstance(body["totalLatencyMs"], int | float)
    assert text(body, "traceId")
    return found
