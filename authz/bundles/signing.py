"""Signature files, as cosign writes them: base64 alone, or a Sigstore bundle.

- An Ed25519 key signs plainly (RFC 8032 §5.1) in both, which every cosign verifies with `--key`.
"""

import base64
import hashlib
import json
from typing import Final

from authz.bundles.cosign_key import PrivateKey
from authz.bundles.kinds import Format

#: What is written; `signature_file` reads older ones too.
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


def signature_of(data: bytes, key: PrivateKey, written: Format = Format.SIG) -> bytes:
    """The content of a signature file for these bytes."""
    signature = _base64(key.sign(data))
    if written is Format.SIG:
        return f"{signature}\n".encode()
    said = {
        "mediaType": MEDIA_TYPE,
        # Without the empty list of log entries some readers do not take it for one.
        "verificationMaterial": {
            "publicKey": {"hint": _base64(bytes.fromhex(key.key_id))},
            "tlogEntries": [],
        },
        "messageSignature": {
            "messageDigest": {
                "algorithm": "SHA2_256",
                "digest": _base64(hashlib.sha256(data).digest()),
            },
            "signature": signature,
        },
    }
    return json.dumps(said, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
