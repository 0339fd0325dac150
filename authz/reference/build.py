"""The application and what is said of it → the OpenAPI document that `/api/docs` shows.

- Schemas that several operations share stand once, in `components`.
- `/api/v1/admin/…` is `/admin/…` and `/api/v1/relationships` is `/relationships`: the document has
  one of each.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from authz.reference import (
    agents,
    alerts,
    analytics,
    audit,
    bundles,
    delegation,
    governed,
    log_level,
    pending,
    policies,
    probes,
    relationships,
    sdk,
    spending,
)
from authz.reference import versions as policy_versions
from authz.reference.operation import SCHEMES, Error, Operation, schema_of

#: Everything that is described.
OPERATIONS: Final[tuple[Operation, ...]] = (
    *governed.OPERATIONS,
    *sdk.OPERATIONS,
    *relationships.OPERATIONS,
    *agents.OPERATIONS,
    *pending.OPERATIONS,
    *spending.OPERATIONS,
    *delegation.OPERATIONS,
    *policies.OPERATIONS,
    *bundles.OPERATIONS,
    *log_level.OPERATIONS,
    *policy_versions.OPERATIONS,
    *audit.OPERATIONS,
    *analytics.OPERATIONS,
    *alerts.OPERATIONS,
    *probes.OPERATIONS,
)

#: The page's headings, in order.
TAGS: Final[Mapping[str, str]] = {
    "Decisions": "What an agent may do, asked by name.",
    "What agents report": "What agents say that they did: their word, in the trail.",
    "Delegation by agents": "Who acts for whom, as the agents themselves say.",
    "Agents": "The agents that are registered here, and their tokens.",
    "Pending actions": "What waits for a person, or for time.",
    "Relationships": "Who acts for whom.",
    "Wallets and fuses": "What agents have spent, and delegations that failed too often.",
    "Policies": "Which policies are in force, and the way back.",
    "Mode": "Whether denials block.",
    "Audit trail": "What was decided, and what was changed.",
    "Analytics": "The audit trail in figures.",
    "Alerts": "Who is told of what, and how that goes.",
    "Service": "How the service is.",
}
#: Paths that are others' second names.
ALIASES: Final = ("/api/v1/admin/", "/api/v1/relationships")

_TITLE: Final = "Authz sidecar"
_ABOUT: Final = (
    "What the sidecar answers itself, on the port of the requests that it governs. Bodies are JSON"
    " objects; a key that is not known is refused. Nothing redirects. `/admin/…` is also"
    " `/api/v1/admin/…`, and is there with ADMIN_TOKEN set."
)


class Undescribed(Exception):
    """Routes and descriptions do not fit; one sentence."""


def document(app: FastAPI, version: str) -> dict[str, Any]:
    """The OpenAPI document (3.1).

    Raises:
        Undescribed: a route has no description, or a description no route.
    """
    made = get_openapi(title=_TITLE, version=version, description=_ABOUT, routes=app.routes)
    said = {(one.method.lower(), one.path): one for one in OPERATIONS}
    paths: dict[str, Any] = {}
    missing = []
    for path, methods in made["paths"].items():
        if path.startswith(ALIASES):
            continue
        for method, found in methods.items():
            one = said.pop((method, path), None)
            if one is None:
                missing.append(f"{method.upper()} {path}")
                continue
            paths.setdefault(path, {})[method] = one.document(found.get("parameters", ()))
    if missing:
        raise Undescribed(f"not described: {', '.join(missing)}")
    if said:
        names = ", ".join(f"{method.upper()} {path}" for method, path in said)
        raise Undescribed(f"described, and not there: {names}")
    made["paths"] = paths
    made["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    shared = _hoisted({"": schema_of(Error), **paths})
    made["components"] = {"schemas": shared, "securitySchemes": copy.deepcopy(dict(SCHEMES))}
    return made


def _hoisted(paths: dict[str, Any]) -> dict[str, Any]:
    """Move the `$defs` of all schemas to where they stand once."""
    shared: dict[str, Any] = {}
    for node in _objects(paths.values()):
        for name, schema in node.pop("$defs", {}).items():
            if shared.setdefault(name, schema) != schema:
                raise Undescribed(f"two types are named {name}")
    for node in _objects([paths, shared]):
        reference = node.get("$ref", "")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            node["$ref"] = "#/components/schemas/" + reference.removeprefix("#/$defs/")
    return shared


def _objects(values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Every JSON object in there, outer ones first."""
    for value in values:
        if isinstance(value, dict):
            yield value
            yield from _objects(list(value.values()))
        elif isinstance(value, list):
            yield from _objects(value)
