"""Envoy's configuration: Settings to a bootstrap and an ext_authz filter (DESIGN §7).

- The listener on PORT: `/proxy/…` asks ext_authz and goes to the upstream; everything else goes to
  the service over its unix socket, without asking. Where they are wanted, one that is a forward
  proxy and one for captured connections; each request there asks, and goes where it says.
- No secret is ever written here.

`listener`, `forward` and `capture` are who asks what, `filters` what stands in the way, `clusters`
whom Envoy talks to, `replies` what it says itself, `limits` its bounds, `files` what is written
where.
"""

from pathlib import Path

from authz.envoy_config.capture import (
    capture_listeners,
    captured_cluster,
    internal_listeners,
)
from authz.envoy_config.clusters import SERVICE, service_cluster, upstream_cluster
from authz.envoy_config.files import BOOTSTRAP_FILE, EXT_AUTHZ_FILE, write_mode
from authz.envoy_config.filters import EXT_AUTHZ, ext_authz_discovery
from authz.envoy_config.forward import anywhere_cluster, forward_listener
from authz.envoy_config.limits import (
    MAX_CONNECTIONS,
    MAX_HEADERS_KIB,
    MAX_IN_FLIGHT,
    SERVICE_MAX_IN_FLIGHT,
    SERVICE_POOL_IDLE_S,
)
from authz.envoy_config.listener import listener
from authz.envoy_config.options import EnvoyOptions
from authz.envoy_config.parts import HTTP1, HTTP2, Config, pipe, to_yaml, type_url
from authz.settings import ENVOY_ADMIN_SOCKET, EXT_AUTHZ_SOCKET, HTTP_SOCKET

__all__ = [
    "BOOTSTRAP_FILE", "EXT_AUTHZ", "EXT_AUTHZ_FILE", "MAX_HEADERS_KIB", "SERVICE_MAX_IN_FLIGHT",
    "SERVICE_POOL_IDLE_S", "Config", "EnvoyOptions", "bootstrap", "ext_authz_discovery", "to_yaml",
    "write", "write_mode",
]  # fmt: skip


def bootstrap(options: EnvoyOptions, directory: Path) -> Config:
    """envoy.config.bootstrap.v3.Bootstrap, with the filter's file expected in `directory`."""
    return {
        "node": {"id": "authz-sidecar", "cluster": "authz-sidecar"},
        "admin": {"address": pipe(options.run_dir / ENVOY_ADMIN_SOCKET, 0o600)},
        "static_resources": {
            "listeners": [
                listener(options, directory),
                *([forward_listener(options, directory)] if options.forward else []),
                *(capture_listeners(options, directory) if options.capture else []),
            ],
            "clusters": [
                service_cluster(options, "ext_authz", EXT_AUTHZ_SOCKET, HTTP2, MAX_IN_FLIGHT),
                service_cluster(options, SERVICE, HTTP_SOCKET, HTTP1, SERVICE_MAX_IN_FLIGHT),
                upstream_cluster(options),
                *([anywhere_cluster(options)] if options.forward or options.capture else []),
                *([captured_cluster()] if options.capture else []),
            ],
        },
        **({"bootstrap_extensions": [internal_listeners()]} if options.capture else {}),
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": type_url(
                            "extensions.resource_monitors.downstream_connections.v3."
                            "DownstreamConnectionsConfig"
                        ),
                        "max_active_downstream_connections": MAX_CONNECTIONS,
                    },
                }
            ]
        },
        # The filter chain decides who may do what; nothing in it may be switched at run time.
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }


def write(options: EnvoyOptions, directory: Path) -> Path:
    """Write both files, which belong together; returns the bootstrap's path."""
    directory = directory.absolute()
    write_mode(options.mode, options.decision_timeout_ms, directory)
    path = directory / BOOTSTRAP_FILE
    path.write_text(to_yaml(bootstrap(options, directory)))
    return path
