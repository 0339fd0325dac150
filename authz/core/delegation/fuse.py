"""A delegation that fails too often is shut for a while (CONTRACT §15, delegation-fuse).

- An edge is the hop to the caller, the one that the request names. Failures count for it alone,
  whichever hop above it was broken: what a delegate asks for must not shut out the others who
  hang below the same hop.
- Only the agent that holds an edge can make it fail: `COUNTED` are the codes of a `Broken` after
  which that is certain. Who names another's delegation does nothing to it.
- The fuse of a root, the agent that a chain begins with, is open while the fuses of edges of
  `ROOT_EDGES` different agents below it are. One delegate cannot shut the others out, however many
  edges it holds; several that fail at once show that what they have in common is broken.
- A fuse is a value, and opens by itself only in `failed`. While it is open nothing is counted,
  so it closes after `OPEN_S` however often it is asked.
- `now` is in seconds of the steady clock (`core/ledger.py`). If it does, a time that lies ahead
  counts as now: a fuse stays open longer, and never closes early.
"""

import json
from typing import Final, NamedTuple

from authz.core import shape
from authz.core.errors import Code

#: Failures that open a fuse, and the seconds within which they fall (CONTRACT §15): an agent that
#: is refused and asks again in earnest does so less often.
FAILURES: Final = 5
WINDOW_S: Final = 60
#: Seconds that a fuse stays open (CONTRACT §15): time for a person to see the alert.
OPEN_S: Final = 300
#: Agents below a root whose fuses are open when the root's is. Two may fail by chance.
ROOT_EDGES: Final = 3
#: Times that a fuse can have opened, as far as it is told: one a second for a century.
_MAX_OPENED: Final = 2**32

#: What counts. Not `delegation_broken` and `delegation_wrong_delegate`, which anybody can bring
#: about with another agent's delegation; and nothing that was `Refused`, for it names no edge.
COUNTED: Final = frozenset(
    {
        Code.DELEGATION_NOT_AUTHORITY,
        Code.DELEGATION_SELF_ISSUED,
        Code.DELEGATION_CYCLE,
        Code.DELEGATION_TOO_DEEP,
        Code.DELEGATION_REVOKED,
        Code.DELEGATION_NOT_YET_VALID,
        Code.DELEGATION_EXPIRED,
        Code.DELEGATION_WIDENED,
        Code.DELEGATION_OUT_OF_SCOPE,
        Code.DELEGATION_OVER_CEILING,
        Code.DELEGATOR_TIER_TOO_LOW,
        Code.DELEGATOR_LOST_PERMISSION,
    }
)


class Fuse(NamedTuple):
    """How one edge has fared. Times are seconds of the steady clock."""

    #: The last failures within the window, fewer than `FAILURES`.
    failures: tuple[float, ...] = ()
    #: 0 where it never opened.
    open_until: float = 0.0
    opened_at: float = 0.0
    times_opened: int = 0


CLOSED: Final = Fuse()


def is_open(fuse: Fuse, now: float) -> bool:
    """Whether the edge is shut, so that its chain need not be walked."""
    return now < fuse.open_until


def failed(fuse: Fuse, now: float) -> Fuse:
    """The fuse after one more failure of its edge."""
    if is_open(fuse, now):
        return fuse
    recent = tuple(min(at, now) for at in fuse.failures if now - at < WINDOW_S)
    if len(recent) + 1 < FAILURES:
        return fuse._replace(failures=(*recent, now))
    return Fuse((), now + OPEN_S, now, fuse.times_opened + 1)


def opens(before: Fuse, after: Fuse) -> bool:
    """Whether the fuse opened between the two, which is told to people once."""
    return after.times_opened > before.times_opened


def root_opens(open_edges: int) -> bool:
    """Whether a root's fuse is open.

    `open_edges`: different agents that hold an edge below this root whose fuse is open now.
    """
    return open_edges >= ROOT_EDGES


def to_json(fuse: Fuse) -> str:
    """The fuse, compact."""
    return json.dumps(fuse._asdict(), separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Fuse:
    """What `to_json` wrote.

    Raises:
        ValueError: it is something else; one sentence.
    """
    said = shape.members("fuse", shape.json_object("fuse", text), Fuse._fields)
    failures = said["failures"]
    if not isinstance(failures, list) or len(failures) >= FAILURES:
        raise ValueError(f"failures: not a list of fewer than {FAILURES}")
    return Fuse(
        failures=tuple(shape.moment("failures", at) for at in failures),
        open_until=shape.moment("open_until", said["open_until"]),
        opened_at=shape.moment("opened_at", said["opened_at"]),
        times_opened=shape.count("times_opened", said["times_opened"], 0, _MAX_OPENED),
    )
