"""What is done to pending actions, and the tokens that stand for them."""

from authz.core import pending
from authz.core.action_token import MAX_TTL_S
from authz.core.ledger import Put
from authz.core.pending import NotPending, Pending
from authz.operations.changing import Changing
from authz.operations.values import Token, Unknown


class PendingActions(Changing):
    """Pending actions and action tokens."""

    def pending(self, pending_id: str) -> Pending:
        """A pending action.

        Raises:
            Unknown: there is none.
        """
        found = self.state.pending.get(pending_id)
        if found is None:
            raise Unknown(f"there is no pending action {pending_id}")
        return found

    def answer(
        self, pending_id: str, *, approve: bool, approver: str, by: str, words: str = ""
    ) -> Pending:
        """Approve or reject a pending action.

        Raises:
            Unknown: there is none.
            NotPending: somebody has answered, or its time is over.
            AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            now, before = self._steady(), self.pending(pending_id)
            version = self._version()
            if approve and version and before.policy_version != version:
                raise NotPending(
                    f"{pending_id} became pending under policies of version {before.policy_version}"
                    f", and {version} is in force: nothing could come of it; the agent has to ask"
                    " again"
                )
            after = pending.answered(before, now, approve=approve, approver=approver, words=words)
            change.put(Put(self.state.pending, pending_id, after))
            change.row(
                f"pending:{'approve' if approve else 'reject'}",
                pending_id,
                by,
                before=pending.entry(before, now),
                after=pending.entry(after, now),
            )
        return after

    def action_token(self, approved: Pending) -> Token:
        """An action token for an approved action; it stands for the pending id as well."""
        ttl_s = max(min(MAX_TTL_S, int(approved.expires_at - self._steady())), 1)
        return self.mint_action(
            approved.agent_id,
            approved.action,
            approved.resource,
            approved.policy_version,
            ttl_s,
            approved.id,
        )

    def mint_action(
        self,
        agent_id: str,
        action: str,
        resource: str,
        policy_version: str,
        ttl_s: int = MAX_TTL_S,
        pending_id: str = "",
    ) -> Token:
        """An action token; whoever calls this has decided that there may be one."""
        now = self._steady()
        token = self._action_tokens.mint(
            agent_id=agent_id,
            action=action,
            resource=resource,
            policy_version=policy_version,
            jti=self._new_id(),
            now=now,
            ttl_s=ttl_s,
            pending_id=pending_id,
        )
        return Token(token, int(now) + min(ttl_s, MAX_TTL_S))
