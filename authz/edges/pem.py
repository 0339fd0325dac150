"""Certificates and keys in PEM files, looked at before grpcio gets them: where they cannot be used
it writes why to stderr, and says nothing of the file."""

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization


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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(path, str(error.strerror)) from None


def _parsed(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(path, "not PEM certificates") from None
