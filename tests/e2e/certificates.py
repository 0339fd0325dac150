"""Certificates for tests, made on the spot."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Issued(NamedTuple):
    """A certificate and its key in files, and the certificate as a peer shows it (DER)."""

    certificate: Path
    key: Path
    der: bytes


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for `localhost` and 127.0.0.1 that signs itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test upstream")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(built.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "key.pem").chmod(0o600)
    return folder / "cert.pem", folder / "key.pem"


class Authority:
    """Issues certificates for `localhost` and 127.0.0.1, for servers and clients alike."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        self._certificate = self._issued(self._name, self._key.public_key(), is_ca=True)

    @property
    def pem(self) -> bytes:
        """Its own certificate, which peers trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, folder: Path, name: str, *, age: timedelta = timedelta(hours=1)) -> Issued:
        """A new certificate for a new key, as PEM files in the folder, which is made.

        Args:
            age: how long ago it began; it is valid for two hours.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._issued(_common_name(name), key.public_key(), age=age)
        folder.mkdir(parents=True, exist_ok=True)
        certificate, private = folder / "tls.crt", folder / "tls.key"
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        private.chmod(0o600)
        return Issued(certificate, private, issued.public_bytes(serialization.Encoding.DER))

    def _issued(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        is_ca: bool = False,
        age: timedelta = timedelta(hours=1),
    ) -> x509.Certificate:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
        since = datetime.now(UTC) - age
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(since + timedelta(hours=2))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
