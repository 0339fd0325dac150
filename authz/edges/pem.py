"""Certificates and keys in PEM files, looked at before grpcio, Envoy or OpenSSL gets them: where
they cannot be used those write why to stderr, and most say nothing of the file."""

import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

#: Bytes of a file that are read. The certificates that a system trusts have about 250 KB.
MAX_PEM: Final = 1024 * 1024
#: What Envoy signs with (ServerContextImpl): RSA of so many bits, and these curves.
_MIN_RSA_BITS: Final = 2048
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class Unusable(Exception):
    """A file that cannot be used; the message names it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


def certificates(path: Path) -> bytes:
    """The content of a file with certificates.

    Raises:
        Unusable: it cannot be read, or holds none.
    """
    content = _content(path)
    _parsed(path, content)
    return content


def key_pair(chain: Path, key: Path) -> tuple[bytes, bytes]:
    """The contents of a file with a certificate chain and of one with the key of its first.

    Raises:
        Unusable: one of them cannot be read or used, or they do not belong together.
    """
    certificate, private = _content(chain), _content(key)
    [first, *_] = _parsed(chain, certificate)
    try:
        public = serialization.load_pem_private_key(private, None).public_key()
    except TypeError:
        raise Unusable(key, "the key is encrypted, and there is no passphrase for it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(key, "not a PEM private key") from None
    if public != first.public_key():
        raise Unusable(key, f"not the key of the first certificate in {chain}")
    return certificate, private


def for_envoy(chain: Path, key: Path) -> tuple[bytes, bytes]:
    """A pair that Envoy can use, as `key_pair` gives it.

    Raises:
        Unusable: as there, or Envoy takes no such key.
    """
    pair = key_pair(chain, key)
    public = _parsed(chain, pair[0])[0].public_key()
    if isinstance(public, rsa.RSAPublicKey):
        usable = public.key_size >= _MIN_RSA_BITS
    else:
        usable = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, _CURVES)
    if not usable:
        raise Unusable(
            chain,
            "Envoy takes RSA keys of at least 2048 bits and ECDSA keys on P-256, P-384 or P-521",
        )
    return pair


def validity(content: bytes) -> tuple[datetime, datetime]:
    """From when to when the first of these certificates is valid (RFC 5280 §4.1.2.5)."""
    first = x509.load_pem_x509_certificates(content)[0]
    return first.not_valid_before_utc, first.not_valid_after_utc


def is_exposed(path: Path) -> bool:
    """Every user of this host can read the file, as far as its own mode says."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _content(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Unusable(path, "not a regular file")
            content = stream.read(MAX_PEM + 1)
    except OSError as error:
        raise Unusable(path, str(error.strerror)) from None
    if len(content) > MAX_PEM:
        raise Unusable(path, f"longer than {MAX_PEM} bytes")
    return content


def _parsed(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(path, "not PEM certificates") from None
