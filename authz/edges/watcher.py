"""Tells when something below some paths may have changed; looking at it is somebody else's.

- inotify, one watch a directory, on the directory itself wherever links lead: those of a tree, with
  new ones as they come; those that hold a link or a directory on the way to a path (a ConfigMap
  swaps `..data`, a release swaps `current`); and those that links inside a tree lead to.
- Directories whose names start with a dot are not part of a tree: nobody reads them, and a
  ConfigMap's next version is written into one while requests are answered.
- A path that does not exist, or that vanishes, is waited for in the nearest directory above it.
- A file that is written to is known until it is closed, so that nobody has to read half of it.
- A thousand files that are written cost milliseconds of this process: events are taken in bunches,
  and each is looked up, not made into objects and queued. (Through watchdog's observer they cost
  0.3 to 0.5 s of the interpreter, in steps that each delayed an answer.)
- Where the system has no inotify or refuses a watch that is logged, and `works` says so.
"""

import contextlib
import enum
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from inotify_simple import Event, INotify, flags

log = logging.getLogger(__name__)

#: Links, and directories outside the watched trees that they lead to; a bound on a mistake.
MAX_OUTSIDE: Final = 1_000
#: Directories of one tree; inotify's own default limit is 8,192 for all of a user's.
MAX_DIRECTORIES: Final = 10_000
#: Links that are followed on the way to one path, as in Linux's path resolution.
MAX_LINKS: Final = 40
#: Seconds for which events are left to gather after the first; and, where they are so many that
#: taking them in takes time, how many times as long as that took, up to `MAX_REST_S`: somebody may
#: fill a directory above ours, and requests are to be answered all the same.
GATHER_S: Final = 0.02
REST: Final = 9
MAX_REST_S: Final = 1.0
#: Seconds that a writer may hold a file before it counts as done: long enough for an archive that
#: comes over a slow line, short enough for an editor that never closes what it shows.
OPEN_S: Final = 60.0

#: What is told of every directory. Not opening and closing: our own reading would never end.
_ENTRIES: Final = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    # Whoever goes on writing to what was replaced is not writing what is there now.
    | flags.EXCL_UNLINK
    # A directory may be watched under two paths, and for more under one of them.
    | flags.MASK_ADD
)
_CONTENTS: Final = flags.MODIFY | flags.CLOSE_WRITE
#: After these nobody is writing the file of that name any more.
_DONE: Final = flags.CLOSE_WRITE | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO


class _Reach(enum.IntEnum):
    """What matters in a watched directory."""

    #: That certain names are there, and what they are. Other things may be in it, the audit
    #: database perhaps, which changes with every request: its writes do not even wake us.
    NAMES = 0
    #: The same, and what is written to these.
    FILES = 1
    #: All that is in it.
    ENTRIES = 2
    #: And all that is below.
    TREE = 3

    @property
    def mask(self) -> int:
        return int(_ENTRIES if self is _Reach.NAMES else _ENTRIES | _CONTENTS)


class Watcher:
    """Watches paths and calls `changed` from a thread of its own."""

    def __init__(self, changed: Callable[[], None], *, is_ours: Callable[[str], bool]) -> None:
        """
        Args:
            changed: called, from another thread, when something may have changed.
            is_ours: whether a file is one that is read, by its path.
        """
        self._changed = changed
        self._is_ours = is_ours
        self._inotify: INotify | None = None
        self._thread: threading.Thread | None = None
        #: Written to when the thread is to end.
        self._end: tuple[int, int] | None = None
        self._lock = threading.Lock()
        #: By the kernel's number: the directory, as a path that can be put before a name, and what
        #: matters in it. One directory may be mounted at several paths.
        self._watched: dict[int, dict[str, _Reach]] = {}
        #: The paths that matter in directories where not everything does.
        self._names: set[str] = set()
        #: Files that were written to and not closed, and since when.
        self._open: dict[str, float] = {}
        #: What was said about what cannot be watched.
        self._complaint = ""
        #: False: some path cannot be watched and has to be looked at now and then.
        self.works = True

    def start(self) -> None:
        """Begin to watch; nothing is watched before `watch`."""
        try:
            self._inotify = INotify()
        except (OSError, AttributeError) as error:
            self._complain(f"this system cannot tell of changes: {error}")
            return
        self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the thread."""
        if self._thread is None or self._end is None or self._inotify is None:
            return
        os.write(self._end[1], b".")
        self._thread.join()
        with self._lock:
            self._inotify.close()
            self._inotify = None
            self._watched.clear()
        for end in self._end:
            os.close(end)
        self._thread = self._end = None

    def watch(
        self,
        trees: Iterable[Path],
        files: Iterable[Path],
        seen: Iterable[Path],
        links: Iterable[Path] = (),
    ) -> bool:
        """Watch these trees and files from now on, and nothing else; True when that is news.

        Args:
            trees: directories, with everything below them.
            files: single files.
            seen: directories and files that the trees were found to lead to, through links too.
            links: those in the trees that lead to nothing that is read, yet.
        """
        wanted = _Wanted()
        for tree in trees:
            wanted.way(tree, _Reach.NAMES)
            wanted.below(os.path.realpath(tree))
        for file in files:
            wanted.way(file, _Reach.FILES)
        known: set[tuple[Path, str]] = set()
        for path in seen:
            # A thousand links of one ConfigMap all lead to one directory.
            shape = self._shape(path)
            if shape not in known:
                known.add(shape)
                wanted.reached(path)
        for link in links:
            wanted.awaited(link)
        return self._apply(wanted)

    def _shape(self, path: Path) -> tuple[Path, str]:
        """The same for files that are reached in the same way, but for their names."""
        target = _target(path)
        whole = os.path.join(path.parent, target)  # noqa: PTH118 - all this a thousand times
        if self._is_ours(target) and os.path.isfile(whole) and not os.path.islink(whole):  # noqa: PTH113, PTH114
            return path.parent, os.path.dirname(target)  # noqa: PTH120
        # What it is called matters, or it leads on.
        return path, target

    def being_written(self) -> set[Path]:
        """The files that somebody is writing now, by their real paths."""
        since = time.monotonic() - OPEN_S
        # Without the lock: the event loop asks, and the watch may be busy. A copy is one step.
        return {Path(path) for path, start in list(self._open.items()) if start > since}

    def _run(self) -> None:
        assert self._inotify is not None
        assert self._end is not None
        poll = select.poll()
        poll.register(self._inotify.fd, select.POLLIN)
        poll.register(self._end[0], select.POLLIN)
        took = 0.0
        while self._end[0] not in dict(poll.poll()):
            time.sleep(max(GATHER_S, min(REST * took, MAX_REST_S)))
            before = time.thread_time()
            try:
                self._take(self._inotify.read(timeout=0))
            except Exception:
                log.exception("a change of files could not be taken in")
                self._changed()
            took = time.thread_time() - before

    def _take(self, events: Iterable[Event]) -> None:
        with self._lock:
            # All of them, not any: each may say who is writing.
            told = sum([self._matters(event) for event in events])
        if told:
            self._changed()

    def _matters(self, event: Event) -> bool:
        """Take an event in; whether it can be a change of what is read."""
        mask: int = event.mask
        if mask & flags.Q_OVERFLOW:
            # What was lost may have been anything; a writer shows again when it writes.
            self._open.clear()
            return True
        if mask & flags.IGNORED:
            # The directory is gone. If it was not we who gave it up, that has been told before.
            self._watched.pop(event.wd, None)
            return False
        matters = False
        new, moved = [], []
        for directory, reach in self._watched.get(event.wd, {}).items():
            path = directory + event.name
            is_directory = mask & flags.ISDIR
            hidden = is_directory and event.name.startswith(".")
            everything = reach >= _Reach.ENTRIES and not hidden
            if event.name and not everything and path not in self._names:
                continue
            matters = True
            if is_directory:
                if mask & flags.MOVED_FROM:
                    moved.append(path)
                if reach is _Reach.TREE and not hidden and mask & (flags.CREATE | flags.MOVED_TO):
                    new.append(path)
            elif mask & flags.MODIFY:
                if self._is_ours(path) or path in self._names:
                    # Since when stays, also when it has been too long: it is not written anew.
                    self._open.setdefault(path, time.monotonic())
            elif mask & _DONE:
                self._open.pop(path, None)
        for path in moved:
            self._forget(f"{path}/")
        for path in new:
            # What came into it before this is read when all is read.
            wanted = _Wanted()
            wanted.below(path)
            self._add(wanted)
        return matters

    def _forget(self, below: str) -> None:
        """Nothing is at this path any more, whatever goes on where it was moved to."""
        assert self._inotify is not None
        self._keep_open(lambda file: not file.startswith(below))
        for number, places in list(self._watched.items()):
            for place in [place for place in places if place.startswith(below)]:
                del places[place]
            if not places:
                del self._watched[number]
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(number)

    def _keep_open(self, is_kept: Callable[[str], bool]) -> None:
        self._open = {file: since for file, since in self._open.items() if is_kept(file)}

    def _apply(self, wanted: "_Wanted") -> bool:
        with self._lock:
            before, self._watched = self._watched, {}
            self._names = wanted.names
            if self._inotify is None:
                return False
            self.works = True
            self._add(wanted)
            for number in before.keys() - self._watched.keys():
                with contextlib.suppress(OSError):  # it is gone already
                    self._inotify.rm_watch(number)
            if self.works:
                self._complaint = ""
            now = {(number, place) for number, places in self._watched.items() for place in places}
            news = {(number, place) for number, place in now if place not in before.get(number, ())}
            # Of a directory that is not watched, or is another one, nobody tells when a writer of
            # before is done.
            same = {place for _, place in now - news}
            self._keep_open(lambda file: file[: file.rindex("/") + 1] in same)
            return bool(news)

    def _add(self, wanted: "_Wanted") -> None:
        assert self._inotify is not None
        if wanted.problem:
            self._complain(wanted.problem)
        for directory, reach in wanted.directories.items():
            try:
                number = self._inotify.add_watch(directory, reach.mask)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since; the directory above tells
            except OSError as error:
                self._complain(f"{directory} cannot be watched for changes: {error}")
                continue
            self._watched.setdefault(number, {})[os.path.join(directory, "")] = reach  # noqa: PTH118

    def _complain(self, complaint: str) -> None:
        self.works = False
        if not self._complaint:
            log.warning("%s", complaint)
        self._complaint = complaint


class _Wanted:
    """Directories to watch, by their real paths, and the names that matter in them."""

    def __init__(self) -> None:
        self.directories: dict[str, _Reach] = {}
        self.names: set[str] = set()
        #: Why this is not all.
        self.problem = ""
        self._outside = 0
        #: Steps that were looked at.
        self._known: set[tuple[Path, _Reach]] = set()

    def way(self, path: Path, reach: _Reach) -> None:
        """Whatever stands on the way to a path, and the path where it leads to."""
        for step in _steps(path):
            self._step(step, _Reach.NAMES)
        self._step(Path(os.path.realpath(path)), reach)

    def awaited(self, link: Path) -> None:
        """A link that may lead to something one day."""
        if self._is_another():
            self.way(link, _Reach.NAMES)

    def below(self, root: str) -> None:
        """All directories from this one down; none where there is no such directory."""
        for directory in _directories(root):
            if len(self.directories) >= MAX_DIRECTORIES:
                self.problem = f"{root} has over {MAX_DIRECTORIES} directories; not all are watched"
                return
            self.directories[directory] = _Reach.TREE

    def reached(self, path: Path) -> None:
        """A file or directory that a tree leads to; its directory, where that is not in one."""
        real = os.path.realpath(path)
        # Not Path's, which raises where a directory may not be searched.
        directory = real if os.path.isdir(real) else os.path.dirname(real)  # noqa: PTH112, PTH120
        covered = self.directories.get(directory, _Reach.NAMES) >= _Reach.ENTRIES
        if covered and not os.path.islink(path):  # noqa: PTH114
            return  # what leads to it was reached before
        if not self._is_another():
            return
        if not covered and os.path.isdir(directory):  # noqa: PTH112
            self.directories[directory] = _Reach.ENTRIES
        self.way(path, _Reach.NAMES)

    def _is_another(self) -> bool:
        self._outside += 1
        if self._outside > MAX_OUTSIDE:
            self.problem = f"links lead to over {MAX_OUTSIDE} other places"
            return False
        return True

    def _step(self, step: Path, reach: _Reach) -> None:
        """Whatever is, or comes, in the place of this; the nearest directory above it tells."""
        while step != step.parent and (step, reach) not in self._known:
            self._known.add((step, reach))
            above = os.path.realpath(step.parent)
            self.names.add(os.path.join(above, step.name))  # noqa: PTH118
            if os.path.isdir(above):  # noqa: PTH112
                self.directories[above] = max(reach, self.directories.get(above, reach))
                return
            step, reach = step.parent, _Reach.NAMES


def _directories(root: str) -> Iterator[str]:
    """A directory and those below it, without what is hidden or linked."""
    for directory, below, _ in os.walk(root):
        yield directory
        below[:] = [name for name in below if not name.startswith(".")]


def _target(path: Path) -> str:
    """Where a link leads, and a path that is none to itself."""
    try:
        return os.readlink(path)  # noqa: PTH115 - half of Path.readlink's cost
    except OSError:
        return os.fspath(path)


def _steps(path: Path) -> list[Path]:
    """Every directory and link that is passed on the way to a path, and what it is itself.

    Each by the real path of the directory that it is in.
    """
    found: list[Path] = []
    left = list(path.absolute().parts[::-1])
    at = Path(left.pop())
    followed = 0
    while left:
        part = left.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        found.append(step)
        try:
            target = step.readlink()
        except OSError:
            at = step
            continue
        followed += 1
        if followed > MAX_LINKS:
            break
        if target.is_absolute():
            at = Path(target.anchor)
            left += target.parts[:0:-1]
        else:
            left += target.parts[::-1]
    return found
