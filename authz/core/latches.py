"""The fuses of delegations, kept: one for each edge that has failed of late (`delegation.fuse`)."""

import json
from collections.abc import Collection
from typing import Final, NamedTuple

from authz.core.delegation import fuse
from authz.core.delegation.fuse import WINDOW_S, Fuse
from authz.core.delegation.relationship import Relationship
from authz.core.ledger import Put, Table, parsed
from authz.core.timestamps import rfc3339

#: Seconds that a fuse is still shown after it has closed.
SHOWN_S: Final = 3600


class Latch(NamedTuple):
    """The fuse of an edge, with whom it concerns."""

    fuse: Fuse
    #: The agent that holds the edge.
    agent_id: str
    #: The agent that the chain begins with.
    root: str


Latches = Table[Latch]


def table() -> Latches:
    """An empty table of them, by relationship id."""
    return Table("fuse", _dumps, _loads, expires=_expires, group=lambda latch: latch.root)


def open_until(latches: Latches, edge: str, root: str, now: float) -> float | None:
    """When the fuse of the edge or of its root closes; None where neither is open."""
    latch = latches.get(edge)
    if latch is not None and fuse.is_open(latch.fuse, now):
        return latch.fuse.open_until
    shut = _open(latches, root, now)
    if fuse.root_opens(len({latch.agent_id for latch in shut})):
        return min(latch.fuse.open_until for latch in shut)
    return None


def failed(latches: Latches, hop: Relationship, now: float) -> tuple[Put, list[str]]:
    """One more failure of an edge: the change, and what it opens, `edge` and `root`."""
    known = latches.get(hop.id)
    before = fuse.CLOSED if known is None else known.fuse
    after = fuse.failed(before, now)
    opened = []
    if fuse.opens(before, after):
        opened.append("edge")
        agents = {latch.agent_id for latch in _open(latches, hop.root, now)}
        if not fuse.root_opens(len(agents)) and fuse.root_opens(len(agents | {hop.target})):
            opened.append("root")
    return Put(latches, hop.id, Latch(after, hop.target, hop.root)), opened


def standing(latch: Latch, now: float) -> str:
    """Whether it is `open` or `closed`."""
    return "open" if fuse.is_open(latch.fuse, now) else "closed"


def last_failure(latch: Latch) -> float:
    """When its edge failed last, as far as that counts still or has opened it."""
    return max((*latch.fuse.failures, latch.fuse.opened_at))


def entry(edge: str, latch: Latch, now: float) -> dict[str, object]:
    """A fuse as API answers and the CLI show it."""
    shown: dict[str, object] = {
        "relationshipId": edge,
        "agentId": latch.agent_id,
        "rootAgentId": latch.root,
        "state": standing(latch, now),
        "recentFailures": len(latch.fuse.failures),
        "timesOpened": latch.fuse.times_opened,
    }
    if latch.fuse.open_until:
        shown["openedAt"] = rfc3339(latch.fuse.opened_at)
        shown["openUntil"] = rfc3339(latch.fuse.open_until)
    return shown


def _open(latches: Latches, root: str, now: float) -> Collection[Latch]:
    known = (latches.get(edge) for edge in latches.keys_of(root))
    return [latch for latch in known if latch is not None and fuse.is_open(latch.fuse, now)]


def _expires(latch: Latch) -> float:
    last = max((*latch.fuse.failures, 0.0))
    return max(last + WINDOW_S, latch.fuse.open_until + SHOWN_S if latch.fuse.open_until else 0.0)


def _dumps(latch: Latch) -> str:
    said = [fuse.to_json(latch.fuse), latch.agent_id, latch.root]
    return json.dumps(said, separators=(",", ":"))


def _loads(_: str, text: str) -> Latch:
    match parsed(text):
        case [str(said), str(agent_id), str(root)]:
            return Latch(fuse.from_json(said), agent_id, root)
    raise ValueError("not a fuse")
