"""What an audit row tells of, by its source. Apart from calls, so that reading rows loads little.

Besides these there are `control`, what was done to the sidecar itself, and `client`, what an agent
tells of itself: nothing was decided there.
"""

from typing import Final, Literal

#: `mint`: an action token is asked for; nothing is done, and so nothing used up, until it is used.
Source = Literal["proxy", "check", "batch", "mint"]
#: Where we decide about an action. Whatever counts decisions counts these, and no others.
GOVERNED: Final[tuple[Source, ...]] = ("proxy", "check", "batch", "mint")
