"""Opening the ingested trail to write in it."""

import os
from pathlib import Path

import peewee

from authz.stores.audit_schema import prepare
from authz.stores.ingest.tables import TABLES


def opened(path: Path, now: float) -> peewee.SqliteDatabase:
    """The ingested trail, made where there is none; the caller closes it.

    Args:
        now: seconds since the epoch.

    Raises:
        Unusable, peewee.PeeweeException, OSError: what is there is not ours, or cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Who did what is not for everybody to read.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
    database = peewee.SqliteDatabase(
        os.fspath(path),
        pragmas={"journal_mode": "wal", "synchronous": "full", "trusted_schema": "off"},
        timeout=10,
    )
    database.connect()
    try:
        prepare(database, now)
        with database.atomic("IMMEDIATE"):
            for model in TABLES:
                peewee.SchemaManager(model, database).create_all(safe=True)
    except BaseException:
        database.close()
        raise
    return database
