"""The ledger's tables by name: everything that outlives a call besides its row."""

from typing import Final

from authz.core import action_token, agents, balance, latches, pending
from authz.core.delegation import relationship
from authz.core.ledger import Ledger, Table

#: Seconds that a relationship is still shown after it has expired.
SHOWN_S: Final = 30 * 86_400


class State:
    """What decisions read and change."""

    def __init__(self) -> None:
        #: By agent id.
        self.agents = Table(
            "agent",
            agents.to_json,
            agents.from_json,
            is_final=lambda agent: agent.revoked_at is not None,
        )
        #: By relationship id.
        self.relationships = Table(
            "relationship",
            relationship.to_json,
            relationship.from_json,
            expires=lambda edge: edge.expires_at + SHOWN_S,
            group=lambda edge: edge.source,
            is_final=lambda edge: edge.revoked_at is not None,
        )
        #: By relationship id.
        self.fuses = latches.table()
        #: By pending id.
        self.pending = pending.table()
        #: By wallet and agent.
        self.wallets = balance.table()
        #: By limit and agent.
        self.counts = balance.windows()
        #: By token id, until when it is kept.
        self.used = action_token.used()
        self.ledger = Ledger(
            self.agents,
            self.relationships,
            self.fuses,
            self.pending,
            self.wallets,
            self.counts,
            self.used,
        )
