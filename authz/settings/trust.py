"""Whose certificates an https upstream is verified against."""

import ssl
from pathlib import Path
from typing import Final

from authz.settings.model import Settings, SettingsError

#: Where distributions keep the certificates they trust: Debian and Alpine, Fedora, macOS.
_CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def trusted_ca_file(settings: Settings) -> Path:
    """The certificates that an https upstream is verified against.

    Raises:
        SettingsError: there are none, so the upstream could not be trusted.
    """
    system = ssl.get_default_verify_paths().openssl_cafile
    choices = [settings.ca_file] if settings.ca_file else [*map(Path, _CA_FILES), Path(system)]
    for choice in choices:
        if choice.is_file():
            return choice
    raise SettingsError(
        ["SSL_CERT_FILE: no trusted certificates found, and an https PROXY_TARGET needs them"]
    )
