"""Reloading: files that change on disk become the policies, the mode and the keys in force.

- A burst of changes is one reload: nothing is read until it has been quiet for `QUIET_S` and no
  file is open for writing, and for no longer than `PATIENCE_S` since the first of them. A file that
  is being written even then is left as it was.
- Reading and compiling happen in a thread, at a pace that leaves the interpreter to whoever answers
  requests; the event loop only swaps the reference. Callers that the old snapshot knows are looked
  up in the new one before it is in force.
- Nothing that can be on a disk stops this: what cannot be read is reported and what was in force
  stays.
"""

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

from authz.core.policy_bounds import SUFFIXES
from authz.core.policy_file import Problem
from authz.core.policy_set import counted
from authz.edges.threads import in_thread
from authz.edges.watcher import OPEN_S, Watcher
from authz.stores.pace import Pace
from authz.stores.policies import Loaded, PolicySource
from authz.stores.version_log import Packed, pack
from authz.stores.versions import Versions

log = logging.getLogger(__name__)

#: Seconds without a change after which a burst is over: an unpacked archive's files come within
#: milliseconds of each other.
QUIET_S: Final = 0.2
#: Seconds after which a burst that does not end is read all the same.
PATIENCE_S: Final = 2.0
#: Seconds between looks where the system cannot tell us about changes.
FALLBACK_POLL_S: Final = 10
#: Seconds between attempts to record what could not be recorded.
FLUSH_S: Final = 5.0
#: Callers that are looked up before a snapshot is in force.
PREPARED: Final = 64


T = TypeVar("T")


class Followed(Generic[T]):
    """A file of its own whose content is in force; one that turns bad changes nothing.

    Or several that only count together, such as a certificate and its key.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        read: Callable[[Path], T],
        use: Callable[[T], None],
        stays: str,
        also: Sequence[Path] = (),
    ) -> None:
        """
        Args:
            name: what it holds, as `/health` calls it.
            read: reads it, in a thread; raises ValueError with a sentence when it cannot.
            use: puts what was read in force, whether or not it is something else.
            stays: what is logged after that sentence: `the mode stays as it is`.
            also: what is read with the file, and watched.
        """
        self.name = name
        self.path = path
        self.paths: Final = (path, *also)
        self._read = read
        self._use = use
        self._stays = stays
        #: Why what is in force is not what the file says.
        self.problem = ""

    async def reload(self) -> None:
        """Read the file again; a problem is logged once."""
        try:
            content = await in_thread(lambda: self._read(self.path))
        except ValueError as error:
            if str(error) != self.problem:
                log.error("%s; %s", error, self._stays)
            self.problem = str(error)
            return
        self.problem = ""
        self._use(content)


class _Read(NamedTuple):
    """A reading, with all about it that takes time to find out."""

    loaded: Loaded
    packed: Packed | None
    #: Problems that the last reading did not have.
    news: list[Problem]
    newly_stale: list[str]
    no_longer_stale: list[str]


class Reloader:
    """Keeps policies, and what else is followed, as the files say."""

    def __init__(
        self,
        source: PolicySource,
        versions: Versions,
        *,
        loaded: Loaded,
        files: Sequence[Followed[Any]],
        poll_s: float,
    ) -> None:
        """
        Args:
            loaded: what is in force now.
            files: what else is followed.
            poll_s: seconds between looks besides being told; 0 for none.
        """
        #: The last reading.
        self.loaded = loaded
        #: How often the policies in force were replaced.
        self.reloads = 0
        #: Readings that failed altogether, so that what was in force stayed.
        self.failures = 0
        self._source = source
        self._versions = versions
        self._files = files
        self._poll_s = poll_s
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._last_change = 0.0
        self._asked = False
        #: Who waits for a reading that begins after they asked.
        self._waiting: list[asyncio.Future[Loaded]] = []
        self._signature: object = None
        #: Files were being written at the last reading, and were left out of it.
        self._left_out = False
        #: Where the followed files lead to; the watcher speaks of real paths.
        self._real_paths: set[str] = set()
        self._watcher = Watcher(self._on_change, is_ours=self._is_ours)
        self._listeners: list[Callable[[Loaded], None]] = []

    def listen(self, listener: Callable[[Loaded], None]) -> None:
        """Have somebody told of each reading, on the event loop's thread, when it is in force."""
        self._listeners.append(listener)

    def ask(self) -> None:
        """Read everything again now, and say so even if nothing has changed (SIGHUP)."""
        self._asked = True
        self._changed.set()

    async def read(self) -> Loaded:
        """Read everything again, and return when that is in force, or would be without a pin.

        At once where nobody else is changing files; else with what they change.

        Raises:
            RuntimeError: it could not be read; what was in force stays.
        """
        done: asyncio.Future[Loaded] = self._loop.create_future()
        if self._changed.is_set() or self._watcher.being_written():
            log.info("policies: others are changing files; they are read together")
        else:
            self._last_change = time.monotonic() - QUIET_S
        self._waiting.append(done)
        self._changed.set()
        return await done

    def problems(self) -> dict[str, str]:
        """What is not as its file says, and why; policies are not among it."""
        return {file.name: file.problem for file in self._files if file.problem}

    async def run(self) -> None:
        """Watch and reload until cancelled."""
        try:
            # Threads and inotify calls; the event loop has requests to answer.
            await in_thread(self._start_watching)
            # What changed between the first reading and now.
            self._changed.set()
            flushing = asyncio.create_task(self._flush())
            try:
                while True:
                    await self._wait()
                    try:
                        await self._reload()
                    except Exception:
                        # What was in force stays, and so does the watch.
                        self.failures += 1
                        log.exception("reading the policies failed; what was in force stays")
            finally:
                flushing.cancel()
                self._flush_now()
        finally:
            self._watcher.stop()
            _disappoint(self._waiting, "the service stops")

    def _start_watching(self) -> None:
        self._watcher.start()
        self._watch(self.loaded, Pace())

    def _watch(self, loaded: Loaded, pace: Pace) -> bool:
        files = [path for file in self._files for path in file.paths]
        files += self._source.files
        self._real_paths = {os.path.realpath(path) for path in files}
        seen = pace.over([*loaded.directories, *loaded.paths])
        links = pace.over(loaded.links)
        try:
            return self._watcher.watch(self._source.trees, files, seen, links)
        except Exception:
            # What was read counts all the same, and is looked at now and then.
            log.exception("changes of the policies cannot be watched")
            self._watcher.works = False
            return False

    def _is_ours(self, path: str) -> bool:
        return path.endswith(SUFFIXES) or path in self._real_paths

    def _on_change(self) -> None:
        self._last_change = time.monotonic()
        if self._changed.is_set():
            return  # a thousand files need not wake the event loop a thousand times
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._changed.set)

    async def _wait(self) -> None:
        """Return when there may be something to read, and nobody is in the middle of writing it."""
        poll_s = self._poll_s
        if not self._watcher.works:
            poll_s = min(poll_s or FALLBACK_POLL_S, FALLBACK_POLL_S)
        if self._left_out:
            # Their writer may never say that it is done.
            poll_s = min(poll_s or OPEN_S, OPEN_S)
        if self.loaded.again_s:
            poll_s = min(poll_s or self.loaded.again_s, self.loaded.again_s)
        try:
            await asyncio.wait_for(self._changed.wait(), poll_s or None)
        except TimeoutError:
            await self._settled()
            return
        first = time.monotonic()
        while not self._asked:
            now = time.monotonic()
            quiet = now - self._last_change
            if quiet >= QUIET_S and not self._watcher.being_written():
                break
            if now - first >= PATIENCE_S:
                break
            await asyncio.sleep(max(QUIET_S - quiet, 0.02))

    async def _settled(self) -> None:
        """What `_wait` does where nothing is told: look until two looks see the same."""
        first = time.monotonic()
        seen = await in_thread(self._look_from_afar)
        while seen != self._signature and time.monotonic() - first < PATIENCE_S:
            self._signature = seen
            await asyncio.sleep(QUIET_S)
            seen = await in_thread(self._look_from_afar)

    def _look_from_afar(self) -> object:
        return self._source.signature(Pace())

    async def _reload(self) -> None:
        # Whoever asks from here on is to see what is there then.
        waiting, self._waiting = self._waiting, []
        try:
            loaded = await self._reload_all()
        except BaseException as error:
            _disappoint(waiting, str(error) or "the service stops")
            raise
        for done in waiting:
            if not done.done():  # whoever waited may have gone
                done.set_result(loaded)

    async def _reload_all(self) -> Loaded:
        self._changed.clear()
        asked, self._asked = self._asked, False
        for followed in self._files:
            await followed.reload()
        started = time.monotonic()
        read = await in_thread(self._read)
        loaded, self.loaded = read.loaded, read.loaded
        report(read.news)
        for file in read.newly_stale:
            stays = "is what will be released" if self._versions.pinned else "stays in force"
            log.warning("%s: its last good version %s", file, stays)
        for file in read.no_longer_stale:
            log.info("%s: no longer stale", file)
        swapped = self._versions.reload(loaded.snapshot, read.packed)
        self.reloads += swapped
        if swapped or asked:
            log.info(
                "policies: %s version %s, %s from %d files, %d errors, %d stale (%.0f ms)",
                "reloaded," if swapped else "read again, still",
                self._versions.current.version + " (pinned)" * self._versions.pinned,
                counted(self._versions.current.size, len(self._versions.current.chain)),
                loaded.files,
                len(loaded.errors),
                len(loaded.stale),
                (time.monotonic() - started) * 1000,
            )
        if swapped and not loaded.snapshot.size:
            log.error("POLICIES_DIR: no valid policy is left; every decision is a denial")
        for listener in self._listeners:
            listener(loaded)
        return loaded

    def _read(self) -> "_Read":
        # A collection in the middle of this would look at everything that was ever loaded, and
        # stop all threads for it; what is loaded now stays, and need not be looked at again.
        gc.disable()
        try:
            return self._look()
        finally:
            gc.freeze()
            gc.enable()

    def _look(self) -> "_Read":
        pace = Pace()
        being_written = self._watcher.being_written()
        self._left_out = bool(being_written)
        loaded = self._source.read(being_written, pace)
        current = self._versions.current
        loaded.snapshot.prepare(current.callers()[-PREPARED:])
        if self._watch(loaded, pace):
            # What is watched only now may have changed since it was read.
            self._on_change()
        before, now = {*self.loaded.problems}, {*self.loaded.stale}
        return _Read(
            loaded,
            None if loaded.snapshot.version == current.version else pack(loaded.snapshot),
            [problem for problem in loaded.problems if problem not in before],
            sorted({*loaded.stale} - now),
            sorted(now - {*loaded.stale}),
        )

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._flush_now()

    def _flush_now(self) -> None:
        try:
            self._versions.flush()
        except Exception:
            log.exception("recording which policies are in force failed")


def _disappoint(waiting: Iterable[asyncio.Future[Loaded]], why: str) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(RuntimeError(f"the policies were not read: {why}"))


def report(problems: Iterable[Problem]) -> None:
    """Log what is wrong with policy files, each problem at its own level."""
    for problem in problems:
        log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "%s", problem)
