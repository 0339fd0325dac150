"""Actions that wait for a person or for time (`edges/http/records.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.records import STATES, Approval, Rejection
from authz.reference.operation import CLOSED, IN_PATHS, Operation, Time

PENDING_ID: Final = IN_PATHS["pending_id"]


@with_config(CLOSED)
class PendingAction(TypedDict):
    """An action that is not let through before somebody, or time, has approved it."""

    pendingId: str
    state: Literal[
        "pending_approval", "pending_cooling", "approved", "rejected", "executed", "expired"
    ]
    agentId: str
    action: str
    resource: NotRequired[str]
    method: NotRequired[str]
    path: NotRequired[str]
    context: NotRequired[
        Annotated[dict[str, Any], Field(description="What the agent gave as its context.")]
    ]
    policy: NotRequired[str]
    rule: NotRequired[str]
    reason: NotRequired[str]
    policyVersion: NotRequired[str]
    createdAt: Time
    expiresAt: Time
    coolingEndsAt: NotRequired[Time]
    answeredAt: NotRequired[Time]
    approver: NotRequired[str]
    answer: NotRequired[Annotated[str, Field(description="What the approver said to it.")]]
    url: NotRequired[Annotated[str, Field(description="Where a person can read about it.")]]


@with_config(CLOSED)
class PendingPage(TypedDict):
    """Pending actions, newest first."""

    pending: list[PendingAction]
    next: NotRequired[Annotated[str, Field(description="Send it as `after` for more.")]]


@with_config(CLOSED)
class ApprovedAction(PendingAction):
    """An approved action, and a token that is as good as its id for one request."""

    actionToken: str
    actionTokenExpiresAt: Time


_PENDING: Final = {
    "pendingId": PENDING_ID,
    "state": "pending_approval",
    "agentId": IN_PATHS["agent_id"],
    "action": "pay:invoice",
    "resource": "invoice/7",
    "method": "POST",
    "path": "/proxy/invoices/7/pay",
    "policy": "payments",
    "rule": "asked",
    "reason": "a person has to approve this",
    "policyVersion": "2f1c9d0a77b3e845",
    "createdAt": "2026-01-31T12:00:00.000000Z",
    "expiresAt": "2026-01-31T13:00:00.000000Z",
}
_ANSWERED: Final = {
    "answeredAt": "2026-01-31T12:05:00.000000Z",
    "approver": "ann@example.com",
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/pending",
        "listPending",
        "List actions that wait or waited",
        "Pending actions",
        PendingPage,
        {"pending": [_PENDING]},
        words={"state": STATES},
        asks={"state": "In this state alone."},
    ),
    Operation(
        "GET",
        "/admin/pending/{pending_id}",
        "getPending",
        "Show a pending action",
        "Pending actions",
        PendingAction,
        _PENDING,
        errors=(401, 404, 503),
    ),
    Operation(
        "POST",
        "/admin/pending/{pending_id}/approve",
        "approvePending",
        "Approve an action, for one request",
        "Pending actions",
        ApprovedAction,
        {
            **_PENDING,
            **_ANSWERED,
            "state": "approved",
            "answer": "checked with sales",
            "actionToken": "eyJhbGciOiJIUzI1NiIs…",
            "actionTokenExpiresAt": "2026-01-31T12:10:00.000000Z",
        },
        body=Approval,
        asked={"approver": "ann@example.com", "reason": "checked with sales"},
        errors=(401, 404, 409, 503),
        refuses={409: f"{PENDING_ID} is approved already"},
        text="The agent sends `actionToken` as `X-MeshGuard-Action-Token`, or `pendingId` as"
        " `X-MeshGuard-Pending-ID`.",
    ),
    Operation(
        "POST",
        "/admin/pending/{pending_id}/reject",
        "rejectPending",
        "Reject an action",
        "Pending actions",
        PendingAction,
        {**_PENDING, **_ANSWERED, "state": "rejected", "answer": "no such invoice"},
        body=Rejection,
        asked={"approver": "ann@example.com", "reason": "no such invoice"},
        errors=(401, 404, 409, 503),
        refuses={409: f"{PENDING_ID} is approved already"},
        text="Also one that was approved, for as long as it was not used.",
    ),
)
