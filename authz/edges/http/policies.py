"""The admin API of policies: what is in force, and whether a text could be (CONTRACT §1.3).

- What is shown is what decides now, also where a version is pinned and the files say something
  else by then; `file` is where it comes from, as far as a file still says the same.
- A page is made in a thread, with rests: there may be thousands of policies.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from authz.core.policy_entry import document_entry, dumped, problem_entries
from authz.core.policy_file import parse_file
from authz.core.policy_set import POLICY, PolicyFile, build
from authz.edges.http.admin import PREFIXES
from authz.edges.http.answers import page, tag_of, tagged
from authz.edges.http.bodies import JSON_TYPES, read_body, require_content_type
from authz.edges.http.credentials import AdminToken
from authz.edges.http.listing import MAX_LISTED, After, Filter, Limit
from authz.edges.threads import in_thread
from authz.stores.pace import Pace
from authz.stores.policies import Loaded
from authz.stores.version_log import Said, said_by
from authz.stores.versions import Versions

#: What policy files are called.
YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml")

Kind = Annotated[Filter, Query(description="Of a document that is no policy: `RiskWallet`.")]


def router(
    admin: AdminToken, versions: Versions, loaded: Callable[[], Loaded], root: Path
) -> APIRouter:
    """The routes; none without a token.

    Args:
        loaded: what the files say.
        root: POLICIES_DIR, below which `file` is told.
    """
    routes = APIRouter()
    if not admin:
        return routes
    policies = _Policies(versions, loaded, root)
    for prefix in PREFIXES:
        group = APIRouter(prefix=f"{prefix}/policies", dependencies=[Depends(admin.required)])
        group.get("")(policies.listed)
        group.post("/validate")(validate)
        group.get("/{name}")(policies.one)
        routes.include_router(group)
    return routes


class _Policies:
    """The handlers."""

    def __init__(self, versions: Versions, loaded: Callable[[], Loaded], root: Path) -> None:
        self._versions = versions
        self._loaded = loaded
        self._root = root

    async def listed(
        self, request: Request, after: After = "", limit: Limit = MAX_LISTED
    ) -> Response:
        snapshot, loaded = self._versions.current, self._loaded()
        more = {"policyVersion": snapshot.version, "pinned": self._versions.pinned}

        def made() -> bytes:
            pace = Pace()
            found = said_by(snapshot, pace)
            policies = (one for one in found if one.kind == POLICY and one.name > after)
            entries = ((one.name, self._entry(one, loaded)) for one in pace.over(policies))
            others = [one for one in found if one.kind != POLICY]
            beside = {"documents": [self._entry(one, loaded) for one in pace.over(others)]}
            return page("policies", entries, limit, more, {} if after else beside)

        body = await in_thread(made)
        return tagged(request, body, tag_of(body))

    async def one(self, name: str, request: Request, kind: Kind = "") -> Response:
        snapshot, loaded, wanted = self._versions.current, self._loaded(), kind or POLICY

        def made() -> bytes | None:
            for one in said_by(snapshot, Pace()):
                if (one.kind, one.name) == (wanted, name):
                    return self._entry(one, loaded)
            return None

        body = await in_thread(made)
        if body is None:
            raise HTTPException(404, f"no {kind or 'policy'} of this name is in force")
        return tagged(request, body, tag_of(body))

    def _entry(self, one: Said, loaded: Loaded) -> bytes:
        entry = document_entry(json.loads(one.said), active=True)
        source = loaded.policies.source(one.kind, one.name)
        if source is not None and _says(source[1]) == one.said:
            file = Path(source[0].file)
            if file.is_relative_to(self._root):
                entry["file"] = str(file.relative_to(self._root))
            if source[0].stale:
                entry["stale"] = True
        return dumped(entry)


def _says(placed: Any) -> str:
    said: str = placed.policy.said if hasattr(placed, "policy") else placed.document.said
    return said


async def validate(request: Request) -> JSONResponse:
    """What is wrong with a policy, or any other document, as the loader says it."""
    sent = require_content_type(request, (*JSON_TYPES, *YAML_TYPES))
    data = await read_body(request)
    if not data.strip():
        raise HTTPException(400, "the body is missing; send a policy, as YAML or JSON")
    is_yaml = sent in YAML_TYPES
    if not is_yaml:
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is not JSON") from None

    def looked_at() -> dict[str, Any]:
        # JSON is YAML, as far as policies go.
        parsed = parse_file(data, "body")
        problems = list(parsed.problems)
        if not parsed.is_bad:
            problems += build([PolicyFile("body", parsed.policies, chain=parsed.chain)]).problems
        told = {
            f"{severity}s": problem_entries(problems, severity, placed=is_yaml)
            for severity in ("error", "warning")
        }
        if not (told["errors"] or parsed.has_documents):
            told["errors"] = [{"message": "there is no policy in it"}]
        return {"valid": not told["errors"], **told}

    found = await in_thread(looked_at)
    if found["valid"]:
        return JSONResponse(found)
    first = found["errors"][0]["message"]
    return JSONResponse({"error": "invalid", "message": first, **found}, 422)
