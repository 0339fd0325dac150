"""`authz bundle`: each command and option, what is printed, and how each ends (CONTRACT §14)."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from authz.bundles.archive import unpack
from authz.bundles.cosign_key import encrypted
from authz.bundles.kinds import Algorithm
from authz.cli import app
from authz.stores.policies import load_paths
from tests.bundles.keys import private
from tests.bundles.tars import member, packed

POLICY: Final = """\
name: reader
version: "1"
appliesTo: {tags: [docs]}
defaultEffect: deny
rules:
  - {effect: allow, actions: ["read:*"]}
"""
PASSWORD: Final = "correct horse"


@pytest.fixture(scope="module")
def key_text() -> bytes:
    return encrypted(private(), PASSWORD.encode())


@pytest.fixture(autouse=True)
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_text: bytes) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    for name in ("SOURCE_DATE_EPOCH", "ADMIN_TOKEN", "MESHGUARD_OUTPUT_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "policies" / "team").mkdir(parents=True)
    (tmp_path / "policies" / "reader.yaml").write_text(POLICY)
    (tmp_path / "policies" / "team" / "writer.yml").write_text(POLICY.replace("read", "writ"))
    (tmp_path / "cosign.key").write_bytes(key_text)
    (tmp_path / "cosign.pub").write_bytes(private().public)
    (tmp_path / "other.pub").write_bytes(private(number=1).public)
    return tmp_path


def run(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    done = CliRunner().invoke(app, ["bundle", *arguments], input=typed)
    assert done.exit_code == code, done.output
    assert PASSWORD not in done.output
    return done.output


def said(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["bundle", *arguments, "--json"])
    assert done.exit_code == code, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def built(*options: str) -> Path:
    run("build", "policies", "-o", "p.tar.gz", *(options or ("--version", "7")))
    return Path("p.tar.gz")


# ---------------------------------------------------------------- build


def test_a_directory_is_built_signed_and_verified() -> None:
    assert "p.tar.gz: version 7, 2 files," in run(
        "build", "policies", "-o", "p.tar.gz", "--version", "7"
    )
    assert f"p.tar.gz.sig: by key {private().key_id[:16]}" in run(
        "sign", "p.tar.gz", "--key", "cosign.key"
    )
    output = run("verify", "p.tar.gz", "--key", "cosign.pub")
    assert "the bundle verifies\n" in output
    assert f"signed by key {private().key_id[:16]}" in output
    # Others are to read them, a container's user as well.
    for name in ("p.tar.gz", "p.tar.gz.sig"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o644


def test_a_build_is_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1780000000")
    first = built("--version", "7", "--not-after", "30d", "--revision", "abc").read_bytes()
    for path in Path("policies").rglob("*"):
        os.utime(path, (1, 1))
    again = built("--version", "7", "--not-after", "30d", "--revision", "abc").read_bytes()
    assert again == first
    manifest = unpack(first).manifest
    assert manifest is not None
    assert (manifest.created, manifest.not_after) == (1_780_000_000, 1_780_000_000 + 30 * 86_400)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    options = ("--created", "2026-05-28T20:26:40Z", "--not-after", "2026-06-27T20:26:40Z")
    assert built("--version", "7", *options, "--revision", "abc").read_bytes() == first


def test_without_a_time_it_is_now() -> None:
    manifest = unpack(built().read_bytes()).manifest
    assert manifest is not None
    assert abs(manifest.created - time.time()) < 60


def test_what_is_built_says_so_in_json() -> None:
    answer = said("build", "policies", "-o", "p.tar.gz", "--version", "7")
    assert answer["manifest"]["version"] == 7
    assert (answer["files"], answer["errors"], answer["bytes"]) == (
        2, 0, Path("p.tar.gz").stat().st_size,
    )  # fmt: skip


def test_a_plain_one_has_no_manifest() -> None:
    contents = unpack(built("--plain").read_bytes())
    assert contents.manifest is None
    assert set(contents.files) == {"reader.yaml", "team/writer.yml"}


def test_what_is_extracted_is_what_was_there(tmp_path: Path) -> None:
    built()
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "xzf", "p.tar.gz", "-C", "there"], check=True, timeout=30)
    there, here = (load_paths([tmp_path / name]) for name in ("there", "policies"))
    assert there.snapshot.version == here.snapshot.version


def test_other_files_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "policies" / "README.md").write_text("x")
    (tmp_path / "policies" / ".git").mkdir()
    (tmp_path / "policies" / ".git" / "config").write_text("x")
    output = run("build", "policies", "-o", "p.tar.gz", "--version", "7")
    assert "authz: left out, as they are no policies: README.md\n" in output
    assert set(unpack(Path("p.tar.gz").read_bytes()).files) == {"reader.yaml", "team/writer.yml"}


def test_a_mounted_config_map_is_built_as_it_is_read(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    (mount / "..1").mkdir(parents=True)
    (mount / "..1" / "a.yaml").write_text(POLICY)
    (mount / "..data").symlink_to("..1")
    (mount / "a.yaml").symlink_to("..data/a.yaml")
    run("build", "mount", "-o", "p.tar.gz", "--version", "1")
    assert unpack(Path("p.tar.gz").read_bytes()).files == {"a.yaml": POLICY.encode()}


def test_errors_stop_a_build_unless_it_is_forced(tmp_path: Path) -> None:
    (tmp_path / "policies" / "bad.yaml").write_text(POLICY.replace("allow", "allwo"))
    output = run("build", "policies", "-o", "p.tar.gz", "--version", "7", code=1)
    assert "policies/bad.yaml:6:" in output
    assert "nothing is built; --force builds it" in output
    assert not Path("p.tar.gz").exists()
    run("build", "policies", "-o", "p.tar.gz", "--version", "7", "--force")
    assert "bad.yaml" in unpack(Path("p.tar.gz").read_bytes()).files


def test_two_policies_of_one_name_stop_a_build(tmp_path: Path) -> None:
    (tmp_path / "policies" / "again.yaml").write_text(POLICY)
    assert "reader" in run("build", "policies", "-o", "p.tar.gz", "--version", "7", code=1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "--version: say which version it is"),
        (("--version", "0"), "--version: say which version it is"),
        (("--version", str(2**53)), "--version: say which version it is, from 1 to 9007"),
        (("--version", "7", "--plain"), "--plain: --version, --not-after and --revision"),
        (("--version", "7", "--not-after", "soon"), "--not-after: not a duration"),
        (("--version", "7", "--not-after", "2d", "--created", "x"), "--created: not a time"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: tuple[str, ...], sentence: str) -> None:
    output = run("build", "policies", "-o", "p.tar.gz", *options, code=2)
    assert sentence in output
    assert not Path("p.tar.gz").exists()


@pytest.mark.parametrize("epoch", ["soon", "-1", "9" * 20])
def test_an_epoch_that_is_none_is_named(epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    output = run("build", "policies", "-o", "p.tar.gz", "--version", "7", code=2)
    assert "SOURCE_DATE_EPOCH: not a number of seconds since 1970" in output


def test_a_time_that_has_passed_before_it_is_built_is_refused() -> None:
    output = run(
        "build", "policies", "-o", "p.tar.gz", "--version", "7", "--not-after", "2020-01-01", code=2
    )
    assert "--not-after: it must be later than --created" in output


def test_a_directory_without_policies_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no policy in it" in run(
        "build", "empty", "-o", "p.tar.gz", "--version", "7", code=2
    )
    assert "there is no such directory" in run(
        "build", "nowhere", "-o", "p.tar.gz", "--version", "7", code=2
    )


# ---------------------------------------------------------------- sign


def test_a_sigstore_bundle_is_written_and_verified() -> None:
    built()
    run("sign", "p.tar.gz", "--key", "cosign.key", "--format", "bundle")
    name = "p.tar.gz.sigstore.json"
    assert said("verify", "p.tar.gz", "--key", "cosign.pub", "--signature", name)["verified"]
    shown = said("inspect", "p.tar.gz", "--signature", name)["signature"]
    assert (shown["form"], shown["key"]) == ("sigstore bundle", private().key_id)


def test_a_second_key_signs_in_a_line_of_its_own(tmp_path: Path) -> None:
    built()
    new = private(Algorithm.ED25519)
    (tmp_path / "new.key").write_bytes(encrypted(new, PASSWORD.encode()))
    (tmp_path / "new.pub").write_bytes(new.public)
    run("sign", "p.tar.gz", "--key", "cosign.key")
    answer = said("sign", "p.tar.gz", "--key", "new.key", "--append")
    assert (answer["key"], answer["algorithm"]) == (new.key_id, "ed25519")
    for name in ("cosign.pub", "new.pub"):
        run("verify", "p.tar.gz", "--key", name)
    assert "2 of base64, by a key that is not named" in run("inspect", "p.tar.gz")


def test_the_password_comes_from_a_pipe_as_cosign_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    monkeypatch.delenv("COSIGN_PASSWORD")
    run("sign", "p.tar.gz", "--key", "cosign.key", typed=f"{PASSWORD}\n")
    output = run("sign", "p.tar.gz", "--key", "cosign.key", typed="wrong\n", code=2)
    assert "--key: cosign.key: the password is wrong, or the file is damaged" in output
    output = run("sign", "p.tar.gz", "--key", "cosign.key", typed="", code=2)
    assert "--key: cosign.key: it is encrypted, and no password was given" in output


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--key", "cosign.pub"), 2, "the public key, which verifies"),
        (("--key", "nowhere.key"), 2, "--key: nowhere.key cannot be read: No such file"),
        (("--key", "policies"), 2, "--key: policies cannot be read: Is a directory"),
        (("--key", "cosign.key", "--append", "--format", "bundle"), 2, "has one signature"),
        (("--key", "cosign.key", "--append"), 2, "--append: p.tar.gz.sig cannot be read"),
    ],
)
def test_what_cannot_sign_is_named(options: tuple[str, ...], code: int, sentence: str) -> None:
    built()
    assert sentence in run("sign", "p.tar.gz", *options, code=code)


def test_what_nobody_could_load_is_not_signed() -> None:
    Path("p.tar.gz").write_bytes(packed(member(b"../x.yaml")))
    output = run("sign", "p.tar.gz", "--key", "cosign.key", code=1)
    assert "p.tar.gz: ../x.yaml: has `..` in its name" in output
    assert not Path("p.tar.gz.sig").exists()


# ---------------------------------------------------------------- verify


def test_keys_are_read_from_a_directory(tmp_path: Path) -> None:
    built()
    run("sign", "p.tar.gz", "--key", "cosign.key")
    (tmp_path / "keys").mkdir()
    assert "--key: keys has no file *.pub or *.pem" in run(
        "verify", "p.tar.gz", "--key", "keys", code=2
    )
    for name in ("other.pub", "cosign.pub"):
        Path(name).rename(tmp_path / "keys" / name)
    run("verify", "p.tar.gz", "--key", "keys")


def test_what_does_not_verify_says_why_in_json_too() -> None:
    built()
    assert "has no signature" in run("verify", "p.tar.gz", "--key", "cosign.pub", code=1)
    run("sign", "p.tar.gz", "--key", "cosign.key")
    answer = said("verify", "p.tar.gz", "--key", "other.pub", code=1)
    assert (answer["verified"], answer["reason"]) == (False, "signature")
    assert "by a key that is known" in answer["error"]


def test_a_version_below_the_floor_is_refused() -> None:
    built()
    run("sign", "p.tar.gz", "--key", "cosign.key")
    for floor in ("6", "7"):
        run("verify", "p.tar.gz", "--key", "cosign.pub", "--floor", floor)
    answer = said("verify", "p.tar.gz", "--key", "cosign.pub", "--floor", "8", code=1)
    assert answer["reason"] == "floor"


def test_the_seeds_own_archive_verifies_with_a_warning() -> None:
    command = ["tar", "czf", "p.tar.gz", "-C", "policies/", "."]
    subprocess.run(command, check=True, timeout=30)
    run("sign", "p.tar.gz", "--key", "cosign.key")
    output = run("verify", "p.tar.gz", "--key", "cosign.pub")
    assert "authz: the bundle has no manifest: an older one that was signed is taken" in output
    answer = said("verify", "p.tar.gz", "--key", "cosign.pub", "--floor", "1", code=1)
    assert answer["reason"] == "no_manifest"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--created", "2999-01-01T00:00:00Z"), "created"),
        (("--created", "2020-01-01T00:00:00Z", "--not-after", "1d"), "expired"),
    ],
)
def test_a_bundle_of_another_time_is_refused(options: tuple[str, ...], reason: str) -> None:
    built("--version", "7", *options)
    run("sign", "p.tar.gz", "--key", "cosign.key")
    assert said("verify", "p.tar.gz", "--key", "cosign.pub", code=1)["reason"] == reason


def test_a_good_bundle_of_bad_policies_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policies" / "bad.yaml").write_text(POLICY.replace("allow", "allwo"))
    built("--version", "7", "--force")
    run("sign", "p.tar.gz", "--key", "cosign.key")
    output = run("verify", "p.tar.gz", "--key", "cosign.pub", code=1)
    assert "p.tar.gz!bad.yaml:6:" in output
    assert "p.tar.gz: 1 error in its policies" in output
    Path("p.tar.gz").write_bytes(packed(member(b"README.md", b"x")))
    run("sign", "p.tar.gz", "--key", "cosign.key")
    answer = said("verify", "p.tar.gz", "--key", "cosign.pub", code=1)
    assert (answer["reason"], answer["error"]) == ("policies", "there is no policy in it")


def test_arguments_that_cannot_be_used_end_it_with_2() -> None:
    assert "p.tar.gz cannot be read: No such file" in run(
        "verify", "p.tar.gz", "--key", "cosign.pub", code=2
    )
    built()
    assert "--key: cosign.key: a private key" in run(
        "verify", "p.tar.gz", "--key", "cosign.key", code=2
    )
    assert "--signature: nowhere cannot be read" in run(
        "verify", "p.tar.gz", "--key", "cosign.pub", "--signature", "nowhere", code=2
    )


# ---------------------------------------------------------------- inspect


def test_what_is_in_it_is_shown_without_a_key() -> None:
    built("--version", "7", "--created", "2020-01-01T00:00:00Z", "--not-after", "1d")
    output = run("inspect", "p.tar.gz")
    assert "version    7\n" in output
    assert "signature  none\n" in output
    assert "team/writer.yml" in output
    assert "nothing was verified" in output
    answer = said("inspect", "p.tar.gz")
    assert answer["signature"] is None
    assert [one["name"] for one in answer["files"]] == ["reader.yaml", "team/writer.yml"]
    built("--plain")
    assert "manifest   none, so there is no version\n" in run("inspect", "p.tar.gz")


def test_what_is_no_bundle_is_not_shown() -> None:
    Path("p.tar.gz").write_text("<html>")
    assert "p.tar.gz: not a gzip file" in run("inspect", "p.tar.gz", code=1)
    os.mkfifo("pipe")
    assert "pipe is not a regular file" in run("inspect", "pipe", code=2)


# ---------------------------------------------------------------- keygen


def test_a_pair_is_made_and_never_replaced_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = said("keygen", "-o", "new", "--algorithm", "ed25519")
    assert answer["algorithm"] == "ed25519"
    assert stat.S_IMODE(Path("new.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("new.pub").stat().st_mode) == 0o644
    built()
    run("sign", "p.tar.gz", "--key", "new.key")
    run("verify", "p.tar.gz", "--key", "new.pub")
    before = Path("new.key").read_bytes()
    output = run("keygen", "-o", "new", code=2)
    assert "new.key is there; --force replaces it" in output
    assert Path("new.key").read_bytes() == before
    monkeypatch.delenv("COSIGN_PASSWORD")
    assert "is encrypted with an empty password" in run("keygen", "-o", "new", "--force")


def test_a_command_line_is_read_without_cryptography() -> None:
    code = "import sys, authz.cli; print({'cryptography', 'nacl', 'jwt'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "set()\n"
