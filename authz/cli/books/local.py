"""The records in the database here, as `cli/records.py` opens it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from authz.cli import records
from authz.cli.books import Entry, Listed
from authz.cli.policy.shared import load_valid
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail
from authz.cli.words import duration
from authz.core import agents, latches, pending, tiers
from authz.core.delegation.issue import Terms
from authz.core.timestamps import rfc3339
from authz.operations import Unknown

#: What the API calls fields of agents, and what `Operations` does.
_FIELDS: Final = {"id": "agent_id", "trustTier": "tier", "orgId": "org_id"}
#: How long a delegation holds where nothing is said.
_LIFETIME: Final = "1h"
_UNSIGNED: Final = (
    "JWT_SECRET is not set, so no token was made; with it `authz agent token ID` makes one"
)


class LocalBooks:
    """`Books` of a database here."""

    where = ""

    def __init__(self, database: Path | None, *, dev_secrets: bool) -> None:
        self._database = database
        self._dev_secrets = dev_secrets

    # Agents.

    def agents(self, *, trust: str, status: str) -> Listed:
        wanted = tiers.rank(trust) if trust else None
        with records.reading(self._database) as there:
            every = [
                agents.entry(agent)
                for agent in there.state.agents.values()
                if wanted in (None, agent.rank)
            ]
            now = there.now
        return Listed([one for one in every if status in ("", one["status"])], now)

    def agent(self, agent_id: str) -> Entry:
        with records.reading(self._database) as there:
            found = there.state.agents.get(agent_id)
        if found is None:
            fail([f"there is no agent {agent_id}"], FAILED)
        return agents.entry(found)

    def create_agent(self, fields: Mapping[str, Any], *, ttl: str, needs_token: bool) -> Entry:
        ttl_s = duration("--ttl", ttl) if ttl else None
        named = {_FIELDS.get(name, name): value for name, value in fields.items()}
        with records.changing(self._database, make=True, dev_secrets=self._dev_secrets) as there:
            if needs_token:
                _require_secret(there)
            made = there.operations.create_agent(by=records.by(), **named)
            shown = agents.entry(made)
            if not there.can_sign:
                return {**shown, "note": _UNSIGNED}
            token = there.operations.new_token(made.agent_id, by=records.by(), ttl_s=ttl_s)
        return {**shown, "token": token.token, "expiresAt": rfc3339(token.expires_at)}

    def update_agent(self, agent_id: str, changes: Mapping[str, Any]) -> Entry:
        named = {_FIELDS.get(name, name): value for name, value in changes.items()}
        with records.changing(self._database) as there:
            changed = there.operations.update_agent(agent_id, named, by=records.by())
        return agents.entry(changed)

    def revoke_agent(self, agent_id: str, *, reason: str, unknown: bool) -> Entry:
        with records.changing(self._database, make=unknown) as there:
            try:
                revoked = there.operations.revoke_agent(
                    agent_id, by=records.by(), reason=reason, known=not unknown
                )
            except Unknown as error:
                said = f"{error}; with --unknown an id that is not registered is revoked too"
                fail([said], FAILED)
        return agents.entry(revoked)

    def new_token(self, agent_id: str, *, ttl: str) -> Entry:
        ttl_s = duration("--ttl", ttl) if ttl else None
        with records.changing(self._database, dev_secrets=self._dev_secrets) as there:
            _require_secret(there)
            made = there.operations.new_token(agent_id, by=records.by(), ttl_s=ttl_s)
        return {"token": made.token, "expiresAt": rfc3339(made.expires_at)}

    # Pending actions.

    def pending(self, *, state: str, agent: str) -> Listed:
        with records.reading(self._database) as there:
            now = there.steady
            found = [
                pending.entry(one, now)
                for one in there.state.pending.values()
                if state in ("", one.state_at(now)) and agent in ("", one.agent_id)
            ]
        return Listed(found, now)

    def pending_action(self, pending_id: str) -> Entry:
        with records.reading(self._database) as there:
            return pending.entry(there.operations.pending(pending_id), there.steady)

    def approve(self, pending_id: str, *, approver: str) -> Entry:
        with records.changing(self._database, dev_secrets=self._dev_secrets) as there:
            approved = there.operations.answer(
                pending_id, approve=True, approver=approver, by=records.by()
            )
            shown = pending.entry(approved, there.steady)
            if there.can_sign:
                token = there.operations.action_token(approved)
                shown["actionToken"] = token.token
                shown["actionTokenExpiresAt"] = rfc3339(token.expires_at)
        return shown

    def reject(self, pending_id: str, *, approver: str, reason: str) -> Entry:
        with records.changing(self._database) as there:
            rejected = there.operations.answer(
                pending_id, approve=False, approver=approver, by=records.by(), words=reason
            )
            return pending.entry(rejected, there.steady)

    # Delegations.

    def relationships(self, *, agent: str) -> Listed:
        with records.reading(self._database) as there:
            standing = there.operations.standing()
            found = [
                standing.entry(edge)
                for edge in there.state.relationships.values()
                if agent in ("", edge.source, edge.target)
            ]
        return Listed(found, there.now)

    def relationship(self, relationship_id: str) -> Entry:
        with records.reading(self._database) as there:
            found = there.operations.relationship(relationship_id)
            return there.operations.standing().entry(found)

    def delegate(self, terms: Mapping[str, Any], *, ttl: str, signed: bool, chain: bool) -> Entry:
        ttl_s = duration("--ttl", ttl or _LIFETIME)
        snapshot, parent = load_valid(None).snapshot, terms["parentRelationshipId"]
        with records.changing(self._database, snapshot=snapshot) as there:
            if signed or chain:
                # Before anything is made that could not be signed then.
                there.delegations.signer()
            expires_at = time.time() + ttl_s
            above = there.state.relationships.get(parent)
            if above is not None and not ttl:
                expires_at = min(expires_at, above.expires_at)
            wanted = Terms(
                target=terms["targetAgentId"],
                scope=terms["scope"],
                expires_at=expires_at,
                resources=terms["resources"] or (),
                ceiling=terms["permissionCeiling"] or None,
                max_depth=terms["maxDepth"],
                requires_approval=terms["requiresApproval"],
                org_id=terms["orgId"],
            )
            source = terms["sourceAgentId"]
            made = there.operations.delegate(wanted, source, by=records.by(), parent=parent)
            shown: Entry = {"relationship": there.operations.standing().entry(made)}
            if signed:
                shown["receipt"] = there.operations.receipt(made)
            if chain:
                shown["chain"] = there.operations.chain(made)
            note = there.operations.unregistered(made)
        return {**shown, "note": note} if note else shown

    def chain(self, relationship_id: str) -> str:
        with records.reading(self._database) as there:
            return there.operations.chain(there.operations.relationship(relationship_id))

    def revoke_relationship(self, relationship_id: str, *, reason: str) -> Entry:
        with records.changing(self._database) as there:
            ended = there.operations.revoke_relationship(
                relationship_id, by=records.by(), reason=reason
            )
            return there.operations.standing().entry(ended)

    def delegation_keys(self) -> Entry:
        return records.delegation_keys(self._database)

    # Wallets and fuses.

    def wallets(self, *, agent: str) -> Listed:
        with records.reading(self._database, snapshot=records.policies_now()) as there:
            found = there.operations.wallets()
        return Listed([one.entry() for one in found if agent in ("", one.agent_id)], there.now)

    def reset_wallet(self, wallet: str, agent: str) -> Entry:
        with records.changing(self._database, snapshot=records.policies_now()) as there:
            before = there.operations.reset_wallet(wallet, agent, by=records.by())
        return {**before._replace(spent=0).entry(), "givenBack": before.spent}

    def fuses(self) -> Listed:
        with records.reading(self._database) as there:
            now = there.steady
            found = [
                latches.entry(edge, latch, now) for edge, latch in there.state.fuses.entries.items()
            ]
        return Listed(found, now)

    def reset_fuse(self, relationship_id: str) -> Entry:
        with records.changing(self._database) as there:
            there.operations.reset_fuse(relationship_id, by=records.by())
        return {"relationshipId": relationship_id, "state": "closed"}


def _require_secret(there: records.Records) -> None:
    if not there.can_sign:
        fail(["JWT_SECRET: not set, so there is nothing to sign a token with"], BAD_ARGUMENTS)
