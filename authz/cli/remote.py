"""A sidecar's API, as commands ask it: one client, and every answer that is none a sentence.

- No redirect is followed: the token goes where it was meant for. Only HTTPS goes through a proxy of
  the environment, as it stays unread there.
- What answers is not believed to be a sidecar: answers are bounded, and what is no JSON object of
  ours is said to be none.
- Exit codes are CONTRACT §14's: 1 failed, 2 what was asked is not usable, 3 not authorised, 4 not
  allowed, 5 nobody there.
"""

import contextlib
import email.utils
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import quote

import httpx

from authz.cli.destination import Destination
from authz.cli.options import said
from authz.cli.shared import (
    BAD_ARGUMENTS,
    DENIED,
    FAILED,
    REFUSED,
    UNREACHABLE,
    fail,
    note,
)
from authz.core.errors import Code
from authz.core.text import visible

#: Seconds that the admin API may take to accept a connection, and to send the next bytes.
CONNECT_S: Final = 5.0
ADMIN_TIMEOUT_S: Final = 10.0
#: Seconds that a whole answer may take.
TOTAL_S: Final = 60.0
#: Bytes of an answer that is read as a whole; a page of a thousand entries has far fewer.
MAX_ANSWER: Final = 64 * 1024 * 1024
#: Characters of a sentence of somebody else's that are repeated.
MAX_MESSAGE: Final = 500
#: Entries that one page has, and pages that one list may have.
PAGE: Final = 1000
MAX_PAGES: Final = 10_000
#: Seconds by which the other clock may differ and count as ours: `Date` has whole ones.
SKEW_S: Final = 2.0
#: A route that every admin API has.
_ANY_ADMIN_ROUTE: Final = "/admin/fuses"

_EXIT_CODES: Final = {
    400: BAD_ARGUMENTS, 401: REFUSED, 403: DENIED, 413: BAD_ARGUMENTS, 415: BAD_ARGUMENTS,
    422: BAD_ARGUMENTS,
}  # fmt: skip


class Refusal(Exception):
    """The sidecar has answered that it does not do that."""

    def __init__(self, status: int, message: str, code: str, body: Mapping[str, Any]) -> None:
        """
        Args:
            status: of HTTP, 400 or above.
            message: one sentence.
            code: of docs/codes.md; empty where there is none.
            body: the whole answer.
        """
        super().__init__(message)
        self.status: Final = status
        self.message: Final = message
        self.code: Final = code
        self.body: Final = body

    @property
    def exit_code(self) -> int:
        """What a command ends with."""
        if self.status == 409 and self.code:
            return DENIED
        if self.status == 503 and self.code == Code.CIRCUIT_OPEN:
            # Envoy is there, and the service behind it is not.
            return UNREACHABLE
        return _EXIT_CODES.get(self.status, FAILED)


class Broken(Exception):
    """There is nobody, or an answer has broken off; one sentence."""


class Remote:
    """One sidecar's API. Use it as a context manager."""

    def __init__(
        self, there: Destination, *, worded: Callable[[str], str] = lambda sentence: sentence
    ) -> None:
        """
        Args:
            worded: makes of the API's sentences a command's.
        """
        self._there = there
        self._worded = worded
        self._skew_s = 0.0
        is_https = there.base_url.startswith("https:")
        transport = None if there.socket is None else httpx.HTTPTransport(uds=str(there.socket))
        try:
            self._client = httpx.Client(
                base_url=there.base_url,
                transport=transport,
                trust_env=is_https,
                follow_redirects=False,
                timeout=httpx.Timeout(ADMIN_TIMEOUT_S, connect=CONNECT_S),
                headers={"accept": "application/json", **_credential(there.token)},
            )
        except (OSError, ValueError) as error:
            # SSL_CERT_FILE or a proxy of the environment.
            self._unreachable(str(error)[:MAX_MESSAGE])

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        """What people call it: its URL or the path of its socket."""
        return self._there.name

    def now(self) -> float:
        """Seconds since the epoch by its clock, as far as it has said what that is."""
        return time.time() + self._skew_s

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        caught: Collection[int] = (),
    ) -> dict[str, Any]:
        """The body of an answer; exits with a sentence where there is none or it is a refusal.

        Args:
            params: of the query; empty ones are left out.
            body: JSON to send.
            content: bytes to send in its place; `headers` say what they are.
            caught: statuses that raise what is otherwise said.

        Raises:
            Refusal: the answer has one of these statuses.
        """
        with self._sent(method, path, params, body, content, headers, None) as answer:
            said = self._read(answer)
        return self._accepted(answer, said, caught)

    def pages(
        self,
        path: str,
        name: str,
        *,
        params: Mapping[str, str | int] | None = None,
        most: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The entries of a list, page after page.

        Args:
            name: of the list in an answer.
            most: entries at most; all when None.
        """
        query, given = dict(params or {}), 0
        for _ in range(MAX_PAGES):
            query["limit"] = PAGE if most is None else min(PAGE, most - given)
            page = self.ask("GET", path, params=query)
            entries = page.get(name)
            if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
                self.no_sidecar(f"its answer has no list of {name}")
            for entry in entries:
                yield entry
                given += 1
                if given == most:
                    return
            after = page.get("next")
            if not after:
                return
            if not isinstance(after, str) or after == query.get("after") or not entries:
                self.no_sidecar("its list has no end")
            query["after"] = after
        fail([f"{self.name}: the list has more than {MAX_PAGES * PAGE} entries"], FAILED)

    @contextlib.contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        silent_s: float = ADMIN_TIMEOUT_S,
    ) -> Iterator[httpx.Response]:
        """An answer to be read as it comes; its status is 2xx.

        Args:
            silent_s: seconds that may pass without a byte.

        Raises:
            Broken: there is none, or it has broken off.
        """
        with self._answered("GET", path, params, None, None, headers, silent_s) as answer:
            if not answer.is_success:
                self._accepted(answer, self._read(answer), ())
            yield answer

    def no_sidecar(self, why: str) -> NoReturn:
        """Say that what answers there is none, and exit."""
        fail([f"{self.name}: what answers there is no sidecar: {why}"], UNREACHABLE)

    @contextlib.contextmanager
    def _sent(self, *request: Any) -> Iterator[httpx.Response]:
        """As `_answered`; where there is nobody that is said."""
        try:
            with self._answered(*request) as answer:
                yield answer
        except Broken as error:
            self._unreachable(str(error))

    @contextlib.contextmanager
    def _answered(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        body: object,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        silent_s: float | None,
    ) -> Iterator[httpx.Response]:
        query = {name: value for name, value in (params or {}).items() if value != ""}
        timeout = httpx.Timeout(silent_s or ADMIN_TIMEOUT_S, connect=CONNECT_S)
        began = time.monotonic()
        try:
            with self._client.stream(
                method,
                path,
                params=query,
                # `json=None` sends nothing, and `content=None` too.
                json=body,
                content=content,
                headers=headers,
                timeout=timeout,
            ) as answer:
                self._tell(answer, began)
                self._set_clock(answer)
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Broken(str(error)[:MAX_MESSAGE] or "no answer in time") from None

    def _unreachable(self, why: str) -> NoReturn:
        fail([f"{self.name}: the sidecar cannot be reached: {why}"], UNREACHABLE)

    def _tell(self, answer: httpx.Response, began: float) -> None:
        if not said().verbose:
            return
        took = (time.monotonic() - began) * 1000
        target = answer.request.url.raw_path.decode("ascii")
        note(f"{answer.request.method} {target} → {answer.status_code} in {took:.0f} ms")

    def _set_clock(self, answer: httpx.Response) -> None:
        with contextlib.suppress(TypeError, ValueError, OverflowError, KeyError):
            there = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
            skew = there - time.time()
            self._skew_s = skew if abs(skew) > SKEW_S else 0.0

    def _read(self, answer: httpx.Response) -> object:
        """The answer's JSON; None where it is no such thing."""
        ends, read = time.monotonic() + TOTAL_S, bytearray()
        for part in answer.iter_bytes():
            read += part
            if len(read) > MAX_ANSWER:
                self.no_sidecar(f"its answer is larger than {MAX_ANSWER >> 20} MiB")
            if time.monotonic() > ends:
                self._unreachable(f"its answer takes longer than {TOTAL_S:.0f} s")
        try:
            return json.loads(read)
        except (ValueError, RecursionError):
            return None

    def _accepted(
        self, answer: httpx.Response, body: object, caught: Collection[int]
    ) -> dict[str, Any]:
        """The body of a good answer; otherwise what it says is said."""
        status = answer.status_code
        if answer.is_redirect:
            to = answer.headers.get("location", "nowhere")[:MAX_MESSAGE]
            self.no_sidecar(f"it sends us to {to}")
        if not isinstance(body, dict):
            kind = answer.headers.get("content-type", "no content type")[:MAX_MESSAGE]
            self.no_sidecar(f"HTTP {status} with {kind}, and no JSON object")
        if not answer.is_success:
            self._refused(answer, body, caught)
        return body

    def _refused(
        self, answer: httpx.Response, body: Mapping[str, Any], caught: Collection[int]
    ) -> NoReturn:
        status, message = answer.status_code, body.get("message")
        if not isinstance(message, str) or not message:
            if status not in caught:
                self.no_sidecar(f"HTTP {status}, and no message")
            message = ""
        if status == 404 and message.startswith("there is nothing at"):
            message, caught = self._missing(answer.request), ()
        code = body.get("code")
        refusal = Refusal(
            status,
            self._worded(message[:MAX_MESSAGE]),
            code if isinstance(code, str) else "",
            body,
        )
        if status in caught:
            raise refusal
        fail([refusal.message], refusal.exit_code)

    def _missing(self, request: httpx.Request) -> str:
        """Why there is no such route."""
        with self._sent("GET", _ANY_ADMIN_ROUTE, None, None, None, None, None) as answer:
            if answer.status_code == 404:
                return "its admin API is off: it was started without ADMIN_TOKEN"
        return f"it knows no {request.method} {request.url.path}; it is older than this command"


def _credential(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def segment(name: str) -> str:
    """A name as a segment of a path; exits where it cannot be one."""
    if not name or name in (".", "..") or set(name) & {"/", "\\"}:
        said = "cannot stand in a path; use the command where the database is"
        fail([f"{visible(name) or 'an empty name'} {said}"], BAD_ARGUMENTS)
    return quote(name, safe="")
