"""Taking trails in, as the service sees it: one at a time, in a process that may die of it.

- Whoever comes while one is taken in is told to come again; nothing waits in line.
- An upload lies beside the ingested trail, readable by nobody else, and is gone afterwards; what a
  service that was killed has left is removed at the next start.
- The disk has to have room left when it is done: the trail of our own decisions may be on it.
- Afterwards the end of the ingested trail is signed here: the process that has read the file is
  not given the key.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Final

from authz.edges.ingest.job import MAX_LINE, Job, Outcome
from authz.edges.readers.process import command, without_secrets
from authz.edges.threads import in_thread
from authz.stores.ingest.keeping import Kept, keep

log = logging.getLogger(__name__)

#: Seconds that reading and storing a file may take. Whoever sent it hears nothing meanwhile, and
#: Envoy gives up a request that is silent for longer (`envoy_config.limits.INGEST_IDLE_TIMEOUT`).
WORK_S: Final = 240.0
#: Seconds more after which a process that does not keep to that is killed.
GRACE_S: Final = 10.0
#: Bytes of the disk that stay free.
RESERVE: Final = 64 * 1024 * 1024
#: How often its size a file needs besides itself while it is stored: the WAL and the trail.
TIMES: Final = 2
#: Seconds between two looks at what is too old.
KEEP_EVERY_S: Final = 3600.0

_PREFIX: Final = ".ingest-"
_SUFFIX: Final = ".upload"


class NoRoom(Exception):
    """The disk would be full; one sentence."""


class Taker:
    """Takes trails in. One event loop's, but for what is said to be a thread's."""

    def __init__(
        self,
        path: Path,
        *,
        keys: Sequence[Path] = (),
        kept: Kept,
        work_s: float = WORK_S,
        start: Sequence[str] = (),
    ) -> None:
        """
        Args:
            path: the ingested trail.
            keys: public keys (PEM) that trails have to be signed with; none: any.
            kept: how the ingested trail is looked after.
            start: the process; our own where none is given.
        """
        self.path = path
        self._keys = keys
        self._kept = kept
        self._work_s = work_s
        self._start = list(start) or command("authz.edges.ingest.worker")
        self._child: subprocess.Popen[bytes] | None = None
        #: Somebody's upload comes, or is being taken in.
        self.busy = False
        self._closing = False
        #: Whoever looks after the trail and whoever adds to it take turns.
        self._turn = threading.Lock()

    def sweep(self) -> None:
        """Remove uploads that a service which is gone has left."""
        for file in self.path.parent.glob(f"{_PREFIX}*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                file.unlink()

    @contextlib.asynccontextmanager
    async def upload(self) -> AsyncIterator[IO[bytes]]:
        """A file for an upload, with a name, that is gone afterwards.

        Raises:
            OSError: there can be none.
        """

        def made() -> IO[bytes]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return tempfile.NamedTemporaryFile(
                dir=self.path.parent, prefix=_PREFIX, suffix=_SUFFIX, buffering=0
            )

        file = await in_thread(made)
        try:
            yield file
        finally:
            # A file system takes 80 ms to give back 256 MiB.
            await in_thread(file.close)

    def check_room(self, size: int) -> None:
        """Whether a file of so many bytes can be stored.

        Raises:
            NoRoom: not without filling the disk.
        """
        free = shutil.disk_usage(self.path.parent).free
        if free < size + RESERVE:
            raise NoRoom(
                f"the disk of the ingested trail has {free} bytes free, and {size + RESERVE} are"
                " needed"
            )

    async def take(self, file: Path) -> Outcome:
        """Take an uploaded file in; never raises."""
        outcome = await in_thread(lambda: self._take(file))
        if not outcome.kind:
            await self.look_after()
        return outcome

    async def look_after(self) -> None:
        """Sign the end of the ingested trail, and remove what is too old, where there is one."""

        def work() -> None:
            with self._turn:
                keep(self.path, self._kept)

        try:
            await in_thread(work)
        except Exception:
            log.exception("AUDIT_INGEST_DB_PATH: the ingested trail cannot be looked after")

    def close(self) -> None:
        """End what is being done: nothing of it is stored."""
        self._closing = True
        self._kill()

    def _kill(self) -> None:
        child = self._child
        if child is not None:
            with contextlib.suppress(OSError):
                child.kill()

    def _take(self, file: Path) -> Outcome:
        """In a thread."""
        job = Job(
            os.fspath(file.absolute()),
            os.fspath(self.path.absolute()),
            [os.fspath(key.absolute()) for key in self._keys],
            self._work_s,
        )
        with self._turn:
            try:
                return self._answer(job)
            except OSError as error:
                log.error("no process can be started to take a trail in: %s", error)
                said = "no process can be started to take it in"
            except (ValueError, TypeError):
                # Killed, out of memory or time, or SQLite broke on it: nothing was stored.
                said = "the process that took it in has ended before it was done"
            return Outcome("unavailable", said)

    def _answer(self, job: Job) -> Outcome:
        with subprocess.Popen(
            self._start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=without_secrets()
        ) as child:
            self._child = child
            timer = threading.Timer(self._work_s + GRACE_S, self._kill)
            timer.daemon = True
            timer.start()
            try:
                if self._closing:
                    self._kill()
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(job.encoded())
                # Its end is the process's: it stays open.
                child.stdin.flush()
                return Outcome.decoded(child.stdout.readline(MAX_LINE))
            finally:
                timer.cancel()
                child.kill()
                self._child = None
