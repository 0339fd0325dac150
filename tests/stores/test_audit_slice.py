"""A slice is a trail of its own that goes on where another one ended."""

import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz.core.audit_chain import Link
from authz.stores import audit_slice
from authz.stores.audit_check import NotATrail
from authz.stores.audit_key import default_key_file, public_file
from authz.stores.audit_slice import NoSuchPlace, Slice, write_slice
from tests.stores import trail
from tests.stores.trail import DAY_S, execute


@pytest.fixture
def world(tmp_path: Path) -> Iterator[trail.World]:
    with trail.world(tmp_path / "audit.db") as made:
        made.write(20)
        made.pass_s()
        yield made


def link(path: Path, seq: int) -> Link:
    [(digest,)] = execute(path, "SELECT hash FROM audit WHERE seq = ?", seq)
    assert isinstance(digest, bytes)
    return Link(seq, digest)


def verified(world: trail.World, path: Path) -> list[str]:
    """The kinds of problems that verifying a slice with the trail's own key finds."""
    key = public_file(default_key_file(world.path))
    shutil.copy(key, public_file(default_key_file(path)))
    return trail.kinds(trail.verify(path, now=world.wall))


def test_all_of_a_trail_is_a_slice_with_its_own_signed_anchor(
    world: trail.World, tmp_path: Path
) -> None:
    to = tmp_path / "slice.db"
    found = write_slice(world.path, 0, 1000, to)
    assert found == Slice(1, 20, link(world.path, 20).hash)
    assert verified(world, to) == []
    for table in ("audit", "audit_anchors"):
        assert execute(to, f"SELECT * FROM {table}") == execute(
            world.path, f"SELECT * FROM {table}"
        )
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    # One file: what it has is not in a WAL beside it.
    assert sorted(path.name for path in tmp_path.glob("slice*")) == ["slice.db", "slice.db.pub"]


def test_slices_follow_each_other(world: trail.World, tmp_path: Path) -> None:
    after, found = 0, []
    while made := write_slice(world.path, after, 8, tmp_path / f"{after}.db"):
        found.append((made.first, made.last))
        after = made.last
    assert found == [(1, 8), (9, 16), (17, 20)]
    anchors = execute(tmp_path / "8.db", "SELECT seq, hash, reason, signature FROM audit_anchors")
    [(key_id,)] = execute(world.path, "SELECT DISTINCT key_id FROM audit_heads")
    assert anchors == [(*link(world.path, 8), f"slice {key_id}", None)]
    # The head is of the last row, and comes with it alone.
    assert verified(world, tmp_path / "16.db") == ["unsigned"]
    assert verified(world, tmp_path / "8.db") == ["unsigned", "unsigned"]


def test_nothing_new_is_no_file(world: trail.World, tmp_path: Path) -> None:
    to = tmp_path / "slice.db"
    assert write_slice(world.path, 20, 10, to) is None
    assert not to.exists()
    world.write(1)
    # What is in the WAL alone is there as well.
    assert write_slice(world.path, 20, 10, to) == Slice(21, 21, link(world.path, 21).hash)


def test_what_retention_has_removed_is_not_in_it(tmp_path: Path) -> None:
    with trail.world(tmp_path / "audit.db", retention_days=1) as world:
        world.write(5)
        world.pass_s(DAY_S / 2)
        world.write(5)
        world.pass_s(DAY_S / 2 + 10)
        found = write_slice(world.path, 2, 100, tmp_path / "slice.db")
        assert found is not None
        assert (found.first, found.last) == (6, 10)
        [(reason,)] = execute(tmp_path / "slice.db", "SELECT reason FROM audit_anchors")
        assert reason == "retention"
        assert verified(world, tmp_path / "slice.db") == []


def test_another_trail_is_noticed(world: trail.World, tmp_path: Path) -> None:
    to = tmp_path / "slice.db"
    with pytest.raises(NoSuchPlace, match="row 21 is not there: the trail ends with row 20"):
        write_slice(world.path, 21, 10, to)
    with pytest.raises(NoSuchPlace, match="row 3 is another one than it was"):
        write_slice(world.path, 3, 10, to, after_hash=bytes(32))
    assert write_slice(world.path, 3, 10, to, after_hash=link(world.path, 3).hash)


def test_large_rows_end_it_early(
    world: trail.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_slice, "MAX_BYTES", 500)
    found = write_slice(world.path, 0, 1000, tmp_path / "slice.db")
    assert found is not None
    assert 1 < found.last < 20


def test_what_fails_leaves_nothing(world: trail.World, tmp_path: Path) -> None:
    to = tmp_path / "slice.db"
    world.vanish()
    execute(world.path, "DELETE FROM audit WHERE seq = 7")
    with pytest.raises(NotATrail, match="row 8 does not follow row 6"):
        write_slice(world.path, 0, 1000, to)
    assert not to.exists()
    with pytest.raises(FileNotFoundError):
        write_slice(tmp_path / "none.db", 0, 1, to)
    to.write_text("mine")
    with pytest.raises(FileExistsError):
        write_slice(world.path, 0, 5, to)
    assert to.read_text() == "mine"
    world.begin()


def test_a_file_that_is_no_trail_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(NotATrail, match="not an audit database"):
        write_slice(path, 0, 1, tmp_path / "slice.db")
    assert not (tmp_path / "slice.db").exists()


def test_rows_that_come_meanwhile_do_no_harm(world: trail.World, tmp_path: Path) -> None:
    stop = threading.Event()

    def slices() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            to = tmp_path / f"meanwhile-{number}.db"
            write_slice(world.path, 0, 1000, to)
            with sqlite3.connect(to) as made:
                rows = made.execute("SELECT count(*), max(seq) FROM audit").fetchone()
            assert rows[0] == rows[1] >= 20

    failures: list[Exception] = []

    def run() -> None:
        try:
            slices()
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(100):
        world.write(3)
    stop.set()
    thread.join()
    assert not failures
