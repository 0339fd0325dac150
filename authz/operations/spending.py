"""What is done to wallets and fuses."""

from collections.abc import Callable, Iterable

from authz.core import balance, latches
from authz.core.balance import Refilled
from authz.core.ledger import Put
from authz.operations.changing import Changing
from authz.operations.values import Spent, Unknown


class Spending(Changing):
    """Wallets and fuses."""

    def wallets(self) -> list[Spent]:
        """What agents have spent, of every wallet that anything was spent of."""
        return self.spent(self.state.wallets.entries)

    def spent(self, keys: Iterable[str]) -> list[Spent]:
        """What was spent of the balances of these keys, as far as there are any still."""
        return self.spent_later(keys)()

    def spent_later(self, keys: Iterable[str]) -> Callable[[], list[Spent]]:
        """`spent` of what there is now, to be worked out in any thread."""
        now, table = self._steady(), self.state.wallets
        entries = [(key, table.get(key)) for key in keys]
        documents = {wallet.name: wallet for wallet in self._snapshot().wallets}

        def work() -> list[Spent]:
            found = []
            for key, known in entries:
                if known is None:
                    continue
                wallet, agent_id = balance.parts(key)
                document = documents.get(wallet)
                spent = known.spent if isinstance(known, Refilled) else known.total(now)
                refill = None if document is None else document.refill
                if isinstance(known, Refilled) and refill is not None:
                    spent = balance.refilled(known, now, *refill).spent
                capacity = None if document is None else document.capacity
                found.append(Spent(agent_id, wallet, spent, capacity))
            return found

        return work

    def reset_wallet(self, wallet: str, agent_id: str, *, by: str) -> Spent:
        """Give an agent back what it has spent of a wallet, and return what that was.

        Raises:
            Unknown: it has spent nothing.
            AuditUnavailable: as `create_agent`.
        """
        key = balance.key(wallet, agent_id)
        with self._changing() as change:
            known = self.spent([key])
            if not known:
                raise Unknown(f"agent {agent_id} has spent nothing of wallet {wallet}")
            change.put(Put(self.state.wallets, key, None))
            change.row(
                "wallet:reset",
                f"{wallet} {agent_id}",
                by,
                before={"spent": known[0].spent},
                after={"spent": 0},
            )
        return known[0]

    def reset_fuse(self, relationship_id: str, *, by: str) -> dict[str, object]:
        """Close the fuse of a delegation, and return how it stood.

        Raises:
            Unknown: it has none, since nothing has failed.
            AuditUnavailable: as `create_agent`.
        """
        with self._changing() as change:
            latch = self.state.fuses.get(relationship_id)
            if latch is None:
                raise Unknown(f"relationship {relationship_id} has no fuse that could be reset")
            before = latches.entry(relationship_id, latch, self._steady())
            change.put(Put(self.state.fuses, relationship_id, None))
            change.row("fuse:reset", relationship_id, by, before=before)
        return before
