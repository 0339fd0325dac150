"""The audit trail (`edges/http/audit.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.audit import PERIODS
from authz.edges.http.ingest import FIELD
from authz.reference.operation import CLOSED, EVENTS, IN_PATHS, Operation, Time

Decided = Literal["allow", "deny", "error", "reported"]
Next = Annotated[str, Field(description="Send it as `after` for more, which may be none.")]
Incomplete = Annotated[
    bool,
    Field(description="There was no time to look through more of the trail; go on at `next`."),
]


@with_config(CLOSED)
class Entry(TypedDict):
    """A row of the audit trail; what it does not have is left out."""

    seq: Annotated[int, Field(description="Its number in the trail.")]
    id: str
    timestamp: Time
    source: Annotated[
        str, Field(description="How it was asked; `control`: about the sidecar itself.")
    ]
    agentId: NotRequired[str]
    agentName: NotRequired[str]
    trustTier: NotRequired[str]
    orgId: NotRequired[str]
    action: str
    resource: NotRequired[str]
    method: NotRequired[str]
    path: NotRequired[str]
    decision: Annotated[Decided, Field(description="What was decided.")]
    result: Annotated[Decided, Field(description="`decision` again, as some SDKs name it.")]
    enforced: Annotated[Decided, Field(description="What was done, which is the mode's to say.")]
    mode: Literal["enforce", "audit", "bypass"]
    stage: NotRequired[str]
    code: str
    policy: NotRequired[str]
    rule: NotRequired[str]
    ruleIndex: NotRequired[int]
    reason: NotRequired[str]
    policyVersion: str
    traceId: str
    latencyMs: Annotated[float, Field(description="Milliseconds that deciding took.")]
    durationMs: Annotated[float, Field(description="`latencyMs` again, as some SDKs name it.")]
    metadata: NotRequired[
        Annotated[Any, Field(description="What is recorded and never trusted; an object.")]
    ]
    meta: NotRequired[
        Annotated[dict[str, Any], Field(description="`metadata.meta`: X-MeshGuard-Meta.")]
    ]
    delegationId: NotRequired[str]
    debit: NotRequired[int]
    prevHash: str
    hash: str
    origin: NotRequired[
        Annotated[str, Field(description="With `trail=ingested`: the trail that it came from.")]
    ]


@with_config(CLOSED)
class Ingested(TypedDict):
    """What came of a trail that was sent."""

    ingested: Annotated[int, Field(description="Rows that are stored now, and were not before.")]
    duplicates: Annotated[int, Field(description="Rows that were known.")]


@with_config(CLOSED)
class EntryPage(TypedDict):
    """Entries in the order that was asked for."""

    entries: list[Entry]
    next: NotRequired[Next]
    incomplete: NotRequired[Incomplete]


@with_config(CLOSED)
class Trace(EntryPage):
    """Entries of one trace, oldest first."""

    traceId: str


# One of its keys is a word of Python.
Stats = TypedDict(
    "Stats",
    {
        "total": int,
        "allowed": int,
        "denied": int,
        "errors": Annotated[int, Field(description="Nothing could be decided.")],
        "wouldDeny": Annotated[int, Field(description="Of those denied, what was let pass.")],
        "period": NotRequired[Literal["1h", "24h", "7d", "30d"]],
        "from": NotRequired[Time],
        "to": NotRequired[Time],
    },
)
with_config(CLOSED)(Stats)

_DECIDED: Final = ("allow", "deny", "error", "reported")
#: Words that filters can be.
_WORDS: Final = {
    "decision": _DECIDED,
    "enforced": _DECIDED,
    "mode": ("enforce", "audit", "bypass"),
}
_ENTRY: Final = {
    "seq": 7,
    "id": IN_PATHS["decision_id"],
    "timestamp": "2026-01-31T12:00:00.000001Z",
    "source": "proxy",
    "agentId": "reviewer",
    "agentName": "reviewer",
    "trustTier": "verified",
    "action": "delete:repo",
    "resource": "repo/7",
    "method": "DELETE",
    "path": "/proxy/repo/7",
    "decision": "deny",
    "result": "deny",
    "enforced": "deny",
    "mode": "enforce",
    "stage": "policy",
    "code": "rule_denied",
    "policy": "code-review",
    "rule": "no-deletes",
    "ruleIndex": 1,
    "reason": "reviewers delete nothing",
    "policyVersion": "2f1c9d0a77b3e845",
    "traceId": IN_PATHS["trace_id"],
    "latencyMs": 0.112,
    "durationMs": 0.112,
    "metadata": {"host": "127.0.0.1:3100", "tags": ["code-review"]},
    "prevHash": "50b7d645cb96707b0ce67ac1730313f7578c2d0aa9d68a511972116dbc129efe",
    "hash": "c157810d44617668478519abaa1b09b6c0a58c0330ff8f48fffa9965a1a2d624",
}
#: What stands for a database in an example.
DATABASE: Final = "SQLite format 3…"
_NONE: Final = {404: "nothing was ingested yet"}
_LINE: Final = '{"seq":7,"id":"3e527362a396a81e80557de7106ecf0f","action":"delete:repo",…}\n'

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/audit",
        "queryAudit",
        "Look for entries",
        "Audit trail",
        EntryPage,
        {"entries": [_ENTRY], "next": "7"},
        errors=(400, 401, 404, 503),
        refuses=_NONE,
        words=_WORDS,
        text="Newest first. Filters are all to fit. A page may have fewer entries than asked for,"
        " and even none, and a `next`: it is searched for some seconds, or large.",
    ),
    Operation(
        "GET",
        "/admin/audit/stats",
        "countDecisions",
        "Count decisions",
        "Audit trail",
        Stats,
        {
            "total": 1200,
            "allowed": 1180,
            "denied": 20,
            "errors": 0,
            "wouldDeny": 3,
            "period": "24h",
        },
        errors=(400, 401, 404, 503),
        refuses=_NONE,
        words={**_WORDS, "period": tuple(PERIODS)},
        asks={"period": "Back from now; 24h where neither it nor `from` or `to` is given."},
    ),
    Operation(
        "GET",
        "/admin/audit/trace/{trace_id}",
        "getTrace",
        "Show a trace",
        "Audit trail",
        Trace,
        {"traceId": IN_PATHS["trace_id"], "entries": [_ENTRY]},
        errors=(400, 401, 404, 503),
        asks={"trace_id": "The `traceId` of answers, or what the caller has sent as it."},
    ),
    Operation(
        "GET",
        "/admin/audit/{decision_id}",
        "getEntry",
        "Show an entry",
        "Audit trail",
        Entry,
        _ENTRY,
        errors=(400, 401, 404, 503),
        asks={
            "decision_id": "The entry's `id`, `decisionId` in answers.",
            "trail": "`ingested`: what other sidecars have sent.",
        },
    ),
    Operation(
        "GET",
        "/admin/audit/export",
        "exportAudit",
        "Export entries as a file",
        "Audit trail",
        None,
        media={
            "application/x-ndjson": _LINE,
            "text/csv": "seq,id,timestamp,…\r\n7,3e527362a396a81e80557de7106ecf0f,…\r\n",
            "application/vnd.apache.parquet": "PAR1…",
        },
        headers={"Content-Disposition": "A name for the file."},
        errors=(400, 401, 404, 503),
        refuses=_NONE,
        words=_WORDS,
        text="What was there when it began, oldest first. One that is broken off has no end of its"
        " body, so that a client sees it.",
    ),
    Operation(
        "GET",
        "/admin/audit/tail",
        "followAudit",
        "Follow the trail",
        "Audit trail",
        None,
        errors=(400, 401, 404, 503),
        refuses=_NONE,
        media={EVENTS: f"event: decision\nid: 7\ndata: {_LINE}\n"},
        asks={"n": "Newest entries to begin with.", "last-event-id": "The `id` to go on after."},
        words=_WORDS,
        text="Server-Sent Events: `decision`, or `control` for what is about the sidecar itself."
        " It ends after an hour and when the service stops; `EventSource` goes on by itself.",
    ),
    Operation(
        "POST",
        "/admin/audit/ingest",
        "ingestAudit",
        "Take in another sidecar's trail",
        "Audit trail",
        Ingested,
        {"ingested": 1200, "duplicates": 0},
        bodies={
            "multipart/form-data": {
                "type": "object",
                "properties": {
                    FIELD: {
                        "type": "string",
                        "format": "binary",
                        "description": "An audit database (SQLite), whole or a slice of it.",
                    }
                },
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
        asked={FIELD: DATABASE},
        errors=(400, 401, 409, 422, 503),
        headers={
            "X-MeshGuard-Ingest-Origin": "The trail's id here, which entries have as `origin`.",
            "X-MeshGuard-Ingest-Last": "The last row of that trail that is known here.",
        },
        refuses={
            409: "rows 101..150 are missing: this trail is known to row 100, and what was sent"
            " begins with row 151; send it from row 101 on",
            413: "the file is larger than 268435456 bytes (AUDIT_INGEST_MAX_BYTES); send it in"
            " parts, as `authz sync push` does",
            415: "content-type: send multipart/form-data, not application/json; send the file as"
            ' curl -F "audit=@FILE" does',
            422: "row 7 was changed: its hash does not fit what it says",
        },
        text="`curl -F audit=@audit.db`. All of it is stored or nothing; what is known already is"
        " counted and not stored again. 409 where rows are missing between what is known of the"
        " trail and what was sent, or where it contradicts that; `X-MeshGuard-Ingest-Last` says"
        " from where on to send it. 422 where it does not verify or no sidecar made it. One trail"
        " is taken in at a time; another one is 503.",
    ),
)
