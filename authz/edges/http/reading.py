"""Answers that a reader process makes (`edges/readers`), sent as they come."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from authz.edges.readers.pool import (
    LOCAL,
    TAILS,
    Lane,
    Nothing,
    Readers,
    Stream,
    TrailName,
    Unavailable,
)

log = logging.getLogger(__name__)

#: Seconds that whoever reads an answer may take for one piece of it.
TAKE_S: Final = 60.0

T = TypeVar("T")


async def answered(
    request: Request,
    readers: Readers,
    job: str,
    params: Mapping[str, object],
    trail: TrailName = LOCAL,
) -> Response:
    """The JSON object that a job makes; it is given up when whoever asked has gone.

    Raises:
        HTTPException: 404, there is no such thing; 503, not now.
    """
    body = await _while_asked(request, readers.ask(job, params, trail))
    if body is None:
        # Nobody will see it.
        return Response(status_code=503)
    return Response(body, media_type="application/json")


async def streamed(
    readers: Readers,
    job: str,
    params: Mapping[str, object],
    lane: Lane,
    *,
    media_type: str,
    headers: Mapping[str, str],
    trail: TrailName = LOCAL,
) -> Response:
    """What a job makes, as it comes. It is not waited for before the answer begins.

    Raises:
        HTTPException: as `answered`, where that is known before the answer begins.
    """
    stream = await _refusing(readers.stream(job, params, lane, trail))
    return _Piped(readers, stream, lane, media_type, headers)


async def _refusing(work: Awaitable[T]) -> T:
    try:
        return await work
    except Nothing as error:
        raise HTTPException(404, str(error)) from None
    except Unavailable as error:
        raise HTTPException(503, str(error), {"retry-after": str(error.retry_after_s)}) from None


async def _while_asked(request: Request, work: Awaitable[T]) -> T | None:
    """What comes of it; None when whoever asked has gone, and then it is given up."""
    asked = asyncio.ensure_future(_refusing(work))
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
        return asked.result() if asked.done() else None
    finally:
        for task in (asked, gone):
            task.cancel()
        # Only then its place is free again.
        await asyncio.wait((asked, gone))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Piped(StreamingResponse):
    """A stream of a reader's. What is not whole has no end, so that nobody takes it for whole."""

    def __init__(
        self,
        readers: Readers,
        stream: Stream,
        lane: Lane,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(stream, media_type=media_type, headers=dict(headers))
        self._readers = readers
        self._stream = stream
        self._lane = lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()

    async def stream_response(self, send: Send) -> None:
        """As the class above does it."""

        async def patient(message: Message) -> None:
            try:
                async with asyncio.timeout(TAKE_S):
                    await send(message)
            except TimeoutError:
                raise Unavailable("whoever asked for it does not read it") from None

        try:
            await super().stream_response(patient)
        except Unavailable as error:
            if self._lane is TAILS and self._readers.closing:
                # Nothing is missing: who follows asks again.
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                # A body without an end: uvicorn then closes the connection in its middle.
                log.error("an answer was broken off: %s", error)
