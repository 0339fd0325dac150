"""What looks like a token of ours, by its bytes alone. Apart from what verifies them, so that
reading a request loads no cryptography.
"""

import base64
import re
from typing import Final

ISSUER: Final = "meshguard"
#: Two segments that start with the base64 of `{"`; the second holds the claims. Only a word's
#: beginning is looked at, else `eyJeyJeyJ…` would be read once from each of its places.
_JWT_SHAPE: Final = re.compile(r"(?<![\w-])eyJ[\w-]*\.(eyJ[\w-]*)", re.ASCII)
_ISSUED: Final = re.compile(rb'"iss"\s*:\s*"' + ISSUER.encode() + rb'"')


def mentions_ours(credential: str) -> bool:
    """Whether anything shaped like a JWT in here says that we issued it.

    Nothing is verified or parsed: it is a hint to keep the credential from the upstream, and
    forged ones, of which there may be many, should not cost a parser's time.
    """
    return any(
        _ISSUED.search(bytes_of(match[1])) is not None for match in _JWT_SHAPE.finditer(credential)
    )


def of_proxy(credential: str) -> str:
    """A `Proxy-Authorization` as the `Authorization` that it stands for; empty where it is empty.

    Programs that are given `http://agent:TOKEN@proxy` send Basic (RFC 7617), and the token is what
    stands there in place of the password.
    """
    scheme, _, encoded = credential.strip().partition(" ")
    if scheme.lower() != "basic":
        return credential.strip()
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode("ascii")
    except ValueError:
        return credential.strip()
    return f"Bearer {pair.partition(':')[2]}"


def bytes_of(segment: str) -> bytes:
    """What a base64url segment (RFC 7515 §2) encodes; nothing where it encodes nothing."""
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return b""
