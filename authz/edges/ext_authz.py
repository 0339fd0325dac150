"""ext_authz over grpcio: raw bytes through to `gate.check`, and the standard health service.

- No message class here: grpcio hands over the request's bytes and sends the answer's.
- `gate.check` is synchronous and runs on the event loop, so calls are decided one after the
  other and the snapshot, the cache and the database have one user.
- Draining says NOT_SERVING first, then lets calls in flight finish.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz.edges.sockets import group_only

SERVICE: Final = "envoy.service.auth.v3.Authorization"
#: A CheckRequest carries at most Envoy's 60 KiB of headers, and no body.
MAX_MESSAGE: Final = 256 * 1024
#: Calls accepted at once; the next one is told RESOURCE_EXHAUSTED instead of waiting.
MAX_IN_FLIGHT: Final = 1024


class ExtAuthzServer:
    """The gRPC server on a unix socket."""

    def __init__(self, check: Callable[[bytes], bytes], socket: Path) -> None:
        self._socket = socket
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.so_reuseport", 0),
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
        with group_only():
            self._server.add_insecure_port(f"unix:{self._socket}")
            await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Stop accepting; calls in flight get `grace_s` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
