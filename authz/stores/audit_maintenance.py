"""The thread beside an audit log: it signs, folds the WAL in, and removes what is too old.

- It has connections of its own, to the file that the log has open, and to no other: when that one
  was moved or replaced it lets go, and follows the log to the next.
- A plain copy of the database, without its -wal, has every row older than two seconds: each second
  what was committed is written into the file itself, by a checkpoint that nobody waits for.
- Such a (passive) checkpoint never begins the WAL anew while a writer is busy, so from `WAL_LIMIT`
  on one is made that does, under the write lock, with next to nothing left to write.
- The first commit in a new WAL waits for the disk (an fsync of the WAL's header). So between two
  checkpoints a read transaction is held at the WAL's end: SQLite then goes on in the old WAL.
- A decision never waits for this to work: what fails is logged once, and tried again.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import peewee

from authz.core.audit import AuditRow
from authz.core.audit_chain import Link
from authz.core.timestamps import rfc3339
from authz.stores import ledger_log
from authz.stores.audit_key import (
    KeyUnusable,
    SigningKey,
    export_public,
    public_file,
    signing_key,
)
from authz.stores.audit_log import AuditLog
from authz.stores.audit_schema import (
    WAL_LIMIT,
    connection_of,
    file_identity,
    unwrapped,
)
from authz.stores.audit_seal import Tampered, end_of, note, retire, sign_anchor, sign_head, signer
from authz.stores.audit_table import forgiving

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
#: An idle trail's head is signed again this often, so that its age tells a trail from a relic.
RESIGN_S: Final = 60.0
#: How often a key that could not be used is looked at again, and how often old rows are.
KEY_AGAIN_S: Final = 60.0
RETENTION_EVERY_S: Final = 60.0
#: Of each second, what removing old rows may take, and the rest between two chunks.
RETENTION_BUDGET_S: Final = 0.4
RETENTION_REST_S: Final = 0.01
#: How long this thread waits for the write lock; the service stops within a second.
PATIENCE_MS: Final = 250
#: How long a checkpoint that begins the WAL anew may wait for readers, since it keeps the write
#: lock meanwhile; and how often it is tried in a second.
RESTART_PATIENCE_MS: Final = 5
RESTARTS: Final = 3
#: Seconds that `stop` waits for the last signature; a disk that hangs must not keep the service.
STOP_S: Final = 1.0
#: Times in a row that the file may be locked before that is worth a line.
LOCKED_BEFORE_TOLD: Final = 5
_DAY_S: Final = 86_400
#: A WAL frame has a page and this many bytes.
_FRAME_HEADER: Final = 24

#: The row of a change that nobody asked for: action, resource, reason.
Change = Callable[[str, str, str], AuditRow]


class _Due(NamedTuple):
    """When something is to be done again, on the monotonic clock."""

    key: float
    sign: float
    retire: float


_AT_ONCE: Final = _Due(*[float("-inf")] * 3)


class AuditMaintenance:
    """Looks after the file of one audit log. `tick` and `finish` belong to one thread."""

    def __init__(
        self,
        audit: AuditLog,
        path: Path,
        *,
        key_file: Path,
        retention_days: int,
        change: Change,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        every_s: float = EVERY_S,
        wal_limit: int = WAL_LIMIT,
    ) -> None:
        """
        Args:
            key_file: AUDIT_KEY_FILE.
            retention_days: AUDIT_RETENTION_DAYS; 0 keeps everything.
            change: may be called from this object's thread.
            now: seconds since the epoch.
            monotonic: seconds of a clock that never steps back.
        """
        self._audit = audit
        self._path = path
        self._key_file = key_file
        self._retention_s = retention_days * _DAY_S
        self._change = change
        self._now = now
        self._monotonic = monotonic
        self._every_s = every_s
        self._wal_limit = wal_limit
        self._key: SigningKey | None = None
        self._database: peewee.SqliteDatabase | None = None
        #: Holds the read transaction at the WAL's end.
        self._holder: sqlite3.Connection | None = None
        self._opening = 0
        self._identity = (0, 0)
        #: What was signed last in this file, and where the trail stood when last looked at.
        self._signed: Link | None = None
        self._end: Link | None = None
        self._due = _AT_ONCE
        self._started = now(), monotonic()
        self._failures = 0
        self._told = ""
        #: The row that keeps retention from removing any.
        self._tampered: int | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Work in a thread, from now on."""
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sign the end of the trail and let the file go; the log must not write any more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
            if self._thread.is_alive():
                log.error("AUDIT_DB_PATH: %s: the disk hangs; its end is not signed", self._path)
            self._thread = None

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self.tick()
            self._stopping.wait(max(self._every_s / 10, began + self._every_s - time.monotonic()))
        self.finish()

    def tick(self) -> None:
        """Do what is due. Never raises."""
        self._guarded(self._look_after)

    def finish(self) -> None:
        """Sign the end as one, fold the WAL in, and close. Never raises."""
        self._guarded(self._last)
        self._let_go()

    def _guarded(self, work: Callable[[peewee.SqliteDatabase], None]) -> None:
        try:
            with unwrapped():
                database = self._follow()
                if database is not None:
                    work(database)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        except Exception as error:
            if repr(error) != self._told:
                log.exception("looking after the audit trail failed")
                self._told = repr(error)
            self._let_go()
        else:
            if self._told:
                log.warning("AUDIT_DB_PATH: %s can be looked after again", self._path)
            self._failures, self._told = 0, ""

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        locked = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        said = str(error)
        if said != self._told and (not locked or self._failures >= LOCKED_BEFORE_TOLD):
            log.error(
                "AUDIT_DB_PATH: %s: its heads cannot be signed, nor its WAL be folded in, now: %s",
                self._path,
                said,
            )
            self._told = said
        if not locked:
            self._let_go()

    # Which file.

    def _follow(self) -> peewee.SqliteDatabase | None:
        """The database that the log has open; None while it has none."""
        identity = file_identity(self._path)
        if self._opening != self._audit.openings or self._identity != identity:
            self._let_go()
        if self._database is not None:
            return self._database
        opening = self._audit.openings
        if identity == (0, 0) or identity != self._audit.opened:
            return None
        database = peewee.SqliteDatabase(
            f"{self._path.resolve().as_uri()}?mode=rw",
            uri=True,
            timeout=PATIENCE_MS / 1000,
            pragmas={
                # The checkpoint waits for the disk, or losing power could cost the database.
                "synchronous": "normal",
                "wal_autocheckpoint": 0,
                "journal_size_limit": self._wal_limit,
            },
        )
        self._database = database
        database.connect()
        connection_of(database).text_factory = forgiving
        self._opening, self._identity = opening, identity
        self._signed = self._end = None
        self._due = _AT_ONCE._replace(key=self._due.key)
        return database

    def _let_go(self) -> None:
        database, self._database = self._database, None
        with contextlib.suppress(sqlite3.Error, peewee.PeeweeException):
            self._release()
        if database is not None:
            with contextlib.suppress(sqlite3.Error, peewee.PeeweeException):
                database.close()

    # What is done.

    def _look_after(self, database: peewee.SqliteDatabase) -> None:
        now = self._monotonic()
        end = end_of(database)
        grown, self._end = end != self._end, end
        try:
            self._find_key()
            if self._key is not None:
                if self._signed is None:
                    self._take_over(database, self._key)
                if end != self._signed or now >= self._due.sign:
                    self._sign(database, self._key)
        finally:
            # Who writes without a pause may keep us from signing, but not from this.
            self._checkpoint(database, grown)
        if self._retention_s and now >= self._due.retire:
            self._retire(database)

    def _last(self, database: peewee.SqliteDatabase) -> None:
        if self._key is not None:
            self._sign(database, self._key, final=True)
        self._release()
        database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)")  # type: ignore[no-untyped-call]

    def _find_key(self) -> None:
        if self._key is not None or self._monotonic() < self._due.key:
            return
        first = self._due.key == float("-inf")
        self._due = self._due._replace(key=self._monotonic() + KEY_AGAIN_S)
        try:
            self._key = signing_key(self._key_file)
        except (KeyUnusable, OSError) as error:
            if first:
                log.error("AUDIT_KEY_FILE: %s; the audit trail is not signed until it is", error)
            return
        if self._key.exposed:
            log.warning("AUDIT_KEY_FILE: %s can be read by everybody", self._key_file)
        log.info("the audit trail is signed with key %s", self._key.key_id)
        try:
            export_public(public_file(self._key_file), self._key)
        except (KeyUnusable, OSError) as error:
            log.warning("AUDIT_KEY_FILE: %s; verifying the trail needs it", error)

    def _take_over(self, database: peewee.SqliteDatabase, key: SigningKey) -> None:
        """Sign for the first time in this file."""
        before = signer(database)
        if before is not None and before != key.key_id:
            reason = f"the audit trail was signed with key {before}, and is with {key.key_id} now"
            log.warning("AUDIT_KEY_FILE: %s", reason)
            note(database, self._change("audit:key", key.key_id, reason))
        for link in sign_anchor(database, key):
            reason = (
                f"the trail began behind row {link.seq} without a signature, and is signed from"
                " now on; whether a sidecar without a key removed what was before cannot be shown"
            )
            log.warning("AUDIT_DB_PATH: %s: %s", self._path, reason)
            note(database, self._change("audit:anchor", str(link.seq), reason))

    def _sign(
        self, database: peewee.SqliteDatabase, key: SigningKey, *, final: bool = False
    ) -> None:
        sealed = sign_head(database, key, self._now(), final=final)
        self._signed = self._end = sealed.link
        self._due = self._due._replace(sign=self._monotonic() + RESIGN_S)
        if sealed.broken is None:
            return
        reason = (
            f"row {sealed.broken.seq} of the audit trail, as it was signed at {sealed.broken.at},"
            " is gone or was changed; `authz audit verify` says more"
        )
        log.error("AUDIT_DB_PATH: %s: %s", self._path, reason)
        note(database, self._change("audit:broken", str(sealed.broken.seq), reason))

    # The WAL.

    def _checkpoint(self, database: peewee.SqliteDatabase, grown: bool) -> None:
        if grown or self._holder is None:
            self._hold()
        frames, done = _passive(database)
        if done < frames:
            # Up to where the read transaction was, only.
            self._hold()
            frames, done = _passive(database)
        page: int = database.pragma("page_size")
        if frames * (page + _FRAME_HEADER) > self._wal_limit:
            self._begin_anew(database)

    def _begin_anew(self, database: peewee.SqliteDatabase) -> None:
        self._release()
        database.pragma("busy_timeout", RESTART_PATIENCE_MS)
        try:
            for _ in range(RESTARTS):
                _passive(database)
                cursor = database.execute_sql("PRAGMA wal_checkpoint(RESTART)")  # type: ignore[no-untyped-call]
                if not cursor.fetchone()[0]:
                    break
        finally:
            database.pragma("busy_timeout", PATIENCE_MS)

    def _hold(self) -> None:
        """Begin a read transaction at the end of the WAL, instead of the one before."""
        if self._holder is None:
            uri = f"{self._path.resolve().as_uri()}?mode=rw"
            self._holder = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        elif self._holder.in_transaction:
            self._holder.execute("ROLLBACK")
        self._holder.execute("BEGIN")
        self._holder.execute("SELECT seq FROM audit_anchors LIMIT 1").fetchone()

    def _release(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.close()

    # Retention.

    def _retire(self, database: peewee.SqliteDatabase) -> None:
        """Remove rows that are too old, a few at a time."""
        began = self._monotonic()
        wall, monotonic = self._started
        # A clock that was put forward while we run makes nothing older.
        now = min(self._now(), wall + began - monotonic)
        before = rfc3339(max(now - self._retention_s, 0.0))
        try:
            while retire(database, self._key, before, now):
                spent = self._monotonic() - began
                if spent > RETENTION_BUDGET_S or self._stopping.wait(RETENTION_REST_S):
                    return
            self._tampered = None
        except Tampered as found:
            if found.seq != self._tampered:
                self._tampered = found.seq
                reason = (
                    f"row {found.seq} is not what was recorded, so that no row is removed by"
                    " retention; `authz audit verify` says more"
                )
                log.error("AUDIT_DB_PATH: %s: %s", self._path, reason)
                note(database, self._change("audit:broken", str(found.seq), reason))
        ledger_log.forget(connection_of(database))
        self._due = self._due._replace(retire=began + RETENTION_EVERY_S)


def _passive(database: peewee.SqliteDatabase) -> tuple[int, int]:
    """Checkpoint what nobody has to wait for: frames in the WAL, and those that are in the file."""
    cursor = database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)")  # type: ignore[no-untyped-call]
    _, frames, done = cursor.fetchone()
    return frames, done
