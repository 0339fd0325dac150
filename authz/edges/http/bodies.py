"""Request bodies: no larger than what Envoy lets through, and read in one way only.

- A key that is not known is refused, and the nearest known one named: what a slip of the pen leaves
  out may be what restricts, such as whom somebody acts for.
- What is wrong is said in our words, of bodies and of queries alike (`sentence`).
"""

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from authz.core.facts import distinct
from authz.core.names import MAX_BODY
from authz.core.text import word

#: Longest sentence about a body, characters: keys in it are the sender's.
MAX_SENTENCE: Final = 300
#: Commas of a body. It is read on the event loop's thread, which answers Envoy as well: so many
#: values take it some milliseconds, and a body has room for fifteen times as many.
MAX_COMMAS: Final = 8192
#: What JSON is called.
JSON_TYPES: Final = ("application/json",)
#: Characters of an unknown key that the known ones are compared with.
MAX_COMPARED: Final = 64

#: Sentences by error type (pydantic-core); the braces are filled in from the error's context.
_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "missing",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "too_long": "has more than {max_length} items",
    "string_too_long": "is longer than {max_length} characters",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "extra_forbidden": "there is no such parameter",
    "literal_error": "write {expected}",
    "string_unicode": "must be text that is valid Unicode",
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"
    ),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a JSON object"),
}


class Body(BaseModel):
    """A body whose every key is known, and of which each value has its one type."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=to_camel,
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [key for keys in cls._keys() for key in keys]
            for key in data:
                if key not in known:
                    raise ValueError(_unknown_key(key, known))
        return data

    @classmethod
    def needs(cls) -> str:
        """The keys without which there is no such body, as a sender writes them."""
        fields = zip(cls.model_fields.values(), cls._keys(), strict=True)
        needed = [f'"{keys[0]}": …' for field, keys in fields if field.is_required()]
        return f"{{{', '.join(needed)}}}" if needed else "a JSON object"

    @classmethod
    def _keys(cls) -> list[list[str]]:
        """The spellings of each field, the preferred one first."""
        keys = []
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            if isinstance(alias, AliasChoices):
                keys.append([str(choice) for choice in alias.choices])
            else:
                keys.append([str(alias or name)])
        return keys

    def given(self) -> dict[str, Any]:
        """What the body says, by our names; what it sets to null counts as not said."""
        values = {name: getattr(self, name) for name in sorted(self.model_fields_set)}
        return {name: value for name, value in values.items() if value is not None}


B = TypeVar("B", bound=Body)


def sentence(where: str, error: Mapping[str, Any], otherwise: str = "") -> str:
    """What pydantic has found, in our words.

    Args:
        where: the place, as the sender writes it; empty for the whole body.
        error: as `ValidationError.errors` has it.
        otherwise: what to do where something is missing.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        said = str(context["error"])
    else:
        said = _SENTENCES.get(kind, str(error["msg"])).format_map(context)
    if kind == "missing" and otherwise:
        said = f"{said}; {otherwise}"
    if where:
        said = f"{where}: {said}"
    elif kind != "value_error":
        said = f"the body {said}"
    return said[:MAX_SENTENCE]


def or_null(schema: dict[str, Any]) -> None:
    """Say in a body's schema that null in it is as if the key was not there."""
    for name, of_key in schema["properties"].items():
        if name not in schema["required"] and isinstance(of_key.get("type"), str):
            of_key["type"] = [of_key["type"], "null"]


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


def require_content_type(request: Request, types: Collection[str]) -> str:
    """The body's content type without its parameters; JSON where the request names none.

    A browser sends other sites' forms without asking, in types that are not among these.

    Raises:
        HTTPException: 415, it is none of `types`.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = sent or JSON_TYPES[0]
    if sent not in types:
        raise HTTPException(415, f"content-type: send {' or '.join(types)}, not {word(sent)}")
    return sent


def require_few(body: bytes, otherwise: str) -> None:
    """Hold a body of JSON against `MAX_COMMAS` before it is read.

    Args:
        otherwise: what to do about it.

    Raises:
        HTTPException: 413, it has too many values.
    """
    if body.count(b",") > MAX_COMMAS:
        said = f"the body has more than {MAX_COMMAS} commas; {otherwise}"
        raise HTTPException(413, said)


async def read_json(request: Request, model: type[B], *, optional: bool = False) -> B:
    """The body as a model has it.

    Args:
        optional: no body at all is one that says nothing.

    Raises:
        HTTPException: as `read_body`; 413 where it has too many values; 415 where it says that it
            is no JSON; 400 where it is not such a body, with the first place where.
    """
    body = await read_body(request)
    if body:
        require_content_type(request, JSON_TYPES)
        require_few(body, "send less at once")
    else:
        if not optional:
            raise HTTPException(400, f"the body is missing; send {model.needs()}")
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
        where = ".".join(str(step) for step in first["loc"])
        otherwise = f"send {model.needs()}" if len(first["loc"]) == 1 else ""
        raise HTTPException(400, sentence(where, first, otherwise)) from None


def _unknown_key(key: str, known: list[str]) -> str:
    written = key[:MAX_COMPARED]
    # A shortened key is nearer to what it begins than to one that looks like it.
    close = [name for name in known if key and name.lower().startswith(written.lower())]
    close += difflib.get_close_matches(written, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
    return f"unknown key `{word(key)}`, {hint}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
