"""The reference page: `/api/docs`, and the OpenAPI document that it shows.

- Everything comes from files of this installation; a sidecar may have no network.
- The document was made from the code (`authz/reference`), not by this process: to make it takes a
  tenth of a second, and decisions would wait for it.
- The page runs no script but its own files', and may be in nobody's frame: whoever reads it may
  type an admin token there.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from authz.edges.http.etags import tag_of, unless_known

OPENAPI: Final = Path(__file__).with_name("openapi.json")

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Authz sidecar: HTTP reference</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/api/docs/swagger-ui.css">
</head>
<body>
<div id="reference"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
});
"""
#: By the name in the path; Swagger UI as fastapi-offline packs it.
_TYPES: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_HEADERS: Final = {
    # Swagger UI sets styles on elements, and has pictures in its style sheet.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
        " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router() -> APIRouter:
    """The page, for everybody: it says what there is, and nothing of what is in it."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/api/docs")
    async def page(request: Request) -> Response:
        return _text(request, _PAGE, "text/html")

    @routes.get("/api/docs/start.js")
    async def start(request: Request) -> Response:
        return _text(request, _START, "text/javascript")

    @routes.get("/api/docs/{name}")
    async def part(request: Request, name: str) -> Response:
        if name not in _TYPES:
            raise HTTPException(404)
        return _file(request, _assets() / name, _TYPES[name])

    @routes.get("/api/openapi.json")
    async def openapi(request: Request) -> Response:
        return _file(request, OPENAPI, "application/json")

    return routes


def _text(request: Request, text: str, media_type: str) -> Response:
    headers = {**_HEADERS, "etag": tag_of(text.encode())}
    return unless_known(request, Response(text, headers=headers, media_type=media_type))


def _file(request: Request, path: Path, media_type: str) -> Response:
    stat = path.stat()
    answer = FileResponse(path, stat_result=stat, media_type=media_type, headers=_HEADERS)
    return unless_known(request, answer)


def _assets() -> Path:
    # Where the package is, without importing it.
    found = find_spec("fastapi_offline")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("static")
