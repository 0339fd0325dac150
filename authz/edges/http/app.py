"""The HTTP application: its routes, and one shape for every error.

Every body is a JSON object and nothing redirects: SDKs decode whatever comes, and read any
status below 400 as "allowed" (CONTRACT §16).
"""

from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from authz import __version__
from authz.core.names import RETRY_AFTER_S
from authz.edges.http import admin, governed, probes, reference, reports, sdk
from authz.edges.http.bodies import sentence
from authz.edges.http.joining import alias, join
from authz.edges.http.probes import Health
from authz.edges.http.refusals import Coded
from authz.gate import Gate
from authz.operations import Operations

#: The `error` of a refusal, by its status.
WORDS: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "Forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    412: "precondition_failed",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
    503: "unavailable",
}


def build_app(gate: Gate, health: Health, operations: Operations, *others: APIRouter) -> FastAPI:
    """The application, ready to serve: what is always there, and the other routes."""
    app = FastAPI(
        title="authz",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # Traces are ours to tell (`edges/tracing`): FastAPI's own, which the environment can turn
        # on, have query strings and know nothing of decisions.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    join(app.router, probes.router(health))
    join(app.router, governed.router(gate, operations))
    join(app.router, sdk.router(gate))
    join(app.router, reports.router(gate))
    join(app.router, reference.router())
    for routes in others:
        join(app.router, routes)
    alias(app.router, admin.PREFIX, admin.ALIAS)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message, headers = error.detail, {k.lower(): v for k, v in (error.headers or {}).items()}
    if error.status_code == 404 and message == "Not Found":
        message = f"there is nothing at {request.method} {request.scope['path']}"
    elif error.status_code == 405:
        message = f"{request.scope['path']} does not take {request.method}"
        headers["allow"] = _methods(request)
    elif error.status_code == 503:
        headers.setdefault("retry-after", str(RETRY_AFTER_S))
    word = WORDS.get(error.status_code, "error")
    body = {"error": word, "message": message}
    if isinstance(error, Coded):
        body["code"] = str(error.code)
    return JSONResponse(body, error.status_code, headers=headers)


def _methods(request: Request) -> str:
    """What the path takes; Starlette names the methods of one of its routes only."""
    path = request.scope["path"]
    routes = [one for one in iter_route_contexts(request.app.routes) if one.path_regex.match(path)]
    # A word of its own counts before a name that may stand there.
    fixed = [one for one in routes if not one.param_convertors]
    found = {method for one in fixed or routes for method in one.methods or ()}
    return ", ".join(sorted(found))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"][1:])
    return JSONResponse({"error": WORDS[400], "message": sentence(where, first)}, 400)


async def _failed(_: Request, __: Exception) -> JSONResponse:
    # Uvicorn logs it, with its traceback.
    return JSONResponse({"error": "internal", "message": "the service failed to answer"}, 500)
