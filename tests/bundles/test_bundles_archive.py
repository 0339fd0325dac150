"""Archives that are read, as programs write them, and archives that are refused, by name."""

import gzip
import io
import os
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.bundles import archive, inflating, tar_members
from authz.bundles.archive import unpack
from authz.bundles.errors import BundleError, Reason
from authz.core.policy_file import MAX_FILE
from tests.bundles.tars import END, GNU, header, member, packed, pax, record

LONG: Final = "deep/" + "n" * 150 + ".yaml"
FILES: Final = {"a.yaml": b"name: a\n", "sub/b.yml": b"name: b\n", "sub/ü ß.yaml": b"", LONG: b"l"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("policies")
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize("layout", ["gnu", "oldgnu", "posix"])
def test_what_the_seeds_tar_writes_is_read(layout: str, directory: Path, tmp_path: Path) -> None:
    output = tmp_path / "policies.tar.gz"
    command = ["tar", "czf", str(output), f"--format={layout}", "-C", f"{directory}/", "."]
    subprocess.run(command, check=True, timeout=30)
    contents = unpack(output.read_bytes())
    assert contents.manifest is None
    assert contents.files == dict(sorted(FILES.items()))


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read(layout: int, directory: Path) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz", format=layout) as output:
        output.add(directory, arcname=".")
    assert unpack(written.getvalue()).files == FILES


def test_what_others_write_around_plain_files_is_read() -> None:
    # bsdtar: attributes in extended headers. git archive: a global header with the commit.
    # A large owner, as OpenShift has them, which GNU tar writes in binary.
    owned = bytearray(member(b"b.yaml", b"b", magic=GNU))
    owned[108:116] = b"\x80\0\0\0\x3b\x9a\xca\0"
    owned[148:156] = b" " * 8
    owned[148:156] = b"%06o\0 " % sum(owned[:512])
    data = packed(
        pax(b"g", comment="0" * 40),
        pax(mtime="1.5", LIBARCHIVE__creationtime="1", SCHILY__xattr__user__x="\x01"),
        member(b"a.yaml", b"a"),
        bytes(owned),
        member(b"././@LongLink", f"{LONG}\0".encode(), b"L", magic=GNU),
        member(LONG.encode()[:100], b"l", magic=GNU),
    )
    assert unpack(data).files == {"a.yaml": b"a", "b.yaml": b"b", LONG: b"l"}


def test_files_are_sorted_and_cannot_be_changed() -> None:
    contents = unpack(packed(member(b"b.yaml"), member(b"a.yaml")))
    assert list(contents.files) == ["a.yaml", "b.yaml"]
    with pytest.raises(TypeError):
        contents.files["c.yaml"] = b""  # type: ignore[index]


GOOD: Final = member(b"a.yaml", b"name: a\n")

#: What an archive has, and what is said of it.
HOSTILE: Final[dict[str, tuple[bytes, str]]] = {
    "a symbolic link": (packed(member(b"./x", kind=b"2", link=b"/etc/passwd")),
                        "./x: is a symbolic link"),
    "a hard link": (packed(member(b"x", kind=b"1", link=b"a.yaml")), "x: is a hard link"),
    "a character device": (packed(member(b"tty", kind=b"3")), "tty: is a character device"),
    "a block device": (packed(member(b"sda", kind=b"4")), "sda: is a block device"),
    "a fifo": (packed(member(b"pipe", kind=b"6")), "pipe: is a fifo"),
    "a sparse file": (packed(member(b"s", kind=b"S", magic=GNU)), "s: is a sparse file"),
    "a sparse file of pax": (packed(pax(GNU__sparse__major="1"), GOOD), "sets GNU.sparse.major"),
    "a long link": (packed(member(b"L", b"to\0", b"K", magic=GNU)), "is a link with a long name"),
    "a volume": (packed(member(b"v", kind=b"V", magic=GNU)), "v: is a volume label"),
    "an unknown type": (packed(member(b"q", kind=b"q")), "q: is of type 'q'"),
    "an absolute name": (packed(member(b"/etc/x.yaml")), "/etc/x.yaml: is an absolute path"),
    "a name above": (packed(member(b"../x.yaml")), "../x.yaml: has `..`"),
    "a name above, inside": (packed(member(b"./a/../../x.yaml")), "has `..` in its name"),
    "a directory above": (packed(member(b"../", kind=b"5")), "..: has `..`"),
    "an absolute name by pax": (packed(pax(path="/x.yaml"), GOOD), "/x.yaml: is an absolute"),
    "a name above by GNU": (packed(member(b"L", b"../x\0", b"L", magic=GNU), GOOD), "has `..`"),
    "a prefix above": (packed(member(b"x.yaml", prefix=b"..")), "../x.yaml: has `..`"),
    "an empty part": (packed(member(b"a//b.yaml")), "a//b.yaml: has an empty part"),
    "a dot inside": (packed(member(b"a/./b.yaml")), "a/./b.yaml: has an empty part or `.`"),
    "dots in a row": (packed(member(b"././b.yaml")), "has an empty part or `.`"),
    "no name": (packed(member(b"")), "has an empty part"),
    "a backslash": (packed(member(b"a\\b.yaml")), "a\\b.yaml: has a backslash"),
    "a line break": (packed(member(b"a\nb.yaml")), "a\\nb.yaml: has characters"),
    "a text that runs backwards": (packed(member("a\u202elmay".encode())), "not printable"),
    "no UTF-8": (packed(member(b"\xff.yaml")), "not UTF-8: b'\\xff.yaml'"),
    "no UTF-8 by GNU": (packed(member(b"L", b"\xff\0", b"L", magic=GNU), GOOD), "not UTF-8"),
    "two names in one": (packed(member(b"a.yaml\0../x")), "after the end of its name"),
    "a name too long": (packed(pax(path="/".join(["n" * 100] * 11)), GOOD), "name of over 1024"),
    "a part too long": (packed(pax(path="n" * 256), GOOD), "part of over 255 bytes"),
    "too deep": (packed(member(b"a/" * 16 + b"x.yaml")), "more than 16 directories deep"),
    "twice": (packed(GOOD, GOOD), "a.yaml: is there twice"),
    "twice, differently": (packed(GOOD, member(b"./a.yaml")), "a.yaml: is there twice"),
    "one name by case": (packed(GOOD, member(b"A.YAML")), "A.YAML: is the same name as a.yaml"),
    "one name by form": (
        packed(member("é.yaml".encode()), member("e\u0301.yaml".encode())),
        "is the same name as é.yaml",
    ),
    "below a file": (packed(GOOD, member(b"a.yaml/b.yaml")), "is below a member that is a file"),
    "a file over files": (packed(member(b"a/b.yaml"), member(b"a")), "a: is a file, and a dir"),
    "a file like a directory": (packed(member(b"a/")), "a/: is a file with the name of a dir"),
    "a directory with a size": (packed(member(b"a/", b"x", b"5")), "is a directory that has a si"),
    "two long names": (
        packed(pax(path="b.yaml"), member(b"L", b"c.yaml\0", b"L", magic=GNU), GOOD),
        "member 2 has two long names",
    ),
    "a name twice in one header": (
        packed(
            member(b"P", record("path", "b.yaml") + record("path", "c.yaml"), b"x"),
            GOOD,
        ),
        "member 1 says path twice",
    ),
    "an empty long name": (packed(pax(path=""), GOOD), "empty long name"),
    "a long name without end": (packed(member(b"L", b"b", b"L", magic=GNU), GOOD), "without an e"),
    "a global name": (packed(pax(b"g", path="b.yaml"), GOOD), "sets path"),
    "another size": (packed(pax(size="1"), GOOD), "sets size"),
    "another link": (packed(pax(linkpath="x"), GOOD), "sets linkpath"),
    "another alphabet": (packed(pax(hdrcharset="BINARY"), GOOD), "sets hdrcharset"),
    "an unknown key": (packed(pax(ACME__path="x"), GOOD), "sets ACME.path"),
    "a broken header": (packed(member(b"P", b"99 path=x\n", b"x"), GOOD), "cannot be read"),
    "one that says nothing": (packed(member(b"P", b"path=x\n", b"x"), GOOD), "cannot be read"),
    "a negative length": (packed(member(b"P", b"-9 path=x\n", b"x"), GOOD), "cannot be read"),
    "a large extended header": (packed(member(b"P", bytes(70_000), b"x"), GOOD), "extended header"),
    "a size in binary": (packed(header(b"a", b"\x80" + bytes(11))), "is not octal"),
    "a negative size": (packed(header(b"a", b"\xff" * 12)), "is not octal"),
    "a size with a sign": (packed(header(b"a", b"-0000000001")), "is not octal"),
    "a wrong checksum": (packed(header(b"a", checksum=b"000000\0 ")), "checksum is wrong"),
    "no tar": (gzip.compress(b"<html>" * 500), "no header of a POSIX or GNU tar"),
    "an old header": (packed(header(b"a", magic=b"\0" * 8)), "no header of a POSIX or GNU tar"),
    "a long name and no file": (packed(pax(path="b.yaml")), "ends after a long name"),
    "no end": (packed(GOOD, end=b""), "the archive is cut off"),
    "half an end": (packed(GOOD, end=bytes(512)), "one block of zeros"),
    "a file cut off": (gzip.compress(GOOD[:515]), "a.yaml: is cut off"),
    "something after the end": (packed(GOOD, end=END + GOOD), "after the end of the tar archive"),
    "a second gzip member": (packed(GOOD) + packed(GOOD), "bytes after the end of the gzip"),
    "zeros after gzip": (packed(GOOD) + bytes(9), "there are 9 bytes after the end"),
    "no gzip": (b"<html>", "not a gzip file"),
    "nothing": (b"", "not a gzip file"),
    "gzip cut off": (packed(GOOD)[:-1], "the gzip file is cut off"),
    "gzip without its trailer": (packed(GOOD)[:-8], "the gzip file is cut off"),
    "a wrong CRC": (packed(GOOD)[:-8] + b"\0\0\0\0" + packed(GOOD)[-4:], "is damaged"),
    "a wrong length": (packed(GOOD)[:-4] + b"\0\0\0\0", "is damaged"),
    "a name like the manifest": (packed(member(b".Manifest.json")), "could be taken for .manif"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_bundle_has_is_refused_by_name(what: str) -> None:
    data, said = HOSTILE[what]
    with pytest.raises(BundleError) as caught:
        unpack(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.reason in (Reason.ARCHIVE, Reason.SIZE)


def test_a_manifest_must_come_first() -> None:
    with pytest.raises(BundleError, match="not the first file"):
        unpack(packed(GOOD, member(b".manifest.json", b"{}")))


class Counted:
    """How much was ever decompressed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = zlib.decompressobj

        def counting(wbits: int) -> object:
            inner = real(wbits)
            outer = self

            class Decompressor:
                def decompress(self, data: bytes, most: int) -> bytes:
                    more = inner.decompress(data, most)
                    outer.bytes += len(more)
                    return more

                def __getattr__(self, name: str) -> object:
                    return getattr(inner, name)

            return Decompressor()

        monkeypatch.setattr(zlib, "decompressobj", counting)


def test_a_bomb_costs_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(member(b"a.yaml", bytes(MAX_FILE)) + bytes(200 << 20), compresslevel=1)
    counted = Counted(monkeypatch)
    with pytest.raises(BundleError, match="the content is larger than") as caught:
        unpack(bomb)
    assert caught.value.reason is Reason.SIZE
    assert counted.bytes <= inflating.MAX_CONTENT + (64 << 10)


def test_a_small_file_of_zeros_is_a_bomb_by_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(8 << 20))
    counted = Counted(monkeypatch)
    files = b"".join(member(b"%d.yaml" % n, bytes(500_000)) for n in range(16))
    with pytest.raises(BundleError, match="more than a bundle of this size may hold"):
        unpack(gzip.compress(files + END))
    assert counted.bytes <= inflating.MAX_RATIO * len(bomb) * 2


def test_a_large_file_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    with pytest.raises(BundleError, match=f"x: has {7 << 30} bytes, and a file may have") as caught:
        unpack(packed(header(b"x", b"%011o" % (7 << 30)), os.urandom(200_000)))
    assert caught.value.reason is Reason.SIZE
    assert counted.bytes <= 64 << 10
    with pytest.raises(BundleError, match=r"a\.yaml: has 1048577 bytes, and a file may have"):
        unpack(packed(member(b"a.yaml", os.urandom(MAX_FILE + 1))))


def test_members_and_packed_bytes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_MEMBERS", 3)
    with pytest.raises(BundleError, match="more than 3 members"):
        unpack(packed(*(member(b"%d.yaml" % n) for n in range(4))))
    with pytest.raises(BundleError, match="larger than 8388608 bytes") as caught:
        unpack(bytes(archive.MAX_BUNDLE + 1))
    assert caught.value.reason is Reason.SIZE


#: An archive with everything that is read, and where its headers are.
RICH: Final = b"".join(
    (
        pax(b"g", comment="0" * 40),
        member(b"./", kind=b"5"),
        pax(mtime="1.5"),
        member(b"a.yaml", b"a"),
        member(b"L", f"{LONG}\0".encode(), b"L", magic=GNU),
        member(LONG.encode()[:100], b"l" * 600, magic=GNU),
        pax(path="ü.yaml"),
        member(b"u", b"u"),
        member(b"x.yaml", b"p", prefix=b"pre/fix"),
    )
)


def _headers() -> Iterator[int]:
    at = 0
    while at < len(RICH):
        yield at
        size = int(RICH[at + 124 : at + 135], 8)
        at += 512 - (-size // 512) * 512


HEADERS: Final = list(_headers())
#: Zeros and blanks, what names and numbers are made of, and what is neither.
TELLING: Final = (0, 0x20, 0x2E, 0x2F, 0x30, 0x31, 0x35, 0x37, 0x78, 0x80, 0xFF)


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(HEADERS), st.integers(0, 1023),
            st.sampled_from(TELLING) | st.integers(0, 255),
        ),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_what_is_read_is_what_python_reads(changes: list[tuple[int, int, int]]) -> None:
    """An archive that two programs read in two ways is refused, whatever its bytes."""
    tar = bytearray(RICH + END)
    for header_at, offset, byte in changes:
        tar[header_at + offset] = byte
    for at in HEADERS:
        tar[at + 148 : at + 156] = b" " * 8
        tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])
    try:
        found = unpack(gzip.compress(tar, 1))
    except BundleError:
        return
    with tarfile.open(fileobj=io.BytesIO(tar)) as archived:
        files = {one.name: archived.extractfile(one) for one in archived if not one.isdir()}
        read = {name: stream.read() for name, stream in files.items() if stream is not None}
    assert {name.removeprefix("./"): content for name, content in read.items()} == found.files
