"""Why a file of ours cannot be written: whose it is, who we are, and what to do about it.

Clauses to be put behind what the system said. They name paths, so they are for the log and for
whoever is on this machine, and not for an answer to anybody else.
"""

import os
from pathlib import Path


def why_not_written(path: Path) -> str:
    """What keeps us from writing this file; empty where nothing is seen that does."""
    there, is_there = nearest(path)
    if there is None:
        return ""
    try:
        system = os.statvfs(there)
    except OSError:
        return ""
    if system.f_flag & os.ST_RDONLY:
        return f"{there} is mounted read-only; mount a volume that can be written there"
    # SQLite makes files beside it, so the directory counts too.
    for one in (path, path.parent) if is_there else (path.parent,):
        seen, _ = nearest(one)
        if seen is None or not _may_write(seen):
            return who_may(one)
    # /proc and the like have no blocks at all, and are not full.
    if system.f_blocks and not system.f_bavail:
        return f"the file system of {there} is full; make room there, or give it a larger volume"
    return ""


def _may_write(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    mode = os.W_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, mode, effective_ids=effective)


def nearest(path: Path) -> tuple[Path | None, bool]:
    """The path, or the nearest one above it that can be seen; whether it is the path itself."""
    asked = there = path.absolute()
    while True:
        try:
            there.stat()
        except OSError:
            if there == there.parent:
                return None, False
            there = there.parent
        else:
            return there, there == asked


def who_may(path: Path) -> str:
    """Whose the path is, or what can be seen of it, who we are, and how it becomes ours."""
    there, _ = nearest(path)
    if there is None:
        return ""
    status = there.stat()
    uid, gid = os.geteuid(), os.getegid()
    # Root's group is whoever's that has none: it is no group to give a volume to.
    group = f"fsGroup: {gid}" if gid else "fsGroup"
    return (
        f"{there} belongs to {status.st_uid}:{status.st_gid} with mode"
        f" {status.st_mode & 0o7777:04o}, and this process is {uid}:{gid};"
        f" give it {path.absolute()} (chown; in Kubernetes securityContext.{group})"
    )
