"""Tells when something below some paths may have changed; looking at it is somebody else's.

- Watchdog's inotify observer, one watch a tree. What links lead to is watched where it is: the
  directory of every link on the way to a path (a ConfigMap swaps `..data`, a release swaps
  `current`), and trees outside the root that links inside it lead to.
- A path that does not exist, or that vanishes, is waited for in the nearest directory above it.
- A file that is written to is known until it is closed, so that nobody has to read half of it.
- Where the system refuses a watch (inotify's limits) that is logged, and `works` says so.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

log = logging.getLogger(__name__)

#: Trees outside the watched ones that links lead to; each costs two threads.
MAX_OUTSIDE: Final = 32
#: Links that are followed on the way to one path, as in Linux's path resolution.
MAX_LINKS: Final = 40
#: What is told. Not opening and closing: our own reading would never end.
_EVENTS: Final[list[type[FileSystemEvent]]] = [
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
#: Seconds that a writer may hold a file before it counts as done: long enough for an archive that
#: comes over a slow line, short enough for an editor that never closes what it shows.
OPEN_S: Final = 60.0
_GOING: Final = frozenset({"deleted", "moved"})


class Watcher(FileSystemEventHandler):
    """Watches paths and calls `changed` from a thread of its own."""

    def __init__(self, changed: Callable[[], None], *, is_ours: Callable[[str], bool]) -> None:
        """
        Args:
            changed: called, from another thread, when something may have changed.
            is_ours: whether a file is one that is read, by its path.
        """
        self._changed = changed
        self._is_ours = is_ours
        self._observer: BaseObserver = Observer()
        #: Watch by (path, recursive), with the inode that it was put on.
        self._watches: dict[tuple[Path, bool], tuple[ObservedWatch, int]] = {}
        self._lock = threading.Lock()
        #: Files that were written to and not closed, and since when.
        self._open: dict[str, float] = {}
        #: Paths whose change matters, directories of which everything does, and trees.
        self._names: set[str] = set()
        self._outside: set[str] = set()
        self._roots: tuple[str, ...] = ()
        #: Directories that were deleted or moved: a watch on such a path is on nothing, and the
        #: next directory of that name may even get the same inode.
        self._gone: set[Path] = set()
        #: False: some path cannot be watched and has to be looked at now and then.
        self.works = True

    def start(self) -> None:
        """Begin to watch; nothing is watched before `watch`."""
        self._observer.start()

    def stop(self) -> None:
        """Stop, and wait for the threads."""
        self._observer.stop()
        self._observer.join()

    def watch(self, trees: Iterable[Path], files: Iterable[Path], seen: Iterable[Path]) -> bool:
        """Watch these trees and files from now on, and nothing else; True when that is news.

        Args:
            trees: directories, with everything below them.
            files: single files.
            seen: directories and files that the trees were found to lead to, through links too.
        """
        wanted: dict[tuple[Path, bool], int] = {}
        names: set[str] = set()
        roots = []
        for tree in trees:
            root = Path(os.path.realpath(tree))
            roots.append(root)
            self._want(wanted, names, root, recursive=True)
            self._want_steps(wanted, names, (tree.absolute(), *tree.absolute().parents))
            self._want_steps(wanted, names, _links(tree))
        for file in files:
            self._want_steps(wanted, names, (file.absolute(), *file.absolute().parents))
            self._want_steps(wanted, names, _links(file))
        outside: set[str] = set()
        known: set[tuple[Path, str]] = set()
        for path in seen:
            # A thousand links of one ConfigMap all lead to one directory.
            target = _target(path)
            if self._is_ours(os.fspath(path)):
                target = os.path.dirname(target)  # noqa: PTH120 - a thousand times
            shape = path.parent, target
            if shape in known:
                continue
            known.add(shape)
            real = Path(os.path.realpath(path))
            directory = real if real.is_dir() else real.parent
            if any(directory.is_relative_to(root) for root in roots):
                continue
            outside.add(os.fspath(directory))
            if len(outside) > MAX_OUTSIDE:
                log.warning("links lead to over %d other directories", MAX_OUTSIDE)
                self.works = False
                break
            self._want(wanted, names, directory, recursive=False)
            self._want_steps(wanted, names, _links(path))
        with self._lock:
            self._names, self._outside = names, outside
            self._roots = tuple(os.fspath(root) for root in roots)
        return self._apply(wanted)

    def being_written(self) -> set[Path]:
        """The files that somebody is writing now."""
        since = time.monotonic() - OPEN_S
        with self._lock:
            self._open = {path: start for path, start in self._open.items() if start > since}
            return {Path(path) for path in self._open}

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog for everything that happens."""
        source, target = os.fsdecode(event.src_path), os.fsdecode(event.dest_path)
        with self._lock:
            if not (self._matters(source) or self._matters(target)):
                return
            if event.is_directory:
                if event.event_type in _GOING:
                    self._gone.add(Path(source))
            # Not what was merely created: a link, or a file moved here, is never closed.
            elif event.event_type == "modified" and self._is_ours(source):
                self._open.setdefault(source, time.monotonic())
            else:
                self._open.pop(source, None)
                self._open.pop(target, None)
        self._changed()

    def _matters(self, path: str) -> bool:
        """Whether a change of this path can be one of what is read.

        The directories of links and of the roots themselves hold other things too, the audit
        database perhaps, which changes with every request.
        """
        return bool(path) and (
            path in self._names
            or path in self._outside
            or os.path.dirname(path) in self._outside  # noqa: PTH120 - called for every event
            or any(path == root or path.startswith(f"{root}/") for root in self._roots)
        )

    def _want_steps(
        self, wanted: dict[tuple[Path, bool], int], names: set[str], steps: Iterable[Path]
    ) -> None:
        """Watch for another file or directory in the place of each of these."""
        for step in steps:
            if step != step.parent:
                names.add(os.fspath(step))
                self._want(wanted, names, step.parent, recursive=False)

    def _want(
        self,
        wanted: dict[tuple[Path, bool], int],
        names: set[str],
        path: Path,
        *,
        recursive: bool,
    ) -> None:
        while True:
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.is_dir():
                    wanted[path, recursive] = status.st_ino
                    return
            if path == path.parent:
                return
            names.add(os.fspath(path))
            path, recursive = path.parent, False

    def _apply(self, wanted: dict[tuple[Path, bool], int]) -> bool:
        with self._lock:
            gone, self._gone = self._gone, set()
        for key, (watch, inode) in list(self._watches.items()):
            if wanted.get(key) != inode or key[0] in gone:
                del self._watches[key]
                with contextlib.suppress(KeyError, OSError):
                    self._observer.unschedule(watch)
        news = False
        for key, inode in wanted.items():
            if key in self._watches:
                continue
            path, recursive = key
            try:
                watch = self._observer.schedule(
                    self, os.fspath(path), recursive=recursive, event_filter=_EVENTS
                )
            except OSError as error:
                if self.works:
                    log.warning("%s cannot be watched for changes: %s", path, error)
                self.works = False
                continue
            self._watches[key] = watch, inode
            news = True
        return news


def _target(path: Path) -> str:
    """Where a link leads, and a path that is none to itself."""
    try:
        return os.readlink(path)  # noqa: PTH115 - half of Path.readlink's cost
    except OSError:
        return os.fspath(path)


def _links(path: Path) -> list[Path]:
    """The links on the way to a path."""
    found: list[Path] = []
    left = list(path.absolute().parts[::-1])
    at = Path(left.pop())
    followed = 0
    while left and followed < MAX_LINKS:
        part = left.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        try:
            target = step.readlink()
        except OSError:
            at = step
            continue
        followed += 1
        found.append(step)
        if target.is_absolute():
            at = Path(target.anchor)
            left += target.parts[:0:-1]
        else:
            left += target.parts[::-1]
    return found
