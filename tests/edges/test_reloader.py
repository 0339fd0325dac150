"""Files that change become what is in force: once a burst, read aside, and nothing stops it.

Each test waits for what it expects. That something takes no effect is read off the record of what
was in force, after something later has taken effect.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from inotify_simple import INotify

from authz.core.identity import Identity, TokenVerifier
from authz.core.jwks import KeySet
from authz.core.mode import Mode
from authz.edges import reloader as module
from authz.edges.reloader import Followed, Reloader
from authz.edges.watcher import Watcher
from authz.settings import read_jwks_file, read_mode_file
from authz.stores.audit_log import AuditLog
from authz.stores.policies import Loaded, PolicyDirectory, load
from authz.stores.version_log import VersionReader
from authz.stores.versions import Versions
from tests.builders import NOW, MemoryRecorder, bearer, check_request, gate
from tests.e2e.sidecar import PATIENCE_S
from tests.signers import Signer, jwks

POLICY = """\
name: {name}
version: "{version}"
appliesTo: {{agentIds: ["*"]}}
rules: [{{effect: allow, actions: ["read:*"]}}]
defaultEffect: deny
"""


def _messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def _write(path: Path, version: str = "1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POLICY.format(name=path.stem, version=version))


def _swap(link: Path, target: str | Path) -> None:
    new = link.with_name(f"..new-{link.name}")
    new.symlink_to(target)
    new.replace(link)


class CountingDirectory(PolicyDirectory):
    """Counts its readings, and tells what stands in for one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.readings = 0
        self.before_each: Callable[[], None] = lambda: None

    def read(self, *args: object) -> Loaded:
        self.before_each()
        loaded = super().read(*args)  # type: ignore[arg-type]
        self.readings += 1
        return loaded


class Live:
    """A reloader at work on a directory."""

    def __init__(
        self,
        path: Path,
        database: Path,
        mode_file: Path | None,
        keys_file: Path | None,
        poll_s: float,
    ) -> None:
        self.database = database
        self.tokens = TokenVerifier("")
        self.directory = CountingDirectory(path)
        self.audit = AuditLog(database, monotonic=time.monotonic)
        self.audit.open()
        self.mode = Mode.ENFORCE
        ids = itertools.count(1)
        self.versions = Versions(
            self.audit,
            database,
            limit=10,
            mode=lambda: self.mode,
            now=time.time,
            new_id=lambda: f"id-{next(ids)}",
        )
        loaded = self.directory.read()
        self.versions.start(loaded.snapshot)
        self.reloader = Reloader(
            self.directory,
            self.versions,
            loaded=loaded,
            files=self._followed(mode_file, keys_file),
            poll_s=poll_s,
        )

    def _followed(self, mode_file: Path | None, keys_file: Path | None) -> list[Followed[Any]]:
        found: list[Followed[Any]] = []
        if mode_file is not None:
            stays = "the mode stays as it is"
            found.append(
                Followed("mode", mode_file, read=read_mode_file, use=self._set_mode, stays=stays)
            )
        if keys_file is not None:
            stays = "the keys stay as they are"
            found.append(
                Followed("keys", keys_file, read=read_jwks_file, use=self._use_keys, stays=stays)
            )
        return found

    def _set_mode(self, mode: Mode) -> None:
        self.mode = mode

    def _use_keys(self, keys: KeySet) -> None:
        self.tokens.use_keys(keys)

    def accepts(self, signer: Signer) -> bool:
        """Whether a token that this key signed identifies somebody now."""
        return isinstance(self.tokens.identify(f"Bearer {signer.token()}", NOW), Identity)

    def now(self) -> dict[str, str]:
        """The policies in force by name, with their versions."""
        return {p.name: p.document.version for p in self.versions.current.policies}

    def history(self) -> list[tuple[str, dict[str, str]]]:
        """What was in force, oldest first, and why."""
        return [
            (r.activation.why, {p["name"]: p["version"] for p in r.policies})
            for r in reversed(VersionReader(self.database).activations())
        ]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what}"
            await asyncio.sleep(0.005)

    async def until_now(self, **policies: str) -> None:
        await self.until(lambda: self.now() == policies, f"{policies} to be in force")


@contextlib.asynccontextmanager
async def _live(
    path: Path,
    tmp_path: Path,
    *,
    mode_file: Path | None = None,
    keys_file: Path | None = None,
    poll_s: float = 0,
) -> AsyncIterator[Live]:
    """A reloader that watches already."""
    database = tmp_path / "state" / "audit.db"
    live = Live(path, database, mode_file, keys_file, poll_s)
    running = asyncio.create_task(live.reloader.run())
    try:
        await live.until(lambda: live.directory.readings > 1 or running.done(), "it to watch")
        yield live
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        live.audit.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "policies"
    _write(directory / "a.yaml")
    return directory


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.05)


def _run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(scenario)


# However files change.


def test_what_is_saved_is_in_force(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            _write(root / "a.yaml", "2")  # in place
            await live.until_now(a="2")
            _write(root / ".a.yaml.swp", "x")
            (root / ".a.yaml.swp").write_text(POLICY.format(name="a", version="3"))
            (root / ".a.yaml.swp").replace(root / "a.yaml")  # as editors do
            await live.until_now(a="3")
            _write(root / "deep" / "down" / "b.yml")
            await live.until_now(a="3", b="1")
            (root / "a.yaml").unlink()
            await live.until_now(b="1")
            shutil.rmtree(root / "deep")
            await live.until_now()
        assert [why for why, _ in live.history()] == ["start", *["reload"] * 5]

    _run(scenario())


def test_a_config_map_is_swapped_as_one(tmp_path: Path) -> None:
    mount = tmp_path / "mount"

    def publish(version: str, names: str) -> None:
        """As the kubelet does it."""
        before = (mount / "..data").resolve()
        for name in names:
            _write(mount / f"..{version}" / f"{name}.yaml", version)
        _swap(mount / "..data", f"..{version}")
        for name in names:
            if not (mount / f"{name}.yaml").is_symlink():
                (mount / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
        for link in mount.glob("*.yaml"):
            if link.stem not in names:
                link.unlink()
        if before.exists() and before.name != "..data":
            shutil.rmtree(before)

    mount.mkdir()
    publish("1", "ab")

    async def scenario() -> None:
        async with _live(mount, tmp_path) as live:
            publish("2", "ab")
            await live.until_now(a="2", b="2")
            publish("3", "bc")
            await live.until_now(b="3", c="3")
            publish("4", "bc")
            await live.until_now(b="4", c="4")
        assert [policies for _, policies in live.history()] == [
            {"a": "1", "b": "1"},
            {"a": "2", "b": "2"},
            {"b": "3", "c": "3"},
            {"b": "4", "c": "4"},
        ]

    _run(scenario())


def test_an_archive_that_is_unpacked_is_one_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.3)
    root = tmp_path / "policies"
    root.mkdir()
    releases = {}
    for version in ("1", "2"):
        source = tmp_path / f"release-{version}"
        for number in range(60):
            _write(source / f"team-{number % 4}" / f"p{number}.yaml", version)
        with tarfile.open(tmp_path / f"{version}.tar.gz", "w:gz") as archive:
            archive.add(source, arcname=".")
        releases[version] = load(source).snapshot.version

    async def unpack(version: str) -> None:
        """`tar xzf` takes every file away and writes it anew."""
        command = ("tar", "xzf", str(tmp_path / f"{version}.tar.gz"), "-C", str(root))
        assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0

    async def scenario() -> None:
        await unpack("1")
        async with _live(root, tmp_path) as live:
            for version in ("2", "1", "2"):
                await unpack(version)
                await live.until(
                    lambda version=version: live.versions.current.version == releases[version],  # type: ignore[misc]
                    "the release",
                )
            assert live.reloader.reloads == 3
            assert live.reloader.loaded.problems == ()
        assert [set(policies.values()) for _, policies in live.history()] == [
            {"1"},
            {"2"},
            {"1"},
            {"2"},
        ]

    _run(scenario())


def test_a_burst_of_changes_is_one_reload(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            for number in range(100):
                _write(root / f"p{number}.yaml")
                _write(root / "a.yaml", str(number))
            await live.until(lambda: live.versions.current.size == 101, "all of them")
            assert live.reloader.reloads == 1
        assert len(live.history()) == 2

    _run(scenario())


def test_a_change_before_it_watches_is_not_missed(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        live = Live(root, tmp_path / "state" / "audit.db", None, None, 0)
        _write(root / "a.yaml", "2")
        running = asyncio.create_task(live.reloader.run())
        await live.until_now(a="2")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        live.audit.close()

    _run(scenario())


@pytest.mark.parametrize("what", ["root", "parent", "grandparent"])
def test_a_directory_that_vanishes_and_comes_back_keeps_what_was_in_force(
    tmp_path: Path, what: str
) -> None:
    root = tmp_path / "x" / "y" / "policies"
    gone = {"root": root, "parent": root.parent, "grandparent": root.parent.parent}[what]
    _write(root / "a.yaml")
    _write(root / "team" / "b.yaml")

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            for version in ("2", "3", "4"):  # it may get the same inode again
                gone.rename(tmp_path / "old")  # in one step: half a directory has lost files
                shutil.rmtree(tmp_path / "old")
                await live.until(lambda: live.reloader.loaded.stale, "it to be missed")
                assert len(live.now()) == 2
                _write(root / "team" / "b.yaml", version)
                _write(root / "a.yaml", version)
                await live.until_now(a=version, b=version)
                assert live.reloader.loaded.problems == ()
            _write(root / "a.yaml", "5")
            await live.until_now(a="5", b="4")
        assert [len(policies) for _, policies in live.history()] == [2] * 5

    _run(scenario())


def test_a_directory_that_is_replaced_in_an_instant_is_read_anew(
    root: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            for version in ("2", "3", "4"):
                shutil.rmtree(root)
                _write(root / "a.yaml", version)
                await live.until_now(a=version)
            _write(root / "a.yaml", "5")
            await live.until_now(a="5")

    _run(scenario())


def test_a_link_to_a_release_is_followed_to_the_next(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        _write(tmp_path / f"r{version}" / "policies" / "a.yaml", version)
    link = tmp_path / "current"
    link.symlink_to("r1")

    async def scenario() -> None:
        async with _live(link / "policies", tmp_path) as live:
            _swap(link, "r2")
            await live.until_now(a="2")
            shutil.rmtree(tmp_path / "r1")
            _write(tmp_path / "r2" / "policies" / "a.yaml", "2.1")
            await live.until_now(a="2.1")
            link.unlink()
            await live.until(lambda: live.reloader.loaded.stale, "the release to be missed")
            assert live.now() == {"a": "2.1"}
            link.symlink_to("r3")
            await live.until_now(a="3")

    _run(scenario())


def test_a_directory_that_comes_later_is_found(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there" / "yet"

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            assert live.now() == {}
            _write(root / "a.yaml")
            await live.until_now(a="1")

    _run(scenario())


# Half-written files.


# Whatever stands between a policy and its directory.


def _link(link: Path, target: str | Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _another_takes_the_place(place: Path) -> None:
    place.rename(place.with_name("old"))
    place.with_name("next").rename(place)


def _directory_far_above_the_root(at: Path) -> tuple[Path, Callable[[], None]]:
    for name, version in (("x", "1"), ("next", "2")):
        _write(at / name / "y" / "policies" / "a.yaml", version)
    _link(at / "policies", at / "x" / "y" / "policies")
    return at / "policies", lambda: _another_takes_the_place(at / "x")


def _directory_far_above_a_link_on_the_way(at: Path) -> tuple[Path, Callable[[], None]]:
    for name, version in (("x", "1"), ("next", "2")):
        _write(at / version / "a.yaml", version)
        _link(at / name / "y" / "current", at / version)
    _link(at / "policies", at / "x" / "y" / "current")
    return at / "policies", lambda: _another_takes_the_place(at / "x")


def _directory_far_above_a_linked_file(at: Path) -> tuple[Path, Callable[[], None]]:
    for name, version in (("x", "1"), ("next", "2")):
        _write(at / name / "y" / "a.yaml", version)
    _link(at / "policies" / "a.yaml", "../x/y/a.yaml")
    return at / "policies", lambda: _another_takes_the_place(at / "x")


def _directory_that_a_link_passes_and_leaves(at: Path) -> tuple[Path, Callable[[], None]]:
    (at / "s" / "x").mkdir(parents=True)
    (at / "o" / "x").mkdir(parents=True)
    _write(at / "s" / "y" / "a.yaml", "1")
    _write(at / "o" / "y" / "a.yaml", "2")
    _link(at / "policies" / "team", "../s/x/../y")

    def act() -> None:
        (at / "s" / "x").rmdir()
        _link(at / "s" / "x", "../o/x")

    return at / "policies", act


def _second_link_leads_further(at: Path) -> tuple[Path, Callable[[], None]]:
    _write(at / "shared" / "b.yaml")
    _write(at / "other" / "a.yaml", "1")
    _link(at / "shared" / "a.yaml", "../other/a.yaml")
    for name in ("b.yaml", "a.yaml"):
        _link(at / "policies" / name, f"../shared/{name}")
    return at / "policies", lambda: _write(at / "other" / "a.yaml", "2")


def _directory_comes_behind_a_link(at: Path) -> tuple[Path, Callable[[], None]]:
    (at / "shared").mkdir()
    _link(at / "policies" / "team", "../shared/team")
    return at / "policies", lambda: _write(at / "shared" / "team" / "a.yaml", "2")


def _file_becomes_a_directory_behind_a_link(at: Path) -> tuple[Path, Callable[[], None]]:
    (at / "shared").mkdir()
    (at / "shared" / "team").touch()
    _link(at / "policies" / "team", "../shared/team")

    def act() -> None:
        (at / "shared" / "team").unlink()
        _write(at / "shared" / "team" / "a.yaml", "2")

    return at / "policies", act


def _second_link_to_a_directory_is_swapped(at: Path) -> tuple[Path, Callable[[], None]]:
    _write(at / "one" / "b.yaml")
    _write(at / "two" / "a.yaml", "2")
    _link(at / "switch" / "current", "../one")
    _link(at / "policies" / "t1", "../one")
    _link(at / "policies" / "t2", "../switch/current")
    return at / "policies", lambda: _swap(at / "switch" / "current", "../two")


def _link_back_is_swapped(at: Path) -> tuple[Path, Callable[[], None]]:
    _write(at / "policies" / "b.yaml")
    _write(at / "two" / "a.yaml", "2")
    _link(at / "switch" / "current", "../policies")
    _link(at / "policies" / "team", "../switch/current")
    return at / "policies", lambda: _swap(at / "switch" / "current", "../two")


def _loop_of_links_ends(at: Path) -> tuple[Path, Callable[[], None]]:
    _write(at / "policies" / "b.yaml")
    _link(at / "s" / "x", "y")
    _link(at / "s" / "y", "x")
    _link(at / "policies" / "team", "../s/x")

    def act() -> None:
        (at / "s" / "y").unlink()
        _write(at / "s" / "y" / "a.yaml", "2")

    return at / "policies", act


def _another_file_turns_into_a_link_that_cannot_be(at: Path) -> tuple[Path, Callable[[], None]]:
    _write(at / "policies" / "b.yaml")

    def act() -> None:
        _swap(at / "policies" / "b.yaml", f"{'n' * 300}.yaml")
        _write(at / "policies" / "a.yaml", "2")

    return at / "policies", act


@pytest.mark.parametrize(
    "make",
    [
        _directory_far_above_the_root,
        _directory_far_above_a_link_on_the_way,
        _directory_far_above_a_linked_file,
        _directory_that_a_link_passes_and_leaves,
        _second_link_leads_further,
        _directory_comes_behind_a_link,
        _file_becomes_a_directory_behind_a_link,
        _second_link_to_a_directory_is_swapped,
        _link_back_is_swapped,
        _loop_of_links_ends,
        _another_file_turns_into_a_link_that_cannot_be,
    ],
    ids=lambda make: make.__name__.strip("_"),
)
def test_a_change_is_noticed_whatever_leads_to_it(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Callable[[], None]]]
) -> None:
    at = tmp_path / "at"
    at.mkdir()
    path, act = make(at)

    async def scenario() -> None:
        async with _live(path, tmp_path) as live:
            assert live.now().get("a") != "2"
            await live.until(lambda: not live.reloader._changed.is_set(), "nothing to be left")
            act()
            await live.until(lambda: live.now().get("a") == "2", "the change to be in force")

    _run(scenario())


def test_whoever_goes_on_writing_to_what_was_swapped_out_holds_up_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "policies"
    _write(path / "team" / "a.yaml", "1")
    _write(path / "..next" / "a.yaml", "2")

    async def scenario() -> None:
        async with _live(path, tmp_path) as live:
            with (path / "team" / "a.yaml").open("a") as stream:
                stream.write("# more\n")
                stream.flush()
                await live.until(live.reloader._watcher.being_written, "the writing to be known")
                (path / "team").rename(tmp_path / "old")
                (path / "..next").rename(path / "team")
                stream.write("# and more\n")
                stream.flush()
                await live.until_now(a="2")
            assert live.reloader.loaded.errors == ()

    _run(scenario())


def test_a_file_is_not_read_before_its_writer_has_closed_it(root: Path, tmp_path: Path) -> None:
    whole = POLICY.format(name="a", version="2") + "description: the end\n"

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            with (root / "a.yaml").open("w") as stream:
                stream.write(whole[:-21])  # valid as far as it goes
                stream.flush()
                await live.until(live.reloader._watcher.being_written, "the writing to be known")
                await asyncio.sleep(0.3)  # time to read it in, for one who would
                stream.write(whole[-21:])
            await live.until_now(a="2")
            [policy] = live.versions.current.policies
            assert policy.document.description == "the end"
        assert [policies for _, policies in live.history()] == [{"a": "1"}, {"a": "2"}]

    _run(scenario())


def test_a_mode_file_behind_a_link_is_not_read_before_its_writer_has_closed_it(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "config").symlink_to("real")
    mode_file = tmp_path / "config" / "mode"
    mode_file.write_text("enforce")

    async def scenario() -> None:
        async with _live(root, tmp_path, mode_file=mode_file) as live:
            with mode_file.open("w") as stream:
                stream.write("au")
                stream.flush()
                await live.until(live.reloader._watcher.being_written, "the writing to be known")
                await asyncio.sleep(0.3)  # time to read it in, for one who would
                stream.write("dit")
            await live.until(lambda: live.mode is Mode.AUDIT, "the mode")

    _run(scenario())
    assert not [message for message in _messages(caplog) if message.startswith("MODE_FILE")]


def test_a_writer_that_takes_its_time_does_not_hold_up_the_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            with (root / "a.yaml").open("w") as stream:
                stream.write(POLICY.format(name="a", version="2"))
                stream.flush()
                await live.until(live.reloader._watcher.being_written, "the writing to be known")
                _write(root / "b.yaml")
                await live.until_now(a="1", b="1")
                assert live.reloader.loaded.stale == (str(root / "a.yaml"),)
                assert [p.message for p in live.reloader.loaded.errors] == [
                    "is being written; not read yet"
                ]
            await live.until_now(a="2", b="1")
            assert not live.reloader.loaded.problems

    _run(scenario())


# What cannot be used.


def test_a_file_that_turns_bad_is_told_of_once_and_its_last_good_version_stays(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            (root / "a.yaml").write_text("name: a\nrules:\n  - effect: allwo\n    actions: [x]\n")
            await live.until(lambda: live.reloader.loaded.stale, "it to be stale")
            _write(root / "b.yaml")
            await live.until_now(a="1", b="1")
            _write(root / "a.yaml", "2")
            await live.until_now(a="2", b="1")

    _run(scenario())
    told = [message for message in _messages(caplog) if str(root / "a.yaml") in message]
    assert told == [
        f"{root}/a.yaml:3:13: error: unknown effect `allwo`, did you mean `allow`?"
        " (one of 'allow', 'deny' or 'require_approval')",
        f"{root}/a.yaml: its last good version stays in force",
        f"{root}/a.yaml: no longer stale",
    ]


def test_the_last_policy_that_goes_is_said_loudly(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            (root / "a.yaml").unlink()
            await live.until_now()

    _run(scenario())
    assert "POLICIES_DIR: no valid policy is left; every decision is a denial" in _messages(caplog)


def test_a_reading_that_fails_leaves_what_was_in_force(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:

            def fails() -> None:
                live.directory.before_each = lambda: None
                raise MemoryError

            live.directory.before_each = fails
            _write(root / "a.yaml", "2")
            await live.until(lambda: "MemoryError" in caplog.text, "the failure")
            assert live.now() == {"a": "1"}
            _write(root / "a.yaml", "3")
            await live.until_now(a="3")

    _run(scenario())
    assert "reading the policies failed; what was in force stays" in _messages(caplog)


@pytest.mark.parametrize("what", ["reload", "use", "flush"])
def test_a_bug_beside_the_reading_does_not_end_the_watch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.01)
    failed: list[str] = []
    mode_file = tmp_path / "mode"
    mode_file.write_text("enforce")

    async def scenario() -> None:
        async with _live(root, tmp_path, mode_file=mode_file) as live:
            target = live.reloader._files[0] if what == "use" else live.versions
            name = "_use" if what == "use" else what
            real = getattr(target, name)

            def fails_once(*arguments: object) -> object:
                if not failed:
                    failed.append(what)
                    raise RuntimeError("a bug")
                return real(*arguments)

            monkeypatch.setattr(target, name, fails_once)
            _write(root / "a.yaml", "2")
            await live.until(lambda: failed, "the failure")
            _write(root / "a.yaml", "3")
            await live.until_now(a="3")
            with contextlib.closing(sqlite3.connect(live.database)) as database:
                database.execute("BEGIN IMMEDIATE")
                _write(root / "a.yaml", "4")
                await live.until_now(a="4")
                database.execute("ROLLBACK")
            await live.until(
                lambda: live.history()[-1] == ("reload", {"a": "4"}), "a record that was late"
            )

    _run(scenario())


# Aside, and swapped once.


def test_the_event_loop_goes_on_while_files_are_read(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            reading, answered = threading.Event(), threading.Event()

            def waits() -> None:
                reading.set()
                assert answered.wait(PATIENCE_S)

            live.directory.before_each = waits
            _write(root / "a.yaml", "2")
            await live.until(reading.is_set, "the reading to begin")
            # In the middle of it requests are answered, by what was in force before.
            asked = gate(lambda: live.versions.current, MemoryRecorder())
            assert asked.check(check_request())
            assert live.now() == {"a": "1"}
            live.directory.before_each = lambda: None
            answered.set()
            await live.until_now(a="2")

    _run(scenario())


def test_callers_are_looked_up_before_they_come(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            asked = gate(lambda: live.versions.current, MemoryRecorder())
            for number in range(3):
                headers = {"authorization": bearer(sub=f"agent-{number}")}
                asked.check(check_request(headers=headers))
            _write(root / "a.yaml", "2")
            await live.until_now(a="2")
            known = {caller.agent_id for caller in live.versions.current.callers()}
            assert known == {"agent-0", "agent-1", "agent-2"}

    _run(scenario())


def test_a_pin_holds_while_files_are_read_and_reported(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            first = live.versions.current.version
            _write(root / "a.yaml", "2")
            await live.until_now(a="2")
            live.versions.rollback(first)
            _write(root / "a.yaml", "3")
            _write(root / "b.yaml")
            await live.until(lambda: live.versions.latest.size == 2, "the files to be read")
            assert live.now() == {"a": "1"}
            (root / "b.yaml").write_text("name: [")
            await live.until(lambda: live.reloader.loaded.stale, "the bad file")
            assert live.versions.release()
            assert live.now() == {"a": "3", "b": "1"}
        assert [why for why, _ in live.history()] == ["start", "reload", "rollback", "release"]

    _run(scenario())


def test_what_could_not_be_recorded_is_recorded_later(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.02)

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            with contextlib.closing(sqlite3.connect(live.database)) as database:
                database.execute("BEGIN IMMEDIATE")
                _write(root / "a.yaml", "2")
                await live.until_now(a="2")
                assert len(live.history()) == 1
                database.execute("ROLLBACK")
            await live.until(lambda: len(live.history()) == 2, "the record")

    _run(scenario())


def test_what_could_not_be_recorded_is_tried_once_more_at_the_end(
    root: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            with contextlib.closing(sqlite3.connect(live.database)) as database:
                database.execute("BEGIN IMMEDIATE")
                _write(root / "a.yaml", "2")
                await live.until_now(a="2")
                database.execute("ROLLBACK")
        assert [policies for _, policies in live.history()] == [{"a": "1"}, {"a": "2"}]

    _run(scenario())


# Where the system does not tell.


def _deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system: watches are put on it, and nothing is ever heard."""
    monkeypatch.setattr(Watcher, "_take", lambda *_: None)


def test_what_is_not_told_is_found_by_looking(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _deaf(monkeypatch)
    mode_file = tmp_path / "mode"
    mode_file.write_text("enforce")

    async def scenario() -> None:
        async with _live(root, tmp_path, mode_file=mode_file, poll_s=0.02) as live:
            _write(root / "a.yaml", "2")
            await live.until_now(a="2")
            mode_file.write_text("audit")
            await live.until(lambda: live.mode is Mode.AUDIT, "the mode")
            root.rename(tmp_path / "old")
            await live.until(lambda: live.reloader.loaded.stale, "it to be missed")
            _write(root / "a.yaml", "3")
            await live.until_now(a="3")
            # Looking is not reloading.
            readings = live.directory.readings
            await live.until(lambda: live.directory.readings > readings + 3, "more looks")
        assert len(live.history()) == 3

    _run(scenario())


def test_a_system_that_refuses_watches_is_looked_at_all_the_same(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses(*args: object, **kwargs: object) -> object:
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr(INotify, "add_watch", refuses)
    monkeypatch.setattr(module, "FALLBACK_POLL_S", 0.02)

    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            _write(root / "a.yaml", "2")
            await live.until_now(a="2")

    _run(scenario())
    assert sum("cannot be watched for changes" in message for message in _messages(caplog)) == 1


def test_whoever_asks_is_answered_although_nothing_was_told(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _deaf(monkeypatch)
    caplog.set_level("INFO")
    mode_file = tmp_path / "mode"
    mode_file.write_text("enforce")

    async def scenario() -> None:
        async with _live(root, tmp_path, mode_file=mode_file) as live:
            live.reloader.ask()
            await live.until(
                lambda: any("policies: read again, still version" in m for m in _messages(caplog)),
                "the answer",
            )
            _write(root / "a.yaml", "2")
            mode_file.write_text("audit")
            live.reloader.ask()
            await live.until_now(a="2")
            assert live.mode is Mode.AUDIT
            assert any("policies: reloaded, version" in m for m in _messages(caplog))

    _run(scenario())


def test_whoever_asks_does_not_wait_for_a_burst_to_end(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            readings = live.directory.readings
            monkeypatch.setattr(module, "QUIET_S", 3600.0)
            monkeypatch.setattr(module, "PATIENCE_S", 3600.0)
            live.reloader.ask()
            await live.until(lambda: live.directory.readings > readings, "the reading")

    _run(scenario())


# The mode.


@pytest.mark.parametrize("how", ["written", "renamed over", "mounted"])
def test_the_mode_follows_its_file(root: Path, tmp_path: Path, how: str) -> None:
    mount = tmp_path / "config"
    mount.mkdir()
    mode_file = mount / "mode"
    count = itertools.count()

    def say(mode: str) -> None:
        if how == "written":
            mode_file.write_text(f"{mode}\n")
        elif how == "renamed over":
            (mount / "new").write_text(mode)
            (mount / "new").replace(mode_file)
        else:
            version = mount / f"..{next(count)}"
            version.mkdir()
            (version / "mode").write_text(mode)
            _swap(mount / "..data", version.name)

    if how == "mounted":
        mode_file.symlink_to("..data/mode")
    say("enforce")

    async def scenario() -> None:
        async with _live(root, tmp_path, mode_file=mode_file) as live:
            for mode in ("audit", " ENFORCE ", "bypass", "audit"):
                say(mode)
                wanted = Mode(mode.strip().lower())
                await live.until(lambda wanted=wanted: live.mode is wanted, mode)  # type: ignore[misc]
        assert live.reloader.reloads == 0

    _run(scenario())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must hold enforce, audit or bypass"),
        (b"\n", "must hold enforce, audit or bypass"),
        (b"audited", "must hold enforce, audit or bypass"),
        (b"\x00\xff", "must hold enforce, audit or bypass"),
        (b"enforce audit", "must hold enforce, audit or bypass"),
        (b"audit" * 1_000_000, "must hold enforce, audit or bypass"),
        (None, "cannot be read: No such file or directory"),
        ("directory", "cannot be read: Is a directory"),
    ],
)
def test_a_mode_file_that_holds_none_changes_nothing(
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes | str | None,
    sentence: str,
) -> None:
    mode_file = tmp_path / "config" / "mode"
    mode_file.parent.mkdir()
    mode_file.write_text("audit")

    async def scenario() -> None:
        async with _live(root, tmp_path, mode_file=mode_file) as live:
            await live.until(lambda: live.mode is Mode.AUDIT, "the mode to be read")
            mode_file.unlink()
            if isinstance(content, bytes):
                mode_file.write_bytes(content)
            elif content is not None:
                mode_file.mkdir()
            await live.until(lambda: _messages(caplog), "the complaint")
            readings = live.directory.readings
            live.reloader.ask()
            await live.until(lambda: live.directory.readings > readings, "another look")
            assert live.mode is Mode.AUDIT
            if content == "directory":
                mode_file.rmdir()
            mode_file.write_text("enforce")
            await live.until(lambda: live.mode is Mode.ENFORCE, "the mode that is there again")

    _run(scenario())
    assert _messages(caplog) == [f"MODE_FILE: {mode_file} {sentence}; the mode stays as it is"]


# The keys of tokens.


@pytest.mark.parametrize("how", ["written", "renamed over", "mounted"])
def test_the_keys_follow_their_file(root: Path, tmp_path: Path, how: str) -> None:
    mount = tmp_path / "keys"
    mount.mkdir()
    keys_file = mount / "jwks.json"
    count = itertools.count()
    old, new = Signer("old"), Signer("new")

    def say(*signers: Signer) -> None:
        if how == "written":
            keys_file.write_bytes(jwks(*signers))
        elif how == "renamed over":
            (mount / "new").write_bytes(jwks(*signers))
            (mount / "new").replace(keys_file)
        else:
            version = mount / f"..{next(count)}"
            version.mkdir()
            (version / "jwks.json").write_bytes(jwks(*signers))
            _swap(mount / "..data", version.name)

    if how == "mounted":
        keys_file.symlink_to("..data/jwks.json")
    say(old)

    async def scenario() -> None:
        async with _live(root, tmp_path, keys_file=keys_file) as live:
            await live.until(lambda: live.accepts(old), "the first key")
            say(old, new)
            await live.until(lambda: live.accepts(new), "the key that came")
            assert live.accepts(old)
            say(new)
            await live.until(lambda: not live.accepts(old), "the key to be gone")
            assert live.accepts(new)
        assert live.reloader.reloads == 0

    _run(scenario())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", ": not JSON from line 1, column 1 on"),
        (b'{"keys": []}', ": 0 keys, where 1 to 64 must be"),
        (b" " * 1_000_000, ": larger than 65536 bytes"),
        (None, " cannot be read: No such file or directory"),
        ("directory", " cannot be read: Is a directory"),
        ("pipe", " is not a regular file"),
    ],
)
def test_a_file_without_good_keys_changes_none_and_says_so_once(
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes | str | None,
    sentence: str,
) -> None:
    keys = tmp_path / "keys"
    keys_file = keys / "jwks.json"
    old, new = Signer("old"), Signer("new")

    def say(release: str, content: bytes | str | None) -> None:
        """In one step: what is neither the one nor the other would be complained of as well."""
        directory = tmp_path / release
        directory.mkdir()
        if isinstance(content, bytes):
            (directory / keys_file.name).write_bytes(content)
        elif content == "directory":
            (directory / keys_file.name).mkdir()
        elif content == "pipe":
            os.mkfifo(directory / keys_file.name)
        _swap(keys, release)

    say("1", jwks(old))

    async def scenario() -> None:
        async with _live(root, tmp_path, keys_file=keys_file) as live:
            await live.until(lambda: live.accepts(old), "the first key")
            say("2", content)
            await live.until(live.reloader.problems, "the complaint")
            readings = live.directory.readings
            live.reloader.ask()
            await live.until(lambda: live.directory.readings > readings, "another look")
            assert live.reloader.problems() == {"keys": f"JWKS_FILE: {keys_file}{sentence}"}
            assert live.accepts(old)
            say("3", jwks(new))
            await live.until(lambda: live.accepts(new), "keys that are good again")
            assert not live.accepts(old)
            assert live.reloader.problems() == {}

    _run(scenario())
    assert _messages(caplog) == [f"JWKS_FILE: {keys_file}{sentence}; the keys stay as they are"]


def test_whoever_asks_has_the_keys_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _deaf(monkeypatch)
    keys_file = tmp_path / "jwks.json"
    old, new = Signer("old"), Signer("new")
    keys_file.write_bytes(jwks(old))

    async def scenario() -> None:
        async with _live(root, tmp_path, keys_file=keys_file) as live:
            keys_file.write_bytes(jwks(new))
            live.reloader.ask()
            await live.until(lambda: live.accepts(new), "the keys")

    _run(scenario())


def test_it_leaves_no_thread_behind(root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _live(root, tmp_path) as live:
            thread = live.reloader._watcher._thread
            assert thread is not None
            assert thread.is_alive()
        assert not thread.is_alive()

    _run(scenario())
