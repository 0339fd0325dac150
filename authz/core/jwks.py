"""The public keys that verify agent tokens: the text of a JWK Set (RFC 7517) to a `KeySet`.

- Public keys alone: a file that holds a secret part of any key is refused, so that nobody keeps
  one where it is not needed.
- A key is for one algorithm, by its type (RFC 8725 §3.1): Ed25519 for EdDSA, P-256 for ES256, RSA
  of 2048 bits and more for RS256. `alg`, `use` and `key_ops` may say the same and nothing else.
- Whatever is not such a key is a mistake, never skipped: a key that is left out in silence would be
  missed by whoever signs with it.
- No sentence holds anything of the text but its place.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import jwt

from authz.core.facts import distinct
from authz.core.identity import MAX_CLAIM

#: Longest text, bytes: 64 keys of 4096 bits have 50 KiB.
MAX_JWKS: Final = 64 * 1024
#: Most keys; one signs, and a few are being rotated out.
MAX_KEYS: Final = 64
#: Fewest and most bits of an RSA modulus: RFC 7518 §3.3, and what a verification may cost.
MIN_RSA: Final = 2048
MAX_RSA: Final = 4096
#: Most bits of an RSA exponent, which decide what a verification costs; OpenSSL's own limit for
#: large keys. 65537 has 17.
MAX_EXPONENT: Final = 64

#: Members that only private and secret keys have (RFC 7518 §6, RFC 8037 §2).
_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


class _Kind(NamedTuple):
    """A kind of key, and what it is for."""

    algorithm: str
    #: The members that are the key (RFC 7518 §6.2.1 and §6.3.1, RFC 8037 §2).
    members: tuple[str, ...]


#: By `kty` and `crv`.
_KINDS: Final[Mapping[tuple[object, object], _Kind]] = {
    ("OKP", "Ed25519"): _Kind("EdDSA", ("x",)),
    ("EC", "P-256"): _Kind("ES256", ("x", "y")),
    ("RSA", None): _Kind("RS256", ("n", "e")),
}


@dataclass(frozen=True, slots=True)
class KeySet:
    """Public keys; equal where they come from the same text."""

    #: SHA-256 of the text, hexadecimal.
    fingerprint: str
    #: By `kid`. At most one of several has none.
    _keys: Mapping[str | None, jwt.PyJWK] = field(compare=False, repr=False)

    def __len__(self) -> int:
        return len(self._keys)

    def kids(self, alg: str) -> list[str]:
        """The names of the keys for an algorithm that have one."""
        return [kid for kid, key in self._keys.items() if kid and key.algorithm_name == alg]

    def find(self, kid: str | None, alg: str) -> jwt.PyJWK | None:
        """The key that a token with this header was signed with.

        Args:
            kid: the header's; without one there is a key where exactly one is for `alg`.

        Returns:
            A key for `alg`; None where there is none.
        """
        if kid is None:
            fitting = [key for key in self._keys.values() if key.algorithm_name == alg]
            return fitting[0] if len(fitting) == 1 else None
        key = self._keys.get(kid)
        return key if key is not None and key.algorithm_name == alg else None

    def knows(self, kid: str | None) -> bool:
        """Whether a key has this id, of whatever algorithm."""
        return kid is not None and kid in self._keys


def parse(data: bytes) -> KeySet:
    """The keys of a JWK Set.

    Raises:
        ValueError: it is none, or holds what is no public key that is verified with here; one
            sentence with the place and without a value.
    """
    if len(data) > MAX_JWKS:
        raise ValueError(f"larger than {MAX_JWKS} bytes")
    keys: dict[str | None, jwt.PyJWK] = {}
    found = _listed(data)
    for number, member in enumerate(found):
        place = f"keys[{number}]"
        key = _key(place, member)
        kid = _kid(place, member)
        if kid in keys:
            again = "no `kid` either" if kid is None else "the `kid` of another key"
            raise ValueError(f"{place} has {again}; give each key its own")
        keys[kid] = key
    return KeySet(hashlib.sha256(data).hexdigest(), keys)


def ed25519_set(kid: str, public: bytes) -> dict[str, object]:
    """The JWK Set of one Ed25519 key (RFC 8037 §2), its public half as 32 bytes."""
    x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    key = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}
    return {"keys": [key]}


def _listed(data: bytes) -> list[Any]:
    try:
        jwks = json.loads(data.decode(), object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not JSON from {where} on") from None
    except (ValueError, RecursionError):
        raise ValueError("not one JSON object with distinct keys, in UTF-8") from None
    if isinstance(jwks, dict) and "kty" in jwks:
        raise ValueError('a key and not a set of keys; write {"keys": [...]} around it')
    found = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(found, list):
        raise ValueError("not a JWK Set, which is an object with a list `keys`")
    if not 0 < len(found) <= MAX_KEYS:
        raise ValueError(f"{len(found)} keys, where 1 to {MAX_KEYS} must be")
    return found


def _key(place: str, member: object) -> jwt.PyJWK:
    if not isinstance(member, dict):
        raise ValueError(f"{place} is not an object")
    if member.get("kty") == "oct":
        raise ValueError(f"{place} is a shared secret; only public keys belong here")
    private = next((name for name in _PRIVATE if name in member), None)
    if private is not None:
        raise ValueError(f"{place} has a private part, `{private}`; only public keys belong here")
    kind = _kind(member)
    if kind is None:
        raise ValueError(
            f"{place} is of another kind than OKP with Ed25519, EC with P-256, or RSA; leave it out"
        )
    _check_purpose(place, member, kind.algorithm)
    public = {name: _octets(member.get(name)) for name in kind.members}
    if kind.algorithm == "RS256":
        _check_rsa(place, public)
    try:
        if not all(public.values()):
            raise ValueError
        # What else there is belongs to no key, and PyJWT need not see it.
        known = {name: member[name] for name in ("kty", "crv", *kind.members) if name in member}
        return jwt.PyJWK(known, kind.algorithm)
    except Exception:  # noqa: BLE001 - it says little that helps, in many types
        names = " and ".join(f"`{name}`" for name in kind.members)
        raise ValueError(f"{place} is not a key: {names} must be its public half") from None


def _kind(member: Mapping[str, Any]) -> _Kind | None:
    kty, crv = member.get("kty"), member.get("crv")
    if not isinstance(kty, str) or not (crv is None or isinstance(crv, str)):
        return None
    return _KINDS.get((kty, crv))


def _check_purpose(place: str, member: Mapping[str, Any], algorithm: str) -> None:
    """That a key is not meant for something else (RFC 7517 §4.2 to §4.4)."""
    if member.get("alg", algorithm) != algorithm:
        raise ValueError(f"{place} has another `alg` than {algorithm}, which its type is for")
    if member.get("use", "sig") != "sig":
        raise ValueError(f"{place} has another `use` than sig, so it must not verify")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError(f"{place} has `key_ops` without verify, so it must not verify")


def _check_rsa(place: str, public: Mapping[str, bytes]) -> None:
    modulus, exponent = (int.from_bytes(public[name]).bit_length() for name in ("n", "e"))
    if not MIN_RSA <= modulus <= MAX_RSA:
        raise ValueError(
            f"{place} is RSA of {modulus} bits, and must have {MIN_RSA} to {MAX_RSA}: see `n`"
        )
    if exponent > MAX_EXPONENT:
        raise ValueError(f"{place} has an exponent `e` of over {MAX_EXPONENT} bits")


def _octets(value: object) -> bytes:
    """What a base64url text (RFC 7515 §2) encodes; empty where it is none."""
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value) or len(value) % 4 == 1:
        return b""
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


def _kid(place: str, member: Mapping[str, Any]) -> str | None:
    kid = member.get("kid")
    if "kid" in member and not (
        isinstance(kid, str) and 0 < len(kid) <= MAX_CLAIM and kid.isprintable()
    ):
        raise ValueError(
            f"{place} has a `kid` that is not printable text of 1 to {MAX_CLAIM} characters"
        )
    return kid
