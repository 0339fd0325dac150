"""Who asks: each agent, and each tier."""

from collections import Counter
from typing import Any

from authz.core import tiers
from authz.core.ledger import MAX_ENTRIES
from authz.stores.analytics.report import Report, ms, per_cent
from authz.stores.analytics.scan import AGENT, NEWEST, SUMS, Tally


def agents(report: Report, *, sort: str, limit: int) -> dict[str, Any]:
    """Who has asked, and what became of it; the most of what they are sorted by first.

    `sort` is one of `SORTS`. Name and tier are those that the agent had in its newest request; one
    without a name is called by its id.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    tally: Tally[str] = Tally(MAX_ENTRIES)
    columns = f"{AGENT}, {SUMS}, {NEWEST}"
    for agent, requests, allowed, denied, latency_us, *newest in report.scan().sums(
        columns, "1", where="agent_id IS NOT NULL"
    ):
        tally.add(agent, requests, allowed, denied, latency_us)
        tally.meet(agent, tuple(newest))

    def by(one: tuple[str, list[float]]) -> tuple[float, str]:
        requests, _, denied, latency_us = one[1]
        most = {"requests": requests, "denied": denied, "latency": latency_us / requests}
        return -most[sort], one[0]

    shown = []
    for agent, sums in sorted(tally.of.items(), key=by)[:limit]:
        requests, allowed, denied, latency_us = sums
        last, name, tier = tally.newest[agent]
        shown.append(
            {
                "id": agent,
                # Who reads this shows the name, and a token need not have one.
                "name": name or agent,
                "trustTier": tier or tiers.TIERS[tiers.UNVERIFIED],
                "requests": requests,
                "allowed": allowed,
                "denied": denied,
                "errors": requests - allowed - denied,
                "avgLatencyMs": ms(latency_us, requests),
                "lastActive": last,
            }
        )
    return report.answer(tally, sort=sort, agents=shown)


def trust_distribution(report: Report) -> dict[str, Any]:
    """How many agents there are of each tier, and what they asked for; the highest tier first.

    Aliases are one tier. An agent is of the tier that it had in its newest request, and a request
    of the one that it was made with; one of nobody who is known counts as `unverified`.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    requests = [0] * len(tiers.TIERS)
    newest: Tally[str] = Tally(MAX_ENTRIES)
    columns = f"{AGENT}, CAST(trust_tier AS TEXT), count(*), max(timestamp)"
    for agent, tier, count, last in report.scan().sums(columns, "1, 2"):
        rank = tiers.rank(tier or "") or tiers.UNVERIFIED
        requests[rank] += count
        if agent is not None:
            newest.add(agent, count)
            newest.meet(agent, (last, rank))
    agents_of = Counter(rank for _, rank in newest.newest.values())
    total = sum(requests)
    shown = [
        {
            "tier": tier,
            "agentCount": agents_of[rank],
            "requestCount": requests[rank],
            "pct": per_cent(requests[rank], total),
        }
        for rank, tier in reversed(list(enumerate(tiers.TIERS)))
    ]
    return report.answer(newest, tiers=shown)
