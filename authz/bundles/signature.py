"""The public keys that may sign a bundle, and whether one of them did.

- A key is for one algorithm: P-256 for ECDSA over SHA-256, Ed25519 for Ed25519 and, as newer
  cosign has it, Ed25519ph (RFC 8032 §5.1). Whatever else a key file holds is refused by name.
- Which key a signature is of is found out by trying: there are few, and a signature that names its
  key is not believed. Old and new keys are known side by side while they are being rotated.
- `cryptography` and `nacl` are imported when a key is, so that nothing waits for them at the start.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from authz.bundles import signature_file
from authz.bundles.errors import BundleError, Reason
from authz.core.text import visible

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: Bytes of a key file; a key in PEM has 178 or 113.
MAX_KEY_FILE: Final = 64 * 1024
#: Keys that are known together: what a verification may cost.
MAX_KEYS: Final = 32
#: Bytes of an Ed25519 signature (RFC 8032 §5.1.6).
ED25519_SIGNATURE: Final = 64

#: Whether a signature of these bytes is by the key: `fits(signature, data)`.
Fits = Callable[[bytes, bytes], bool]

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,64})-----\s(.*?)-----END \1-----", re.DOTALL)
_BEGIN: Final = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """Who may sign. Equal where the keys are."""

    #: SHA-256, hexadecimal, of the SPKI DER of each key, in the order of the files.
    ids: tuple[str, ...]
    _fits: Mapping[str, Fits] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, texts: Iterable[tuple[str, bytes]]) -> "PublicKeys":
        """The keys of these files, each given by what it is called and its content (PEM).

        Raises:
            BundleError: one holds none, or something else; the sentence begins with its name.
        """
        found: dict[str, Fits] = {}
        for name, text in texts:
            found |= _keys(name, text)
        if not found:
            raise BundleError("there is no public key", Reason.KEY)
        if len(found) > MAX_KEYS:
            raise BundleError(
                f"there are {len(found)} public keys, and at most {MAX_KEYS} are tried; remove"
                " those that sign no more",
                Reason.KEY,
            )
        return cls(tuple(found), found)

    def verify(self, data: bytes, signature: bytes) -> str:
        """The id of the key that signed these bytes.

        Args:
            data: what was signed.
            signature: the content of the signature file, in a form of `signature_file`.

        Raises:
            BundleError: none of the keys did, or the file cannot be read.
        """
        said = signature_file.read(signature)
        said.check_digest(data)
        ids = [key_id for key_id in self.ids if said.key_id in ("", key_id)]
        if not ids:
            raise BundleError(
                f"the signature is by key {said.key_id[:16]}, which is none of those known:"
                f" {self._named()}",
                Reason.SIGNATURE,
            )
        for key_id in ids:
            fits = self._fits[key_id]
            if any(fits(one, data) for one in said.signatures):
                return key_id
        raise BundleError(
            "the signature is not one of this bundle by a key that is known:"
            f" {self._named()}; fetch both again, or sign it with one of these",
            Reason.SIGNATURE,
        )

    def _named(self) -> str:
        return ", ".join(key_id[:16] for key_id in self.ids)


def _keys(name: str, text: bytes) -> dict[str, Fits]:
    shown = visible(name)
    if len(text) > MAX_KEY_FILE:
        raise BundleError(f"{shown}: longer than {MAX_KEY_FILE} bytes", Reason.KEY)
    pem = text.decode("latin-1")
    blocks = list(_BLOCK.finditer(pem))
    if not blocks or len(blocks) != pem.count(_BEGIN):
        raise BundleError(f"{shown}: not a public key in PEM, as cosign.pub is", Reason.KEY)
    found = {}
    for number, block in enumerate(blocks, 1):
        place = shown if len(blocks) == 1 else f"{shown}: block {number}"
        if block[1] != "PUBLIC KEY":
            raise BundleError(f"{place}: {_instead_of_key(block[1])}", Reason.KEY)
        key_id, fits = _key(place, block[0].encode("latin-1"))
        found[key_id] = fits
    return found


def _instead_of_key(label: str) -> str:
    if "PRIVATE KEY" in label:
        return (
            "a private key, which belongs with whoever signs and nowhere else; put the public key"
            " here"
        )
    if "CERTIFICATE" in label:
        return "a certificate, and certificates are not verified here; put its public key here"
    return f"{label}, and only PUBLIC KEY is read; `openssl pkey -pubin` converts it"


def _key(place: str, pem: bytes) -> tuple[str, Fits]:
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415 - see above
        dsa,
        ec,
        ed25519,
        rsa,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(pem)
    except Exception:  # noqa: BLE001 - it says little that helps, in many types
        raise BundleError(f"{place}: not a public key that can be read", Reason.KEY) from None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key_id(key), _ecdsa(key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key_id(key), _ed25519(key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        kind = f"an ECDSA key on {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        kind = f"an RSA key of {key.key_size} bits"
    else:
        kind = "a DSA key" if isinstance(key, dsa.DSAPublicKey) else "a key of another kind"
    raise BundleError(
        f"{place}: {kind}; bundles are signed with ECDSA on P-256 or with Ed25519", Reason.KEY
    )


def key_id(key: "EllipticCurvePublicKey | Ed25519PublicKey") -> str:
    """The SHA-256, hexadecimal, of a public key's SPKI DER (RFC 5280 §4.1), as cosign names it."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _ecdsa(key: "EllipticCurvePublicKey") -> Fits:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    def fits(signature: bytes, data: bytes) -> bool:
        try:
            # Either of s and n-s, as Go's crypto/ecdsa has it. OpenSSL takes DER alone.
            key.verify(signature, data, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    return fits


def _ed25519(key: "Ed25519PublicKey") -> Fits:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    def fits(signature: bytes, data: bytes) -> bool:
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return len(signature) == ED25519_SIGNATURE and _ed25519ph(
                key.public_bytes_raw(), signature, data
            )
        return True

    return fits


def _ed25519ph(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether it is a signature of the SHA-512 of the data (RFC 8032 §5.1, phflag 1)."""
    from nacl import bindings, exceptions  # noqa: PLC0415

    state = bindings.crypto_sign_ed25519ph_state()
    bindings.crypto_sign_ed25519ph_update(state, data)
    try:
        return bool(bindings.crypto_sign_ed25519ph_final_verify(state, signature, public))
    except exceptions.BadSignatureError:
        return False
