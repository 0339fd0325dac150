"""Whatever is done to a trail is found, and nothing is found where nothing was done."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.core.audit import AuditRow
from authz.core.audit_chain import Anchor, Head, Link, canonical, chained
from authz.core.audit_verify import MAX_LISTED, MAX_UNSIGNED_S, TrailVerifier
from authz.stores import audit_check
from authz.stores.audit_check import HeadUnusable, NotATrail
from authz.stores.audit_key import default_key_file, public_file
from authz.stores.audit_log import AuditLog
from authz.stores.audit_schema import COLUMNS
from tests.stores import trail
from tests.stores.trail import START, execute, kinds, verify

ROWS: Final = 40
#: Where heads stay in it: the firsts of two hours, and the last.
HOUR_S: Final = 3600.0
STOPPED: Final = START + 2 * HOUR_S


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A stopped trail of `ROWS` rows and its public key."""
    path = tmp_path_factory.mktemp("whole") / "audit.db"
    with trail.world(path) as made:
        for _ in range(4):
            made.write(ROWS // 4)
            made.pass_s(HOUR_S / 2)
        made.end()
    beside = public_file(default_key_file(path))
    return {path.name: path.read_bytes(), beside.name: beside.read_bytes()}


@pytest.fixture
def path(whole: dict[str, bytes], tmp_path: Path) -> Path:
    return _again(whole, tmp_path)


def _again(whole: dict[str, bytes], directory: Path) -> Path:
    for name, content in whole.items():
        (directory / name).write_bytes(content)
    return directory / "audit.db"


def test_a_trail_that_nobody_touched_verifies(path: Path) -> None:
    report = verify(path, now=STOPPED)
    assert (report.problems, report.notes, report.verified) == ([], [], True)
    assert (report.rows, report.first, report.last) == (ROWS, 1, ROWS)
    assert report.clean_stop
    assert report.age_s == 0
    # Nothing is left beside it.
    assert sorted(file.name for file in path.parent.iterdir()) == ["audit.db", "audit.db.pub"]


def test_heads_are_few(path: Path) -> None:
    heads = execute(path, "SELECT seq, final FROM audit_heads ORDER BY id")
    assert heads[-1] == (ROWS, 1)
    assert len(heads) <= 4


_values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=40),
)

_PROPERTY: Final = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _as_sqlite_shows(value: object, path: Path, column: str, seq: int) -> object:
    [[found]] = execute(path, f"SELECT {column} FROM audit WHERE seq = ?", seq)
    return found


@_PROPERTY
@given(seq=st.integers(1, ROWS), column=st.sampled_from(COLUMNS[1:]), value=_values)
def test_any_edit_of_any_column_is_found(
    whole: dict[str, bytes], tmp_path: Path, seq: int, column: str, value: object
) -> None:
    path = _again(whole, tmp_path)
    before = _as_sqlite_shows(value, path, column, seq)
    try:
        execute(path, f"UPDATE audit SET {column} = ? WHERE seq = ?", value, seq)
    except sqlite3.IntegrityError:
        return  # a NULL that the table does not take
    after = _as_sqlite_shows(value, path, column, seq)
    report = verify(path)
    if (type(before), before) == (type(after), after):
        assert report.verified
        return
    assert not report.verified
    assert report.problems[0].first in (seq, seq + 1)


@_PROPERTY
@given(data=st.data())
def test_any_removal_of_rows_is_found(
    whole: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    path = _again(whole, tmp_path)
    gone = data.draw(st.sets(st.integers(1, ROWS), min_size=1))
    execute(path, f"DELETE FROM audit WHERE seq IN ({', '.join(map(str, gone))})")
    report = verify(path)
    assert not report.verified
    said = {
        number
        for problem in report.problems
        if problem.kind in ("deleted", "truncated") and problem.first and problem.last
        for number in range(problem.first, problem.last + 1)
    }
    assert said == gone


@_PROPERTY
@given(pair=st.sets(st.integers(1, ROWS), min_size=2, max_size=2))
def test_any_two_rows_that_change_places_are_found(
    whole: dict[str, bytes], tmp_path: Path, pair: set[int]
) -> None:
    path = _again(whole, tmp_path)
    one, other = pair
    for before, after in ((one, -1), (other, one), (-1, other)):
        execute(path, "UPDATE audit SET seq = ? WHERE seq = ?", after, before)
    assert {one, other} <= {problem.first for problem in verify(path).problems}


@_PROPERTY
@given(seq=st.integers(1, ROWS), chosen=st.integers(-5, ROWS + 5))
def test_any_row_that_was_put_in_is_found(
    whole: dict[str, bytes], tmp_path: Path, seq: int, chosen: int
) -> None:
    path = _again(whole, tmp_path)
    names = ", ".join(COLUMNS[1:])
    if 1 <= chosen <= ROWS:
        # Between two: those behind move up.
        execute(path, "UPDATE audit SET seq = -seq - 1000 WHERE seq >= ?", chosen)
        execute(path, "UPDATE audit SET seq = -seq - 1000 + 1 WHERE seq < -1000")
        seq += seq >= chosen
    execute(path, f"INSERT INTO audit SELECT ?, {names} FROM audit WHERE seq = ?", chosen, seq)
    assert not verify(path).verified


@_PROPERTY
@given(last=st.integers(0, ROWS - 1), heads=st.booleans())
def test_a_trail_that_is_cut_off_is_found(
    whole: dict[str, bytes], tmp_path: Path, last: int, heads: bool
) -> None:
    path = _again(whole, tmp_path)
    kept = audit_check.newest_head(path)
    execute(path, "DELETE FROM audit WHERE seq > ?", last)
    report = verify(path)
    assert kinds(report)[-1] == "truncated"
    assert (report.problems[-1].first, report.problems[-1].last) == (last + 1, ROWS)
    # With the heads gone as well, what was kept elsewhere tells; so may the age.
    execute(path, "DELETE FROM audit_heads WHERE seq > ?", last)
    report = verify(path, kept=kept)
    assert "rolled_back" in kinds(report)
    if last >= 10:
        # This one was signed each half an hour only, so that its heads may be missed.
        assert set(kinds(verify(path))) <= {"unsigned"}
        assert not verify(path, max_age_s=60.0, now=START + 3 * HOUR_S).verified


def test_a_chain_that_was_computed_anew_does_not_fit_what_was_signed(path: Path) -> None:
    rows = execute(path, f"SELECT {', '.join(COLUMNS)} FROM audit WHERE seq >= 15 ORDER BY seq")
    link = Link(14, bytes(rows[0][-2]))  # type: ignore[call-overload]
    changed = [AuditRow(*row[1:-2])._replace(reason="other") for row in rows]  # type: ignore[arg-type]
    made, _ = chained(link, changed)
    for row in made:
        execute(path, "UPDATE audit SET reason = ?, prev_hash = ?, hash = ? WHERE seq = ?",
                "other", row[-2], row[-1], row[0])  # fmt: skip
    report = verify(path)
    assert set(kinds(report)) == {"rewritten"}
    assert report.problems[0].first is not None
    assert report.problems[0].first <= 15


def test_rows_that_follow_the_last_signature_are_a_note(path: Path) -> None:
    made = AuditLog(path, monotonic=lambda: 0.0)
    made.write([trail.row(1), trail.row(2)])
    made.close()
    report = verify(path, now=STOPPED)
    assert report.verified
    assert not report.clean_stop
    assert report.notes == [
        "the newest 2 rows, from 2023-11-14T22:13:20.000000Z on, are not signed yet: who could"
        " write the file could have put them there"
    ]


def _statements() -> Iterator[tuple[str, str]]:
    hostile = ("NULL", "x'00'", "'text'", "9223372036854775807", "-1", "1e400", "zeroblob(32)",
               "zeroblob(64)", "''", "CAST(x'ff' AS TEXT)", "zeroblob(100000)")  # fmt: skip
    for table, columns in (("audit_anchors", Anchor._fields), ("audit_heads", Head._fields)):
        for column in columns:
            for value in hostile:
                yield table, f"UPDATE {table} SET {column} = {value}"
    for column in COLUMNS:
        for value in hostile:
            yield "audit", f"UPDATE audit SET {column} = {value} WHERE seq = 20"


@pytest.mark.parametrize("statement", [statement for _, statement in _statements()])
def test_a_hostile_value_is_a_finding(path: Path, statement: str) -> None:
    before = execute(path, "SELECT * FROM audit_anchors")
    try:
        execute(path, statement)
    except sqlite3.Error:
        return  # a value that the table does not take
    report = verify(path)
    unchanged = "agent_name = NULL", "org_id = NULL", "stage = NULL", "reason = NULL"
    same = any(part in statement for part in (*unchanged, "delegation_id = NULL", "debit = NULL"))
    assert report.verified is same, (statement, before)


@pytest.mark.parametrize("table", ["audit", "audit_anchors", "audit_heads"])
@pytest.mark.parametrize("how", ["dropped", "emptied", "a view", "a column more", "no numbers"])
def test_a_table_that_no_sidecar_made_is_a_finding(path: Path, table: str, how: str) -> None:
    match how:
        case "dropped":
            execute(path, f"DROP TABLE {table}")
        case "emptied":
            execute(path, f"DELETE FROM {table}")
        case "a view":
            execute(path, f"ALTER TABLE {table} RENAME TO other")
            execute(path, f"CREATE VIEW {table} AS SELECT * FROM other")
        case "a column more":
            execute(path, f"ALTER TABLE {table} ADD COLUMN _rowid_ TEXT")
        case "no numbers":
            execute(path, f"CREATE TABLE other AS SELECT * FROM {table}")
            execute(path, f"DROP TABLE {table}")
            execute(path, f"ALTER TABLE other RENAME TO {table}")
            execute(path, f"UPDATE {table} SET seq = NULL")
    assert not verify(path).verified


@_PROPERTY
@given(page=st.integers(1, 12), noise=st.binary(min_size=1, max_size=64), at=st.integers(0, 4000))
def test_a_damaged_file_is_said_in_a_sentence(
    whole: dict[str, bytes], tmp_path: Path, page: int, noise: bytes, at: int
) -> None:
    path = _again(whole, tmp_path)
    with path.open("r+b") as stream:
        stream.seek(page * 4096 + at)
        stream.write(noise)
    try:
        report = verify(path)
    except NotATrail:
        return
    assert isinstance(report.verified, bool)


@pytest.mark.parametrize(
    "statements",
    [
        [
            "ALTER TABLE audit_heads RENAME TO other",
            "CREATE VIEW audit_heads AS WITH RECURSIVE endless(_rowid_) AS (SELECT 1 UNION ALL"
            " SELECT _rowid_ + 1 FROM endless) SELECT _rowid_, other.* FROM endless, other",
        ],
        ["ALTER TABLE audit ADD COLUMN _rowid_ TEXT DEFAULT 'x'"],
        ["CREATE INDEX hides ON audit (agent_id) WHERE agent_id <> 'mallory'"],
        ["CREATE TRIGGER t AFTER INSERT ON audit BEGIN DELETE FROM audit; END"],
        ["CREATE TRIGGER t AFTER INSERT ON audit_heads BEGIN DELETE FROM audit; END"],
        ["CREATE TRIGGER t AFTER INSERT ON policy_versions BEGIN DELETE FROM audit; END"],
        [
            "ALTER TABLE audit DROP COLUMN debit",
            "ALTER TABLE audit ADD COLUMN debit AS (zeroblob(900000000))",
        ],
    ],
)
def test_what_is_defined_over_the_tables_is_a_finding_and_is_not_computed(
    path: Path, statements: list[str]
) -> None:
    for statement in statements:
        execute(path, statement)
    # And nothing is said of what was not read.
    assert set(kinds(verify(path))) == {"unreadable"}
    assert audit_check.newest_head(path) is None
    assert audit_check.signers(path) == set()


def test_a_name_that_is_no_text_is_said_in_a_sentence(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA writable_schema = 1")
        other.execute(
            "INSERT INTO sqlite_schema VALUES ('table', CAST(x'ff41' AS TEXT), 'a', 99, 'CREATE x')"
        )
    with pytest.raises(NotATrail, match="not an audit database"):
        verify(path)


def test_a_journal_that_would_change_the_file_is_told(path: Path) -> None:
    Path(f"{path}-journal").write_bytes(b"x")
    with pytest.raises(NotATrail, match="-journal lies beside it"):
        verify(path)


def test_rows_long_after_the_newest_head_are_not_the_newest_ones(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with trail.world(path) as made:
        made.write(2)
        made.pass_s()
        made.write(1, at=START + 200)
        made.vanish()
        assert verify(path, now=START + 201).verified
        made.begin()
        made.write(1, at=START + MAX_UNSIGNED_S + 2)
        made.vanish()
    assert kinds(verify(path, now=START + 400)) == ["unsigned"]


def test_an_anchor_behind_the_head_that_was_kept_is_another_trail(path: Path) -> None:
    kept = audit_check.newest_head(path)
    execute(path, "DELETE FROM audit")
    execute(path, "DELETE FROM audit_heads")
    execute(path, "UPDATE audit_anchors SET seq = 1000, reason = 'upgrade'")
    assert "rolled_back" in kinds(verify(path, kept=kept))


def test_a_page_that_leads_back_to_the_first_row_is_no_endless_trail(path: Path) -> None:
    [[root]] = execute(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'audit'")
    assert isinstance(root, int)
    trail.overfill(path, root)
    report = verify(path)
    assert "unreadable" in kinds(report)
    assert "are not in order" in report.problems[0].message
    assert report.rows < ROWS


def test_of_many_problems_all_are_counted_and_few_are_listed(path: Path) -> None:
    execute(path, "UPDATE audit SET reason = 'x'")
    report = verify(path)
    assert report.problem_count == ROWS
    assert len(report.problems) == MAX_LISTED
    assert report.problems[0] == (
        "edited", "row 1 was changed: its hash does not fit what it says", 1, 1,
    )  # fmt: skip


def test_a_signature_of_another_key_is_not_enough(path: Path, tmp_path: Path) -> None:
    with trail.world(tmp_path / "other.db") as other:
        other.write()
        other.pass_s()
        other.end()
    (tmp_path / "audit.db.pub").write_bytes((tmp_path / "other.db.pub").read_bytes())
    report = verify(path)
    assert "unknown_key" in kinds(report)
    assert "unsigned" in kinds(report)
    # And a whole trail of another sidecar does not follow from a head of this one.
    kept = audit_check.newest_head(path)
    assert kept is not None
    report = verify(tmp_path / "other.db", kept=kept)
    assert kinds(report) == ["unknown_key"]


def test_a_trail_that_nobody_signed_does_not_verify(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    made = AuditLog(path, monotonic=lambda: 0.0)
    made.write([trail.row()])
    made.close()
    assert kinds(audit_check.verify(path, {}, now=START)) == ["unsigned", "unsigned"]


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("PRAGMA user_version = 2",
         "its schema is version 2, and this program verifies 3 to 4; a sidecar that opens it"
         " upgrades it"),
        ("PRAGMA user_version = 9", "its schema is version 9, and this program verifies 3 to 4"),
    ],
)  # fmt: skip
def test_another_schema_is_a_sentence(path: Path, statement: str, sentence: str) -> None:
    execute(path, statement)
    with pytest.raises(NotATrail, match=sentence):
        verify(path)


def test_what_is_no_database_is_a_sentence(path: Path) -> None:
    path.write_bytes(b"notes" * 1000)
    with pytest.raises(NotATrail, match="not an audit database: file is not a database"):
        verify(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        verify(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_copy_where_nothing_can_be_written(path: Path) -> None:
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert verify(path).verified
    finally:
        path.parent.chmod(0o700)


def test_a_trail_that_is_written_meanwhile(tmp_path: Path) -> None:
    with trail.world(tmp_path / "audit.db") as live:
        live.write(5)
        live.pass_s()

        def grow(_: object) -> None:
            live.write(3)
            live.pass_s()

        report = live.verify(progress=grow)
        assert report.verified, report
        assert report.rows == 5


def test_retention_that_works_meanwhile_makes_it_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_check, "PORTION", 10)
    with trail.world(tmp_path / "audit.db", retention_days=1) as live:
        live.write(50)
        live.pass_s()
        calls: list[object] = []

        def retire(seen: object) -> None:
            calls.append(seen)
            if len(calls) == 2:
                live.pass_s(2 * trail.DAY_S)
                live.write(5)

        report = live.verify(progress=retire)
        assert report.verified, report
        assert report.first == 51


# Heads that are kept elsewhere.


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_head_is_read_as_it_was_printed(path: Path, tmp_path: Path, form: str) -> None:
    head = audit_check.newest_head(path)
    assert head is not None
    entry = audit_check.head_entry(head)
    lines = "".join(f"{name:10}{json.dumps(value)}\n" for name, value in entry.items())
    file = tmp_path / "head"
    file.write_text(json.dumps(entry) if form == "json" else lines)
    assert audit_check.read_head(file) == head


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"seq", b"seq {", b'{"seq": "1"}', b"[" * 20_000,
     b'{"seq":-1,"hash":"00","at":"x","final":true,"keyId":"k","signature":""}'],
)  # fmt: skip
def test_a_file_that_is_no_head_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "head"
    file.write_bytes(content)
    with pytest.raises(HeadUnusable, match=f"^{file}: "):
        audit_check.read_head(file)
    with pytest.raises(HeadUnusable, match="cannot be read: No such file"):
        audit_check.read_head(tmp_path / "none")


def test_a_head_of_rows_that_retention_removed_is_a_note(tmp_path: Path) -> None:
    with trail.world(tmp_path / "audit.db", retention_days=1) as made:
        made.write(3)
        made.pass_s()
        kept = audit_check.newest_head(made.path)
        made.pass_s(2 * trail.DAY_S)
        made.write(300, at=START)
        made.pass_s(2 * trail.DAY_S)
        report = made.verify(kept=kept)
        assert report.verified
        assert any("retention has removed" in note for note in report.notes)


# The forms themselves.

_COLUMNS: Final = len(AuditRow._fields)


@given(
    st.builds(AuditRow, *[st.one_of(st.none(), st.integers(), st.text())] * len(AuditRow._fields))
)
def test_no_two_rows_have_the_same_bytes(row: AuditRow) -> None:
    said = canonical(7, row)
    assert json.loads(said) == [7, *row]
    assert said.isascii()
    assert b"\n" not in said
    assert all(32 <= byte < 127 for byte in said)


def test_the_verifier_alone_needs_no_world() -> None:
    report = TrailVerifier([], [], {}).report(now=0.0)
    assert kinds(report) == ["anchor", "unsigned"]
