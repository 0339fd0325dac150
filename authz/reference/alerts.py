"""Alerts: where they go, and how that goes (`edges/http/alerts.py`)."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.alerts import TestAlert, TestChannels
from authz.reference.operation import CLOSED, Operation, Time

Severity = Literal["info", "warning", "critical"]


@with_config(CLOSED)
class Channel(TypedDict):
    """Somewhere that alerts go."""

    name: str
    type: Literal["webhook", "slack", "email"]


@with_config(CLOSED)
class Channels(TypedDict):
    """Where alerts go; nowhere until one is configured."""

    channels: list[Channel]


@with_config(CLOSED)
class Counts(TypedDict):
    """What has happened since the start."""

    raised: Annotated[int, Field(description="Alerts that were made.")]
    grouped: Annotated[int, Field(description="Events that only raised another one's count.")]
    unrouted: Annotated[int, Field(description="Alerts for which no channel is there.")]
    dropped_rate: Annotated[int, Field(description="Over the rate limit.")]
    dropped_full: Annotated[int, Field(description="Too many waited.")]
    sent: Annotated[int, Field(description="Deliveries that were taken.")]
    failed: Annotated[int, Field(description="Attempts that were not.")]
    dead: Annotated[int, Field(description="Deliveries that were given up.")]


@with_config(CLOSED)
class Delivery(TypedDict):
    """An alert on its way to one channel, or there."""

    id: Annotated[str, Field(description="The alert's, which its receiver sees.")]
    destination: str
    state: Literal["waiting", "sent", "failed"]
    severity: Severity
    trigger: str
    title: str
    attempts: int
    createdAt: Time
    nextAttemptAt: NotRequired[Time]
    doneAt: NotRequired[Time]
    message: NotRequired[Annotated[str, Field(description="Why it was not taken, the last time.")]]


@with_config(CLOSED)
class Alerts(TypedDict):
    """What raises alerts, where they go, and what is in the outbox."""

    enabled: bool
    on: Annotated[list[str], Field(description="The triggers of ALERT_ON.")]
    channels: list[Channel]
    counts: NotRequired[Counts]
    waiting: NotRequired[int]
    sent: NotRequired[Annotated[int, Field(description="Of those that are still kept.")]]
    failed: NotRequired[int]
    deliveries: NotRequired[
        Annotated[list[Delivery], Field(description="Those that wait first, then the newest.")]
    ]


@with_config(CLOSED)
class Result(TypedDict):
    """How one test went."""

    name: str
    delivered: bool
    message: Annotated[str, Field(description="What was answered, or why it was not taken.")]


@with_config(CLOSED)
class Tested(TypedDict):
    """How the tests went."""

    delivered: Annotated[bool, Field(description="Everybody took it.")]
    results: list[Result]


_CHANNEL: Final = {"name": "webhook", "type": "webhook"}
_DELIVERY: Final = {
    "id": "alert_3e527362a396a81e80557de7106ecf0f",
    "destination": "webhook",
    "state": "waiting",
    "severity": "warning",
    "trigger": "deny",
    "title": "Denied: write:delete by reviewer",
    "attempts": 1,
    "createdAt": "2026-01-31T12:00:00.000000Z",
    "nextAttemptAt": "2026-01-31T12:00:02.000000Z",
    "message": "ALERT_WEBHOOK_URL: it answered 500",
}
_TESTED: Final = {
    "delivered": True,
    "results": [{"name": "webhook", "delivered": True, "message": "answered 204"}],
}
_ERRORS: Final = (400, 401, 404, 409, 429, 503)
_REFUSES: Final = {
    404: "there is no such channel",
    409: "no alerts are configured; set ALERT_WEBHOOK_URL or another",
    429: "a test is under way",
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/alerts",
        "getAlerts",
        "What raises alerts, and how their delivery goes",
        "Alerts",
        Alerts,
        {
            "enabled": True,
            "on": ["deny", "error", "rate_limit"],
            "channels": [_CHANNEL],
            "counts": {
                "raised": 3,
                "grouped": 120,
                "unrouted": 0,
                "dropped_rate": 0,
                "dropped_full": 0,
                "sent": 2,
                "failed": 1,
                "dead": 0,
            },
            "waiting": 1,
            "sent": 2,
            "failed": 0,
            "deliveries": [_DELIVERY],
        },
        asks={"limit": "Deliveries that are shown, up to 500."},
    ),
    Operation(
        "POST",
        "/admin/alerts/test",
        "testAlerts",
        "Send a test to every channel, or to one",
        "Alerts",
        Tested,
        _TESTED,
        body=TestChannels,
        asked={"to": "webhook", "severity": "info"},
        body_optional=True,
        errors=_ERRORS,
        refuses=_REFUSES,
        text="It is sent now, past the outbox, and is answered when the channels have answered.",
    ),
    Operation(
        "GET",
        "/admin/alerts/channels",
        "listAlertChannels",
        "Where alerts go",
        "Alerts",
        Channels,
        {"channels": [_CHANNEL]},
    ),
    Operation(
        "POST",
        "/admin/alerts/channels/{name}/test",
        "testAlertChannel",
        "Send a test to one channel",
        "Alerts",
        Tested,
        _TESTED,
        body=TestAlert,
        asked={"severity": "warning"},
        body_optional=True,
        errors=_ERRORS,
        refuses=_REFUSES,
        asks={"name": "webhook, slack or email."},
    ),
)
