"""What the words of single variables may be: each check takes what is written, and says why not."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr

from authz.core.durations import parse_duration
from authz.core.mode import Mode
from authz.core.tiers import TIERS, rank
from authz.settings.upstream import Endpoint, host_of, parse_upstream

#: HS256 needs a key of at least the hash's size (RFC 7518 §3.2).
MIN_JWT_SECRET: Final = 32
MIN_ADMIN_TOKEN: Final = 16
#: Networks that FORWARD_DENY_CIDRS may name; each is compared with every address.
MAX_NETWORKS: Final = 256
#: An agent's tags, and the longest of its tags, tier, organisation, characters (CONTRACT §4).
MAX_TAGS: Final = 64
MAX_TAG: Final = 256


def mode(value: object) -> object:
    """A mode, in any case."""
    if isinstance(value, str) and value.strip().lower() not in set(Mode):
        raise ValueError("must be enforce, audit or bypass")
    return value.strip().lower() if isinstance(value, str) else value


def choice(*words: str) -> BeforeValidator:
    """One of these words, in any case."""

    def check(value: object) -> object:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return word

    return BeforeValidator(check)


def whole_number(low: int, high: int) -> BeforeValidator:
    """A whole number between these, inclusive."""

    def check(value: object) -> object:
        if isinstance(value, str):
            if not re.fullmatch(r"[0-9]{1,9}", value.strip()):
                raise ValueError(f"not a whole number from {low} to {high}")
            value = int(value)
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return BeforeValidator(check)


def boolean(value: object) -> object:
    """true or false, 1 or 0."""
    if isinstance(value, str):
        if value.strip().lower() not in ("true", "false", "1", "0"):
            raise ValueError("must be true or false")
        return value.strip().lower() in ("true", "1")
    return value


def address(value: object) -> object:
    """An IP address, or localhost."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(str(value).strip("[]")))
    except ValueError:
        raise ValueError("not an IP address; write 0.0.0.0, 127.0.0.1 or ::") from None


def networks(value: object) -> object:
    """Networks with commas between them."""
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not 0 < len(words) <= MAX_NETWORKS:
        raise ValueError(f"must name 1 to {MAX_NETWORKS} networks, with commas between them")
    try:
        return tuple(ipaddress.ip_network(word) for word in words)
    except ValueError:
        raise ValueError(
            "not networks with commas between them; write 169.254.0.0/16,::1/128, without host bits"
        ) from None


def tier(value: object) -> object:
    """A trust tier or an alias of one."""
    word = value.strip() if isinstance(value, str) else value
    if not isinstance(word, str) or rank(word) is None:
        raise ValueError(f"must be one of {', '.join(TIERS)}")
    return word


def tags(value: object) -> object:
    """Tags with commas between them."""
    if not isinstance(value, str):
        return value
    found = tuple(dict.fromkeys(tag.strip() for tag in value.split(",") if tag.strip()))
    if len(found) > MAX_TAGS or any(len(tag) > MAX_TAG or not tag.isprintable() for tag in found):
        raise ValueError(
            f"must be at most {MAX_TAGS} tags with commas between them, each of at most {MAX_TAG}"
            " printable characters"
        )
    return found


def printable(value: object) -> object:
    """Text without control characters."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("may only contain printable characters")
    return value


def listener(value: object) -> object:
    """An address and a port to listen on."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise ValueError("not an address and port; write 127.0.0.1:9191 or [::1]:9191")
    return address(host), int(port)


def endpoint(value: object) -> object:
    """A host and a port to connect to."""
    text = value if isinstance(value, str) else ""
    how = "not a host and port; write authz.example:9191 or [2001:db8::1]:9191"
    try:
        url = urlsplit(f"//{text}")
        port = url.port
    except ValueError:
        raise ValueError(how) from None
    if not port or url.netloc != text or "@" in text:
        raise ValueError(how)
    host = host_of(url)
    return Endpoint("127.0.0.1" if host == "localhost" else host, port)


def upstream(value: object) -> object:
    """A PROXY_TARGET."""
    return parse_upstream(value) if isinstance(value, str) else value


def duration(value: object) -> object:
    """A duration such as 24h, in seconds."""
    return parse_duration(value) if isinstance(value, str) else value


def interval(value: object) -> object:
    """A duration in seconds, or 0 for never."""
    text = value.strip() if isinstance(value, str) else value
    return 0 if text in (0, "0", "0s", "0m", "0h", "0d") else duration(text)


def secret(minimum: int, how: str, *, is_made: bool = True) -> BeforeValidator:
    """Printable ASCII of at least so many characters.

    Args:
        how: the command that makes one; what it is where `is_made` is false, as others gave it.
    """
    cure = f"make one with: {how}" if is_made else f"it is {how}"

    def check(value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if len(text) < minimum:
            raise ValueError(f"shorter than {minimum} characters; {cure}")
        if not (text.isascii() and text.isprintable()):
            raise ValueError("may only contain printable ASCII characters")
        if text != text.strip():
            raise ValueError("must not begin or end with a blank")
        return text

    return BeforeValidator(check)


#: What makes a good one.
HOW_TO_MAKE: Final = {"JWT_SECRET": "openssl rand -hex 32", "ADMIN_TOKEN": "openssl rand -hex 16"}

HEADER_VALUE: Final = secret(1, "the scheme and the key, such as `Bearer sk-...`", is_made=False)
