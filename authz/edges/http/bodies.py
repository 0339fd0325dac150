"""Request bodies, no larger than what Envoy lets through."""

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from authz.core.names import MAX_BODY


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        HTTPException: 413 when it is too large, 400 when it ends too early.
    """
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    except ClientDisconnect:
        raise HTTPException(400, "the body ended before its length") from None
    return body
