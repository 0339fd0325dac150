"""The policies in force, and the mode (`edges/http/policies.py`, `edges/http/mode.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.mode import NewMode
from authz.edges.http.policies import YAML_TYPES
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
    file: NotRequired[Annotated[str, Field(description="Below POLICIES_DIR.")]]
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
        headers=ETAG,
        others=NOT_MODIFIED,
        errors=(400, 401, 404),
    ),
    Operation(
        "POST",
        "/admin/policies/validate",
        "validatePolicy",
        "Say whether a policy is valid",
        "Policies",
        Validated,
        {"valid": True, "errors": [], "warnings": []},
        bodies={
            JSON: {"type": "object"},
            **{media: {"type": "string"} for media in YAML_TYPES},
        },
        asked={
            "name": "readers",
            "version": "1.0",
            "appliesTo": {"tags": ["docs"]},
            "rules": [{"effect": "allow", "actions": ["read:*"]}],
            "defaultEffect": "deny",
        },
        others={
            422: (
                Invalid,
                {
                    "error": "invalid",
                    "message": "`rules` is missing",
                    "valid": False,
                    "errors": [{"message": "`rules` is missing", "line": 1, "column": 1}],
                    "warnings": [],
                },
            )
        },
        errors=(400, 401),
        text="Nothing is stored. 422 where it is not; `errors` and `warnings` say why.",
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
