"""A service without its sockets: real settings, ledger and audit database, at a time of our own."""

import asyncio
import contextlib
import itertools
import json
import socket
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastapi.dependencies.models
import httpx
from fastapi import FastAPI

from authz import memory
from authz.core.audit import refused_admin_row
from authz.core.identity import TokenVerifier, mint
from authz.core.mode import Mode
from authz.core.policy_file import parse_file
from authz.core.policy_set import PolicyFile, build
from authz.core.snapshot import Snapshot
from authz.core.state import State
from authz.edges.http import admin as versions
from authz.edges.http import alerts as alert_routes
from authz.edges.http import (
    analytics,
    audit,
    bundle,
    ingest,
    log_level,
    metrics,
    policy_trial,
    policy_writes,
    records,
    relationships,
)
from authz.edges.http import mode as mode_routes
from authz.edges.http import policies as policy_routes
from authz.edges.http.app import build_app
from authz.edges.http.attempts import Attempts
from authz.edges.http.credentials import AdminToken
from authz.edges.http.documents import Reader
from authz.edges.http.log_level import LogLevel
from authz.edges.http.probes import Health
from authz.edges.incidents import Incidents
from authz.edges.ingest.taker import Taker
from authz.edges.metrics import sources
from authz.edges.metrics.counts import Counts
from authz.edges.metrics.sources import Figures
from authz.edges.mode_switch import ModeSwitch
from authz.edges.policy_changes import PolicyChanges
from authz.edges.readers import worker
from authz.edges.readers.pool import Readers
from authz.edges.readers.process import Child
from authz.gate import Gate
from authz.settings import Settings
from authz.stores.audit_key import default_key_file
from authz.stores.audit_log import AuditLog
from authz.stores.ingest.keeping import Kept
from authz.stores.parsing import parse_here
from authz.stores.policies import Loaded, PolicyDirectory
from authz.stores.policy_files import PolicyFiles
from authz.stores.versions import Versions
from tests import leaks
from tests.builders import NOW, SECRET
from tests.edges import conformity

TOKEN = "an admin token of the tests"
ADMIN = {"X-Admin-Token": TOKEN}


def policies(text: str) -> Snapshot:
    """The documents of a policy file, all of them good, in force together."""
    parsed = parse_file(text.encode(), "policies.yaml")
    assert not parsed.is_bad, parsed.problems
    return build([PolicyFile("policies.yaml", parsed.policies, chain=parsed.chain)]).snapshot


class Beside:
    """A reader's work in a thread, over a socket as to a process; that is quicker to start."""

    def __init__(self, theirs: socket.socket) -> None:
        service = socket.socket(fileno=theirs.detach())
        self._thread = threading.Thread(target=worker.serve, args=(service, lambda: None))
        self._thread.start()

    def kill(self) -> None:
        """The socket is closed by then, and ends it."""

    def wait(self) -> int:
        """Wait for the thread."""
        self._thread.join()
        return 0


def beside(theirs: socket.socket) -> Child:
    """As `process.spawn`."""
    return Beside(theirs)


class _Reading:
    """A `Reloader` that reads when it is told to."""

    def __init__(self, world: "World") -> None:
        self._world = world

    @property
    def loaded(self) -> Loaded:
        """What the files said last."""
        return self._world.loaded

    async def read(self) -> Loaded:
        """Read them, and put that in force."""
        world = self._world
        world.loaded = PolicyDirectory(world.policies).read()
        world.versions.reload(world.loaded.snapshot)
        return world.loaded


def _forget_endpoints() -> None:
    """Drop what FastAPI remembers of endpoints: it keeps the last thousands, and each its world.

    A service has one application for as long as it lives; here one comes with every test, and
    every collection of garbage would look at all of them again.
    """
    for remembered in vars(fastapi.dependencies.models).values():
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()


class World:
    """What `wiring` puts together, as far as HTTP needs it."""

    def __init__(
        self,
        directory: Path,
        documents: Snapshot | None = None,
        *,
        token: str = TOKEN,
        secret: str = SECRET,
        mode: Mode = Mode.ENFORCE,
        **env: str,
    ) -> None:
        self.database = directory / "audit.db"
        given = {"AUDIT_DB_PATH": str(self.database), "AUTHZ_RUN_DIR": "/", **env}
        settings = Settings.from_env({**given, "JWT_SECRET": SECRET})
        settings = settings.model_copy(update={"jwt_secret": type(settings.jwt_secret)(secret)})
        self.now = NOW
        self.snapshot = documents or Snapshot(())
        self.state = State()
        self.audit = AuditLog(self.database, monotonic=self._clock, ledger=self.state.ledger)
        assert self.audit.open()
        tokens = TokenVerifier(secret or SECRET, registry=self.state.agents)
        delegations = memory.Delegations(settings)
        action_tokens = memory.action_tokens(settings)
        self.counts = Counts()
        #: Of a `Reloader`.
        self.reloads = self.failures = 0
        ids = itertools.count(1)
        self.gate = Gate(
            snapshot=lambda: self.snapshot,
            tokens=tokens,
            recorder=self.audit,
            environment=memory.environment(settings, self.state, delegations, action_tokens),
            mode=mode,
            now=self._clock,
            monotonic_ns=lambda: int(self.now * 1e9),
            new_id=lambda: f"id-{next(ids)}",
            observers=(self.counts,),
        )
        self.operations = memory.operations(
            settings,
            self.state,
            self.audit,
            delegations,
            action_tokens,
            snapshot=lambda: self.snapshot,
            mode=lambda: self.gate.mode,
            now=self._clock,
            steady=self._clock,
        )
        self.versions = Versions(
            self.audit,
            self.database,
            limit=1,
            mode=lambda: self.gate.mode,
            now=self._clock,
            new_id=lambda: "unused",
        )
        self.incidents = Incidents(self.versions)
        #: One loop for all requests: readers belong to it.
        self._runner = asyncio.Runner()
        ingested = settings.audit_ingest_path
        self.readers = Readers(self.database, ingested=ingested, start=beside)
        self.taker = Taker(ingested, kept=Kept(default_key_file(self.database), 0.0, self._clock))
        #: What the policy files say; a test may put others there.
        self.loaded = Loaded(build([]), ())
        self.policies = directory / "policies"
        self.mode = ModeSwitch(
            self.gate, self.versions, has_file=False, tell_envoy=lambda _: True, now=self._clock
        )
        #: What this process was told to log; nothing of that is put in force.
        self.levels: list[str] = []
        self.log_level = LogLevel(
            "info",
            self.versions,
            use=self.levels.append,
            tell_envoy=lambda _: False,
            now=self._clock,
        )
        self.attempts = Attempts(self._record_attempts)
        admin, reader = AdminToken(token, self.attempts), Reader()
        changes = PolicyChanges(
            PolicyFiles(self.policies, parse_here), _Reading(self), self.versions, self.operations
        )
        self.app: FastAPI = build_app(
            self.gate,
            self._health(),
            self.operations,
            records.router(admin, self.operations),
            relationships.router(admin, self.operations, tokens),
            versions.router(admin, self.versions, self.database),
            bundle.router(admin, self.versions, lambda: self.loaded, self.policies),
            policy_routes.router(admin, self.versions, lambda: self.loaded, self.policies, reader),
            policy_writes.router(admin, changes, self.versions, reader),
            policy_trial.router(admin, self.versions, self.operations, reader),
            mode_routes.router(admin, self.mode, self.operations),
            log_level.router(admin, self.log_level),
            metrics.router(self._figures(), self.operations.refresh),
            alert_routes.router(admin, None, self.operations),
            audit.router(admin, self.readers, self._clock),
            analytics.router(admin, self.readers, self._clock),
            ingest.router(
                admin,
                self.taker,
                settings.audit_ingest_max_bytes,
                self.versions,
                self.incidents,
            ),
        )

    def _clock(self) -> float:
        return self.now

    def _figures(self) -> Figures:
        figures = Figures()
        sources.decisions(figures, self.counts, self._clock)
        sources.remembered(figures, self.operations, self.incidents)
        sources.sidecar(figures, self._health(), self, self.database)
        return figures

    def _health(self) -> Health:
        return Health(
            mode=lambda: self.gate.mode,
            loaded=lambda: self.loaded,
            versions=self.versions,
            problems=dict,
            audit=self.audit,
            allow_unrecorded=False,
            started_at=NOW,
            transport=dict,
        )

    def _record_attempts(self, count: int, last: Mapping[str, object]) -> None:
        row = refused_admin_row(
            row_id=f"refused-{self.now}-{count}",
            at=self.now,
            count=count,
            mode=self.gate.mode,
            policy_version="v",
            metadata=last,
        )
        self.audit.write([row])

    def close(self) -> None:
        self.readers.close()
        self._runner.close()
        self.audit.close()
        _forget_endpoints()
        if self.database.exists():  # a test may have taken it away
            written = [("the database", self.database.read_bytes())]
            leaks.look(written, {"JWT_SECRET": SECRET, "token": TOKEN})

    def ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A request without credentials; its answer is one that the reference describes."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
                return await client.request(method, path, **kwargs)

        answer = self._runner.run(send())
        conformity.check(answer)
        return answer

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A request of an administrator, below /admin."""
        return self.ask(method, f"/admin{path}", headers=ADMIN, **kwargs)

    def agent(self, agent_id: str, tier: str = "verified", **headers: str) -> dict[str, str]:
        """The headers of an agent with a good token; `pending_id` is X-MeshGuard-Pending-ID."""
        token = mint(SECRET, agent_id=agent_id, now=self.now, ttl_s=7200, tier=tier)
        named = {f"X-MeshGuard-{n.replace('_', '-')}": value for n, value in headers.items()}
        return {"Authorization": f"Bearer {token}", **named}

    def check(self, agent_id: str, action: str, **headers: str) -> httpx.Response:
        """Ask whether an agent may."""
        return self.ask(
            "GET", "/proxy/check", headers=self.agent(agent_id, action=action, **headers)
        )

    def rows(self) -> list[dict[str, Any]]:
        """The audit rows, oldest first, metadata read."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            database.row_factory = sqlite3.Row
            rows = [dict(row) for row in database.execute("SELECT * FROM audit ORDER BY seq")]
        return [{**row, "metadata": json.loads(row["metadata"] or "{}")} for row in rows]

    def changes(self) -> list[tuple[str, str, str]]:
        """What was changed of records: action, resource and who did it."""
        rows = [row for row in self.rows() if row["source"] == "control"]
        return [(row["action"], row["resource"], row["reason"]) for row in rows]
