"""A process that does long work beside the one that decides: it steps back before it begins.

Imports next to nothing, so that it can be called before the imports that are a good part of the
work.
"""

import contextlib
import os
from typing import Final

from authz import cgroups

#: Nice(2): the last in line.
NICENESS: Final = 19


def step_back(niceness: int = NICENESS) -> None:
    """Let everybody else go first.

    Args:
        niceness: less than the most leaves it a share of a machine that is always busy.
    """
    with contextlib.suppress(OSError):
        os.nice(niceness)
    # What was asked can be asked again: the service that is beside us is not to be killed for it.
    cgroups.give_way()
    if niceness < NICENESS:
        return
    # Even a nice process is let finish its turn before one that wakes up; an idle one is not.
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
