"""The host that an agent wants to reach: what stands in a URL or after CONNECT, to one spelling.

- What policies see is what is dialled, so a name has one spelling: lower case, without the dot at
  its end; an IPv6 address as RFC 5952 writes it; no port where it is the usual one.
- Whatever one part of a system could take for a name and another for an address is refused:
  `2130706433`, `0x7f.1` and `127.1` are 127.0.0.1 to many resolvers, and `::ffff:127.0.0.1` to the
  kernel. So is whatever is no name at all: a user's name, blanks, other scripts, `%`.
"""

import ipaddress
import re
from typing import Final, NamedTuple

#: Longest name, characters (RFC 1035 §2.3.4, without the dot at the end), and longest with a port.
MAX_NAME: Final = 253
MAX_AUTHORITY: Final = MAX_NAME + len(".:65535")

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
#: As in PROXY_TARGET: with `_`, which service names have.
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
#: What a resolver may take for a number; a name's last label is never one (RFC 3696 §2).
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Destination(NamedTuple):
    """A host and a port. An IPv6 address is in brackets."""

    host: str
    port: int

    @property
    def whole(self) -> str:
        """Host and port, as CONNECT has them."""
        return f"{self.host}:{self.port}"

    def without(self, usual: int) -> str:
        """Host and port, or the host alone where the port is the usual one."""
        return self.host if self.port == usual else self.whole


def destination(authority: str, usual_port: int | None = None) -> Destination:
    """Read an authority (RFC 3986 §3.2) without a user.

    Args:
        usual_port: what counts where none stands there; None where one must.

    Raises:
        ValueError: it is no host that can be judged; one sentence, which never repeats it.
    """
    if not authority or len(authority) > MAX_AUTHORITY:
        raise ValueError(f"host: empty, or longer than {MAX_AUTHORITY} characters")
    if "@" in authority:
        raise ValueError("host: it has a user's name or a password before it")
    if authority.startswith("["):
        inside, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("host: not an IPv6 address in brackets")
        host, colon, port = _ipv6(inside), rest[:1], rest[1:]
    else:
        name, colon, port = authority.partition(":")
        host = _name_or_ipv4(name)
    if not colon:
        if usual_port is None:
            raise ValueError("host: it has no port")
        return Destination(host, usual_port)
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise ValueError("host: its port is not a number from 1 to 65535")
    return Destination(host, int(port))


def _ipv6(text: str) -> str:
    try:
        # A zone names an interface, and is for this host alone.
        address = ipaddress.IPv6Address("" if "%" in text else text)
    except ValueError:
        raise ValueError("host: not an IPv6 address in brackets") from None
    if address.ipv4_mapped is not None:
        raise ValueError("host: an IPv4 address in the clothes of an IPv6 one; write it as it is")
    return f"[{address}]"


def _name_or_ipv4(text: str) -> str:
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not text.isascii() or len(name) > MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("host: neither a DNS name in ASCII letters nor an IP address")
    if not _NUMBER.fullmatch(labels[-1]):
        return name
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError(
            "host: a number that some take for an IPv4 address; write it with four decimal parts"
        ) from None
