"""Authorizers that do nothing, as processes of their own: what is left is their transport.

    python -m bench.nothing grpc|h2c SOCKET

`grpc` is grpc.aio under uvloop, raw bytes in and out; `h2c` the sidecar's own transport with an
empty gate. Both give the answer that the gate gives to the request of the benchmarks, whatever they
are asked. They serve until SIGTERM.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import uvloop

from authz.edges.ext_authz import MAX_MESSAGE
from authz.edges.h2c.server import SERVICE, H2cServer
from bench import asked


async def serve_grpc(address: Path, answer: bytes) -> None:
    """Serve with grpcio, as plainly as it goes."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE)])

    async def check(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return answer

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Check": grpc.unary_unary_rpc_method_handler(check)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{address}")
    await server.start()
    await _told_to_stop()
    await server.stop(0)


async def serve_h2c(address: Path, answer: bytes) -> None:
    """Serve with the sidecar's own transport."""

    def check_all(calls: Sequence[bytes]) -> list[bytes]:
        return [answer] * len(calls)

    server = H2cServer(check_all, lambda: answer, address)
    await server.start()
    await _told_to_stop()
    await server.stop(0)


async def _told_to_stop() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


def main() -> None:
    """Serve."""
    kind, socket = sys.argv[1:]
    serve = {"grpc": serve_grpc, "h2c": serve_h2c}[kind]
    uvloop.run(serve(Path(socket), asked.answer()))


if __name__ == "__main__":
    main()
