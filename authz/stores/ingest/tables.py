"""What the ingested trail has besides the tables of a trail: where each row came from.

The trail itself stays one that `authz audit verify` reads: no index stands on its own table, where
one could hide rows, so what has to be found quickly is repeated here.
"""

from typing import Final

import peewee


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
