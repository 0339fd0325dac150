"""TLS: what the listener shows and asks of clients, and how the service on another host is reached.

- Names of files are written, never what they hold: Envoy reads certificates and keys itself. They
  come by SDS from a file, so that they are replaced in place; connections that are open stay.
- The listener's are read again when `wake` says so, and never because a file has changed: the
  service looks at the new pair first. What Envoy would take for itself it could not give back, and
  it sees renames alone, neither a file that is written over nor a link above it.
- Where the service is on another host there is none beside the files that could look. Then Envoy
  watches their directories for renames: a Kubernetes secret's update is one.
- TLS 1.2 is the least. Nothing is resumed: a ticket would let a client in whose certificate has
  expired or whose issuer is not trusted any more.
"""

from pathlib import Path
from typing import Final, NamedTuple

from authz.envoy_config.parts import Config, type_url

#: In the directory of the configuration: what a rename in wakes Envoy, and what is renamed.
WAKE_DIRECTORY: Final = "tls"
_WAKE_FILE: Final = "changed"
#: Seconds that a client may take for its handshake.
HANDSHAKE_TIMEOUT: Final = "10s"

#: The secrets, by the names that the subscriptions ask for.
LISTENER_CERTIFICATE: Final = "listener_certificate"
LISTENER_CLIENT_CA: Final = "listener_client_ca"
TARGET_CERTIFICATE: Final = "target_certificate"
TARGET_CA: Final = "target_ca"


class Pair(NamedTuple):
    """A certificate chain and the key of its first certificate: PEM files, absolute."""

    certificate: Path
    key: Path


class ListenerTls(NamedTuple):
    """What the listener shows, and what it asks of clients."""

    pair: Pair
    #: Issuers of clients' certificates; None: a client needs none.
    client_ca: Path | None = None


class TargetTls(NamedTuple):
    """How the service on another host is known, and what it knows Envoy by."""

    ca: Path
    pair: Pair | None = None


def listener_socket(tls: ListenerTls, directory: Path) -> Config:
    """The listener's transport socket; the secrets are expected in `directory`."""
    common: Config = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_subscription(LISTENER_CERTIFICATE, directory)],
    }
    context: Config = {
        "@type": type_url("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": common,
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
    }
    if tls.client_ca is not None:
        common["validation_context_sds_secret_config"] = _subscription(
            LISTENER_CLIENT_CA, directory
        )
        context["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def target_socket(
    tls: TargetTls, directory: Path, host: str, *, is_address: bool, protocol: str
) -> Config:
    """The transport socket to the service on another host, which has to be who it is said to be.

    Args:
        protocol: what is offered by ALPN: `h2` or `http/1.1`.
    """
    validation: Config = {
        "default_validation_context": {
            "match_typed_subject_alt_names": [
                {
                    "san_type": "IP_ADDRESS" if is_address else "DNS",
                    "matcher": {"exact": host},
                }
            ]
        },
        "validation_context_sds_secret_config": _subscription(TARGET_CA, directory),
    }
    common: Config = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": [protocol],
        "combined_validation_context": validation,
    }
    if tls.pair is not None:
        common["tls_certificate_sds_secret_configs"] = [
            _subscription(TARGET_CERTIFICATE, directory)
        ]
    context: Config = {
        "@type": type_url("extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common,
    }
    if not is_address:
        context["sni"] = host
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def secrets(
    listener: ListenerTls | None, target: TargetTls | None, directory: Path, *, is_woken: bool
) -> dict[str, Config]:
    """The files that the subscriptions read, by name: each a DiscoveryResponse with one secret.

    Args:
        is_woken: a service that runs here says when the listener's files are to be read again.
    """
    found: dict[str, Config] = {}
    if listener is not None:
        watched: Config = {}
        if is_woken:
            watched["watched_directory"] = {"path": str(directory / WAKE_DIRECTORY)}
        found |= _secret(LISTENER_CERTIFICATE, _certificate(listener.pair, watched))
        if listener.client_ca is not None:
            found |= _secret(LISTENER_CLIENT_CA, _trusted(listener.client_ca, watched))
    if target is not None:
        found |= _secret(TARGET_CA, _trusted(target.ca, {}))
        if target.pair is not None:
            found |= _secret(TARGET_CERTIFICATE, _certificate(target.pair, {}))
    return found


def wake(directory: Path) -> None:
    """Have an Envoy that runs read the listener's certificates again; nothing where it has none.

    It compares what it reads with what it has, so that doing this once too often changes nothing.
    """
    watched = directory / WAKE_DIRECTORY
    if not watched.is_dir():
        return
    new = watched / f".{_WAKE_FILE}.new"
    new.write_bytes(b"")
    new.replace(watched / _WAKE_FILE)


def _subscription(name: str, directory: Path) -> Config:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(directory / _file(name))},
        },
    }


def _secret(name: str, content: Config) -> dict[str, Config]:
    secret = {
        "@type": type_url("extensions.transport_sockets.tls.v3.Secret"),
        "name": name,
        **content,
    }
    return {_file(name): {"resources": [secret]}}


def _file(name: str) -> str:
    return f"{name}.yaml"


def _certificate(pair: Pair, watched: Config) -> Config:
    return {
        "tls_certificate": {
            "certificate_chain": {"filename": str(pair.certificate)},
            "private_key": {"filename": str(pair.key)},
            **watched,
        }
    }


def _trusted(file: Path, watched: Config) -> Config:
    return {"validation_context": {"trusted_ca": {"filename": str(file)}, **watched}}
