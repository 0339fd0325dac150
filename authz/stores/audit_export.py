"""The audit trail as a file: JSON lines, CSV or Parquet, written as it is read.

- An export has the rows that were there when it began, oldest first. It is read a span at a time
  (`audit_query`), so it holds no read transaction, and the WAL can begin anew meanwhile. Rows are
  never changed; but what retention removes before it was read is not in the file.
- However long the trail is, only some rows of it are held: in Parquet a row group.
- JSON lines are API entries. CSV and Parquet have their keys as columns, but for second names;
  `metadata` is JSON text there.
"""

import csv
import io
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, cast

import peewee

from authz.stores.audit_query import ANY, Filters, Rows, limits
from authz.stores.audit_table import KEYS, ORIGIN, AuditEntry, entry_of, json_of

if TYPE_CHECKING:
    from arro3.core import RecordBatch, Schema

FormatName = Literal["jsonl", "csv", "parquet"]
#: A row as a value for each of `COLUMNS`, and for `origin` where it is of the ingested trail.
Row = tuple[Any, ...]
Write = Callable[[bytes], object]
#: Told how many numbers of rows were looked at, and how many there are.
Progress = Callable[[int, int], object]

#: Rows in a row group of Parquet, and about how many bytes of the file they may come from.
MAX_GROUP, MIN_GROUP = 4096, 256
GROUP_BYTES: Final = 8 * 1024 * 1024
#: Rows that are made into columns, or into lines of CSV, together.
TOGETHER: Final = 256
#: What a spreadsheet would take for the beginning of a formula (OWASP, "CSV Injection").
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

_FIELDS: Final[Mapping[str, peewee.Field]] = AuditEntry._meta.columns  # noqa: SLF001
COLUMNS: Final = tuple(_FIELDS)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Format(NamedTuple):
    """A kind of file."""

    media_type: str
    suffix: str
    #: Writes rows of these columns; the number says how many may be in a row group.
    written: Callable[[Sequence[str], Iterator[Row], Write, int], None]


def export(
    connection: sqlite3.Connection,
    name: FormatName,
    filters: Filters = ANY,
    *,
    write: Write,
    progress: Progress = lambda _done, _total: None,
    breathe: Callable[[], None] = lambda: None,
) -> int:
    """Write the rows that filters want as a file, and return how many there are.

    Args:
        connection: `audit_query.opened`.
        write: takes each piece of the file, in order; what it raises ends the export.
        breathe: is called for each row, and may wait.
    """
    rows = Rows(connection, filters, order="asc", breathe=breathe)
    total = max(rows.last - rows.first + 1, 0)
    columns = (*COLUMNS, ORIGIN) if ORIGIN in rows.columns else COLUMNS
    place = [rows.columns.index(column) if column in rows.columns else -1 for column in columns]
    is_whole = rows.columns == columns
    count = 0

    def found() -> Iterator[Row]:
        nonlocal count
        progress(0, total)
        for part in rows.parts():
            for row in part:
                count += 1
                yield row if is_whole else tuple(row[at] if at >= 0 else None for at in place)
            progress(rows.reached - rows.first + 1, total)

    FORMATS[name].written(columns, found(), write, _group_rows(connection))
    return count


def _group_rows(connection: sqlite3.Connection) -> int:
    """How many rows have about `GROUP_BYTES`."""
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    [page] = connection.execute("PRAGMA page_size").fetchone()
    first, last = limits(connection)
    rows = GROUP_BYTES * max(last - first + 1, 1) // max(pages * page, 1)
    return int(max(min(rows, MAX_GROUP), MIN_GROUP))


def _jsonl(columns: Sequence[str], rows: Iterator[Row], write: Write, _: int) -> None:
    for row in rows:
        write(json_of(entry_of(dict(zip(columns, row, strict=True)))) + b"\n")


# CSV (RFC 4180).


def _csv(columns: Sequence[str], rows: Iterator[Row], write: Write, _: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([KEYS.get(name, name) for name in columns])
    for number, row in enumerate(rows, 1):
        writer.writerow([_cell(name, value) for name, value in zip(columns, row, strict=True)])
        if number % TOGETHER == 0:
            write(_taken(text))
    write(_taken(text))


def _taken(text: io.StringIO) -> bytes:
    data = text.getvalue().encode("utf-8", "replace")
    text.seek(0)
    text.truncate()
    return data


def _cell(name: str, value: Any) -> Any:
    if name == "latency_us":
        return _milliseconds(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def _milliseconds(value: object) -> float | None:
    return value / 1000 if isinstance(value, int) else None


# Parquet.


def _parquet(columns: Sequence[str], rows: Iterator[Row], write: Write, group_rows: int) -> None:
    # Only here: nobody else needs 10 MB for it.
    import arro3.io  # noqa: PLC0415
    from arro3.core import RecordBatchReader  # noqa: PLC0415

    schema = _schema(columns)
    sink = _Sink(write)

    def batches() -> Iterator["RecordBatch"]:
        try:
            while together := [row for _, row in zip(range(TOGETHER), rows, strict=False)]:
                yield _batch(schema, columns, together)
                if sink.failure is not None:
                    return
        except BaseException as error:  # noqa: BLE001 - the library would make another of it
            sink.failure = error

    arro3.io.write_parquet(
        RecordBatchReader.from_batches(schema, batches()),
        # What it uses of a file is there.
        cast("IO[bytes]", sink),
        max_row_group_size=group_rows,
        compression="zstd(1)",
    )
    if sink.failure is not None:
        raise sink.failure


def _schema(columns: Sequence[str]) -> "Schema":
    from arro3.core import DataType, Field, Schema  # noqa: PLC0415

    def kind(name: str) -> DataType:
        if name == "timestamp":
            return DataType.timestamp("us", tz="UTC")
        if name == "latency_us":
            return DataType.float64()
        is_number = isinstance(_FIELDS.get(name), peewee.IntegerField)
        return DataType.int64() if is_number else DataType.utf8()

    return Schema([Field(KEYS.get(name, name), kind(name), nullable=True) for name in columns])


def _batch(schema: "Schema", columns: Sequence[str], rows: Sequence[Row]) -> "RecordBatch":
    from arro3.core import Array, DataType, RecordBatch  # noqa: PLC0415

    arrays = []
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        kind = schema.field(KEYS.get(name, name)).type
        if name == "timestamp":
            arrays.append(Array(list(map(_micros, values)), DataType.int64()).cast(kind))
        elif name == "latency_us":
            arrays.append(Array(list(map(_milliseconds, values)), kind))
        elif isinstance(_FIELDS.get(name), peewee.IntegerField):
            whole = [value if isinstance(value, int) else None for value in values]
            arrays.append(Array(whole, kind))
        else:
            arrays.append(Array(list(map(_text, values)), kind))
    return RecordBatch.from_arrays(arrays, schema=schema)


def _micros(text: object) -> int | None:
    """Microseconds since the epoch; None for what is no time, which no sidecar writes."""
    try:
        return (datetime.fromisoformat(str(text)) - _EPOCH) // _MICROSECOND
    except (ValueError, TypeError, OverflowError):
        return None


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.hex()
    return None if value is None else str(value)


class _Sink:
    """As much of a file as the library wants: it only goes on.

    The library ends the process's thread where a file cannot be written, so this one always can.
    What happened is kept, and nothing is written any more: so no half file gets an end.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.failure is None:
            try:
                self._write(data)
            except BaseException as error:  # noqa: BLE001 - raised when the library is done
                self.failure = error
        return len(data)

    def flush(self) -> None:
        """Whoever takes the pieces does that."""

    def seek(self, *_: object) -> NoReturn:
        raise OSError("it only goes on")


FORMATS: Final[Mapping[FormatName, Format]] = {
    "jsonl": Format("application/x-ndjson", "jsonl", _jsonl),
    "csv": Format("text/csv; charset=utf-8; header=present", "csv", _csv),
    "parquet": Format("application/vnd.apache.parquet", "parquet", _parquet),
}
