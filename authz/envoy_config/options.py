"""What Envoy's configuration is made from."""

import socket
from dataclasses import dataclass
from pathlib import Path

from authz.core.mode import Mode
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
            forward=(settings.forward_proxy_host, settings.forward_proxy_port)
            if settings.forward_proxy_port
            else None,
            capture=_loopback(settings.capture_port) if settings.capture_port else (),
            denied_networks=settings.forward_deny_cidrs,
        )


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
