"""The ledger's tables by name: everything that outlives a call besides its row."""

import math
from typing import Final

from authz.core import action_token, agents, balance, latches, pending
from authz.core.delegation import relationship
from authz.core.ledger import Ledger, Put, Table
from authz.core.timestamps import rfc3339, seconds_of

#: Seconds that a relationship is still shown after it has expired.
SHOWN_S: Final = 30 * 86_400
#: Seconds by which a time that was noted may be ahead of the clock and still be believed: a clock
#: that was corrected. One that says the year 9999 is no clock.
MAX_AHEAD_S: Final = 86_400


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
        #: By token id, and of an agent.
        self.used = action_token.used()
        #: When it was last, to the second, under an empty key: a process that begins after the
        #: wall's clock was set back goes on from there, and what had expired stays so.
        self.clock = Table("clock", rfc3339, lambda _, text: seconds_of(text))
        self.ledger = Ledger(
            self.agents,
            self.relationships,
            self.fuses,
            self.pending,
            self.wallets,
            self.counts,
            self.used,
            self.clock,
        )

    def tick(self, now: float) -> None:
        """Note what time it is on the steady clock, and remove some of what has expired."""
        noted = self.clock.get("")
        if noted is None or not noted - MAX_AHEAD_S < now < noted + 1:
            self.ledger.put(Put(self.clock, "", float(math.floor(now))))
        self.ledger.purge(now)
