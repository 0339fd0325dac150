"""An OTLP collector that takes everything: `python -m bench.collector PORT`.

It reads each post to its end, looks at nothing, and says that it has it, so that next to nothing of
its work is in what is measured beside it.
"""

import asyncio
import re
import sys
from typing import Final

import uvloop

_TAKEN: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
)
_LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None
            await reader.readexactly(int(length[1]))
            writer.write(_TAKEN)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_take, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
