"""An echo that answers some paths as real upstreams do, to tell their answers from ours."""

from typing import Any, Final

from authz.edges.echo_upstream import EchoUpstream

#: Below it the path's last segment is the status of the answer.
STATUS_PATH: Final = "/status/"
#: No JSON at all.
HTML_PATH: Final = "/page.html"
#: A list, which `check` of the SDKs cannot read.
LIST_PATH: Final = "/list"
#: What an answer of ours would say, said by the upstream.
LIES: Final = [(b"x-meshguard-decision", b"deny"), (b"x-meshguard-policy", b"upstreams-own")]

_Message = dict[str, Any]


class OddUpstream(EchoUpstream):
    """An ASGI application; what it has no path for it echoes."""

    async def __call__(self, scope: _Message, receive: Any, send: Any) -> None:
        """ASGI 3.0 entry point."""
        path = scope.get("path", "")
        if path.startswith(STATUS_PATH):
            status = int(path.removeprefix(STATUS_PATH))
            said = b'{"error": "upstream", "message": "said by the upstream"}'
            body = b"" if status == 204 else said
            where = [(b"location", b"http://elsewhere.invalid/x")] if 300 <= status < 400 else []
            headers = [(b"content-type", b"application/json"), *where, *LIES]
        elif path == HTML_PATH:
            status, body, headers = 200, b"<p>hello</p>", [(b"content-type", b"text/html")]
        elif path == LIST_PATH:
            status, body, headers = 200, b"[1, 2]", [(b"content-type", b"application/json")]
        else:
            return await super().__call__(scope, receive, send)
        self.hits += 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return None
