"""What a signature file says, before anybody asks whether it is right.

Three forms, as cosign writes them, and nothing else:

- base64 of a signature, which is what `cosign sign-blob` prints; several lines are several
  signatures, of an old and a new key.
- a Sigstore bundle of a message signature (protobuf-specs `sigstore_bundle.proto`, media types 0.1
  to 0.3): `cosign sign-blob --new-bundle-format --bundle FILE`.
- the older one of `cosign sign-blob --bundle FILE`: `{"base64Signature": ...}`.

Everything is read strictly, so that no bit of it can change unnoticed: one encoding of each value,
no key that is not known. What a transparency log or a timestamp authority says in it is not looked
at, and a signature that relies on a certificate is refused: there is no Fulcio and no Rekor here.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from authz.bundles.errors import BundleError, Reason
from authz.core.json_keys import distinct
from authz.core.text import word

#: Bytes of a signature file. One with a log entry and a timestamp has some 12 KB.
MAX_SIGNATURE_FILE: Final = 64 * 1024
#: Signatures in it: an old key, a new one, and room.
MAX_SIGNATURES: Final = 8
#: Bytes of a signature. ECDSA on P-256 has at most 72 in DER, Ed25519 has 64.
MAX_SIGNATURE: Final = 72

#: Media types of Sigstore bundles.
_MEDIA_TYPES: Final = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)
#: What may stand in `verificationMaterial` and is no identity.
_WITNESSES: Final = ("tlogEntries", "timestampVerificationData")
_CERTIFICATES: Final = ("certificate", "x509CertificateChain")
_HASHES: Final = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class Form(StrEnum):
    """How a signature file is written."""

    BASE64 = "base64"
    SIGSTORE = "sigstore bundle"
    COSIGN = "cosign bundle"


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """What it says."""

    form: Form
    #: At least one.
    signatures: tuple[bytes, ...]
    #: The key that it names: SHA-256, hexadecimal, of the SPKI DER; empty: none.
    key_id: str = ""
    #: The digest that it has of what is signed, and by which algorithm of `hashlib`.
    digest: tuple[str, bytes] | None = None

    def check_digest(self, data: bytes) -> None:
        """That it is about these bytes, as far as it says.

        Raises:
            BundleError: it is about others.
        """
        if self.digest is None:
            return
        algorithm, digest = self.digest
        if not hmac.compare_digest(hashlib.new(algorithm, data).digest(), digest):
            raise _bad("it is the signature of other bytes; sign this bundle, or fetch both again")


def read(content: bytes) -> SignatureFile:
    """Read a signature file.

    Raises:
        BundleError: it is none; one sentence without anything of a signature.
    """
    if len(content) > MAX_SIGNATURE_FILE:
        raise _bad(f"it is larger than {MAX_SIGNATURE_FILE} bytes")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise _bad("it is neither base64 nor JSON; write it with `cosign sign-blob`") from None
    if text.startswith("{"):
        return _read_json(text)
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise _bad(f"it has more than {MAX_SIGNATURES} lines")
    signatures = tuple(_signature(f"line {n}", line) for n, line in enumerate(lines, 1))
    return SignatureFile(Form.BASE64, signatures)


def _read_json(text: str) -> SignatureFile:
    try:
        said = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        raise _bad("it begins as JSON, and is not one object with distinct keys") from None
    if "base64Signature" in said:
        return _cosign(said)
    _only(said, "", ("mediaType", "verificationMaterial", "messageSignature"))
    if said.get("mediaType") not in _MEDIA_TYPES:
        raise _bad("`mediaType` is none of a Sigstore bundle of version 0.1 to 0.3")
    material = _object(said, "verificationMaterial")
    if any(name in material for name in _CERTIFICATES):
        raise _no_certificates()
    _only(material, "verificationMaterial.", ("publicKey", *_WITNESSES))
    key = _object(material, "publicKey")
    _only(key, "publicKey.", ("hint",))
    message = _object(said, "messageSignature")
    _only(message, "messageSignature.", ("messageDigest", "signature"))
    signature = _signature("messageSignature.signature", message.get("signature"))
    return SignatureFile(Form.SIGSTORE, (signature,), _hint(key), _digest(message))


def _hint(key: Mapping[str, Any]) -> str:
    if "hint" not in key:
        return ""
    # As cosign makes it: of the SHA-256 of the key's SPKI.
    hint = decoded(key["hint"])
    if len(hint) != hashlib.sha256().digest_size:
        raise _bad("`publicKey.hint` is not base64 of a SHA-256, which is how cosign names a key")
    return hint.hex()


def _digest(message: Mapping[str, Any]) -> tuple[str, bytes] | None:
    if "messageDigest" not in message:
        return None
    said = _object(message, "messageDigest")
    _only(said, "messageDigest.", ("algorithm", "digest"))
    algorithm = said.get("algorithm")
    if not isinstance(algorithm, str) or algorithm not in _HASHES:
        raise _bad(f"`messageDigest.algorithm` is none of {', '.join(_HASHES)}")
    digest = decoded(said.get("digest"))
    if len(digest) != hashlib.new(_HASHES[algorithm]).digest_size:
        raise _bad(f"`messageDigest.digest` is not base64 of a digest by {algorithm}")
    return _HASHES[algorithm], digest


def _cosign(said: Mapping[str, Any]) -> SignatureFile:
    _only(said, "", ("base64Signature", "cert", "rekorBundle"))
    cert = said.get("cert", "")
    if not isinstance(cert, str):
        raise _bad("`cert` is not a text")
    # Where there is a log entry but no certificate, it is the public key. Whoever made the
    # signature chose it, so it says nothing.
    if b"BEGIN CERTIFICATE" in decoded(cert) or "BEGIN CERTIFICATE" in cert:
        raise _no_certificates()
    return SignatureFile(Form.COSIGN, (_signature("base64Signature", said.get("base64Signature")),))


def decoded(text: object) -> bytes:
    """What a text encodes in base64 (RFC 4648 §4) in the one way there is; empty where none is."""
    if not isinstance(text, str) or not _BASE64.fullmatch(text):
        return b""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    # The last character has bits that mean nothing.
    return data if base64.b64encode(data).decode() == text else b""


def _signature(place: str, text: object) -> bytes:
    signature = decoded(text)
    if not signature:
        raise _bad(f"{place} is not base64 of a signature; write it with `cosign sign-blob`")
    if len(signature) > MAX_SIGNATURE:
        raise _bad(
            f"{place} is a signature of {len(signature)} bytes, longer than any of ECDSA on P-256"
            " or of Ed25519"
        )
    return signature


def _object(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name, {})
    if not isinstance(value, dict):
        raise _bad(f"`{name}` is not an object")
    return value


def _only(said: Mapping[str, Any], above: str, known: tuple[str, ...]) -> None:
    unknown = next((name for name in said if name not in known), None)
    if unknown is not None:
        raise _bad(f"`{above}{word(unknown)}` is not known; it is not the signature of a file")


def _no_certificates() -> BundleError:
    return _bad(
        "it relies on a certificate (Fulcio, Rekor), which is not verified here; sign with a key:"
        " `cosign sign-blob --key`"
    )


def _bad(what: str) -> BundleError:
    return BundleError(f"the signature cannot be used: {what}", Reason.SIGNATURE)
