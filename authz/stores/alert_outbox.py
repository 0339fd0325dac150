"""The outbox of alerts: a SQLite file of its own beside the audit database.

- An alert, how far the audit trail was read for it, and to whom it still has to go are committed
  together, before anybody is told. So after a crash nothing is missing and nothing is told twice
  by us; a receiver may still get one twice (its answer was lost), with the same id.
- An attempt is counted before it is made, so one that kills the process is not made for ever.
- Everything is bounded: alerts that wait, their age, attempts, and what is kept of those that are
  done. What finds no place is counted.
- Times are seconds since the epoch; a clock that steps back makes a delivery late, never lost.
"""

import contextlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.stores.alert_trail import Position

log = logging.getLogger(__name__)

#: Deliveries that wait at most; at the default rate that is five hours of one destination's.
MAX_WAITING: Final = 3000
#: Bytes of all alerts that are kept, a few kilobytes each.
MAX_BYTES: Final = 32 * 1024 * 1024
#: Seconds and attempts after which an alert is given up: nobody acts on yesterday's.
MAX_AGE_S: Final = 86_400.0
MAX_ATTEMPTS: Final = 200
#: Seconds that a delivery is put off at most; one that is further away is what a clock left behind
#: that was set back.
LONGEST_WAIT_S: Final = 2 * 3600.0
#: Alerts that are kept when they are done, for `authz alerts list`; and seconds for the rate.
KEPT_DONE: Final = 200
RATE_S: Final = 60.0
#: Things that are told apart at once.
MAX_GROUPS: Final = 1000
#: Seconds that a statement waits for another process.
_BUSY_S: Final = 2.0
_SCHEMA_VERSION: Final = 1

WAITING, SENT, FAILED = "waiting", "sent", "failed"

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS position (id INTEGER PRIMARY KEY CHECK (id = 0), seq INTEGER, hash TEXT);
CREATE TABLE IF NOT EXISTS alerts (
  id TEXT PRIMARY KEY, made REAL NOT NULL, severity TEXT NOT NULL, rate TEXT NOT NULL,
  trigger TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS alerts_made ON alerts (made);
CREATE TABLE IF NOT EXISTS deliveries (
  alert TEXT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE, destination TEXT NOT NULL,
  state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL,
  made REAL NOT NULL, done REAL, said TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (alert, destination));
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (destination, state, due);
CREATE TABLE IF NOT EXISTS groups (
  key TEXT PRIMARY KEY, ends REAL NOT NULL, times INTEGER NOT NULL, event TEXT NOT NULL);
"""


class Unusable(Exception):
    """The outbox cannot be used now; one sentence without its path."""


class Delivery(NamedTuple):
    """An alert that has to go somewhere."""

    alert: str
    destination: str
    body: bytes
    made: float
    #: Those made before this one.
    attempts: int


class Group(NamedTuple):
    """What is alike and was told of; `times` since then."""

    key: str
    #: When it ends, seconds since the epoch.
    ends: float
    times: int
    #: JSON, the raiser's.
    event: str


def outbox_of(database: Path) -> Path:
    """Where the outbox beside an audit database is."""
    return Path(f"{os.fspath(database)}.alerts")


class Outbox:
    """The file. Any thread may ask; one at a time gets through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: all of it is durable at the end, or nothing.

        Raises:
            Unusable: the file cannot be written.
        """
        with self._lock:
            try:
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
            except (sqlite3.Error, OSError) as error:
                self._let_go()
                raise Unusable(f"the alerts' outbox cannot be used: {error}") from None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._opened()
            except (sqlite3.Error, OSError) as error:
                self._let_go()
                raise Unusable(f"the alerts' outbox cannot be used: {error}") from None

    def _let_go(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                # What is raised here has no code of SQLite's.
                if getattr(error, "sqlite_errorcode", None) not in _DAMAGED:
                    raise
                self._set_aside(error)
                self._connection = self._open()
        return self._connection

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """A file that is none of SQLite's, or not any more: nothing in it can be delivered."""
        aside = Path(f"{os.fspath(self._path)}.broken")
        os.replace(self._path, aside)  # noqa: PTH105
        for companion in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"{os.fspath(self._path)}{companion}")  # noqa: PTH108
        log.error("the alerts' outbox is damaged (%s); it is %s now, and a new one begins", error,
                  aside)  # fmt: skip

    def _open(self) -> sqlite3.Connection:
        connection = _connected(self._path)
        try:
            [version] = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"its schema is version {version}, a newer program's")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    # What raises alerts.

    def position(self) -> Position | None:
        """How far the trail was read; None: never."""
        with self._reading() as connection:
            return position_in(connection)

    def next_end(self) -> float:
        """When the next group ends; infinity where there is none."""
        with self._reading() as connection:
            [ends] = connection.execute("SELECT min(ends) FROM groups").fetchone()
            return float("inf") if ends is None else ends

    # What delivers them.

    def claim(
        self, destination: str, now: float, next_due: Callable[[int], float]
    ) -> Delivery | None:
        """The next one that is due, its attempt counted; None: nothing is.

        Args:
            next_due: when it is due again if nobody says how it went, by the attempts before.
        """
        with self.changing() as connection:
            found = connection.execute(
                "SELECT d.alert, d.destination, a.body, d.made, d.attempts FROM deliveries d"
                " JOIN alerts a ON a.id = d.alert WHERE d.destination = ? AND d.state = ?"
                " AND (d.due <= ? OR d.due > ?) ORDER BY d.due LIMIT 1",
                (destination, WAITING, now, now + LONGEST_WAIT_S),
            ).fetchone()
            if found is None:
                return None
            connection.execute(
                "UPDATE deliveries SET attempts = attempts + 1, due = ?"
                " WHERE alert = ? AND destination = ?",
                (next_due(found[4]), found[0], destination),
            )
            return Delivery(*found)

    def settle(
        self, delivery: Delivery, state: str, *, now: float, due: float = 0.0, said: str = ""
    ) -> None:
        """Write down how an attempt went: `SENT`, `FAILED` for good, or `WAITING` until `due`."""
        with self.changing() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, due = ?, done = ?, said = ?"
                " WHERE alert = ? AND destination = ?",
                (state, due, None if state == WAITING else now, said, *delivery[:2]),
            )

    def counts(self) -> dict[str, int]:
        """How many deliveries there are of each state."""
        with self._reading() as connection:
            found = dict(
                connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state")
            )
            return {state: found.get(state, 0) for state in (WAITING, SENT, FAILED)}

    def next_due(self, destination: str) -> float:
        """When the next delivery is due; infinity where none waits."""
        with self._reading() as connection:
            [due] = connection.execute(
                "SELECT min(due) FROM deliveries WHERE destination = ? AND state = ?",
                (destination, WAITING),
            ).fetchone()
            return float("inf") if due is None else due

    def clean(self, now: float) -> int:
        """Give up what is too old, and take away what is done and not worth keeping any more.

        Returns:
            How many deliveries were given up: those of a destination that is not there any more.
        """
        with self.changing() as connection:
            given_up = connection.execute(
                "UPDATE deliveries SET state = ?, done = ?, said = said || ?"
                " WHERE state = ? AND made < ?",
                (FAILED, now, " (it is too old)", WAITING, now - MAX_AGE_S - LONGEST_WAIT_S),
            ).rowcount
            connection.execute(
                "DELETE FROM alerts WHERE made < ? AND NOT EXISTS (SELECT 1 FROM deliveries d"
                " WHERE d.alert = alerts.id AND d.state = ?) AND id NOT IN"
                " (SELECT id FROM alerts ORDER BY made DESC LIMIT ?)",
                (now - RATE_S, WAITING, KEPT_DONE),
            )
            return given_up


def _connected(path: Path) -> sqlite3.Connection:
    # Alerts say who did what: for the owner alone, also where the umask is generous.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA max_page_count = {2 * MAX_BYTES // 4096}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


# Inside the raiser's transaction.


def position_in(connection: sqlite3.Connection) -> Position | None:
    """How far the trail was read; None: never."""
    found = connection.execute("SELECT seq, hash FROM position").fetchone()
    return None if found is None else Position(*found)


def set_position(connection: sqlite3.Connection, position: Position) -> None:
    """Remember how far the trail was read."""
    connection.execute("INSERT OR REPLACE INTO position (id, seq, hash) VALUES (0, ?, ?)", position)


def group_in(connection: sqlite3.Connection, key: str) -> Group | None:
    """The group of this key."""
    found = connection.execute(
        "SELECT key, ends, times, event FROM groups WHERE key = ?", (key,)
    ).fetchone()
    return None if found is None else Group(*found)


def groups_that_end(connection: sqlite3.Connection, now: float) -> list[Group]:
    """Groups whose time is over."""
    found = connection.execute("SELECT key, ends, times, event FROM groups WHERE ends <= ?", (now,))
    return [Group(*row) for row in found]


def put_group(connection: sqlite3.Connection, group: Group) -> None:
    """Begin a group, or change it."""
    connection.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)", group)


def end_group(connection: sqlite3.Connection, key: str) -> None:
    """Forget a group."""
    connection.execute("DELETE FROM groups WHERE key = ?", (key,))


def groups_are_full(connection: sqlite3.Connection) -> bool:
    """There is no place for another group."""
    found: int = connection.execute("SELECT count(*) FROM groups").fetchone()[0]
    return found >= MAX_GROUPS


def made_since(connection: sqlite3.Connection, now: float, rate: str, severity: str) -> int:
    """Alerts of the last minute. A critical one is only kept back by critical ones."""
    found: int = connection.execute(
        "SELECT count(*) FROM alerts WHERE made > ? AND made <= ? AND rate = ?"
        " AND (severity = ? OR ? = 0)",
        (now - RATE_S, now, rate, severity, severity == "critical"),
    ).fetchone()[0]
    return found


def put_alert(
    connection: sqlite3.Connection,
    alert: Mapping[str, Any],
    destinations: Sequence[str],
) -> bool:
    """Keep an alert until it is delivered; False: there is no place for it.

    Args:
        alert: its id, made, severity, rate, trigger and body.
    """
    [waiting] = connection.execute(
        "SELECT count(*) FROM deliveries WHERE state = ?", (WAITING,)
    ).fetchone()
    [size] = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM alerts").fetchone()
    # A quarter of the room is for critical ones, whatever else waits.
    share = 1.0 if alert["severity"] == "critical" else 0.75
    if (
        waiting + len(destinations) > MAX_WAITING * share
        or size + len(alert["body"]) > MAX_BYTES * share
    ):
        return False
    connection.execute(
        "INSERT INTO alerts (id, made, severity, rate, trigger, body)"
        " VALUES (:id, :made, :severity, :rate, :trigger, :body)",
        dict(alert),
    )
    connection.executemany(
        "INSERT INTO deliveries (alert, destination, state, due, made) VALUES (?, ?, ?, ?, ?)",
        [(alert["id"], name, WAITING, alert["made"], alert["made"]) for name in destinations],
    )
    return True


# For whoever only looks.


class Listed(NamedTuple):
    """A delivery as people see it."""

    alert: str
    destination: str
    state: str
    attempts: int
    made: float
    #: Of one that waits: when it is tried again.
    due: float
    done: float | None
    said: str
    severity: str
    trigger: str
    title: str


def listed(path: Path, limit: int) -> tuple[list[Listed], dict[str, int]]:
    """The newest deliveries, those that wait first, and how many there are of each state.

    Raises:
        Unusable: there is no outbox, or it cannot be read.
    """
    if not path.is_file():
        raise Unusable("there is no outbox of alerts here; none was ever raised, or alerts are off")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        ) as connection:
            connection.execute("PRAGMA query_only = 1")
            rows: list[Any] = connection.execute(
                "SELECT d.alert, d.destination, d.state, d.attempts, d.made, d.due, d.done, d.said,"
                " a.severity, a.trigger, a.body FROM deliveries d JOIN alerts a ON a.id = d.alert"
                " ORDER BY d.state = ? DESC, d.made DESC LIMIT ?",
                (WAITING, limit),
            ).fetchall()
            counts = dict(
                connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state")
            )
    except sqlite3.Error as error:
        raise Unusable(f"the alerts' outbox cannot be used: {error}") from None
    return [Listed._make([*row[:-1], _title(row[-1])]) for row in rows], counts


def _title(body: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["title"])
    return ""
