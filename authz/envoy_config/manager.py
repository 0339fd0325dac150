"""What every HTTP connection manager here has: how strictly it reads, and what it bounds.

- Policy and upstream see one path: normalised, slashes merged, escaped slashes refused, header
  names with underscores refused (many servers read `_` as `-`).
- Nothing that a client sends steers Envoy: `x-envoy-*` is removed before anything reads it, and
  `x-forwarded-for` is not believed.
"""

from typing import Final

from authz.envoy_config.filters import strip_envoy
from authz.envoy_config.limits import (
    CONNECTION_IDLE_TIMEOUT,
    CONNECTION_WINDOW,
    HEADERS_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_DURATION,
    MAX_HEADERS,
    MAX_HEADERS_KIB,
    STREAM_WINDOW,
)
from authz.envoy_config.parts import Config, type_url

TYPE: Final = type_url(
    "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)


def strict(*, allow_connect: bool = False) -> Config:
    """Fields of an HttpConnectionManager.

    Args:
        allow_connect: it takes CONNECT by HTTP/2.
    """
    return {
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
            **({"allow_connect": True} if allow_connect else {}),
            "max_concurrent_streams": 100,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
        },
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": HEADERS_TIMEOUT,
        "stream_idle_timeout": IDLE_TIMEOUT,
        "early_header_mutation_extensions": [strip_envoy()],
        "use_remote_address": True,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
    }


def router() -> Config:
    """The last HTTP filter."""
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": type_url("extensions.filters.http.router.v3.Router"),
            "suppress_envoy_headers": True,
        },
    }
