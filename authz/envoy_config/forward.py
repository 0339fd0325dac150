"""The forward proxy: a listener for HTTP_PROXY, and what every way out to any host has in common.

- What leaves is what was judged: Envoy itself resolves the name that the decision was about, once
  it may pass.
- What nobody may reach is taken out of what a name resolves to before that is kept, so that no
  connection can choose it, also where a name has several addresses, or others a moment later (DNS
  rebinding). Where an address stands in place of a name nothing is resolved, and a filter looks at
  it.
- HTTP/1.1 in cleartext, and CONNECT. An `https://` URL in cleartext is refused, not sent to port
  443 as it is: whoever sends one means TLS, and CONNECT has that.
- Which listener a call came by is said by the route, in a place that no client can write to.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from authz.core.names import VIA
from authz.core.sources import Source
from authz.envoy_config.access_log import outward_log
from authz.envoy_config.files import EXT_AUTHZ_FILE
from authz.envoy_config.filters import (
    EXT_AUTHZ,
    ext_authz_subscription,
    strip_and_send,
    strip_failed_open,
)
from authz.envoy_config.limits import (
    CONNECTION_WINDOW,
    DNS_CACHE_CALLS,
    DNS_CACHE_HOSTS,
    DNS_CACHE_UNUSED,
    DNS_TIMEOUT,
    MAX_OUTWARD,
    STREAM_WINDOW,
    TUNNEL_BUFFER_LIMIT,
)
from authz.envoy_config.manager import TYPE, router, strict
from authz.envoy_config.options import EnvoyOptions
from authz.envoy_config.parts import (
    Config,
    circuit_breakers,
    protocol_options,
    socket_address,
    type_url,
)
from authz.envoy_config.replies import local_replies
from authz.settings import Network

#: The cluster of every host there is.
_ANYWHERE: Final = "anywhere"
_ANY_ADDRESS: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
#: Prefixes behind which an IPv4 address can hide in an IPv6 one: mapped (RFC 4291 §2.5.5.2), which
#: the kernel takes for that IPv4 address, and NAT64 (RFC 6052 §2.1).
_MAPPED: Final = ipaddress.ip_network("::ffff:0:0/96")
_NAT64: Final = ipaddress.IPv6Address("64:ff9b::")


def forward_listener(options: EnvoyOptions, directory: Path) -> Config:
    """The listener on FORWARD_PROXY_PORT."""
    assert options.forward is not None
    return {
        "name": "forward",
        "address": socket_address(*options.forward),
        # As on PORT: a second process could share the port and answer in our place.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": TUNNEL_BUFFER_LIMIT,
        "filter_chains": [{"filters": [http_manager(options, directory, "forward", "HTTP1")]}],
    }


def http_manager(
    options: EnvoyOptions, directory: Path, via: Source, codec: str, *, only_connect: bool = False
) -> Config:
    """Asks about each request and each CONNECT, and sends it where it says.

    Args:
        via: which listener this is of.
        codec: HTTP1, HTTP2 or AUTO.
        only_connect: it carries no plain requests.
    """
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": TYPE,
            "stat_prefix": via,
            "codec_type": codec,
            **strict(allow_connect=True),
            "local_reply_config": local_replies(options.decision_timeout_ms, outward=True),
            **({"access_log": outward_log()} if options.access_log else {}),
            # No other upgrade: what is spoken after one would be governed by nobody.
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {
                "name": via,
                "virtual_hosts": [
                    {
                        "name": via,
                        "domains": ["*"],
                        "routes": _routes(only_connect=only_connect),
                        "typed_per_filter_config": {
                            EXT_AUTHZ: {
                                "@type": type_url(
                                    "extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
                                ),
                                "check_settings": {"context_extensions": {VIA: via}},
                            }
                        },
                    }
                ],
            },
            "http_filters": [
                ext_authz_subscription(directory / EXT_AUTHZ_FILE),
                strip_failed_open(),
                # Only what may pass is resolved: a name in a query is a message, too.
                {
                    "name": "envoy.filters.http.dynamic_forward_proxy",
                    "typed_config": {
                        "@type": type_url(
                            "extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"
                        ),
                        "dns_cache_config": _dns_cache(options),
                        "save_upstream_address": True,
                    },
                },
                _allowed_addresses(options.denied_networks),
                router(),
            ],
        },
    }


def anywhere_cluster(options: EnvoyOptions) -> Config:
    """Every host there is, and what is done to every request that goes there."""
    # The upstream gets the version that the agent spoke: gRPC stays HTTP/2.
    same: Config = {
        "use_downstream_protocol_config": {
            "http_protocol_options": {},
            "http2_protocol_options": {
                "initial_stream_window_size": STREAM_WINDOW,
                "initial_connection_window_size": CONNECTION_WINDOW,
            },
        }
    }
    return {
        "name": _ANYWHERE,
        "connect_timeout": "5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "per_connection_buffer_limit_bytes": TUNNEL_BUFFER_LIMIT,
        "circuit_breakers": circuit_breakers(MAX_OUTWARD),
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {
                "@type": type_url("extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"),
                "dns_cache_config": _dns_cache(options),
            },
        },
        "typed_extension_protocol_options": protocol_options(
            {
                **same,
                # There is no TLS here; without them Envoy takes it for a cluster that would not
                # look at certificates.
                "upstream_http_protocol_options": {"auto_sni": True, "auto_san_validation": True},
                "http_filters": strip_and_send(),
            },
            # Unused ones count, too.
            "10s",
        ),
    }


def _routes(*, only_connect: bool) -> list[Config]:
    # Answers and tunnels may go on for as long as they move; MAX_DURATION ends the rest.
    route: Config = {"cluster": _ANYWHERE, "timeout": "0s"}
    tunnel = {**route, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    routes = [{"match": {"connect_matcher": {}}, "route": tunnel}]
    if only_connect:
        return routes
    # The listener knows CONNECT by its name alone, and a header names it, too: with
    # `Upgrade: CONNECT` a GET that may pass would become a tunnel that nobody has decided.
    plain = {**route, "upgrade_configs": [{"upgrade_type": "CONNECT", "enabled": False}]}
    return [*routes, {"match": {"prefix": "/"}, "route": plain}]


def _dns_cache(options: EnvoyOptions) -> Config:
    """What names resolve to; the filter and the cluster have one and the same."""
    return {
        "name": _ANYWHERE,
        "dns_lookup_family": "ALL",
        "max_hosts": DNS_CACHE_HOSTS,
        "host_ttl": DNS_CACHE_UNUSED,
        "dns_query_timeout": DNS_TIMEOUT,
        # A name that could not be resolved is asked for again by the next request.
        "disable_dns_refresh_on_failure": True,
        "dns_cache_circuit_breaker": {"max_pending_requests": DNS_CACHE_CALLS},
        "resolved_address_filter": {"ranges": [*map(_range, _hidden(options.denied_networks))]},
    }


def _allowed_addresses(denied: Sequence[Network]) -> Config:
    """Refuses an address that is denied, also one that stands in place of a name.

    A call whose address is not known is refused, too.
    """

    def matcher(network: Network) -> Config:
        return {
            "matcher": {
                "name": "envoy.rbac.matchers.upstream_ip_port",
                "typed_config": {
                    "@type": type_url(
                        "extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher"
                    ),
                    "upstream_ip": _range(network),
                },
            }
        }

    known = {"or_rules": {"rules": [*map(matcher, _ANY_ADDRESS)]}}
    refused = {"or_rules": {"rules": [*map(matcher, _hidden(denied))]}}
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": type_url("extensions.filters.http.rbac.v3.RBAC"),
            "rules": {
                "action": "ALLOW",
                "policies": {
                    "reachable": {
                        "permissions": [{"and_rules": {"rules": [known, {"not_rule": refused}]}}],
                        "principals": [{"any": True}],
                    }
                },
            },
        },
    }


def _hidden(denied: Sequence[Network]) -> Iterator[Network]:
    """The networks, and the other spellings of their addresses."""
    yield from denied
    yield _MAPPED
    for network in denied:
        if network.version == 4:
            base = int(_NAT64) + int(network.network_address)
            yield ipaddress.IPv6Network((base, 96 + network.prefixlen))


def _range(network: Network) -> Config:
    """envoy.config.core.v3.CidrRange."""
    return {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}
