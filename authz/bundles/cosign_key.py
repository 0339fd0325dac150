"""Private keys that sign bundles: cosign's own files, and PKCS #8 in PEM.

- cosign encrypts a key as go-securesystemslib's `encrypted` does: scrypt makes a key of the
  password, NaCl's secretbox seals the PKCS #8 with it, and JSON holds the rest. The strengths that
  it knows are the only ones that are read: others could cost any amount of memory.
- P-256 and Ed25519, as `signature` verifies; whatever else is refused by name.
- A password is asked for only where the key is encrypted, and no sentence repeats it.
- Nothing is read here but the arguments: no file, no terminal, no environment.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from authz.bundles import signature_file
from authz.bundles.errors import BundleError, Reason
from authz.bundles.kinds import Algorithm
from authz.bundles.signature import key_id
from authz.core.json_keys import distinct
from authz.core.text import visible

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Bytes of a key file; an encrypted key of cosign has 653.
MAX_KEY_FILE: Final = 16 * 1024
#: Labels of cosign's files, now and before version 2.
COSIGN_LABELS: Final = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,64})-----\s(.*?)-----END \1-----", re.DOTALL)
#: What is in PEM and no private key of ours to read, by label.
_PKCS8: Final = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY")
#: scrypt's N, with r = 8 and p = 1: go-securesystemslib's Legacy, Standard and OWASP. The last
#: takes 128 MiB for as long as it runs.
_STRENGTHS: Final = (32_768, 65_536, 131_072)
_R: Final = 8
_P: Final = 1
#: What new keys get: cosign's own.
_STANDARD: Final = 65_536
#: Bytes that OpenSSL may use: 128 r N for the largest N, and some for itself.
_MAX_MEMORY: Final = 128 * _R * max(_STRENGTHS) + (1 << 20)
_SALT: Final = 32
_NONCE: Final = 24
_BOX_KEY: Final = 32
#: Characters in a line of PEM (RFC 7468 §2).
_LINE: Final = 64


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that can sign."""

    algorithm: Algorithm
    #: SHA-256, hexadecimal, of the public half's SPKI DER.
    key_id: str
    #: The public half, PEM.
    public: bytes
    #: A signature of the data: DER for ECDSA over SHA-256, 64 bytes for Ed25519.
    sign: Callable[[bytes], bytes] = field(repr=False)
    #: The key itself.
    _key: "EllipticCurvePrivateKey | Ed25519PrivateKey" = field(repr=False)


def read(name: str, text: bytes, password: Callable[[], bytes]) -> PrivateKey:
    """Read a private key.

    Args:
        name: what it is called; sentences begin with it.
        text: PEM.
        password: asked for where the key is encrypted.

    Raises:
        BundleError: it is none that can be used here, or the password is wrong.
    """
    shown = visible(name)
    blocks = list(_BLOCK.finditer(text[: MAX_KEY_FILE + 1].decode("latin-1")))
    if len(text) > MAX_KEY_FILE or len(blocks) != 1:
        raise _bad(shown, "not one private key in PEM, as cosign.key is")
    [block] = blocks
    label = block[1]
    if label in COSIGN_LABELS:
        return _of(shown, _decrypted(shown, block[2], password))
    if label == "PUBLIC KEY":
        raise _bad(shown, "the public key, which verifies; signing needs the private one")
    if label not in _PKCS8:
        raise _bad(shown, f"{label}, and only cosign's keys and PKCS #8 are read")
    return _of(shown, block[0].encode("latin-1"), password, pem=True)


def generate(algorithm: Algorithm) -> PrivateKey:
    """Make a key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415

    if algorithm is Algorithm.ECDSA:
        return _usable("", ec.generate_private_key(ec.SECP256R1()))
    return _usable("", ed25519.Ed25519PrivateKey.generate())


def encrypted(key: PrivateKey, password: bytes) -> bytes:
    """The key as `cosign generate-key-pair` writes it (PEM)."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from nacl.secret import SecretBox  # noqa: PLC0415

    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    inner = key._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())  # noqa: SLF001
    box = SecretBox(_derived(password, salt, _STANDARD))
    said = {
        "kdf": {
            "name": "scrypt",
            "params": {"N": _STANDARD, "r": _R, "p": _P},
            "salt": base64.b64encode(salt).decode(),
        },
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(box.encrypt(inner, nonce).ciphertext).decode(),
    }
    text = base64.b64encode(json.dumps(said, separators=(",", ":")).encode()).decode()
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    label = COSIGN_LABELS[0]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _decrypted(shown: str, body: str, password: Callable[[], bytes]) -> bytes:
    """The PKCS #8 of a key of cosign's."""
    from nacl.exceptions import CryptoError  # noqa: PLC0415 - see `signature`
    from nacl.secret import SecretBox  # noqa: PLC0415

    data = signature_file.decoded("".join(body.split()))
    try:
        said = json.loads(data, object_pairs_hook=distinct)
        kdf, cipher = said["kdf"], said["cipher"]
        names = kdf["name"], cipher["name"]
        params = [kdf["params"][name] for name in ("N", "r", "p")]
        salt, nonce, box = map(
            signature_file.decoded, (kdf["salt"], cipher["nonce"], said["ciphertext"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _bad(shown, "not an encrypted key as cosign writes it") from None
    if names != ("scrypt", "nacl/secretbox"):
        raise _bad(shown, "encrypted with something else than scrypt and nacl/secretbox")
    if not _is_known(params):
        raise _bad(
            shown, "its scrypt parameters are none of those that cosign uses, and could cost a lot"
        )
    if not salt or len(nonce) != _NONCE:
        raise _bad(shown, "not an encrypted key as cosign writes it")
    try:
        return SecretBox(_derived(password(), salt, params[0])).decrypt(box, nonce)
    except CryptoError:
        raise _bad(shown, "the password is wrong, or the file is damaged") from None


def _is_known(params: list[Any]) -> bool:
    # True is 1 for Python, and no number of JSON.
    return (
        all(type(number) is int for number in params)
        and params[0] in _STRENGTHS
        and params[1:] == [_R, _P]
    )


def _derived(password: bytes, salt: bytes, strength: int) -> bytes:
    return hashlib.scrypt(
        password, salt=salt, n=strength, r=_R, p=_P, maxmem=_MAX_MEMORY, dklen=_BOX_KEY
    )


def _of(
    shown: str, data: bytes, password: Callable[[], bytes] | None = None, *, pem: bool = False
) -> PrivateKey:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_der_private_key,
        load_pem_private_key,
    )

    load = load_pem_private_key if pem else load_der_private_key
    try:
        key = load(data, None)
    except TypeError:
        # It is encrypted.
        if password is None:
            raise _bad(shown, "encrypted twice") from None
        try:
            key = load(data, password() or None)
        except Exception:  # noqa: BLE001 - it says little that helps, in many types
            raise _bad(shown, "the password is wrong, or the file is damaged") from None
    except Exception:  # noqa: BLE001 - it says little that helps, in many types
        raise _bad(shown, "not a private key that can be read") from None
    return _usable(shown, key)


def _usable(shown: str, key: object) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = Algorithm.ECDSA
        usable: EllipticCurvePrivateKey | Ed25519PrivateKey = key
        signing = key

        def sign(data: bytes) -> bytes:
            return signing.sign(data, ec.ECDSA(SHA256()))

    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm, usable, sign = Algorithm.ED25519, key, key.sign
    else:
        kind = "an RSA key" if isinstance(key, rsa.RSAPrivateKey) else "a key of another kind"
        raise _bad(shown, f"{kind}; bundles are signed with ECDSA on P-256 or with Ed25519")
    public = usable.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PrivateKey(algorithm, key_id(public), pem, sign, usable)


def _bad(shown: str, what: str) -> BundleError:
    return BundleError(f"{shown}: {what}", Reason.KEY)
