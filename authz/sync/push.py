"""One turn of sending audit rows: what comes after the last one that was acknowledged.

- Rows go in slices, each an audit database of its own (`authz/stores/audit_slice.py`), so that the
  other side can verify them as any trail. A slice is acknowledged when the answer accounts for each
  of its rows; then its last row's number and hash are on disk here, and not before.
- Sent twice is counted there, not doubled: whatever ends this between the two loses nothing.
- Which trail it is, its hashes say: the last acknowledged row is here with its hash, or this is
  another database (sent from its beginning), or retention was quicker (said, and gone on with).
- It only reads the trail, some rows at a time: no decision waits.
"""

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.core.timestamps import rfc3339, seconds_of
from authz.stores.audit_check import NotATrail
from authz.stores.audit_query import Unreadable, opened
from authz.stores.audit_slice import NoSuchPlace, Slice, write_slice
from authz.sync.client import ControlPlane, TooLarge
from authz.sync.errors import Cause, SyncFailed
from authz.sync.plan import Plan
from authz.sync.state import State, writing

PATH: Final = "/admin/audit/ingest"
#: The form's field.
FIELD: Final = "audit"
#: Rows of a slice: about 4 MiB, which a slow line carries within the time that a request has.
ROWS: Final = 5_000
#: Bytes of a slice's file that are sent at once, if it has more than one row.
MAX_SLICE: Final = 24 * 1024 * 1024
#: Seconds after which a turn ends between two slices, and the next one goes on.
TURN_S: Final = 60.0
#: Seconds that a busy control plane may ask for within a turn, and how often it may.
BUSY_S: Final = 10.0
BUSY_TIMES: Final = 10
#: The share of AUDIT_RETENTION_DAYS that the oldest row may wait before somebody is warned.
_WARN_AT: Final = 0.5
_DAY_S: Final = 86_400

#: Told after each slice: rows that are done, and rows that there were when the turn began.
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a turn has done."""

    #: RFC 3339.
    at: str
    #: Rows that the control plane has taken, and that it had already.
    ingested: int
    duplicates: int
    #: The last row that is acknowledged; 0 for none.
    acknowledged: int
    #: Rows that wait still.
    pending: int
    #: The turn has ended for its time, and the next one goes on at once.
    more: bool
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For people and for other processes."""
        return asdict(self)


class _Ends(NamedTuple):
    """Of the trail, as it is now."""

    #: Numbers of its oldest and newest row; zeros where there is none.
    first: int
    last: int


class _Known(NamedTuple):
    """What the control plane has acknowledged last."""

    seq: int
    digest: bytes


def push(
    plan: Plan,
    *,
    again: bool = False,
    progress: Progress = lambda _done, _total: None,
    turn_s: float = TURN_S,
) -> Pushed:
    """Send what waits.

    Args:
        again: send everything, whatever is known to have been acknowledged.
        turn_s: seconds after which no further slice is begun.

    Raises:
        SyncFailed: what is acknowledged stays so, the rest waits.
    """
    state = State(Path(plan.state_dir), "push")
    with state.held():
        turn = _Turn(plan, state, again=again, progress=progress)
        with ControlPlane(plan) as there:
            return turn.run(there, time.monotonic() + turn_s)


class _Turn:
    """One turn."""

    def __init__(self, plan: Plan, state: State, *, again: bool, progress: Progress) -> None:
        self._plan = plan
        self._state = state
        self._progress = progress
        self._database = Path(plan.database)
        self._file = state.directory / "slice.db"
        self._rows = ROWS
        self._patience = BUSY_TIMES
        self._dice = random.random
        self._ingested = 0
        self._duplicates = 0
        self._warnings: list[str] = []
        self._known = _Known(0, b"") if again else _known(state.read(), plan.url)

    def run(self, there: ControlPlane, ends: float) -> Pushed:
        total, done, began_anew = self._pending(), 0, False
        while True:
            made = self._slice()
            if made is None:
                break
            try:
                taken = self._send(there, made)
            except TooLarge:
                self._smaller(made)
                continue
            except SyncFailed as failure:
                if self._waited(failure):
                    continue
                # Of nothing else: a row that it never takes would have all sent again, each turn.
                has_less = failure.known is not None and failure.known < self._known.seq
                if has_less and not began_anew:
                    # It has forgotten what it has acknowledged: a backup was put back there.
                    self._warnings.append(f"{failure}; everything is sent again")
                    self._known, began_anew = _Known(0, b""), True
                    total, done = self._pending(), 0
                    continue
                raise
            finally:
                self._remove()
            done += taken
            self._acknowledge(made)
            self._progress(done, max(total, done))
            if time.monotonic() >= ends:
                break
        if not done:
            self._keep()
        pending = self._pending()
        return Pushed(
            at=rfc3339(time.time()),
            ingested=self._ingested,
            duplicates=self._duplicates,
            acknowledged=self._known.seq,
            pending=pending,
            # What has come meanwhile may wait for the next turn.
            more=pending >= ROWS,
            warnings=tuple(self._warnings),
        )

    def _waited(self, failure: SyncFailed) -> bool:
        """Whether it was worth waiting: others send to the same control plane, one at a time."""
        wait_s = failure.retry_after_s
        if failure.cause is not Cause.BUSY or not 0 < wait_s <= BUSY_S or not self._patience:
            return False
        self._patience -= 1
        # Not all of those who were sent away at the same time.
        time.sleep(wait_s * (0.5 + self._dice()))
        return True

    def _slice(self) -> Slice | None:
        self._remove()
        known = self._known
        self._require_trail()
        try:
            with writing("SYNC_STATE_DIR", self._file):
                made = write_slice(
                    self._database, known.seq, self._rows, self._file,
                    after_hash=known.digest or None,
                )  # fmt: skip
        except NoSuchPlace:
            self._warnings.append(
                f"AUDIT_DB_PATH: {self._database} is another trail than the one that was sent up to"
                f" row {known.seq}; it is sent from its beginning"
            )
            self._known = _Known(0, b"")
            return self._slice()
        except NotATrail as error:
            raise self._unreadable(str(error)) from None
        except sqlite3.Error as error:
            raise SyncFailed(
                Cause.DISK,
                f"SYNC_STATE_DIR: {self._file} cannot be written: {error}; make room, or mount a"
                " volume that can be written there",
            ) from None
        if made is not None and known.seq and made.first > known.seq + 1:
            self._warnings.append(
                f"AUDIT_RETENTION_DAYS: rows {known.seq + 1} to {made.first - 1} were removed"
                " before they were acknowledged; they are not on the control plane"
            )
        if made is not None and self._rows > 1 and self._file.stat().st_size > MAX_SLICE:
            self._smaller(made)
            return self._slice()
        return made

    def _send(self, there: ControlPlane, made: Slice) -> int:
        """How many rows it accounts for, which are all of them."""
        count = made.last - made.first + 1
        with self._file.open("rb") as stream:
            said = there.upload(PATH, FIELD, stream)
        counts = said.get("ingested"), said.get("duplicates")
        if not all(type(value) is int and value >= 0 for value in counts) or (
            sum(value for value in counts if isinstance(value, int)) != count
        ):
            raise SyncFailed(
                Cause.NOT_A_GATEWAY,
                f"SYNC_URL: {there.name} does not say that it has taken each of the rows that were"
                " sent; nothing is acknowledged, and they are sent again",
            )
        self._ingested += said["ingested"]
        self._duplicates += said["duplicates"]
        return count

    def _acknowledge(self, made: Slice) -> None:
        self._known = _Known(made.last, made.last_hash)
        self._keep()

    def _keep(self) -> None:
        self._state.keep(
            {
                "url": self._plan.url,
                "seq": self._known.seq,
                "hash": self._known.digest.hex(),
                "at": rfc3339(time.time()),
            }
        )

    def _smaller(self, made: Slice) -> None:
        count = made.last - made.first + 1
        if count <= 1:
            raise SyncFailed(
                Cause.REFUSED_THERE,
                f"{self._plan.url} does not take row {made.first}: it says that it is too large;"
                " raise AUDIT_INGEST_MAX_BYTES there",
            )
        self._rows = max(count // 2, 1)

    def _pending(self) -> int:
        ends = self._ends()
        if not ends.last:
            return 0
        waiting = max(ends.last - max(self._known.seq, ends.first - 1), 0)
        return waiting if ends.last >= self._known.seq else ends.last - ends.first + 1

    def _ends(self) -> _Ends:
        try:
            with contextlib.closing(opened(self._database)) as connection:
                first, last = connection.execute("SELECT min(seq), max(seq) FROM audit").fetchone()
        except Unreadable as error:
            raise self._unreadable(str(error)) from None
        except sqlite3.Error as error:
            raise self._unreadable(f"it cannot be read: {error}") from None
        return _Ends(first or 0, last or 0)

    def _require_trail(self) -> None:
        if not self._database.exists():
            raise self._unreadable("there is no audit database yet")

    def _unreadable(self, said: str) -> SyncFailed:
        return SyncFailed(Cause.TRAIL, f"AUDIT_DB_PATH: {self._database}: {said}")

    def _remove(self) -> None:
        with writing("SYNC_STATE_DIR", self._file):
            self._file.unlink(missing_ok=True)


def _known(kept: Mapping[str, Any], url: str) -> _Known:
    seq, digest = kept.get("seq"), kept.get("hash")
    if kept.get("url") != url or type(seq) is not int or seq < 1 or not isinstance(digest, str):
        return _Known(0, b"")
    try:
        return _Known(seq, bytes.fromhex(digest))
    except ValueError:
        return _Known(0, b"")


def waiting(plan: Plan) -> dict[str, Any]:
    """What is known of the last turn that went well, and how many rows wait; opens the trail.

    Raises:
        SyncFailed: the trail cannot be read.
    """
    state = State(Path(plan.state_dir), "push")
    turn = _Turn(plan, state, again=False, progress=lambda _done, _total: None)
    kept = state.read() if turn._known.seq else {}  # noqa: SLF001 - the same module
    found: dict[str, Any] = {"acknowledged": turn._known.seq, "pending": turn._pending()}  # noqa: SLF001
    if isinstance(kept.get("at"), str):
        found["at"] = kept["at"]
    oldest = _oldest(plan, turn._known.seq) if found["pending"] else ""  # noqa: SLF001
    if oldest:
        found["oldest"] = oldest
    warning = at_risk(plan, oldest, time.time())
    if warning:
        found["warning"] = warning
    return found


def _oldest(plan: Plan, acknowledged: int) -> str:
    """The time of the oldest row that waits."""
    with (
        contextlib.suppress(Unreadable, sqlite3.Error),
        contextlib.closing(opened(Path(plan.database))) as connection,
    ):
        found = connection.execute(
            "SELECT timestamp FROM audit WHERE seq > ? ORDER BY seq LIMIT 1", (acknowledged,)
        ).fetchone()
        return str(found[0]) if found else ""
    return ""


def at_risk(plan: Plan, oldest: str, now: float) -> str:
    """What is to be said where retention may remove a row before it was sent; else nothing.

    Args:
        oldest: the time of the oldest row that waits, RFC 3339.
        now: seconds since the epoch.
    """
    if not plan.retention_days or not oldest:
        return ""
    try:
        days = (now - seconds_of(oldest)) / _DAY_S
    except ValueError:
        return ""
    if days < plan.retention_days * _WARN_AT:
        return ""
    left = max(plan.retention_days - days, 0.0)
    return (
        f"AUDIT_RETENTION_DAYS: rows that were not sent are removed in {left:.0f} days; raise it"
        " until the control plane is back"
    )
