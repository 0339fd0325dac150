"""What operations give, and what they refuse."""

from typing import NamedTuple

from authz.core import jwks
from authz.core.delegation.receipt import Sign


class Unknown(Exception):
    """There is no such record; one sentence."""


class NotPossible(Exception):
    """It cannot be done as things are; one sentence."""


class Token(NamedTuple):
    """An agent's new token, and until when it is good, seconds since the epoch."""

    token: str
    expires_at: float


class Signer(NamedTuple):
    """Who signs receipts."""

    kid: str
    sign: Sign
    #: The key's public half, 32 bytes (RFC 8032 §5.1.5).
    public: bytes

    def jwks(self) -> dict[str, object]:
        """The JWK Set of the public half, for a DELEGATION_JWKS_FILE elsewhere."""
        return jwks.ed25519_set(self.kid, self.public)


class Spent(NamedTuple):
    """What an agent has spent of a wallet."""

    agent_id: str
    wallet: str
    spent: int
    #: None where no document of this name is in force.
    capacity: int | None

    @property
    def remaining(self) -> int | None:
        """Points that are left; None where it is not known how many there are."""
        return None if self.capacity is None else max(self.capacity - self.spent, 0)

    def entry(self) -> dict[str, object]:
        """As API answers and the CLI show it; what is not known is left out."""
        shown = {
            "wallet": self.wallet,
            "agentId": self.agent_id,
            "spent": self.spent,
            "capacity": self.capacity,
            "remaining": self.remaining,
        }
        return {name: value for name, value in shown.items() if value is not None}
