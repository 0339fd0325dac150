"""Answers that whoever asks again need not be sent again (RFC 9110 §13)."""

import hashlib

from fastapi import Request
from fastapi.responses import Response


def tag_of(content: bytes) -> str:
    """An entity tag that is the content's own."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def unless_known(request: Request, response: Response) -> Response:
    """The answer, or 304 without a body where `If-None-Match` has its `ETag`."""
    known = [tag.strip().removeprefix("W/") for tag in _sent(request).split(",")]
    if response.headers["etag"] not in known and "*" not in known:
        return response
    # What describes the body goes with it.
    kept = {
        name: value for name, value in response.headers.items() if not name.startswith("content-l")
    }
    return Response(status_code=304, headers=kept)


def _sent(request: Request) -> str:
    return ",".join(request.headers.getlist("if-none-match"))
