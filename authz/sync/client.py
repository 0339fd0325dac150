"""What a control plane is asked, and how its answers are taken: what is none is a `SyncFailed`.

- The token goes to SYNC_URL's host alone: no redirect is followed, no cookie is kept, and nothing
  of a request is logged.
- Answers are bounded in bytes and in time, also where a peer sends a byte a minute (`deadline.py`),
  and are asked for without compression, so that nothing can grow here.
- Only https goes through a proxy of the environment (HTTPS_PROXY, NO_PROXY): to it everything stays
  unread, and cleartext would not.
"""

import contextlib
import json
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from authz import __version__
from authz.core.retry_after import retry_after
from authz.core.text import visible
from authz.sync.deadline import TookTooLong, within
from authz.sync.errors import Cause, SyncFailed
from authz.sync.plan import Plan

#: Seconds to connect, and until the next bytes: a control plane answers while it is worth waiting.
CONNECT_S: Final = 10.0
SILENT_S: Final = 20.0
#: Seconds that one request may take as a whole: 8 MiB at 64 KiB a second take two minutes.
TOTAL_S: Final = 180.0
#: Bytes of an answer in JSON, or of a signature; ours have a few hundred.
MAX_SMALL: Final = 64 * 1024
#: Characters of what somebody else says that are repeated.
MAX_SAID: Final = 300
#: Of the answer to rows that contradict what is known there: its last one.
LAST_HEADER: Final = "x-meshguard-ingest-last"
#: What may be worth asking again soon (RFC 9110 §15, RFC 6585 §4).
_BUSY: Final = (408, 425, 429, 503)


T = TypeVar("T", bound=BaseException)


class ControlPlane:
    """The other side. Use it as a context manager, in the main thread."""

    def __init__(self, plan: Plan, *, total_s: float = TOTAL_S, silent_s: float = SILENT_S) -> None:
        """
        Raises:
            SyncFailed: its certificates cannot be read.
        """
        #: As sentences call it: without a user, which SYNC_URL cannot have, and without a query.
        self.name: Final = plan.url
        self._total_s = total_s
        self._client = httpx.Client(
            base_url=plan.url,
            verify=_trust(plan.ca_file) if plan.ca_file else True,
            proxy=_proxy(plan.url),
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(silent_s, connect=min(CONNECT_S, silent_s)),
            headers={
                "authorization": f"Bearer {plan.token}",
                "accept-encoding": "identity",
                "user-agent": f"authz-sync/{__version__}",
            },
        )

    def __enter__(self) -> "ControlPlane":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextlib.contextmanager
    def get(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """An answer whose body is to be read with `iter_raw`, in the block.

        Raises:
            SyncFailed: there is none in time, or it breaks off.
        """
        with self._asking("GET", path), self._client.stream("GET", path, headers=headers) as answer:
            yield answer

    def small(self, path: str) -> bytes | None:
        """A short body; None where there is no such thing (404).

        Raises:
            SyncFailed: there is no answer, or another one.
        """
        with self.get(path, {}) as answer:
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                raise self.refusal(answer, path)
            return self._body(answer)

    def upload(self, path: str, name: str, stream: BinaryIO) -> dict[str, Any]:
        """Send a file as a form's field; the JSON object that comes back with 200.

        Raises:
            SyncFailed: there is no answer, or another one.
            TooLarge: it does not take as much at once.
        """
        files = {name: (f"{name}.db", stream, "application/vnd.sqlite3")}
        with (
            self._asking("POST", path),
            self._client.stream("POST", path, files=files, headers={"accept": "application/json"})
            as answer,
        ):  # fmt: skip
            if answer.status_code == 413:
                raise TooLarge
            if answer.status_code != 200:
                raise self.refusal(answer, path)
            try:
                said = json.loads(self._body(answer))
            except (ValueError, RecursionError):
                said = None
            if not isinstance(said, dict):
                raise self.nonsense(answer, "JSON")
            return said

    def refusal(self, answer: httpx.Response, path: str) -> SyncFailed:
        """What an answer that is no good one means."""
        status, later = (
            answer.status_code,
            retry_after(answer.headers.get("retry-after", ""), time.time()),
        )
        if 300 <= status < 400 and status != 304:
            host = _host(answer.headers.get("location", ""), self.name)
            return SyncFailed(
                Cause.REDIRECTED,
                f"SYNC_URL: {self.name} answers with a redirect to {host}, which is not followed;"
                " set SYNC_URL to where the control plane itself is",
            )
        message = self._message(answer)
        if status in (401, 403):
            return SyncFailed(
                Cause.UNAUTHORISED,
                f"SYNC_TOKEN: {self.name} does not take it (HTTP {status}); it must be the control"
                " plane's ADMIN_TOKEN",
                later,
            )
        if status in (404, 405):
            return SyncFailed(
                Cause.MISSING,
                f"SYNC_URL: {self.name} has no {path} (HTTP {status}); it is no control plane, it"
                " is older than this, or its admin API is off",
            )
        if status in _BUSY:
            return SyncFailed(
                Cause.BUSY,
                f"{self.name} is busy (HTTP {status}){message}; it is asked later",
                later,
            )
        if status >= 500:
            return SyncFailed(
                Cause.SERVER, f"{self.name} fails (HTTP {status}){message}; look at its log", later
            )
        if status >= 400:
            last = answer.headers.get(LAST_HEADER, "") if status == 409 else ""
            return SyncFailed(
                Cause.REFUSED_THERE,
                f"{self.name} refuses {path} (HTTP {status}){message}",
                later,
                int(last) if re.fullmatch(r"[0-9]{1,18}", last) else None,
            )
        return self.nonsense(answer, "such an answer")

    def nonsense(self, answer: httpx.Response, expected: str) -> SyncFailed:
        """What answers is something else."""
        kind = visible(answer.headers.get("content-type", "no content type")[:MAX_SAID])
        return SyncFailed(
            Cause.NOT_A_GATEWAY,
            f"SYNC_URL: {self.name} answers HTTP {answer.status_code} with {kind}, and no"
            f" {expected}; something else answers there, a login page or a proxy for instance",
        )

    def broken_off(self) -> SyncFailed:
        """The connection ended in the middle."""
        return SyncFailed(
            Cause.BROKEN_OFF, f"{self.name}: the transfer broke off before its end; it is resumed"
        )

    @contextlib.contextmanager
    def _asking(self, method: str, path: str) -> Iterator[None]:
        try:
            with within(self._total_s):
                yield
        except TookTooLong:
            raise SyncFailed(
                Cause.SLOW, f"{self.name}: {method} {path} takes longer than {self._total_s:g} s"
            ) from None
        except httpx.TimeoutException as error:
            raise self._timed_out(error) from None
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise self._broken(error) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise self._unreachable(error) from None

    def _timed_out(self, error: httpx.TimeoutException) -> SyncFailed:
        if isinstance(error, httpx.ConnectTimeout):
            return SyncFailed(
                Cause.UNREACHABLE,
                f"SYNC_URL: {self.name}: nobody answers there in time; the network or a firewall is"
                " in the way, or the control plane is down",
            )
        return SyncFailed(Cause.SLOW, f"{self.name}: no byte came for too long")

    def _broken(self, error: httpx.HTTPError) -> SyncFailed:
        """HTTP that is none, or a connection that ended; a TLS that begins as HTTP is among it."""
        if _cause_of(error, ssl.SSLError) is not None:
            return self._unreachable(error)
        return self.broken_off()

    def _unreachable(self, error: Exception) -> SyncFailed:
        untrusted = _cause_of(error, ssl.SSLCertVerificationError)
        if untrusted is not None:
            return SyncFailed(
                Cause.TLS,
                f"SYNC_CA_FILE: the certificate of {self.name} is not trusted:"
                f" {visible(untrusted.verify_message[:MAX_SAID])}",
            )
        if _cause_of(error, ssl.SSLError) is not None:
            return SyncFailed(
                Cause.TLS, f"SYNC_URL: {self.name} does not speak TLS as https needs it"
            )
        if _cause_of(error, socket.gaierror) is not None:
            return SyncFailed(
                Cause.UNREACHABLE,
                f"SYNC_URL: the name of {self.name} is not known; the network is away, or the name"
                " is wrong",
            )
        system = _cause_of(error, OSError)
        said = (system.strerror if system is not None else "") or type(error).__name__
        return SyncFailed(
            Cause.UNREACHABLE,
            f"SYNC_URL: {self.name} cannot be reached: {said}; the control plane is down, or the"
            " address is wrong",
        )

    def _body(self, answer: httpx.Response) -> bytes:
        read = bytearray()
        for piece in answer.iter_raw():
            read += piece
            if len(read) > MAX_SMALL:
                raise self.nonsense(answer, f"answer of at most {MAX_SMALL >> 10} KiB")
        return bytes(read)

    def _message(self, answer: httpx.Response) -> str:
        """What it says itself, to be put into a sentence."""
        try:
            said = json.loads(self._body(answer))
        except (SyncFailed, ValueError, RecursionError, httpx.HTTPError):
            return ""
        message = said.get("message") if isinstance(said, dict) else None
        return f": {visible(message[:MAX_SAID])}" if isinstance(message, str) and message else ""


class TooLarge(Exception):
    """The other side does not take as much at once (413)."""


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        said = (error.strerror or "") if not isinstance(error, ssl.SSLError) else ""
        raise SyncFailed(
            Cause.TLS,
            f"SYNC_CA_FILE: {ca_file} cannot be used: {said or 'no certificates in PEM'}",
        ) from None


def _proxy(url: str) -> str | None:
    """The environment's proxy for this; `urllib` knows who is to be asked without."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return proxies.get("https") or proxies.get("all")


def _cause_of(error: BaseException, kind: type[T]) -> T | None:
    """The first of its causes that is of this kind."""
    seen: BaseException | None = error
    for _ in range(16):
        if seen is None or isinstance(seen, kind):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _host(location: str, base: str) -> str:
    """The host of a redirect; what else stands in it may be secret."""
    try:
        parts = urlsplit(location)
        host = parts.hostname or urlsplit(base).hostname or ""
    except ValueError:
        host = ""
    return visible(host[:MAX_SAID]) or "nowhere"
