"""Which file system a path is on, as this process sees it (proc_pid_mountinfo(5))."""

import os
import re
from pathlib import Path
from typing import Final

from authz.cli.doctor.facts import Volume

MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def volume_of(path: Path, mounts: Path = MOUNTS) -> Volume | None:
    """The volume of a path; None where the path is not there."""
    real = Path(os.path.realpath(path))
    try:
        status = os.statvfs(real)
    except OSError:
        return None
    mount_point, kind, root = _mounted(real, mounts)
    return Volume(
        mount_point=mount_point,
        kind=kind,
        root=root,
        read_only=bool(status.f_flag & os.ST_RDONLY),
        free=status.f_bavail * status.f_frsize,
        free_share=_share(status.f_bavail, status.f_blocks),
        # Some file systems do not count files.
        free_files_share=_share(status.f_favail, status.f_files),
    )


def _share(free: int, all_of_them: int) -> float:
    return free / all_of_them if all_of_them else 1.0


def _mounted(real: Path, mounts: Path) -> tuple[str, str, str]:
    """Mount point, kind and root of what is mounted last, and deepest, above a path."""
    found = ("/", "unknown", "/")
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5 or not kinds[0]:
            continue
        root, point = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), one) for one in fields[3:5])
        if real.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kinds[0], root)
    return found
