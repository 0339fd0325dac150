"""A bundle is taken whole or not at all, and what is not taken changes nothing."""

import os
import tarfile
from pathlib import Path

import pytest

from authz.bundles.accept import Floor
from authz.bundles.build import build
from authz.stores import bundles as module
from authz.stores.bundle_files import BundleFiles
from authz.stores.bundle_floor import FloorFile
from authz.stores.bundles import PAIR_S, PolicyBundle
from authz.stores.policies import Loaded, load_paths
from tests.bundling import CREATED, Key, Shelf, policy, replace


class Reader:
    """A service that reads a shelf, and its clocks."""

    def __init__(self, shelf: Shelf, *keys: Path, floor: Path | None = None) -> None:
        self.shelf = shelf
        self.floor = floor or shelf.directory / "floor"
        self.keys = keys or (shelf.public,)
        self.now = CREATED + 100.0
        self.steady = 0.0
        self.start()

    def start(self, *, signed: bool = True) -> None:
        """As a new process."""
        keys = self.keys if signed else ()
        self.source = PolicyBundle(
            BundleFiles(self.shelf.bundle, self.shelf.signature, keys),
            FloorFile(self.floor),
            now=lambda: self.now,
            monotonic=lambda: self.steady,
        )

    def read(self) -> Loaded:
        """Read, and once more when a pair has had its time."""
        loaded = self.source.read()
        if 0 < loaded.again_s <= PAIR_S:
            self.steady += loaded.again_s
            loaded = self.source.read()
        return loaded


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def reader(shelf: Shelf) -> Reader:
    return Reader(shelf)


def said(loaded: Loaded) -> str:
    assert loaded.bundle is not None
    return loaded.bundle.problem


def version(loaded: Loaded) -> int | None:
    assert loaded.bundle is not None
    return loaded.bundle.taken.version if loaded.bundle.taken else None


def rules(loaded: Loaded) -> set[str]:
    return {
        pattern
        for one in loaded.snapshot.policies
        for rule in one.rules
        for pattern in rule.patterns
    }


def test_what_was_signed_is_what_is_loaded(shelf: Shelf, reader: Reader) -> None:
    data = shelf.put(
        7,
        {"a.yaml": policy("a"), "deep/b.yml": policy("b"), "README": b"x", ".x/c.yaml": b"["},
        revision="abc",
    )
    loaded = reader.read()
    assert loaded.bundle is not None
    assert said(loaded) == loaded.bundle.expired == ""
    taken = loaded.bundle.taken
    assert taken is not None
    assert (taken.data, taken.version, taken.revision, taken.created) == (data, 7, "abc", CREATED)
    assert taken.signature == shelf.signature.read_bytes()
    assert sorted(loaded.policies.sources) == ["a", "b"]
    assert loaded.files == 2
    [(file, _), _] = loaded.policies.sources.values()
    assert file.file == f"{shelf.bundle}!a.yaml"
    assert FloorFile(reader.floor).read() == Floor(7, taken.digest)
    # Unchanged, it is not even verified again.
    assert reader.read().policies is loaded.policies


def test_the_archive_of_tar_alone_loads_until_there_was_one_with_a_manifest(
    tmp_path: Path, shelf: Shelf, reader: Reader
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.yaml").write_bytes(policy("a", "read:plain"))
    with tarfile.open(shelf.bundle, "w:gz") as archive:
        archive.add(tmp_path / "policies", ".")
    replace(shelf.signature, shelf.key.sign(shelf.bundle.read_bytes()))
    plain = shelf.bundle.read_bytes(), shelf.signature.read_bytes()
    loaded = reader.read()
    assert loaded.bundle is not None
    assert loaded.bundle.taken is not None
    assert "no manifest" in " ".join(loaded.bundle.taken.warnings)
    assert (rules(loaded), version(loaded)) == ({"read:plain"}, None)
    assert not reader.floor.exists()
    shelf.put(1)
    assert version(reader.read()) == 1
    replace(shelf.bundle, plain[0])
    replace(shelf.signature, plain[1])
    loaded = reader.read()
    assert "has no manifest, and version 1 was taken before" in said(loaded)
    assert rules(loaded) == {"read:1"}


def _flipped(shelf: Shelf) -> None:
    data = bytearray(shelf.bundle.read_bytes())
    data[len(data) // 2] ^= 1
    replace(shelf.bundle, bytes(data))


def _truncated(shelf: Shelf) -> None:
    replace(shelf.bundle, shelf.bundle.read_bytes()[:-10])


def _of_another_key(shelf: Shelf) -> None:
    shelf.put(9, key=Key())


def _old(shelf: Shelf) -> None:
    shelf.put(4)


def _same_version(shelf: Shelf) -> None:
    shelf.put(5, {"a.yaml": policy("a", "read:other")})


def _expired(shelf: Shelf) -> None:
    shelf.put(9, not_after=CREATED + 50)


def _from_the_future(shelf: Shelf) -> None:
    shelf.put(9, created=CREATED + 10_000)


def _bad_policy(shelf: Shelf) -> None:
    shelf.put(9, {"a.yaml": policy("a"), "b.yaml": b"name: b\nrules: 7\n"})


def _no_policy(shelf: Shelf) -> None:
    shelf.put(9, {"README": b"nothing"})


def _gone(shelf: Shelf) -> None:
    shelf.bundle.unlink()


def _no_signature(shelf: Shelf) -> None:
    shelf.signature.unlink()


def _key_is_gone(shelf: Shelf) -> None:
    shelf.public.unlink()


def _key_is_none(shelf: Shelf) -> None:
    replace(shelf.public, b"no key")


def _a_directory(shelf: Shelf) -> None:
    shelf.bundle.unlink()
    shelf.bundle.mkdir()


def _a_fifo(shelf: Shelf) -> None:
    shelf.bundle.unlink()
    os.mkfifo(shelf.bundle)


def _too_large(shelf: Shelf) -> None:
    shelf.bundle.unlink()
    with shelf.bundle.open("wb") as stream:
        stream.truncate(9 << 20)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_flipped, "POLICY_BUNDLE: policies.tar.gz: "),
        (_truncated, "POLICY_BUNDLE: policies.tar.gz: "),
        (_of_another_key, "POLICY_BUNDLE: policies.tar.gz: "),
        (_old, "version 4, and version 5 was taken before"),
        (_same_version, "another bundle of version 5 was taken before"),
        (_expired, "was to be used until 2025-06-15T15:07:30"),
        (_from_the_future, "was created at 2025-06-15T17:53:20"),
        (_bad_policy, "has 1 error and is not taken: policies.tar.gz!b.yaml:2:"),
        (_no_policy, "has no valid policy file"),
        (_gone, "POLICY_BUNDLE: policies.tar.gz is not there"),
        (_no_signature, "has no signature"),
        (_key_is_gone, "POLICY_BUNDLE_KEYS: cosign.pub is not there"),
        (_key_is_none, "POLICY_BUNDLE_KEYS: policies.tar.gz: "),
        (_a_directory, "cannot be read: "),
        (_a_fifo, "cannot be read: not a regular file"),
        (_too_large, "is larger than 8388608 bytes"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_refused_changes_nothing_and_says_why(
    shelf: Shelf, reader: Reader, spoil: object, why: str
) -> None:
    assert callable(spoil)
    before = shelf.put(5), shelf.signature.read_bytes(), shelf.public.read_bytes()
    good = reader.read()
    assert rules(good) == {"read:5"}
    spoil(shelf)
    loaded = reader.read()
    assert why in said(loaded)
    assert loaded.policies is good.policies
    assert version(loaded) == 5
    assert loaded.again_s > 0
    floor = FloorFile(reader.floor).read()
    assert floor is not None
    assert floor.version == 5
    # The same sentence the next time, however late it is by then.
    reader.now += 7
    assert said(reader.read()) == said(loaded)
    # A new process has nothing, unless it is policies that are bad beside good ones.
    reader.start()
    again = reader.read()
    if spoil is _bad_policy:
        assert (said(again), rules(again)) == ("", {"read:*"})
        assert len(again.errors) == 1
        return
    assert (why in said(again), again.snapshot.size) == (True, 0)
    # Put right, it is in force again.
    if shelf.bundle.is_dir():
        shelf.bundle.rmdir()
    for path, content in zip((shelf.bundle, shelf.signature, shelf.public), before, strict=True):
        replace(path, content)
    assert (said(reader.read()), rules(reader.read())) == ("", {"read:5"})


def test_half_a_pair_waits_for_the_other_half(shelf: Shelf, reader: Reader) -> None:
    shelf.put(1)
    reader.read()
    new = build({"a.yaml": policy("a", "read:new")}, version=2, created=CREATED)
    replace(shelf.bundle, new)
    loaded = reader.source.read()
    assert (said(loaded), rules(loaded)) == ("", {"read:1"})
    assert 0 < loaded.again_s <= PAIR_S
    reader.steady += 1
    replace(shelf.signature, shelf.key.sign(new))
    loaded = reader.source.read()
    assert (said(loaded), rules(loaded)) == ("", {"read:new"})


def test_what_is_being_written_is_not_read(shelf: Shelf, reader: Reader) -> None:
    shelf.put(1)
    reader.read()
    shelf.put(2)
    for path in (shelf.bundle, shelf.signature):
        loaded = reader.source.read([path.resolve()])
        assert (said(loaded), rules(loaded)) == ("", {"read:1"})
    assert version(reader.source.read()) == 2


def test_keys_are_rotated_beside_each_other(shelf: Shelf, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    replace(keys / "old.pub", shelf.key.pem)
    (keys / "README").write_text("no key")
    reader = Reader(shelf, keys)
    shelf.put(1)
    assert version(reader.read()) == 1
    new = Key()
    shelf.put(2, key=new)
    assert version(reader.read()) == 1
    (keys / "new.pem").write_bytes(new.pem)
    loaded = reader.read()
    assert (version(loaded), said(loaded)) == (2, "")
    # Without the key that signed it, it is in force and known to be signed by nobody any more.
    (keys / "new.pem").unlink()
    loaded = reader.read()
    assert version(loaded) == 2
    assert said(loaded)
    (keys / "old.pub").unlink()
    assert "there is no *.pem or *.pub in keys" in said(reader.read())


def test_without_keys_it_loads_and_says_that_nobody_is_known_to_have_signed(
    shelf: Shelf, reader: Reader
) -> None:
    shelf.put(1)
    shelf.signature.unlink()
    reader.start(signed=False)
    loaded = reader.read()
    assert loaded.bundle is not None
    assert loaded.bundle.taken is not None
    assert loaded.bundle.taken.key_id == ""
    assert "not known" in loaded.bundle.taken.warnings[0]


def test_one_that_expires_in_force_goes_on_and_says_so(shelf: Shelf, reader: Reader) -> None:
    shelf.put(1, not_after=CREATED + 130)
    loaded = reader.read()
    assert loaded.bundle is not None
    assert loaded.bundle.expired == ""
    assert 30 < loaded.again_s < 31
    reader.now = CREATED + 131
    loaded = reader.read()
    assert loaded.bundle is not None
    assert "version 1, was to be used until 2025-06-15T15:08:50" in loaded.bundle.expired
    assert (said(loaded), rules(loaded)) == ("", {"read:1"})
    # Also where the keys are read anew, and it is looked at again.
    replace(shelf.public, shelf.key.pem + Key().pem)
    loaded = reader.read()
    assert (said(loaded), rules(loaded)) == ("", {"read:1"})
    # The next one ends it; the next process does not take it.
    reader.start()
    assert "was to be used until" in said(reader.read())
    assert reader.read().snapshot.size == 0
    shelf.put(2)
    loaded = reader.read()
    assert loaded.bundle is not None
    assert (version(loaded), said(loaded), loaded.bundle.expired) == (2, "", "")


def test_the_floor_is_on_disk_before_a_bundle_is_in_force(
    shelf: Shelf, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put(1)
    reader.read()
    old = shelf.bundle.read_bytes(), shelf.signature.read_bytes()
    shelf.put(2)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(module, "Taken", killed)
    with pytest.raises(Killed):
        reader.read()
    monkeypatch.undo()
    # As after kill -9 in between: what comes back has what it was about to have, or nothing older.
    reader.start()
    assert version(reader.read()) == 2
    replace(shelf.bundle, old[0])
    replace(shelf.signature, old[1])
    reader.start()
    loaded = reader.read()
    assert "version 1, and version 2 was taken before" in said(loaded)
    assert loaded.snapshot.size == 0


def test_a_floor_that_cannot_be_told_or_raised_lets_nothing_new_in(
    shelf: Shelf, reader: Reader
) -> None:
    shelf.put(1)
    reader.read()
    reader.floor.write_text("0")
    # What is in force goes on, and the next one does not come.
    loaded = reader.read()
    assert "is not as it was written" in said(loaded)
    shelf.put(2)
    loaded = reader.read()
    assert "is not as it was written" in said(loaded)
    assert version(loaded) == 1
    reader.start()
    assert reader.read().snapshot.size == 0
    # Removed by a person, it begins anew.
    reader.floor.unlink()
    assert version(reader.read()) == 2


def test_a_floor_that_was_removed_is_there_again(shelf: Shelf, reader: Reader) -> None:
    shelf.put(3)
    reader.read()
    reader.floor.unlink()
    reader.read()
    floor = FloorFile(reader.floor).read()
    assert floor is not None
    assert floor.version == 3


def test_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    first, second, mount = (tmp_path / name for name in ("..1", "..2", "mount"))
    for directory in (first, second, mount):
        directory.mkdir()
    shelf = Shelf(first)
    shelf.put(1)
    for name in ("policies.tar.gz", "policies.tar.gz.sig", "cosign.pub"):
        (mount / name).symlink_to(f"..data/{name}")
    (mount / "..data").symlink_to(first)
    mounted = Shelf.__new__(Shelf)
    mounted.directory, mounted.bundle = mount, mount / "policies.tar.gz"
    mounted.signature, mounted.public = mount / "policies.tar.gz.sig", mount / "cosign.pub"
    reader = Reader(mounted, floor=tmp_path / "floor")
    assert version(reader.read()) == 1
    other = Shelf(second)
    other.put(2)
    (mount / "..new").symlink_to(second)
    os.replace(mount / "..new", mount / "..data")  # noqa: PTH105
    assert version(reader.read()) == 2


def test_commands_read_a_bundle_as_they_read_a_directory(shelf: Shelf) -> None:
    shelf.put(1, {"a.yaml": policy("a"), "b.yaml": b"name: b\n"})
    loaded = load_paths([shelf.bundle])
    assert list(loaded.policies.sources) == ["a"]
    [error] = loaded.errors
    assert str(error).startswith(f"{shelf.bundle}!b.yaml:1:")
    shelf.bundle.write_bytes(b"no archive")
    [error] = load_paths([shelf.bundle]).errors
    assert error.file == str(shelf.bundle)
