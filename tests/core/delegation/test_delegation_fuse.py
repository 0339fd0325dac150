"""Five failures within a minute shut a delegation for five minutes, nothing that is asked meanwhile
makes it longer, and no delegate shuts out another one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.delegation.fuse import (
    CLOSED,
    COUNTED,
    FAILURES,
    OPEN_S,
    WINDOW_S,
    Fuse,
    failed,
    from_json,
    is_open,
    opens,
    root_opens,
    to_json,
)
from authz.core.errors import Code
from tests.builders import NOW


def after(*times: float, fuse: Fuse = CLOSED) -> Fuse:
    """The fuse after failures at these times, in seconds after `NOW`."""
    for time in times:
        fuse = failed(fuse, NOW + time)
    return fuse


@pytest.mark.parametrize(
    ("times", "opened"),
    [
        ((), False),
        ((0, 1, 2, 3), False),
        ((0, 1, 2, 3, 4), True),
        ((0, 0, 0, 0, 0), True),
        ((0, 15, 30, 45, 59.9), True),
        # The first is a minute old, and counts no longer.
        ((0, 15, 30, 45, 60), False),
        ((0, 1, 2, 3, 61, 62), False),
        ((0, 58, 59, 59, 61, 62), True),
        # The clock stepped back: what lies ahead counts as now.
        ((1000, 1001, 1002, 3, 4), True),
        ((1000, 1001, 1002, 3, 64), False),
    ],
)
def test_five_failures_within_a_minute_open_the_fuse(
    times: tuple[float, ...], opened: bool
) -> None:
    fuse = after(*times)
    assert is_open(fuse, NOW + (times[-1] if times else 0)) is opened
    assert fuse.times_opened == opened


def test_an_open_fuse_closes_after_five_minutes_however_often_it_is_asked() -> None:
    fuse = after(0, 1, 2, 3, 4)
    assert fuse == Fuse((), NOW + 4 + OPEN_S, NOW + 4, 1)
    assert after(5, 100, 303, fuse=fuse) == fuse
    assert is_open(fuse, NOW + 4 + OPEN_S - 0.001)
    assert not is_open(fuse, NOW + 4 + OPEN_S)
    again = after(305, 306, 307, 308, fuse=fuse)
    assert not is_open(again, NOW + 308)
    assert after(309, fuse=again).times_opened == 2


def test_the_opening_is_told_once() -> None:
    fuse, told = CLOSED, 0
    for time in range(50):
        later = failed(fuse, NOW + time)
        told += opens(fuse, later)
        fuse = later
    assert told == 1


def test_a_clock_that_steps_back_leaves_an_open_fuse_open() -> None:
    assert is_open(after(0, 1, 2, 3, 4), NOW - 1_000_000)


@pytest.mark.parametrize(("edges", "opened"), [(0, False), (2, False), (3, True), (9, True)])
def test_a_root_is_shut_when_three_of_its_delegates_are(edges: int, opened: bool) -> None:
    assert root_opens(edges) is opened


def test_what_anybody_can_bring_about_with_anothers_delegation_does_not_count() -> None:
    of_delegations = {code for code in Code if code.startswith(("delegation_", "delegator_"))}
    assert of_delegations - COUNTED == {
        Code.DELEGATION_MALFORMED,
        Code.DELEGATION_BAD_SIGNATURE,
        Code.DELEGATION_UNKNOWN,
        Code.DELEGATION_BROKEN,
        Code.DELEGATION_WRONG_DELEGATE,
    }
    assert of_delegations >= COUNTED


@given(st.lists(st.floats(0, 100), max_size=60))
def test_a_fuse_stays_small_opens_only_for_cause_and_is_stored_as_it_is(
    steps: list[float],
) -> None:
    fuse, now, times = CLOSED, NOW, list[float]()
    for step in steps:
        now += step
        before, fuse = fuse, failed(fuse, now)
        times.append(now)
        assert len(fuse.failures) < FAILURES
        if opens(before, fuse):
            assert len([time for time in times if now - time < WINDOW_S]) >= FAILURES
            assert fuse.open_until - now == pytest.approx(OPEN_S)
            times.clear()
        elif is_open(fuse, now):
            times.pop()
        else:
            assert len([time for time in times if now - time < WINDOW_S]) < FAILURES
        assert from_json(to_json(fuse)) == fuse


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        to_json(CLOSED) + "{}",
        to_json(CLOSED).replace("}", ',"failures":[]}'),
        *(
            json.dumps(CLOSED._asdict() | changes)
            for changes in (
                {"failures": [1.0] * 5},
                {"failures": ["1"]},
                {"failures": 1},
                {"open_until": 1e300},
                {"open_until": None},
                {"opened_at": -1},
                {"times_opened": 1.5},
                {"times_opened": -1},
                {"extra": 1},
            )
        ),
    ],
)
def test_a_text_that_is_no_stored_fuse_is_junk(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+: "):
        from_json(text)
