"""Policy files on disk to a snapshot (CONTRACT §5 "Loading").

- `*.yaml` and `*.yml`, recursive, in sorted order. Names that start with a dot are skipped: a
  ConfigMap mount keeps its versions in them.
- A bad file is left out and reported; the rest serve. A directory that cannot be read is a
  problem like any other and leaves an empty snapshot, which denies everything.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz.core.policy_doc import MAX_FILE, PolicyDoc, Problem, parse_file
from authz.core.snapshot import Snapshot, build

#: Files read from one directory; far above any real set, and a bound on a mistaken mount of `/`.
MAX_FILES: Final = 100_000
#: Directory levels followed below POLICIES_DIR, which also ends a loop of links.
MAX_LEVELS: Final = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """A snapshot, and everything its authors should know."""

    snapshot: Snapshot
    problems: tuple[Problem, ...]
    files: int

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems for which something was left out."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def load(directory: Path) -> Loaded:
    """Read all policy files below a directory. Never raises for what is in it."""
    problems: list[Problem] = []
    return load_files(sorted(_policy_files(directory, problems)), problems)


def load_files(paths: Iterable[Path], problems: list[Problem]) -> Loaded:
    """Read these files, in this order. `problems` are what was noticed before."""
    files: list[tuple[str, tuple[tuple[PolicyDoc, int], ...]]] = []
    count = 0
    for path in paths:
        count += 1
        if count > MAX_FILES:
            problems.append(
                Problem(
                    str(path), 1, 1, "error", f"more than {MAX_FILES} files; not read from here"
                )
            )
            break
        try:
            data = _read(path)
        except OSError as error:
            problems.append(_unreadable(path, error))
            continue
        parsed = parse_file(data, str(path))
        problems.extend(parsed.problems)
        files.append((str(path), parsed.documents))
    snapshot, duplicates = build(files)
    return Loaded(snapshot, tuple(sorted({*problems, *duplicates})), count)


def _policy_files(directory: Path, problems: list[Problem], level: int = 0) -> Iterator[Path]:
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError as error:
        problems.append(_unreadable(directory, error))
        return
    for entry in found:
        if entry.name.startswith("."):
            continue
        path = directory / entry.name
        try:
            is_directory, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            problems.append(_unreadable(path, error))
            continue
        if is_directory and level < MAX_LEVELS:
            yield from _policy_files(path, problems, level + 1)
        elif is_directory:
            problems.append(
                Problem(str(path), 1, 1, "error", f"nested deeper than {MAX_LEVELS} directories")
            )
        elif path.suffix in (".yaml", ".yml") and (is_file or entry.is_symlink()):
            yield path  # a link that leads nowhere is a problem when it is read


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a FIFO that a link leads to would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return stream.read(MAX_FILE + 1)


def _unreadable(path: Path, error: OSError) -> Problem:
    reason = error.strerror or type(error).__name__
    return Problem(str(path.absolute()), 0, 0, "error", f"cannot be read: {reason}")
