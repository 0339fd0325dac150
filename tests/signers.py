"""Whoever signs tokens with a private key, and the JWK Sets of their public halves."""

import base64
import functools
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.builders import claims

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def base64url(data: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def uint(value: int, octets: int = 0) -> str:
    """A Base64urlUInt (RFC 7518 §2), of as many octets as told."""
    return base64url(value.to_bytes(octets or (value.bit_length() + 7) // 8))


@functools.cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """An RSA key; making one takes long, so each number has the same one."""
    return rsa.generate_private_key(65537, bits)


class Signer:
    """A private key, by default Ed25519."""

    def __init__(self, kid: str | None, key: Private | None = None) -> None:
        self.kid = kid
        self.key = key or ed25519.Ed25519PrivateKey.generate()

    @property
    def alg(self) -> str:
        """The one algorithm that the key is for."""
        match self.key:
            case ed25519.Ed25519PrivateKey():
                return "EdDSA"
            case ec.EllipticCurvePrivateKey():
                return "ES256"
        return "RS256"

    def public_pem(self) -> bytes:
        """The public half as OpenSSL writes it."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwk(self, **more: object) -> dict[str, Any]:
        """The public half; a member that is set to None is left out."""
        public = self.key.public_key()
        found: dict[str, object]
        match public:
            case ed25519.Ed25519PublicKey():
                found = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
            case ec.EllipticCurvePublicKey():
                point = public.public_numbers()
                size = (public.curve.key_size + 7) // 8
                found = {"kty": "EC", "crv": "P-256" if size == 32 else "P-384"}
                found |= {"x": uint(point.x, size), "y": uint(point.y, size)}
            case _:
                numbers = public.public_numbers()
                found = {"kty": "RSA", "n": uint(numbers.n), "e": uint(numbers.e)}
        found |= {"kid": self.kid} | more
        return {name: value for name, value in found.items() if value is not None}

    def sign(self, message: bytes) -> bytes:
        """A JWS signature (RFC 7518 §3, RFC 8037 §3.1)."""
        match self.key:
            case ed25519.Ed25519PrivateKey():
                return self.key.sign(message)
            case ec.EllipticCurvePrivateKey():
                der = self.key.sign(message, ec.ECDSA(hashes.SHA256()))
                return b"".join(part.to_bytes(32) for part in decode_dss_signature(der))
        return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def token(
        self,
        said: Mapping[str, object] | bytes | None = None,
        header: Mapping[str, object] | bytes | None = None,
    ) -> str:
        """A JWT whose every part is the test's choice; the signature is a true one.

        Args:
            said: the claims; a good token's when left out.
            header: added to `alg` and `kid`, which it may replace; a value of None leaves one out.
        """
        if not isinstance(header, bytes):
            whole = {"alg": self.alg, "kid": self.kid} | dict(header or {})
            header = json.dumps({k: v for k, v in whole.items() if v is not None}).encode()
        body = said if isinstance(said, bytes) else json.dumps(said or claims()).encode()
        signed = f"{base64url(header)}.{base64url(body)}"
        return f"{signed}.{base64url(self.sign(signed.encode()))}"


def jwks(*keys: Signer | Mapping[str, object]) -> bytes:
    """A JWK Set of these."""
    members = [key.jwk() if isinstance(key, Signer) else dict(key) for key in keys]
    return json.dumps({"keys": members}).encode()
