"""The service on another host: whom Envoy asks, and where what is ours is answered.

- It is known by its certificate, and Envoy by its own where it has one. Cleartext is for this host
  alone; the settings refuse it elsewhere.
- A service that vanishes without a word is noticed: connections are probed, and one that is dead is
  given up. Else every question on it would end at the decision timeout for as long as TCP tries.
- Its name is looked up again as its DNS record says, and connections to addresses that it no
  longer has are drained.
"""

from pathlib import Path
from typing import Final, NamedTuple

from authz.envoy_config.limits import MAX_IN_FLIGHT, SERVICE_MAX_IN_FLIGHT, SERVICE_POOL_IDLE_S
from authz.envoy_config.parts import (
    HTTP1,
    Config,
    by_dns,
    circuit_breakers,
    endpoint,
    milliseconds,
    protocol_options,
    socket_address,
)
from authz.envoy_config.tls import TargetTls, target_socket
from authz.settings import Endpoint

#: Seconds between the pings on a connection for questions, and that one may go unanswered.
PING_S: Final = 5
PING_TIMEOUT_S: Final = 2
#: The same by TCP for the other connections: seconds of silence, between probes, and how many.
_TCP_KEEPALIVE: Final[Config] = {
    "keepalive_time": 10,
    "keepalive_interval": 5,
    "keepalive_probes": 3,
}
#: Seconds that an unused one is kept: a new one costs a handshake, of the decision timeout's time.
QUESTIONS_IDLE_S: Final = 3600


class Target(NamedTuple):
    """Where the service is."""

    ext_authz: Endpoint
    http: Endpoint
    #: None: cleartext, on this host.
    tls: TargetTls | None


def target_clusters(
    target: Target, names: tuple[str, str], decision_timeout_ms: int, directory: Path
) -> list[Config]:
    """The clusters of the questions and of the service's own endpoints, by these names."""
    ping = {"interval": f"{PING_S}s", "timeout": f"{PING_TIMEOUT_S}s"}
    http2 = {"explicit_http_config": {"http2_protocol_options": {"connection_keepalive": ping}}}
    timeout = milliseconds(decision_timeout_ms)

    def cluster(
        at: Endpoint, name: str, options: Config, alpn: str, in_flight: int, idle_s: int
    ) -> Config:
        found: Config = {
            "name": name,
            "connect_timeout": timeout,
            "circuit_breakers": circuit_breakers(in_flight),
            "typed_extension_protocol_options": protocol_options(options, f"{idle_s}s"),
            "upstream_connection_options": {"tcp_keepalive": _TCP_KEEPALIVE},
            "load_assignment": endpoint(name, socket_address(at.host, at.port)),
        }
        if at.is_address:
            found["type"] = "STATIC"
        else:
            found["cluster_type"] = by_dns()
        if target.tls is not None:
            found["transport_socket"] = target_socket(
                target.tls, directory, at.host, is_address=at.is_address, protocol=alpn
            )
        return found

    return [
        cluster(target.ext_authz, names[0], http2, "h2", MAX_IN_FLIGHT, QUESTIONS_IDLE_S),
        cluster(
            target.http, names[1], HTTP1, "http/1.1", SERVICE_MAX_IN_FLIGHT, SERVICE_POOL_IDLE_S
        ),
    ]
