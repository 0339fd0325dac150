"""Trails of others: what is one is taken once, and whatever is none leaves nothing behind."""

import contextlib
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.core.audit import AuditRow
from authz.core.audit_chain import Link, chained
from authz.core.audit_verify import Fits
from authz.core.ingest_row import MAX_METADATA, MAX_TEXT, defect
from authz.stores import audit_check
from authz.stores.audit_key import default_key_file, public_file, public_key
from authz.stores.audit_slice import write_slice
from authz.stores.ingest import hostile
from authz.stores.ingest.hostile import Refused, TooLong
from authz.stores.ingest.keeping import Kept, keep
from authz.stores.ingest.origins import Conflict
from authz.stores.ingest.taking import Taken, take
from tests.stores import trail
from tests.stores.trail import DAY_S, START, copy, execute, row
from tests.stores.trails import varied

Changed = Callable[[sqlite3.Connection], object]


class Place:
    """A sidecar's trail, and one that takes it in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = directory / "audit.db"
        self.target = directory / "ingested.db"
        self.pinned: Mapping[str, Fits] = {}

    def take(self, upload: Path | None = None, seconds: float = 60.0) -> Taken:
        return take(
            upload or self.source,
            self.target,
            self.pinned,
            now=START,
            deadline=time.monotonic() + seconds,
        )

    def counts(self, upload: Path | None = None) -> tuple[int, int]:
        taken = self.take(upload)
        return taken.ingested, taken.duplicates

    def stored(self) -> list[tuple[object, ...]]:
        if not self.target.exists():
            return []
        return execute(
            self.target,
            "SELECT r.origin_seq, a.id FROM audit a JOIN ingest_rows r USING (seq) ORDER BY seq",
        )

    def refused(self, upload: Path | None = None) -> str:
        """Why it is not taken; nothing changes by it."""
        before = self.stored()
        with pytest.raises(Refused) as raised:
            self.take(upload)
        assert self.stored() == before
        return str(raised.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a trail of twenty rows, signed."""
    path = tmp_path_factory.mktemp("whole") / "audit.db"
    with trail.world(path) as made:
        made.write(20)
        made.pass_s()
        made.end()
    return path.read_bytes()


@pytest.fixture
def place(whole: bytes, tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.source.write_bytes(whole)
    return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[trail.World, Place]]:
    """A trail that goes on."""
    with trail.world(tmp_path / "audit.db") as made:
        made.write(10)
        made.pass_s()
        yield made, Place(tmp_path)


def changed(place: Place, *statements: str) -> Path:
    """A copy of the trail, and something done to it."""
    path = place.directory / "changed.db"
    path.write_bytes(place.source.read_bytes())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            other.execute(statement)
    return path


# What is taken.


def test_all_rows_are_taken_once(place: Place) -> None:
    assert place.counts() == (20, 0)
    assert place.counts() == (0, 20)
    assert place.stored() == [(seq, f"d-{seq}") for seq in range(1, 21)]
    columns = ", ".join(AuditRow._fields)
    query = f"SELECT {columns} FROM audit ORDER BY seq"
    assert execute(place.target, query) == execute(place.source, query)
    [(origin, last)] = execute(place.target, "SELECT id, last_seq FROM ingest_origins")
    taken = place.take()
    assert (taken.origin, taken.last, taken.notes) == (origin, last, [])


def test_what_is_new_follows(world: tuple[trail.World, Place]) -> None:
    made, place = world
    slices = [place.directory / f"{number}.db" for number in range(4)]
    assert write_slice(made.path, 0, 6, slices[0])
    assert write_slice(made.path, 6, 6, slices[1])
    made.write(5)
    made.pass_s()
    assert write_slice(made.path, 8, 100, slices[2])
    assert [place.counts(one) for one in slices[:3]] == [(6, 0), (4, 0), (5, 2)]
    made.write(5)
    assert write_slice(made.path, 17, 1, slices[3])
    assert "rows 16..17 are missing" in place.refused(slices[3])
    with contextlib.closing(sqlite3.connect(slices[3])) as sent:
        [reason] = sent.execute("SELECT reason FROM audit_anchors").fetchone()
        assert reason.startswith("slice ")
    made.pass_s()
    copy(made.path, place.directory / "all.db")
    assert place.counts(place.directory / "all.db") == (5, 15)
    assert place.counts(slices[3]) == (0, 1)
    assert len(execute(place.target, "SELECT * FROM ingest_origins")) == 1


def test_a_gap_is_told_with_where_to_go_on(world: tuple[trail.World, Place]) -> None:
    made, place = world
    first, later = place.directory / "first.db", place.directory / "later.db"
    assert write_slice(made.path, 5, 100, later)
    assert place.refused(later).startswith("rows 1..5 are missing: nothing of it is known")
    assert write_slice(made.path, 0, 2, first)
    # Which trail it is only the key tells: nothing else do they have in common.
    assert place.counts(first) == (2, 0)
    with pytest.raises(Conflict) as raised:
        place.take(later)
    assert str(raised.value) == (
        "rows 3..5 are missing: this trail is known to row 2, and what was sent begins with row 6;"
        " send it from row 3 on"
    )
    assert raised.value.last == 2


def test_a_trail_that_was_put_back_is_a_fork(world: tuple[trail.World, Place]) -> None:
    made, place = world
    early = place.directory / "early.db"
    made.pass_s()
    copy(made.path, early)
    made.write(5)
    made.pass_s()
    later = place.directory / "later.db"
    copy(made.path, later)
    assert place.counts(later) == (15, 0)
    # An earlier state is no contradiction.
    taken = place.take(early)
    assert (taken.ingested, taken.duplicates, taken.last) == (0, 10, 15)
    assert taken.notes == ["it ends before row 15, which is known of it"]
    # But another continuation of it is.
    [(digest,)] = execute(early, "SELECT hash FROM audit WHERE seq = 10")
    assert isinstance(digest, bytes)
    rows, _ = chained(Link(10, digest), [row(number) for number in range(50, 57)])
    for one in rows:
        execute(early, f"INSERT INTO audit VALUES ({', '.join('?' * len(one))})", *one)
    assert "row 15 is another one than what was ingested" in place.refused(early)
    execute(early, "DELETE FROM audit WHERE seq > 13")
    assert "row 11 is another one than what was ingested" in place.refused(early)


def test_what_retention_removed_there_may_be_missing(tmp_path: Path) -> None:
    with trail.world(tmp_path / "audit.db", retention_days=1) as made:
        place = Place(tmp_path)
        made.write(5)
        made.pass_s(DAY_S / 2)
        made.write(5)
        made.pass_s(1.0)
        first, later = tmp_path / "first.db", tmp_path / "later.db"
        assert write_slice(made.path, 0, 3, first)
        assert place.counts(first) == (3, 0)
        made.pass_s(DAY_S / 2 + 10)
        made.pass_s()
        copy(made.path, later)
        taken = place.take(later)
        assert (taken.ingested, taken.duplicates) == (5, 0)
        assert taken.notes == ["rows 4..5 were removed there before they were sent"]
    # One that is new here begins where it begins.
    fresh = Place(tmp_path)
    fresh.target = tmp_path / "fresh.db"
    assert fresh.counts(later) == (5, 0)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), min_size=1, max_size=6))
def test_slices_in_any_order_store_each_row_once(
    place: Place, parts: list[tuple[int, int]]
) -> None:
    """What is stored is always a beginning of the trail, whatever is sent, and how often."""
    place.target.unlink(missing_ok=True)
    last = 0
    for after, count in parts:
        path = place.directory / "part.db"
        path.unlink(missing_ok=True)
        made = write_slice(place.source, after, count, path)
        assert made is not None
        if after > last:
            assert f"rows {last + 1}..{after} are missing" in place.refused(path)
        else:
            new = max(made.last - last, 0)
            assert place.counts(path) == (new, made.last - made.first + 1 - new)
            last = max(last, made.last)
        assert place.stored() == [(seq, f"d-{seq}") for seq in range(1, last + 1)]


def test_trails_of_several_sidecars_do_not_collide(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other" / "audit.db"
    with trail.world(other) as made:
        made.audit.write([row(number + 100) for number in range(7)])
        made.pass_s()
        made.end()
    assert place.counts() == (20, 0)
    assert place.counts(other) == (7, 0)
    assert (place.counts(), place.counts(other)) == ((0, 20), (0, 7))
    assert len(execute(place.target, "SELECT * FROM ingest_origins")) == 2


def test_an_id_is_one_entry(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other" / "audit.db"
    with trail.world(other) as made:
        made.write(3)
        made.pass_s()
        made.end()
    assert place.counts() == (20, 0)
    # The same rows in another chain, as two upgrades of one old file make them.
    assert place.counts(other) == (0, 3)
    third = tmp_path / "third" / "audit.db"
    with trail.world(third) as made:
        made.audit.write([row(100), row(2)._replace(action="write:doc")])
        made.end()
    assert place.refused(third) == ("row 2: the entry d-2 is stored already, with other content")


def test_the_ingested_trail_verifies(place: Place) -> None:
    place.take()
    execute(place.target, "SELECT 1")
    report = audit_check.verify(place.target, {}, now=START)
    assert trail.kinds(report) == ["unsigned", "unsigned"]
    assert report.rows == 20


def test_all_that_a_sidecar_records_is_taken(tmp_path: Path) -> None:
    rows = [
        one._replace(metadata=one.metadata if (one.metadata or "").startswith("{") else None)
        for one in varied(200)
    ]
    # A request is recorded as it came, and refused; its trail is not.
    rows.append(row(900)._replace(action="a\0b", resource="\x01\n", metadata='{"k":"\\u0000"}'))
    with trail.world(tmp_path / "audit.db") as made:
        made.audit.write(rows)
        made.end()
    assert Place(tmp_path).counts() == (201, 0)


# What is signed.


def test_keys_that_are_pinned_are_asked_for(world: tuple[trail.World, Place]) -> None:
    made, place = world
    copy(made.path, place.directory / "copy.db")
    key = public_key(public_file(default_key_file(made.path)))
    place.pinned = {"0" * 16: key.fits}
    assert "whose public half was not given" in place.refused(place.directory / "copy.db")
    place.pinned = {key.key_id: key.fits}
    assert place.counts(place.directory / "copy.db") == (10, 0)
    forged = place.directory / "forged.db"
    copy(place.directory / "copy.db", forged)
    execute(forged, "UPDATE audit_heads SET signature = zeroblob(64)")
    assert "has a signature that does not fit it" in place.refused(forged)
    execute(forged, "DELETE FROM audit_heads")
    execute(forged, "UPDATE audit_anchors SET key_id = NULL, signature = NULL")
    place.target = place.directory / "fresh.db"
    assert "not signed with one of AUDIT_INGEST_KEYS" in place.refused(forged)


def test_a_trail_is_begun_anew_by_its_own_key_alone(world: tuple[trail.World, Place]) -> None:
    made, place = world
    there = place.directory / "there"
    there.mkdir()
    copy(made.path, place.directory / "copy.db")
    forged = there / "forged.db"
    with trail.world(there / "audit.db", retention_days=1) as another:
        another.write(25)
        another.pass_s()
        another.pass_s(DAY_S + 10)
        another.write(2)
        another.pass_s()
        copy(another.path, forged)
        keys = [public_key(public_file(default_key_file(one.path))) for one in (made, another)]
    place.pinned = {key.key_id: key.fits for key in keys}
    assert place.counts(place.directory / "copy.db") == (10, 0)
    # A signature that is good, of a row before all that are there: it says which trail it is.
    heads = execute(place.directory / "copy.db", "SELECT * FROM audit_heads")
    execute(forged, "DELETE FROM audit_heads")
    for head in heads:
        execute(forged, f"INSERT INTO audit_heads VALUES ({', '.join('?' * len(head))})", *head)
    assert "not signed with the key of that trail" in place.refused(forged)


# What is not taken.

HOSTILE: Final = {
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON audit BEGIN SELECT 1; END", "trigger `t`"),
    "a view": ("CREATE VIEW v AS SELECT 1", "view `v`"),
    "a table": ("CREATE TABLE more (a)", "table `more`"),
    "an index": ("CREATE INDEX i ON audit (id)", "index `i`"),
    "an index on an expression": ("CREATE INDEX i ON audit (abs(seq))", "index `i`"),
    "a virtual table": ("CREATE VIRTUAL TABLE f USING fts5(a)", "table `f`"),
    "another column": ("ALTER TABLE audit ADD COLUMN more", "table `audit`"),
    "a computed column": (
        "ALTER TABLE audit ADD COLUMN more AS (length(action))", "table `audit`",
    ),
    "a column less": ("ALTER TABLE audit DROP COLUMN debit", "table `audit`"),
    "statistics": ("ANALYZE", "table `sqlite_stat1`"),
    "no heads": ("DROP TABLE audit_heads", "not an audit database"),
    "a view of the name": (
        "UPDATE sqlite_schema SET type = 'view', rootpage = 0,"
        " sql = 'CREATE VIEW audit AS SELECT 1' WHERE name = 'audit'", "audit",
    ),
    "a default": (
        "UPDATE sqlite_schema SET sql = replace(sql, '\"debit\" INTEGER',"
        " '\"debit\" INTEGER DEFAULT (abs(1))') WHERE name = 'audit'", "table `audit`",
    ),
    "a check": (
        "UPDATE sqlite_schema SET sql = replace(sql, '\"debit\" INTEGER',"
        " '\"debit\" INTEGER CHECK (length(randomblob(9)))') WHERE name = 'audit'",
        "table `audit`",
    ),
    "a collation": (
        "UPDATE sqlite_schema SET sql = replace(sql, '\"id\" TEXT',"
        " '\"id\" TEXT COLLATE NOCASE') WHERE name = 'audit'", "table `audit`",
    ),
    "no rowids": (
        "UPDATE sqlite_schema SET sql = sql || ' WITHOUT ROWID' WHERE name = 'audit'", "audit",
    ),
    "a schema that is none": ("UPDATE sqlite_schema SET sql = 'nonsense'", "cannot be read"),
    "another version": ("PRAGMA user_version = 99", "its schema is version 99"),
    "an old version": ("PRAGMA user_version = 2", "its schema is version 2"),
    "a row less": ("DELETE FROM audit WHERE seq = 7", "row 7 is missing"),
    "its first rows less": ("DELETE FROM audit WHERE seq < 3", "rows 1 to 2 are missing"),
    "its last rows less": ("DELETE FROM audit WHERE seq > 18", "missing at the end"),
    "a row changed": ("UPDATE audit SET action = 'read:all' WHERE seq = 7", "row 7 was changed"),
    "rows exchanged": ("UPDATE audit SET seq = 40 - seq WHERE seq > 18", "missing"),
    "a row of a negative number": ("UPDATE audit SET seq = -5 WHERE seq = 20", "is not part of"),
    "no anchor": ("DELETE FROM audit_anchors", "the anchor is missing"),
    "two anchors": ("INSERT INTO audit_anchors SELECT seq + 3, hash, at, reason, key_id, signature"
                    " FROM audit_anchors", "there are 2 anchors"),
    "a head of another row": ("UPDATE audit_heads SET seq = 3", "not what was signed"),
    "a head of nothing": ("UPDATE audit_heads SET hash = 'x'", "is damaged"),
    "a text that is none": (
        "UPDATE audit SET action = CAST(x'ff80' AS TEXT) WHERE seq = 7",
        "row 7: action is not valid UTF-8",
    ),
    "a blob": ("UPDATE audit SET action = x'00' WHERE seq = 7", "row 7: action is not text"),
    "a number": ("UPDATE audit SET latency_us = 1.5 WHERE seq = 7", "latency_us is not a whole"),
    "infinity": ("UPDATE audit SET latency_us = 9e999 WHERE seq = 7", "latency_us is not a whole"),
    "a large number": ("UPDATE audit SET debit = 1 << 62 WHERE seq = 7", "debit is not a whole"),
    "a huge text": (
        f"UPDATE audit SET reason = hex(zeroblob({MAX_TEXT})) WHERE seq = 7",
        f"reason is longer than {MAX_TEXT} characters",
    ),
    "a huge value": (
        f"UPDATE audit SET metadata = hex(zeroblob({MAX_METADATA})) WHERE seq = 7",
        "too big",
    ),
    "deep metadata": (
        "UPDATE audit SET metadata = '{' || replace(hex(zeroblob(9000)), '00', '[') || '}'"
        " WHERE seq = 7", "metadata has more than",
    ),
    "metadata that is no object": ("UPDATE audit SET metadata = '[]' WHERE seq = 7", "no"),
    "a time that is none": ("UPDATE audit SET timestamp = 'now' WHERE seq = 7", "timestamp is not"),
    "an id that is none": ("UPDATE audit SET id = '' WHERE seq = 7", "id is not an id"),
    "an id with NUL": ("UPDATE audit SET id = 'a' || char(0) WHERE seq = 7", "id is not an id"),
    "a key that is none": (
        "UPDATE audit_heads SET key_id = hex(zeroblob(99))", "a key whose name no sidecar makes",
    ),
    "a decision that is none": ("UPDATE audit SET decision = 'yes' WHERE seq = 7", "decision is"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_sidecar_wrote_is_refused(place: Place, what: str) -> None:
    statement, said = HOSTILE[what]
    assert said in place.refused(changed(place, statement))
    # And it is not what comes next that suffers.
    assert place.counts() == (20, 0)


def test_a_schema_that_is_longer_than_what_is_looked_at_is_refused(place: Place) -> None:
    again = (
        "INSERT INTO sqlite_schema SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema"
        " WHERE sql IS NULL LIMIT 1"
    )
    view = (
        "INSERT INTO sqlite_schema VALUES ('view', 'evil', 'evil', 0, 'CREATE VIEW evil AS SELECT"
        " 1')"
    )
    upload = changed(place, *[again] * hostile.MAX_SCHEMA, view)
    assert "more than 64 entries" in place.refused(upload)


def test_what_is_no_database_is_refused(place: Place, tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4", b"<html>", hostile.MAGIC, hostile.MAGIC + bytes(5000)):
        path = tmp_path / "none.db"
        path.write_bytes(content)
        assert "database" in place.refused(path)


def test_a_value_that_is_missing_is_told() -> None:
    for name in AuditRow._fields:
        values = {**row()._asdict(), name: None}
        said = defect((1, *values.values()))
        assert said in ("", f"row 1: {name} is missing")
    assert defect((1, *row())) == ""


def test_a_file_that_takes_too_long_is_given_up(place: Place) -> None:
    with pytest.raises(TooLong, match="takes too long to read"):
        place.take(seconds=-1.0)
    assert place.stored() == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_flipped_bytes_break_nothing(place: Place, whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly where SQLite looks first: the headers of the file and its pages.
        at = data.draw(
            st.one_of(
                st.integers(0, 119),
                st.integers(0, len(whole) // 4096 - 1).flatmap(
                    lambda page: st.integers(page * 4096, page * 4096 + 40)
                ),
                st.integers(0, len(whole) - 1),
            )
        )
        damaged[at] = data.draw(st.integers(0, 255))
    path = place.directory / "flipped.db"
    path.write_bytes(damaged[: data.draw(st.sampled_from((len(whole), len(whole) - 4096, 5000)))])
    place.target.unlink(missing_ok=True)
    try:
        taken = place.take(path, seconds=10.0)
    except (Refused, TooLong):
        assert place.stored() == []
    else:
        assert taken.ingested == len(place.stored()) <= 20


def test_what_breaks_off_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("authz.stores.ingest.taking._Taking.end", broken)
        with pytest.raises(sqlite3.OperationalError):
            place.take()
    assert place.stored() == []
    assert execute(place.target, "SELECT * FROM ingest_origins") == []
    assert place.counts() == (20, 0)


def test_what_lies_at_the_path_already_is_not_touched(place: Place) -> None:
    execute(place.target, "CREATE TABLE audit (mine)")
    with pytest.raises(Exception, match="not ours"):
        place.take()
    assert execute(place.target, "SELECT name FROM sqlite_schema") == [("audit",)]


def test_long_rows_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = '{"a":"' + "\N{GRINNING FACE}" + "x" * 100_000 + '"}'
    with trail.world(tmp_path / "audit.db") as made:
        made.audit.write([row(number)._replace(metadata=said) for number in range(1, 21)])
        made.pass_s()
        made.end()
    place = Place(tmp_path)
    monkeypatch.setattr(audit_check, "PORTION_BYTES", 1 << 20)
    portions: list[int] = []

    def look(portion: Any) -> None:
        portions.append(len(portion))

    monkeypatch.setattr(hostile, "_look", look)
    with hostile.opened(place.source, time.monotonic() + 60, lambda: None) as sent:
        sent.verified({})
        # Such a text has four bytes for each of its characters.
        assert portions == [3] * 6 + [2]
        assert [len(rows) for rows in sent.rows("seq, metadata", 500)] == portions
    assert place.counts() == (20, 0)
    assert place.counts() == (0, 20)


@pytest.mark.parametrize("name", ["at", "key_id", "hash"])
def test_heads_that_no_sidecar_could_have_signed_are_not_read(place: Place, name: str) -> None:
    long = "CAST(char(0) || hex(zeroblob(1000)) AS " + ("BLOB)" if name == "hash" else "TEXT)")
    upload = changed(place, f"UPDATE audit_heads SET {name} = {long}")
    assert "`audit_heads` has values that are longer" in place.refused(upload)


def test_long_rows_are_removed_one_at_a_time(place: Place, tmp_path: Path) -> None:
    said = '{"a":"' + "\N{GRINNING FACE}" + "x" * 250_000 + '"}'
    with trail.world(tmp_path / "long.db") as made:
        made.audit.write([row(number)._replace(metadata=said) for number in range(1, 21)])
        made.end()
    place.take(tmp_path / "long.db")
    tracemalloc.start()
    try:
        kept = Kept(default_key_file(place.source), DAY_S, lambda: START + 2 * DAY_S)
        assert keep(place.target, kept) == 20
        # Each of them has a megabyte.
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
