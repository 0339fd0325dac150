"""ext_authz over grpcio: raw bytes through to `gate.check`, and the standard health service.

It is the reference that the fast transport (`h2c/`) is compared with, and the only one that speaks
TLS, so the only one for an address that other hosts can reach.

- No message class here: grpcio hands over the request's bytes and sends the answer's.
- `gate.check` is synchronous and runs on the event loop, so calls are decided one after the
  other and the snapshot, the cache and the database have one user.
- Draining says NOT_SERVING first, then lets calls in flight finish.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz.core import text
from authz.edges.h2c.server import SERVICE
from authz.edges.sockets import group_only, only_this_host

#: A CheckRequest carries at most Envoy's 60 KiB of headers, and no body.
MAX_MESSAGE: Final = 256 * 1024
#: Milliseconds between a peer's pings at least, or it is sent away; Envoy's come every 5 s.
MIN_PING_MS: Final = 1000
#: Calls accepted at once; the next one is told RESOURCE_EXHAUSTED instead of waiting.
MAX_IN_FLIGHT: Final = 1024


class Tls(NamedTuple):
    """What the server shows, and what it asks of peers. All PEM."""

    certificate_chain: bytes
    private_key: bytes
    #: Issuers of peers' certificates; None: a peer needs none.
    client_ca: bytes | None = None


class ExtAuthzServer:
    """The gRPC server on a unix socket, or on an address."""

    def __init__(
        self,
        check: Callable[[bytes], bytes],
        address: Path | tuple[str, int],
        tls: Tls | None = None,
    ) -> None:
        """
        Raises:
            ValueError: other hosts can reach the address, and there is no `tls`.
        """
        if tls is None and not isinstance(address, Path):
            only_this_host(address[0])
        self._address = address
        self._tls = tls
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.so_reuseport", 0),
                # An Envoy on another host asks every few seconds whether we are still there, also
                # while it has no question; grpcio's own choice is to hang up on that.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
            ],
            maximum_concurrent_rpcs=MAX_IN_FLIGHT,
        )

        async def answer(raw: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return check(raw)

        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Check": grpc.unary_unary_rpc_method_handler(answer)
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> None:
        """Listen and serve."""
        address = self._address
        if isinstance(address, Path):
            name = f"unix:{address}"
        else:
            host, port = address
            name = text.address(host, port)
            # grpcio writes to stderr why it cannot, and says only that.
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server(address, family=family).close()
        try:
            with group_only():
                if self._tls is None:
                    self._server.add_insecure_port(name)
                else:
                    self._server.add_secure_port(name, _credentials(self._tls))
                await self._server.start()
        except RuntimeError as error:
            raise OSError(f"cannot listen on {name}: {error}") from None
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def figures(self) -> dict[str, object]:
        """grpcio tells nothing but that it is there."""
        return {"name": "grpc"}

    async def stop(self, grace_s: float) -> None:
        """Stop accepting; calls in flight get `grace_s` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate_chain)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )
