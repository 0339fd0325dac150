"""The kernel's control groups that this process is in, as a container's limits are made of them.

- Both versions: v2 has one tree, v1 one for each controller. The group that we are in, and those
  around it, each of which may limit us.
- What cannot be read is no limit: nothing depends on these figures but savings and sentences.
- It imports next to nothing: the supervisor uses it, and stays small for the same limits.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

#: Where the kernel's control groups are, and where it says in which of them a process is.
CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")
#: Version 1 writes "no limit" as the largest number of whole pages; no machine has that much.
_NO_LIMIT: Final = 1 << 60
#: The most there is: as if all of the memory were its own.
GIVES_WAY: Final = 1000


class Memory(NamedTuple):
    """What the groups say of memory; bytes, None where they do not say."""

    #: The smallest limit; None where there is none.
    limit: int | None
    #: Of the group that has this limit, else of the innermost: now, and the most ever.
    used: int | None
    peak: int | None
    #: Of what is used, file pages that the kernel gives up when others need them.
    reclaimable: int | None
    #: How often the kernel has killed a process of ours for want of memory.
    oom_kills: int | None


def groups(
    controller: str, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP
) -> Iterator[Path]:
    """The directories whose files may limit us, the innermost first."""
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            root = cgroups
        elif controller in controllers.split(","):
            root = cgroups / controllers
            root = root if os.path.isdir(root) else cgroups / controller  # noqa: PTH112 - it never raises
        else:
            continue
        # In a container the path may be the host's, and what is mounted ours.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:length])


def memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Memory:
    """What may be used of memory, and is."""
    found: tuple[int, Path] | None = None
    innermost: Path | None = None
    kills: int | None = None
    for directory in groups("memory", cgroups, membership):
        limit = _limit(directory)
        if limit is None:
            continue
        innermost = innermost or directory
        if kills is None:
            kills = _named(directory / "memory.events", "oom_kill")
            if kills is None:
                kills = _named(directory / "memory.oom_control", "oom_kill")
        if limit < _NO_LIMIT and (found is None or limit < found[0]):
            found = limit, directory
    at = found[1] if found is not None else innermost
    if at is None:
        return Memory(None, None, None, None, None)
    return Memory(
        None if found is None else found[0],
        _number(at / "memory.current", at / "memory.usage_in_bytes"),
        _number(at / "memory.peak", at / "memory.max_usage_in_bytes"),
        _file_pages(at / "memory.stat"),
        kills,
    )


def oom_kills() -> int:
    """How often the kernel has killed a process of our group for want of memory; 0 if unknown."""
    return memory().oom_kills or 0


def own_memory() -> int:
    """Bytes that this process has for itself; 0 where that is not known."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("Anonymous:")]
    return int(found[0]) << 10 if found else 0


def give_way(how_much: int = GIVES_WAY) -> None:
    """Be killed before others of our group when memory runs out (proc_pid_oom_score_adj(5)).

    What a person asks, or an answer that can be asked for again, is not to cost the sidecar.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(how_much))


def _limit(directory: Path) -> int | None:
    """A group's limit, `_NO_LIMIT` and more where there is none; None where it is no such group."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (directory / name).read_text().strip()
            return _NO_LIMIT if text == "max" else int(text)
        except (OSError, ValueError):
            continue
    return None


def _number(*files: Path) -> int | None:
    for file in files:
        try:
            return int(file.read_text())
        except (OSError, ValueError):
            continue
    return None


def _named(file: Path, name: str) -> int | None:
    """A figure of a file with a name and a number in each line."""
    try:
        for line in file.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        return None
    return None


def _file_pages(file: Path) -> int | None:
    found = [_named(file, f"total_{name}") for name in ("active_file", "inactive_file")]
    if None in found:
        found = [_named(file, name) for name in ("active_file", "inactive_file")]
    return sum(one or 0 for one in found) if None not in found else None
