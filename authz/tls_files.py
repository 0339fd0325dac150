"""The files of TLS_*, EXT_AUTHZ_TLS_* and EXT_AUTHZ_TARGET_*: what is wrong with them.

- What cannot be used is a sentence that names variable and file, before anybody listens with it.
- What can be used and should not be is a warning: a certificate that has expired, a key that every
  user of the host can read.
- Nothing that a key file holds is in any of them.
"""

import hashlib
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from authz.edges import pem
from authz.settings import Settings

#: What the variables of a pair begin with.
Prefix = Literal["TLS", "EXT_AUTHZ_TLS", "EXT_AUTHZ_TARGET"]


def listener(settings: Settings) -> str:
    """What tells the listener's files, as they are now, from other ones; empty without any.

    Raises:
        ValueError: Envoy could not use them; one sentence that starts with the variable.
    """
    return _for_envoy(
        "TLS", settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file, "CLIENT_"
    )


def target(settings: Settings) -> str:
    """The same of the files that Envoy asks a service on another host with.

    Raises:
        ValueError: Envoy could not use them; one sentence that starts with the variable.
    """
    return _for_envoy(
        "EXT_AUTHZ_TARGET",
        settings.target_cert_file,
        settings.target_key_file,
        settings.target_ca_file,
        "",
    )


def own(settings: Settings) -> tuple[bytes, bytes, bytes | None] | None:
    """What `authz serve` shows and asks for: chain, key and, if any, clients' issuers; all PEM.

    Raises:
        ValueError: one of them cannot be used; one sentence that starts with the variable.
    """
    certificate, key = settings.ext_authz_cert_file, settings.ext_authz_key_file
    if certificate is None or key is None:
        return None
    ca = settings.ext_authz_client_ca_file
    try:
        return *pem.key_pair(certificate, key), pem.certificates(ca) if ca else None
    except pem.Unusable as error:
        raise ValueError(_named("EXT_AUTHZ_TLS", certificate, key, "CLIENT_", error)) from None


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The same for `ssl`; None for cleartext. TLS 1.2 is the least, and nothing is resumed.

    Raises:
        ValueError: one of them cannot be used; one sentence that starts with the variable.
    """
    certificate, key = settings.ext_authz_cert_file, settings.ext_authz_key_file
    if own(settings) is None or certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
        if settings.ext_authz_client_ca_file is not None:
            context.load_verify_locations(settings.ext_authz_client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"EXT_AUTHZ_TLS_CERT_FILE: {certificate}: OpenSSL cannot use it ({error})"
        ) from None
    return context


def warnings(settings: Settings, prefix: Prefix, now: datetime) -> Iterator[str]:
    """What should not be as it is, of a pair that can be used; of none nothing."""
    certificate, key = {
        "TLS": (settings.tls_cert_file, settings.tls_key_file),
        "EXT_AUTHZ_TLS": (settings.ext_authz_cert_file, settings.ext_authz_key_file),
        "EXT_AUTHZ_TARGET": (settings.target_cert_file, settings.target_key_file),
    }[prefix]
    if certificate is None or key is None:
        return
    try:
        since, until = pem.validity(pem.certificates(certificate))
        exposed = pem.is_exposed(key)
    except (pem.Unusable, OSError):
        return  # which is said where they are read
    name = f"{prefix}_CERT_FILE: the certificate in {certificate}"
    if now > until:
        yield f"{name} has expired on {until:%Y-%m-%d}; peers refuse it until it is replaced"
    elif now < since:
        yield f"{name} is valid from {since:%Y-%m-%d} on; peers refuse it until then"
    if exposed:
        yield (
            f"{prefix}_KEY_FILE: every user of this host can read {key}; take that from them with"
            " `chmod o-r`"
        )


def _for_envoy(
    prefix: str, certificate: Path | None, key: Path | None, ca: Path | None, of_ca: str
) -> str:
    content: list[bytes] = []
    try:
        if certificate is not None and key is not None:
            content += pem.for_envoy(certificate, key)
        if ca is not None:
            content.append(pem.certificates(ca))
    except pem.Unusable as error:
        raise ValueError(_named(prefix, certificate, key, of_ca, error)) from None
    return hashlib.sha256(b"\0".join(content)).hexdigest() if content else ""


def _named(
    prefix: str, certificate: Path | None, key: Path | None, of_ca: str, error: pem.Unusable
) -> str:
    variable = {certificate: "CERT", key: "KEY"}.get(error.path, f"{of_ca}CA")
    return f"{prefix}_{variable}_FILE: {error}"
