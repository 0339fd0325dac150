"""The command line, run as a user runs it: output, exit codes, and sentences for mistakes."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from authz import __version__
from authz.cli import envoy
from authz.core.identity import Identity, TokenVerifier
from authz.core.stages import CHAIN
from authz.envoy_config import EnvoyOptions
from authz.settings import Settings, described

ROOT = Path(__file__).parents[1]
SECRET = "s" * 32


def _authz(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "authz", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | env,
        check=False,
    )


def test_a_minted_token_is_all_that_is_printed() -> None:
    arguments = ("--agent", "a-1", "--tier", "trusted", "--tag", "x", "--tag", "y", "--ttl", "1h")
    done = _authz("token", "mint", *arguments, JWT_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    payload = TokenVerifier(SECRET).identify(f"Bearer {done.stdout.strip()}", time.time())
    assert isinstance(payload, Identity)
    assert (payload.agent_id, payload.tier, payload.tags) == ("a-1", "trusted", frozenset("xy"))


def test_a_minted_token_as_json() -> None:
    done = _authz("token", "mint", "--agent", "a", "--json", JWT_SECRET=SECRET)
    assert set(json.loads(done.stdout)) == {"token", "expiresAt"}


def test_a_minted_token_in_a_file_of_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "agent.jwt"
    arguments = ("token", "mint", "--agent", "a-1", "--output", str(file))
    done = _authz(*arguments, JWT_SECRET=SECRET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.stat().st_mode & 0o777 == 0o600
    first = file.read_text()
    assert isinstance(
        TokenVerifier(SECRET).identify(f"Bearer {first.strip()}", time.time()), Identity
    )
    done = _authz(*arguments, JWT_SECRET=SECRET)
    assert done.returncode == 2
    assert done.stderr == f"authz: --output: {file} is there; --force replaces it\n"
    assert file.read_text() == first
    done = _authz(*arguments, "--force", "--ttl", "2h", "--json", JWT_SECRET=SECRET)
    assert (done.returncode, set(json.loads(done.stdout))) == (0, {"expiresAt"})
    assert file.read_text() != first
    assert [path.name for path in tmp_path.iterdir()] == ["agent.jwt"]


def test_secrets_that_are_made_up_are_said_to_be(tmp_path: Path) -> None:
    # So far that it says so, and no further.
    env: dict[str, Any] = {"AUTHZ_RUN_DIR": str(tmp_path), "PORT": "none", "MODE": "none"}
    said = (
        f" not set: made up for trying things out, and kept in {tmp_path}/dev-secrets.json; whoever"
        " can read it can be any agent\n"
    )
    for command in ("run", "serve"):
        done = _authz(command, "--insecure-dev-secrets", **env)
        assert done.returncode == 2
        assert done.stderr.startswith(f"authz: JWT_SECRET and ADMIN_TOKEN{said}")
        done = _authz(command, "--insecure-dev-secrets", JWT_SECRET=SECRET, **env)
        assert done.stderr.startswith(f"authz: ADMIN_TOKEN{said}")
        env_of_both = env | {"JWT_SECRET": SECRET, "ADMIN_TOKEN": SECRET}
        assert "made up" not in _authz(command, "--insecure-dev-secrets", **env_of_both).stderr


def test_an_echo_that_cannot_listen_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = _authz("echo", "--port", port)
    assert done.returncode == 1
    assert done.stderr == (
        f"authz: --host, --port: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )
    assert _authz("echo", "--port", "70000").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "secret", "said"),
    [
        (("--agent", "a"), "", "authz: JWT_SECRET: not set; make one with: openssl rand -hex 32\n"),
        (("--agent", "a", "--ttl", "soon"), SECRET,
         "authz: --ttl: not a duration; write 30s, 15m, 24h or 7d\n"),
        (("--agent", "a", "--tier", "emperor"), SECRET,
         "authz: --tier: unknown tier; write one of unverified, basic, verified, trusted,"
         " privileged\n"),
        (("--agent", ""), SECRET, "authz: the token has no sub claim\n"),
    ],
)  # fmt: skip
def test_a_token_that_cannot_be_minted(arguments: tuple[str, ...], secret: str, said: str) -> None:
    done = _authz("token", "mint", *arguments, JWT_SECRET=secret)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_public_keys_mint_nothing(tmp_path: Path) -> None:
    # It is not even looked at: whoever mints has no use for it.
    file = tmp_path / "jwks.json"
    for secret in ("", " "):
        done = _authz("token", "mint", "--agent", "a", JWKS_FILE=str(file), JWT_SECRET=secret)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "authz: JWT_SECRET: not set, and the keys in JWKS_FILE only verify: nothing to mint"
            " with\n"
        )
    done = _authz("token", "mint", "--agent", "a", JWKS_FILE=str(file), JWT_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sample_policies_validate() -> None:
    done = _authz("policy", "validate")
    assert (done.returncode, done.stdout) == (
        0, "3 policies in 3 files, 0 errors, 0 warnings\n",
    )  # fmt: skip


def test_a_bad_policy_is_shown_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: p\nrules:\n  - effect: permit\n    actions: []\n")
    done = _authz("policy", "validate", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/p.yaml:3:13: error: unknown effect `permit`" in done.stdout
    assert f"{tmp_path}/p.yaml:4:14: error: `actions` must not be empty" in done.stdout
    as_json = json.loads(_authz("policy", "validate", str(tmp_path), "--json").stdout)
    assert as_json["valid"] is False
    assert [problem["line"] for problem in as_json["problems"]] == [3, 4]


def test_a_single_policy_file_can_be_validated(tmp_path: Path) -> None:
    file = ROOT / "policies" / "code-review.yaml"
    done = _authz("policy", "validate", str(file))
    assert (done.returncode, done.stdout) == (
        0, "1 policies in 1 files, 0 errors, 0 warnings\n",
    )  # fmt: skip


def test_the_audit_tail_of_nothing_is_a_sentence(tmp_path: Path) -> None:
    done = _authz("audit", "tail", "--database", str(tmp_path / "none.db"))
    assert done.returncode == 1
    assert done.stderr == f"authz: {tmp_path}/none.db: there is no audit database yet\n"
    (tmp_path / "text.db").write_text("no database" * 1000)
    done = _authz("audit", "tail", "--database", str(tmp_path / "text.db"))
    assert done.returncode == 1
    assert "the audit database cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_setting_that_envoys_configuration_is_made_of_is_read_for_it() -> None:
    """`authz envoy config` names its variables; one that it did not name would count as unset."""
    elsewhere = {"EXT_AUTHZ_TARGET": "a:1", "HTTP_TARGET": "a:2", "EXT_AUTHZ_TARGET_CA_FILE": "/a"}
    ports = {"FORWARD_PROXY_PORT": "3128", "CAPTURE_PORT": "15001", "SIDECAR_AGENT_ID": "a"}
    pair = {"TLS_CERT_FILE": "/c", "TLS_KEY_FILE": "/k", "SSL_CERT_FILE": __file__}
    given = Settings.from_env(
        {"JWT_SECRET": SECRET, "AUTHZ_RUN_DIR": "/"} | elsewhere | ports | pair
    )
    read = set()

    class Watched:
        def __getattr__(self, name: str) -> object:
            read.add(name)
            return getattr(given, name)

    EnvoyOptions.of(cast("Settings", Watched()))
    aliases = {str(Settings.model_fields[name].alias) for name in read}
    assert {"PORT", "TLS_CERT_FILE", "HTTP_TARGET", "CAPTURE_PORT"} <= aliases
    assert aliases <= set(envoy.VARIABLES)


def test_envoys_configuration_needs_no_secret(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    done = _authz("envoy", "config", SSL_CERT_FILE=str(ca_file), JWT_SECRET="short")
    assert done.returncode == 0, done.stderr
    assert f"# {ROOT}/data/run/envoy.yaml" in done.stdout
    assert f"# {ROOT}/data/run/ext_authz.yaml" in done.stdout
    done = _authz("envoy", "config", "--out", str(tmp_path / "out"), PROXY_TARGET="http://a")
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["envoy.yaml", "ext_authz.yaml"]
    # As the service will: what happens while that is away is the mode's.
    (tmp_path / "MODE").write_text("audit\n")
    done = _authz(
        "envoy", "config", MODE_FILE=str(tmp_path / "MODE"), PROXY_TARGET="http://a", MODE="enforce"
    )
    assert "failure_mode_allow: true" in done.stdout
    done = _authz("envoy", "config", PROXY_TARGET="nonsense")
    assert done.returncode == 2
    assert done.stderr == "authz: PROXY_TARGET: must start with http:// or https://\n"


def test_settings_lists_every_variable() -> None:
    listed = json.loads(_authz("settings", "--json").stdout)
    assert [row["name"] for row in listed] == [row.name for row in described()]
    shown = _authz("settings").stdout
    assert all(re.search(rf"^{row.name} ", shown, re.MULTILINE) for row in described())


def test_the_chain_can_be_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "authz.core.stages"], capture_output=True, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    printed = [line.split()[0] for line in done.stdout.splitlines()]
    assert printed == [stage.name for stage in CHAIN]
    assert (printed[0], printed[-1]) == ("auth", "risk-wallet")


def test_the_version_is_printed() -> None:
    assert _authz("--version").stdout == f"{__version__}\n"


def test_unknown_words_are_exit_code_2() -> None:
    assert _authz("nonsense").returncode == 2
    assert _authz("run", "--nonsense").returncode == 2
