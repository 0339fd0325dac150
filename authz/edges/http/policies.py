"""The admin API of policies: what is in force, and whether a text could be (CONTRACT §1.3).

- What is shown is what decides now, also where a version is pinned and the files say something
  else by then; `file` is where it comes from, as far as a file still says the same. What only the
  files have is shown by name, and is not `active`.
- A page is made in a thread, with rests: there may be thousands of policies.
- An ETag of one document begins with what names its text, which is what `If-Match` is about when it
  is changed (`policy_writes`).
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from authz.core.policy_entry import document_entry, dumped
from authz.core.policy_file import Placed, PlacedChain
from authz.core.policy_set import POLICY
from authz.core.policy_text import written
from authz.core.snapshot import Snapshot
from authz.edges.http.admin import PREFIX
from authz.edges.http.answers import JSON, page, tag_of, tagged
from authz.edges.http.credentials import AdminToken
from authz.edges.http.documents import YAML_TYPES, Reader, looked_at, told
from authz.edges.http.listing import MAX_LISTED, After, Filter, Limit
from authz.edges.http.queries import known
from authz.edges.threads import in_thread
from authz.stores.pace import Pace
from authz.stores.parsing import parse_aside
from authz.stores.policies import Loaded, member_of
from authz.stores.policy_files import Changed, NotWritable, PolicyFiles, WriteFailed
from authz.stores.version_log import Said, said_by
from authz.stores.versions import Versions

Kind = Annotated[Filter, Query(description="Of a document that is no policy: `RiskWallet`.")]

#: What these paths mean themselves.
_WORDS: Final = (
    "bundle", "bundle.sig", "validate", "test", "versions", "rollback", "release", "pin", "unpin",
)  # fmt: skip
#: Hexadecimal digits of an ETag that name a document's text.
TAG_LENGTH: Final = 32


def router(
    admin: AdminToken, versions: Versions, loaded: Callable[[], Loaded], root: Path, reader: Reader
) -> APIRouter:
    """The routes; none without a token.

    Args:
        loaded: what the files say.
        root: POLICIES_DIR, below which `file` is told.
        reader: reads what is to be validated.
    """
    if not admin:
        return APIRouter()
    policies = _Policies(versions, loaded, root)

    async def validate(request: Request) -> JSONResponse:
        sent = await reader.sent(request)
        refusal = looked_at(sent)
        if refusal is not None:
            return refusal
        found = told(sent.problems, is_placed=sent.is_placed)
        return JSONResponse({"valid": True, **found})

    group = APIRouter(
        prefix=f"{PREFIX}/policies", dependencies=[Depends(admin.required), Depends(known)]
    )
    group.get("")(policies.listed)
    group.post("/validate")(validate)
    group.get("/{name}")(policies.one)
    return group


def require_name(name: str) -> None:
    """Hold a path's last part against what such paths mean themselves.

    Raises:
        HTTPException: 405, it is one of them, and no policy is shown or changed by that path.
    """
    if name in _WORDS:
        raise HTTPException(405)


class _Policies:
    """The handlers."""

    def __init__(self, versions: Versions, loaded: Callable[[], Loaded], root: Path) -> None:
        self._versions = versions
        self._loaded = loaded
        self._files = PolicyFiles(root, parse_aside)

    async def listed(
        self, request: Request, after: After = "", limit: Limit = MAX_LISTED
    ) -> Response:
        snapshot, loaded = self._versions.current, self._loaded()
        more = {"policyVersion": snapshot.version, "pinned": self._versions.pinned}

        def made() -> bytes:
            pace = Pace()
            found, idle = said_by(snapshot, pace), _idle(snapshot, pace)

            def shown(one: Said) -> bytes:
                return self._entry(one, loaded, active=one[:2] not in idle)

            policies = (one for one in found if one.kind == POLICY and one.name > after)
            entries = ((one.name, shown(one)) for one in pace.over(policies))
            others = [] if after else [one for one in found if one.kind != POLICY]
            beside = {"documents": [shown(one) for one in pace.over(others)]}
            return page("policies", entries, limit, more, {} if after else beside)

        body = await in_thread(made)
        return tagged(request, body, tag_of(body))

    async def one(self, name: str, request: Request, kind: Kind = "") -> Response:
        require_name(name)
        snapshot, loaded, wanted = self._versions.current, self._loaded(), kind or POLICY
        as_yaml = _wants_yaml(request)

        def made() -> tuple[bytes, str] | None:
            pace = Pace()
            key = (wanted, name)
            source = loaded.policies.source(*key)
            found = next((one for one in said_by(snapshot, pace) if one[:2] == key), None)
            is_active = found is not None and key not in _idle(snapshot, pace)
            if found is None and source is not None:
                found = Said(*key, _says(source[1]))
            if found is None:
                return None
            text = self._text(loaded, found)
            named = hashlib.sha256(text).hexdigest()[:TAG_LENGTH]
            if as_yaml:
                return text, f'"{named}"'
            body = self._entry(found, loaded, active=is_active)
            return body, f'"{named}-{tag_of(body)[1:9]}"'

        answer = await in_thread(made)
        if answer is None:
            raise HTTPException(404, f"there is no {kind or 'policy'} {name}")
        return tagged(request, *answer, YAML_TYPES[0] if as_yaml else JSON)

    def _text(self, loaded: Loaded, one: Said) -> bytes:
        """A document's own text, as far as there is a file that has it; else one that says it."""
        if loaded.bundle is not None:
            from authz.stores.bundle_archive import text_in  # noqa: PLC0415 - where there is one

            return text_in(loaded, (one.kind, one.name)) or written(json.loads(one.said))
        try:
            found = self._files.find(loaded.policies, (one.kind, one.name), to_edit=False)
        except (Changed, NotWritable, WriteFailed):
            found = None
        return written(json.loads(one.said)) if found is None else found.text

    def _entry(self, one: Said, loaded: Loaded, *, active: bool) -> bytes:
        entry = document_entry(json.loads(one.said), active=active)
        source = loaded.policies.source(one.kind, one.name)
        if source is not None and _says(source[1]) == one.said:
            member = member_of(loaded, source[0].file)
            entry.update({"file": member} if member else self._files.told(source[0].file))
            if source[0].stale:
                entry["stale"] = True
        return dumped(entry)


def _idle(snapshot: Snapshot, pace: Pace) -> set[tuple[str, str]]:
    """The policies that are for nobody, by kind and name."""
    policies = pace.over(snapshot.policies)
    return {(POLICY, policy.name) for policy in policies if policy.scope.is_nobody}


def _says(placed: Placed | PlacedChain) -> str:
    return placed.policy.said if isinstance(placed, Placed) else placed.document.said


def _wants_yaml(request: Request) -> bool:
    """Whether YAML is asked for; JSON is what there is without asking."""
    parts = request.headers.get("accept", "").lower().split(",")
    wanted = [part.partition(";")[0].strip() for part in parts]
    return any(media in YAML_TYPES for media in wanted) and JSON not in wanted
