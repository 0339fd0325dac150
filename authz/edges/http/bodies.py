"""Request bodies: no larger than what Envoy lets through, and read in one way only."""

import json
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from authz.core.facts import distinct
from authz.core.names import MAX_BODY

#: Longest sentence about a body, characters: keys in it are the sender's.
MAX_SENTENCE: Final = 300


class Body(BaseModel):
    """A body whose every key is known, and of which each value has its one type."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=to_camel,
    )

    def given(self) -> dict[str, Any]:
        """What the body says, by our names; what it sets to null counts as not said."""
        values = {name: getattr(self, name) for name in sorted(self.model_fields_set)}
        return {name: value for name, value in values.items() if value is not None}


B = TypeVar("B", bound=BaseModel)


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


async def read_json(request: Request, model: type[B], *, optional: bool = False) -> B:
    """The body as a model has it.

    Args:
        optional: no body at all is one that says nothing.

    Raises:
        HTTPException: as `read_body`; 400 where it is not such a body, with the first place where.
    """
    body = await read_body(request)
    if optional and not body:
        body = b"{}"
    try:
        # A key that appears twice would be one value here and another one elsewhere.
        data = json.loads(body, object_pairs_hook=distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "body"
        said = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise HTTPException(400, f"{where}: {said}"[:MAX_SENTENCE]) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
