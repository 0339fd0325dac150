"""What a state notes of the time, so that the steady clock goes on where it was."""

import pytest

from authz.core.action_token import Used
from authz.core.ledger import Put
from authz.core.state import MAX_AHEAD_S, State


def noted(state: State) -> float | None:
    return state.clock.get("")


def test_the_time_is_noted_once_a_second_and_never_goes_back() -> None:
    state = State()
    for now, expected, changes in ((100.7, 100, 1), (101.0, 101, 1), (101.9, 101, 0), (50, 101, 0)):
        state.tick(now)
        assert (noted(state), len(state.ledger.changes())) == (expected, changes)
        state.ledger.keep(durable=True)
    assert state.clock.loads("", state.clock.dumps(101.0)) == 101.0


@pytest.mark.parametrize(("behind", "is_believed"), [(MAX_AHEAD_S - 1, True), (MAX_AHEAD_S, False)])
def test_a_time_that_no_clock_can_have_shown_is_not_kept(behind: float, is_believed: bool) -> None:
    state = State()
    state.tick(1e9)
    state.tick(1e9 - behind)
    assert noted(state) == (1e9 if is_believed else 1e9 - behind)


def test_what_is_removed_had_expired_before_the_time_that_is_noted() -> None:
    state = State()
    state.ledger.put(Put(state.used, "jti", Used(300.0)))
    state.ledger.keep(durable=True)
    for now in (299.9, 300.0):
        state.tick(now)
        assert (state.used.get("jti") is None) is (noted(state) == 300.0)
