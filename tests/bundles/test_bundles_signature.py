"""Signatures as cosign and OpenSSL make them and take them, and everything that is none."""

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from sigstore_models.bundle.v1 import Bundle

from authz.bundles import signature_file
from authz.bundles.build import build
from authz.bundles.errors import BundleError, Reason
from authz.bundles.kinds import Algorithm, Format
from authz.bundles.signature import MAX_KEYS, PublicKeys
from authz.bundles.signing import MEDIA_TYPE, signature_of
from tests.bundles.keys import PH_PUBLIC, PH_SIGNATURE, pem, private, public

DATA: Final = build({"a.yaml": b"name: a\n" * 20}, version=1, created=1_780_000_000)
BOTH: Final = (Algorithm.ECDSA, Algorithm.ED25519)


def refusal(keys: PublicKeys, data: bytes, signature: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        keys.verify(data, signature)
    assert caught.value.reason is Reason.SIGNATURE
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("written", list(Format))
@pytest.mark.parametrize("algorithm", BOTH)
def test_what_is_signed_verifies(algorithm: Algorithm, written: Format) -> None:
    key = private(algorithm)
    assert (
        public(private(number=1), key).verify(DATA, signature_of(DATA, key, written)) == key.key_id
    )


def test_a_key_is_named_by_its_spki_as_openssl_has_it(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_bytes(private().public)
    command = ["openssl", "pkey", "-pubin", "-in", "k.pub", "-outform", "DER"]
    der = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=30).stdout
    assert public(private()).ids == (hashlib.sha256(der).hexdigest(),)


def openssl(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", *arguments], cwd=tmp_path, capture_output=True, timeout=30, check=False
    )


_CHECKS: Final = {
    Algorithm.ECDSA: ("dgst", "-sha256", "-verify", "k.pub", "-signature", "raw", "data"),
    Algorithm.ED25519: (
        "pkeyutl", "-verify", "-pubin", "-inkey", "k.pub", "-rawin", "-in", "data", "-sigfile",
        "raw",
    ),
}  # fmt: skip
_SIGNS: Final = {
    Algorithm.ECDSA: ("dgst", "-sha256", "-sign", "k.key", "-out", "raw", "data"),
    Algorithm.ED25519: (
        "pkeyutl", "-sign", "-inkey", "k.key", "-rawin", "-in", "data", "-out", "raw",
    ),
}  # fmt: skip
_MAKES: Final = {
    Algorithm.ECDSA: ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    Algorithm.ED25519: ("-algorithm", "ED25519"),
}


@pytest.mark.parametrize("algorithm", BOTH)
def test_openssl_takes_our_signatures(algorithm: Algorithm, tmp_path: Path) -> None:
    key = private(algorithm)
    (tmp_path / "k.pub").write_bytes(key.public)
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "raw").write_bytes(base64.b64decode(signature_of(DATA, key)))
    assert openssl(tmp_path, *_CHECKS[algorithm]).returncode == 0
    (tmp_path / "data").write_bytes(DATA + b"\0")
    assert openssl(tmp_path, *_CHECKS[algorithm]).returncode != 0


@pytest.mark.parametrize("algorithm", BOTH)
def test_openssls_signatures_verify(algorithm: Algorithm, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)
    assert openssl(tmp_path, "genpkey", *_MAKES[algorithm], "-out", "k.key").returncode == 0
    assert openssl(tmp_path, "pkey", "-in", "k.key", "-pubout", "-out", "k.pub").returncode == 0
    assert openssl(tmp_path, *_SIGNS[algorithm]).returncode == 0
    keys = PublicKeys.parse([("k.pub", (tmp_path / "k.pub").read_bytes())])
    text = base64.b64encode((tmp_path / "raw").read_bytes())
    assert keys.verify(DATA, text) == keys.ids[0]
    refusal(keys, DATA + b"\0", text)


def test_ed25519ph_is_verified_as_newer_cosign_signs() -> None:
    key = ed25519.Ed25519PublicKey.from_public_bytes(PH_PUBLIC)
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    keys = PublicKeys.parse([("rfc8032.pub", text)])
    assert keys.verify(b"abc", base64.b64encode(PH_SIGNATURE)) == keys.ids[0]
    refusal(keys, b"abd", base64.b64encode(PH_SIGNATURE))
    refusal(keys, b"abc", base64.b64encode(PH_SIGNATURE[:-1]))


def test_either_half_of_an_ecdsa_signature_counts_as_for_cosign() -> None:
    """Go's crypto/ecdsa takes s and n - s; nothing here identifies a bundle by its signature."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(private().sign(DATA))
    for half in (s, order - s):
        public(private()).verify(DATA, base64.b64encode(encode_dss_signature(r, half)))


def test_old_and_new_keys_are_known_side_by_side() -> None:
    old, new = private(), private(number=1)
    signature = signature_of(DATA, old) + signature_of(DATA, new)
    assert public(old, new).verify(DATA, signature) == old.key_id
    assert public(new).verify(DATA, signature) == new.key_id
    assert public(new, old).verify(DATA, signature_of(DATA, old)) == old.key_id
    both = PublicKeys.parse([("both.pem", b"# old\n" + old.public + b"# new\n" + new.public)])
    assert both == public(old, new)


def test_the_older_bundle_of_cosign_is_read() -> None:
    key = private()
    text = base64.b64encode(key.sign(DATA)).decode()
    cert = base64.b64encode(key.public).decode()
    rekor = {"SignedEntryTimestamp": "MEUC", "Payload": {"logIndex": 1}}
    for said in (
        {"base64Signature": text},
        {"base64Signature": text, "cert": cert, "rekorBundle": rekor},
        {"base64Signature": text, "rekorBundle": None},
    ):
        assert public(key).verify(DATA, json.dumps(said).encode()) == key.key_id


def test_the_key_in_an_older_bundle_is_not_believed() -> None:
    stranger = private(number=1)
    said = {
        "base64Signature": base64.b64encode(stranger.sign(DATA)).decode(),
        "cert": base64.b64encode(stranger.public).decode(),
    }
    refusal(public(private()), DATA, json.dumps(said).encode())


def sigstore(**changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(signature_of(DATA, private(), Format.BUNDLE))
    for path, value in changes.items():
        *above, last = path.split("__")
        inner = said
        for name in above:
            inner = inner[name]
        inner[last] = value
    return said


@pytest.mark.parametrize(
    "said",
    [
        sigstore(),
        sigstore(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
        sigstore(verificationMaterial={"publicKey": {}}),
        sigstore(verificationMaterial__tlogEntries=[{"logIndex": "1"}]),
        sigstore(verificationMaterial__timestampVerificationData={"rfc3161Timestamps": []}),
        sigstore(
            messageSignature__messageDigest={
                "algorithm": "SHA2_512",
                "digest": base64.b64encode(hashlib.sha512(DATA).digest()).decode(),
            }
        ),
    ],
    ids=["ours", "older", "no hint", "log", "timestamp", "SHA-512"],
)
def test_sigstore_bundles_are_read(said: dict[str, Any]) -> None:
    # protojson writes a blank here and there.
    text = json.dumps(said, indent=1).encode()
    assert public(private()).verify(DATA, text) == private().key_id


def test_sigstores_own_models_read_ours_and_we_read_theirs() -> None:
    ours = signature_of(DATA, private(), Format.BUNDLE)
    read = Bundle.from_json(ours)
    theirs = read.to_json().encode()
    assert public(private()).verify(DATA, theirs) == private().key_id


def test_the_hint_is_how_cosign_names_a_key() -> None:
    said = sigstore()
    assert said["mediaType"] == MEDIA_TYPE
    hint = said["verificationMaterial"]["publicKey"]["hint"]
    assert base64.b64decode(hint).hex() == private().key_id


# ---------------------------------------------------------------- what is refused


def _cases() -> dict[str, tuple[bytes, str]]:
    text = signature_of(DATA, private())
    certificate = {"certificate": {"rawBytes": "MIIB"}}
    chain: dict[str, Any] = {"x509CertificateChain": {"certificates": []}}
    pem_certificate = base64.b64encode(pem("CERTIFICATE", b"x")).decode()
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    objects: dict[str, tuple[dict[str, Any], str]] = {
        "a certificate": (sigstore(verificationMaterial=certificate), "relies on a certificate"),
        "certificates": (sigstore(verificationMaterial=chain), "relies on a certificate"),
        "a certificate, older": (
            {"base64Signature": text.decode().strip(), "cert": pem_certificate},
            "relies on a certificate",
        ),
        "an attestation": (
            {"mediaType": MEDIA_TYPE, "dsseEnvelope": {}}, "`dsseEnvelope` is not known",
        ),
        "another media type": (sigstore(mediaType="text/plain"), "`mediaType` is none of"),
        "an unknown key": (sigstore(messageSignature__x=1), "`messageSignature.x` is not known"),
        "other bytes": (sigstore(messageSignature__messageDigest__digest=other), "of other bytes"),
        "another digest": (
            sigstore(messageSignature__messageDigest__algorithm="SHA3_256"),
            "`messageDigest.algorithm` is none of",
        ),
        "a short digest": (
            sigstore(messageSignature__messageDigest__digest="AAAA"), "`messageDigest.digest` is",
        ),
        "another key's hint": (
            sigstore(verificationMaterial__publicKey__hint=other), "which is none of those known",
        ),
        "a hint that is none": (
            sigstore(verificationMaterial__publicKey__hint="mine"), "is not base64 of a SHA-256",
        ),
        "no signature": (
            sigstore(messageSignature={}), "messageSignature.signature is not base64",
        ),
        "no object": (sigstore(messageSignature=1), "`messageSignature` is not an object"),
        "no signature, older": ({"base64Signature": 1}, "base64Signature is not base64"),
    }  # fmt: skip
    return {
        name: (json.dumps(said).encode(), sentence) for name, (said, sentence) in objects.items()
    } | {
        "nothing": (b"", "line 1 is not base64"),
        "HTML": (b"<html>", "line 1 is not base64"),
        "binary": (base64.b64decode(text), "neither base64 nor JSON"),
        "a blank": (b" " + text, "line 1 is not base64"),
        "two line feeds": (text + b"\n", "line 2 is not base64"),
        "a missing padding": (b"MEU", "line 1 is not base64"),
        "URL's alphabet": (b"-_-_", "line 1 is not base64"),
        "bits that mean nothing": (b"MEUB", "not one of this bundle"),
        "padding bits": (b"MEV=", "line 1 is not base64"),
        "too long": (base64.b64encode(bytes(73)), "a signature of 73 bytes"),
        "many lines": (text * 9, "more than 8 lines"),
        "a large file": (text * 1000, "larger than 65536 bytes"),
        "twice the same key": (b'{"base64Signature":"","base64Signature":""}', "distinct keys"),
        "nested": (b'{"a":' * 9_000, "distinct keys"),
        "half an object": (b"{", "distinct keys"),
        "another file's": (signature_of(b"x", private()), "not one of this bundle"),
        "another key's": (signature_of(DATA, private(number=1)), "not one of this bundle"),
    }


@pytest.mark.parametrize("what", _cases())
def test_what_is_no_signature_of_a_known_key_is_refused(what: str) -> None:
    signature, sentence = _cases()[what]
    said = refusal(public(private()), DATA, signature)
    assert sentence in said
    # No sentence repeats a signature.
    assert signature_of(DATA, private()).decode()[:20] not in said


def flipped(data: bytes) -> Iterator[bytes]:
    """The same with one bit changed, for every bit."""
    changed = bytearray(data)
    for place in range(len(data)):
        for bit in range(8):
            changed[place] ^= 1 << bit
            yield bytes(changed)
            changed[place] ^= 1 << bit


@pytest.mark.parametrize("written", list(Format))
@pytest.mark.parametrize("algorithm", BOTH)
def test_no_bit_of_a_bundle_or_its_signature_can_change(
    algorithm: Algorithm, written: Format
) -> None:
    key = private(algorithm)
    keys = public(key)
    signature = signature_of(DATA, key, written)
    for changed in flipped(signature):
        refusal(keys, DATA, changed)
    for changed in flipped(DATA):
        refusal(keys, changed, signature)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_anything_else_is_refused_with_a_sentence(junk: bytes) -> None:
    refusal(public(private()), DATA, junk)


# ---------------------------------------------------------------- keys


def _pem(key: Any) -> bytes:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


_KEYS: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "RSA": (lambda: _pem(_rsa()), "an RSA key of 2048 bits; bundles are signed with"),
    "P-384": (lambda: _pem(ec.generate_private_key(ec.SECP384R1())), "an ECDSA key on secp384r1"),
    "secp256k1": (lambda: _pem(ec.generate_private_key(ec.SECP256K1())), "on secp256k1"),
    "DSA": (lambda: _pem(dsa.generate_private_key(1024)), "a DSA key"),
    "a private key": (
        lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "a private key, which belongs with whoever signs",
    ),
    "cosign.key": (
        lambda: pem("ENCRYPTED SIGSTORE PRIVATE KEY", b"{}"), "a private key, which belongs",
    ),
    "a certificate": (lambda: pem("CERTIFICATE", b"x"), "a certificate, and certificates are not"),
    "PKCS #1": (lambda: pem("RSA PUBLIC KEY", b"x"), "RSA PUBLIC KEY, and only PUBLIC KEY is"),
    "no key": (lambda: pem("PUBLIC KEY", b"x"), "not a public key that can be read"),
    "one good, one not": (
        lambda: private().public + pem("CERTIFICATE", b"x"), "block 2: a certificate",
    ),
    "one cut off": (lambda: private().public + private().public[:60], "not a public key in PEM"),
    "nothing": (lambda: b"", "not a public key in PEM"),
    "DER": (lambda: b"\x30\x59\x30\x13", "not a public key in PEM"),
    "too much": (lambda: bytes(70_000), "longer than 65536 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", _KEYS)
def test_another_key_is_refused_by_name(what: str) -> None:
    make, sentence = _KEYS[what]
    with pytest.raises(BundleError) as caught:
        PublicKeys.parse([("good.pub", private().public), ("keys/k.pub", make())])
    assert str(caught.value).startswith("keys/k.pub: ")
    assert sentence in str(caught.value)
    assert caught.value.reason is Reason.KEY


def test_there_must_be_keys_and_not_too_many() -> None:
    with pytest.raises(BundleError, match="there is no public key"):
        PublicKeys.parse([])
    many = [(f"{n}.pub", private(Algorithm.ED25519, n).public) for n in range(MAX_KEYS + 1)]
    with pytest.raises(BundleError, match="there are 33 public keys, and at most 32"):
        PublicKeys.parse(many)


def test_a_signature_file_is_described_without_keys() -> None:
    said = signature_file.read(signature_of(DATA, private(), Format.BUNDLE))
    assert (said.form, said.key_id) == (signature_file.Form.SIGSTORE, private().key_id)
    assert signature_file.read(signature_of(DATA, private())).form is signature_file.Form.BASE64
