"""What agents do for others."""

import json
import sqlite3
from typing import Any, Final, NamedTuple, TypeGuard

from authz.stores import ledger_log
from authz.stores.analytics.report import MOST_COUNTED, Report
from authz.stores.analytics.scan import AGENT, NEWEST, SUMS, Tally

#: Pairs of agents that are shown.
PAIRS: Final = 20
#: Hops of a chain at most (`core/delegation/relationship.py`); another figure is none.
MAX_DEPTH: Final = 5

#: What a stage noted of a delegation that holds; nobody else can put it at this place.
_NOTED: Final = "CASE WHEN json_valid(metadata) THEN json_extract(metadata, '$.delegation.{}') END"
_RELATIONSHIP: Final = (
    f"SELECT value FROM {ledger_log.TABLE} WHERE kind = 'relationship' AND key = ?"  # noqa: S608
)
_HAS_LEDGER: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"


def delegations(report: Report) -> dict[str, Any]:
    """Requests that agents made for others: each that names a delegation is a chain.

    One is blocked where the request was denied, for whatever reason; one whose delegation cannot be
    read at all is too. Depth (1: direct) and pair are known where the delegation holds, or is in
    the ledger here and for this caller; the others are in neither the average nor the pairs. A pair
    is the last hop: who let act, and who acted.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    # By the hop, who asked, and who stands above it where the row says so.
    chains: Tally[tuple[str, str, str]] = Tally(MOST_COUNTED)
    total = blocked = 0
    columns = (
        f"CAST(delegation_id AS TEXT), {AGENT}, {_NOTED.format('depth')}, {_NOTED.format('root')},"
        f" {SUMS}, {NEWEST}"
    )
    for hop, agent, depth, root, requests, _, denied, _, *newest in report.scan().sums(
        columns, "1, 2, 3, 4", where="delegation_id IS NOT NULL OR stage = 'delegation-fuse'"
    ):
        total += requests
        blocked += denied
        if hop is None or agent is None:
            continue
        known = depth if _is_depth(depth) else 0
        source = root if known == 1 and isinstance(root, str) else ""
        deep = (known * requests, requests) if known else (0, 0)
        chains.add((hop, agent, source), requests, *deep)
        chains.meet((hop, agent, source), tuple(newest))
    pairs: Tally[tuple[str, str]] = Tally(MOST_COUNTED)
    depths = with_depth = 0.0
    names: dict[str, str] = {}
    ledger = _Ledger(report.connection)
    for key, (requests, deep_sum, deep_ones) in chains.of.items():
        hop, agent, source = key
        edge = ledger.edge(hop)
        if edge is not None and edge.target == agent:
            pair = edge.source, agent
            names[edge.source] = edge.source_name
            depths += deep_sum + edge.depth * (requests - deep_ones)
            with_depth += requests
        else:
            pair = source, agent
            depths += deep_sum
            with_depth += deep_ones
        if pair[0]:
            pairs.add(pair, requests)
            pairs.meet(pair, chains.newest[key])
    top = []
    for pair, (count,) in pairs.ranked()[:PAIRS]:
        source, target = pair
        called = {
            "fromAgent": names.get(source) or source,
            "toAgent": pairs.newest[pair][1] or target,
        }
        top.append({**called, "fromAgentId": source, "toAgentId": target, "count": count})
    return report.answer(
        chains,
        pairs,
        totalChains=total,
        avgDepth=round(depths / with_depth, 2) if with_depth else 0.0,
        blockedChains=blocked,
        topPairs=top,
    )


class _Edge(NamedTuple):
    source: str
    source_name: str
    target: str
    depth: int


class _Ledger:
    """The relationships that the database has, as far as they can be read.

    What reads them where something is decided is stricter, and far more to load.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # An older version's has none.
        self._is_there = bool(connection.execute(_HAS_LEDGER, (ledger_log.TABLE,)).fetchone())

    def edge(self, key: str) -> _Edge | None:
        if not self._is_there:
            return None
        found = self._connection.execute(_RELATIONSHIP, (key,)).fetchone()
        try:
            said = json.loads(found[0])
            edge = _Edge(*(said[name] for name in _Edge._fields))
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            return None
        texts = all(isinstance(text, str) for text in edge[:3])
        return edge if texts and _is_depth(edge.depth) else None


def _is_depth(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 1 <= value <= MAX_DEPTH
