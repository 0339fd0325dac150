"""Envoy's configuration: Settings to a bootstrap and an ext_authz filter (DESIGN §7).

- One listener. `/proxy/…` asks ext_authz and goes to the upstream; everything else goes to the
  service over its unix socket, without asking.
- Policy and upstream see one path: normalised, slashes merged, escaped slashes refused, header
  names with underscores refused (many servers read `_` as `-`).
- What is ours never reaches the upstream even if nobody answers the ext_authz call: the route
  strips it, and a credential that looks like a token when the call failed open.
- The filter comes by ECDS from a file, so that a change of mode replaces `failure_mode_allow` in
  place, without a restart or a dropped connection.
- No secret is ever written here.

Plain data rather than `envoy-data-plane` classes: importing those takes 1.3 s, more than the
whole start may (DESIGN §10). A test runs the real binary's validation over every variant, and
parses the result with those classes.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from authz.core.errors import Code
from authz.core.mode import Mode
from authz.core.names import (
    ADMIN_HEADER,
    DECISION_HEADER,
    GOVERNANCE_PREFIX,
    MAX_BODY,
    PROXY_PREFIX,
    RETRY_AFTER_S,
)
from authz.settings import (
    ENVOY_ADMIN_SOCKET,
    EXT_AUTHZ_SOCKET,
    HTTP_SOCKET,
    Settings,
    Upstream,
    trusted_ca_file,
)

Config = dict[str, Any]

EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
BOOTSTRAP_FILE: Final = "envoy.yaml"
EXT_AUTHZ_FILE: Final = "ext_authz.yaml"

#: Concurrent ext_authz calls and upstream requests. One agent's sidecar serves a few dozen; the
#: rest is refused at once instead of queueing.
MAX_IN_FLIGHT: Final = 1024
#: Connections that may be open to the listener at once.
MAX_CONNECTIONS: Final = 1024
#: Bytes that Envoy buffers for one connection in each direction before it stops reading.
BUFFER_LIMIT: Final = 128 * 1024
#: Header size, KiB, and count. A token of 8 KiB and an agent's usual 20 headers fit thrice.
MAX_HEADERS_KIB: Final = 60
MAX_HEADERS: Final = 100
#: Seconds a client may take to send its headers (slow-loris), and a stream may be silent.
HEADERS_TIMEOUT: Final = "10s"
#: A model may think for minutes before its first byte.
IDLE_TIMEOUT: Final = "300s"
#: A connection without a request is closed after this, so that silent ones do not use up
#: MAX_CONNECTIONS.
CONNECTION_IDLE_TIMEOUT: Final = "60s"
#: No request lives longer, however lively.
MAX_DURATION: Final = "3600s"

#: Requests that the service answers itself: seconds for the answer, between two bytes of the
#: request, and in all; and how many at once, fewer than the service takes, so that the refusal is
#: Envoy's, in JSON.
SERVICE_TIMEOUT: Final = "5s"
SERVICE_IDLE_TIMEOUT: Final = "10s"
SERVICE_DURATION: Final = "30s"
SERVICE_MAX_IN_FLIGHT: Final = 200
#: Reading the audit trail takes longer: an export for as long as it moves, and who follows the
#: trail hears something every ten seconds. The service ends what it answers whole by itself.
READING_IDLE_TIMEOUT: Final = "60s"
#: Seconds that Envoy keeps an unused connection to the service: fewer than the service does, so
#: that it never sends on one that is being closed.
SERVICE_POOL_IDLE_S: Final = 30

#: The cluster of the service's own endpoints.
_SERVICE: Final = "service"
#: Where the audit trail is read.
READING: Final = tuple(
    f"{prefix}/{name}" for prefix in ("/admin", "/api/v1/admin") for name in ("audit", "analytics")
)
#: Paths below /proxy/ that the service answers itself (CONTRACT §1.2).
RESERVED: Final = ("/proxy/check", "/proxy/audit", "/proxy/governance")


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
        )


def bootstrap(options: EnvoyOptions, directory: Path) -> Config:
    """envoy.config.bootstrap.v3.Bootstrap, with the filter's file expected in `directory`."""
    return {
        "node": {"id": "authz-sidecar", "cluster": "authz-sidecar"},
        "admin": {"address": _pipe(options.run_dir / ENVOY_ADMIN_SOCKET, 0o600)},
        "static_resources": {
            "listeners": [_listener(options, directory)],
            "clusters": [
                _service_cluster(options, "ext_authz", EXT_AUTHZ_SOCKET, _HTTP2, MAX_IN_FLIGHT),
                _service_cluster(options, _SERVICE, HTTP_SOCKET, _HTTP1, SERVICE_MAX_IN_FLIGHT),
                _upstream_cluster(options),
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _type(
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


def ext_authz_discovery(mode: Mode, decision_timeout_ms: int) -> Config:
    """The file that the listener's ECDS subscription reads: a DiscoveryResponse with the filter."""
    return {
        "version_info": str(mode),
        "resources": [
            {
                "@type": _type("config.core.v3.TypedExtensionConfig"),
                "name": EXT_AUTHZ,
                "typed_config": {
                    "@type": _type("extensions.filters.http.ext_authz.v3.ExtAuthz"),
                    "transport_api_version": "V3",
                    "grpc_service": {
                        "envoy_grpc": {"cluster_name": "ext_authz"},
                        "timeout": _milliseconds(decision_timeout_ms),
                    },
                    # Broken is not denied in enforce mode, and never blocks in the others.
                    "failure_mode_allow": mode is not Mode.ENFORCE,
                    "failure_mode_allow_header_add": True,
                    "status_on_error": {"code": "ServiceUnavailable"},
                    "stat_prefix": "sidecar",
                },
            }
        ],
    }


def to_yaml(config: Config) -> str:
    """Configuration as the YAML that Envoy reads."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=100)


def write(options: EnvoyOptions, directory: Path) -> Path:
    """Write both files, which belong together; returns the bootstrap's path."""
    directory = directory.absolute()
    write_mode(options.mode, options.decision_timeout_ms, directory)
    path = directory / BOOTSTRAP_FILE
    path.write_text(to_yaml(bootstrap(options, directory)))
    return path


def write_mode(mode: Mode, decision_timeout_ms: int, directory: Path) -> None:
    """Write the filter for a mode. An Envoy that runs takes it over in place.

    Renamed over the old one: Envoy watches for that, and never reads half a file.
    """
    new = directory / f".{EXT_AUTHZ_FILE}.new"
    new.write_text(to_yaml(ext_authz_discovery(mode, decision_timeout_ms)))
    new.replace(directory / EXT_AUTHZ_FILE)


def _listener(options: EnvoyOptions, directory: Path) -> Config:
    return {
        "name": "sidecar",
        "address": _socket_address(options.host, options.port),
        # With SO_REUSEPORT a second process could share the port and answer in our place.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _http_connection_manager(options, directory),
                    }
                ]
            }
        ],
    }


def _http_connection_manager(options: EnvoyOptions, directory: Path) -> Config:
    return {
        "@type": _type(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "sidecar",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": MAX_HEADERS,
            "max_stream_duration": MAX_DURATION,
            "idle_timeout": CONNECTION_IDLE_TIMEOUT,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": BUFFER_LIMIT,
        },
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": HEADERS_TIMEOUT,
        "stream_idle_timeout": IDLE_TIMEOUT,
        # A client's x-envoy-* would steer retries and timeouts, and could claim that a check
        # failed open.
        "early_header_mutation_extensions": [
            {
                "name": "strip_envoy",
                "typed_config": {
                    "@type": _type(
                        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
                    ),
                    "mutations": [_remove_prefix(_ENVOY_PREFIX)],
                },
            }
        ],
        "use_remote_address": True,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        "local_reply_config": _local_replies(options.decision_timeout_ms),
        "route_config": {
            "name": "sidecar",
            "virtual_hosts": [
                {"name": "sidecar", "domains": ["*"], "routes": _routes(options.upstream)}
            ],
        },
        "http_filters": [
            {
                "name": EXT_AUTHZ,
                "config_discovery": {
                    "config_source": {
                        "resource_api_version": "V3",
                        "path_config_source": {
                            "path": str(directory / EXT_AUTHZ_FILE),
                            "watched_directory": {"path": str(directory)},
                        },
                    },
                    "type_urls": [_type("extensions.filters.http.ext_authz.v3.ExtAuthz")],
                },
            },
            {
                "name": "buffer",
                "disabled": True,  # what goes to the upstream is streamed
                "typed_config": {
                    "@type": _type("extensions.filters.http.buffer.v3.Buffer"),
                    "max_request_bytes": MAX_BODY,
                },
            },
            _strip_failed_open(),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": _type("extensions.filters.http.router.v3.Router"),
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }


def _routes(upstream: Upstream) -> list[Config]:
    service = {
        "route": {
            "cluster": _SERVICE,
            "timeout": SERVICE_TIMEOUT,
            "idle_timeout": SERVICE_IDLE_TIMEOUT,
            "max_stream_duration": {"max_stream_duration": SERVICE_DURATION},
        },
        "typed_per_filter_config": {
            EXT_AUTHZ: {
                "@type": _type("extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"),
                "disabled": True,
            },
            # Whole requests only: one that is never finished waits in Envoy, not in the service.
            "buffer": {
                "@type": _type("extensions.filters.http.buffer.v3.BufferPerRoute"),
                "buffer": {"max_request_bytes": MAX_BODY},
            },
        },
    }
    reading = {
        **service,
        "route": {
            "cluster": _SERVICE,
            "timeout": "0s",
            "idle_timeout": READING_IDLE_TIMEOUT,
            "max_stream_duration": {"max_stream_duration": MAX_DURATION},
        },
    }
    return [
        *({"match": {"path_separated_prefix": path}, **service} for path in RESERVED),
        {
            "match": {"prefix": PROXY_PREFIX},
            "route": {
                "cluster": "upstream",
                "prefix_rewrite": f"{upstream.prefix}/",
                "host_rewrite_literal": upstream.authority,
                # Answers may stream for as long as they move; MAX_DURATION ends the rest.
                "timeout": "0s",
            },
        },
        *({"match": {"path_separated_prefix": path}, **reading} for path in READING),
        {"match": {"prefix": "/"}, **service},
    ]


def _strip() -> Config:
    """Removes what is ours from requests to the upstream, and imitations from its answers.

    It stands in the upstream's own filter chain: answers that Envoy or the service makes do not
    pass it and keep their headers.
    """
    return {
        "name": "strip",
        "typed_config": {
            "@type": _type(_HEADER_MUTATION),
            "mutations": {
                "request_mutations": [
                    _remove_prefix(GOVERNANCE_PREFIX),
                    _remove_prefix(_ENVOY_PREFIX),
                    # It is for the first proxy, and that is us (RFC 9110 §11.7.2).
                    *({"remove": name} for name in (ADMIN_HEADER, "proxy-authorization")),
                    # Some frameworks let these override the method, path, host or client that
                    # was judged.
                    *({"remove": name} for name in _OVERRIDES),
                    _remove_prefix("x-forwarded-"),
                ],
                "response_mutations": [_remove_prefix(GOVERNANCE_PREFIX)],
            },
        },
    }


def _remove_prefix(prefix: str) -> Config:
    return {"remove_on_match": {"key_matcher": {"prefix": prefix}}}


def _strip_failed_open() -> Config:
    """When the check failed open nobody looked at the token, so anything like one is removed."""

    def header(name: str, value: Config) -> Config:
        return {
            "single_predicate": {
                "input": {
                    "name": name,
                    "typed_config": {
                        "@type": _type("type.matcher.v3.HttpRequestHeaderMatchInput"),
                        "header_name": name,
                    },
                },
                "value_match": value,
            }
        }

    failed_open = header(_FAILED_OPEN, {"exact": "true"})
    # Both parts of a JWT start with the base64 of `{"`, whatever scheme stands before them.
    pattern = {"google_re2": {}, "regex": r".*eyJ[\w-]*\.eyJ.*"}
    token = header("authorization", {"safe_regex": pattern})
    return {
        "name": "strip_failed_open",
        "typed_config": {
            "@type": _type("extensions.common.matching.v3.ExtensionWithMatcher"),
            "extension_config": {
                "name": "composite",
                "typed_config": {"@type": _type("extensions.filters.http.composite.v3.Composite")},
            },
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [
                        {
                            "predicate": {"and_matcher": {"predicate": [failed_open, token]}},
                            "on_match": {
                                "action": {
                                    "name": "strip",
                                    "typed_config": {
                                        "@type": _type(
                                            "extensions.filters.http.composite.v3."
                                            "ExecuteFilterAction"
                                        ),
                                        "typed_config": {
                                            "name": "strip",
                                            "typed_config": {
                                                "@type": _type(_HEADER_MUTATION),
                                                "mutations": {
                                                    "request_mutations": [
                                                        {"remove": "authorization"}
                                                    ]
                                                },
                                            },
                                        },
                                    },
                                }
                            },
                        }
                    ]
                }
            },
        },
    }


def _local_replies(decision_timeout_ms: int) -> Config:
    """JSON for what Envoy refuses itself: SDKs decode every body they get (CONTRACT §16.2)."""

    def when(expression: str, body: Config, **more: Any) -> Config:
        return {
            "filter": {
                "extension_filter": {
                    "name": "envoy.access_loggers.extension_filters.cel",
                    "typed_config": {
                        "@type": _type("extensions.access_loggers.filters.cel.v3.ExpressionFilter"),
                        "expression": expression,
                    },
                }
            },
            "body_format_override": {"json_format": body},
            **more,
        }

    # What the service answered carries its decision, and keeps the body it came with.
    not_ours = f'!("{DECISION_HEADER}" in response.headers)'
    no_decision = (
        "the authorization service is not running or gave no decision within"
        f" {decision_timeout_ms} ms; the request was not forwarded"
    )
    return {
        "mappers": [
            when(
                f'{not_ours} && (response.code_details == "ext_authz_error"'
                f' || xds.cluster_name == "{_SERVICE}" && response.code >= 500)',
                {"error": "unavailable", "code": str(Code.CIRCUIT_OPEN), "message": no_decision},
                headers_to_add=[
                    {"header": {"key": "retry-after", "value": str(RETRY_AFTER_S)}},
                ],
            ),
            when(
                f"{not_ours} && response.code >= 500",
                {
                    "error": "upstream_unreachable",
                    "message": "the upstream could not be reached, or broke off",
                    "detail": "%RESPONSE_CODE_DETAILS%",
                },
            ),
            when(
                not_ours,
                {
                    "error": "request_refused",
                    "message": "Envoy does not carry this request; it was not decided",
                    "detail": "%RESPONSE_CODE_DETAILS%",
                },
            ),
        ]
    }


def _service_cluster(
    options: EnvoyOptions, name: str, socket: str, protocol: Config, max_in_flight: int
) -> Config:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": _milliseconds(options.decision_timeout_ms),
        "circuit_breakers": _circuit_breakers(max_in_flight),
        "typed_extension_protocol_options": _protocol(protocol, f"{SERVICE_POOL_IDLE_S}s"),
        "load_assignment": _endpoint(name, _pipe(options.run_dir / socket)),
    }


def _upstream_cluster(options: EnvoyOptions) -> Config:
    upstream = options.upstream
    cluster: Config = {
        "name": "upstream",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT,
        "circuit_breakers": _circuit_breakers(MAX_IN_FLIGHT),
        "load_assignment": _endpoint("upstream", _socket_address(upstream.host, upstream.port)),
    }
    if upstream.is_address:
        cluster["type"] = "STATIC"
    else:
        cluster["cluster_type"] = {
            "name": "envoy.cluster.dns",
            "typed_config": {
                "@type": _type("extensions.clusters.dns.v3.DnsCluster"),
                "dns_lookup_family": "ALL",
                "respect_dns_ttl": True,
                # A large service's name resolves to other addresses each time; connections to
                # the earlier ones stay open.
                "all_addresses_in_single_endpoint": True,
            },
        }
    # With TLS: HTTP/2 where the upstream offers it by ALPN, else HTTP/1.1.
    protocol = _HTTP1 if upstream.scheme == "http" else {"auto_config": {}}
    codec = {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": _type("extensions.filters.http.upstream_codec.v3.UpstreamCodec")},
    }
    cluster["typed_extension_protocol_options"] = _protocol(
        {**protocol, "http_filters": [_strip(), codec]}, "60s"
    )
    if upstream.scheme == "http":
        return cluster
    name_type = "IP_ADDRESS" if upstream.is_address else "DNS"
    tls: Config = {
        "@type": _type("extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
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


_OVERRIDES: Final = (
    "forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
)
_ENVOY_PREFIX: Final = "x-envoy-"
_FAILED_OPEN: Final = "x-envoy-auth-failure-mode-allowed"
_HEADER_MUTATION: Final = "extensions.filters.http.header_mutation.v3.HeaderMutation"
_HTTP1: Final[Config] = {"explicit_http_config": {"http_protocol_options": {}}}
_HTTP2: Final[Config] = {"explicit_http_config": {"http2_protocol_options": {}}}


def _protocol(config: Config, idle_timeout: str) -> Config:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        f"envoy.{name}": {
            "@type": _type(name),
            "common_http_protocol_options": {"idle_timeout": idle_timeout},
            **config,
        }
    }


def _milliseconds(count: int) -> str:
    """A google.protobuf.Duration."""
    return f"{count / 1000:g}s"


def _circuit_breakers(max_in_flight: int) -> Config:
    limits = ("max_connections", "max_pending_requests", "max_requests")
    return {"thresholds": [dict.fromkeys(limits, max_in_flight)]}


def _endpoint(cluster: str, address: Config) -> Config:
    return {
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }


def _socket_address(host: str, port: int) -> Config:
    address: Config = {"address": host, "port_value": port}
    if host == str(ipaddress.IPv6Address(0)):
        address["ipv4_compat"] = True
    return {"socket_address": address}


def _pipe(path: Path, mode: int | None = None) -> Config:
    return {"pipe": {"path": str(path)} if mode is None else {"path": str(path), "mode": mode}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"


class _Dumper(yaml.SafeDumper):
    """Without anchors: shared parts are written out, as a reader expects them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True
