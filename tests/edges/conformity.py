"""Every answer that a test sees is one that the reference describes.

- The status is listed for the operation, the content type and the body are that status's, and the
  headers that it always has are there.
- What is no operation is 404, or 405 with `Allow`, and has the one body of errors.
- Nothing redirects.
"""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import httpx
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from authz.edges.http.reference import OPENAPI
from authz.reference.build import ALIASES

#: The page and its parts, which do not describe themselves.
UNDESCRIBED: Final = ("/api/docs", "/api/openapi.json")
ERROR: Final = {"$ref": "#/components/schemas/Error"}

_URI: Final = "urn:openapi"
_FORMATS: Final = FormatChecker(formats=())


class Unlike(AssertionError):
    """An answer that is not as it is described; one sentence."""


@_FORMATS.checks("date-time")
def _is_time(value: object) -> bool:
    """As `core/timestamps.py` writes it; what is no text is for the type to refuse."""
    written = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    return not isinstance(value, str) or re.fullmatch(written, value) is not None


@functools.cache
def document() -> dict[str, Any]:
    """The reference as it is served; `test_generated.py` holds it against the code."""
    made: dict[str, Any] = json.loads(OPENAPI.read_text())
    return made


def check(answer: httpx.Response) -> None:
    """Hold an answer against what is said of its request.

    Raises:
        Unlike: it is another one.
    """
    method, path = answer.request.method.lower(), answer.request.url.path
    if path.startswith(UNDESCRIBED):
        return
    if 300 <= answer.status_code < 400 and answer.status_code != 304:
        raise Unlike(f"{method} {path} redirects")
    template = template_of(path)
    operation = document()["paths"].get(template, {}).get(method)
    if operation is None or _is_nowhere(answer):
        _check_nothing(answer, is_somewhere=template is not None)
        return
    said = operation["responses"].get(str(answer.status_code))
    if said is None:
        listed = ", ".join(operation["responses"])
        raise Unlike(
            f"{method} {template} answers {answer.status_code}, not {listed}: {answer.text}"
        )
    for name, header in said.get("headers", {}).items():
        if header["required"] and name not in answer.headers:
            raise Unlike(f"{method} {template} answers {answer.status_code} without {name}")
    _check_body(answer, said.get("content", {}), f"{method} {template}")


def template_of(path: str) -> str | None:
    """The path in the reference that a request's path is one of."""
    for alias in ALIASES:
        if path.startswith(alias):
            path = path.removeprefix("/api/v1")
    return next((name for pattern, name in _templates() if pattern.fullmatch(path)), None)


def problems(schema: Mapping[str, Any], value: object) -> list[str]:
    """What of a value is not as a schema of the document says."""
    validator = _validator(json.dumps(schema))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    registry: Registry[Any] = Registry().with_resource(
        _URI, DRAFT202012.create_resource(document())
    )
    absolute = json.loads(schema.replace('"$ref": "#/', f'"$ref": "{_URI}#/'))
    return Draft202012Validator(absolute, registry=registry, format_checker=_FORMATS)


@functools.cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    # A word of its own counts before whatever else may stand there.
    names = sorted(document()["paths"], key=lambda name: name.count("{"))
    parts = ((re.split(r"\{\w+\}", name), name) for name in names)
    return [(re.compile("[^/]+".join(map(re.escape, part))), name) for part, name in parts]


def _is_nowhere(answer: httpx.Response) -> bool:
    """Whether it says that there is no such route: those below /admin are not always there."""
    return answer.status_code == 404 and '"there is nothing at ' in answer.text


def _check_nothing(answer: httpx.Response, *, is_somewhere: bool) -> None:
    asked = f"{answer.request.method} {unquote(answer.request.url.path)}"
    if answer.status_code not in ((404, 405) if is_somewhere else (404,)):
        raise Unlike(f"{asked} is not described, and answers {answer.status_code}")
    if answer.status_code == 405 and not answer.headers.get("allow"):
        raise Unlike(f"{asked} does not say which methods are allowed")
    if answer.request.method == "HEAD":
        return
    _check_body(answer, {"application/json": {"schema": ERROR}}, asked)


def _check_body(answer: httpx.Response, contents: Mapping[str, Any], asked: str) -> None:
    asked = f"{asked} answers {answer.status_code}"
    if not contents:
        if answer.content:
            raise Unlike(f"{asked} with a body")
        return
    media = answer.headers.get("content-type", "").partition(";")[0]
    if media not in contents:
        raise Unlike(f"{asked} in {media or 'no type'}, not {', '.join(contents)}")
    if media != "application/json":
        return
    body = answer.json()
    if not isinstance(body, dict):
        raise Unlike(f"{asked} with what is no object: {answer.text}")
    found = problems(contents[media]["schema"], body)
    if found:
        raise Unlike(f"{asked} with a body that is not as described: {'; '.join(found)}")
