"""The floor: on disk before it counts, never lowered, and never guessed."""

import json
import os
import stat
from pathlib import Path

import pytest

from authz.bundles.accept import Floor
from authz.stores.bundle_floor import FloorFile, FloorUnusable

ONE, TWO = Floor(1, "1" * 64), Floor(2, "2" * 64)


def test_it_is_what_was_accepted_last_also_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "data" / "floor"
    floor = FloorFile(path)
    assert floor.read() is None
    floor.raise_to(ONE)
    floor.raise_to(TWO)
    assert FloorFile(path).read() == floor.read() == TWO
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_it_is_never_lowered(tmp_path: Path) -> None:
    path = tmp_path / "floor"
    floor = FloorFile(path)
    floor.raise_to(TWO)
    floor.raise_to(ONE)
    assert FloorFile(path).read() == TWO
    # Nor by somebody else, while this one knows.
    FloorFile(tmp_path / "other").raise_to(ONE)
    os.replace(tmp_path / "other", path)  # noqa: PTH105
    assert floor.read() == TWO
    floor.raise_to(None)
    assert FloorFile(path).read() == TWO


def test_one_that_is_gone_while_it_is_known_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "floor"
    floor = FloorFile(path)
    floor.raise_to(TWO)
    path.unlink()
    assert floor.read() == TWO
    floor.raise_to(None)
    assert FloorFile(path).read() == TWO


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"2",
        b"[]",
        b"\xff",
        b"{" * 900,
        b'{"version": 2}',
        b'{"version": 0, "digest": "%s"}' % (b"1" * 64),
        b'{"version": true, "digest": "%s"}' % (b"1" * 64),
        b'{"version": 1e3, "digest": "%s"}' % (b"1" * 64),
        b'{"version": 2, "digest": "x"}',
        b'{"version": 2, "version": 1, "digest": "%s"}' % (b"1" * 64),
        b'{"version": 2, "digest": "%s", "more": 1}' % (b"1" * 64),
        b" " * 2000,
    ],
)
def test_one_that_is_not_as_it_was_written_is_not_guessed_at(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "floor"
    path.write_bytes(content)
    floor = FloorFile(path)
    with pytest.raises(FloorUnusable, match=r"POLICY_BUNDLE_FLOOR_FILE: .*floor is not as it was"):
        floor.read()
    with pytest.raises(FloorUnusable):
        floor.raise_to(TWO)
    assert path.read_bytes() == content


def test_one_that_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "floor").mkdir()
    with pytest.raises(FloorUnusable, match="cannot be read"):
        FloorFile(tmp_path / "floor").read()
    (tmp_path / "file").write_text("")
    floor = FloorFile(tmp_path / "file" / "floor")
    with pytest.raises(FloorUnusable, match="cannot be"):
        floor.raise_to(ONE)


def test_a_write_that_fails_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "floor"
    floor = FloorFile(path)
    floor.raise_to(ONE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FloorUnusable, match="cannot be written: No space left on device"):
        floor.raise_to(TWO)
    monkeypatch.undo()
    assert json.loads(path.read_text())["version"] == 1
    assert list(tmp_path.iterdir()) == [path]
    # It was not on disk, and so does not count.
    assert floor.read() == ONE
