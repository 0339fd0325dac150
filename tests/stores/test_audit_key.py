"""The key file: made once, whole, for nobody else to read, and never replaced."""

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from authz.stores.audit_key import (
    KeyUnusable,
    SigningKey,
    default_key_file,
    export_public,
    public_file,
    public_key,
    signing_key,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "audit.db.key"


def test_a_key_is_made_where_there_is_none(path: Path) -> None:
    key = signing_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert signing_key(path).key_id == key.key_id
    assert not key.exposed


def test_what_it_signs_its_public_half_verifies(path: Path) -> None:
    key = signing_key(path)
    export_public(public_file(path), key)
    assert public_file(path) == path.with_name("audit.db.pub")
    assert stat.S_IMODE(public_file(path).stat().st_mode) == 0o644
    public = public_key(public_file(path))
    assert (public.key_id, len(public.key_id)) == (key.key_id, 16)
    signature = key.sign(b"said")
    assert public.fits(signature, b"said")
    assert not public.fits(signature, b"other")
    assert not public.fits(signature[:-1], b"said")


def test_openssl_reads_both_halves(path: Path) -> None:
    export_public(public_file(path), signing_key(path))
    derived = subprocess.run(
        ["openssl", "pkey", "-in", str(path), "-pubout"], capture_output=True, check=True
    )
    assert derived.stdout == public_file(path).read_bytes()


def test_where_the_files_lie() -> None:
    assert default_key_file(Path("data/audit.db")) == Path("data/audit.db.key")
    assert public_file(Path("data/audit.db.key")) == Path("data/audit.db.pub")
    assert public_file(Path("/secrets/audit")) == Path("/secrets/audit.pub")


def test_of_many_that_start_together_all_use_the_same_key(path: Path) -> None:
    found: list[SigningKey] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        found.append(signing_key(path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({key.key_id for key in found}) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_system_without_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    key = signing_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_key(path).key_id == key.key_id


_NOT_A_KEY = "not an Ed25519 private key in PEM, without a password"


@pytest.mark.parametrize("content", [b"", b"\n", b"-----BEGIN PRIVATE KEY-----\n", b"x" * 100_000])
def test_what_is_no_key_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(KeyUnusable) as raised:
        signing_key(path)
    assert str(raised.value) == f"{path}: {_NOT_A_KEY}"
    assert path.read_bytes() == content


@pytest.mark.parametrize("arguments", [
    ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ["genpkey", "-algorithm", "ED25519", "-aes256", "-pass", "pass:secret"],
])  # fmt: skip
def test_a_key_of_another_kind_is_refused(path: Path, arguments: list[str]) -> None:
    path.parent.mkdir()
    subprocess.run(["openssl", *arguments, "-out", str(path)], check=True, capture_output=True)
    with pytest.raises(KeyUnusable, match=_NOT_A_KEY):
        signing_key(path)


def test_what_is_no_file_is_a_sentence(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(KeyUnusable, match=f"^{path}: cannot be read: Is a directory"):
        signing_key(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(KeyUnusable, match=f"^{path}: not a regular file"):
        signing_key(path)
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    with pytest.raises(KeyUnusable, match=f"^{path}: cannot be read: Not a directory"):
        signing_key(path)


def test_a_key_that_everybody_can_read_is_said(path: Path) -> None:
    signing_key(path)
    path.chmod(0o644)
    assert signing_key(path).exposed


def test_a_public_half_that_cannot_be_written_is_a_sentence(path: Path) -> None:
    key = signing_key(path)
    where = path.parent / "none" / "a.pub"
    with pytest.raises(KeyUnusable, match=f"^{where}: the public key cannot be written there: No"):
        export_public(where, key)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"private"])
def test_what_is_no_public_key_is_a_sentence(path: Path, content: bytes) -> None:
    signing_key(path)
    file = path.with_name("x.pub")
    file.write_bytes(path.read_bytes() if content == b"private" else content)
    with pytest.raises(KeyUnusable) as raised:
        public_key(file)
    assert str(raised.value) == f"{file}: not an Ed25519 public key in PEM"
    with pytest.raises(KeyUnusable, match="there is no such file"):
        public_key(path.with_name("none.pub"))
