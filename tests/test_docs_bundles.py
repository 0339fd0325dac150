"""docs/bundles.md says what is so: its commands are run in order, and what it shows is what comes.

- Digests and names of keys are made anew each time: any other hexadecimal digits of the same length
  will do. `...` on a line of its own stands for any lines.
- The seed's commands are run by a shell as they stand, with `openssl` in the place of cosign and
  directories of the test in the place of a pod's.
"""

import hashlib
import json
import re
import shlex
import subprocess
import textwrap
from pathlib import Path
from typing import Final

import pytest
import yaml
from pydantic import AliasChoices
from typer.testing import CliRunner

from authz.bundles import archive, inflating, manifest
from authz.bundles.accept import LEEWAY_S
from authz.bundles.errors import Reason
from authz.cli import app
from authz.cli.bundle.verify import POLICIES
from authz.core.policy_file import MAX_FILE
from authz.settings import Settings

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "docs/bundles.md").read_text()
POLICY: Final = """\
name: {name}
version: "1"
appliesTo: {{tags: [docs]}}
rules:
  - effect: allow
    actions: ["{verb}:*"]
defaultEffect: deny
"""
#: What the page's `cosign` does, by another program than ours: base64 of OpenSSL's signature.
COSIGN: Final = """\
#!/bin/sh -e
case "$1" in
sign-blob) openssl dgst -sha256 -sign "$3" "$4" | base64 -w0; echo;;
verify-blob) base64 -d "$5" > raw.sig; openssl dgst -sha256 -verify "$3" -signature raw.sig "$6";;
esac
"""


def _blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def test_every_block_is_of_a_kind_that_is_looked_at() -> None:
    kinds = ("console", "sh", "yaml", "json", "ini")
    assert TEXT.count("```") == 2 * sum(len(_blocks(kind)) for kind in kinds)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSIGN_PASSWORD", "of the page")
    for name in ("SOURCE_DATE_EPOCH", "ADMIN_TOKEN", "MESHGUARD_OUTPUT_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    for name, verb in (("reader", "read"), ("team/writer", "write")):
        path = tmp_path / "policies" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(POLICY.format(name=path.stem, verb=verb))
    return tmp_path


def _shows(shown: str, printed: str) -> bool:
    def line(text: str) -> str:
        if text == "...":
            return r"(?:.*\n)*"
        said = re.sub(r"\b[0-9a-f]{16,64}\b", lambda m: f"<{len(m[0])}>", text)
        pattern = re.escape(said).replace(r"600\ bytes", r"\d+\ bytes")
        return re.sub(r"<(\d+)>", r"[0-9a-f]{\1}", pattern) + r"[ ]*\n"

    return re.fullmatch("".join(map(line, shown.splitlines())), printed) is not None


def test_its_commands_print_what_is_shown(workshop: Path) -> None:
    count = 0
    for block in _blocks("console"):
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = piece.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "authz"
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{command}\n{done.output}"
            assert _shows(shown, done.output), f"{command}\n{done.output}"
            count += 1
    assert count > 10


def _shell(workshop: Path, script: str) -> None:
    cosign = workshop / "bin" / "cosign"
    cosign.parent.mkdir(exist_ok=True)
    cosign.write_text(COSIGN)
    cosign.chmod(0o755)
    there = {"/policies/": "there/", "/keys/": "keys/", "/bundle/": "bundle/"}
    for path, instead in there.items():
        (workshop / instead).mkdir(exist_ok=True)
        script = re.sub(rf"(?<= ){path}", f"{workshop}/{instead}", script)
    subprocess.run(
        ["/bin/sh", "-ec", script], check=True, cwd=workshop, capture_output=True, timeout=60,
        env={"PATH": f"{cosign.parent}:/usr/bin:/bin"},
    )  # fmt: skip


def _keys(workshop: Path) -> None:
    """A pair that OpenSSL can read, as cosign's own it cannot."""
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*make, "-out", "cosign.key"], check=True, cwd=workshop, timeout=30)
    public = ["openssl", "pkey", "-in", "cosign.key", "-pubout", "-out", "cosign.pub"]
    subprocess.run(public, check=True, cwd=workshop, timeout=30)


def _extracted(workshop: Path) -> dict[str, bytes]:
    there = workshop / "there"
    return {str(p.relative_to(there)): p.read_bytes() for p in there.rglob("*") if p.is_file()}


def test_the_seeds_commands_work_as_printed(workshop: Path) -> None:
    _keys(workshop)
    [script] = _blocks("sh")
    _shell(workshop, script)
    data = (workshop / "policies.tar.gz").read_bytes()
    assert _extracted(workshop) == archive.unpack(data).files
    # What that made is taken here, and what is made here by that.
    verify = ["bundle", "verify", "policies.tar.gz", "--key", "cosign.pub"]
    assert "the bundle verifies" in CliRunner().invoke(app, verify).output
    sign = ["bundle", "sign", "policies.tar.gz", "--key", "cosign.key"]
    assert CliRunner().invoke(app, sign).exit_code == 0
    _shell(workshop, "\n".join(line for line in script.splitlines() if "verify-blob" in line))


def test_the_init_container_verifies_and_extracts(workshop: Path) -> None:
    _keys(workshop)
    [text] = _blocks("yaml")
    [container] = yaml.safe_load(text)["initContainers"]
    [script] = container["args"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == set(re.findall(r" (/[a-z]+)/", script))
    build = ["bundle", "build", "policies", "-o", "policies.tar.gz", "--version", "1"]
    assert CliRunner().invoke(app, build).exit_code == 0
    sign = ["bundle", "sign", "policies.tar.gz", "--key", "cosign.key"]
    assert CliRunner().invoke(app, sign).exit_code == 0
    for name, place in (("cosign.pub", "keys"), ("policies.tar.gz", "bundle"),
                        ("policies.tar.gz.sig", "bundle")):  # fmt: skip
        (workshop / place).mkdir(exist_ok=True)
        (workshop / name).rename(workshop / place / name)
    _shell(workshop, script)
    found = _extracted(workshop)
    assert found.pop(manifest.NAME)
    assert set(found) == {"reader.yaml", "team/writer.yaml"}
    # One byte more, and nothing is extracted.
    with (workshop / "bundle" / "policies.tar.gz").open("ab") as stream:
        stream.write(b"\0")
    (workshop / "there" / "reader.yaml").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        _shell(workshop, script)
    assert "reader.yaml" not in _extracted(workshop)


def test_its_settings_are_settings_that_a_sidecar_starts_with() -> None:
    [text] = _blocks("ini")
    env = dict(line.split("=", 1) for line in text.splitlines())
    settings = Settings.from_env({"JWT_SECRET": "s" * 32, **env})
    assert settings.require_signed_policies
    named = set(re.findall(r"`(POLIC[A-Z_]+|REQUIRE_[A-Z_]+)`", TEXT))
    aliases = {field.alias for field in Settings.model_fields.values()} | {
        choice
        for field in Settings.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for choice in field.validation_alias.choices
    }
    assert named <= aliases
    assert {"POLICY_BUNDLE", "POLICY_BUNDLE_KEYS", "POLICY_BUNDLE_FLOOR_FILE"} <= named


def test_its_manifest_is_one_and_as_it_is_written() -> None:
    [text] = _blocks("json")
    said = manifest.parse(text.encode())
    assert manifest.dump(said).decode() == text
    assert set(json.loads(text)) == set(manifest._KEYS)


def test_every_reason_is_told_of_with_the_bounds_that_hold() -> None:
    table = TEXT[TEXT.index("| Reason |") :].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert set(rows) == {*Reason, POLICIES}
    assert f"over {archive.MAX_BUNDLE >> 20} MiB" in rows["size"]
    assert f"over {inflating.MAX_CONTENT >> 20} MiB" in rows["size"]
    assert f"{inflating.MAX_RATIO} times" in rows["size"]
    assert f"a file over {MAX_FILE >> 20} MiB" in rows["size"]
    assert f"over {LEEWAY_S // 60} minutes" in rows["created"]


def test_a_key_is_named_as_the_page_says(workshop: Path) -> None:
    assert CliRunner().invoke(app, ["bundle", "keygen"]).exit_code == 0
    [command] = re.findall(r"`(openssl pkey -pubin .*?)`", TEXT, re.DOTALL)
    said = subprocess.run(
        ["/bin/sh", "-c", command], check=True, cwd=workshop, capture_output=True, timeout=30
    )
    key = said.stdout.decode().split()[0]
    assert len(key) == len(hashlib.sha256().hexdigest())
    output = CliRunner().invoke(app, ["bundle", "keygen", "--force", "-o", "x"]).output
    assert key[:16] not in output
    built = ["bundle", "build", "policies", "-o", "p.tar.gz", "--version", "1"]
    assert CliRunner().invoke(app, built).exit_code == 0
    signed = CliRunner().invoke(app, ["bundle", "sign", "p.tar.gz", "--key", "cosign.key"]).output
    assert key[:16] in signed
