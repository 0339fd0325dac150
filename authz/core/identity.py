"""Who is calling: an `Authorization` header to an `Identity`, or to the reason there is none.

- Algorithms are pinned (RFC 8725 §3.1): HS256 to the secret; EdDSA, ES256 and RS256 each to public
  keys of one type. The header's own `alg` and `kid` choose among these, or get to be wrong.
- A token needs `sub` and `exp`. `exp` has no leeway; `nbf` and `iat` have `CLOCK_LEEWAY_S`, since
  the minting host's clock may run ahead of ours.
- A signature is compared before anything of a token is read, so a forged one costs an HMAC and
  not a parser's time; of a token that is not signed with the secret only the header is read before,
  and that is bounded. What carries the right signature is judged by PyJWT.
- Each way to fail has its own code; "no credential", "not ours" and "ours but bad" stay apart,
  because only the last kind must be kept from the upstream.
- What the registry says of an agent wins over its token: a revoked agent is nobody from the next
  call on. An agent that it does not know is who its token says.
- By the forward proxy and by capture whoever sends no token is the agent that this sidecar is for,
  if it is for one: nobody else is in its pod. What the registry says wins there in the same way.
- Verified tokens are cached, at most `CACHE_SIZE`, each until its `exp`. Failures are never
  cached, so nobody can push a good token out with bad ones.
"""

import base64
import hmac
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import jwt
from jwt.types import Options

from authz.core.errors import Code
from authz.core.issued import ISSUER, bytes_of, mentions_ours, of_proxy
from authz.core.tiers import UNVERIFIED, rank

ALGORITHM: Final = "HS256"
#: What public keys verify, each by its type (RFC 8037, RFC 7518 §3.3 and §3.4).
KEY_ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
#: Seconds by which `nbf` and `iat` may lie in the future: NTP-kept hosts differ by far less.
CLOCK_LEEWAY_S: Final = 60
#: One sidecar serves one agent; tokens overlap only while they are being renewed.
CACHE_SIZE: Final = 256
#: Longest token, characters. Headers of 8 KiB are what proxies commonly carry.
MAX_TOKEN: Final = 8192
#: Longest agent id, name, organisation and tag; and how many tags.
MAX_CLAIM: Final = 256
MAX_TAGS: Final = 64

#: Longest header segment that is read of a token whose signature was not compared, characters; a
#: plain HS256 header has 36, and one that names its key has not many more.
MAX_HEADER: Final = 1024

#: Signature checked, every claim left to us: PyJWT would read the system clock.
SIGNATURE_ALONE: Final[Options] = {
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
    #: As the registry or else the token spells it; compare `rank`.
    tier: str
    rank: int
    tags: frozenset[str]
    org_id: str
    #: The lower of the registry's rank and the token's: what both of them vouch for.
    effective_rank: int


class Unidentified(NamedTuple):
    """Why a caller has no identity."""

    code: Code
    reason: str
    #: The credential is one of ours (or claims to be), so the upstream must not see it.
    ours: bool


#: The rank, tags and ids of a caller about whom nothing is known.
ANONYMOUS: Final = Identity("", "", "unverified", UNVERIFIED, frozenset(), "", UNVERIFIED)


class Keys(Protocol):
    """Public keys that tokens are verified with (`jwks.KeySet`)."""

    def find(self, kid: str | None, alg: str) -> jwt.PyJWK | None:
        """The one key that a token with this header is verified with, if there is one."""

    def knows(self, kid: str | None) -> bool:
        """Whether a key has this id, of whatever algorithm."""


class Record(Protocol):
    """What a registry has on an agent (`agents.Agent`)."""

    @property
    def name(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def org_id(self) -> str: ...
    @property
    def revoked_at(self) -> float | None: ...


class Registry(Protocol):
    """The agents that are known here."""

    @property
    def version(self) -> int:
        """Grows with every change."""

    def get(self, agent_id: str) -> Record | None:
        """The record of an agent, if there is one."""


class _Empty:
    version: Final = 0

    def get(self, agent_id: str) -> None:  # noqa: ARG002 - nobody is known
        return None


#: The registry that knows nobody: every agent is who its token says.
EMPTY: Final[Registry] = _Empty()

_THREE_SEGMENTS: Final = re.compile(r"[\w-]+\.[\w-]*\.[\w-]*", re.ASCII)

_MALFORMED: Final = Unidentified(
    Code.TOKEN_MALFORMED, "the credential is not a well-formed JWT", ours=False
)
_WRONG_ALGORITHM: Final = Unidentified(
    Code.TOKEN_WRONG_ALGORITHM,
    "the token is signed with another algorithm than its key is for",
    ours=False,
)
_UNKNOWN_KEY: Final = Unidentified(
    Code.TOKEN_UNKNOWN_KEY, "the token names no key that is trusted here", ours=False
)
_BAD_SIGNATURE: Final = Unidentified(
    Code.TOKEN_BAD_SIGNATURE, "the token's signature does not verify", ours=False
)
_REVOKED: Final = Unidentified(Code.AGENT_REVOKED, "the agent was revoked", ours=True)
_MISSING: Final = Unidentified(
    Code.TOKEN_MISSING, "the request has no Authorization: Bearer token", ours=False
)
_NO_PROXY_TOKEN: Final = Unidentified(
    Code.TOKEN_MISSING,
    "Proxy-Authorization holds no token; send it as Bearer, or as the password of Basic",
    ours=False,
)
_NOBODY_AT_HOME: Final = Unidentified(
    Code.TOKEN_MISSING,
    "the request has no Proxy-Authorization, and this sidecar is not for one agent alone"
    " (SIDECAR_AGENT_ID)",
    ours=False,
)
#: The caller of a request that broke before its token was read: its credential may be ours.
NOT_LOOKED_AT: Final = Unidentified(Code.INTERNAL, "the token was not looked at", ours=True)


class _Verified(NamedTuple):
    """What a good token says, and when it does."""

    starts: float
    expires: float
    claimed: Identity


class TokenVerifier:
    """Verifies agent tokens against one shared secret, public keys, or both."""

    def __init__(
        self,
        secret: str,
        pinned_agent: str = "",
        keys: Keys | None = None,
        registry: Registry = EMPTY,
        resident: Identity | None = None,
    ) -> None:
        """
        Args:
            secret: verifies HS256; empty where only `keys` verify.
            pinned_agent: the only `sub` that is accepted, when not empty (SIDECAR_AGENT_ID).
            keys: verify `KEY_ALGORITHMS`; None where only the secret verifies.
            registry: whose records win over what tokens say.
            resident: who sends without a token by the forward proxy and by capture.
        """
        self._resident = resident
        self._secret = secret
        self._key = secret.encode()
        self._pinned_agent = pinned_agent
        self._keys = keys
        self._registry = registry
        #: Token to what it says, the registry's version, and whose it is by that version.
        self._verified: dict[str, tuple[_Verified, int, Identity]] = {}

    def use_keys(self, keys: Keys | None) -> bool:
        """Verify with these keys from now on; whether they are others than before.

        What others have verified counts no longer, so a key that is gone is worth nothing at once.
        """
        if keys == self._keys:
            return False
        self._keys = keys
        self._verified.clear()
        return True

    def identify(self, authorization: str, now: float) -> Identity | Unidentified:
        """Read an `Authorization` header's value. `now` in seconds since the epoch."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        cached = self._verified.get(token)
        if not token or scheme.lower() != "bearer":
            return _MISSING._replace(ours=mentions_ours(authorization))
        if cached is not None:
            verified, version, identity = cached
            if verified.starts <= now < verified.expires:
                if version == self._registry.version:
                    return identity
                return self._look_up(token, verified)
            del self._verified[token]
        result = self._verify(token, now)
        if isinstance(result, Unidentified):
            return result
        return self._look_up(token, result)

    def identify_outward(self, authorization: str, now: float) -> Identity | Unidentified:
        """Who sends by the forward proxy or by capture; arguments as `identify`.

        Args:
            authorization: empty where no credential was sent. One that was has to be good.
        """
        if authorization:
            found = self.identify(authorization, now)
            if isinstance(found, Unidentified) and found.code is Code.TOKEN_MISSING:
                return _NO_PROXY_TOKEN
            return found
        if self._resident is None:
            return _NOBODY_AT_HOME
        return _registered(self._resident, self._registry.get(self._resident.agent_id))

    def is_ours(self, credential: str, now: float) -> bool:
        """Whether a credential for somebody else is, or says that it is, a token of ours."""
        found = self.identify(of_proxy(credential), now)
        return isinstance(found, Identity) or found.ours

    def _look_up(self, token: str, verified: _Verified) -> Identity | Unidentified:
        """Whose a good token is by the registry; remembered, unless the agent was revoked."""
        self._verified.pop(token, None)
        # Before the record: whatever changes while it is read is looked up by the next call.
        version = self._registry.version
        caller = _registered(verified.claimed, self._registry.get(verified.claimed.agent_id))
        if isinstance(caller, Identity):
            if len(self._verified) >= CACHE_SIZE:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = (verified, version, caller)
        return caller

    def _verify(self, token: str, now: float) -> _Verified | Unidentified:
        if len(token) > MAX_TOKEN:
            reason = f"the token is longer than {MAX_TOKEN} characters"
            return Unidentified(Code.TOKEN_MALFORMED, reason, ours=mentions_ours(token))
        key = self._secret if self._is_signed(token) else self._key_of(token)
        if isinstance(key, Unidentified):
            return key._replace(ours=mentions_ours(token))
        algorithm = key.algorithm_name if isinstance(key, jwt.PyJWK) else ALGORITHM
        try:
            decoded = jwt.decode_complete(
                token, key, algorithms=[algorithm], options=SIGNATURE_ALONE
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
        """Whether it is signed with our secret, if we have one."""
        # Anybody could make an HMAC with an empty key.
        return bool(self._secret) and is_signed(self._key, token)

    def _key_of(self, token: str) -> jwt.PyJWK | Unidentified:
        """The public key that a token is signed with; whose it is otherwise is not looked at."""
        header = _header_of(token)
        if header is None:
            return _MALFORMED
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == ALGORITHM and self._secret:
            return _BAD_SIGNATURE
        if self._keys is None or algorithm not in KEY_ALGORITHMS:
            return _WRONG_ALGORITHM
        if not (kid is None or isinstance(kid, str)):
            return _MALFORMED
        key = self._keys.find(kid, algorithm)
        if key is None:
            return _WRONG_ALGORITHM if self._keys.knows(kid) else _UNKNOWN_KEY
        signed, _, signature = token.rpartition(".")
        # By the key's own algorithm, never by what the header says it is.
        fits = key.Algorithm.verify(signed.encode(), key.key, bytes_of(signature))
        return key if fits else _BAD_SIGNATURE

    def _accept(
        self, header: Mapping[str, Any], claims: Mapping[str, Any], now: float
    ) -> _Verified:
        if "crit" in header:
            # RFC 7515 §4.1.11: what is critical and not understood makes the whole invalid.
            raise _Refused(Code.TOKEN_MALFORMED, "the token's header has a crit")
        verified = _judge_claims(header, claims, now)
        if self._pinned_agent and verified.claimed.agent_id != self._pinned_agent:
            raise _Refused(
                Code.TOKEN_WRONG_AGENT, "the token belongs to another agent than this sidecar's"
            )
        return verified


def _registered(claimed: Identity, record: Record | None) -> Identity | Unidentified:
    """Whose a token is that says it is `claimed`'s, by the registry's record of that agent."""
    if record is None:
        return claimed
    if record.revoked_at is not None:
        return _REVOKED
    return Identity(
        agent_id=claimed.agent_id,
        name=record.name,
        tier=record.tier,
        rank=record.rank,
        tags=frozenset(record.tags),
        org_id=record.org_id,
        effective_rank=min(record.rank, claimed.rank),
    )


def is_signed(key: bytes, token: str) -> bool:
    """Whether a JWT's last segment is the HMAC over the others (RFC 7515 §5.2, HS256)."""
    signed, _, signature = token.rpartition(".")
    mac = hmac.digest(key, signed.encode("utf-8", "replace"), "sha256")
    expected = base64.urlsafe_b64encode(mac).rstrip(b"=")
    return hmac.compare_digest(expected, signature.encode("utf-8", "replace"))


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


def _judge_claims(header: Mapping[str, Any], claims: Mapping[str, Any], now: float) -> _Verified:
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
    return _Verified(
        starts,
        expires,
        Identity(
            agent_id=agent_id,
            name=_text(claims, "name"),
            tier=tier,
            rank=tier_rank,
            tags=frozenset(_checked("tags", tag) for tag in tags),
            org_id=_text(claims, "orgId", "org"),
            effective_rank=tier_rank,
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


def _header_of(token: str) -> Mapping[str, Any] | None:
    """The header of a token whose signature was not compared; None where there is none to read."""
    first = token.partition(".")[0]
    if len(first) > MAX_HEADER or not _THREE_SEGMENTS.fullmatch(token):
        return None
    try:
        header = json.loads(bytes_of(first))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None
