"""What other SDKs ask for and tell of (`edges/http/sdk.py`, `edges/http/reports.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.reports import AuditEntry, Event, Events, Record
from authz.edges.http.sdk import SdkAction
from authz.reference.governed import (
    ALLOWED,
    HEADERS,
    REFUSED,
    WHAT_IT_MAY_NOT,
    Allowed,
    Waiting,
)
from authz.reference.operation import AGENT, CLOSED, Operation, Time
from authz.reference.probes import Mode


@with_config(CLOSED)
class CheckedDenied(Waiting):
    """It may not."""

    allowed: Literal[False]
    decision: Literal["deny"]
    message: str
    reason: str
    code: str
    action: NotRequired[str]
    stage: NotRequired[str]
    policy: NotRequired[str]
    rule: NotRequired[str]
    trustTier: NotRequired[str]
    mode: Mode
    traceId: str
    trace_id: str
    decisionId: str


@with_config(CLOSED)
class Effect(Waiting):
    """What was decided."""

    effect: Literal["allow", "deny", "approval_required"]
    policy: NotRequired[str]
    rule: NotRequired[str]
    reason: NotRequired[str]
    code: NotRequired[str]
    alert: NotRequired[Literal["info", "warning", "critical"]]
    wouldDeny: NotRequired[Literal[True]]
    retry_after: NotRequired[int]


@with_config(CLOSED)
class Evaluation(TypedDict):
    """A decision, as an evaluation has it."""

    decision: Effect
    evaluationId: Annotated[str, Field(description="The id of its audit row.")]
    evaluatedAt: Time
    policyVersion: str
    mode: Mode
    traceId: str


@with_config(CLOSED)
class Recorded(TypedDict):
    """How many entries are in the trail now: all that were sent, or none in bypass mode."""

    recorded: Annotated[int, Field(ge=0)]
    traceId: str
    mode: Mode


_EVALUATION: Final = {
    "decision": {"effect": "allow", "policy": "readers", "rule": "may-read"},
    "evaluationId": ALLOWED["decisionId"],
    "evaluatedAt": "2026-01-31T12:00:00.000000Z",
    "policyVersion": "1f0c9a7be2d34856",
    "mode": "enforce",
    "traceId": ALLOWED["traceId"],
}
_RECORDED: Final = {"recorded": 1, "traceId": ALLOWED["traceId"], "mode": "enforce"}
_ASKED: Final = {"agentId": "reviewer-1", "action": "read:docs", "resource": "docs/intro"}
_NOT_DECIDED: Final[dict[int, tuple[Any, object]]] = {
    status: REFUSED[status] for status in (400, 401, 503)
}
_KEY: Final = "The agent's token, where there is no `Authorization`."
_EVENT: Final = {**_ASKED, "result": "success", "timestamp": "2026-01-31T12:00:00Z"}
_TOLD: Final = (
    "It stands in the trail as the agent's word: `source` client, `decision` reported, under the id"
    " of the token. Whatever it says of a decision is `metadata.reported`."
)

OPERATIONS: Final = (
    Operation(
        "POST",
        "/proxy/check",
        "checkByBody",
        "Ask whether an agent may do something, by a body",
        "Decisions",
        Allowed | CheckedDenied,
        ALLOWED,
        who=AGENT,
        body=SdkAction,
        asked=_ASKED,
        sends={"X-API-Key": _KEY, **HEADERS},
        others={**_NOT_DECIDED, 429: WHAT_IT_MAY_NOT[429]},
        errors=(),
        text="200 also for a denial: `allowed` says which it is. Keys that are not known count for"
        " nothing, unless they look like one that restricts.",
    ),
    Operation(
        "POST",
        "/proxy/governance/check",
        "governanceCheck",
        "Ask as GET /proxy/check does, by a body",
        "Decisions",
        Allowed,
        ALLOWED,
        who=AGENT,
        body=SdkAction,
        asked=_ASKED,
        sends=HEADERS,
        others={**_NOT_DECIDED, **WHAT_IT_MAY_NOT},
        errors=(),
    ),
    Operation(
        "POST",
        "/api/v1/evaluate",
        "evaluate",
        "Evaluate an action of a tool",
        "Decisions",
        Evaluation,
        _EVALUATION,
        who=AGENT,
        body=SdkAction,
        asked=_ASKED,
        sends={"X-MeshGuard-API-Key": _KEY, **HEADERS},
        others=_NOT_DECIDED,
        errors=(),
        text="200 for what was decided. By any other status it was not, and the tool must not run.",
    ),
    *(
        Operation(
            "POST",
            path,
            name,
            summary,
            "What agents report",
            Recorded,
            _RECORDED,
            who=AGENT,
            body=body,
            asked=asked,
            sends=sends,
            status=202,
            others={401: REFUSED[401], 503: REFUSED[503]},
            errors=(400,),
            text=_TOLD,
        )
        for path, name, summary, body, asked, sends in (
            (
                "/proxy/audit",
                "reportEntry",
                "Record what was done",
                AuditEntry,
                {**_ASKED, "result": "allow", "details": {"took": "3 s"}},
                {"X-API-Key": _KEY},
            ),
            (
                "/proxy/governance/record",
                "reportRecord",
                "Record what came of an action",
                Record,
                {"action": "read:docs", "resource": "docs/intro", "status": "done"},
                {},
            ),
            (
                "/api/v1/audit",
                "reportEvent",
                "Record an event of a tool",
                Event,
                _EVENT,
                {"X-MeshGuard-API-Key": _KEY},
            ),
            (
                "/api/v1/audit/batch",
                "reportEvents",
                "Record events, all of them or none",
                Events,
                {"events": [_EVENT]},
                {"X-MeshGuard-API-Key": _KEY},
            ),
        )
    ),
)
