"""Private keys: those that cosign has published, those of OpenSSL, and ours."""

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from authz.bundles import cosign_key
from authz.bundles.cosign_key import COSIGN_LABELS
from authz.bundles.errors import BundleError, Reason
from authz.bundles.kinds import Algorithm
from authz.bundles.signature import PublicKeys
from authz.bundles.signing import signature_of
from tests.bundles.keys import (
    COSIGN_PASSWORD,
    COSIGN_PKCS8,
    COSIGN_SEC1,
    SECURE_PASSWORD,
    SECURE_VECTORS,
    pem,
    private,
)

SIGSTORE, COSIGN = COSIGN_LABELS


def never() -> bytes:
    raise AssertionError("nobody should be asked for a password")


def refusal(text: bytes, password: Callable[[], bytes] = never) -> str:
    with pytest.raises(BundleError) as caught:
        cosign_key.read("keys/cosign.key", text, password)
    assert caught.value.reason is Reason.KEY
    said = str(caught.value)
    assert said.startswith("keys/cosign.key: ")
    return said


@pytest.mark.parametrize("label", [SIGSTORE, COSIGN])
@pytest.mark.parametrize("content", [COSIGN_PKCS8, COSIGN_SEC1], ids=["PKCS #8", "SEC 1"])
def test_keys_that_cosign_encrypted_are_read(label: str, content: bytes) -> None:
    key = cosign_key.read("cosign.key", pem(label, content), lambda: COSIGN_PASSWORD)
    assert key.algorithm is Algorithm.ECDSA
    keys = PublicKeys.parse([("cosign.pub", key.public)])
    assert keys.verify(b"data", signature_of(b"data", key)) == key.key_id


def test_every_strength_of_securesystemslib_is_decrypted() -> None:
    for vector in SECURE_VECTORS:
        body = base64.b64encode(vector).decode()
        plain = cosign_key._decrypted("", body, lambda: SECURE_PASSWORD)
        # As Go writes bytes in JSON.
        assert base64.b64decode(json.loads(plain)) == b"reallyimportant"


@pytest.mark.parametrize(
    ("algorithm", "password"),
    [(Algorithm.ECDSA, b""), (Algorithm.ED25519, "pässword ".encode())],
)
def test_what_is_encrypted_is_read(algorithm: Algorithm, password: bytes) -> None:
    key = private(algorithm)
    text = cosign_key.encrypted(key, password)
    assert text.startswith(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    # Go's pem.Decode wants lines of at most 64 characters only by custom; OpenSSL insists.
    assert max(map(len, text.splitlines())) <= 64
    assert cosign_key.read("k", text, lambda: password).key_id == key.key_id
    assert "password is wrong" in refusal(text, lambda: password + b"x")


_OPENSSL: Final = {
    "PKCS #8": ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "PKCS #8, Ed25519": ("genpkey", "-algorithm", "ED25519"),
    "PKCS #8, encrypted": (
        "genpkey", "-algorithm", "ED25519", "-aes-256-cbc", "-pass", "pass:hello",
    ),
    "SEC 1": ("ecparam", "-name", "prime256v1", "-genkey", "-noout"),
}  # fmt: skip


@pytest.mark.parametrize("kind", _OPENSSL)
def test_openssls_keys_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "k.key"
    command = ["openssl", *_OPENSSL[kind], "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    is_encrypted = "encrypted" in kind
    password = (lambda: COSIGN_PASSWORD) if is_encrypted else never
    key = cosign_key.read("k.key", path.read_bytes(), password)
    public = subprocess.run(
        ["openssl", "pkey", "-in", str(path), "-pubout", "-passin", "pass:hello"],
        check=True, capture_output=True, timeout=30,
    ).stdout  # fmt: skip
    assert key.public == public
    if is_encrypted:
        assert "password is wrong" in refusal(path.read_bytes(), lambda: b"wrong")
        assert "password is wrong" in refusal(path.read_bytes(), lambda: b"")


def boxed(**changes: Any) -> bytes:
    said = json.loads(COSIGN_PKCS8)
    for path, value in changes.items():
        *above, last = path.split("__")
        inner = said
        for name in above:
            inner = inner[name]
        inner[last] = value
    return pem(SIGSTORE, json.dumps(said).encode())


_BAD: Final = {
    "a memory bomb": (boxed(kdf__params__N=1 << 30), "none of those that cosign uses"),
    "a time bomb": (boxed(kdf__params__p=1 << 20), "none of those that cosign uses"),
    "another r": (boxed(kdf__params__r=1024), "none of those that cosign uses"),
    "a negative N": (boxed(kdf__params__N=-1), "none of those that cosign uses"),
    "N as a fraction": (boxed(kdf__params__N=32768.0), "none of those that cosign uses"),
    "p as a truth": (boxed(kdf__params__p=True), "none of those that cosign uses"),
    "another kdf": (boxed(kdf__name="argon2"), "something else than scrypt"),
    "another cipher": (boxed(cipher__name="aes"), "something else than scrypt"),
    "no salt": (boxed(kdf__salt=""), "not an encrypted key as cosign writes it"),
    "a short nonce": (boxed(cipher__nonce="AAAA"), "not an encrypted key as cosign writes it"),
    "no parameters": (boxed(kdf__params=[]), "not an encrypted key as cosign writes it"),
    "no JSON": (pem(SIGSTORE, b"not a key"), "not an encrypted key as cosign writes it"),
    "a list": (pem(SIGSTORE, b"[]"), "not an encrypted key as cosign writes it"),
    "the public key": (private().public, "the public key, which verifies"),
    "a certificate": (pem("CERTIFICATE", b"x"), "CERTIFICATE, and only cosign's keys"),
    "PKCS #1": (pem("RSA PRIVATE KEY", b"x"), "RSA PRIVATE KEY, and only cosign's keys"),
    "damaged PKCS #8": (pem("PRIVATE KEY", b"x"), "not a private key that can be read"),
    "two keys": (pem("PRIVATE KEY", b"x") * 2, "not one private key in PEM"),
    "nothing": (b"", "not one private key in PEM"),
    "too much": (bytes(20_000), "not one private key in PEM"),
}


@pytest.mark.parametrize("what", _BAD)
def test_another_key_is_refused_by_name_before_a_password_is_asked_for(what: str) -> None:
    text, sentence = _BAD[what]
    assert sentence in refusal(text)


def test_no_bit_of_what_is_sealed_can_change() -> None:
    box = bytearray(base64.b64decode(json.loads(COSIGN_PKCS8)["ciphertext"]))
    box[-1] ^= 1
    text = boxed(ciphertext=base64.b64encode(box).decode())
    said = refusal(text, lambda: COSIGN_PASSWORD)
    assert "the password is wrong, or the file is damaged" in said
    assert COSIGN_PASSWORD.decode() not in said


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("RSA", "-pkeyopt", "rsa_keygen_bits:2048"), "an RSA key"),
        (("EC", "-pkeyopt", "ec_paramgen_curve:P-384"), "a key of another kind"),
    ],
)
def test_keys_of_other_kinds_are_named(options: tuple[str, ...], kind: str) -> None:
    command = ["openssl", "genpkey", "-algorithm", *options]
    made = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    assert f"{kind}; bundles are signed with ECDSA on P-256 or with Ed25519" in refusal(made)


def test_nothing_shows_a_key() -> None:
    shown = repr(private())
    assert "PrivateKey object" not in shown
    assert "sign" not in shown
