"""`/health`, `/ready` and `/` (CONTRACT §1.1): open, cheap, and truthful about the audit store.

`/health` says whether this process can do its work in its mode; a supervisor restarts it when
not. `/ready` says whether it should get traffic: policies loaded and rows writable.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from authz import __version__
from authz.core.mode import Mode
from authz.core.text import visible
from authz.core.timestamps import rfc3339
from authz.edges.http.bundle_entry import bundle_entry, bundle_problems
from authz.stores.audit_log import AuditLog
from authz.stores.policies import Loaded
from authz.stores.versions import Versions

#: Files that a check names; the log and `authz policy validate` have all of them.
MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes look at."""

    mode: Callable[[], Mode]
    #: What the policy files said when they were last read, and what is in force.
    loaded: Callable[[], Loaded]
    versions: Versions
    #: What is not as its file says (MODE_FILE, JWKS_FILE), and why; empty where all is.
    problems: Callable[[], dict[str, str]]
    audit: AuditLog
    #: Enforce mode goes on without rows (AUDIT_ON_FAILURE=allow).
    allow_unrecorded: bool
    #: Figures of the transport that answers Envoy.
    transport: Callable[[], dict[str, object]]
    started_at: float
    #: What else is told, by name.
    others: dict[str, Callable[[], object]] = field(default_factory=dict)

    def checks(self) -> dict[str, str]:
        """Each part by name: `ok`, or what is wrong with it."""
        said = "ok" if self.versions.current.size else "no valid policy is loaded"
        loaded = self.loaded()
        notes = [*bad_files(loaded), *bundle_problems(loaded.bundle)]
        if self.versions.pinned:
            notes.append(f"pinned to version {self.versions.current.version}")
        return {
            "database": "ok" if self.audit.probe() else f"failing: {self.audit.failure}",
            "policies": f"{said}, {'; '.join(notes)}" if notes else said,
            **self.problems(),
        }


def bad_files(loaded: Loaded) -> list[str]:
    """What is not in force as its file says, by the names of the files; empty where all is."""
    notes = []
    errors = loaded.errors
    if errors:
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        notes.append(f"{count} in {_names(problem.file for problem in errors)}")
    if loaded.stale:
        notes.append(f"{len(loaded.stale)} stale: {_names(loaded.stale)}")
    return notes


def _names(files: Iterable[str]) -> str:
    # Without their directories: whoever may ask for this need not know where they are.
    paths = list(dict.fromkeys(files))
    names = [visible(Path(path).name) for path in paths[:MAX_NAMED]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def router(health: Health) -> APIRouter:
    """The open routes."""
    routes = APIRouter()

    @routes.get("/health")
    async def get_health() -> JSONResponse:
        checks = health.checks()
        mode = health.mode()
        works = checks["database"] == "ok" or health.allow_unrecorded or mode is not Mode.ENFORCE
        body: dict[str, object] = {
            "status": "healthy" if works else "unhealthy",
            "timestamp": rfc3339(time.time()),
            "version": __version__,
            "mode": str(mode),
            "uptime": round(time.time() - health.started_at, 3),
            "checks": checks,
        }
        body["transport"] = health.transport()
        bundle = health.loaded().bundle
        if bundle is not None:
            body["bundle"] = bundle_entry(bundle, time.time())
        body |= {name: told() for name, told in health.others.items()}
        if health.audit.unrecorded:
            body["unrecorded"] = health.audit.unrecorded
        return JSONResponse(body, 200 if works else 503)

    @routes.get("/ready")
    async def get_ready() -> JSONResponse:
        mode, current = health.mode(), health.versions.current
        if mode is Mode.BYPASS:
            warning = "MODE is bypass: nothing is evaluated and nothing is recorded"
            return JSONResponse({"status": "ready", "mode": str(mode), "warning": warning})
        checks = health.checks()
        if checks["database"] != "ok" or not current.size:
            return JSONResponse({"status": "not_ready", "mode": str(mode), "checks": checks}, 503)
        return JSONResponse(
            {
                "status": "ready",
                "mode": str(mode),
                "policies": current.size,
                "policyVersion": current.version,
            }
        )

    @routes.get("/")
    async def get_root() -> dict[str, str]:
        return {
            "name": "MeshGuard Gateway",
            "version": __version__,
            "mode": str(health.mode()),
            "docs": "/api/docs",
        }

    return routes
