"""Policy files on disk to a snapshot (CONTRACT §5 "Loading").

- `*.yaml` and `*.yml`, recursive, in sorted order. Names that start with a dot are skipped: a
  ConfigMap mount keeps its versions in them.
- A bad file is left out and reported; the rest serve. A directory that cannot be read is a
  problem like any other.
- Read again, a file that has turned bad, or that cannot be read or listed any more, keeps the
  documents of its last good version and is reported as stale: dropping them could drop a denial. A
  file that is gone from a directory that can be read has been deleted.
- What is read is what was there at one time: a change meanwhile makes the whole reading start
  over, and a file that goes on changing counts as unreadable for now.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from authz.core.policy_bounds import MAX_FILE, SUFFIXES, is_policy_file
from authz.core.policy_file import Parsed, Problem, parse_file
from authz.core.policy_set import Policies, PolicyFile, build
from authz.core.snapshot import Snapshot
from authz.stores.files import Mark, mark
from authz.stores.files import read_file as read_file  # noqa: PLC0414 - so do others
from authz.stores.pace import UNPACED, Pace
from authz.stores.parsing import Item, parse_here

if TYPE_CHECKING:
    from authz.stores.bundles import BundleState

#: Files read from one directory; far above any real set, and a bound on a mistaken mount of `/`.
MAX_FILES: Final = 100_000
#: Bytes of all files together, which is ten thousand times the seed's policy.
MAX_TOTAL: Final = 64 << 20
#: Directory levels followed below POLICIES_DIR.
MAX_LEVELS: Final = 16
#: Readings that are started over because something changed meanwhile; the last one counts.
MAX_READINGS: Final = 5
#: Seconds between them.
REREAD_AFTER_S: Final = 0.05
#: How bundles are called, where files, directories and bundles may be named.
BUNDLES: Final = (".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A snapshot, and everything its authors should know."""

    policies: Policies
    problems: tuple[Problem, ...]
    #: The files that were read, or should have been.
    paths: tuple[Path, ...] = ()
    #: Files whose last good version is in force instead of what they hold now.
    stale: tuple[str, ...] = ()
    #: Every directory that was listed, by the path under which it was found.
    directories: tuple[Path, ...] = ()
    #: Links that lead to nothing that was read, yet.
    links: tuple[Path, ...] = ()
    #: Files that were read out of a bundle, beside `paths`.
    members: int = 0
    #: What they came from, where that is a bundle.
    bundle: "BundleState | None" = None
    #: SHA-256 of each file that holds what is in force of it, by its path.
    digests: Mapping[str, bytes] = field(default_factory=dict)
    #: Seconds after which they are to be read again although nothing has changed; 0 for never.
    again_s: float = 0.0

    @property
    def snapshot(self) -> Snapshot:
        """The policies that are in force."""
        return self.policies.snapshot

    @property
    def files(self) -> int:
        """How many files that is."""
        return len(self.paths) + self.members

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems for which something was left out or kept stale."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


class _Known(NamedTuple):
    """What was last seen of a file, and the last that was good of it."""

    digest: bytes
    parsed: Parsed
    good: Parsed


class _Listing(NamedTuple):
    files: list[Path]
    directories: list[Path]
    problems: list[Problem]
    #: Directories that could not be listed; what was known below them may still be there.
    unlisted: list[Path]
    #: Links that lead to nothing that is read.
    links: list[Path]


class _Content(NamedTuple):
    """What a file holds, parsed: a thousand of them at once would be a lot of text."""

    path: Path
    #: Of its bytes; empty when they could not be read.
    digest: bytes
    parsed: Parsed
    #: Of what was read, whatever is at the path by now.
    mark: Mark | None = None


class PolicySource(Protocol):
    """Where policies are read from, again and again. One thread at a time may read."""

    #: What to watch: directories with all that is in them, and single files.
    trees: Sequence[Path]
    files: Sequence[Path]

    def read(self, being_written: Collection[Path] = (), pace: Pace = UNPACED) -> Loaded:
        """Read everything. Never raises for what is, or is not, there.

        Args:
            being_written: files, by their real path, that are not to be read yet.
        """
        ...

    def signature(self, pace: Pace = UNPACED) -> object:
        """What is there now, without reading it: equal while nothing is written or replaced."""
        ...


class PolicyDirectory:
    """A directory of policies that is read again and again. One thread at a time may read."""

    files: Sequence[Path] = ()

    def __init__(
        self, path: Path, parse: Callable[[Sequence[Item]], Iterator[Parsed]] = parse_here
    ) -> None:
        """`parse`: turns files, given as bytes and name, into what they hold, in order."""
        self.path = path
        self.trees: Sequence[Path] = (path,)
        self._parse = parse
        self._known: dict[Path, _Known] = {}
        #: What was parsed last of each file, with the digest of what it was parsed from.
        self._parsed: dict[Path, tuple[bytes, Parsed]] = {}

    def read(self, being_written: Collection[Path] = (), pace: Pace = UNPACED) -> Loaded:
        """Read all policy files. Never raises for what is, or is not, there.

        Args:
            being_written: files, by their real path, that are not to be read yet.
        """
        for attempt in range(MAX_READINGS):
            if attempt:
                time.sleep(REREAD_AFTER_S)
            before, marks = self.signature(pace)
            contents = self.contents(before.files, being_written, pace)
            moved = {
                content.path
                for content, before_it in pace.over(zip(contents, marks, strict=True))
                # The one alone misses a change during the reading, the other a swap to and fro.
                if mark(content.path) != before_it or (content.digest and content.mark != before_it)
            }
            if not moved and list_files(self.path, pace) == before:
                return self.take(before, contents)
        return self.take(before, [_settled(content, moved) for content in contents])

    def signature(self, pace: Pace = UNPACED) -> tuple[_Listing, list[Mark | None]]:
        """What is there now, without reading it: equal while nothing is written or replaced."""
        listing = list_files(self.path, pace)
        return listing, [mark(path) for path in pace.over(listing.files)]

    def take(self, listing: _Listing, contents: Iterable[_Content]) -> Loaded:
        """Make of what was listed and read, and of what was known before, what is in force now."""
        known: dict[Path, _Known] = {}
        problems = list(listing.problems)
        for content in contents:
            before = self._known.get(content.path)
            if content.digest and before is not None and before.digest == content.digest:
                known[content.path] = before
                continue
            kept = content.parsed
            if before is not None and content.parsed.is_bad:
                kept = before.good
            known[content.path] = _Known(content.digest, content.parsed, kept)
        replaced = self._known.keys() & set(listing.directories)
        unlisted = set(listing.unlisted)
        for path, before in self._known.items():
            if path in known or not before.good.has_documents:
                continue
            if path in replaced or not unlisted.isdisjoint((path, *path.parents)):
                said = "is a directory now" if path in replaced else "cannot be found any more"
                gone = _problem(path, f"{said}; its last good version stays")
                known[path] = _Known(b"", Parsed((), (gone,)), before.good)
        self._known = known
        files = []
        stale = []
        for path in sorted(known):
            entry = known[path]
            problems += entry.parsed.problems
            is_stale = entry.good.has_documents and entry.good is not entry.parsed
            if is_stale:
                stale.append(str(path))
            good = entry.good
            files.append(PolicyFile(str(path), good.policies, is_stale, good.chain))
        policies = build(files)
        told = tuple(sorted({*problems, *policies.problems}))
        return Loaded(
            policies,
            told,
            tuple(sorted(known)),
            tuple(stale),
            tuple(listing.directories),
            tuple(listing.links),
            digests={
                str(path): entry.digest
                for path, entry in known.items()
                if entry.good is entry.parsed
            },
        )

    def contents(
        self,
        paths: Sequence[Path],
        being_written: Collection[Path] = (),
        pace: Pace = UNPACED,
    ) -> list[_Content]:
        """Read files, as many as `MAX_TOTAL` bytes are, and parse those that have changed."""
        found: dict[Path, _Content] = {}
        changed: dict[Path, tuple[bytes, bytes, Mark]] = {}
        total = 0
        for path in pace.over(paths):
            if total > MAX_TOTAL:
                said = f"over {MAX_TOTAL} bytes of policies; not read from here on"
                found[path] = _refused(path, said)
                continue
            try:
                if being_written and Path(os.path.realpath(path)) in being_written:
                    found[path] = _refused(path, "is being written; not read yet")
                    continue
                data, seen = read_file(path, MAX_FILE)
            except OSError as error:
                found[path] = _Content(path, b"", Parsed((), (_unreadable(path, error),)))
                continue
            total += len(data)
            digest = hashlib.sha256(data).digest()
            before = self._parsed.get(path)
            if before is None or before[0] != digest:
                changed[path] = digest, data, seen
            else:
                found[path] = _Content(path, digest, before[1], seen)
        items = [(data, str(path)) for path, (_, data, _) in changed.items()]
        parsing = zip(changed.items(), self._parse(items), strict=True)
        for (path, (digest, _, seen)), parsed in pace.over(parsing):
            found[path] = _Content(path, digest, parsed, seen)
        self._parsed = {p: (c.digest, c.parsed) for p, c in found.items() if c.digest}
        return [found[path] for path in paths]


def load(directory: Path) -> Loaded:
    """Read a directory once."""
    return PolicyDirectory(directory).read()


def load_paths(paths: Iterable[Path]) -> Loaded:
    """Read files, directories and bundles once, as one set of policies.

    Nobody is asked who signed a bundle.
    """
    given = list(paths)
    bundles = [path for path in given if path.name.endswith(BUNDLES) and path.is_file()]
    listings = [
        _Listing([path], [], [], [], []) if not path.is_dir() else list_files(path)
        for path in given
        if path not in bundles
    ]
    merged = _Listing(
        sorted({file for listing in listings for file in listing.files}),
        [],
        [problem for listing in listings for problem in listing.problems],
        [],
        [],
    )
    reader = PolicyDirectory(Path())
    contents = reader.contents(merged.files)
    return reader.take(merged, [*contents, *(one for path in bundles for one in _unpacked(path))])


def _unpacked(path: Path) -> Iterator[_Content]:
    """The policy files of a bundle, each as `policies.tar.gz!a.yaml`."""
    from authz.bundles.archive import MAX_BUNDLE, unpack  # noqa: PLC0415
    from authz.bundles.errors import BundleError  # noqa: PLC0415

    try:
        contents = unpack(read_file(path, MAX_BUNDLE)[0])
    except OSError as error:
        yield _Content(path, b"", Parsed((), (_unreadable(path, error),)))
        return
    except BundleError as error:
        yield _refused(path, str(error))
        return
    for name, content in contents.files.items():
        if is_policy_file(name):
            member = member_path(path, name)
            digest = hashlib.sha256(content).digest()
            yield _Content(Path(member), digest, parse_file(content, member))


def member_path(bundle: Path, name: str) -> str:
    """How a bundle's file is called in sentences: `/bundle/policies.tar.gz!a.yaml`."""
    return f"{bundle}!{name}"


def member_of(loaded: Loaded, file: str) -> str:
    """What a file of a bundle is called in it; empty where it is none."""
    if loaded.bundle is None:
        return ""
    return file.removeprefix(member_path(loaded.bundle.path, ""))


def list_files(directory: Path, pace: Pace = UNPACED) -> _Listing:
    """Every policy file below a directory, and what stands in the way of listing it."""
    found = _Listing([], [], [], [], [])
    _list(directory, found, (), {}, pace)
    found.files.sort()
    if len(found.files) > MAX_FILES:
        path = found.files[MAX_FILES]
        found.problems.append(_problem(path, f"more than {MAX_FILES} files; not read from here on"))
        del found.files[MAX_FILES:]
        # What was known of the rest is kept: a flood of files must not wash a denial away.
        found.unlisted.append(directory)
    return found


def _list(
    directory: Path,
    found: _Listing,
    above: tuple[tuple[int, int], ...],
    listed_as: dict[tuple[int, int], Path],
    pace: Pace,
) -> None:
    try:
        status = directory.stat()
        identity = status.st_dev, status.st_ino
        if identity in above:
            found.problems.append(
                _problem(directory, "a link back to a directory that it is in; not followed")
            )
            found.unlisted.append(directory)
            found.links.append(directory)
            return
        if identity in listed_as:
            # Else links between directories would be walked in every order there is.
            found.problems.append(
                _problem(directory, f"the same directory as {listed_as[identity]}; not read twice")
            )
            found.links.append(directory)
            return
        if len(above) > MAX_LEVELS:
            found.problems.append(
                _problem(directory, f"nested deeper than {MAX_LEVELS} directories; not read")
            )
            found.unlisted.append(directory)
            return
        with os.scandir(directory) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(_unreadable(directory, error))
        found.unlisted.append(directory)
        return
    found.directories.append(directory)
    listed_as[identity] = directory
    for entry in pace.over(listed):
        if entry.name.startswith("."):
            continue
        path = directory / entry.name
        try:
            is_directory = entry.is_dir()
        except OSError as error:
            found.problems.append(_unreadable(path, error))
            found.unlisted.append(path)
            found.links.append(path)
            continue
        if len(found.files) > MAX_FILES:
            return
        if is_directory:
            _list(path, found, (*above, identity), listed_as, pace)
        elif path.suffix in SUFFIXES:
            found.files.append(path)  # a link that leads nowhere is a problem when it is read
        elif entry.is_symlink():
            # It may have led to a directory of policies, and may again.
            found.links.append(path)
            if not entry.is_file():
                found.unlisted.append(path)


def _refused(path: Path, message: str) -> _Content:
    return _Content(path, b"", Parsed((), (_problem(path, message),)))


def _settled(content: _Content, moved: set[Path]) -> _Content:
    """A content, unless its file keeps changing: then half of it may be what was read."""
    if content.path not in moved or not content.digest:
        return content
    return _refused(content.path, "keeps changing while it is read; not taken")


def _unreadable(path: Path, error: OSError) -> Problem:
    return _problem(path, f"cannot be read: {error.strerror or type(error).__name__}")


def _problem(path: Path, message: str) -> Problem:
    return Problem(str(path), 1, 1, "error", message)
