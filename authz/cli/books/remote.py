"""The records of a sidecar elsewhere, by its admin API (docs/api.md)."""

from collections.abc import Mapping
from typing import Any, NoReturn

from authz.cli.books import Entry, Listed
from authz.cli.remote import Refusal, Remote, segment
from authz.cli.shared import FAILED, fail


class RemoteBooks:
    """`Books` of a sidecar that is asked for them."""

    def __init__(self, sidecar: Remote) -> None:
        self._sidecar = sidecar

    @property
    def where(self) -> str:
        return self._sidecar.name

    # Agents.

    def agents(self, *, trust: str, status: str) -> Listed:
        return self._listed("/admin/agents", "agents", trust=trust, status=status)

    def agent(self, agent_id: str) -> Entry:
        return self._sidecar.ask("GET", f"/admin/agents/{segment(agent_id)}")

    def create_agent(self, fields: Mapping[str, Any], *, ttl: str, needs_token: bool) -> Entry:
        body = {**_said(fields), **_lifetime(ttl)}
        # Its name is what makes an agent one: that there is none is for the sidecar to say.
        made = self._sidecar.ask("POST", "/admin/agents", body={**body, "name": fields["name"]})
        if needs_token and "token" not in made:
            self._lacks(made, f"agent {made.get('id')} is made, and has no token")
        # They are the token's other names, which others read (CONTRACT §1.3).
        return {name: made[name] for name in made if name not in ("apiKey", "api_key")}

    def update_agent(self, agent_id: str, changes: Mapping[str, Any]) -> Entry:
        return self._sidecar.ask("PATCH", f"/admin/agents/{segment(agent_id)}", body=dict(changes))

    def revoke_agent(self, agent_id: str, *, reason: str, unknown: bool) -> Entry:
        try:
            return self._sidecar.ask(
                "DELETE",
                f"/admin/agents/{segment(agent_id)}",
                params={"unknown": "true"} if unknown else None,
                body=_said({"reason": reason}) or None,
                caught=(404,),
            )
        except Refusal as refusal:
            said = "; with --unknown an id that is not registered is revoked too"
            fail([refusal.message.partition(";")[0] + said], refusal.exit_code)

    def new_token(self, agent_id: str, *, ttl: str) -> Entry:
        path = f"/admin/agents/{segment(agent_id)}/token"
        made = self._sidecar.ask("POST", path, body=_lifetime(ttl) or None)
        if "token" not in made:
            self._lacks(made, "there is no token in its answer")
        return made

    # Pending actions.

    def pending(self, *, state: str, agent: str) -> Listed:
        return self._listed("/admin/pending", "pending", state=state, agentId=agent)

    def pending_action(self, pending_id: str) -> Entry:
        return self._sidecar.ask("GET", f"/admin/pending/{segment(pending_id)}")

    def approve(self, pending_id: str, *, approver: str) -> Entry:
        path = f"/admin/pending/{segment(pending_id)}/approve"
        return self._sidecar.ask("POST", path, body={"approver": approver})

    def reject(self, pending_id: str, *, approver: str, reason: str) -> Entry:
        path = f"/admin/pending/{segment(pending_id)}/reject"
        return self._sidecar.ask("POST", path, body={"approver": approver, "reason": reason})

    # Delegations.

    def relationships(self, *, agent: str) -> Listed:
        return self._listed("/admin/relationships", "relationships", agentId=agent)

    def relationship(self, relationship_id: str) -> Entry:
        path = f"/admin/relationships/{segment(relationship_id)}"
        return self._relationship(self._sidecar.ask("GET", path))

    def delegate(self, terms: Mapping[str, Any], *, ttl: str, signed: bool, chain: bool) -> Entry:
        body = {**_said(terms), **_lifetime(ttl)}
        made = self._sidecar.ask("POST", "/admin/relationships", body=body)
        made["relationship"] = self._relationship(made)
        for part, is_wanted in (("receipt", signed), ("chain", chain)):
            if is_wanted and part not in made:
                self._lacks(made, f"{made['relationship'].get('id')} is made, without a {part}")
            if not is_wanted:
                made.pop(part, None)
        return made

    def chain(self, relationship_id: str) -> str:
        path = f"/admin/relationships/{segment(relationship_id)}/chain"
        answer = self._sidecar.ask("GET", path)
        signed = answer.get("chain")
        if not isinstance(signed, str):
            self._lacks(answer, "there is no chain in its answer")
        return signed

    def revoke_relationship(self, relationship_id: str, *, reason: str) -> Entry:
        path = f"/admin/relationships/{segment(relationship_id)}"
        body = _said({"reason": reason}) or None
        return self._relationship(self._sidecar.ask("DELETE", path, body=body))

    def delegation_keys(self) -> Entry:
        return self._sidecar.ask("GET", "/admin/delegation/keys")

    # Wallets and fuses.

    def wallets(self, *, agent: str) -> Listed:
        return self._listed("/admin/wallets", "wallets", agentId=agent)

    def reset_wallet(self, wallet: str, agent: str) -> Entry:
        path = f"/admin/wallets/{segment(wallet)}/{segment(agent)}/reset"
        return self._sidecar.ask("POST", path)

    def fuses(self) -> Listed:
        return self._listed("/admin/fuses", "fuses")

    def reset_fuse(self, relationship_id: str) -> Entry:
        return self._sidecar.ask("POST", f"/admin/fuses/{segment(relationship_id)}/reset")

    # What they have in common.

    def _listed(self, path: str, name: str, **params: str) -> Listed:
        entries = list(self._sidecar.pages(path, name, params=params))
        return Listed(entries, self._sidecar.now())

    def _relationship(self, answer: Entry) -> Entry:
        found = answer.get("relationship")
        if not isinstance(found, dict):
            self._lacks(answer, "there is no relationship in its answer")
        return found

    def _lacks(self, answer: Entry, what: str) -> NoReturn:
        note = answer.get("note")
        fail([f"{self.where}: {what}{f': {note}' if note else ''}"], FAILED)


def _said(fields: Mapping[str, Any]) -> Entry:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value not in ("", None, [], ())}


def _lifetime(ttl: str) -> Entry:
    return {"expiresIn": ttl} if ttl else {}
