"""What decides: each policy, floor and requirement."""

from typing import Any, Final

from authz.core.ledger import MAX_ENTRIES
from authz.stores.analytics.report import MOST_COUNTED, Report, per_cent
from authz.stores.analytics.scan import SUMS, Tally

#: Policies that are shown at most; of a directory of thousands not all decide something.
MAX_POLICIES: Final = 1000
#: Characters of an action: callers choose it, and thousands are counted at once.
ACTION_CHARACTERS: Final = 256


def policies(report: Report) -> dict[str, Any]:
    """Which policies have decided, and what, the most often deciding first.

    Floors and requirements are there too, by the name of their document. `topAction` is what they
    decided about most often; one that is longer than `ACTION_CHARACTERS` is cut off.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    decided: Tally[str] = Tally(MAX_ENTRIES)
    actions: Tally[tuple[str, str]] = Tally(MOST_COUNTED)
    columns = f"CAST(policy AS TEXT), CAST(substr(action, 1, {ACTION_CHARACTERS}) AS TEXT), {SUMS}"
    for policy, action, requests, allowed, denied, _ in report.scan().sums(
        columns, "1, 2", where="policy IS NOT NULL"
    ):
        decided.add(policy, requests, allowed, denied)
        actions.add((policy, action), requests)
    top: dict[str, str] = {}
    for (policy, action), _ in actions.ranked():
        top.setdefault(policy, action)
    shown = []
    ranked = decided.ranked()
    for policy, (triggered, allowed, denied) in ranked[:MAX_POLICIES]:
        rates = {
            "allowRate": per_cent(allowed, triggered),
            "denyRate": per_cent(denied, triggered),
        }
        named = {"topAction": top[policy]} if policy in top else {}
        shown.append({"name": policy, "triggered": triggered, **rates, **named})
    is_whole = len(ranked) <= MAX_POLICIES
    return report.answer(decided, actions, whole=is_whole, policies=shown)
