"""What an audit row tells of, by its source. Apart from calls, so that reading rows loads little.

Besides these there is `control`, what was done to the sidecar itself: nothing was decided there.
"""

from typing import Final, Literal

#: `mint`: an action token is asked for; nothing is done, and so nothing used up, until it is used.
#: `client`: no action is asked for; the agent tells of what it did (`core/report.py`).
Source = Literal["proxy", "check", "batch", "mint", "client"]
#: Where we decide about an action. Whatever counts decisions counts these, and no others: what an
#: agent tells of itself is no decision.
GOVERNED: Final[tuple[Source, ...]] = ("proxy", "check", "batch", "mint")
