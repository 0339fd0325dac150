"""One OTLP collector over HTTP: bytes there, and what it says to them (OTLP 1.x, §OTLP/HTTP).

- One connection, kept open. Redirects are not followed: spans go where the settings say.
- What it answers is hostile: bounded, read within the time that is left, and never logged but as
  a number. What is sent besides, the headers, is never shown at all.
"""

import contextlib
import gzip
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Final

from authz.core.otlp import rejected_of
from authz.core.retry_after import retry_after
from authz.core.tracing import Export

#: Answers after which the same may be sent again (OTLP/HTTP, "Retryable Response Codes").
_RETRYABLE: Final = frozenset((429, 502, 503, 504))
#: Bytes of an answer that are read; ExportTraceServiceResponse is empty, or a number and a text.
_MAX_ANSWER: Final = 64 * 1024
#: Level of gzip: spans are mostly the same few texts, and the fastest finds those.
_LEVEL: Final = 1
#: Seconds that a collector may ask us to wait, at most.
_MAX_WAIT_S: Final = 300.0


class Failure(Exception):
    """The spans were not taken: why, in a clause."""

    def __init__(self, why: str, *, may_repeat: bool, wait_s: float = 0.0) -> None:
        """
        Args:
            may_repeat: sending them again may help.
            wait_s: seconds that the collector asks for; 0 where it does not.
        """
        super().__init__(why)
        self.may_repeat = may_repeat
        self.wait_s = wait_s


class Collector:
    """Where spans go. For one thread."""

    def __init__(self, export: Export, user_agent: str) -> None:
        """
        Raises:
            ValueError: its files of certificates cannot be used; a sentence without the variable.
        """
        self._export = export
        self._tls = _tls(export) if export.is_tls else None
        self._headers = {
            **dict(export.headers),
            "content-type": "application/x-protobuf",
            "user-agent": user_agent,
        }
        if export.is_compressed:
            self._headers["content-encoding"] = "gzip"
        self._connection: http.client.HTTPConnection | None = None

    def send(self, body: bytes, timeout_s: float) -> int:
        """Send an ExportTraceServiceRequest.

        Args:
            timeout_s: that the answer may take in all, seconds.

        Returns:
            How many of its spans the collector says it has not taken.

        Raises:
            Failure: it has taken none, as far as we know.
        """
        if self._export.is_compressed:
            body = gzip.compress(body, _LEVEL)
        deadline = time.monotonic() + timeout_s
        # A connection that was kept may be gone: that shows when it is used, and is no failure.
        is_kept = self._connection is not None
        try:
            try:
                status, headers, answer = self._exchange(body, deadline)
            except (http.client.RemoteDisconnected, ConnectionError):
                if not is_kept or time.monotonic() >= deadline:
                    raise
                self.close()
                status, headers, answer = self._exchange(body, deadline)
        except TimeoutError:
            self.close()
            raise Failure(f"no answer in {timeout_s:g} s", may_repeat=True) from None
        except ssl.SSLError as error:
            self.close()
            raise Failure(f"TLS: {error.reason or 'failed'}", may_repeat=True) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if time.monotonic() >= deadline:
                raise Failure(f"no answer in {timeout_s:g} s", may_repeat=True) from None
            raise Failure(_why(error), may_repeat=True) from None
        if 200 <= status < 300:
            return _taken(headers, answer)
        raise Failure(
            f"it answered {status}",
            may_repeat=status in _RETRYABLE,
            wait_s=min(retry_after(headers.get("retry-after", ""), time.time()), _MAX_WAIT_S),
        )

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def _exchange(self, body: bytes, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect(_left(deadline))
            connection.connect()
            # Headers and body are two writes, and the second would wait for the first's ack.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock: socket.socket = connection.sock
        sock.settimeout(_left(deadline))
        with _guarded(sock, deadline):
            connection.request("POST", self._export.path, body, self._headers)
            answer = connection.getresponse()
        expected, content = answer.length, b""
        is_whole = expected == 0
        while not is_whole and len(content) < _MAX_ANSWER:
            sock.settimeout(_left(deadline))
            more = answer.read1(_MAX_ANSWER - len(content))
            content += more
            is_whole = not more or len(content) == expected
        headers = {name.lower(): value for name, value in answer.getheaders()}
        answer.close()
        if not is_whole or answer.will_close:
            self.close()  # there is more of it, or it is the last
        return answer.status, headers, content

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._export.host, self._export.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)


def _tls(export: Export) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=export.ca_file or None)
        if export.cert_file:
            context.load_cert_chain(export.cert_file, export.key_file)
    except ssl.SSLError as error:
        raise ValueError(f"not a certificate or key that can be used: {error.reason}") from None
    except OSError as error:
        raise ValueError(f"a file cannot be read: {error.strerror}") from None
    return context


@contextlib.contextmanager
def _guarded(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Cut a connection at the deadline: a byte now and then keeps a socket's own timeout away."""
    # Of a descriptor of its own, since the other one may be closed meanwhile.
    with socket.socket(fileno=os.dup(sock.fileno())) as same:

        def cut() -> None:
            with contextlib.suppress(OSError):
                same.shutdown(socket.SHUT_RDWR)

        guard = threading.Timer(max(deadline - time.monotonic(), 0.0), cut)
        guard.daemon = True
        guard.start()
        try:
            yield
        finally:
            guard.cancel()
            guard.join()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _why(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.RemoteDisconnected):
        return "it hung up"
    return "it does not speak HTTP"


def _taken(headers: Mapping[str, str], answer: bytes) -> int:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/x-protobuf":
        # A web server says 200 to everything; nobody has the spans. JSON says the same as nothing
        # where it is an empty object.
        if kind == "application/json" and answer.strip() in (b"", b"{}", b'{"partialSuccess":{}}'):
            return 0
        raise Failure("its answer is not a collector's", may_repeat=False)
    try:
        return rejected_of(answer)
    except ValueError:
        raise Failure("its answer is not a collector's", may_repeat=False) from None
