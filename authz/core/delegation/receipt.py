"""Hops as signed receipts, and the chain of them that a header carries (CONTRACT §7).

- A hop is a compact JWS (RFC 7515 §3.1) with exactly three header fields: `alg` EdDSA, `typ`
  `mg-delegation+jwt` and `kid`. The type keeps a receipt from passing for a token, and a token for
  a receipt (RFC 8725 §3.11).
- A chain is its hops, root first, joined by `~`, which no JWS contains.
- Sizes are looked at before anything is read, signatures before any claim is.
- One chain has one text: base64 with spare bits, a key twice in an object, or anything after it,
  is malformed.
- A chain says what was signed. Whether its hops follow one another, and still hold, is for `walk`.
"""

import base64
import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from authz.core import shape
from authz.core.delegation.relationship import MAX_HOPS, Refused, Relationship, from_values
from authz.core.errors import Code
from authz.core.timestamps import rfc3339, seconds_of

TYPE: Final = "mg-delegation+jwt"
ALGORITHM: Final = "EdDSA"
VERSION: Final = "1.0"
#: Characters of a chain: five hops with a dozen patterns each take half of it, and proxies carry
#: headers of 16 KiB, some no longer ones.
MAX_CHAIN: Final = 16 * 1024
#: Characters of a hop's header; with a `kid` of 64 it has about 150.
MAX_HEADER: Final = 1024
#: Chains that are kept verified. A sidecar serves one agent, which acts for few.
CACHE_SIZE: Final = 256
#: An Ed25519 signature's (RFC 8032 §5.1.6).
SIGNATURE_BYTES: Final = 64

#: message -> signature
Sign = Callable[[bytes], bytes]
#: (signature, message) -> whether it is the key's signature over the message
Fits = Callable[[bytes, bytes], bool]

_BASE64URL: Final = re.compile(r"[\w-]+", re.ASCII)


def signed(hop: Relationship, sign: Sign, kid: str) -> str:
    """The hop as a compact JWS; `kid` names the key that `sign` signs with."""
    header = {"alg": ALGORITHM, "kid": kid, "typ": TYPE}
    message = ".".join(_encoded(_compact(part)) for part in (header, _claims(hop)))
    return f"{message}.{_encoded(sign(message.encode()))}"


def receipt(hop: Relationship, jws: str) -> dict[str, object]:
    """What people are shown of a hop that was signed as `jws`."""
    return {**_claims(hop), "signature": "sig_" + jws.rpartition(".")[2]}


def chain_of(hops: Sequence[Relationship], sign: Sign, kid: str) -> str:
    """What `X-MeshGuard-Delegation` carries for these hops, root first.

    Raises:
        ValueError: there are too many hops, or their patterns too long for a header.
    """
    if not 1 <= len(hops) <= MAX_HOPS:
        raise ValueError(f"a chain has 1 to {MAX_HOPS} hops")
    text = "~".join(signed(hop, sign, kid) for hop in hops)
    if len(text) > MAX_CHAIN:
        raise ValueError(
            f"the chain is longer than {MAX_CHAIN} characters; name the delegation by its id"
        )
    return text


def read_chain(text: str, keys: Mapping[str, Fits]) -> tuple[Relationship, ...]:
    """The hops of a signed chain, root first. `keys` by `kid`.

    Raises:
        Refused: it is none, or not signed by these keys.
    """
    if text.count("~") >= MAX_HOPS:
        raise Refused(Code.DELEGATION_TOO_DEEP, f"the chain has more than {MAX_HOPS} hops")
    if len(text) > MAX_CHAIN:
        raise _malformed(f"longer than {MAX_CHAIN} characters")
    return tuple(_read(jws, keys) for jws in text.split("~"))


class ChainReader:
    """Reads chains, and remembers those that were signed as they should be."""

    def __init__(self, keys: Mapping[str, Fits]) -> None:
        """`keys`: who is trusted to have signed a hop, by `kid`."""
        self._keys = keys
        self._verified: dict[str, tuple[Relationship, ...]] = {}

    def use_keys(self, keys: Mapping[str, Fits]) -> None:
        """Trust these keys from now on, and forget what others signed."""
        # In this order, and a new dictionary: what is being read meanwhile with the old keys is
        # remembered in the old one.
        self._keys = keys
        self._verified = {}

    def read(self, text: str) -> tuple[Relationship, ...]:
        """As `read_chain`; a failure is never remembered, so bad chains push no good one out."""
        verified = self._verified
        hops = verified.get(text)
        if hops is None:
            hops = read_chain(text, self._keys)
            if len(verified) >= CACHE_SIZE:
                del verified[next(iter(verified))]
            verified[text] = hops
        return hops


def _read(jws: str, keys: Mapping[str, Fits]) -> Relationship:
    message, _, signature = jws.rpartition(".")
    head, dot, body = message.partition(".")
    if not dot or "." in body or len(head) > MAX_HEADER:
        raise _malformed("a hop is not a compact JWS")
    header = _object_of("header", head)
    proof = _decoded("signature", signature)
    if header.keys() != {"alg", "kid", "typ"}:
        raise _malformed("a hop's header has not just alg, kid and typ")
    if header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise Refused(
            Code.DELEGATION_BAD_SIGNATURE, f"a hop is not a receipt ({TYPE}, {ALGORITHM})"
        )
    kid = header["kid"]
    fits = keys.get(kid) if isinstance(kid, str) else None
    if fits is None:
        raise Refused(
            Code.DELEGATION_BAD_SIGNATURE, "a hop is signed with a key that is not trusted here"
        )
    if len(proof) != SIGNATURE_BYTES or not fits(proof, message.encode()):
        raise Refused(Code.DELEGATION_BAD_SIGNATURE, "a hop's signature does not verify")
    claims = _object_of("claims", body)
    try:
        return _hop_of(claims)
    except ValueError as error:
        raise _malformed(f"a hop's {error}") from None


def _claims(hop: Relationship) -> dict[str, object]:
    said: dict[str, object] = {
        "version": VERSION,
        "receiptId": _receipt_id(hop.id),
        "timestamp": rfc3339(hop.created_at),
        "relationshipType": hop.type,
        "issuer": {
            "agentId": hop.source,
            "tier": hop.source_tier,
            "name": hop.source_name,
            "tags": list(hop.source_tags),
            "orgId": hop.source_org,
        },
        "delegate": {"agentId": hop.target},
        "scope": {
            "actions": list(hop.scope),
            "resources": list(hop.resources),
            "ceiling": list(hop.ceiling),
            "maxDepth": hop.max_depth,
            "expiresAt": rfc3339(hop.expires_at),
            "requiresApproval": hop.requires_approval,
        },
        "chain": {
            "depth": hop.depth,
            **({"parentReceiptId": _receipt_id(hop.parent)} if hop.parent else {}),
            "rootAgentId": hop.root,
        },
    }
    if hop.org_id:
        said["orgId"] = hop.org_id
    return said


def _hop_of(claims: Mapping[str, Any]) -> Relationship:
    """The hop that `_claims` told of; ValueError for anything else."""
    shape.members(
        "claims",
        claims,
        ("version", "receiptId", "timestamp", "relationshipType", "issuer", "delegate", "scope",
         "chain"),
        ("orgId",),
    )  # fmt: skip
    if claims["version"] != VERSION:
        raise ValueError(f"version: not {VERSION}")
    issuer = shape.members(
        "issuer", claims["issuer"], ("agentId", "tier", "name", "tags", "orgId"), ("trustScore",)
    )
    delegate = shape.members("delegate", claims["delegate"], ("agentId",))
    scope = shape.members(
        "scope",
        claims["scope"],
        ("actions", "resources", "ceiling", "maxDepth", "expiresAt", "requiresApproval"),
    )
    chain = shape.members("chain", claims["chain"], ("depth", "rootAgentId"), ("parentReceiptId",))
    above = _relationship_id(chain["parentReceiptId"]) if "parentReceiptId" in chain else ""
    values = {
        "org_id": claims.get("orgId", ""),
        "source": issuer["agentId"],
        "target": delegate["agentId"],
        "type": claims["relationshipType"],
        "scope": scope["actions"],
        "resources": scope["resources"],
        "ceiling": scope["ceiling"],
        "max_depth": scope["maxDepth"],
        "requires_approval": scope["requiresApproval"],
        "created_at": _time("timestamp", claims["timestamp"]),
        "expires_at": _time("expiresAt", scope["expiresAt"]),
        "parent": above,
        "root": chain["rootAgentId"],
        "depth": chain["depth"],
        # A revocation is known where it was made, and is no part of what was signed.
        "revoked_at": None,
        "revoked_reason": "",
        "source_name": issuer["name"],
        "source_tier": issuer["tier"],
        "source_tags": issuer["tags"],
        "source_org": issuer["orgId"],
    }
    return from_values(_relationship_id(claims["receiptId"]), values)


def _receipt_id(relationship_id: str) -> str:
    return "rcpt_" + relationship_id.removeprefix("rel_")


def _relationship_id(receipt_id: object) -> str:
    if not (isinstance(receipt_id, str) and receipt_id.startswith("rcpt_")):
        raise ValueError("receiptId: not the id of a receipt")
    return "rel_" + receipt_id.removeprefix("rcpt_")


def _time(where: str, value: object) -> float:
    """A time in the one form that `rfc3339` writes."""
    if isinstance(value, str):
        # Those before the year 1 and after 9999 overflow.
        with contextlib.suppress(ValueError, OverflowError):
            seconds = seconds_of(value)
            if rfc3339(seconds) == value:
                return seconds
    raise ValueError(f"{where}: not a time as 2026-01-31T12:00:00.000000Z")


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _encoded(data: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(where: str, segment: str) -> bytes:
    """What a segment encodes, if it does so in the one way there is."""
    if _BASE64URL.fullmatch(segment):
        try:
            data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        except ValueError:
            data = b""
        if _encoded(data) == segment:
            return data
    raise _malformed(f"a hop's {where} is not base64url")


def _object_of(where: str, segment: str) -> dict[str, Any]:
    data = _decoded(where, segment)
    try:
        return shape.json_object(where, data.decode())
    except ValueError:
        raise _malformed(f"a hop's {where} is not one JSON object with distinct keys") from None


def _malformed(what: str) -> Refused:
    return Refused(Code.DELEGATION_MALFORMED, f"the chain cannot be read: {what}")
