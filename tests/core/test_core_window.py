"""Windows and balances: what they promise about any stretch of time, against a plain list."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core import balance
from authz.core.balance import Refilled
from authz.core.ledger import parsed
from authz.core.window import SLOTS, Window, window_of

START = 1_700_000_000.0
LIMIT = 10

#: Seconds between a request and the next, and what each asks for.
requests = st.lists(
    st.tuples(st.floats(0, 40, allow_nan=False), st.integers(1, LIMIT)), min_size=1, max_size=60
)


def admitted(asked: Sequence[tuple[float, int]], length: int) -> list[tuple[float, int]]:
    """What a window lets through of these requests, each with its time."""
    window, now, passed = Window(length), START, []
    for gap, amount in asked:
        now += gap
        if window.total(now) + amount <= LIMIT:
            window = window.add(now, amount)
            passed.append((now, amount))
    return passed


@given(requests)
def test_no_stretch_of_the_windows_length_holds_more_than_the_limit(
    asked: list[tuple[float, int]],
) -> None:
    passed = admitted(asked, 60)
    for at, _ in passed:
        assert sum(amount for time, amount in passed if at <= time < at + 60) <= LIMIT


@given(requests, st.integers(1, LIMIT))
def test_who_waits_as_long_as_it_is_told_is_let_in_and_not_much_earlier(
    asked: list[tuple[float, int]], amount: int
) -> None:
    window, now = Window(60), START
    for gap, cost in asked:
        now += gap
        if window.total(now) + cost <= LIMIT:
            window = window.add(now, cost)
    wait = window.wait(now, amount, LIMIT)
    assert window.total(now + wait + 1e-6) + amount <= LIMIT
    if wait > 0.01:
        assert window.total(now + wait - 0.005) + amount > LIMIT


@given(requests)
def test_a_window_has_few_slots_and_is_read_back_as_it_was(asked: list[tuple[float, int]]) -> None:
    window, now = Window(60), START
    for gap, amount in asked:
        now += gap
        window = window.add(now, amount)
        assert len(window.slots) <= SLOTS + 1
        assert window_of(parsed(window.to_json())) == window
    assert window.total(window.expires + 1e-6) == 0


def test_a_clock_that_steps_back_gives_nothing_back() -> None:
    window = Window(60).add(START, LIMIT)
    assert window.total(START - 3600) == LIMIT
    assert window.add(START - 3600, 1).total(START - 3600) == LIMIT + 1


@pytest.mark.parametrize(
    "said",
    ["", "[]", "[60]", "[0,[]]", "[60,[[1]]]", "[60,[[1,-1]]]", '[60,"x"]', "{}", "[" * 9999],
)
def test_what_is_no_window_is_not_read_as_one(said: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        window_of(parsed(said))


def test_points_come_back_some_at_a_time_and_never_more_than_were_spent() -> None:
    spent = Refilled(0, START, START)
    spent = balance.spend(spent, 25, points=10, every=60)
    seen = [balance.refilled(spent, START + s, 10, 60).spent for s in (0, 59, 60, 119, 120, 180)]
    assert seen == [25, 25, 15, 15, 5, 0]
    assert spent.full_at == START + 180
    assert balance.refill_wait(spent, START + 30, over=11, points=10, every=60) == 90


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(0, 30)), max_size=30))
def test_a_refilled_wallet_never_gives_out_more_than_it_holds_and_gets(
    asked: list[tuple[float, int]],
) -> None:
    capacity, points, every = 30, 10, 60
    known, now, passed = Refilled(0, START, START), START, [(START, 0)]
    for gap, cost in asked:
        now += gap
        known = balance.refilled(known, now, points, every)
        if known.spent + cost <= capacity:
            known = balance.spend(known, cost, points, every)
            passed.append((now, cost))
    for first, last in itertools.combinations_with_replacement(range(len(passed)), 2):
        spent = sum(cost for _, cost in passed[first : last + 1])
        back = (int((passed[last][0] - passed[first][0]) // every) + 1) * points
        assert spent <= capacity + back


@pytest.mark.parametrize("value", [Refilled(3, 1.5, 2.25), Window(60, ((1, 2), (3, 4)), 6)])
def test_a_balance_is_read_back_as_it_was(value: balance.Balance) -> None:
    table = balance.table()
    assert table.loads("w\na", table.dumps(value)) == value
