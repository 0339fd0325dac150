"""The policies in force, and the mode (`edges/http/policies.py`, `edges/http/mode.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.documents import YAML_TYPES
from authz.edges.http.mode import NewMode
from authz.edges.http.policy_trial import Trial
from authz.reference.operation import CLOSED, JSON, Operation, Time
from authz.reference.probes import Mode

#: Documents say what their schema has (docs/policy.schema.json), and more than is told here.
_OPEN: Final = ConfigDict(extra="allow")


@with_config(_OPEN)
class RuleEntry(TypedDict):
    """A rule; `id` is its name or its place where it has none of its own."""

    id: str
    effect: Literal["allow", "deny", "require_approval"]
    actions: list[str]


@with_config(_OPEN)
class PolicyEntry(TypedDict):
    """A policy."""

    id: Annotated[str, Field(description="Its name.")]
    name: str
    version: str
    appliesTo: dict[str, Any]
    rules: list[RuleEntry]
    defaultEffect: Literal["allow", "deny"]
    active: bool
    file: NotRequired[Annotated[str, Field(description="Below POLICIES_DIR, or in the bundle.")]]
    updatedAt: NotRequired[Annotated[Time, Field(description="When the file was written.")]]
    stale: NotRequired[
        Annotated[bool, Field(description="The file is bad now; this is its last good version.")]
    ]


@with_config(CLOSED)
class PolicyPage(TypedDict):
    """Policies by name, and on the first page the documents of other kinds."""

    policies: list[PolicyEntry]
    documents: NotRequired[list[dict[str, Any]]]
    policyVersion: str
    pinned: bool
    next: NotRequired[Annotated[str, Field(description="Send it as `after` for more.")]]


@with_config(CLOSED)
class ProblemEntry(TypedDict):
    """What is wrong with a document, and where."""

    message: str
    line: NotRequired[int]
    column: NotRequired[int]
    lint: NotRequired[str]


@with_config(CLOSED)
class Validated(TypedDict):
    """It could be in force."""

    valid: Literal[True]
    errors: list[ProblemEntry]
    warnings: list[ProblemEntry]


@with_config(CLOSED)
class Invalid(TypedDict):
    """It could not."""

    error: Literal["invalid"]
    message: str
    valid: Literal[False]
    errors: list[ProblemEntry]
    warnings: list[ProblemEntry]


@with_config(CLOSED)
class Written(TypedDict):
    """A document that was put in place."""

    policy: PolicyEntry | dict[str, Any]
    warnings: list[ProblemEntry]
    file: Annotated[str, Field(description="Below POLICIES_DIR.")]
    inForce: bool
    policyVersion: Annotated[str, Field(description="What is in force.")]
    note: NotRequired[str]


@with_config(CLOSED)
class Deleted(TypedDict):
    """A document that was removed."""

    name: str
    deleted: Literal[True]
    file: Annotated[str, Field(description="Where it was, below POLICIES_DIR.")]
    inForce: Annotated[bool, Field(description="Its absence is.")]
    policyVersion: Annotated[str, Field(description="What is in force.")]
    note: NotRequired[str]


@with_config(CLOSED)
class TracedRule(TypedDict):
    """A rule, as the call met it."""

    number: Annotated[int, Field(description="Counted from 1.")]
    effect: str
    actions: list[str]
    outcome: Literal["match", "skip", "late"]
    why: NotRequired[str]


@with_config(CLOSED)
class TracedPolicy(TypedDict):
    """A policy that applies."""

    policy: str
    says: str
    rules: list[TracedRule]
    defaultEffect: str


@with_config(CLOSED)
class Tried(TypedDict):
    """What would come of a call; `policy` and `rule` are the code's where none has decided."""

    decision: Literal["allow", "deny", "require_approval", "would_deny", "error"]
    code: str
    stage: NotRequired[str]
    policy: str
    rule: str
    ruleIndex: NotRequired[int]
    reason: str
    policyVersion: NotRequired[Annotated[str, Field(description="Of those in force.")]]
    registered: Annotated[bool, Field(description="Whether the agent has a record here.")]
    applicable: NotRequired[list[TracedPolicy]]
    trace: NotRequired[Annotated[list[str], Field(description="The same in words.")]]
    note: NotRequired[str]


@with_config(CLOSED)
class ModeNow(TypedDict):
    """The mode, and who has said so."""

    mode: Mode
    source: Literal["MODE", "MODE_FILE", "admin"]
    since: Time
    note: NotRequired[str]


POLICY: Final = {
    "id": "readers",
    "name": "readers",
    "version": "1.0",
    "appliesTo": {"tags": ["docs"]},
    "rules": [{"id": "may-read", "effect": "allow", "actions": ["read:*"]}],
    "defaultEffect": "deny",
    "active": True,
    "file": "readers.yaml",
}
ETAG: Final = {"ETag": "Send it as `If-None-Match`: 304 while nothing has changed."}
NOT_MODIFIED: Final[dict[int, tuple[Any, object]]] = {304: (None, None)}
_MODE: Final = {"mode": "audit", "source": "admin", "since": "2026-01-31T12:00:00.000000Z"}
SENT: Final = {
    "name": "readers",
    "version": "1.0",
    "appliesTo": {"tags": ["docs"]},
    "rules": [{"effect": "allow", "actions": ["read:*"]}],
    "defaultEffect": "deny",
}
BODIES: Final[dict[str, dict[str, Any]]] = {
    JSON: {"type": "object"},
    **{media: {"type": "string"} for media in YAML_TYPES},
}
INVALID: Final[tuple[Any, object]] = (
    Invalid,
    {
        "error": "invalid",
        "message": "line 1: `rules` is missing",
        "valid": False,
        "errors": [{"message": "`rules` is missing", "line": 1, "column": 1}],
        "warnings": [],
    },
)
_WRITTEN: Final = {
    "policy": POLICY,
    "warnings": [],
    "file": "readers.yaml",
    "inForce": True,
    "policyVersion": "2f1c9d0a77b3e845",
}

_MATCH: Final = "The `ETag` of a GET: only where it is still so."
_NOT_WRITABLE: Final = (
    "POLICIES_DIR is a mounted ConfigMap; change the policies where it comes from"
)

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/policies",
        "listPolicies",
        "List what is in force",
        "Policies",
        PolicyPage,
        {
            "policies": [POLICY],
            "documents": [],
            "policyVersion": "2f1c9d0a77b3e845",
            "pinned": False,
        },
        headers=ETAG,
        others=NOT_MODIFIED,
        errors=(400, 401),
    ),
    Operation(
        "GET",
        "/admin/policies/{name}",
        "getPolicy",
        "Show a policy, or another document",
        "Policies",
        PolicyEntry | dict[str, Any],
        POLICY,
        media={YAML_TYPES[0]: 'name: readers\nversion: "1.0"\n'},
        headers=ETAG,
        others=NOT_MODIFIED,
        errors=(400, 401, 404),
    ),
    Operation(
        "PUT",
        "/admin/policies/{name}",
        "putPolicy",
        "Put a policy, or another document, in place",
        "Policies",
        Written,
        _WRITTEN,
        bodies=BODIES,
        asked=SENT,
        others={201: (Written, _WRITTEN), 422: INVALID},
        errors=(400, 401, 409, 412, 503),
        sends={"If-Match": _MATCH, "If-None-Match": "`*`: only where there is none yet."},
        refuses={409: _NOT_WRITABLE},
        text="Into POLICIES_DIR: in place of the one of its kind and name, and nothing else of that"
        " file; else into a file of its own, 201. It is in force when this is answered, unless"
        " `note` says why not. 409 where the directory cannot be written.",
    ),
    Operation(
        "DELETE",
        "/admin/policies/{name}",
        "deletePolicy",
        "Remove a policy, or another document",
        "Policies",
        Deleted,
        {
            "name": "readers",
            "deleted": True,
            "file": "readers.yaml",
            "inForce": True,
            "policyVersion": "2f1c9d0a77b3e845",
        },
        errors=(400, 401, 404, 409, 412, 503),
        sends={"If-Match": _MATCH},
        refuses={404: "no file has a policy readers", 409: _NOT_WRITABLE},
        text="And its file, where that has no other.",
    ),
    Operation(
        "POST",
        "/admin/policies/validate",
        "validatePolicy",
        "Say whether a policy is valid",
        "Policies",
        Validated,
        {"valid": True, "errors": [], "warnings": []},
        bodies=BODIES,
        asked=SENT,
        others={422: INVALID},
        errors=(400, 401, 503),
        text="Nothing is stored. 422 where it is not; `errors` and `warnings` say why.",
    ),
    Operation(
        "POST",
        "/admin/policies/test",
        "testPolicies",
        "Say what would come of a call",
        "Policies",
        Tried,
        {
            "decision": "deny",
            "code": "rule_denied",
            "stage": "policy",
            "policy": "readers",
            "rule": "no-drafts",
            "ruleIndex": 0,
            "registered": True,
            "reason": "drafts are for their authors",
            "policyVersion": "2f1c9d0a77b3e845",
        },
        body=Trial,
        asked={"agentId": "reviewer", "action": "read:drafts/7", "tags": ["docs"]},
        others={422: INVALID},
        errors=(400, 401, 503),
        text="200 whatever the answer is; nothing is recorded. The agent is as it is registered,"
        " as far as nothing else is said of it. With `policy` that one alone is asked.",
    ),
    Operation(
        "GET",
        "/admin/mode",
        "getMode",
        "Show the mode",
        "Mode",
        ModeNow,
        _MODE,
        errors=(401,),
    ),
    Operation(
        "PUT",
        "/admin/mode",
        "setMode",
        "Change the mode, at once",
        "Mode",
        ModeNow,
        {**_MODE, "note": "it lasts until a restart"},
        body=NewMode,
        asked={"mode": "audit"},
        errors=(400, 401, 503),
        text="In `bypass` mode nothing is evaluated and nothing is recorded.",
    ),
)
