"""The watcher tells of everything that can change what is read, however it comes about.

Nothing here sleeps to see whether something happens: each test waits for an event, and where
nothing may be told, for a later event that is.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inotify_simple import Event, INotify, flags

from authz.edges import watcher as module
from authz.edges.watcher import Watcher
from tests.e2e.sidecar import wait_until


class Recording(Watcher):
    """Remembers for which paths it said that something changed."""

    def __init__(self) -> None:
        self.told: list[str] = []
        #: The names in all that the system told, whether or not it mattered.
        self.names: list[str] = []
        self._heard: list[str] = []
        super().__init__(self._tell, is_ours=lambda path: path.endswith(".yaml"))

    def _tell(self) -> None:
        self.told += self._heard
        self._heard.clear()

    def _matters(self, event: Event) -> bool:
        self.names.append(event.name)
        # Before: an event may end the watch that it came by.
        paths = [f"{directory}{event.name}" for directory in self._watched.get(event.wd, ())]
        matters = super()._matters(event)
        if matters:
            self._heard += [path if event.name else path.rstrip("/") for path in paths]
        return matters

    def tells_of(self, act: Callable[[], object], path: Path | None = None) -> None:
        """Wait until a change is told, of this path if one is given."""
        start = len(self.told)
        act()
        wait_until(
            lambda: self.told[start:] if path is None else str(path) in self.told[start:],
            f"the watcher to tell of {path or 'anything'}",
        )


@pytest.fixture
def watcher() -> Iterator[Recording]:
    made = Recording()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "policies"
    (directory / "team").mkdir(parents=True)
    (directory / "a.yaml").write_text("a")
    (directory / "team" / "b.yaml").write_text("b")
    (tmp_path / "outside.yaml").write_text("o")
    return directory


def _messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def _each(*acts: Callable[[], object]) -> Callable[[], None]:
    """One after the other, without a pause."""

    def act() -> None:
        for each in acts:
            each()

    return act


def _swap(link: Path, target: str | Path) -> None:
    new = link.with_name(f"..new-{link.name}")
    new.symlink_to(target)
    new.replace(link)


def _rename_over(root: Path) -> None:
    """As editors and `sed -i` save."""
    (root / ".a.yaml.swp").write_text("new")
    (root / ".a.yaml.swp").replace(root / "a.yaml")


def _copy_tree_in(root: Path) -> None:
    (root.parent / "new" / "deep").mkdir(parents=True)
    (root.parent / "new" / "deep" / "c.yaml").write_text("c")
    (root.parent / "new").rename(root / "new")


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda root: (root / "a.yaml").write_text("new"), id="written in place"),
        pytest.param(lambda root: os.truncate(root / "a.yaml", 0), id="truncated"),
        pytest.param(_rename_over, id="renamed over"),
        pytest.param(lambda root: (root / "a.yaml").unlink(), id="deleted"),
        pytest.param(lambda root: (root / "a.yaml").rename(root / "z.yaml"), id="renamed"),
        pytest.param(lambda root: (root / "a.yaml").rename(root.parent / "a.yaml"), id="moved out"),
        pytest.param(
            lambda root: (root.parent / "outside.yaml").rename(root / "o.yaml"), id="moved in"
        ),
        pytest.param(lambda root: (root / "c.yaml").write_text("c"), id="created"),
        pytest.param(
            lambda root: os.link(root.parent / "outside.yaml", root / "c.yaml"), id="hard link"
        ),
        pytest.param(lambda root: (root / "c.yaml").symlink_to("nowhere"), id="link"),
        pytest.param(lambda root: os.mkfifo(root / "c.yaml"), id="FIFO"),
        pytest.param(lambda root: (root / "a.yaml").chmod(0o600), id="mode"),
        pytest.param(lambda root: (root / "team" / "b.yaml").write_text("new"), id="deeper"),
        pytest.param(lambda root: shutil.rmtree(root / "team"), id="directory deleted"),
        pytest.param(lambda root: (root / "team").rename(root / "crew"), id="directory renamed"),
        pytest.param(
            lambda root: (root / "team").rename(root.parent / "t"), id="directory moved out"
        ),
        pytest.param(_copy_tree_in, id="directory moved in"),
        pytest.param(lambda root: (root / os.fsdecode(b"\xff.yaml")).touch(), id="no UTF-8"),
        pytest.param(shutil.rmtree, id="everything"),
        pytest.param(lambda root: root.rename(root.with_name("old")), id="root renamed"),
    ],
)
def test_every_change_is_told(
    watcher: Recording, root: Path, act: Callable[[Path], object]
) -> None:
    assert watcher.watch([root], [], [])
    watcher.tells_of(lambda: act(root))
    assert watcher.works


def test_reading_is_no_change(watcher: Recording, root: Path, tmp_path: Path) -> None:
    watcher.watch([root], [], [])
    for path in root.rglob("*"):
        if path.is_file():
            path.read_bytes()
    os.listdir(root)  # noqa: PTH208
    watcher.tells_of((root / "z.txt").touch, root / "z.txt")
    assert set(watcher.told) <= {str(root / "z.txt"), str(root)}


def test_what_lies_beside_it_is_not_told(watcher: Recording, root: Path, tmp_path: Path) -> None:
    watcher.watch([root], [], [])
    beside = tmp_path / "audit.db-wal"
    beside.write_text("rows")
    for _ in range(3):  # one commit after the other
        with beside.open("a") as stream:
            stream.write("rows")
        watcher.tells_of((root / "z.txt").touch, root / "z.txt")
    watcher.tells_of(lambda: root.rename(tmp_path / "old"), root)
    assert str(beside) not in watcher.told
    # Nor does it cost anything: that the file appeared is all that was heard of it.
    assert watcher.names.count(beside.name) == 1


def test_what_is_hidden_is_not_told(watcher: Recording, root: Path) -> None:
    (root / ".git" / "objects").mkdir(parents=True)
    watcher.watch([root], [], [])
    # As the kubelet prepares the next version of a ConfigMap.
    (root / "..next" / "deep").mkdir(parents=True)
    watcher.tells_of((root / "z.txt").touch, root / "z.txt")
    for hidden in (root / "..next" / "deep", root / "..next", root / ".git" / "objects"):
        (hidden / "c.yaml").write_text("c")
    watcher.tells_of((root / "z.txt").unlink, root / "z.txt")
    assert "c.yaml" not in watcher.names
    assert watcher.being_written() == set()


def test_what_was_lost_may_have_been_anything(watcher: Recording, root: Path) -> None:
    watcher.watch([root], [], [])
    with _writing(watcher, root / "a.yaml"):
        told: list[str] = []
        watcher._changed = lambda: told.append("something")
        watcher._take([Event(-1, flags.Q_OVERFLOW, 0, "")])
        assert told == ["something"]
        assert watcher.being_written() == set()


def test_a_bug_does_not_end_the_watch(
    watcher: Recording,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watcher.watch([root], [], [])

    def fails(_: Event) -> bool:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(watcher, "_matters", fails)
        (root / "a.yaml").write_text("new")
        wait_until(lambda: _messages(caplog), "the bug to be told of")
    watcher.tells_of(lambda: (root / "a.yaml").write_text("newer"), root / "a.yaml")


def test_what_is_watched_already_is_no_news(watcher: Recording, root: Path) -> None:
    assert watcher.watch([root], [root / "mode"], [])
    assert not watcher.watch([root], [root / "mode"], [])


def test_a_directory_that_came_later_is_watched_too(watcher: Recording, root: Path) -> None:
    watcher.watch([root], [], [])
    watcher.tells_of(lambda: _copy_tree_in(root), root / "new")
    watcher.tells_of(lambda: (root / "made" / "later").mkdir(parents=True), root / "made")
    for name in ("new/deep/c.yaml", "made/later/d.yaml"):
        watcher.tells_of(
            lambda path=root / name: path.write_text("new"),  # type: ignore[misc]
            root / name,
        )


def test_a_swap_of_what_a_config_map_mounts_is_told(watcher: Recording, root: Path) -> None:
    for version in ("..1", "..2"):
        (root / version).mkdir()
        (root / version / "c.yaml").write_text(version)
    _swap(root / "..data", "..1")
    (root / "c.yaml").symlink_to("..data/c.yaml")
    watcher.watch([root], [], [root / "c.yaml"])
    watcher.tells_of(lambda: _swap(root / "..data", "..2"))


@pytest.mark.parametrize("way", ["link", "link/below", "chain", "chain/below"])
def test_a_swap_of_any_link_on_the_way_is_told(
    watcher: Recording, tmp_path: Path, way: str
) -> None:
    for release in ("r1", "r2"):
        (tmp_path / "releases" / release / "below").mkdir(parents=True)
    (tmp_path / "releases" / "link").symlink_to("r1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "chain").symlink_to(tmp_path / "releases" / "link")
    tree = tmp_path / ("elsewhere" if way.startswith("chain") else "releases") / way
    watcher.watch([tree], [], [])
    watcher.tells_of(lambda: _swap(tmp_path / "releases" / "link", "r2"))
    assert watcher.watch([tree], [], [])
    # From now on it is the new release that matters, and the old one does not.
    old, new = (Path(os.path.realpath(tree).replace("r2", r)) / "a.yaml" for r in ("r1", "r2"))
    old.write_text("old")
    watcher.tells_of(lambda: new.write_text("new"), new)
    assert str(old) not in watcher.told


@pytest.mark.parametrize("missing", ["policies", "x/policies", ".x/y/.z/policies"])
def test_a_path_that_does_not_exist_is_waited_for(
    watcher: Recording, tmp_path: Path, missing: str
) -> None:
    tree = tmp_path / missing
    watcher.watch([tree], [], [])
    at = tmp_path
    for part in Path(missing).parts:  # however slowly it comes
        at /= part
        watcher.tells_of(at.mkdir)
        assert watcher.watch([tree], [], [])
    watcher.tells_of(lambda: (tree / "a.yaml").write_text("a"), tree / "a.yaml")


@pytest.mark.parametrize("target", ["nowhere", "x/y", "policies"])
def test_a_link_that_leads_nowhere_is_waited_for(
    watcher: Recording, tmp_path: Path, target: str
) -> None:
    tree = tmp_path / "policies"
    tree.symlink_to(target)
    watcher.watch([tree], [], [])
    watcher.tells_of(_each(tree.unlink, tree.mkdir))
    assert watcher.watch([tree], [], [])
    watcher.tells_of(lambda: (tree / "a.yaml").write_text("a"), tree / "a.yaml")


def _deep_tree(tmp_path: Path, what: str) -> tuple[Path, Path]:
    """A tree, and it or one of the directories that it is in."""
    tree = tmp_path / "x" / "y" / "policies"
    tree.mkdir(parents=True)
    return tree, {"root": tree, "parent": tree.parent, "grandparent": tree.parent.parent}[what]


@pytest.mark.parametrize("what", ["root", "parent", "grandparent"])
def test_a_directory_that_vanishes_and_comes_back_is_watched_again(
    watcher: Recording, tmp_path: Path, what: str
) -> None:
    tree, gone = _deep_tree(tmp_path, what)
    watcher.watch([tree], [], [])
    for _ in range(3):  # where the file system gives the same inode out again, and where not
        watcher.tells_of(lambda: shutil.rmtree(gone), tree)
        watcher.watch([tree], [], [])
        watcher.tells_of(lambda: tree.mkdir(parents=True))
        assert watcher.watch([tree], [], [])
        watcher.tells_of(lambda: (tree / "a.yaml").write_text("a"), tree / "a.yaml")


@pytest.mark.parametrize("what", ["root", "parent", "grandparent"])
def test_a_directory_that_is_replaced_at_once_is_watched_again(
    watcher: Recording, tmp_path: Path, what: str
) -> None:
    tree, gone = _deep_tree(tmp_path, what)
    watcher.watch([tree], [], [])
    watcher.tells_of(_each(lambda: shutil.rmtree(gone), lambda: tree.mkdir(parents=True)), tree)
    assert watcher.watch([tree], [], [])
    watcher.tells_of(lambda: (tree / "a.yaml").write_text("a"), tree / "a.yaml")


@pytest.mark.parametrize("levels_up", [0, 1, 2])
def test_another_directory_that_is_renamed_into_the_place_is_told(
    watcher: Recording, tmp_path: Path, levels_up: int
) -> None:
    tree = tmp_path / "x" / "y" / "policies"
    place = [tree, *tree.parents][levels_up]
    tree.mkdir(parents=True)
    shutil.copytree(place, tmp_path / "new")
    watcher.watch([tree], [], [])
    watcher.tells_of(lambda: (place.rename(tmp_path / "old"), (tmp_path / "new").rename(place)))
    assert watcher.watch([tree], [], [])
    watcher.tells_of(lambda: (tree / "a.yaml").write_text("a"), tree / "a.yaml")


# What links inside lead to.


def test_what_links_inside_lead_to_is_watched_where_it_is(
    watcher: Recording, root: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    (shared / "deep").mkdir(parents=True)
    (shared / "deep" / "c.yaml").write_text("c")
    single = tmp_path / "single" / "d.yaml"
    single.parent.mkdir()
    single.write_text("d")
    (root / "shared").symlink_to(shared)
    (root / "d.yaml").symlink_to(single)
    seen = [root / "shared", root / "shared" / "deep", root / "d.yaml"]
    watcher.watch([root], [], seen)
    watcher.tells_of(lambda: (shared / "deep" / "c.yaml").write_text("new"))
    watcher.tells_of(lambda: (shared / "e.yaml").write_text("e"))
    watcher.tells_of(lambda: single.write_text("new"), single)
    # Not any more, once nothing leads there.
    assert not watcher.watch([root], [], [])
    del watcher.told[:]
    single.write_text("newer")
    watcher.tells_of((root / "z.txt").touch, root / "z.txt")
    assert str(single) not in watcher.told


@pytest.mark.parametrize("name", ["team", "c.yaml"])
def test_a_swap_of_a_link_that_a_link_inside_leads_through_is_told(
    watcher: Recording, root: Path, tmp_path: Path, name: str
) -> None:
    for release in ("r1", "r2"):
        (tmp_path / "shared" / release / "crew").mkdir(parents=True)
        (tmp_path / "shared" / release / "c.yaml").write_text(release)
    (tmp_path / "shared" / "current").symlink_to("r1")
    target = tmp_path / "shared" / "current" / {"team": "crew"}.get(name, name)
    (root / "linked").symlink_to(target)
    watcher.watch([root], [], [root / "linked"])
    watcher.tells_of(lambda: _swap(tmp_path / "shared" / "current", "r2"))


def test_links_to_too_many_places_are_looked_at_now_and_then(
    watcher: Recording, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OUTSIDE", 2)
    seen = []
    for name in ("o1", "o2", "o3"):
        (tmp_path / "outside" / name).mkdir(parents=True)
        seen.append(tmp_path / "outside" / name)
    watcher.watch([root], [], [*seen[:2], *seen[:2]])
    worked = watcher.works
    watcher.watch([root], [], seen)
    assert (worked, watcher.works) == (True, False)
    watcher.tells_of(lambda: (seen[0] / "a.yaml").write_text("a"))


# Single files.


@pytest.mark.parametrize("make", ["a file", "nothing", "a link", "a mounted link"])
def test_a_single_file_is_watched_however_it_changes(
    watcher: Recording, tmp_path: Path, make: str
) -> None:
    directory = tmp_path / "config"
    directory.mkdir()
    file = directory / "mode"
    for version in ("..1", "..2"):
        (directory / version).mkdir()
        (directory / version / "mode").write_text(version)
    (directory / "..data").symlink_to("..1")
    match make:
        case "a file":
            file.write_text("enforce")
        case "a link":
            file.symlink_to("..1/mode")
        case "a mounted link":
            file.symlink_to("..data/mode")
    watcher.watch([], [file], [])
    if make == "a mounted link":
        watcher.tells_of(lambda: _swap(directory / "..data", "..2"))
    else:
        watcher.tells_of(lambda: _swap(file, "..2/mode"))
    watcher.tells_of(_each(file.unlink, lambda: file.write_text("audit")), file)
    watcher.tells_of(lambda: shutil.rmtree(directory))
    watcher.watch([], [file], [])
    watcher.tells_of(directory.mkdir)
    watcher.watch([], [file], [])
    watcher.tells_of(lambda: file.write_text("audit"), file)


# Files that are being written.


@contextlib.contextmanager
def _writing(watcher: Recording, path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        stream.write("half")
        stream.flush()
        wait_until(lambda: path in watcher.being_written(), "the writing to be known")
        yield


def test_a_file_is_being_written_until_it_is_closed(watcher: Recording, root: Path) -> None:
    watcher.watch([root], [], [])
    assert watcher.being_written() == set()
    for path in (root / "a.yaml", root / "team" / "new.yaml"):
        with _writing(watcher, path):
            assert watcher.being_written() == {path}
        wait_until(lambda: not watcher.being_written(), "the file to be closed")


@pytest.mark.parametrize(
    "how", ["deleted", "moved away", "replaced", "deleted with all", "moved with all"]
)
def test_a_file_that_is_gone_is_not_being_written(watcher: Recording, root: Path, how: str) -> None:
    watcher.watch([root], [], [])
    path = root / "team" / "b.yaml"
    with _writing(watcher, path):
        match how:
            case "deleted":
                path.unlink()
            case "moved away":
                path.rename(root.parent / "b.yaml")
            case "replaced":
                (root / "a.yaml").rename(path)
            case "moved with all":
                path.parent.rename(root.parent / "team")
            case _:
                shutil.rmtree(root)
        wait_until(lambda: not watcher.being_written(), "the file to be gone")


def test_what_is_written_where_nobody_looks_any_more_is_forgotten(
    watcher: Recording, root: Path
) -> None:
    watcher.watch([root], [], [])
    with _writing(watcher, root / "team" / "b.yaml"):
        watcher.watch([root.parent / "other"], [], [])
        assert watcher.being_written() == set()


def test_a_writer_that_never_closes_is_forgotten_in_the_end(
    watcher: Recording, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.watch([root], [], [])
    with _writing(watcher, root / "a.yaml"):
        monkeypatch.setattr(module, "OPEN_S", 0.0)
        assert watcher.being_written() == set()


def test_what_is_complete_when_it_appears_is_not_being_written(
    watcher: Recording, root: Path, tmp_path: Path
) -> None:
    watcher.watch([root], [], [])
    (root / "link.yaml").symlink_to("a.yaml")
    os.link(tmp_path / "outside.yaml", root / "hard.yaml")
    _copy_tree_in(root)
    (tmp_path / "outside.yaml").rename(root / "moved.yaml")
    (root / "a.yaml").chmod(0o600)
    watcher.tells_of((root / "z.txt").touch, root / "z.txt")
    assert watcher.being_written() == set()


def test_only_what_is_read_counts_as_being_written(watcher: Recording, root: Path) -> None:
    watcher.watch([root], [], [])
    with (root / "notes.txt").open("w") as stream:
        stream.write("half")
        stream.flush()
        watcher.tells_of((root / "z.txt").touch, root / "z.txt")
        assert watcher.being_written() == set()


# Where it cannot.


def test_a_watch_that_the_system_refuses_is_said_once_and_tried_again(
    watcher: Recording,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses(*args: object) -> object:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    with monkeypatch.context() as patched:
        patched.setattr(INotify, "add_watch", refuses)
        assert not watcher.watch([root], [], [])
        assert not watcher.watch([root], [], [])
    refused = not watcher.works
    [message] = _messages(caplog)
    assert message.endswith("cannot be watched for changes: [Errno 28] inotify watch limit reached")
    assert watcher.watch([root], [], [])
    assert (refused, watcher.works) == (True, True)
    watcher.tells_of(lambda: (root / "a.yaml").write_text("new"), root / "a.yaml")


def test_a_system_without_inotify_is_said_to_be_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lacks() -> object:
        raise AttributeError("undefined symbol: inotify_init1")

    monkeypatch.setattr(module, "INotify", lacks)
    watcher = Recording()
    watcher.start()
    for _ in range(2):
        assert not watcher.watch([root], [root / "mode"], [root / "team"])
    watcher.stop()
    assert not watcher.works
    assert _messages(caplog) == [
        "this system cannot tell of changes: undefined symbol: inotify_init1"
    ]


def test_a_tree_of_too_many_directories_is_looked_at_now_and_then(
    watcher: Recording, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DIRECTORIES", 20)
    for number in range(25):
        (root / f"d{number}").mkdir()
    watcher.watch([root], [], [])
    refused = not watcher.works
    shutil.rmtree(root)
    root.mkdir()
    watcher.watch([root], [], [])
    assert (refused, watcher.works) == (True, True)


def test_links_in_a_circle_on_the_way_come_to_an_end(watcher: Recording, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    watcher.watch([tmp_path / "a" / "policies"], [tmp_path / "b"], [tmp_path / "a"])
    watcher.tells_of(lambda: _swap(tmp_path / "a", "c"))


def test_it_can_be_stopped_with_everything_gone(root: Path) -> None:
    watcher = Recording()
    watcher.start()
    watcher.watch([root], [], [])
    shutil.rmtree(root.parent)
    watcher.stop()
    assert watcher._thread is None
