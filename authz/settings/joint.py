"""What no single variable can tell: those that need, exclude or equal each other."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from authz.settings.alerts import alert_problems
from authz.settings.bundles import bundle_problems
from authz.settings.checks import HOW_TO_MAKE
from authz.settings.files import read_jwks_file
from authz.settings.ingest import ingest_problems
from authz.settings.paths import (
    ENVOY_ADMIN_SOCKET,
    EXT_AUTHZ_SOCKET,
    HTTP_SOCKET,
    MAX_SOCKET_PATH,
)
from authz.settings.sync import sync_problems
from authz.settings.tracing import tracing_problems

if TYPE_CHECKING:
    from authz.settings.model import Settings


def token_key_problems(given: Mapping[str, str]) -> list[str]:
    """What is wrong with where the keys of tokens come from."""
    file = given.get("JWKS_FILE")
    if file is None:
        said = f"JWT_SECRET: not set; make one with: {HOW_TO_MAKE['JWT_SECRET']}"
        return [] if "JWT_SECRET" in given else [said]
    try:
        read_jwks_file(Path(file))
    except ValueError as error:
        return [str(error)]
    return []


def joint_problems(settings: "Settings") -> list[str]:
    """What no single variable can tell."""
    problems = []
    names = (EXT_AUTHZ_SOCKET, HTTP_SOCKET, ENVOY_ADMIN_SOCKET)
    socket = max((os.fspath((settings.run_dir / name).absolute()) for name in names), key=len)
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        problems.append(
            f"AUTHZ_RUN_DIR: its sockets' paths would have {len(os.fsencode(socket))} bytes and the"
            f" system's limit is {MAX_SOCKET_PATH}; choose a shorter directory"
        )
    database, key = settings.audit_db_path, settings.audit_key_file
    if key is not None and database in (key, Path(f"{os.fspath(key).removesuffix('.key')}.pub")):
        # Reading the database as a key would drop SQLite's locks on it; the public half replaces.
        problems.append("AUDIT_KEY_FILE: it, or its public half in .pub, would be AUDIT_DB_PATH")
    if settings.admin_token and settings.admin_token == settings.jwt_secret:
        problems.append("ADMIN_TOKEN: must differ from JWT_SECRET")
    problems += ingest_problems(settings)
    problems += _listener_problems(settings)
    problems += _outward_problems(settings)
    problems += bundle_problems(settings)
    problems += tracing_problems(settings)
    problems += alert_problems(settings)
    problems += sync_problems(settings)
    if settings.proxy_authorization and "upstream" not in settings.model_fields_set:
        problems.append(
            "PROXY_AUTHORIZATION: given without PROXY_TARGET, so the default upstream would get it"
        )
    return problems


def _outward_problems(settings: "Settings") -> list[str]:
    """What is wrong with the ways out to other hosts than PROXY_TARGET."""
    problems = []
    ports = {"PORT": settings.port}
    for name, port in (
        ("FORWARD_PROXY_PORT", settings.forward_proxy_port),
        ("CAPTURE_PORT", settings.capture_port),
    ):
        same = next((other for other, taken in ports.items() if taken == port), "")
        if same:
            problems.append(f"{name}: must differ from {same}")
        elif port is not None:
            ports[name] = port
    if settings.agent_id:
        return problems
    if settings.capture_port is not None:
        problems.append(
            "CAPTURE_PORT: needs SIDECAR_AGENT_ID, whose connections these are: a captured one"
            " carries no token"
        )
    for name in ("agent_tier", "agent_tags", "agent_org"):
        field = type(settings).model_fields[name]
        if getattr(settings, name) != field.default:
            problems.append(f"{field.alias}: has no effect without SIDECAR_AGENT_ID")
    return problems


def _listener_problems(settings: "Settings") -> list[str]:
    problems = [*_pairing_problems(settings), *_target_problems(settings)]
    encrypted = settings.ext_authz_cert_file is not None and settings.ext_authz_key_file is not None
    if encrypted and settings.ext_authz_transport == "h2c":
        problems.append("EXT_AUTHZ_TRANSPORT: h2c is cleartext; use grpc with a certificate")
    addresses = {
        "EXT_AUTHZ_ADDRESS": settings.ext_authz_address,
        "HTTP_ADDRESS": settings.http_address,
    }
    for name, address in addresses.items():
        if address and not encrypted and not ipaddress.ip_address(address[0]).is_loopback:
            problems.append(
                f"{name}: {address[0]} can be reached from other hosts, and cleartext is for"
                " this one alone; set EXT_AUTHZ_TRANSPORT=grpc, EXT_AUTHZ_TLS_CERT_FILE and"
                " EXT_AUTHZ_TLS_KEY_FILE, or use 127.0.0.1"
            )
    return problems


def _pairing_problems(settings: "Settings") -> list[str]:
    """Certificates without their keys, keys without certificates, and issuers without both."""
    problems = []
    for prefix, certificate, key, ca in (
        (
            "EXT_AUTHZ_TLS_",
            settings.ext_authz_cert_file,
            settings.ext_authz_key_file,
            settings.ext_authz_client_ca_file,
        ),
        ("TLS_", settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file),
        ("EXT_AUTHZ_TARGET_", settings.target_cert_file, settings.target_key_file, None),
    ):
        if (certificate is None) is not (key is None):
            problems.append(f"{prefix}CERT_FILE: a certificate and {prefix}KEY_FILE go together")
        if ca is not None and (certificate is None or key is None):
            problems.append(f"{prefix}CLIENT_CA_FILE: has no effect without a certificate")
    return problems


def _target_problems(settings: "Settings") -> list[str]:
    targets = {"EXT_AUTHZ_TARGET": settings.ext_authz_target, "HTTP_TARGET": settings.http_target}
    given = {name: target for name, target in targets.items() if target is not None}
    problems = []
    if len(given) == 1:
        [missing] = targets.keys() - given.keys()
        problems.append(f"{missing}: is needed beside {next(iter(given))}; a service has both")
    if settings.target_ca_file is None:
        problems += [
            f"{name}: {target.host} is another host, and cleartext is for this one alone; set"
            " EXT_AUTHZ_TARGET_CA_FILE"
            for name, target in given.items()
            if not target.is_here
        ]
        if settings.target_cert_file is not None:
            problems.append(
                "EXT_AUTHZ_TARGET_CERT_FILE: has no effect without EXT_AUTHZ_TARGET_CA_FILE"
            )
    elif not given:
        problems.append("EXT_AUTHZ_TARGET_CA_FILE: has no effect without EXT_AUTHZ_TARGET")
    return problems
