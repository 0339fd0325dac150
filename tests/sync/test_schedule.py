"""When turns are: never later than the interval while all is well, and soon after an absence."""

from hypothesis import given
from hypothesis import strategies as st

from authz.sync.schedule import MAX_BACKOFF_S, MAX_RETRY_AFTER_S, Schedule

DICE = st.floats(0, 1)


@given(st.integers(1, 86_400), DICE)
def test_a_turn_is_never_late(interval: int, roll: float) -> None:
    schedule = Schedule(interval, lambda: roll)
    assert 0 <= schedule.first() <= interval * 0.05
    assert interval * 0.8 <= schedule.succeeded() <= interval


@given(st.integers(1, 86_400), DICE, st.integers(0, 50))
def test_failures_wait_longer_and_not_for_ever(interval: int, roll: float, failures: int) -> None:
    schedule = Schedule(interval, lambda: roll)
    waits = [schedule.failed() for _ in range(failures + 1)]
    assert waits == sorted(waits)
    assert waits[0] <= interval
    assert waits[-1] <= max(MAX_BACKOFF_S, interval)
    assert schedule.succeeded() <= interval
    assert schedule.failed() <= interval


def test_what_the_other_side_wants_is_heeded_within_bounds() -> None:
    schedule = Schedule(60, lambda: 0)
    assert schedule.failed(30) == 60
    assert schedule.failed(500) == 500
    assert schedule.failed(1e9) == MAX_RETRY_AFTER_S


def test_it_backs_off_from_the_interval_on() -> None:
    schedule = Schedule(2, lambda: 0)
    assert [schedule.failed() for _ in range(9)] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
