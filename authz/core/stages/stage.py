"""The one shape of a stage: a name and `judge(case) -> Finding`, pure, no other arguments."""

from collections.abc import Callable
from typing import NamedTuple

from authz.core.case import Case
from authz.core.finding import Finding


class Stage(NamedTuple):
    """A link of the chain. The name is what audit rows and answers call it."""

    name: str
    judge: Callable[[Case], Finding]
