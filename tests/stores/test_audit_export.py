"""An export has every row that was there, in a form that others read, and holds nobody up."""

import csv
import io
import itertools
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from authz.stores import audit_export, audit_query
from authz.stores.audit_export import FORMATS, FormatName, export
from authz.stores.audit_query import filters_of
from authz.stores.audit_table import KEYS
from tests.stores.trail import START, execute, row
from tests.stores.trails import reading, seqs, varied, write


def exported(path: Path, name: FormatName, **asked: str) -> bytes:
    """A whole file."""
    pieces: list[bytes] = []
    with reading(path) as connection:
        export(connection, name, filters_of(asked), write=pieces.append)
    return b"".join(pieces)


def lines(data: bytes) -> list[dict[str, Any]]:
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def table(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def columns(data: bytes) -> Any:
    return pyarrow.parquet.read_table(io.BytesIO(data))


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    write(path, varied(1200))
    return path


def test_json_lines_are_the_entries_of_the_api(trail: Path) -> None:
    with reading(trail) as connection:
        entries = list(audit_query.entries(connection, audit_query.ANY, order="asc"))
    assert lines(exported(trail, "jsonl")) == entries
    assert seqs(entries) == list(range(1, 1201))


@pytest.mark.parametrize("name", FORMATS)
def test_filters_count(trail: Path, name: FormatName) -> None:
    with reading(trail) as connection:
        wanted = seqs(audit_query.entries(connection, filters_of({"agentId": "a"}), order="asc"))
    data = exported(trail, name, agentId="a")
    read: dict[FormatName, Callable[[bytes], list[int]]] = {
        "jsonl": lambda data: seqs(lines(data)),
        "csv": lambda data: [int(line["seq"]) for line in table(data)],
        "parquet": lambda data: list(columns(data)["seq"].to_pylist()),
    }
    assert read[name](data) == wanted


def test_csv_has_the_same_values(trail: Path) -> None:
    entries = lines(exported(trail, "jsonl"))
    data = exported(trail, "csv")
    assert data.count(b"\r\n") == 1201
    read = table(data)
    assert list(read[0]) == list(KEYS.values())
    for line, entry in zip(read, entries, strict=True):
        for key in KEYS.values():
            value = entry.get(key, "")
            if key == "metadata":
                continue
            text = str(value)
            if text.startswith(("=", "+", "-", "@")):
                text = f"'{text}"
            assert line[key] == text, key


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_csv_is_a_formula(tmp_path: Path, start: str) -> None:
    path = tmp_path / "audit.db"
    evil = f'{start}HYPERLINK("http://evil",""),1\r\n2'
    write(path, [row()._replace(action=evil, policy=evil, agent_id=evil, reason=evil)])
    [line] = table(exported(path, "csv"))
    assert [line[key] for key in ("action", "policy", "agentId", "reason")] == [f"'{evil}"] * 4


def test_parquet_is_typed(trail: Path) -> None:
    entries = lines(exported(trail, "jsonl"))
    read = columns(exported(trail, "parquet"))
    kinds = {field.name: str(field.type) for field in read.schema}
    assert list(kinds) == list(KEYS.values())
    assert kinds.pop("timestamp") == "timestamp[us, tz=UTC]"
    assert kinds.pop("latencyMs") == "double"
    assert {kinds.pop(name) for name in ("seq", "ruleIndex", "debit")} == {"int64"}
    assert set(kinds.values()) == {"string"}
    for number, entry in enumerate(entries):
        found = {name: read[name][number].as_py() for name in read.column_names}
        found["timestamp"] = f"{found['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"
        given = {name: value for name, value in found.items() if value is not None}
        if "metadata" in given and given["metadata"].startswith("{"):
            given["metadata"] = json.loads(given["metadata"])
        for second in ("result", "durationMs", "meta"):
            entry.pop(second, None)
        assert given == entry


def test_parquet_holds_a_row_group_at_a_time(trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_export, "MIN_GROUP", 100)
    monkeypatch.setattr(audit_export, "MAX_GROUP", 250)
    read = pyarrow.parquet.ParquetFile(io.BytesIO(exported(trail, "parquet")))
    groups = [read.metadata.row_group(n).num_rows for n in range(read.num_row_groups)]
    assert groups == [250, 250, 250, 250, 200]


def test_values_of_another_kind_than_their_column_spoil_no_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(2))
    execute(
        path,
        "UPDATE audit SET timestamp = 'never', rule_index = 'x', latency_us = 'y', action = 7.5,"
        ' agent_id = x\'00ff\', metadata = \'{"meta": {"k": "\\ud800"}}\' WHERE seq = 1',
    )
    assert lines(exported(path, "jsonl"))[0]["meta"] == {"k": "?"}
    assert table(exported(path, "csv"))[0]["latencyMs"] == ""
    read = columns(exported(path, "parquet")).slice(0, 1).to_pylist()[0]
    wanted = {"timestamp": None, "ruleIndex": None, "latencyMs": None, "action": "7.5"}
    assert {**read, **wanted, "agentId": "00ff"} == read


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_of_nothing_is_a_file(tmp_path: Path, name: FormatName) -> None:
    path = tmp_path / "audit.db"
    write(path, [])
    data = exported(path, name)
    if name == "parquet":
        assert columns(data).num_rows == 0
    else:
        assert data == (b"" if name == "jsonl" else (",".join(KEYS.values()) + "\r\n").encode())


@pytest.mark.parametrize("name", FORMATS)
def test_progress_is_told_until_the_end(trail: Path, name: FormatName) -> None:
    told: list[tuple[int, int]] = []
    with reading(trail) as connection:
        count = export(
            connection,
            name,
            write=lambda _: None,
            progress=lambda done, total: told.append((done, total)),
        )
    assert count == 1200
    assert {total for _, total in told} == {1200}
    assert told[0][0] == 0
    assert told[-1][0] == 1200
    assert [done for done, _ in told] == sorted(done for done, _ in told)


class Gone(Exception):
    pass


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_taker_raises_ends_the_export(trail: Path, name: FormatName) -> None:
    def refuse(_: bytes) -> None:
        raise Gone

    with reading(trail) as connection, pytest.raises(Gone):
        export(connection, name, write=refuse)


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_database_raises_ends_the_export(trail: Path, name: FormatName) -> None:
    calls = itertools.count()

    def fail() -> None:
        if next(calls) > 700:
            raise sqlite3.DatabaseError("malformed")

    with reading(trail) as connection, pytest.raises(sqlite3.DatabaseError, match="malformed"):
        export(connection, name, write=lambda _: None, breathe=fail)


def test_an_export_has_what_was_there_when_it_began_and_keeps_no_wal(trail: Path) -> None:
    taken: list[bytes] = []

    def take(data: bytes) -> None:
        if not taken:
            write(trail, varied(5, seed=1))
            # Nobody reads in the old WAL: it begins anew, and is cut off.
            assert execute(trail, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0
        taken.append(data)

    with reading(trail) as connection:
        assert export(connection, "jsonl", write=take) == 1200
    assert execute(trail, "SELECT count(*) FROM audit") == [(1205,)]


def test_what_retention_removes_meanwhile_is_missing_and_the_rest_is_there(
    trail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_query, "SPAN", 100)
    monkeypatch.setattr(audit_query, "QUICK_S", 0.0)
    taken: list[bytes] = []

    def take(data: bytes) -> None:
        if not taken:
            execute(trail, "DELETE FROM audit WHERE seq <= 1000")
        taken.append(data)

    with reading(trail) as connection:
        export(connection, "jsonl", write=take)
    assert seqs(lines(b"".join(taken))) == [*range(1, 101), *range(1001, 1201)]


def test_times_are_exact_to_the_microsecond(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, [row(1, at=START + 0.000001), row(2, at=START + 0.999999)])
    stamps = columns(exported(path, "parquet"))["timestamp"].to_pylist()
    assert [stamp.microsecond for stamp in stamps] == [1, 999999]
