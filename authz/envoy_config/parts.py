"""The pieces that every part of Envoy's configuration is made of: plain data, as YAML has it.

Not `envoy-data-plane` classes: importing those takes 1.3 s, more than the whole start may
(DESIGN §10). A test runs the real binary's validation over every variant, and parses the result
with those classes.
"""

import ipaddress
from pathlib import Path
from typing import Any, Final

import yaml

Config = dict[str, Any]

HTTP1: Final[Config] = {"explicit_http_config": {"http_protocol_options": {}}}
HTTP2: Final[Config] = {"explicit_http_config": {"http2_protocol_options": {}}}


def protocol_options(config: Config, idle_timeout: str) -> Config:
    """A cluster's protocol, and how long it keeps an unused connection."""
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        f"envoy.{name}": {
            "@type": type_url(name),
            "common_http_protocol_options": {"idle_timeout": idle_timeout},
            **config,
        }
    }


def milliseconds(count: int) -> str:
    """A google.protobuf.Duration."""
    return f"{count / 1000:g}s"


def circuit_breakers(max_in_flight: int) -> Config:
    """As many connections and requests at once, and none beyond."""
    limits = ("max_connections", "max_pending_requests", "max_requests")
    return {"thresholds": [dict.fromkeys(limits, max_in_flight)]}


def by_dns(**more: bool) -> Config:
    """A cluster's type where its addresses are those of a name, for as long as DNS says."""
    return {
        "name": "envoy.cluster.dns",
        "typed_config": {
            "@type": type_url("extensions.clusters.dns.v3.DnsCluster"),
            "dns_lookup_family": "ALL",
            "respect_dns_ttl": True,
            **more,
        },
    }


def where(expression: str) -> Config:
    """envoy.config.accesslog.v3.AccessLogFilter: what this expression in CEL is true of."""
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": type_url("extensions.access_loggers.filters.cel.v3.ExpressionFilter"),
                "expression": expression,
            },
        }
    }


def endpoint(cluster: str, address: Config) -> Config:
    """A cluster's only address."""
    return {
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }


def socket_address(host: str, port: int) -> Config:
    """envoy.config.core.v3.Address: an IP address or a name, and a port."""
    address: Config = {"address": host, "port_value": port}
    if host == str(ipaddress.IPv6Address(0)):
        address["ipv4_compat"] = True
    return {"socket_address": address}


def pipe(path: Path, mode: int | None = None) -> Config:
    """envoy.config.core.v3.Address: a unix socket, made with this mode."""
    return {"pipe": {"path": str(path)} if mode is None else {"path": str(path), "mode": mode}}


def type_url(name: str) -> str:
    """What an Any says that it holds."""
    return f"type.googleapis.com/envoy.{name}"


def to_yaml(config: Config) -> str:
    """Configuration as the YAML that Envoy reads."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Without anchors: shared parts are written out, as a reader expects them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True
