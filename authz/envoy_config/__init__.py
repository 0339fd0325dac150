"""Envoy's configuration: Settings to a bootstrap and an ext_authz filter (DESIGN §7).

- The listener on PORT: `/proxy/…` asks ext_authz and goes to the upstream; everything else goes to
  the service over its unix socket, without asking. Where they are wanted, one that is a forward
  proxy and one for captured connections; each request there asks, and goes where it says.
- No secret is ever written here.

`listener`, `forward` and `capture` are who asks what, `filters` what stands in the way, `clusters`
whom Envoy talks to, `target` the same where the service is on another host, `tls` who has to show
what, `replies` what Envoy says itself, `access_log` what it writes down, `manager` how strictly it
reads, `limits` its bounds, `files` what is written where.
"""

from pathlib import Path

from authz.envoy_config.capture import (
    capture_listeners,
    captured_cluster,
    internal_listeners,
)
from authz.envoy_config.clusters import (
    SERVICE,
    service_cluster,
    upstream_cluster,
)
from authz.envoy_config.files import (
    BOOTSTRAP_FILE,
    EXT_AUTHZ_FILE,
    LISTENERS_FILE,
    listeners_discovery,
    write_mode,
)
from authz.envoy_config.filters import EXT_AUTHZ, EXT_AUTHZ_CLUSTER, ext_authz_discovery
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
from authz.envoy_config.target import target_clusters
from authz.envoy_config.tls import WAKE_DIRECTORY, secrets, wake
from authz.settings import ENVOY_ADMIN_SOCKET, EXT_AUTHZ_SOCKET, HTTP_SOCKET

__all__ = [
    "BOOTSTRAP_FILE", "EXT_AUTHZ", "EXT_AUTHZ_FILE", "LISTENERS_FILE", "MAX_HEADERS_KIB",
    "SERVICE_MAX_IN_FLIGHT",
    "SERVICE_POOL_IDLE_S", "Config", "EnvoyOptions", "bootstrap", "documents",
    "ext_authz_discovery", "to_yaml", "wake", "write", "write_mode",
]  # fmt: skip


def bootstrap(options: EnvoyOptions, directory: Path) -> Config:
    """envoy.config.bootstrap.v3.Bootstrap, with the filter's file expected in `directory`."""
    listeners: Config = {}
    if options.admin:
        listeners["listeners"] = _listeners(options, directory)
    return {
        "node": {"id": "authz-sidecar", "cluster": "authz-sidecar"},
        **_control(options, directory),
        "static_resources": {
            **listeners,
            "clusters": [
                *_service_clusters(options, directory),
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


def _listeners(options: EnvoyOptions, directory: Path) -> list[Config]:
    found = [listener(options, directory)]
    if options.forward is not None:
        found.append(forward_listener(options, directory))
    return found + capture_listeners(options, directory)


def _control(options: EnvoyOptions, directory: Path) -> Config:
    """How Envoy is told to close its listeners: by its admin endpoint, else by their file."""
    if options.admin:
        return {"admin": {"address": pipe(options.run_dir / ENVOY_ADMIN_SOCKET, 0o600)}}
    return {
        "dynamic_resources": {
            "lds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": str(directory / LISTENERS_FILE),
                    "watched_directory": {"path": str(directory)},
                },
            }
        }
    }


def _service_clusters(options: EnvoyOptions, directory: Path) -> list[Config]:
    if options.target is not None:
        names = (EXT_AUTHZ_CLUSTER, SERVICE)
        return target_clusters(options.target, names, options.decision_timeout_ms, directory)
    return [
        service_cluster(options, EXT_AUTHZ_CLUSTER, EXT_AUTHZ_SOCKET, HTTP2, MAX_IN_FLIGHT),
        service_cluster(options, SERVICE, HTTP_SOCKET, HTTP1, SERVICE_MAX_IN_FLIGHT),
    ]


def documents(options: EnvoyOptions, directory: Path) -> dict[str, Config]:
    """Every file that Envoy reads of `directory`, by name; the bootstrap is the first."""
    target = options.target
    listeners: dict[str, Config] = {}
    if not options.admin:
        listeners[LISTENERS_FILE] = listeners_discovery(_listeners(options, directory))
    return {
        BOOTSTRAP_FILE: bootstrap(options, directory),
        **listeners,
        EXT_AUTHZ_FILE: ext_authz_discovery(options.mode, options.decision_timeout_ms),
        **secrets(options.tls, target.tls if target else None, directory, is_woken=target is None),
    }


def write(options: EnvoyOptions, directory: Path) -> Path:
    """Write all files, which belong together; returns the bootstrap's path."""
    directory = directory.absolute()
    if options.tls is not None and options.target is None:
        (directory / WAKE_DIRECTORY).mkdir(exist_ok=True)
    for name, content in documents(options, directory).items():
        if name == EXT_AUTHZ_FILE:
            write_mode(options.mode, options.decision_timeout_ms, directory)
        else:
            (directory / name).write_text(to_yaml(content))
    return directory / BOOTSTRAP_FILE
