"""What the ingested trail has besides the tables of a trail: where each row came from.

The trail itself stays one that `authz audit verify` reads: no index stands on its own table, where
one could hide rows, so what has to be found quickly is repeated here.
"""

import os
from pathlib import Path
from typing import Final

import peewee

from authz.stores.audit_schema import prepare


class IngestOrigin(peewee.Model):
    """A trail that rows came from."""

    number = peewee.AutoField()
    #: What entries call it: of the hash that it was first seen to begin with.
    id = peewee.TextField(unique=True)
    #: The row before the first one that is known, and its hash.
    anchor_seq = peewee.BigIntegerField()
    anchor_hash = peewee.BlobField()
    #: The last row that is known, and its hash.
    last_seq = peewee.BigIntegerField()
    last_hash = peewee.BlobField()
    #: The key that it says it is signed with.
    key_id = peewee.TextField(null=True)
    #: When it was first and last sent; RFC 3339.
    first_at = peewee.TextField()
    last_at = peewee.TextField()

    class Meta:
        table_name = "ingest_origins"


class IngestRow(peewee.Model):
    """Where a row of the trail came from."""

    #: Its number here, and there.
    seq = peewee.BigIntegerField(primary_key=True)
    origin = peewee.IntegerField()
    origin_seq = peewee.BigIntegerField()
    #: The hash that it has there.
    hash = peewee.BlobField()
    #: As the row has them, to be found by; when it came, RFC 3339.
    entry_id = peewee.TextField(index=True)
    timestamp = peewee.TextField(index=True)
    at = peewee.TextField()

    class Meta:
        table_name = "ingest_rows"
        indexes = ((("origin_seq", "origin"), True),)


TABLES: Final = (IngestOrigin, IngestRow)


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
