"""Transparent capture: a listener for connections that the agent meant for somebody else.

- The kernel sends them here (`authz capture install`); where they were going is on the socket.
- TLS is judged by the name that its hello asks for, and Envoy itself resolves that name: the
  address that the agent dialled is worth nothing. Plain HTTP is judged by its host, as in
  `forward`. Whatever else, also TLS that names nobody, is judged by its address.
- There is one governed path: TLS and the rest become a CONNECT to a listener inside Envoy, which
  asks and dials as the forward proxy does. Nothing of that CONNECT is the agent's but the name, and
  the service judges whether it is one.
"""

from pathlib import Path
from typing import Any, Final

from authz.envoy_config.forward import http_manager
from authz.envoy_config.limits import (
    IDLE_TIMEOUT,
    INSPECTION_TIMEOUT,
    MAX_DURATION,
    MAX_OUTWARD,
    STREAM_WINDOW,
    TUNNEL_BUFFER_LIMIT,
)
from authz.envoy_config.options import EnvoyOptions
from authz.envoy_config.parts import (
    Config,
    circuit_breakers,
    endpoint,
    protocol_options,
    socket_address,
    type_url,
)

#: The listener inside Envoy, and the cluster that it is of.
CAPTURED: Final = "captured"
#: What each chain is for.
_NAMED, _PLAIN, _OTHER = "tls", "http", "other"


def capture_listeners(options: EnvoyOptions, directory: Path) -> list[Config]:
    """The listener on CAPTURE_PORT, and the one inside Envoy that it hands tunnels to, if any."""
    if not options.capture:
        return []
    first, *more = options.capture
    return [
        {
            "name": "capture",
            "address": socket_address(*first),
            **(
                {"additional_addresses": [{"address": socket_address(*other)} for other in more]}
                if more
                else {}
            ),
            # As on PORT: a second process could share the port and answer in our place.
            "enable_reuse_port": False,
            "per_connection_buffer_limit_bytes": TUNNEL_BUFFER_LIMIT,
            "listener_filters": [
                _listener_filter("original_dst", "OriginalDst"),
                _listener_filter("tls_inspector", "TlsInspector"),
                _listener_filter("http_inspector", "HttpInspector"),
            ],
            "listener_filters_timeout": INSPECTION_TIMEOUT,
            # It said nothing that tells what it is: judged by its address.
            "continue_on_listener_filters_timeout": True,
            "filter_chain_matcher": _by_protocol(),
            "filter_chains": [
                {
                    "name": _NAMED,
                    "filters": [_tunnel("%REQUESTED_SERVER_NAME%:%DOWNSTREAM_LOCAL_PORT%")],
                },
                {
                    "name": _PLAIN,
                    "filters": [http_manager(options, directory, "capture", "AUTO")],
                },
                {"name": _OTHER, "filters": [_tunnel("%DOWNSTREAM_LOCAL_ADDRESS%")]},
            ],
        },
        {
            "name": CAPTURED,
            "internal_listener": {},
            # Each belongs to a captured connection, and that one has been counted.
            "ignore_global_conn_limit": True,
            "per_connection_buffer_limit_bytes": TUNNEL_BUFFER_LIMIT,
            "filter_chains": [
                {
                    "filters": [
                        http_manager(options, directory, "capture", "HTTP2", only_connect=True)
                    ]
                }
            ],
        },
    ]


def captured_cluster() -> Config:
    """The listener inside Envoy."""
    # One connection a tunnel: in a shared one, two that are not read would stop all others.
    http2 = {
        "explicit_http_config": {
            "http2_protocol_options": {
                "allow_connect": True,
                "max_concurrent_streams": 1,
                "initial_stream_window_size": STREAM_WINDOW,
                "initial_connection_window_size": STREAM_WINDOW,
            }
        }
    }
    return {
        "name": CAPTURED,
        "type": "STATIC",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": TUNNEL_BUFFER_LIMIT,
        "circuit_breakers": circuit_breakers(MAX_OUTWARD),
        "typed_extension_protocol_options": protocol_options(http2, "60s"),
        "load_assignment": endpoint(
            CAPTURED, {"envoy_internal_address": {"server_listener_name": CAPTURED}}
        ),
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {
                "@type": type_url(
                    "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport"
                ),
                "transport_socket": {
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": {
                        "@type": type_url("extensions.transport_sockets.raw_buffer.v3.RawBuffer")
                    },
                },
            },
        },
    }


def internal_listeners() -> Config:
    """The part of Envoy that has listeners inside."""
    return {
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {
            "@type": type_url("extensions.bootstrap.internal_listener.v3.InternalListener"),
            "buffer_size_kb": TUNNEL_BUFFER_LIMIT // 1024,
        },
    }


def _listener_filter(name: str, message: str) -> Config:
    return {
        "name": f"envoy.filters.listener.{name}",
        "typed_config": {"@type": type_url(f"extensions.filters.listener.{name}.v3.{message}")},
    }


def _tunnel(authority: str) -> Config:
    """Carries the bytes of a connection in a CONNECT to `authority`."""
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": type_url("extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": CAPTURED,
            "cluster": CAPTURED,
            "idle_timeout": IDLE_TIMEOUT,
            "max_downstream_connection_duration": MAX_DURATION,
            "tunneling_config": {"hostname": authority},
        },
    }


def _by_protocol() -> Config:
    """Chooses the chain by what the connection's first bytes are."""

    def when(message: str, regex: str) -> Config:
        return {
            "single_predicate": {
                "input": {
                    "name": message,
                    "typed_config": {
                        "@type": type_url(f"extensions.matching.common_inputs.network.v3.{message}")
                    },
                },
                "value_match": {"safe_regex": {"google_re2": {}, "regex": regex}},
            }
        }

    def then(chain: str) -> dict[str, Any]:
        return {
            "action": {
                "name": chain,
                "typed_config": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": chain,
                },
            }
        }

    is_tls = when("TransportProtocolInput", "tls")
    names_somebody = when("ServerNameInput", "(?s).+")
    # Quoted, and several with commas between them.
    is_http = when("ApplicationProtocolInput", "'(http/1\\.[01]|h2c)'.*")
    return {
        "matcher_list": {
            "matchers": [
                {
                    "predicate": {"and_matcher": {"predicate": [is_tls, names_somebody]}},
                    "on_match": then(_NAMED),
                },
                {
                    "predicate": {"and_matcher": {"predicate": [{"not_matcher": is_tls}, is_http]}},
                    "on_match": then(_PLAIN),
                },
            ]
        },
        "on_no_match": then(_OTHER),
    }
