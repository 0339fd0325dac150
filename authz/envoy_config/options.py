"""What Envoy's configuration is made from."""

import socket
from dataclasses import dataclass
from pathlib import Path

from authz.core.mode import Mode
from authz.envoy_config.target import Target
from authz.envoy_config.tls import ListenerTls, Pair, TargetTls
from authz.settings import (
    DENIED_NETWORKS,
    Network,
    Settings,
    Upstream,
    trusted_ca_file,
)


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """The part of the settings that Envoy needs; no secrets among it."""

    host: str
    port: int
    mode: Mode
    upstream: Upstream
    run_dir: Path
    #: Certificates an https upstream is verified against; not read for http.
    ca_file: Path | None
    #: The circuit breaker, milliseconds: without a decision until then there is none. The seed's
    #: hard one is 100.
    decision_timeout_ms: int
    #: TLS on the listener; cleartext without.
    tls: ListenerTls | None = None
    #: The service where it is on another host; without, at its unix sockets in `run_dir`.
    target: Target | None = None
    #: Worker threads that Envoy is started with.
    workers: int = 1
    #: Envoy's admin endpoint, a unix socket in `run_dir`.
    admin: bool = True
    #: A line of JSON for every request, and whether for those of probes too.
    access_log: bool = False
    access_log_probes: bool = False
    #: Address and port of the forward proxy; None where there is none.
    forward: tuple[str, int] | None = None
    #: Addresses and ports that captured connections come to; empty where none are captured.
    capture: tuple[tuple[str, int], ...] = ()
    #: What neither of them connects to.
    denied_networks: tuple[Network, ...] = DENIED_NETWORKS

    @classmethod
    def of(cls, settings: Settings) -> "EnvoyOptions":
        """
        Raises:
            SettingsError: the upstream is https and no trusted certificates are found.
        """
        secure = settings.upstream.scheme == "https"
        return cls(
            host=settings.host,
            port=settings.port,
            mode=settings.mode,
            upstream=settings.upstream,
            run_dir=settings.run_dir.absolute(),
            ca_file=trusted_ca_file(settings).absolute() if secure else None,
            decision_timeout_ms=settings.decision_timeout_ms,
            tls=_listener_tls(settings),
            target=_target(settings),
            workers=settings.envoy_workers,
            admin=settings.envoy_admin == "socket",
            access_log=settings.access_log == "json",
            access_log_probes=settings.access_log_probes,
            forward=(settings.forward_proxy_host, settings.forward_proxy_port)
            if settings.forward_proxy_port
            else None,
            capture=_loopback(settings.capture_port) if settings.capture_port else (),
            denied_networks=settings.forward_deny_cidrs,
        )


def _listener_tls(settings: Settings) -> ListenerTls | None:
    pair = _pair(settings.tls_cert_file, settings.tls_key_file)
    if pair is None:
        return None
    ca = settings.tls_client_ca_file
    return ListenerTls(pair, ca.absolute() if ca else None)


def _target(settings: Settings) -> Target | None:
    ext_authz, http = settings.ext_authz_target, settings.http_target
    if ext_authz is None or http is None:
        return None
    ca = settings.target_ca_file
    pair = _pair(settings.target_cert_file, settings.target_key_file)
    return Target(ext_authz, http, TargetTls(ca.absolute(), pair) if ca else None)


def _pair(certificate: Path | None, key: Path | None) -> Pair | None:
    if certificate is None or key is None:
        return None
    return Pair(certificate.absolute(), key.absolute())


def _loopback(port: int) -> tuple[tuple[str, int], ...]:
    """Where the kernel redirects connections to that are made on this host: loopback, by family."""
    addresses: tuple[tuple[str, int], ...] = (("127.0.0.1", port),)
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        # No IPv6 here, and nothing to capture.
        return addresses
    return (*addresses, ("::1", port))
