"""Whom Envoy talks to: the service over its unix sockets, and the upstream."""

from typing import Final

from authz.envoy_config.filters import strip_and_send
from authz.envoy_config.limits import BUFFER_LIMIT, MAX_IN_FLIGHT, SERVICE_POOL_IDLE_S
from authz.envoy_config.options import EnvoyOptions
from authz.envoy_config.parts import (
    HTTP1,
    Config,
    by_dns,
    circuit_breakers,
    endpoint,
    milliseconds,
    pipe,
    protocol_options,
    socket_address,
    type_url,
)

#: The cluster of the service's own endpoints.
SERVICE: Final = "service"
#: What the upstream may send ahead of an agent that reads slowly, over HTTP/2: enough of an answer
#: for a large file from another continent.
_WINDOWS: Final[Config] = {
    "http2_protocol_options": {
        "initial_stream_window_size": 256 * 1024,
        "initial_connection_window_size": 1024 * 1024,
    }
}


def service_cluster(
    options: EnvoyOptions, name: str, socket: str, protocol: Config, max_in_flight: int
) -> Config:
    """The service, at one of its unix sockets."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": milliseconds(options.decision_timeout_ms),
        "circuit_breakers": circuit_breakers(max_in_flight),
        "typed_extension_protocol_options": protocol_options(protocol, f"{SERVICE_POOL_IDLE_S}s"),
        "load_assignment": endpoint(name, pipe(options.run_dir / socket)),
    }


def upstream_cluster(options: EnvoyOptions) -> Config:
    """PROXY_TARGET, and what is done to every request that goes there."""
    upstream = options.upstream
    cluster: Config = {
        "name": "upstream",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT,
        "circuit_breakers": circuit_breakers(MAX_IN_FLIGHT),
        "load_assignment": endpoint("upstream", socket_address(upstream.host, upstream.port)),
    }
    if upstream.is_address:
        cluster["type"] = "STATIC"
    else:
        # A large service's name resolves to other addresses each time; connections to the earlier
        # ones stay open.
        cluster["cluster_type"] = by_dns(all_addresses_in_single_endpoint=True)
    # With TLS: HTTP/2 where the upstream offers it by ALPN, else HTTP/1.1.
    protocol = HTTP1 if upstream.scheme == "http" else {"auto_config": _WINDOWS}
    cluster["typed_extension_protocol_options"] = protocol_options(
        {**protocol, "http_filters": strip_and_send()}, "60s"
    )
    if upstream.scheme == "http":
        return cluster
    name_type = "IP_ADDRESS" if upstream.is_address else "DNS"
    tls: Config = {
        "@type": type_url("extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": str(options.ca_file)},
                "match_typed_subject_alt_names": [
                    {"san_type": name_type, "matcher": {"exact": upstream.host}}
                ],
            }
        },
    }
    if not upstream.is_address:
        tls["sni"] = upstream.host
    cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster
