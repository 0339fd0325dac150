"""risk-wallet: the agent has risk points left for this (CONTRACT §15).

The wallet is a `RiskWallet` document; an agent that none is for passes. A debit is made in the
transaction of the row, by one decision at a time, so that points are spent once, and are spent
when the process dies.
"""

import math
import re
from typing import Final

from authz.core import balance
from authz.core.balance import Refilled
from authz.core.case import Case
from authz.core.chain_compiled import Refill
from authz.core.chain_doc import MAX_POINTS
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More
from authz.core.ledger import Put
from authz.core.provenance import Unclear
from authz.core.wallets import Wallet
from authz.core.window import Window

NAME = "risk-wallet"

_WHOLE: Final = re.compile(r"[0-9]{1,10}", re.ASCII)


def judge(case: Case) -> Finding:
    """Deny what costs more than is left; else say what it costs, and what is left then."""
    wallet = case.snapshot.wallet(case.identity)
    if wallet is None:
        return NO_OBJECTION
    lane = 0
    if wallet.asks_for_lane:
        influence = case.influence
        if isinstance(influence, Unclear):
            return Deny(Code.PROVENANCE_MALFORMED, influence.reason, rule=f"{NAME}:provenance")
        lane = 0 if influence is None else influence.lane
    declared = None
    if wallet.document.declared_raises and case.call.cost:
        declared = _declared(case.call.cost)
        if declared is None:
            said = f"X-MeshGuard-Cost: not a whole number of points from 0 to {MAX_POINTS}"
            return Deny(Code.COST_MALFORMED, said, rule=f"{NAME}:cost", policy=wallet.name)
    rank = case.effective_rank
    cost = max([wallet.cost(name, rank, lane, declared) for name in case.names])
    balances = case.environment.state.wallets
    where, now = balance.key(wallet.name, case.identity.agent_id), case.steady
    known = balances.get(where)
    if not isinstance(known, Window) or known.length != wallet.window_s:
        known = _current(known, wallet, now)
    after = _spend(known, wallet, now, cost)
    if after is None:
        return _exhausted(case, wallet, known, cost, wallet.capacity - _spent(known, now))
    left = max(wallet.capacity - _spent(after, now), 0)
    if not cost or case.call.source == "mint":
        return More(debit=0, remaining=left + cost)
    return More((Put(balances, where, after),), cost, left)


def _spend(known: balance.Balance, wallet: Wallet, now: float, cost: int) -> balance.Balance | None:
    """The balance with a cost spent; None where that is more than is left."""
    if not cost:
        return known  # also where a wallet was made smaller than what is spent
    if isinstance(known, Window):
        return known.take(now, cost, wallet.capacity)
    if known.spent + cost > wallet.capacity:
        return None
    return balance.spend(known, cost, *_refill(wallet))


def _declared(header: str) -> int | None:
    if not _WHOLE.fullmatch(header) or int(header) > MAX_POINTS:
        return None
    return int(header)


def _current(known: balance.Balance | None, wallet: Wallet, now: float) -> balance.Balance:
    """What was spent, as this wallet counts: points stay spent when the document changes."""
    if wallet.window_s:
        if isinstance(known, Window) and known.length == wallet.window_s:
            return known
        fresh = Window(wallet.window_s)
        spent = _spent(known, now)
        return fresh.add(now, spent) if spent else fresh
    if not isinstance(known, Refilled):
        known = Refilled(_spent(known, now), now, now)
    return balance.refilled(known, now, *_refill(wallet))


def _refill(wallet: Wallet) -> Refill:
    """How it is refilled: points, and for each so many seconds."""
    assert wallet.refill is not None
    return wallet.refill


def _spent(known: balance.Balance | None, now: float) -> int:
    if isinstance(known, Window):
        return known.total(now)
    return 0 if known is None else known.spent


def _exhausted(case: Case, wallet: Wallet, known: balance.Balance, cost: int, left: int) -> Deny:
    wait_s = None
    reason = f"{case.call.action} costs {cost} points, and wallet {wallet.name} has {max(left, 0)}"
    if cost > wallet.capacity:
        reason += f" of {wallet.capacity} at most"
    elif isinstance(known, Refilled):
        over = cost - left
        wait = balance.refill_wait(known, case.steady, over, *_refill(wallet))
        wait_s = max(math.ceil(wait), 1)
    else:
        wait_s = max(math.ceil(known.wait(case.steady, cost, wallet.capacity)), 1)
    return Deny(
        Code.WALLET_EXHAUSTED,
        reason,
        rule=f"{NAME}:exhausted",
        policy=wallet.name,
        more=More(remaining=max(left, 0), retry_after_s=wait_s),
    )
