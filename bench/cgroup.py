"""Holds processes to a share of a CPU, as a container's limit does: by a cgroup of their own.

Both hierarchies are known: v1's `cpu` controller, and v2 where `cpu` is enabled for the root's
children. It takes permission to make a cgroup there, which a container rarely has; whoever cannot
be held is not measured.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench import report

_ROOT: Final = Path("/sys/fs/cgroup")
#: Kubernetes' own period.
_PERIOD_US: Final = 100_000
_PATIENCE_S: Final = 5.0


class Throttling(NamedTuple):
    """`cpu.stat`: periods in which there was work, and those in which it had to wait."""

    periods: int
    throttled: int
    throttled_s: float

    def since(self, earlier: "Throttling") -> "Throttling":
        """What has come since."""
        return Throttling(
            self.periods - earlier.periods,
            self.throttled - earlier.throttled,
            self.throttled_s - earlier.throttled_s,
        )


class Cgroup(NamedTuple):
    """A cgroup with a limit."""

    path: Path
    is_v2: bool

    def add(self, pids: Iterable[int]) -> None:
        """Hold these processes, all their threads, and whatever they start from now on."""
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))

    def throttling(self) -> Throttling:
        """How much they had to wait so far."""
        lines = (self.path / "cpu.stat").read_text().split()
        said = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
        waited_s = said["throttled_usec"] / 1e6 if self.is_v2 else said["throttled_time"] / 1e9
        return Throttling(said["nr_periods"], said["nr_throttled"], waited_s)


@contextlib.contextmanager
def limited(cpus: float) -> Iterator[Cgroup]:
    """A cgroup for as long as the block lasts; whoever is in it has ended by then.

    Raises:
        report.Unavailable: none can be made here.
    """
    is_v2 = (_ROOT / "cgroup.controllers").exists()
    path = (_ROOT if is_v2 else _ROOT / "cpu") / f"authz-bench-{os.getpid()}"
    quota = round(cpus * _PERIOD_US)
    limits = (
        {"cpu.max": f"{quota} {_PERIOD_US}"}
        if is_v2
        else {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
    )
    made = False
    try:
        try:
            path.mkdir()
            made = True
            for name, value in limits.items():
                (path / name).write_text(value)
        except OSError as error:
            raise report.Unavailable(
                f"no cgroup with a CPU limit can be made here ({error.strerror}): run it where"
                f" {path.parent} can be written"
            ) from None
        yield Cgroup(path, is_v2)
    finally:
        if made:
            _remove(path)


def _remove(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            path.rmdir()
        except OSError:
            # A child of a child may take a moment longer to end.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
