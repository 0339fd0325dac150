"""What all operations have in common: a change is made with its audit row, or not at all."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from authz.core.action_token import ActionTokens
from authz.core.audit import AuditRow, change_row
from authz.core.ledger import Put
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.state import State
from authz.operations.values import Signer
from authz.stores.audit_log import AuditLog


class Changing:
    """One ledger, and how it is changed."""

    def __init__(
        self,
        state: State,
        audit: AuditLog,
        *,
        snapshot: Callable[[], Snapshot],
        mode: Callable[[], Mode],
        now: Callable[[], float],
        steady: Callable[[], float],
        new_id: Callable[[], str],
        action_tokens: ActionTokens,
        signer: Callable[[], Signer],
        jwt_secret: str = "",
        jwt_ttl_s: int = 0,
        version: Callable[[], str] | None = None,
    ) -> None:
        """
        Args:
            now: seconds since the epoch.
            steady: the same on the steady clock (`core/ledger.py`).
            new_id: 32 random digits, hexadecimal.
            signer: who signs receipts; called when one is signed.
            jwt_secret: what agent tokens are signed with; without it none can be.
            jwt_ttl_s: how long they are good for, seconds.
            version: names the policies in force, where they are not those of the snapshot.
        """
        self.state: Final = state
        self._audit = audit
        self._snapshot = snapshot
        self._mode = mode
        self._now = now
        self._steady = steady
        self._new_id = new_id
        self._action_tokens = action_tokens
        self._signer = signer
        self._jwt_secret = jwt_secret
        self._jwt_ttl_s = jwt_ttl_s
        self._version = version or (lambda: snapshot().version)

    def record(
        self,
        action: str,
        resource: str,
        *,
        by: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a change of something that is no record, before it is made.

        Raises:
            AuditUnavailable: it cannot be recorded, and so is not to be made.
        """
        with self._changing() as change:
            change.row(action, resource, by, before=before, after=after)

    def now(self) -> float:
        """Seconds since the epoch, which agents and relationships tell."""
        return self._now()

    def steady(self) -> float:
        """Seconds of the steady clock, which the others tell (`core/ledger.py`)."""
        return self._steady()

    def refresh(self) -> None:
        """Take over what others have changed.

        Raises:
            AuditUnavailable: the store cannot be read now.
        """
        self._audit.follow()

    @contextlib.contextmanager
    def _changing(self) -> Iterator["_Change"]:
        """A transaction; what was changed of the ledger is taken back where it fails.

        Where nothing was changed nothing is written, also not what waits to be: others look for
        changes where there is a new row.
        """
        ledger = self.state.ledger
        self._audit.begin()
        change = _Change(self)
        try:
            yield change
            if not change.rows:
                self._audit.cancel()
                return
            self._audit.write(change.rows, ledger.changes())
        except BaseException:
            self._audit.cancel()
            ledger.undo()
            raise
        ledger.keep(durable=True)

    def _row(self, action: str, resource: str, by: str, metadata: Mapping[str, Any]) -> AuditRow:
        return change_row(
            row_id=self._new_id(),
            at=self._now(),
            action=action,
            resource=resource,
            reason=f"by {by}",
            mode=self._mode(),
            policy_version=self._version(),
            metadata=metadata,
        )


class _Change:
    """What one operation changes."""

    def __init__(self, operations: Changing) -> None:
        self.rows: list[AuditRow] = []
        self._operations = operations

    def put(self, change: Put) -> None:
        self._operations.state.ledger.put(change)

    def row(
        self,
        action: str,
        resource: str,
        by: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        said = {"before": before, "after": after}
        metadata = {name: value for name, value in said.items() if value is not None}
        self.rows.append(self._operations._row(action, resource, by, metadata))  # noqa: SLF001
