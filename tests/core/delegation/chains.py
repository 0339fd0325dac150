"""Makers of hops, chains and keys for the tests of delegations."""

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authz.core.delegation.receipt import Fits
from authz.core.delegation.relationship import Relationship
from tests.builders import NOW

HOUR = 3600.0


def rel(number: int) -> str:
    """The id of the relationship with this number."""
    return f"rel_{number:032x}"


def first(source: str = "a", target: str = "b", **changes: Any) -> Relationship:
    """A sound first hop, some fields changed."""
    return Relationship(
        id=rel(1),
        org_id="acme",
        source=source,
        target=target,
        type="delegates_to",
        scope=("read:*",),
        resources=(),
        ceiling=("read:*",),
        max_depth=4,
        requires_approval=False,
        created_at=NOW - HOUR,
        expires_at=NOW + HOUR,
        parent="",
        root=source,
        depth=1,
        revoked_at=None,
        revoked_reason="",
        source_name=source.upper(),
        source_tier="trusted",
        source_tags=("ci",),
        source_org="acme",
    )._replace(**changes)


def below(parent: Relationship, target: str, **changes: Any) -> Relationship:
    """A sound hop below another one, some fields changed."""
    return parent._replace(
        id=rel(int(parent.id[4:], 16) + 1),
        source=parent.target,
        target=target,
        source_name=parent.target.upper(),
        max_depth=parent.max_depth - 1,
        parent=parent.id,
        depth=parent.depth + 1,
    )._replace(**changes)


def chain(*agents: str) -> tuple[Relationship, ...]:
    """Sound hops from each of the agents to the next."""
    hops = [first(agents[0], agents[1])]
    for target in agents[2:]:
        hops.append(below(hops[-1], target))
    return tuple(hops)


class Key:
    """An Ed25519 key that is the same in every run."""

    def __init__(self, seed: int) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self._public = self._private.public_key()
        #: Signatures that were looked at.
        self.verified = 0

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def fits(self, signature: bytes, message: bytes) -> bool:
        self.verified += 1
        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def trusting(**keys: Key) -> dict[str, Fits]:
    """The keys that are trusted, by kid."""
    return {kid: key.fits for kid, key in keys.items()}
