"""The policies in force, the versions before them, and the way back.

- What the gate judges by is one reference, `current`; everything here replaces it by one
  assignment, on the event loop's thread.
- A rollback pins: files that change are read and reported, and replace nothing until `release`. A
  pin outlives a restart, since the files that were rolled back from are still there.
- Of a version that is not in force only what its documents say is kept, packed: a thousand policies
  are 60 KB so, and 5 MB made ready. They are made ready again aside, by whoever calls `fetch`.
- Each activation is recorded with an audit row in one transaction. A store that cannot be written
  does not hold up a change of policies, which may be a denial that is needed now; the record is
  made as soon as it can be (`flush`).
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import peewee

from authz.core.audit import AuditRow, change_row
from authz.core.errors import AuditUnavailable
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.timestamps import rfc3339
from authz.stores import version_log
from authz.stores.audit_log import AuditLog
from authz.stores.pace import Pace
from authz.stores.version_log import (
    Activation,
    Corrupt,
    Packed,
    Recorded,
    Said,
    VersionReader,
    Why,
    said_by,
)

log = logging.getLogger(__name__)

#: Changes that wait for the audit store; beyond it the oldest are given up, and logged.
MAX_UNWRITTEN: Final = 1000

#: Activations that are looked at for versions to keep.
MAX_PAST: Final = 1000

#: Seconds that reading the past waits for another process; it is tried again later.
PATIENCE_S: Final = 0.05

_DONE: Final[dict[str, str]] = {
    "start": "the policies in force when the service started",
    "reload": "the policy files changed",
    "rollback": "rolled back, and pinned until released",
    "pin": "pinned until released",
    "release": "released: the policy files are in force again",
    "resume": "the audit database was opened anew, and these policies were in force",
}


class UnknownVersion(Exception):
    """No kept version has this name."""


class _Unwritten(NamedTuple):
    """A change that is not recorded yet."""

    #: None: it has been written already.
    row: AuditRow | None
    activation: Activation | None
    packed: Packed


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
        signed_only: bool = False,
    ) -> None:
        """
        Args:
            path: the audit database, for reading what was recorded before.
            limit: versions to keep, the one in force included (POLICY_VERSION_LIMIT).
            now: seconds since the epoch.
            signed_only: only what was verified comes here (REQUIRE_SIGNED_POLICIES), and of what is
                recorded nothing else counts.
        """
        self._signed_only = signed_only
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
        #: Versions that can be rolled back to, the one that was activated last at the end. None:
        #: recorded, and not read yet; most are never asked for.
        self._kept: dict[str, Snapshot | Packed | None] = {}
        #: The earlier versions are known, or there are none.
        self._knows_past = False
        self._warned = False
        self._packed: Packed | None = None
        self._unwritten: list[_Unwritten] = []
        #: The opening of the audit database in which the version in force was recorded.
        self._recorded_in = 0

    def start(self, loaded: Snapshot) -> None:
        """Take up where the last run ended: its versions, its pin, and these policies."""
        self.latest = loaded
        if not self._take_up("start"):
            self._activate(loaded, "start")

    def reload(self, loaded: Snapshot, packed: Packed | None = None) -> bool:
        """Put what the files say in force; False where it is already, or may not be.

        Args:
            packed: the same, packed; it takes time, and this may be a place that has none.
        """
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
        self._activate(loaded, "reload", packed)
        return True

    def fetch(self, version: str) -> None:
        """Make a kept version ready, so that `rollback` need not. May be called from any thread.

        Raises:
            UnknownVersion: it is not kept.
            Corrupt: what was kept is not what the version names, or was not signed and must be.
        """
        if version not in self._kept:
            raise UnknownVersion(version)
        if version == self.latest.version:
            self._kept[version] = self.latest
        if isinstance(self._kept[version], Snapshot):
            return
        packed = self._packed_documents(version)
        if self._signed_only and not version_log.is_signed(packed):
            raise Corrupt(
                f"version {version} was recorded before REQUIRE_SIGNED_POLICIES was set, and nobody"
                " can tell who signed it; put a bundle with its policies there"
            )
        found = version_log.unpack(packed, version)
        if version in self._kept:
            self._kept[version] = found

    def _packed_documents(self, version: str) -> bytes:
        kept = self._kept.get(version)
        if isinstance(kept, Snapshot):
            return version_log.pack(kept).documents
        try:
            packed = kept.documents if kept else VersionReader(self._path).documents(version)
        except (FileNotFoundError, peewee.PeeweeException) as error:
            raise Corrupt(f"version {version} cannot be read: {error}") from error
        if packed is None:
            raise UnknownVersion(version)
        return packed

    def said(self, version: str, pace: Pace) -> tuple[str, list[Said]]:
        """The SHA-256 of a version, and what its documents say. May be called from any thread.

        Raises:
            UnknownVersion, Corrupt: as `fetch`.
        """
        for known in (self.current, self.latest):
            if version == known.version:
                return known.sha256, said_by(known, pace)
        if version not in self._kept:
            raise UnknownVersion(version)
        return version_log.said_in(self._packed_documents(version), version, pace)

    def rollback(self, version: str, *, by: str = "") -> None:
        """Put a kept version in force and pin it.

        Args:
            by: who wants it, for the record.

        Raises:
            UnknownVersion, Corrupt: as `fetch`.
        """
        self.fetch(version)
        log.warning("policies: rolled back to version %s, pinned until it is released", version)
        before = self._standing()
        self._activate_kept(version, "rollback", before, by)

    def pin(self, *, by: str = "") -> bool:
        """Keep what is in force until it is released; False where that is so already."""
        if self.pinned:
            return False
        before = self._standing()
        self.pinned = True
        log.warning("policies: version %s is pinned until it is released", self.current.version)
        self._record("pin", before, by)
        return True

    def release(self, *, by: str = "") -> bool:
        """Put what the files say in force again; False when nothing is pinned."""
        if not self.pinned:
            return False
        before = self._standing()
        self.pinned = False
        log.warning(
            "policies: version %s is released; the files are in force again", self.current.version
        )
        self._activate(self.latest, "release", before=before, by=by)
        return True

    def kept(self) -> list[str]:
        """The versions that can be rolled back to, newest first."""
        return list(reversed(self._kept))

    def note(self, action: str, resource: str, reason: str) -> None:
        """Record a change that is no activation, such as one of the mode."""
        self._write(self._row(action, resource, reason), None)

    def flush(self) -> None:
        """Read what could not be read before, and record what could not be recorded."""
        if not self._knows_past:
            self._take_up("start")
        if self._recorded_in and self._recorded_in != self._audit.openings and not self._unwritten:
            # Perhaps another file: it must know what is in force, and that it is pinned.
            self._record("resume")
            return
        waiting: list[_Unwritten] = []
        while self._unwritten:
            first = self._unwritten[0]
            try:
                left = self._record_one(first)
            except AuditUnavailable:
                break
            del self._unwritten[0]
            if left is not None:
                waiting.append(left)
        self._unwritten[:0] = waiting

    def _record_one(self, first: "_Unwritten") -> "_Unwritten | None":
        """Record a change, and return what of it has to wait until the past is known."""
        activation, keep = first.activation, list(self._kept)

        def work(database: peewee.SqliteDatabase) -> None:
            if activation is not None and self._knows_past:
                version_log.append(database, activation, first.packed, keep)

        if first.row is not None or self._knows_past:
            self._audit.write_with([first.row] if first.row is not None else [], work)
        if activation is not None and not self._knows_past:
            # It would be the last activation, and end a pin that we have not seen.
            return first._replace(row=None)
        self._recorded_in = self._audit.openings
        return None

    def _take_up(self, why: Why) -> bool:
        """Read the past, and put a pinned version in force; true when there was one."""
        reader = None
        before: list[Recorded] = []
        try:
            reader = VersionReader(self._path, patience_s=PATIENCE_S)
            before = reader.activations(limit=MAX_PAST)
        except FileNotFoundError:
            pass
        except peewee.PeeweeException as error:
            if not self._warned:
                log.warning(
                    "AUDIT_DB_PATH: earlier policy versions, and whether one is pinned, cannot be"
                    " read now: %s",
                    error,
                )
            self._warned = True
            return False
        self._knows_past = True
        known = self._kept
        self._kept = {}
        for recorded in reversed(before):
            if recorded.kept:
                self._keep(recorded.activation.version, None)
        for version, snapshot in known.items():
            self._keep(version, snapshot)
        last = before[0].activation if before else None
        if last is None or not last.pinned or self.pinned:
            return False
        try:
            self.fetch(last.version)
        except (UnknownVersion, Corrupt) as error:
            log.error("policies: the pinned version %s is lost (%s)", last.version, error)
            return False
        log.warning(
            "policies: version %s is pinned by a rollback; the files' version %s waits until it is"
            " released",
            last.version,
            self.latest.version,
        )
        self._activate_kept(last.version, why)
        return True

    def _standing(self) -> dict[str, object]:
        return {"version": self.current.version, "pinned": self.pinned}

    def _activate_kept(
        self, version: str, why: Why, before: Mapping[str, object] | None = None, by: str = ""
    ) -> None:
        """Put a version that was fetched in force, and pin it."""
        snapshot = self._kept[version]
        assert isinstance(snapshot, Snapshot)
        self.pinned = True
        self._activate(snapshot, why, before=before, by=by)

    def _activate(
        self,
        snapshot: Snapshot,
        why: Why,
        packed: Packed | None = None,
        *,
        before: Mapping[str, object] | None = None,
        by: str = "",
    ) -> None:
        """`before`: how it stood, where somebody has asked for this."""
        old, self.current = self.current, snapshot
        if old is not snapshot:
            # One that is pinned over may still be the files'; what it remembered is not needed.
            old.forget()
            if old.version in self._kept:
                self._kept[old.version] = self._packed_form(old)
        self._packed = self._marked(packed) if packed is not None else None
        self._keep(snapshot.version, snapshot)
        self._record(why, before, by)

    def _record(self, why: Why, before: Mapping[str, object] | None = None, by: str = "") -> None:
        version = self.current.version
        reason = f"{_DONE[why]}, by {by}" if by else _DONE[why]
        metadata = {"before": before, "after": self._standing()} if before else None
        row = self._row(f"policies:{why}", version, reason, metadata)
        self._write(row, Activation(version, rfc3339(self._now()), why, self.pinned))

    def _keep(self, version: str, snapshot: Snapshot | Packed | None) -> None:
        self._kept.pop(version, None)
        self._kept[version] = snapshot
        while len(self._kept) > self._limit:
            spared = {version, self.current.version}
            oldest = next((v for v in self._kept if v not in spared), None)
            if oldest is None:
                return  # a limit of one, while a rollback is on its way
            del self._kept[oldest]

    def _row(
        self,
        action: str,
        resource: str,
        reason: str,
        metadata: Mapping[str, object] | None = None,
    ) -> AuditRow:
        return change_row(
            row_id=self._new_id(),
            at=self._now(),
            action=action,
            resource=resource,
            reason=reason,
            mode=self._mode(),
            policy_version=self.current.version,
            metadata=metadata,
        )

    def _packed_form(self, snapshot: Snapshot) -> Packed:
        if self._packed is not None and self._packed.version == snapshot.version:
            return self._packed
        return self._marked(version_log.pack(snapshot))

    def _marked(self, packed: Packed) -> Packed:
        if not self._signed_only:
            return packed
        return packed._replace(documents=packed.documents + version_log.SIGNED)

    def _write(self, row: AuditRow, activation: Activation | None) -> None:
        self._packed = self._packed_form(self.current)
        self._unwritten.append(_Unwritten(row, activation, self._packed))
        if len(self._unwritten) > MAX_UNWRITTEN:
            lost = self._unwritten.pop(0)
            if lost.row is not None:
                action, at = lost.row.action, lost.row.timestamp
                log.error("the change `%s` of %s was never recorded", action, at)
        self.flush()
