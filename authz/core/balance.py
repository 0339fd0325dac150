"""What an agent has spent of a wallet: within a rolling window, or until it is refilled.

Points are whole numbers. A value never changes; `now` is seconds of the steady clock (`ledger`).
"""

from typing import NamedTuple

from authz.core.ledger import Table, parsed
from authz.core.window import Window, window_of


class Refilled(NamedTuple):
    """Points spent that come back some at a time."""

    spent: int
    #: Since when: the last whole interval that was counted.
    since: float
    #: When all of it has come back.
    full_at: float


Balance = Window | Refilled


def refilled(balance: Refilled, now: float, points: int, every: int) -> Refilled:
    """The balance with what has come back since: `points` for each whole `every` seconds."""
    intervals = int(max(now - balance.since, 0.0) // every)
    spent = max(balance.spent - intervals * points, 0)
    since = now if spent == 0 else balance.since + intervals * every
    return Refilled(spent, since, _full_at(spent, since, points, every))


def spend(balance: Refilled, amount: int, points: int, every: int) -> Refilled:
    """The balance, refilled up to now, with an amount spent."""
    spent = balance.spent + amount
    return Refilled(spent, balance.since, _full_at(spent, balance.since, points, every))


def refill_wait(balance: Refilled, now: float, over: int, points: int, every: int) -> float:
    """Seconds until `over` points have come back."""
    intervals = -(-over // points)
    return max(balance.since + intervals * every - now, 0.0)


def _full_at(spent: int, since: float, points: int, every: int) -> float:
    return since + -(-spent // points) * every


def _expires(balance: Balance) -> float:
    return balance.expires if isinstance(balance, Window) else balance.full_at


def _dumps(balance: Balance) -> str:
    if isinstance(balance, Window):
        return balance.to_json()
    return f"[{balance.spent},{balance.since!r},{balance.full_at!r}]"


def _loads(_: str, text: str) -> Balance:
    said = parsed(text)
    match said:
        case [int(spent), int() | float() as since, int() | float() as full_at] if spent >= 0:
            return Refilled(spent, float(since), float(full_at))
    return window_of(said)


def table() -> Table[Balance]:
    """An empty table of balances, by wallet and agent (`key`)."""
    return Table("wallet", _dumps, _loads, _expires)


def key(wallet: str, agent_id: str) -> str:
    """The key of an agent's balance; names have no line ends."""
    return f"{wallet}\n{agent_id}"


def parts(key: str) -> tuple[str, str]:
    """The wallet and the agent that a balance's key is made of."""
    wallet, _, agent_id = key.partition("\n")
    return wallet, agent_id


def windows() -> Table[Window]:
    """An empty table of counted requests, by limit and agent (`key`)."""
    return Table(
        "count",
        Window.to_json,
        lambda _, text: window_of(parsed(text)),
        lambda window: window.expires,
    )
