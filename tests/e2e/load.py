"""Many clients at once: HTTP/1.1 over plain sockets, one request at a time on each connection."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.e2e.sidecar import PATIENCE_S


class Reply(NamedTuple):
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an answer that we or Envoy made; empty for an upstream's."""
        try:
            said: dict[str, Any] = json.loads(self.body)
        except ValueError:
            return ""
        return str(said.get("code", ""))


class Client:
    """One connection to the sidecar."""

    def __init__(
        self, port: int, on_head: Callable[[Mapping[str, str]], None] = lambda _: None
    ) -> None:
        """`on_head` is told each answer's header fields, whether or not its body will be whole."""
        self._port = port
        self._on_head = on_head
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> Reply | None:
        """Send a request; None when no complete answer came before the connection ended."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._ask(path, headers, method)
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return None
        except BaseException:
            await self.close()
            raise

    async def connect(self) -> None:
        """Connect, unless it is connected."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)

    async def close(self) -> None:
        """Give the connection up."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask(self, path: str, headers: Mapping[str, str], method: str) -> Reply:
        await self.connect()
        assert self._streams is not None
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", "host: sidecar"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        self._on_head(fields)
        body = await _body(reader, fields)
        if fields.get("connection") == "close":
            await self.close()
        return Reply(int(head[0].split(" ")[1]), fields, body)


async def _body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
    if fields.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(fields.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def ask_together(
    port: int, path: str, headers: Mapping[str, str], count: int
) -> list[Reply | None]:
    """As many requests at once, each on a connection of its own that is there before."""
    clients = [Client(port) for _ in range(count)]
    try:
        await asyncio.gather(*(client.connect() for client in clients))
        return await asyncio.gather(*(client.ask(path, headers) for client in clients))
    finally:
        await asyncio.gather(*(client.close() for client in clients))
