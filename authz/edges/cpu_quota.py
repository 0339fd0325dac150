"""How much of a processor we may use, and whether that is nearly used up (Linux control groups).

- A container's CPU limit is a quota in each period of 100 ms. Whoever has used it up stands still
  until the period is over, and so does every answer. It is better to see that coming.
- What cannot be read is no limit: nothing that depends on it is more than a saving.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from authz.cgroups import CGROUPS, MEMBERSHIP, groups

#: Seconds between two looks at what has been used: a few in each of the kernel's periods.
WINDOW_S: Final = 0.02
#: The share of the quota from which on it is nearly used up.
NEARLY: Final = 0.75


def cpus_allowed(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Processors' worth of time that we may use; infinite without a limit.

    The smallest limit of the group that we are in and of those around it, in either version of
    control groups: v2 says it in `cpu.max`, v1 in `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    found = [float("inf")]
    for directory in groups("cpu", cgroups, membership):
        try:
            if (directory / "cpu.max").exists():
                quota, period = (directory / "cpu.max").read_text().split()
            else:
                quota = (directory / "cpu.cfs_quota_us").read_text()
                period = (directory / "cpu.cfs_period_us").read_text()
            if quota != "max" and int(quota) > 0:
                found.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return min(found)


class Thrift:
    """Whether processor time is short, for whoever can do the same for less."""

    def __init__(
        self,
        cpus: Callable[[], float] = cpus_allowed,
        used_s: Callable[[], float] = time.process_time,
    ) -> None:
        """
        Args:
            cpus: processors' worth of time that may be used.
            used_s: seconds of it that we have used so far, whoever else is in the group.
        """
        self._cpus = cpus
        self._used_s = used_s
        self._since = float("-inf")
        self._used = 0.0
        self._short = False
        self.renew()

    def renew(self) -> None:
        """Look at the limit again, which may be changed while we run."""
        cpus = self._cpus()
        # One thread answers, and cannot use more than one.
        self._share = cpus * NEARLY if cpus < 1 else 0.0

    def short(self, now: float) -> bool:
        """Whether most of it was used in the last window. `now`: seconds of a steady clock."""
        if not self._share:
            return False
        passed = now - self._since
        if passed >= WINDOW_S:
            used = self._used_s()
            self._short = used - self._used > self._share * passed
            self._since, self._used = now, used
        return self._short
