"""How a relationship stands for people who look at it: one whose chain is broken is not `active`.

`walk` judges each use; this tells before anybody tries. It looks at what has ended, and not at
policies and tiers, which depend on the action.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from authz.core.agents import Agent
from authz.core.delegation import relationship
from authz.core.delegation.relationship import AUTHORITY, MAX_HOPS, Relationship, Status

#: `broken`: it has not ended itself, and the hop that breaks it has, or is gone.
Shown = Literal[Status, "broken"]


class Standing(NamedTuple):
    """What is known at one time."""

    #: Seconds since the epoch.
    now: float
    #: By id.
    relationships: Mapping[str, Relationship]
    agents: Mapping[str, Agent]

    def status(self, found: Relationship) -> Shown:
        """How it stands."""
        return "broken" if self.broken_by(found) else relationship.status(found, self.now)

    def broken_by(self, found: Relationship) -> str:
        """The id of the uppermost hop for which one that is active by itself does not hold; empty
        where it holds, or has ended by itself."""
        if found.type != AUTHORITY or relationship.status(found, self.now) != "active":
            return ""
        broken = ""
        hop: Relationship | None = found
        above = found.id
        for _ in range(MAX_HOPS):
            if hop is None:
                return above
            if not self._holds(hop):
                broken = hop.id
            above = hop.parent
            if not above:
                return broken
            hop = self.relationships.get(above)
        return above

    def entry(self, found: Relationship) -> dict[str, object]:
        """What the API shows of it (CONTRACT §7), and `brokenBy`, the id of a hop."""
        shown = relationship.entry(found, self.now)
        broken = self.broken_by(found)
        return {**shown, "status": "broken", "brokenBy": broken} if broken else shown

    def _holds(self, hop: Relationship) -> bool:
        if relationship.status(hop, self.now) != "active":
            return False
        ends = (self.agents.get(hop.source), self.agents.get(hop.target))
        return all(agent is None or agent.revoked_at is None for agent in ends)
