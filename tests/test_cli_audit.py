"""`authz audit`: verify and head, run as a user runs them."""

import contextlib
import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from typer.testing import CliRunner

from authz.cli import app
from authz.stores.audit_key import default_key_file, signing_key
from authz.stores.audit_log import AuditLog
from tests.stores import trail

ROWS: Final = 30


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)


def authz(*arguments: str) -> Done:
    done = CliRunner().invoke(app, ["audit", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trail that was stopped cleanly, long ago."""
    file = tmp_path / "audit.db"
    with trail.world(file) as made:
        made.write(ROWS - 5)
        made.pass_s()
        made.write(5)
        made.end()
    return file


def _edit(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(statement)


def test_a_whole_trail_verifies(path: Path) -> None:
    done = authz("verify", "--database", str(path))
    assert (done.code, done.err) == (0, "")
    first, signed, note, last = done.out.splitlines()
    assert first == f"{path}: {ROWS} rows looked at, numbers 1 to {ROWS}"
    assert re.fullmatch(
        rf"newest signature: row {ROWS}, \d+ s ago \(2023-11-14T22:13:21\.000000Z\), at a clean"
        r" stop", signed,
    )  # fmt: skip
    assert note == (
        f"note: the public key is {path}.pub: who could change the database could have replaced"
        " it; --public-key takes one that was kept elsewhere"
    )
    assert last == "the trail verifies"
    beside = sorted(file.name for file in path.parent.iterdir())
    assert beside == ["audit.db", "audit.db.key", "audit.db.pub"]


def test_as_json(path: Path) -> None:
    done = authz("verify", "--database", str(path), "--public-key", f"{path}.pub", "--json")
    assert done.code == 0
    body = done.body
    assert set(body) == {
        "database", "verified", "rows", "firstRow", "lastRow", "problemCount", "problems", "notes",
        "head", "headAgeSeconds", "cleanStop",
    }  # fmt: skip
    assert (body["verified"], body["rows"], body["problems"], body["notes"]) == (True, ROWS, [], [])
    assert (body["head"]["seq"], body["head"]["final"], body["cleanStop"]) == (ROWS, True, True)


def test_a_changed_trail_does_not(path: Path) -> None:
    _edit(path, "UPDATE audit SET decision = 'deny' WHERE seq = 7")
    _edit(path, "DELETE FROM audit WHERE seq IN (11, 12)")
    done = authz("verify", "--database", str(path), "--public-key", f"{path}.pub")
    assert done.code == 1
    assert done.out.splitlines()[2:] == [
        "problem: row 7 was changed: its hash does not fit what it says",
        "problem: rows 11 to 12 are missing",
        "the trail does not verify: 2 problems",
    ]
    body = authz("verify", "--database", str(path), "--json").body
    assert (body["verified"], body["problemCount"]) == (False, 2)
    assert body["problems"][1] == {
        "kind": "deleted", "message": "rows 11 to 12 are missing", "firstRow": 11, "lastRow": 12,
    }  # fmt: skip


def test_of_many_problems_the_first_are_shown(path: Path) -> None:
    _edit(path, "UPDATE audit SET decision = 'deny'")
    done = authz("verify", "--database", str(path))
    assert done.code == 1
    assert done.out.count("problem: ") == 20
    assert "and 10 more problems\n" in done.out
    assert done.out.endswith("the trail does not verify: 30 problems\n")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_head_that_was_kept_finds_what_was_put_back(
    path: Path, tmp_path: Path, form: tuple[str, ...]
) -> None:
    done = authz("head", "--database", str(path), *form)
    assert (done.code, done.err) == (0, "")
    kept = tmp_path / "head"
    kept.write_text(done.out)
    arguments = ("verify", "--database", str(path), "--head", str(kept))
    assert authz(*arguments).code == 0
    _edit(path, "DELETE FROM audit WHERE seq > 25")
    _edit(path, "UPDATE audit_heads SET seq = 25 WHERE seq > 25")
    assert authz(*arguments, "--json").body["problems"][-1]["kind"] == "rolled_back"


def test_a_trail_of_which_nothing_new_was_heard(path: Path) -> None:
    done = authz("verify", "--database", str(path), "--max-age", "5m")
    assert done.code == 1
    assert re.search(
        r"problem: the newest head was signed \d+ s ago, and 300 s are allowed", done.out
    )
    assert authz("verify", "--database", str(path), "--max-age", "soon") == (
        2, "", "authz: --max-age: not a duration; write 30s, 15m, 24h or 7d\n",
    )  # fmt: skip


def test_keys_that_cannot_be_used(path: Path, tmp_path: Path) -> None:
    key, none = tmp_path / "key", tmp_path / "none"
    signing_key(key)
    arguments = ("verify", "--database", str(path), "--public-key")
    assert authz(*arguments, str(key)) == (
        2, "", f"authz: --public-key: {key}: not an Ed25519 public key in PEM\n",
    )  # fmt: skip
    assert authz(*arguments, str(none)) == (
        2, "", f"authz: --public-key: {none}: there is no such file\n",
    )  # fmt: skip
    Path(f"{path}.pub").unlink()
    assert authz("verify", "--database", str(path)) == (
        2, "", f"authz: {path}.pub: there is no public key beside the database; give"
        " --public-key\n",
    )  # fmt: skip


def test_a_trail_that_nobody_signed(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    audit = AuditLog(path, monotonic=lambda: 0.0)
    audit.write([trail.row()])
    audit.close()
    done = authz("verify", "--database", str(path))
    assert done.code == 1
    assert "the anchor is not signed" in done.out
    done = authz("head", "--database", str(path))
    assert done.code == 1
    assert done.err == (
        f"authz: {path}: no head is signed yet; a sidecar with a key signs one each second\n"
    )


@pytest.mark.parametrize("command", ["verify", "head"])
def test_what_is_no_trail_is_a_sentence(tmp_path: Path, command: str) -> None:
    none, text = tmp_path / "none.db", tmp_path / "text.db"
    text.write_text("no database" * 1000)
    Path(f"{text}.pub").write_bytes(signing_key(default_key_file(text)).public)
    done = authz(command, "--database", str(none))
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"authz: {none}: there is no audit database")
    done = authz(command, "--database", str(text))
    assert (done.code, done.out) == (1, "")
    assert done.err == f"authz: {text}: not an audit database: file is not a database\n"


def test_a_file_that_holds_no_head(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "head"
    file.write_text("nothing")
    assert authz("verify", "--database", str(path), "--head", str(file)) == (
        2, "", f"authz: --head: {file}: not a head that `authz audit head` printed\n",
    )  # fmt: skip


def test_a_hostile_text_does_not_reach_the_terminal(path: Path) -> None:
    _edit(path, "UPDATE audit_heads SET at = char(27) || '[2Jx', key_id = char(10)")
    done = authz("verify", "--database", str(path))
    assert done.code == 1
    assert "\x1b" not in done.out


def test_the_database_is_the_one_that_the_environment_names(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_DB_PATH", os.fspath(path))
    assert authz("verify").code == 0
    assert authz("head", "--json").body["seq"] == ROWS


def test_the_tail_shows_hashes_in_hexadecimal(path: Path) -> None:
    entry = authz("tail", "-n", "1", "--database", str(path), "--json").body
    assert re.fullmatch(r"[0-9a-f]{64}", entry["hash"])
    assert re.fullmatch(r"[0-9a-f]{64}", entry["prevHash"])


@pytest.mark.parametrize(
    "written",
    ["'{'", "'NaN and more'", "printf('%.100000c', '[')", "7"],
    ids=["cut", "text", "deep", "number"],
)
def test_the_tail_shows_metadata_that_no_sidecar_writes(path: Path, written: str) -> None:
    _edit(path, f"UPDATE audit SET metadata = {written} WHERE seq = {ROWS}")
    entry = authz("tail", "-n", "1", "--database", str(path), "--json").body
    assert isinstance(entry["metadata"], str | int)


def test_the_tail_shows_a_row_that_is_no_text(path: Path) -> None:
    _edit(path, f"UPDATE audit SET metadata = x'00ff' WHERE seq = {ROWS}")
    entry = authz("tail", "-n", "1", "--database", str(path), "--json").body
    assert entry["metadata"] == "00ff"
    assert authz("verify", "--database", str(path)).code == 1
