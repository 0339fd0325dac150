"""A sidecar's records as commands look at them and change them: in the database here, or at a
sidecar elsewhere that is asked for it.

- Both give and take what the admin API does: JSON objects, with the API's names.
- Both end the command with the same sentence and exit code where something is not possible.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

#: A record as the admin API shows it.
Entry = dict[str, Any]


class Listed(NamedTuple):
    """Records of a kind, in no order."""

    entries: list[Entry]
    #: When they were looked at, seconds since the epoch by the clock that their times tell.
    now: float


class Books(Protocol):
    """All that can be asked for."""

    @property
    def where(self) -> str:
        """The sidecar's URL; empty for the database here."""

    def agents(self, *, trust: str, status: str) -> Listed:
        """The agents of this tier that are `active` or `revoked`; empty for any."""

    def agent(self, agent_id: str) -> Entry:
        """One agent."""

    def create_agent(self, fields: Mapping[str, Any], *, ttl: str, needs_token: bool) -> Entry:
        """A new agent, with `token` and `expiresAt`, or a `note` that says why it has none.

        Args:
            ttl: lifetime of the token; empty for JWT_EXPIRES_IN.
            needs_token: where it is known that there can be none, there is no agent either.
        """

    def update_agent(self, agent_id: str, changes: Mapping[str, Any]) -> Entry:
        """The agent as it is then."""

    def revoke_agent(self, agent_id: str, *, reason: str, unknown: bool) -> Entry:
        """The agent as it is then; with `unknown` also one that is not registered."""

    def new_token(self, agent_id: str, *, ttl: str) -> Entry:
        """`token` and `expiresAt`."""

    def pending(self, *, state: str, agent: str) -> Listed:
        """Pending actions in this state and of this agent; empty for any."""

    def pending_action(self, pending_id: str) -> Entry:
        """One of them."""

    def approve(self, pending_id: str, *, approver: str) -> Entry:
        """The action as it is then, with `actionToken` where one can be signed."""

    def reject(self, pending_id: str, *, approver: str, reason: str) -> Entry:
        """The action as it is then."""

    def relationships(self, *, agent: str) -> Listed:
        """Those from and to this agent; empty for any."""

    def relationship(self, relationship_id: str) -> Entry:
        """One of them."""

    def delegate(self, terms: Mapping[str, Any], *, ttl: str, signed: bool, chain: bool) -> Entry:
        """A new `relationship`, with a `note` where something is to be looked at again.

        Args:
            terms: as the API takes them.
            ttl: how long it holds; empty for an hour, or as long as its parent.
            signed: with its `receipt`.
            chain: with its `chain`.
        """

    def chain(self, relationship_id: str) -> str:
        """Its signed chain."""

    def revoke_relationship(self, relationship_id: str, *, reason: str) -> Entry:
        """The relationship as it is then."""

    def delegation_keys(self) -> Entry:
        """The JWK Set of the key that signs them."""

    def wallets(self, *, agent: str) -> Listed:
        """What this agent has spent; empty for any."""

    def reset_wallet(self, wallet: str, agent: str) -> Entry:
        """What is spent then, and how much was `givenBack`."""

    def fuses(self) -> Listed:
        """Those of delegations that have failed."""

    def reset_fuse(self, relationship_id: str) -> Entry:
        """The fuse as it is then."""


@contextlib.contextmanager
def opened(database: Path | None, *, dev_secrets: bool = False) -> Iterator[Books]:
    """The records that this command line is about.

    Args:
        database: the one here, whatever sidecar the environment names.
        dev_secrets: fill in what is missing here (`dev_secrets`).
    """
    from authz.cli.destination import gateway

    here = "--database" if database else "--insecure-dev-secrets" if dev_secrets else ""
    there = gateway(here=here)
    if there is None:
        from authz.cli.books.local import LocalBooks

        yield LocalBooks(database, dev_secrets=dev_secrets)
        return
    from authz.cli.books.remote import RemoteBooks
    from authz.cli.remote import Remote
    from authz.cli.words import with_options

    with Remote(there, worded=with_options) as sidecar:
        yield RemoteBooks(sidecar)
