"""Who is calling: an `Authorization` header to an `Identity`, or to the reason there is none.

- Algorithms are pinned to HS256 (RFC 8725 §3.1); the header's own `alg` only gets to be wrong.
- A token needs `sub` and `exp`. `exp` has no leeway; `nbf` and `iat` have `CLOCK_LEEWAY_S`, since
  the minting host's clock may run ahead of ours.
- A signature is compared before anything of a token is read, so a forged one costs an HMAC and
  not a parser's time; what carries the right one is judged by PyJWT.
- Each way to fail has its own code; "no credential", "not ours" and "ours but bad" stay apart,
  because only the last kind must be kept from the upstream.
- Verified tokens are cached, at most `CACHE_SIZE`, each until its `exp`. Failures are never
  cached, so nobody can push a good token out with bad ones.
"""

import base64
import hmac
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jwt
from jwt.types import Options

from authz.core.errors import Code
from authz.core.tiers import UNVERIFIED, rank

ISSUER: Final = "meshguard"
ALGORITHM: Final = "HS256"
#: Seconds by which `nbf` and `iat` may lie in the future: NTP-kept hosts differ by far less.
CLOCK_LEEWAY_S: Final = 60
#: One sidecar serves one agent; tokens overlap only while they are being renewed.
CACHE_SIZE: Final = 256
#: Longest token, characters. Headers of 8 KiB are what proxies commonly carry.
MAX_TOKEN: Final = 8192
#: Longest agent id, name, organisation and tag; and how many tags.
MAX_CLAIM: Final = 256
MAX_TAGS: Final = 64

#: Longest header segment that is read of a token whose signature is not ours, characters; a
#: plain HS256 header has 36.
MAX_HEADER: Final = 1024

#: Signature checked, every claim left to us: PyJWT would read the system clock.
_OPTIONS: Final[Options] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Identity(NamedTuple):
    """A caller whose token we verified."""

    agent_id: str
    name: str
    #: As the token spells it; compare `rank`.
    tier: str
    rank: int
    tags: frozenset[str]
    org_id: str


class Unidentified(NamedTuple):
    """Why a caller has no identity."""

    code: Code
    reason: str
    #: The credential is one of ours (or claims to be), so the upstream must not see it.
    ours: bool


#: The rank, tags and ids of a caller about whom nothing is known.
ANONYMOUS: Final = Identity("", "", "unverified", UNVERIFIED, frozenset(), "")

#: Two segments that start with the base64 of `{"`; the second holds the claims. Only a word's
#: beginning is looked at, else `eyJeyJeyJ…` would be read once from each of its places.
_JWT_SHAPE: Final = re.compile(r"(?<![\w-])eyJ[\w-]*\.(eyJ[\w-]*)", re.ASCII)

_ISSUED: Final = re.compile(rb'"iss"\s*:\s*"' + ISSUER.encode() + rb'"')
_THREE_SEGMENTS: Final = re.compile(r"[\w-]+\.[\w-]*\.[\w-]*", re.ASCII)

_MALFORMED: Final = Unidentified(
    Code.TOKEN_MALFORMED, "the credential is not a well-formed JWT", ours=False
)
_WRONG_ALGORITHM: Final = Unidentified(
    Code.TOKEN_WRONG_ALGORITHM, f"the token is not signed with {ALGORITHM}", ours=False
)
_BAD_SIGNATURE: Final = Unidentified(
    Code.TOKEN_BAD_SIGNATURE, "the token's signature does not verify", ours=False
)
_MISSING: Final = Unidentified(
    Code.TOKEN_MISSING, "the request has no Authorization: Bearer token", ours=False
)
#: The caller of a request that broke before its token was read: its credential may be ours.
NOT_LOOKED_AT: Final = Unidentified(Code.INTERNAL, "the token was not looked at", ours=True)


class TokenVerifier:
    """Verifies agent tokens against one shared secret."""

    def __init__(self, secret: str, pinned_agent: str = "") -> None:
        """`pinned_agent`: the only `sub` that is accepted, when not empty (SIDECAR_AGENT_ID)."""
        self._secret = secret
        self._key = secret.encode()
        self._pinned_agent = pinned_agent
        #: Token to when it starts, when it expires, and whose it is.
        self._verified: dict[str, tuple[float, float, Identity]] = {}

    def identify(self, authorization: str, now: float) -> Identity | Unidentified:
        """Read an `Authorization` header's value. `now` in seconds since the epoch."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        cached = self._verified.get(token)
        if not token or scheme.lower() != "bearer":
            return _MISSING._replace(ours=_mentions_ours(authorization))
        if cached is not None:
            starts, expires, identity = cached
            if starts <= now < expires:
                return identity
            del self._verified[token]
        result = self._verify(token, now)
        if isinstance(result, Unidentified):
            return result
        if len(self._verified) >= CACHE_SIZE:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = result
        return result[2]

    def _verify(self, token: str, now: float) -> tuple[float, float, Identity] | Unidentified:
        if len(token) > MAX_TOKEN:
            reason = f"the token is longer than {MAX_TOKEN} characters"
            return Unidentified(Code.TOKEN_MALFORMED, reason, ours=_mentions_ours(token))
        if not self._is_signed(token):
            return _why_unsigned(token)
        try:
            decoded = jwt.decode_complete(
                token, self._secret, algorithms=[ALGORITHM], options=_OPTIONS
            )
        except jwt.InvalidAlgorithmError:
            return _WRONG_ALGORITHM._replace(ours=True)
        except Exception:  # noqa: BLE001
            # Beyond PyJWT's own errors its parsers raise RecursionError and ValueError on
            # hostile input. Whatever it was, it is not a token.
            return _MALFORMED._replace(ours=True)
        try:
            return self._accept(decoded["header"], decoded["payload"], now)
        except _Refused as refused:
            return Unidentified(refused.code, refused.reason, ours=True)

    def _is_signed(self, token: str) -> bool:
        """Whether the last segment is the HMAC over the others (RFC 7515 §5.2, HS256)."""
        signed, _, signature = token.rpartition(".")
        mac = hmac.digest(self._key, signed.encode("utf-8", "replace"), "sha256")
        expected = base64.urlsafe_b64encode(mac).rstrip(b"=")
        return hmac.compare_digest(expected, signature.encode("utf-8", "replace"))

    def _accept(
        self, header: Mapping[str, Any], claims: Mapping[str, Any], now: float
    ) -> tuple[float, float, Identity]:
        starts, expires, identity = _judge_claims(header, claims, now)
        if self._pinned_agent and identity.agent_id != self._pinned_agent:
            raise _Refused(
                Code.TOKEN_WRONG_AGENT, "the token belongs to another agent than this sidecar's"
            )
        return starts, expires, identity


def mint(
    secret: str,
    *,
    agent_id: str,
    now: float,
    ttl_s: float,
    name: str = "",
    tier: str = "verified",
    tags: tuple[str, ...] = (),
    org_id: str = "",
) -> str:
    """A signed agent token (CONTRACT §4).

    Raises:
        ValueError: a value that `TokenVerifier` would refuse; the sentence says which.
    """
    if not (math.isfinite(ttl_s) and ttl_s > 0):
        raise ValueError("the lifetime is not a positive number of seconds")
    issued = math.floor(now)
    claims: dict[str, object] = {
        "iss": ISSUER,
        "sub": agent_id,
        "name": name or agent_id,
        "tier": tier,
        "trustTier": tier,
        "tags": list(tags),
        "iat": issued,
        "exp": issued + math.ceil(ttl_s),
    }
    if org_id:
        claims["orgId"] = org_id
    try:
        _judge_claims({}, claims, now)
    except _Refused as refused:
        raise ValueError(refused.reason) from None
    token = jwt.encode(claims, secret, algorithm=ALGORITHM)
    if len(token) > MAX_TOKEN:
        raise ValueError(f"the token would be longer than {MAX_TOKEN} characters; use fewer tags")
    return token


def _judge_claims(
    header: Mapping[str, Any], claims: Mapping[str, Any], now: float
) -> tuple[float, float, Identity]:
    if str(header.get("typ", "JWT")).lower() not in ("jwt", "at+jwt"):
        # Tokens for other purposes share the secret; they identify nobody (RFC 8725 §3.11).
        raise _Refused(Code.TOKEN_BAD_CLAIM, "the token's typ is not JWT")
    expires = _time(claims, "exp")
    if expires is None:
        raise _Refused(Code.TOKEN_BAD_CLAIM, "the token has no exp claim")
    if now >= expires:
        raise _Refused(Code.TOKEN_EXPIRED, "the token has expired")
    starts = float("-inf")
    for claim in ("nbf", "iat"):
        time = _time(claims, claim)
        if time is not None:
            starts = max(starts, time - CLOCK_LEEWAY_S)
        if now < starts:
            raise _Refused(Code.TOKEN_NOT_YET_VALID, f"the token's {claim} lies in the future")
    if claims.get("iss", ISSUER) != ISSUER:
        raise _Refused(Code.TOKEN_WRONG_ISSUER, f"the token's issuer is not {ISSUER}")
    agent_id = _text(claims, "sub")
    if not agent_id:
        raise _Refused(Code.TOKEN_BAD_CLAIM, "the token has no sub claim")
    tier = _text(claims, "tier", "trustTier", "trust") or "unverified"
    tier_rank = rank(tier)
    if tier_rank is None:
        raise _Refused(Code.TOKEN_BAD_CLAIM, "the token names an unknown trust tier")
    tags = claims.get("tags")
    tags = [] if tags is None else tags
    if not isinstance(tags, list) or len(tags) > MAX_TAGS:
        raise _Refused(
            Code.TOKEN_BAD_CLAIM, f"the token's tags are not a list of at most {MAX_TAGS}"
        )
    return (
        starts,
        expires,
        Identity(
            agent_id=agent_id,
            name=_text(claims, "name"),
            tier=tier,
            rank=tier_rank,
            tags=frozenset(_checked("tags", tag) for tag in tags),
            org_id=_text(claims, "orgId", "org"),
        ),
    )


class _Refused(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2), or None where the claim is absent."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_date(value):
        raise _Refused(Code.TOKEN_BAD_CLAIM, f"the token's {name} is not a time")
    return float(value)


def _is_date(value: float) -> bool:
    # Beyond 2**53 a float no longer counts seconds, and an int may not become a float at all.
    return -(2**53) < value < 2**53


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """The first of these claims that is present, as text; empty where none is."""
    for name in names:
        value = claims.get(name)
        if value is not None and value != "":
            return _checked(name, value)
    return ""


def _checked(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_CLAIM or not value.isprintable():
        raise _Refused(
            Code.TOKEN_BAD_CLAIM,
            f"the token's {name} is not printable text of at most {MAX_CLAIM} characters",
        )
    return value


def _why_unsigned(token: str) -> Unidentified:
    """Which of the reasons it is that a token does not carry our signature."""
    ours = _mentions_ours(token)
    first = token.partition(".")[0]
    if len(first) > MAX_HEADER or not _THREE_SEGMENTS.fullmatch(token):
        return _MALFORMED._replace(ours=ours)
    try:
        header = json.loads(_bytes_of(first))
    except (ValueError, RecursionError):
        return _MALFORMED._replace(ours=ours)
    if not isinstance(header, dict):
        return _MALFORMED._replace(ours=ours)
    if header.get("alg") != ALGORITHM:
        return _WRONG_ALGORITHM._replace(ours=ours)
    return _BAD_SIGNATURE._replace(ours=ours)


def _mentions_ours(credential: str) -> bool:
    """Whether anything shaped like a JWT in here says that we issued it.

    Nothing is verified or parsed: it is a hint to keep the credential from the upstream, and
    forged ones, of which there may be many, should not cost a parser's time.
    """
    return any(
        _ISSUED.search(_bytes_of(match[1])) is not None for match in _JWT_SHAPE.finditer(credential)
    )


def _bytes_of(segment: str) -> bytes:
    """What a base64url segment (RFC 7515 §2) encodes; nothing where it encodes nothing."""
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return b""
