"""All policies as one archive: what is in force and nothing else, the same bytes for the same."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from authz.bundles.archive import unpack
from authz.stores.bundle_files import BundleFiles
from authz.stores.bundle_floor import FloorFile
from authz.stores.bundles import PolicyBundle
from authz.stores.policies import PolicyDirectory
from tests.bundling import Shelf, policy
from tests.edges.world import ADMIN, World

PATH = "/admin/policies/bundle"


class Sidecar(World):
    """A world that reads its policies again and again."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.policies.mkdir()
        self.source = PolicyDirectory(self.policies)

    def write(self, **files: bytes) -> None:
        for name, content in files.items():
            path = self.policies / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        self.read()

    def read(self) -> None:
        self.loaded = self.source.read()
        self.versions.reload(self.loaded.snapshot)

    def bundle(self, **headers: str) -> httpx.Response:
        return self.ask("GET", PATH, headers={**ADMIN, **headers})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Sidecar]:
    made = Sidecar(tmp_path)
    yield made
    made.close()


def files(answer: httpx.Response) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    return dict(unpack(answer.content).files)


def test_files_are_as_they_are_at_the_root_of_the_archive(world: Sidecar) -> None:
    one, two = b"# why\n" + policy("a"), policy("b")
    world.write(one=one, deep__two=two)
    answer = world.bundle()
    assert files(answer) == {"one.yaml": one, "deep/two.yaml": two}
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == ["deep/two.yaml", "one.yaml"]
    assert answer.headers["x-meshguard-bundle-version"] == world.versions.current.version
    assert "x-meshguard-bundle-signature" not in answer.headers


def test_what_has_not_changed_is_not_sent_again(world: Sidecar) -> None:
    world.write(one=policy("a"))
    answer = world.bundle()
    tag = answer.headers["etag"]
    # Another process, and other times of the files.
    os.utime(world.policies / "one.yaml", (1, 1))
    world.source = PolicyDirectory(world.policies)
    world.read()
    again = world.bundle(**{"If-None-Match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    world.write(two=policy("b"))
    assert world.bundle(**{"If-None-Match": tag}).status_code == 200
    assert world.bundle().headers["etag"] != tag


def test_a_download_that_broke_off_is_gone_on_with(world: Sidecar) -> None:
    world.write(one=policy("a"))
    whole = world.bundle()
    assert whole.headers["accept-ranges"] == "bytes"
    tag, size = whole.headers["etag"], len(whole.content)
    rest = world.bundle(**{"Range": "bytes=100-", "If-Range": tag})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])
    assert rest.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
    assert rest.headers["etag"] == tag
    for asked in (
        {"Range": "bytes=100-"},
        {"Range": "bytes=100-", "If-Range": '"another"'},
        {"Range": "bytes=0-", "If-Range": tag},
        {"Range": f"bytes={size}-", "If-Range": tag},
        {"Range": "bytes=-100", "If-Range": tag},
        {"Range": "bytes=1-2,4-5", "If-Range": tag},
    ):
        answer = world.bundle(**asked)
        assert (answer.status_code, answer.content) == (200, whole.content), asked
        assert "content-range" not in answer.headers


def test_only_what_is_in_force_is_in_it(world: Sidecar) -> None:
    good = policy("a", "read:good")
    world.write(a=good, bad=b"name: x\n", nothing=b"# nothing\n", b=policy("b") + b"---\n" + good)
    assert files(world.bundle()).keys() == {"a.yaml", "b.yaml"}
    # A file of which one document counts has that one.
    assert b"name: a" not in files(world.bundle())["b.yaml"]
    # The last good version of one that has turned bad.
    world.write(a=b"name: a\nrules: 7\n", b=policy("b"))
    assert b"read:good" in files(world.bundle())["a.yaml"]
    taken = PolicyDirectory(_extracted(world, world.bundle())).read()
    assert (taken.snapshot.version, taken.errors) == (world.versions.current.version, ())


def _extracted(world: Sidecar, answer: httpx.Response) -> Path:
    to = world.policies.parent / "extracted"
    to.mkdir()
    for name, content in files(answer).items():
        (to / name).write_bytes(content)
    return to


def test_a_file_that_is_written_meanwhile_is_not_in_it_unread(world: Sidecar) -> None:
    world.write(a=policy("a", "read:old"))
    (world.policies / "a.yaml").write_bytes(policy("a", "read:new"))
    assert b"read:old" in files(world.bundle())["a.yaml"]


def test_a_pinned_version_is_what_is_handed_out(world: Sidecar) -> None:
    world.write(a=policy("a", "read:old"))
    world.versions.pin(by="admin")
    world.write(a=policy("a", "read:new"), b=policy("b"))
    [content] = files(world.bundle()).values()
    assert b"read:old" in content
    world.versions.release(by="admin")
    assert files(world.bundle()).keys() == {"a.yaml", "b.yaml"}


def test_names_that_no_archive_may_have_become_others(world: Sidecar) -> None:
    for name, called in (("A", "A.yaml"), ("b", "a.yaml"), ("c", "x\\y.yaml"), ("d", "é\x07.yaml")):
        (world.policies / called).write_bytes(policy(name))
    world.read()
    found = files(world.bundle())
    assert len(found) == 4
    assert "A.yaml" in found
    assert PolicyDirectory(_extracted(world, world.bundle())).read().snapshot.size == 4


def test_no_policies_are_no_archive(world: Sidecar) -> None:
    answer = world.bundle()
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


def test_nobody_signs_a_directory(world: Sidecar) -> None:
    world.write(a=policy("a"))
    answer = world.ask("GET", f"{PATH}.sig", headers=ADMIN)
    assert answer.status_code == 404
    assert "come from a directory" in answer.json()["message"]


def test_it_is_for_administrators_and_no_name_of_a_policy(world: Sidecar) -> None:
    assert world.ask("GET", PATH).status_code == 401
    assert world.ask("GET", f"{PATH}?x=1", headers=ADMIN).status_code == 400
    answer = world.ask("DELETE", PATH, headers=ADMIN)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_a_bundle_is_handed_out_as_it_came(world: Sidecar, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    shelf = Shelf(tmp_path / "shelf")
    source = PolicyBundle(
        BundleFiles(shelf.bundle, shelf.signature, [shelf.public]), FloorFile(tmp_path / "floor")
    )
    world.loaded = source.read()
    assert world.bundle().status_code == 503
    data = shelf.put(7)
    world.loaded = source.read()
    world.versions.reload(world.loaded.snapshot)
    answer = world.bundle()
    assert answer.content == data
    assert answer.headers["x-meshguard-bundle-version"] == "7"
    signature = shelf.signature.read_bytes()
    assert answer.headers["x-meshguard-bundle-signature"] == signature.decode()
    assert world.ask("GET", f"{PATH}.sig", headers=ADMIN).content == signature
    # What is on disk since, and nobody has taken, is not handed out.
    shelf.bundle.write_bytes(b"something")
    world.loaded = source.read()
    assert world.bundle().content == data
    # A policy of it is shown, also as YAML.
    headers = {**ADMIN, "Accept": "application/yaml"}
    shown = world.ask("GET", "/admin/policies/a", headers=headers)
    assert (shown.status_code, shown.content) == (200, policy("a", "read:7"))
    assert world.ask("GET", "/admin/policies/a", headers=ADMIN).json()["file"] == "a.yaml"
