"""What an audit row tells of, by its source. Apart from calls, so that reading rows loads little.

Besides these there is `control`, what was done to the sidecar itself: nothing was decided there.
"""

from typing import Final, Literal

#: `mint`: an action token is asked for; nothing is done, and so nothing used up, until it is used.
#: `client`: no action is asked for; the agent tells of what it did (`core/report.py`).
#: `forward`, `capture`: a request or a tunnel to a host that the agent chose, by the forward proxy
#: or because the kernel sent it there.
Source = Literal["proxy", "check", "batch", "mint", "client", "forward", "capture"]
#: Where we decide about an action. Whatever counts decisions counts these, and no others: what an
#: agent tells of itself is no decision.
GOVERNED: Final[tuple[Source, ...]] = (
    "proxy", "check", "batch", "mint", "forward", "capture",
)  # fmt: skip
#: What the agent sends to hosts of its own choice.
OUTWARD: Final[frozenset[Source]] = frozenset(("forward", "capture"))
#: What is sent on where it may pass, so that the wire shows what it is.
FORWARDED: Final[frozenset[Source]] = frozenset(("proxy", "forward", "capture"))
