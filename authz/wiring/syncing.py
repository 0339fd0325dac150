"""Synchronisation beside the service: when a turn is, who does it, and what is told of it.

- Two loops, one a direction: a month of rows to be sent does not keep a policy from coming in.
- Each turn is done by a process of its own (`python -m authz.sync`), which ends when the next one
  is not soon: between two turns there is a timer and no memory to speak of, and neither imports nor
  what a control plane answers is ever in the process that decides.
- What fails is an incident for as long as it does, and `/health` says what anybody may know of it.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from authz.core.incident import Kind
from authz.edges.incidents import Incidents
from authz.edges.readers.frames import DATA
from authz.edges.readers.process import Child, Process, Start, command, without_secrets
from authz.edges.threads import in_thread
from authz.exits import Exit
from authz.run_dir import StartError
from authz.settings import Settings, SettingsError
from authz.sync.errors import Cause
from authz.sync.plan import Plan
from authz.sync.schedule import Schedule
from authz.sync.state import Direction, State
from authz.sync.turn import asked

log = logging.getLogger(__name__)

#: Of the environment, what says how to get out (`authz/sync/client.py`).
PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
#: Seconds until the next turn up to which a process is kept: starting one takes a quarter of a
#: second of processor time, keeping it 35 MB.
KEPT_S: Final = 10.0
#: Seconds that a turn may take: some requests of three minutes, and a minute between slices.
TURN_S: Final = 600.0
#: Seconds between two turns where the last one has ended for its time alone.
ON_S: Final = 0.1

_KINDS: Final = {"pull": Kind.SYNC_PULL_FAILED, "push": Kind.SYNC_PUSH_FAILED}


def spawn(theirs: socket.socket) -> Child:
    """Start a process that does turns; the token is not in its environment.

    Raises:
        OSError: there can be no more processes now.
    """
    proxies = {name: os.environ[name] for name in PROXIES if name in os.environ}
    return subprocess.Popen(
        command("authz.sync"),
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env={**without_secrets(), **proxies},
    )


class Syncing:
    """The turns of both directions, and what they have come to."""

    def __init__(
        self,
        settings: Settings,
        incidents: Incidents,
        *,
        start: Start = spawn,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """
        Raises:
            StartError: https, and nobody whose certificates are trusted.
        """
        try:
            self._plan = Plan.of(settings)
        except SettingsError as error:
            raise StartError(str(error), Exit.SETTINGS) from None
        self._interval_s = float(settings.sync_interval_s)
        self._incidents = incidents
        self._start = start
        self._dice = dice
        self._directions: list[Direction] = []
        if settings.sync_pull:
            self._directions.append("pull")
        if settings.sync_push:
            self._directions.append("push")
        #: When each direction went well last, RFC 3339.
        self._last: dict[Direction, str] = {}
        self._problems: dict[Direction, Cause] = {}
        self._pending: int | None = None
        self._warning = ""

    def health(self) -> dict[str, object]:
        """What `/health` says of it: no host, no path."""
        found: dict[str, object] = {}
        if "pull" in self._directions:
            found["lastPull"] = self._last.get("pull")
        if "push" in self._directions:
            found["lastPush"] = self._last.get("push")
            found["pending"] = self._pending
        if self._problems:
            found["problem"] = "; ".join(
                f"{direction}: {cause.said}" for direction, cause in sorted(self._problems.items())
            )
        if self._warning:
            found["warning"] = "rows that were not sent will be removed by retention"
        return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Synchronise while the block runs."""
        await in_thread(self._recall)
        log.info(
            "SYNC_URL: %s with %s, at least every %g s",
            " and ".join(self._directions) or "neither pull nor push",
            self._plan.url,
            self._interval_s,
        )
        tasks = [asyncio.create_task(self._run(direction)) for direction in self._directions]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _recall(self) -> None:
        """What was known before this start."""
        for direction in self._directions:
            at = State(Path(self._plan.state_dir), direction).read().get("at")
            if isinstance(at, str):
                self._last[direction] = at

    async def _run(self, direction: Direction) -> None:
        schedule = Schedule(self._interval_s, self._dice)
        process: Process | None = None
        wait_s = schedule.first()
        try:
            while True:
                if process is not None and wait_s > KEPT_S:
                    process.end()
                    process = None
                await asyncio.sleep(wait_s)
                if process is None or not process.alive:
                    process = await self._process(process)
                try:
                    told = await self._turn(direction, process)
                except Exception:
                    # It is tried again; a loop that has ended would be noticed by nobody.
                    log.exception("sync: a %s failed", direction)
                    told = None
                if told is None and process is not None:
                    process.end()
                    process = None
                wait_s = self._told(direction, schedule, told)
        finally:
            if process is not None:
                process.end()

    async def _process(self, old: Process | None) -> Process | None:
        if old is not None:
            old.end()
        try:
            return await Process.start(self._start)
        except OSError as error:
            log.error("sync: no process can be started: %s", error)
            return None

    async def _turn(self, direction: Direction, process: Process | None) -> dict[str, Any] | None:
        """What was told of a turn; None: the process has ended, or was too slow."""
        if process is None:
            return None
        process.send(asked(direction, self._plan))
        said = b""
        try:
            async with asyncio.timeout(TURN_S):
                while frame := await process.frame():
                    if frame.kind != DATA:
                        found = json.loads(said)
                        return found if isinstance(found, dict) else None
                    said += frame.data
        except TimeoutError:
            pass
        except ValueError:
            log.error("sync: what its process has told cannot be read")
        return None

    def _told(self, direction: Direction, schedule: Schedule, told: dict[str, Any] | None) -> float:
        """Make known what a turn has come to; seconds until the next one."""
        if told is None:
            told = {
                "failed": {
                    "cause": Cause.INTERNAL,
                    "sentence": "the process has ended or was too slow; it is the first to be"
                    " killed where memory is short",
                    "retryAfter": 0,
                }
            }
        failed = told.get("failed")
        if failed is not None:
            cause = Cause(failed["cause"])
            if cause is Cause.LOCKED:
                # Whoever it is does the work.
                log.info("%s", failed["sentence"])
                return schedule.succeeded()
            self._problems[direction] = cause
            self._tell_waiting(told)
            # Both directions may fail for one reason: the log's line says which it is.
            sentence = f"{direction}: {failed['sentence']}"
            self._incidents.happened(_KINDS[direction], self._plan.url, sentence)
            return schedule.failed(float(failed["retryAfter"]))
        self._problems.pop(direction, None)
        self._incidents.ended(_KINDS[direction], self._plan.url)
        self._last[direction] = told["at"]
        for sentence in told["warnings"]:
            log.warning("sync: %s", sentence)
        wait_s = schedule.succeeded()
        if direction == "pull":
            self._tell_pulled(told)
            return wait_s
        self._tell_waiting(told)
        return ON_S if told["more"] else wait_s

    def _tell_waiting(self, told: dict[str, Any]) -> None:
        """Make known what a push has left, also one that has failed."""
        self._pending = told.get("pending", self._pending)
        retention = told.get("retention", self._warning)
        if retention and retention != self._warning:
            log.warning("%s", retention)
        self._warning = retention

    def _tell_pulled(self, told: dict[str, Any]) -> None:
        if not told["changed"]:
            return
        named = f"version {told['version']}" if "version" in told else "no version"
        log.info(
            "sync: pulled %d policy files, %s, sha256 %s from %s",
            told["files"],
            named,
            told["digest"][:16],
            self._plan.url,
        )
