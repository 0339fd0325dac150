"""rate-limit: the agent has not made too many requests of late (CONTRACT §5 "Rate limits").

Limits of every policy that applies to the agent, and of the rule that allows. Only what passes the
whole chain counts, so a request that is refused uses nothing up.
"""

import math

from authz.core.balance import key
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More
from authz.core.ledger import Put
from authz.core.limits import Limit
from authz.core.window import Window

NAME = "rate-limit"

_UNITS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


def judge(case: Case) -> Finding:
    """Deny what would be one request too many."""
    limits = case.ruling.limits
    if len(case.names) > 1:
        for other in case.rulings[1:]:
            limits += tuple(limit for limit in other.limits if limit not in limits)
    if not limits:
        return NO_OBJECTION
    counts, now = case.environment.state.counts, case.steady
    puts = []
    for limit in limits:
        where = key(limit.key, case.identity.agent_id)
        window = counts.get(where) or Window(limit.window_s)
        after = window.take(now, 1, limit.count)
        if after is None:
            return _denied(limit, window.wait(now, 1, limit.count))
        puts.append(Put(counts, where, after))
    if case.call.source == "mint":
        return NO_OBJECTION
    return More(tuple(puts))


def _denied(limit: Limit, wait_s: float) -> Deny:
    retry_after_s = max(math.ceil(wait_s), 1)
    words = f"{limit.count} requests per {_UNITS[limit.window_s]}"
    return Deny(
        Code.RATE_LIMITED,
        f"policy {limit.policy} allows {words}",
        rule=limit.rule or NAME,
        policy=limit.policy,
        rule_index=limit.rule_index,
        more=More(retry_after_s=retry_after_s, body={"limit": words}),
    )
