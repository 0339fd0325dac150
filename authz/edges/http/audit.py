"""The audit trail over HTTP: pages of it, counts, one trace, one entry, exports, and what is new.

- What is asked for is checked here, and read by a reader process: this one has decisions to make.
- A parameter that is not known, or is there twice, is refused: what a slip of the pen leaves out
  may be what somebody looks for.
- A page is searched for some seconds. What there is by then is answered, with where to go on.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException

from authz.core.timestamps import rfc3339
from authz.edges.http.admin import PREFIX
from authz.edges.http.credentials import AdminToken
from authz.edges.http.queries import once
from authz.edges.http.reading import answered, streamed
from authz.edges.readers.pool import EXPORTS, LOCAL, TAILS, Readers, TrailName
from authz.stores.audit_export import FORMATS, FormatName
from authz.stores.audit_query import (
    FILTERS,
    MAX_FILTER,
    MAX_LIMIT,
    BadFilter,
    cursor_of,
    filters_of,
)

#: Seconds of a period.
PERIODS: Final[Mapping[str, int]] = {
    "1h": 3600,
    "24h": 24 * 3600,
    "7d": 7 * 24 * 3600,
    "30d": 30 * 24 * 3600,
}
#: Answers are of now, and for whoever asked.
NOT_KEPT: Final = {"cache-control": "no-store"}

Period = Literal["1h", "24h", "7d", "30d"]
Text = Annotated[str, Field(max_length=MAX_FILTER)]
#: Where a page goes on.
After = Annotated[str, Field(max_length=32, description="`next` of the page before.")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Entries of a page, at most.")]


#: Which trail.
Trail = Annotated[
    TrailName,
    Field(description="`ingested`: what other sidecars have sent, each entry with its `origin`."),
]


class Parameters(BaseModel):
    """A query whose every parameter is known."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, alias_generator=to_camel
    )


class Times(Parameters):
    """Between two times, in one of the trails."""

    trail: Trail = LOCAL

    since: Text = Field("", alias="from", description="RFC 3339; from then on.")
    until: Text = Field("", alias="to", description="RFC 3339; before then.")

    def filters(self, **more: str) -> dict[str, str]:
        """Those that are given, by their names.

        Raises:
            HTTPException: 400, one cannot be what it says.
        """
        said = {**self.model_dump(by_alias=True, include=_names(type(self))), **more}
        given = {name: value for name, value in said.items() if value}
        try:
            filters_of(given)
        except BadFilter as error:
            raise HTTPException(400, str(error)) from None
        return given


def _names(model: type[BaseModel]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.alias in FILTERS}


class Filtered(Times):
    """What entries have to be like; `action`, `resource` and `path` are patterns."""

    agent_id: Text = Field("", description="Whose it is, by the token.")
    action: Text = Field("", description="A pattern: `*` is any run of characters.")
    decision: Text = Field(
        "", description="What was decided: `allow`, `deny`, `error`, or `reported` by the agent."
    )
    enforced: Text = Field("", description="What was done: one of the same.")
    mode: Text = Field("", description="`enforce`, `audit` or `bypass`, as it was then.")
    source: Text = Field(
        "", description="How it came: `proxy`, `check`, `forward`, … or `control` for a change."
    )
    policy: Text = Field("", description="The policy or document that decided, by its name.")
    rule: Text = Field("", description="The rule that decided, by its id.")
    code: Text = Field("", description="Why, as docs/codes.md has it.")
    stage: Text = Field("", description="The stage that decided.")
    trust_tier: Text = Field("", description="Aliases compare equal.")
    org_id: Text = Field("", description="The agent's organisation.")
    resource: Text = Field("", description="A pattern, as `action`.")
    method: Text = Field("", description="The request's method.")
    path: Text = Field("", description="A pattern, as `action`.")
    trace_id: Text = Field("", description="The trace that it belongs to.")
    decision_id: Text = Field("", description="The entry's `id`.")
    policy_version: Text = Field("", description="The policies that it was judged by.")
    delegation_id: Text = Field("", description="The relationship that it acted under.")
    reason: Text = Field("", description="A part of it, in any case.")


class PageAsked(Filtered):
    """A page of entries."""

    limit: Limit = 50
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: the newest first.")
    after: After = ""


class TraceAsked(Times):
    """A page of one trace."""

    limit: Limit = MAX_LIMIT
    after: After = ""


class StatsAsked(Filtered):
    """Decisions to count; a period counts back from now."""

    period: Period | None = Field(None, description="Counts back from now; else `24h`.")


class ExportAsked(Filtered):
    """A file of entries."""

    format: Literal["jsonl", "json", "csv", "parquet"] = Field(
        "jsonl", description="`json` is `jsonl`: one object a line."
    )


class TailAsked(Filtered):
    """What is new, after the newest `n` entries."""

    n: int = Field(20, ge=0, le=MAX_LIMIT)


def router(admin: AdminToken, readers: Readers, now: Callable[[], float] = time.time) -> APIRouter:
    """The routes; none without a token.

    `now`: seconds since the epoch.
    """
    if not admin:
        return APIRouter()
    audit = _Audit(readers, now)
    group = APIRouter(
        prefix=f"{PREFIX}/audit", dependencies=[Depends(admin.required), Depends(once)]
    )
    group.get("")(audit.page)
    group.get("/stats")(audit.stats)
    group.get("/export")(audit.export)
    group.get("/tail")(audit.tail)
    group.get("/trace/{trace_id}")(audit.trace)
    group.get("/{decision_id}")(audit.one)
    return group


class _Audit:
    """The handlers."""

    def __init__(self, readers: Readers, now: Callable[[], float]) -> None:
        self._readers = readers
        self._now = now

    async def page(self, request: Request, asked: Annotated[PageAsked, Query()]) -> Response:
        params = {
            "filters": asked.filters(),
            "limit": asked.limit,
            "order": asked.order,
            "after": _cursor("after", asked.after),
        }
        return await answered(request, self._readers, "audit.page", params, asked.trail)

    async def trace(
        self, trace_id: str, request: Request, asked: Annotated[TraceAsked, Query()]
    ) -> Response:
        params = {
            "filters": asked.filters(traceId=trace_id),
            "limit": asked.limit,
            "order": "asc",
            "after": _cursor("after", asked.after),
            "also": {"traceId": trace_id},
            "nothing": "there is no entry of this trace",
        }
        return await answered(request, self._readers, "audit.page", params, asked.trail)

    async def one(
        self, decision_id: str, request: Request, trail: Annotated[TrailName, Query()] = LOCAL
    ) -> Response:
        params = {"id": decision_id}
        if len(decision_id) > MAX_FILTER:
            raise HTTPException(404, "there is no such entry")
        return await answered(request, self._readers, "audit.one", params, trail)

    async def stats(self, request: Request, asked: Annotated[StatsAsked, Query()]) -> Response:
        also: dict[str, str]
        if asked.since or asked.until:
            if asked.period is not None:
                raise HTTPException(400, "period: give it, or from and to")
            filters = asked.filters()
            also = {name: filters[name] for name in ("from", "to") if name in filters}
        else:
            period = asked.period or "24h"
            since = rfc3339(self._now() - PERIODS[period])
            filters, also = asked.filters(**{"from": since}), {"period": period}
        params = {"filters": filters, "also": also}
        return await answered(request, self._readers, "audit.stats", params, asked.trail)

    async def export(self, asked: Annotated[ExportAsked, Query()]) -> Response:
        name: FormatName = "jsonl" if asked.format == "json" else asked.format
        kind = FORMATS[name]
        # Of nothing that was sent: it is a header.
        stamp = rfc3339(self._now())[:19].replace(":", "").replace("-", "")
        return await streamed(
            self._readers,
            "audit.export",
            {"filters": asked.filters(), "format": name},
            EXPORTS,
            media_type=kind.media_type,
            headers={
                **NOT_KEPT,
                "content-disposition": f'attachment; filename="audit-{stamp}Z.{kind.suffix}"',
            },
            trail=asked.trail,
        )

    async def tail(
        self,
        asked: Annotated[TailAsked, Query()],
        last_event_id: Annotated[str, Header(max_length=32)] = "",
    ) -> Response:
        params = {
            "filters": asked.filters(),
            "count": asked.n,
            "after": _cursor("last-event-id", last_event_id),
        }
        return await streamed(
            self._readers,
            "audit.tail",
            params,
            TAILS,
            media_type="text/event-stream",
            headers=NOT_KEPT,
            trail=asked.trail,
        )


def _cursor(name: str, text: str) -> str:
    try:
        return str(cursor_of(name, text)) if text else ""
    except BadFilter as error:
        raise HTTPException(400, str(error)) from None
