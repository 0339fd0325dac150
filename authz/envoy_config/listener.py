"""The listener on PORT: `/proxy/…` asks and goes to the upstream, the rest goes to the service."""

from pathlib import Path
from typing import Final

from authz.core.names import MAX_BODY, PROXY_PREFIX
from authz.envoy_config.access_log import access_log, remember_path
from authz.envoy_config.clusters import SERVICE
from authz.envoy_config.files import EXT_AUTHZ_FILE
from authz.envoy_config.filters import (
    EXT_AUTHZ,
    ext_authz_subscription,
    strip_failed_open,
)
from authz.envoy_config.limits import (
    BUFFER_LIMIT,
    INGEST_IDLE_TIMEOUT,
    MAX_DURATION,
    READING_IDLE_TIMEOUT,
    SERVICE_DURATION,
    SERVICE_IDLE_TIMEOUT,
    SERVICE_TIMEOUT,
)
from authz.envoy_config.manager import TYPE, router, strict
from authz.envoy_config.options import EnvoyOptions
from authz.envoy_config.parts import Config, socket_address, type_url
from authz.envoy_config.replies import local_replies
from authz.envoy_config.tls import HANDSHAKE_TIMEOUT, listener_socket
from authz.settings import Upstream

#: Where the audit trail is read.
READING: Final = tuple(
    f"{prefix}/{name}" for prefix in ("/admin", "/api/v1/admin") for name in ("audit", "analytics")
)
#: Where whole trails are sent to.
INGEST: Final = tuple(f"{prefix}/audit/ingest" for prefix in ("/admin", "/api/v1/admin"))
#: Paths below /proxy/ that the service answers itself (CONTRACT §1.2).
RESERVED: Final = ("/proxy/check", "/proxy/audit", "/proxy/governance")


def listener(options: EnvoyOptions, directory: Path) -> Config:
    """The listener on PORT."""
    chain: Config = {}
    if options.tls is not None:
        chain["transport_socket"] = listener_socket(options.tls, directory)
        chain["transport_socket_connect_timeout"] = HANDSHAKE_TIMEOUT
    balance: Config = {}
    if options.workers > 1:
        # One socket for all workers: without this the first to wake takes every connection of an
        # agent that has few.
        balance["connection_balance_config"] = {"exact_balance": {}}
    return {
        "name": "sidecar",
        "address": socket_address(options.host, options.port),
        # With SO_REUSEPORT a second process could share the port and answer in our place.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT,
        **balance,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _http_connection_manager(options, directory),
                    }
                ],
                **chain,
            }
        ],
    }


def _http_connection_manager(options: EnvoyOptions, directory: Path) -> Config:
    logs = options.access_log
    return {
        "@type": TYPE,
        "stat_prefix": "sidecar",
        **strict(),
        "local_reply_config": local_replies(options.decision_timeout_ms),
        **({"access_log": access_log(probes=options.access_log_probes)} if logs else {}),
        "route_config": {
            "name": "sidecar",
            "virtual_hosts": [
                {"name": "sidecar", "domains": ["*"], "routes": routes(options.upstream)}
            ],
        },
        "http_filters": [
            *([remember_path()] if logs else []),
            ext_authz_subscription(directory / EXT_AUTHZ_FILE),
            {
                "name": "buffer",
                "disabled": True,  # what goes to the upstream is streamed
                "typed_config": {
                    "@type": type_url("extensions.filters.http.buffer.v3.Buffer"),
                    "max_request_bytes": MAX_BODY,
                },
            },
            strip_failed_open(),
            router(),
        ],
    }


def routes(upstream: Upstream) -> list[Config]:
    """What goes to the upstream, and what to the service."""
    service: Config = {
        "route": {
            "cluster": SERVICE,
            "timeout": SERVICE_TIMEOUT,
            "idle_timeout": SERVICE_IDLE_TIMEOUT,
            "max_stream_duration": {"max_stream_duration": SERVICE_DURATION},
        },
        "typed_per_filter_config": {
            EXT_AUTHZ: {
                "@type": type_url("extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"),
                "disabled": True,
            },
            # Whole requests only: one that is never finished waits in Envoy, not in the service.
            "buffer": {
                "@type": type_url("extensions.filters.http.buffer.v3.BufferPerRoute"),
                "buffer": {"max_request_bytes": MAX_BODY},
            },
        },
    }
    reading = {
        **service,
        "route": {
            "cluster": SERVICE,
            "timeout": "0s",
            "idle_timeout": READING_IDLE_TIMEOUT,
            "max_stream_duration": {"max_stream_duration": MAX_DURATION},
        },
    }
    filters = service["typed_per_filter_config"]
    ingest = {
        "route": {
            "cluster": SERVICE,
            "timeout": "0s",
            "idle_timeout": INGEST_IDLE_TIMEOUT,
            "max_stream_duration": {"max_stream_duration": MAX_DURATION},
        },
        # Not buffered: it is larger than Envoy's memory; the service writes it down as it comes.
        "typed_per_filter_config": {EXT_AUTHZ: filters[EXT_AUTHZ]},
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
        *({"match": {"path": path}, **ingest} for path in INGEST),
        *({"match": {"path_separated_prefix": path}, **reading} for path in READING),
        {"match": {"prefix": "/"}, **service},
    ]
