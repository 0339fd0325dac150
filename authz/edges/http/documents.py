"""Policies, and other documents, as somebody sends them: YAML as a file has it, or JSON.

They are read by the loader itself, in a thread, and in a process where that takes long. JSON is
written as YAML first, so that what is looked at is what would be stored; the places of its problems
are not told, for nobody has seen that text.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from authz.core.facts import distinct
from authz.core.names import RETRY_AFTER_S
from authz.core.policy_entry import problem_entries
from authz.core.policy_file import Parsed, Problem
from authz.core.policy_set import PolicyFile, build
from authz.core.policy_text import written
from authz.edges.http.bodies import JSON_TYPES, read_body, require_content_type, require_few
from authz.edges.threads import in_thread
from authz.stores.parsing import parse_aside

#: What policy files are called (RFC 9512, and before it).
YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml")
#: How problems name what was sent.
BODY: Final = "body"
#: Documents that are looked at together, each perhaps in a process; and seconds that others wait.
AT_ONCE: Final = 2
TURN_S: Final = 2.0

_BOM: Final = b"\xef\xbb\xbf"


class Sent(NamedTuple):
    """What was sent, read."""

    text: bytes
    parsed: Parsed
    #: It came as YAML, so that its sender knows its lines.
    is_placed: bool
    #: What is wrong with it, also with several documents beside each other.
    problems: Sequence[Problem]

    def as_file(self) -> PolicyFile:
        """It as a file of policies."""
        return _as_file(self.parsed)


class Reader:
    """Reads what is sent, a few documents at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def sent(self, request: Request) -> Sent:
        """The body of a request.

        Raises:
            HTTPException: 400, 413, 415: it is no text that could be a document; 503.
        """
        body = await read_body(request)
        if not body.strip():
            raise HTTPException(400, "the body is missing; send a policy, as YAML or JSON")
        media = require_content_type(request, (*JSON_TYPES, *YAML_TYPES))
        if media in YAML_TYPES:
            return await self.of_text(body)
        require_few(body, "send it as YAML")
        try:
            return await self.of_object(json.loads(body, object_pairs_hook=distinct))
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is not JSON") from None

    async def of_object(self, document: Any) -> Sent:
        """A document as JSON has it.

        Raises:
            ValueError, RecursionError: it cannot be written down.
            HTTPException: 503.
        """

        def work() -> Sent:
            return _read(written(document), is_placed=False)

        return await self._in_turn(work)

    async def of_text(self, text: bytes) -> Sent:
        """Documents as a file has them.

        Raises:
            HTTPException: 503.
        """
        text = text.removeprefix(_BOM)
        return await self._in_turn(lambda: _read(text, is_placed=True))

    async def _in_turn(self, work: Callable[[], Sent]) -> Sent:
        try:
            await asyncio.wait_for(self._turns.acquire(), TURN_S)
        except TimeoutError:
            raise busy("others' policies are being read; ask again") from None
        try:
            return await in_thread(work)
        finally:
            self._turns.release()


def _read(text: bytes, *, is_placed: bool) -> Sent:
    [parsed] = parse_aside([(text, BODY)])
    problems = [*parsed.problems, *build([_as_file(parsed)]).problems]
    return Sent(text, parsed, is_placed, problems)


def _as_file(parsed: Parsed) -> PolicyFile:
    return PolicyFile(BODY, parsed.policies, chain=parsed.chain)


def busy(message: str) -> HTTPException:
    """It cannot be done just now."""
    return HTTPException(503, message, {"retry-after": str(RETRY_AFTER_S)})


def told(problems: Sequence[Problem], *, is_placed: bool) -> dict[str, list[dict[str, Any]]]:
    """Problems as answers have them."""
    return {
        f"{severity}s": problem_entries(problems, severity, placed=is_placed)
        for severity in ("error", "warning")
    }


def looked_at(sent: Sent) -> JSONResponse | None:
    """The answer to what is not valid; None where it is."""
    found = told(sent.problems, is_placed=sent.is_placed)
    if not found["errors"]:
        return None
    first, more = found["errors"][0], len(found["errors"]) - 1
    message = f"line {first['line']}: {first['message']}" if "line" in first else first["message"]
    message += f"; and {more} more errors" if more > 1 else "; and one more error" * more
    return JSONResponse({"error": "invalid", "message": message, "valid": False, **found}, 422)
