"""What is done to the registry of agents."""

import math
from collections.abc import Mapping
from typing import Any, Final

from authz.core import agents
from authz.core.agents import Agent
from authz.core.identity import mint
from authz.core.ledger import Put
from authz.core.timestamps import rfc3339
from authz.operations.changing import Changing
from authz.operations.values import NotPossible, Token, Unknown

#: Random digits in an agent's id, hexadecimal.
_AGENT_DIGITS: Final = 16


class Agents(Changing):
    """Agents and their tokens."""

    def create_agent(self, *, by: str, agent_id: str = "", **fields: Any) -> Agent:
        """Register an agent; `fields` are those of `agents.new_agent`.

        Raises:
            ValueError: a field is not usable; one sentence that names it.
            NotPossible: there is one of this id.
            AuditUnavailable: it cannot be recorded, and so is not made.
        """
        agent_id = agent_id or f"agent_{self._new_id()[:_AGENT_DIGITS]}"
        agent = agents.new_agent(agent_id, self._now(), **fields)
        with self._changing() as change:
            if self.state.agents.get(agent_id) is not None:
                raise NotPossible(f"there is an agent {agent_id} already, or was before")
            change.put(Put(self.state.agents, agent_id, agent))
            change.row("agent:create", agent_id, by, after=agents.entry(agent))
        return agent

    def update_agent(self, agent_id: str, changes: Mapping[str, Any], *, by: str) -> Agent:
        """Change an agent; `changes` by the names of `agents.changed`.

        Raises:
            NotPossible: it is revoked.
            Unknown, ValueError, AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            before = self._agent(agent_id)
            if before.revoked_at is not None:
                raise NotPossible("a revoked agent cannot be changed; register another one")
            agent = agents.changed(before, self._now(), **changes)
            change.put(Put(self.state.agents, agent_id, agent))
            change.row(
                "agent:update", agent_id, by, before=agents.entry(before), after=agents.entry(agent)
            )
        return agent

    def revoke_agent(
        self, agent_id: str, *, by: str, reason: str = "", known: bool = True
    ) -> Agent:
        """Revoke an agent, at once and for ever; one that is revoked stays as it is.

        Args:
            known: only one that is registered here; else also one whose tokens come from elsewhere.

        Raises:
            Unknown, ValueError, AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            before = self.state.agents.get(agent_id)
            if before is None and known:
                raise Unknown(f"there is no agent {agent_id}")
            agent = agents.revoked(before or agent_id, self._now(), reason)
            if agent != before:
                change.put(Put(self.state.agents, agent_id, agent))
                was = None if before is None else agents.entry(before)
                change.row("agent:revoke", agent_id, by, before=was, after=agents.entry(agent))
        return agent

    def new_token(self, agent_id: str, *, by: str, ttl_s: int | None = None) -> Token:
        """A token for a registered agent.

        Raises:
            Unknown, AuditUnavailable: as `create_agent`.
            NotPossible: there is nothing to sign it with, or the agent is revoked.
            ValueError: the lifetime is none.
        """
        if not self._jwt_secret:
            raise NotPossible("JWT_SECRET is not set, so no token can be signed here")
        with self._changing() as change:
            agent = self._agent(agent_id)
            if agent.revoked_at is not None:
                raise NotPossible(f"agent {agent_id} was revoked")
            now, ttl = self._now(), self._jwt_ttl_s if ttl_s is None else ttl_s
            token = mint(
                self._jwt_secret,
                agent_id=agent_id,
                now=now,
                ttl_s=ttl,
                name=agent.name,
                tier=agent.tier,
                tags=agent.tags,
                org_id=agent.org_id,
            )
            expires = math.floor(now) + ttl
            change.row("agent:token", agent_id, by, after={"expiresAt": rfc3339(expires)})
        return Token(token, expires)

    def _agent(self, agent_id: str) -> Agent:
        agent = self.state.agents.get(agent_id)
        if agent is None:
            raise Unknown(f"there is no agent {agent_id}")
        return agent
