"""How much was asked, when, what became of it, and how long that took."""

from datetime import datetime
from typing import Any

from authz.core.ledger import MAX_ENTRIES
from authz.core.timestamps import rfc3339
from authz.stores.analytics.report import BUCKETS, Report, ms, per_cent
from authz.stores.analytics.scan import AGENT, SUMS


def overview(report: Report) -> dict[str, Any]:
    """How much was asked, and what became of it since the period before.

    `enforcementRate` is the share of requests that an entry of a document decided: a policy's rule,
    a floor, a requirement. A default, a bad token or another stage is none.

    `trends`: requests by how many per cent there are more (100 where there were none); the others
    by how much they are more.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    # 1 in this period, 0 in the one before.
    figures = [[0, 0, 0.0], [0, 0, 0.0]]
    agents: list[set[str]] = [set(), set()]
    columns = f"timestamp > ?, {AGENT}, {SUMS}, count(rule_index)"
    is_whole = True
    scan = report.scan(since=report.since_before)
    for within, agent, requests, _, _, latency_us, matched in scan.sums(
        columns, "1, 2", rfc3339(report.since)
    ):
        sums = figures[within]
        sums[0] += requests
        sums[1] += matched
        sums[2] += latency_us
        if agent is None:
            continue
        if len(agents[within]) < MAX_ENTRIES:
            agents[within].add(agent)
        else:
            is_whole = is_whole and agent in agents[within]
    before, said = (
        {
            "totalRequests": requests,
            "enforcementRate": per_cent(matched, requests),
            "activeAgents": len(names),
            "avgLatencyMs": ms(latency_us, requests),
        }
        for (requests, matched, latency_us), names in zip(figures, agents, strict=True)
    )
    trends = {name: round(said[name] - before[name], 3) for name in said}
    more, there = trends["totalRequests"], before["totalRequests"]
    trends["totalRequests"] = per_cent(more, there) if there else (100.0 if more else 0.0)
    return report.answer(whole=is_whole, **said, trends=trends)


def timeseries(report: Report, *, bucket: str) -> dict[str, Any]:
    """What was decided, by the hour or day of UTC, the oldest first and none left out.

    `bucket` is one of `BUCKETS`. The first and the last one are as long as the period reaches into
    them.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    seconds, shared = BUCKETS[bucket]
    first = int(report.since // seconds) * seconds
    starts = (rfc3339(start)[:19] for start in range(first, int(report.now) + 1, seconds))
    data: dict[str, dict[str, Any]] = {
        start[:shared]: {"time": f"{start}Z", "allowed": 0, "denied": 0, "errors": 0}
        for start in starts
    }
    for key, requests, allowed, denied, _ in report.scan().sums(
        f"substr(timestamp, 1, {shared}), {SUMS}", "1"
    ):
        found = data.get(key)
        if found is None:
            continue  # a time that is none
        found["allowed"] += allowed
        found["denied"] += denied
        found["errors"] += requests - allowed - denied
    return report.answer(bucket=bucket, data=list(data.values()))


def latency_heatmap(report: Report) -> dict[str, Any]:
    """How long decisions took, by weekday and hour of UTC; hours without any are left out.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for hour, requests, _, _, latency_us in report.scan().sums(
        f"substr(timestamp, 1, {BUCKETS['hour'][1]}), {SUMS}", "1"
    ):
        try:
            moment = datetime.fromisoformat(f"{hour}:00+00:00")
        except ValueError:
            continue  # a time that is none
        # `isoweekday` has Monday as 1 and Sunday as 7.
        cell = cells.setdefault((moment.isoweekday() % 7, moment.hour), [0, 0.0])
        cell[0] += requests
        cell[1] += latency_us
    shown = [
        {"dayOfWeek": day, "hourOfDay": hour, "avgLatencyMs": ms(took, count), "count": count}
        for (day, hour), (count, took) in sorted(cells.items())
    ]
    return report.answer(cells=shown)
