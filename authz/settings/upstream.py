"""Where requests go, and who answers: what PROXY_TARGET and its like say."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

_DNS_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class SettingsError(Exception):
    """The environment is not usable. `problems` has one sentence for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where governed requests go (PROXY_TARGET)."""

    scheme: Literal["http", "https"]
    #: A DNS name in its ASCII form, or an IP address without brackets.
    host: str
    port: int
    #: Put before every path; starts with a slash and does not end with one, or is empty.
    prefix: str

    @property
    def is_address(self) -> bool:
        """The host is an IP address, so there is nothing to resolve and no SNI to send."""
        return _is_address(self.host)

    @property
    def authority(self) -> str:
        """The `Host` that the upstream sees; the scheme's own port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


class Endpoint(NamedTuple):
    """A host and port to connect to (EXT_AUTHZ_TARGET, HTTP_TARGET)."""

    #: A DNS name in its ASCII form, or an IP address without brackets.
    host: str
    port: int

    @property
    def is_address(self) -> bool:
        """The host is an IP address, so there is nothing to resolve and no SNI to send."""
        return _is_address(self.host)

    @property
    def is_here(self) -> bool:
        """No other host can be meant: names can be anybody's, but for one."""
        return self.is_address and ipaddress.ip_address(self.host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_upstream(value: str) -> Upstream:
    """Read a PROXY_TARGET.

    Raises:
        ValueError: one sentence that says what is wrong.
    """
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise ValueError("not a URL; write http://host:port or https://host") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("must start with http:// or https://")
    if url.username is not None or url.password is not None:
        raise ValueError("must not contain a user or password; use PROXY_AUTHORIZATION")
    if url.query or url.fragment or "?" in value or "#" in value:
        raise ValueError("must not contain a query or fragment")
    if port == 0:
        raise ValueError("the port must be between 1 and 65535")
    prefix = url.path.rstrip("/")
    segments = prefix.split("/")[1:]
    if not prefix.isascii() or not prefix.isprintable() or " " in prefix or "%" in prefix:
        raise ValueError("the path may only contain plain ASCII characters, no % escapes")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError("the path must not contain empty, . or .. segments")
    scheme: Literal["http", "https"] = "https" if url.scheme == "https" else "http"
    return Upstream(scheme, host_of(url), port or (443 if scheme == "https" else 80), prefix)


def host_of(url: SplitResult) -> str:
    host = url.hostname or ""
    if not host:
        raise ValueError("has no host")
    if ":" in host:
        if "%" in host:
            raise ValueError("an IPv6 zone is not supported")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError("the host is not an IPv6 address") from None
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("the host is not an IPv4 address") from None
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host is not a DNS name") from None
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host is not a DNS name")
    return name
