"""What stands in a query: nothing that its route does not know, and nothing twice.

A filter that is not read would be none, and its asker would take everything for what was asked for.
"""

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from authz.core.text import word


async def once(request: Request) -> None:
    """Refuse a parameter that is there twice: which one counts is anybody's guess."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name in seen:
            raise HTTPException(400, f"{word(name)}: is there more than once")
        seen.add(name)


async def known(request: Request) -> None:
    """Refuse a parameter that the route does not name, or that is there twice.

    Not for routes whose parameters are one model, which refuses them itself.
    """
    await once(request)
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    names = {parameter.alias for parameter in route.dependant.query_params}
    for name in request.query_params:
        if name not in names:
            raise HTTPException(400, f"{word(name)}: there is no such parameter")
