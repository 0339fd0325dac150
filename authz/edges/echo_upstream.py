"""The bundled upstream for trying things out: says back what reached it, and counts.

Any method on any path answers `{method, path, query, headers, body}`; `GET /__hits` answers
`{"hits": n}` and is not counted itself. A denied request must never show up here.
"""

import json
from typing import Any, Final

#: Bytes of a request body that are said back; more answers 413.
MAX_BODY: Final = 10 << 20
HITS_PATH: Final = "/__hits"

_Message = dict[str, Any]


class EchoUpstream:
    """An ASGI application."""

    def __init__(self) -> None:
        self.hits = 0

    async def __call__(self, scope: _Message, receive: Any, send: Any) -> None:
        """ASGI 3.0 entry point; answers HTTP, ignores everything else."""
        if scope["type"] != "http":
            return None
        if scope["path"] == HITS_PATH:
            return await self._answer(send, 200, {"hits": self.hits})
        self.hits += 1
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                return await self._answer(send, 413, {"error": "the body is too large to echo"})
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return await self._answer(
            send,
            200,
            {
                "method": scope["method"],
                "path": scope["raw_path"].decode("latin-1"),
                "query": scope["query_string"].decode("latin-1"),
                "headers": headers,
                "body": body.decode("utf-8", "replace"),
            },
        )

    async def _answer(self, send: Any, status: int, content: object) -> None:
        body = json.dumps(content).encode() + b"\n"
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})
