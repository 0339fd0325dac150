"""The policies in force, the versions before them, and the way back.

- What the gate judges by is one reference, `current`; everything here replaces it by one
  assignment, on the event loop's thread.
- A rollback pins: files that change are read and reported, and replace nothing until `release`. A
  pin outlives a restart, since the files that were rolled back from are still there.
- Each activation is recorded with an audit row in one transaction. A store that cannot be written
  does not hold up a change of policies, which may be a denial that is needed now; the record is
  made as soon as it can be (`flush`).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import peewee

from authz.core.audit import AuditRow, change_row
from authz.core.errors import AuditUnavailable
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.timestamps import rfc3339
from authz.stores import version_log
from authz.stores.audit_log import AuditLog
from authz.stores.version_log import Activation, Corrupt, VersionReader, Why

log = logging.getLogger(__name__)

#: Changes that wait for the audit store; beyond it the oldest are given up, and logged.
MAX_UNWRITTEN: Final = 1000

_DONE: Final[dict[str, str]] = {
    "start": "the policies in force when the service started",
    "reload": "the policy files changed",
    "rollback": "rolled back, and pinned until released",
    "release": "released: the policy files are in force again",
}


class UnknownVersion(Exception):
    """No kept version has this name."""


class Versions:
    """The policies in force, and the last `limit` versions of them."""

    def __init__(
        self,
        audit: AuditLog,
        path: Path,
        *,
        limit: int,
        mode: Callable[[], Mode],
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """
        Args:
            path: the audit database, for reading what was recorded before.
            limit: versions to keep, the one in force included (POLICY_VERSION_LIMIT).
            now: seconds since the epoch.
        """
        self.current = Snapshot(())
        #: What the files say; differs from `current` while that is pinned.
        self.latest = self.current
        self.pinned = False
        self._audit = audit
        self._path = path
        self._limit = limit
        self._mode = mode
        self._now = now
        self._new_id = new_id
        #: Kept versions, the one that was activated last at the end.
        self._kept: dict[str, Snapshot] = {}
        self._activations: list[Activation] = []
        self._unwritten: list[tuple[AuditRow, Activation | None, Snapshot]] = []

    def start(self, loaded: Snapshot) -> None:
        """Take up where the last run ended: its versions, its pin, and these policies."""
        self.latest = loaded
        before: list[version_log.Recorded] = []
        try:
            reader = VersionReader(self._path)
            before = reader.activations(limit=1000)
            for recorded in reversed(before):
                self._restore(reader, recorded)
        except (FileNotFoundError, peewee.PeeweeException) as error:
            log.warning("AUDIT_DB_PATH: earlier policy versions cannot be read: %s", error)
        last = before[0].activation if before else None
        if last is not None and last.pinned:
            pinned = self._kept.get(last.version)
            if pinned is not None:
                self.pinned = True
                log.warning(
                    "policies: version %s is pinned by a rollback; the files' version %s waits"
                    " until it is released",
                    pinned.version,
                    loaded.version,
                )
                self._activate(pinned, "start")
                return
            log.error("policies: the pinned version %s is lost; serving the files", last.version)
        self._activate(loaded, "start")

    def reload(self, loaded: Snapshot) -> bool:
        """Put what the files say in force; False where it is already, or may not be."""
        changed = loaded.version != self.latest.version
        self.latest = loaded
        if self.pinned:
            if changed:
                log.warning(
                    "policies: the files say version %s now, but version %s is pinned",
                    loaded.version,
                    self.current.version,
                )
            return False
        if loaded.version == self.current.version:
            return False
        self._activate(loaded, "reload")
        return True

    def rollback(self, version: str) -> None:
        """Put a kept version in force and pin it.

        Raises:
            UnknownVersion: it is not kept.
        """
        snapshot = self._kept.get(version)
        if snapshot is None:
            raise UnknownVersion(version)
        self.pinned = True
        self._activate(snapshot, "rollback")

    def release(self) -> bool:
        """Put what the files say in force again; False when nothing is pinned."""
        if not self.pinned:
            return False
        self.pinned = False
        self._activate(self.latest, "release")
        return True

    def kept(self) -> list[str]:
        """The versions that can be rolled back to, newest first."""
        return list(reversed(self._kept))

    def note(self, action: str, resource: str, reason: str) -> None:
        """Record a change that is no activation, such as one of the mode."""
        self._write(self._row(action, resource, reason), None)

    def flush(self) -> None:
        """Record what could not be recorded before."""
        while self._unwritten:
            row, activation, snapshot = self._unwritten[0]
            keep = list(self._kept)

            def work(
                database: peewee.SqliteDatabase,
                activation: Activation | None = activation,
                snapshot: Snapshot = snapshot,
                keep: list[str] = keep,
            ) -> None:
                if activation is not None:
                    version_log.append(database, activation, snapshot, keep)

            try:
                self._audit.write_with([row], work)
            except AuditUnavailable:
                return
            del self._unwritten[0]

    def _activate(self, snapshot: Snapshot, why: Why) -> None:
        before, self.current = self.current, snapshot
        if before is not snapshot:
            # Kept versions are for going back to; their memory is for the one in force.
            before.forget()
        self._keep(snapshot)
        activation = Activation(snapshot.version, rfc3339(self._now()), why, self.pinned)
        row = self._row(f"policies:{why}", snapshot.version, _DONE[why])
        self._write(row, activation)

    def _keep(self, snapshot: Snapshot) -> None:
        self._kept.pop(snapshot.version, None)
        self._kept[snapshot.version] = snapshot
        while len(self._kept) > self._limit:
            oldest = next(v for v in self._kept if v != self.current.version)
            del self._kept[oldest]

    def _restore(self, reader: VersionReader, recorded: version_log.Recorded) -> None:
        version = recorded.activation.version
        known = self._kept.get(version)
        if known is None and recorded.kept:
            try:
                known = self.latest if version == self.latest.version else reader.snapshot(version)
            except Corrupt as error:
                log.error("AUDIT_DB_PATH: %s; it cannot be rolled back to", error)
        if known is not None:
            self._keep(known)

    def _row(self, action: str, resource: str, reason: str) -> AuditRow:
        return change_row(
            row_id=self._new_id(),
            at=self._now(),
            action=action,
            resource=resource,
            reason=reason,
            mode=self._mode(),
            policy_version=self.current.version,
        )

    def _write(self, row: AuditRow, activation: Activation | None) -> None:
        self._unwritten.append((row, activation, self.current))
        if len(self._unwritten) > MAX_UNWRITTEN:
            lost = self._unwritten.pop(0)[0]
            log.error("the change `%s` of %s was never recorded", lost.action, lost.timestamp)
        self.flush()
