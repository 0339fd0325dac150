"""Decisions that are asked for by name (`edges/http/governed.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.asking import NamedAction
from authz.edges.http.governed import Batch
from authz.reference.operation import AGENT, CLOSED, Error, Operation, Time
from authz.reference.pending import PENDING_ID
from authz.reference.probes import Mode


@with_config(CLOSED)
class Waiting(TypedDict):
    """What somebody can do about a denial, where somebody can."""

    pendingId: NotRequired[str]
    pendingState: NotRequired[Literal["pending_approval", "pending_cooling", "approved"]]
    requiresApproval: NotRequired[Literal[True]]
    approvers: NotRequired[Annotated[list[str], Field(description="Who can approve it.")]]
    approvalUrl: NotRequired[str]
    waitMs: NotRequired[Annotated[int, Field(description="How long it cools off.")]]
    category: NotRequired[Annotated[str, Field(description="Of a destructive action.")]]
    severity: NotRequired[str]
    limit: NotRequired[Annotated[str, Field(description="The rate limit that was reached.")]]


@with_config(CLOSED)
class Decided(Waiting):
    """What every decision says."""

    action: NotRequired[str]
    rule: NotRequired[str]
    mode: Mode
    traceId: str
    decisionId: Annotated[str, Field(description="The id of its audit row.")]


@with_config(CLOSED)
class Allowed(Decided):
    """It may."""

    allowed: Literal[True]
    decision: Literal["allow"]
    policy: str
    trustTier: NotRequired[str]
    wouldDeny: NotRequired[
        Annotated[Literal[True], Field(description="Only the mode lets it pass.")]
    ]
    code: NotRequired[str]
    reason: NotRequired[str]


@with_config(CLOSED)
class AllowedWithToken(Allowed):
    """It may, and so may the request that brings this token."""

    actionToken: NotRequired[str]
    expiresAt: NotRequired[Time]


@with_config(CLOSED)
class Denied(Decided):
    """It may not (403, 429), nobody knows who asks (401), or it could not be decided (503)."""

    error: str
    message: str
    reason: str
    code: Annotated[str, Field(description="One of docs/codes.md.")]
    stage: NotRequired[str]
    policy: NotRequired[str]
    decision: Literal["deny", "error"]
    trace_id: str
    retry_after: NotRequired[int]


@with_config(CLOSED)
class BatchItem(Waiting):
    """What was decided of one action."""

    action: str
    decision: Literal["allow", "deny"]
    latencyMs: float
    decisionId: str
    reason: NotRequired[str]
    code: NotRequired[str]
    policy: NotRequired[str]
    rule: NotRequired[str]
    wouldDeny: NotRequired[Literal[True]]


@with_config(CLOSED)
class BatchAnswer(TypedDict):
    """What was decided, in the order of the actions."""

    results: list[BatchItem]
    totalLatencyMs: float
    traceId: str
    mode: Mode
    policyVersion: str


HEADERS: Final = {
    "X-MeshGuard-Resource": "To what it is done.",
    "X-MeshGuard-Meta": "A JSON object: the `context` of conditions.",
    "X-MeshGuard-Trace-ID": "Named in answers and in the trail.",
    "X-MeshGuard-Delegation": "A relationship's id, or its signed chain: for whom the agent acts.",
    "X-MeshGuard-Pending-ID": "The pending action that somebody has approved.",
    "X-MeshGuard-Action-Token": "Leave for one action on one resource, once.",
    "X-MeshGuard-Provenance": "What influenced it: `lane=2;source=crm;label=pii, lane=0`.",
    "X-MeshGuard-Cost": "Risk points, where a wallet lets the agent declare more.",
}
_ANSWER_HEADERS: Final = {
    "X-MeshGuard-Decision": "`allow`.",
    "X-MeshGuard-Policy": "The policy that decided, if one has.",
    "X-MeshGuard-Agent-Id": "Who asked.",
    "X-MeshGuard-Mode": "`enforce`, `audit` or `bypass`.",
    "X-MeshGuard-Trace-Id": "As `traceId`.",
    "X-MeshGuard-Would-Deny": "The rule that denies, where only the mode lets it pass.",
    "X-MeshGuard-Wallet-Remaining": "Risk points that are left.",
}

_DECIDED: Final = {
    "action": "read:docs",
    "decision": "allow",
    "policy": "readers",
    "rule": "may-read",
    "mode": "enforce",
    "traceId": "8c1f0a52d7f84e1b9d3e6a2b5c7d9e01",
    "decisionId": "0f9a7c3e5b1d4862a4c6e8f01b3d5f79",
}
ALLOWED: Final = {"allowed": True, **_DECIDED, "trustTier": "verified"}


def _denied(status_word: str, code: str, reason: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    said = {
        "error": status_word,
        "message": reason,
        "reason": reason,
        "code": code,
        **_DECIDED,
        "decision": "deny",
        "trace_id": _DECIDED["traceId"],
        **more,
    }
    return Denied, {name: value for name, value in said.items() if value is not None}


_NOBODY: Final = {"policy": None, "rule": "auth:token-expired", "stage": "auth"}
REFUSED: Final = {
    400: (
        Error | Denied,
        {"error": "bad_request", "message": "the X-MeshGuard-Action header is missing or empty"},
    ),
    401: _denied("unauthorized", "token_expired", "the token has expired", **_NOBODY),
    503: _denied(
        "unavailable",
        "audit_unavailable",
        "the decision could not be recorded",
        policy=None,
        rule=None,
        decision="error",
    ),
}
WHAT_IT_MAY_NOT: Final = {
    403: _denied(
        "Forbidden",
        "approval_required",
        "a person has to approve this",
        action="pay:invoice",
        stage="policy",
        pendingId=PENDING_ID,
        pendingState="pending_approval",
        requiresApproval=True,
        approvers=["human"],
    ),
    429: _denied(
        "rate_limited",
        "rate_limited",
        "the limit of 30 requests per minute is reached",
        stage="rate-limit",
        retry_after=12,
        limit="30 requests per minute",
    ),
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/proxy/check",
        "check",
        "Ask whether the agent may do something",
        "Decisions",
        Allowed,
        ALLOWED,
        who=AGENT,
        sends={"X-MeshGuard-Action": "What is done, such as `read:docs`.", **HEADERS},
        needs={"X-MeshGuard-Action": "read:docs"},
        others={**REFUSED, **WHAT_IT_MAY_NOT},
        errors=(),
        headers=_ANSWER_HEADERS,
        text="Decided and recorded as a request to `/proxy/…` is; nothing is forwarded.",
    ),
    Operation(
        "POST",
        "/api/v1/governance/batch",
        "checkBatch",
        "Ask about up to a hundred actions, in their order",
        "Decisions",
        BatchAnswer,
        {
            "results": [
                {
                    "action": "read:docs",
                    "decision": "allow",
                    "latencyMs": 0.21,
                    "decisionId": _DECIDED["decisionId"],
                },
                {
                    "action": "delete:docs",
                    "decision": "deny",
                    "latencyMs": 0.18,
                    "decisionId": "1e8b6d2f4a0c4751b3d5f7092c4e6a88",
                    "reason": "no rule matches, and the default is deny",
                    "code": "default_denied",
                    "policy": "readers",
                },
            ],
            "totalLatencyMs": 0.39,
            "traceId": _DECIDED["traceId"],
            "mode": "enforce",
            "policyVersion": "2f1c9d0a77b3e845",
        },
        who=AGENT,
        body=Batch,
        asked={
            "actions": [{"action": "read:docs"}, {"action": "delete:docs", "resource": "docs/7"}]
        },
        sends=HEADERS,
        others=REFUSED,
        errors=(),
        text="All against one version of the policies, in one trace, a row each. What an action"
        " does not say of itself the headers say. `delegatedBy` is another name of `delegation`.",
    ),
    Operation(
        "POST",
        "/api/v1/action-tokens",
        "mintActionToken",
        "Ask for leave to do something soon, once",
        "Decisions",
        AllowedWithToken,
        {
            **ALLOWED,
            "actionToken": "eyJhbGciOiJIUzI1NiIs…",
            "expiresAt": "2026-01-31T12:05:00.000000Z",
        },
        who=AGENT,
        body=NamedAction,
        asked={"action": "delete:customers", "resource": "customer:7"},
        sends=HEADERS,
        others={**REFUSED, **WHAT_IT_MAY_NOT},
        errors=(),
        headers=_ANSWER_HEADERS,
        text="Decided as a check, and nothing is used up. There is a token where it is allowed; the"
        " request sends it as `X-MeshGuard-Action-Token`. `resource` is what that request will"
        " have: its header, else its path without `/proxy/`.",
    ),
)
