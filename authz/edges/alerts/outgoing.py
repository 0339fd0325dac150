"""Connections of ours to hosts that an operator named, and one POST over them.

- The address that was looked at is the one that is connected to: a name that resolves to another
  one a moment later (DNS rebinding) changes nothing. Addresses where metadata services and other
  things of this host answer are refused, unless the URL has the address itself, or `localhost`.
- One deadline for everything, and it holds also against a peer that sends a byte now and then.
- No redirect is followed, no proxy of the environment is used, no cookie is kept; certificates are
  verified; of an answer a little is read and the rest is not.
- A sentence names the host at most: paths and queries of webhooks are secrets.
"""

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

import h11

from authz.core.retry_after import retry_after
from authz.core.text import address, word

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: A host and a port, to addresses in the order in which they are tried; raises OSError.
Resolve = Callable[[str, int], Sequence[str]]

#: Seconds for a connection, and for everything together: the receiver of an alert does no work
#: that takes longer, and its name's look-up has its own limit (`resolv.conf`).
CONNECT_S: Final = 5.0
TOTAL_S: Final = 10.0
#: Seconds for the body of an answer, once the status is known.
BODY_S: Final = 1.0
#: Bytes of an answer's head, and of its body, that are read.
MAX_HEAD: Final = 16_384
MAX_BODY: Final = 2_048
_CHUNK: Final = 4_096
#: NAT64's well-known prefix (RFC 6052 §2.1): the last four bytes are the address that is reached.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_AGENT: Final = "MeshGuard/1.0"


class Refused(Exception):
    """It was not delivered; one sentence. `is_final`: nor will it be, however often it is tried."""

    def __init__(self, said: str, *, is_final: bool = False, after_s: float = 0.0) -> None:
        """`after_s`: seconds that the peer asked for before the next time."""
        super().__init__(said)
        self.is_final = is_final
        self.after_s = after_s


class Answer(NamedTuple):
    """What a peer said."""

    status: int
    #: Its beginning.
    body: bytes
    #: The host that it redirects to; empty where it does not, or to itself.
    redirect: str = ""
    #: Seconds after which to ask again (`Retry-After`); 0 where it does not say.
    after_s: float = 0.0


def resolved(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system orders them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def real(text: str) -> Address:
    """The address that is reached in the end: IPv6 has two ways to write an IPv4 one.

    Raises:
        ValueError: it is no address.
    """
    found = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found in _NAT64:
            return ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
    return found


def allowed(
    host: str, addresses: Sequence[str], denied: Sequence[Network], *, what: str
) -> list[str]:
    """The addresses of a host that may be connected to.

    Raises:
        Refused: none of them.
    """
    with contextlib.suppress(ValueError):
        # Whoever writes an address means it, and it does not change.
        ipaddress.ip_address(host)
        return list(addresses)
    if host.lower() == "localhost":
        return [one for one in addresses if real(one).is_loopback]
    good = [one for one in addresses if not any(real(one) in network for network in denied)]
    if not good:
        raise Refused(
            f"{what}: {host} resolves to {', '.join(addresses[:3])}, where nobody is to be reached"
            " by a name; write that address in place of the name if it is meant"
        )
    return good


@contextlib.contextmanager
def connection(
    host: str,
    port: int,
    *,
    denied: Sequence[Network],
    deadline: float,
    what: str,
    resolve: Resolve = resolved,
) -> Iterator[socket.socket]:
    """A TCP connection to an address that was looked at.

    Args:
        deadline: of `time.monotonic`.
        what: what sentences begin with.

    Raises:
        Refused: none could be made.
    """
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise Refused(f"{what}: {host} cannot be resolved: {_said(error)}") from None
    failure = f"{host} has no address"
    made = None
    for one in allowed(host, addresses, denied, what=what):
        try:
            made = socket.create_connection((one, port), max(0.1, min(CONNECT_S, left(deadline))))
        except OSError as error:
            failure = f"{address(one, port)} cannot be reached: {_said(error)}"
            if left(deadline) <= 0:
                break
        else:
            break
    if made is None:
        raise Refused(f"{what}: {failure}")
    # Timeouts of a socket are between two bytes; this one is for all of them. Of a second
    # descriptor, since TLS takes the first one over.
    guarded = made.dup()
    guard = threading.Timer(max(0.0, left(deadline)), _cut, (guarded,))
    guard.daemon = True
    guard.start()
    try:
        with made:
            made.settimeout(max(0.1, left(deadline)))
            yield made
    finally:
        guard.cancel()
        _cut(guarded)
        guard.join()
        guarded.close()


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def left(deadline: float) -> float:
    """Seconds until a deadline."""
    return deadline - time.monotonic()


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ssl.SSLError) and error.reason:
        # Not its text: that begins with the name of the library and ends with a line of its source.
        return word(error.reason.lower().replace("_", " "))
    return word(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def encrypted(sock: socket.socket, context: ssl.SSLContext, host: str, what: str) -> ssl.SSLSocket:
    """TLS over a connection, the peer's certificate verified.

    Raises:
        Refused: there is none.
    """
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"{what}: the certificate of {host} is not valid: {error.verify_message}"
                      ) from None  # fmt: skip
    except OSError as error:
        raise Refused(f"{what}: no TLS with {host}: {_said(error)}") from None


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    what: str,
    context: Callable[[], ssl.SSLContext],
    denied: Sequence[Network],
    resolve: Resolve = resolved,
    total_s: float = TOTAL_S,
) -> Answer:
    """Send a body and read what is answered, whatever it is.

    Args:
        what: what sentences begin with, the variable that has the URL.
        context: what certificates are verified with; asked for only where they are.

    Raises:
        Refused: nobody answered in a way that can be understood.
    """
    deadline = time.monotonic() + total_s
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    with connection(
        host, port, denied=denied, deadline=deadline, what=what, resolve=resolve
    ) as plain:
        sock = encrypted(plain, context(), host, what) if is_tls else plain
        try:
            return _exchange(sock, _request(parts, len(body), headers), body, deadline)
        except (OSError, h11.ProtocolError) as error:
            if left(deadline) <= 0:
                raise Refused(f"{what}: {host} did not answer within {total_s:g} s") from None
            raise Refused(f"{what}: {host} did not answer: {_said(error)}") from None
        finally:
            if sock is not plain:
                sock.close()


def _request(url: SplitResult, length: int, headers: Mapping[str, str]) -> h11.Request:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return h11.Request(
        method="POST",
        target=target,
        headers=[
            ("Host", url.netloc),
            ("User-Agent", _AGENT),
            ("Accept", "*/*"),
            ("Content-Length", str(length)),
            ("Connection", "close"),
            *headers.items(),
        ],
    )


def _exchange(sock: socket.socket, request: h11.Request, body: bytes, deadline: float) -> Answer:
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    sent = (peer.send(request) or b"") + (peer.send(h11.Data(data=body)) or b"")
    sent += peer.send(h11.EndOfMessage()) or b""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        # Whoever refuses a body may answer without having read it.
        sock.sendall(sent)
    status, said, read = 0, b"", 0
    head: Mapping[str, str] = {}
    while len(said) < MAX_BODY:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            try:
                sock.settimeout(max(left(deadline), 0.001))
                data = sock.recv(_CHUNK)
            except OSError:
                if status:
                    break  # the answer is known; what is said besides is for people
                raise
            read += len(data)
            if read > MAX_HEAD + MAX_BODY:
                break
            peer.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
            head = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers
            }
            deadline = min(deadline, time.monotonic() + BODY_S)
        elif isinstance(event, h11.Data):
            said += bytes(event.data)
        elif not isinstance(event, h11.InformationalResponse):
            break
    if not status:
        raise ConnectionResetError("it closed the connection")
    return Answer(
        status,
        said[:MAX_BODY],
        _host_of(head.get("location", "")),
        retry_after(head.get("retry-after", ""), time.time()),
    )


def _host_of(location: str) -> str:
    try:
        return urlsplit(location).hostname or ""
    except ValueError:
        return ""
