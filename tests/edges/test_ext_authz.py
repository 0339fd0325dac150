"""The gRPC edge with grpcio's own client: bytes through, health, limits, draining."""

import asyncio
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz.edges.ext_authz import MAX_MESSAGE, ExtAuthzServer
from authz.edges.h2c.server import SERVICE

CHECK = f"/{SERVICE}/Check"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def _serving(
    check: Callable[[bytes], bytes],
) -> AsyncIterator[tuple[ExtAuthzServer, grpc.aio.Channel, Path]]:
    with tempfile.TemporaryDirectory(prefix="authz-") as directory:
        socket = Path(directory) / "ext_authz.sock"
        server = ExtAuthzServer(check, socket)
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            yield server, channel, socket
        await server.stop(0)


async def _call(channel: grpc.aio.Channel, raw: bytes, method: str = CHECK) -> bytes:
    call: Callable[..., Awaitable[bytes]] = channel.unary_unary(method)
    return await call(raw, timeout=10)


def test_bytes_go_through_untouched() -> None:
    async def scenario() -> None:
        async with _serving(lambda raw: raw[::-1]) as (_, channel, _socket):
            for raw in (b"", b"\x00\xff", b"x" * (MAX_MESSAGE - 16)):
                assert await _call(channel, raw) == raw[::-1]

    asyncio.run(scenario())


def test_the_socket_is_for_owner_and_group() -> None:
    async def scenario() -> None:
        async with _serving(lambda raw: raw) as (_, _channel, socket):
            assert stat.S_IMODE(socket.stat().st_mode) == 0o660

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "raw", "code"),
    [
        (CHECK, b"x" * (MAX_MESSAGE + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (f"/{SERVICE}/Other", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/other.Service/Check", b"", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_is_not_served_is_refused(method: str, raw: bytes, code: grpc.StatusCode) -> None:
    async def scenario() -> None:
        async with _serving(lambda raw: raw) as (_, channel, _socket):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await _call(channel, raw, method)
            assert raised.value.code() is code
            assert await _call(channel, b"next") == b"next"

    asyncio.run(scenario())


def test_health_follows_the_life_of_the_server() -> None:
    async def scenario() -> None:
        async with _serving(lambda raw: raw) as (server, channel, _socket):
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == SERVING
            watched = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watched.read()).status == SERVING
            stopping = asyncio.create_task(server.stop(10))
            # Said while calls in flight still have time: that is what makes a drain graceful.
            assert (await watched.read()).status == NOT_SERVING
            watched.cancel()
            await stopping

    asyncio.run(scenario())


def test_concurrent_calls_are_all_answered() -> None:
    async def scenario() -> None:
        async with _serving(lambda raw: raw) as (_, channel, _socket):
            asked = [str(number).encode() for number in range(300)]
            assert await asyncio.gather(*(_call(channel, raw) for raw in asked)) == asked

    asyncio.run(scenario())
