"""JWKS_FILE through a real Envoy: keys are rotated under a sidecar that holds none that mints."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import JWT_SECRET, Sidecar, bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream
from tests.signers import Signer, jwks


def _headers(signer: Signer) -> dict[str, str]:
    said = {"iss": "meshguard", "sub": "reviewer-1", "tier": "verified", "tags": ["code-review"]}
    return {"Authorization": f"Bearer {signer.token(said | {'exp': time.time() + 300})}"}


def _put(file: Path, content: bytes) -> None:
    new = file.with_name("new")
    new.write_bytes(content)
    new.replace(file)


@contextlib.contextmanager
def _running(upstream: Upstream, signer: Signer, secret: str) -> Iterator[tuple[Sidecar, Path]]:
    with starter.directory() as path:
        file = path / "keys" / "jwks.json"
        file.parent.mkdir()
        file.write_bytes(jwks(signer))
        with starter.running(upstream, JWKS_FILE=str(file), JWT_SECRET=secret) as sidecar:
            yield sidecar, file


def test_keys_are_rotated_under_a_sidecar_that_holds_no_secret(upstream: Upstream) -> None:
    old, new = Signer("old"), Signer("new")
    with _running(upstream, old, "") as (sidecar, file):

        def asked(headers: dict[str, str]) -> httpx.Response:
            return sidecar.get("/proxy/docs", headers=headers)

        first = _headers(old)
        assert asked(first).status_code == 200
        assert asked(bearer()).json()["code"] == "token_wrong_algorithm"
        assert asked(_headers(new)).json()["code"] == "token_unknown_key"
        assert asked(_headers(Signer("old"))).json()["code"] == "token_bad_signature"

        # A file that turns bad changes nothing but what /health says.
        _put(file, b'{"keys": [')
        wait_until(lambda: "keys" in sidecar.get("/health").json()["checks"], "the complaint")
        sentence = f"JWKS_FILE: {file}: not JSON from line 1, column 11 on"
        answer = sidecar.get("/health")
        assert (answer.status_code, answer.json()["checks"]["keys"]) == (200, sentence)
        assert asked(first).status_code == 200

        _put(file, jwks(new))
        wait_until(lambda: asked(_headers(new)).status_code == 200, "the new key")
        # It had been verified before.
        assert asked(first).json()["code"] == "token_unknown_key"
        assert "keys" not in sidecar.get("/health").json()["checks"]
        assert sidecar.log().count(f"{sentence}; the keys stay as they are") == 1
        rows = sidecar.rows()
        assert {row["agent_id"] for row in rows if row["decision"] == "allow"} == {"reviewer-1"}


def test_a_secret_and_keys_verify_beside_each_other(upstream: Upstream) -> None:
    signer = Signer(None)
    with _running(upstream, signer, JWT_SECRET) as (sidecar, _):
        for headers in (bearer(), _headers(signer)):
            assert sidecar.get("/proxy/docs", headers=headers).status_code == 200


@pytest.mark.parametrize("command", ["run", "serve"])
def test_without_good_keys_there_is_no_start(tmp_path: Path, command: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks({"kty": "oct", "k": "c2VjcmV0"}))
    env = environment(tmp_path, free_port(), "http://127.0.0.1:9", JWKS_FILE=str(file))
    with starter.start(tmp_path, env, command) as process:
        assert process.wait(starter.PATIENCE_S) == 2
    said = (tmp_path / "stderr").read_text()
    assert said == (
        f"authz: JWKS_FILE: {file}: keys[0] is a shared secret; only public keys belong here\n"
    )
    assert not (tmp_path / "run").exists()
