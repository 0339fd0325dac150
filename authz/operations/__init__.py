"""What people do to a sidecar's records: agents, relationships, pending actions, wallets, fuses.

- Each change and its audit row, with what was there before and after, are one transaction; where it
  cannot be recorded it is not made.
- The same operations serve the admin API, in the sidecar's own process, and the command line, in
  another one: the sidecar follows what others have committed before it decides anything.
- A token is made here and shown once; nothing here keeps one.
"""

from authz.operations.agents import Agents
from authz.operations.pending import PendingActions
from authz.operations.relationships import MAX_RELATIONSHIPS, Relationships
from authz.operations.spending import Spending
from authz.operations.values import NotPossible, Signer, Spent, Token, Unknown

__all__ = (
    "MAX_RELATIONSHIPS",
    "NotPossible",
    "Operations",
    "Signer",
    "Spent",
    "Token",
    "Unknown",
)


class Operations(Agents, Relationships, PendingActions, Spending):
    """All of them, on one ledger."""
