"""`PUT` and `DELETE /admin/policies/{name}`: documents of POLICIES_DIR, one at a time.

- What is sent is one document, whose name is the path's. It is validated as the loader does.
- An answer that says it was done says so when it is in force, and `inForce` tells where that is not
  so: a version is pinned, or the files take long to be read.
- `If-Match` and `If-None-Match` are about the document's text (`policies`).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from authz.core.policy_entry import document_entry
from authz.core.policy_file import Placed, PlacedChain
from authz.core.policy_set import POLICY
from authz.core.policy_text import key_of
from authz.core.text import word
from authz.edges.http.admin import PREFIX
from authz.edges.http.credentials import BY, AdminToken
from authz.edges.http.documents import Reader, busy, looked_at, told
from authz.edges.http.policies import TAG_LENGTH, Kind, require_name
from authz.edges.http.queries import known
from authz.edges.http.refusals import refusals
from authz.edges.policy_changes import Busy, Changing, Done, NotInForce, PolicyChanges
from authz.stores.policy_files import Changed, Found, NotWritable, WriteFailed
from authz.stores.versions import Versions


def router(
    admin: AdminToken, changes: PolicyChanges, versions: Versions, reader: Reader
) -> APIRouter:
    """The routes; none without a token."""
    if not admin:
        return APIRouter()
    writes = _Writes(changes, versions, reader)
    group = APIRouter(
        prefix=f"{PREFIX}/policies", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.put("/{name}")(writes.put)
    group.delete("/{name}")(writes.delete)
    return group


class _Writes:
    """The handlers."""

    def __init__(self, changes: PolicyChanges, versions: Versions, reader: Reader) -> None:
        self._changes = changes
        self._versions = versions
        self._reader = reader

    async def put(self, name: str, request: Request, kind: Kind = "") -> JSONResponse:
        require_name(name)
        sent = await self._reader.sent(request)
        refusal = looked_at(sent)
        if refusal is not None:
            return refusal
        placed = _only([*sent.parsed.policies, *sent.parsed.chain])
        key = key_of(placed)
        if key[1] != name:
            said = f"name: the document is called `{word(key[1])}`, and the path says otherwise"
            raise HTTPException(400, said)
        if kind not in ("", key[0]):
            raise HTTPException(400, f"kind: the document is a {key[0]}, and the query says not")
        with _refusals():
            done = await self._changes.put(
                Changing(key, sent.text, placed),
                by=BY,
                allows=lambda found: _require(request, found),
            )
        body = placed.policy if isinstance(placed, Placed) else placed.document
        is_idle = isinstance(placed, Placed) and placed.policy.scope.is_nobody
        entry = document_entry(json.loads(body.said), active=done.in_force and not is_idle)
        answer = {
            "policy": {**entry, "file": str(done.file)},
            "warnings": told(sent.problems, is_placed=sent.is_placed)["warnings"],
        }
        return JSONResponse({**answer, **self._done(done)}, 201 if done.is_new else 200)

    async def delete(self, name: str, request: Request, kind: Kind = "") -> JSONResponse:
        require_name(name)
        with _refusals():
            done = await self._changes.delete(
                (kind or POLICY, name), by=BY, allows=lambda found: _require(request, found)
            )
        if done is None:
            raise HTTPException(404, f"no file has a {kind or 'policy'} {name}")
        return JSONResponse({"name": name, "deleted": True, **self._done(done)})

    def _done(self, done: Done) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "file": str(done.file),
            "inForce": done.in_force,
            "policyVersion": self._versions.current.version,
        }
        return {**answer, "note": done.note} if done.note else answer


def _only(documents: Sequence[Placed | PlacedChain]) -> Placed | PlacedChain:
    """The one document of a body.

    Raises:
        HTTPException: 400, it has several.
    """
    if len(documents) != 1:
        raise HTTPException(400, f"the body has {len(documents)} documents; send them one by one")
    return documents[0]


def _require(request: Request, found: Found | None) -> None:
    """Hold what is there against the conditions of a request (RFC 9110 §13.1).

    Raises:
        HTTPException: 412.
    """
    match = _sent(request, "if-match")
    if match is not None and not _names(match, found):
        said = "it is not what If-Match says any more" if found else "there is none to be changed"
        raise HTTPException(412, said)
    none = _sent(request, "if-none-match")
    if none is not None and _names(none, found):
        raise HTTPException(412, "there is one already, which If-None-Match says not to replace")


def _sent(request: Request, name: str) -> str | None:
    """A header that may be there several times, which is one list (RFC 9110 §5.3)."""
    values = request.headers.getlist(name)
    return ",".join(values) if values else None


def _names(header: str, found: Found | None) -> bool:
    """Whether a list of ETags has one of the document; `*` has any that is there."""
    if found is None:
        return False
    listed = [one.strip().removeprefix("W/").strip('"') for one in header.split(",")]
    return "*" in listed or found.digest[:TAG_LENGTH] in [one[:TAG_LENGTH] for one in listed]


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What a change raises as the HTTP error that it is."""
    with refusals():
        try:
            yield
        except (NotWritable, Changed, NotInForce) as error:
            raise HTTPException(409, str(error)) from None
        except (WriteFailed, Busy) as error:
            raise busy(str(error)) from None
