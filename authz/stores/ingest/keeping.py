"""Looking after the ingested trail: what is signed in it, and what is removed.

- It is done between two uploads, by the service itself: no connection stays open, so that the file
  is whole without its WAL whenever nothing is taken in.
- A row is too old when its own time is, or when it came so long ago: one that says that it is of
  next year does not keep the others for a year.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import peewee

from authz.core.timestamps import rfc3339
from authz.stores.audit_key import SigningKey, export_public, public_file, signing_key
from authz.stores.audit_key import default_key_file as key_beside
from authz.stores.audit_schema import connection_of
from authz.stores.audit_seal import Tampered, retire, sign_anchor, sign_head
from authz.stores.ingest.opening import opened

log = logging.getLogger(__name__)

#: Seconds that removing rows may go on; the rest goes the next time.
BUDGET_S: Final = 5.0

_AT: Final = "SELECT at FROM ingest_rows WHERE seq = ?"
_FORGET: Final = "DELETE FROM ingest_rows WHERE seq <= (SELECT max(seq) FROM audit_anchors)"


class Kept(NamedTuple):
    """How the ingested trail is looked after."""

    #: AUDIT_KEY_FILE.
    key_file: Path
    #: AUDIT_RETENTION_DAYS in seconds; 0: rows stay.
    retention_s: float
    #: Seconds since the epoch.
    now: Callable[[], float]


def keep(path: Path, kept: Kept) -> int:
    """Sign where the ingested trail stands, and remove what is too old; how many rows went.

    Nothing is done where there is no such file. Where a row is not what was stored nothing is
    removed, and the log says so.

    Raises:
        Unusable, KeyUnusable, peewee.PeeweeException, sqlite3.Error, OSError: it cannot be done.
    """
    if not path.exists():
        return 0
    now = kept.now()
    key = signing_key(kept.key_file)
    database = opened(path, now)
    try:
        gone = 0
        try:
            if kept.retention_s:
                gone = _retire(database, key, now - kept.retention_s, now)
        except Tampered as found:
            _say_broken(path, found.seq)
        with database.atomic("IMMEDIATE"):
            sign_anchor(database, key)
            sealed = sign_head(database, key, now)
        if sealed.broken is not None:
            _say_broken(path, sealed.broken.seq)
    finally:
        # The last connection folds the WAL in.
        database.close()
    # `authz audit verify` looks for it there.
    export_public(public_file(key_beside(path)), key)
    return gone


def _say_broken(path: Path, seq: int) -> None:
    log.error(
        "AUDIT_INGEST_DB_PATH: %s: row %d is gone or was changed; `authz audit verify` says more",
        path,
        seq,
    )


def _retire(database: peewee.SqliteDatabase, key: SigningKey, before_s: float, now: float) -> int:
    until, before, gone = time.monotonic() + BUDGET_S, rfc3339(max(before_s, 0.0)), 0
    connection: sqlite3.Connection = connection_of(database)
    while time.monotonic() < until:
        went = retire(database, key, before, now, came=lambda seq: _came(connection, seq))
        if not went:
            break
        gone += went
    if gone:
        connection.execute(_FORGET)
    return gone


def _came(connection: sqlite3.Connection, seq: int) -> str:
    found = connection.execute(_AT, (seq,)).fetchone()
    return str(found[0]) if found else ""
