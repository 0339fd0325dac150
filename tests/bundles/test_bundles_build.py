"""Bundles that are built: the same bytes each time, complete, and readable by `tar`."""

import dataclasses
import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.bundles import manifest as manifests
from authz.bundles.archive import unpack
from authz.bundles.build import build, build_plain
from authz.bundles.errors import BundleError, Reason
from authz.bundles.manifest import Manifest
from tests.bundles.tars import member, packed

FILES: Final = {
    "b.yaml": b"name: b\n",
    "a.yaml": b"name: a\n" * 100,
    "ü/" + "n" * 200 + ".yaml": b"",
    "d" * 90 + "/" + "e" * 90 + ".yaml": b"e",
}
CREATED: Final = 1_780_000_000
#: SHA-256 of the tar archive of these.
DIGEST: Final = "f9ca37012a8b10abe6fc14fe082c9142ad5922310b31868873ab84b146f30ac7"


def bundle(files: dict[str, bytes] | None = None, **said: Any) -> bytes:
    fields: dict[str, Any] = {"version": 7, "created": CREATED, "revision": "v7"} | said
    return build(FILES if files is None else files, **fields)


def test_the_same_input_is_the_same_bytes_whatever_its_order() -> None:
    data = bundle()
    assert bundle(dict(reversed(FILES.items()))) == data
    assert bundle(created=CREATED + 0.9) == data
    assert bundle(version=8) != data


def test_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "import hashlib, sys; from authz.bundles.build import build;"
        f"print(hashlib.sha256(build({FILES!r}, version=7, created={CREATED}, revision='v7'))"
        ".hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60,
            env={"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }  # fmt: skip
    assert digests == {hashlib.sha256(bundle()).hexdigest() + "\n"}


def test_the_tar_archive_inside_is_the_same_on_every_machine() -> None:
    tar = gzip.decompress(bundle())
    assert hashlib.sha256(tar).hexdigest() == DIGEST
    # No name, no time, no system in the gzip header (RFC 1952 §2.3).
    assert bundle()[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def test_what_is_built_is_what_is_read() -> None:
    contents = unpack(bundle(not_after=CREATED + 60))
    assert contents.files == dict(sorted(FILES.items()))
    digests = {name: hashlib.sha256(FILES[name]).hexdigest() for name in sorted(FILES)}
    assert contents.manifest == Manifest(7, CREATED, CREATED + 60, "v7", digests)
    assert unpack(build_plain(FILES, created=CREATED)).manifest is None


def test_tar_extracts_it(tmp_path: Path) -> None:
    (tmp_path / "policies.tar.gz").write_bytes(bundle())
    (tmp_path / "policies").mkdir()
    command = ["tar", "xzf", "policies.tar.gz", "-C", "policies"]
    done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=30)
    assert done.stderr == b""
    found = {
        str(path.relative_to(tmp_path / "policies")): path.read_bytes()
        for path in (tmp_path / "policies").rglob("*")
        if path.is_file()
    }
    said = json.loads(found.pop(".manifest.json"))
    assert found == FILES
    assert said["created"] == "2026-05-28T20:26:40Z"


NAMES: Final = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\"), min_size=1, max_size=120
)


@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=4).map("/".join), st.binary()))
def test_any_files_are_read_as_they_were_or_refused(files: dict[str, bytes]) -> None:
    try:
        data = build(files, version=1, created=0)
    except BundleError:
        return
    assert unpack(data).files == files


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "there is no file"),
        ({"../a.yaml": b""}, "../a.yaml: has `..`"),
        ({"a.yaml": b"", "A.yaml": b""}, "is the same name as"),
        ({"a.yaml": os.urandom((1 << 20) + 1)}, "a file may have"),
        ({".manifest.json": b"{}"}, ".manifest.json"),
    ],
)
def test_what_could_not_be_read_is_not_built(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(BundleError) as caught:
        bundle(files)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 0}, "`version` must be a whole number from 1"),
        ({"version": 2**53}, "`version` must be a whole number from 1"),
        ({"created": -1}, "`created` must be a time from 1970"),
        ({"not_after": CREATED}, "`notAfter` must be later than `created`"),
        ({"not_after": 1e12}, "`notAfter` must be a time"),
        ({"revision": "x" * 257}, "`revision` must be one line of at most 256"),
        ({"revision": "a\nb"}, "`revision` must be one line"),
    ],
)
def test_a_manifest_that_could_not_be_read_is_not_built(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError) as caught:
        bundle(**fields)
    assert said in str(caught.value)
    assert caught.value.reason is Reason.MANIFEST


GOOD: Final[dict[str, Any]] = {
    "format": 1,
    "version": 7,
    "created": "2026-05-28T20:26:40Z",
    "notAfter": "2026-06-28T20:26:40Z",
    "revision": "",
    "files": {"a.yaml": hashlib.sha256(b"a").hexdigest()},
}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"{", "not JSON from line 1, column 2 on"),
        (b'{"format": 1, "format": 1}', "distinct keys"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "distinct keys"),
        (b"[]", "not one JSON object"),
        ({**GOOD, "format": 2}, "`format` must be 1"),
        ({**GOOD, "format": True}, "`format` must be 1"),
        ({**GOOD, "extra": 1}, "unknown key `extra`"),
        ({**GOOD, "version": "7"}, "`version` must be a whole number"),
        ({**GOOD, "version": True}, "`version` must be a whole number"),
        ({**GOOD, "version": 1.0}, "`version` must be a whole number"),
        ({**GOOD, "created": 1}, "`created` must be a time in UTC"),
        ({**GOOD, "created": "2026-13-01T00:00:00Z"}, "`created` must be a time in UTC"),
        ({**GOOD, "created": "2026-01-01"}, "`created` must be a time in UTC"),
        ({**GOOD, "notAfter": None}, "`notAfter` must be a time in UTC"),
        ({**GOOD, "revision": 1}, "`revision` must be a text"),
        ({**GOOD, "files": []}, "`files` must be an object"),
        ({**GOOD, "files": {"a.yaml": "A" * 64}}, "a.yaml must have a SHA-256"),
        ({**GOOD, "files": {"a.yaml": "0" * 64}}, "a.yaml: has another digest"),
        ({**GOOD, "files": {}}, "a.yaml: is in the archive and not in .manifest.json"),
        (
            {**GOOD, "files": {**GOOD["files"], "b.yaml": "0" * 64}},
            "b.yaml: is in .manifest.json and not in the archive",
        ),
        ({name: GOOD[name] for name in GOOD if name != "version"}, "`version` must"),
        (b" " * (manifests.MAX_MANIFEST + 1), "2097152"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    said: bytes | dict[str, Any], sentence: str
) -> None:
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    with pytest.raises(BundleError) as caught:
        unpack(packed(member(b".manifest.json", text), member(b"a.yaml", b"a")))
    assert sentence in str(caught.value)


def test_a_good_manifest_is_read() -> None:
    text = json.dumps(GOOD).encode()
    contents = unpack(packed(member(b"./.manifest.json", text), member(b"./a.yaml", b"a")))
    assert contents.manifest is not None
    assert manifests.parse(manifests.dump(contents.manifest)) == contents.manifest
    later = dataclasses.replace(contents.manifest, created=CREATED + 0.5)
    assert manifests.parse(manifests.dump(later)) == later
