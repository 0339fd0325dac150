"""Calls that wait: turns, the limit, and what was given up."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from authz.edges.h2c.connection import Stream
from authz.edges.h2c.queueing import FairQueue, Line
from authz.edges.h2c.requests import Head

HEAD = Head(b"/check", 0, 1.0, -1, "")


class Caller:
    """One with one connection, as far as the queue knows it."""

    def __init__(self) -> None:
        self.line: Line[Caller] = Line()
        self.being_read = False
        self._numbers = count(1, 2)

    def call(self) -> Stream:
        return Stream(next(self._numbers), HEAD, 0.0)


def test_one_call_of_each_before_a_second_of_any() -> None:
    queue: FairQueue[Caller] = FairQueue(100)
    busy, second, third = Caller(), Caller(), Caller()
    for peer, calls in ((busy, 5), (second, 1), (third, 2)):
        for _ in range(calls):
            assert queue.put(peer.line, peer, peer.call()) is None
    assert len(queue) == 8
    first = queue.take(4)
    assert [(peer, stream.id) for peer, stream in first] == [
        (busy, 1), (second, 1), (third, 1), (busy, 3)
    ]  # fmt: skip
    # Who comes now does not wait behind all that is there.
    assert queue.put(second.line, second, second.call()) is None
    rest = queue.take(100)
    assert [(peer, stream.id) for peer, stream in rest] == [
        (third, 3), (busy, 5), (second, 3), (busy, 7), (busy, 9)
    ]  # fmt: skip
    assert len(queue) == 0
    assert queue.take(1) == []


def test_beyond_the_limit_the_longest_line_gives_its_newest_up() -> None:
    queue: FairQueue[Caller] = FairQueue(8)
    busy, other = Caller(), Caller()
    for _ in range(8):
        assert queue.put(busy.line, busy, busy.call()) is None
    ninth = busy.call()
    assert queue.put(busy.line, busy, ninth) == (busy, ninth)
    given_up = []
    for _ in range(8):
        mine = other.call()
        refused = queue.put(other.line, other, mine)
        assert refused is not None
        given_up.append((refused[0], refused[1].id))
        assert len(queue) == 8
    # Until both have as many; then it is the one who asks.
    assert given_up == [(busy, 15), (busy, 13), (busy, 11), (busy, 9),
                        (other, 9), (other, 11), (other, 13), (other, 15)]  # fmt: skip
    assert [peer for peer, _ in queue.take(8)] == [busy, other] * 4


def test_what_was_given_up_holds_no_place_and_is_not_taken() -> None:
    queue: FairQueue[Caller] = FairQueue(4)
    gone, other = Caller(), Caller()
    calls = [gone.call() for _ in range(4)]
    for call in calls:
        queue.put(gone.line, gone, call)
    for call in calls[:3]:
        call.ended = True
    for _ in range(3):
        assert queue.put(other.line, other, other.call()) is None
    assert queue.abandoned == 3
    calls[3].ended = True
    # Looked for once a batch: this one comes too late for it.
    late = other.call()
    assert queue.put(other.line, other, late) == (other, late)
    assert [peer for peer, _ in queue.take(4)] == [other] * 3
    assert queue.abandoned == 4
    assert len(queue) == 0


def test_who_is_being_read_is_passed_over_until_it_is_not() -> None:
    queue: FairQueue[Caller] = FairQueue(8)
    behind, other = Caller(), Caller()
    behind.being_read = True
    for peer in (behind, other, behind, other):
        queue.put(peer.line, peer, peer.call())
    assert [peer for peer, _ in queue.take(4)] == [other, other]
    assert queue.take(4) == []
    assert len(queue) == 2
    behind.being_read = False
    assert [stream.id for _, stream in queue.take(4)] == [1, 3]


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 4)),
        st.tuples(st.just("end"), st.integers(0, 99)),
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.just("turn"), st.integers(0, 4)),
    ),
    max_size=120,
)


@given(MOVES, st.integers(1, 12))
def test_every_call_is_taken_or_refused_or_was_given_up(
    moves: list[tuple[str, int]], limit: int
) -> None:
    queue: FairQueue[Caller] = FairQueue(limit)
    peers = [Caller() for _ in range(5)]
    waiting: list[tuple[Caller, Stream]] = []
    taken: list[tuple[Caller, Stream]] = []
    made, refused = 0, 0
    for move, which in moves:
        if move == "put":
            entry = peers[which], peers[which].call()
            made += 1
            waiting.append(entry)
            for_it = queue.put(entry[0].line, *entry)
            if for_it is not None:
                refused += 1
                waiting.remove(for_it)
                # Nobody has to go for a peer that has more.
                assert len(for_it[0].line.calls) + 1 >= len(entry[0].line.calls)
        elif move == "end" and waiting:
            waiting[which % len(waiting)][1].ended = True
        elif move == "turn":
            peers[which].being_read = not peers[which].being_read
        elif move == "take":
            now = queue.take(which)
            assert len(now) <= which
            assert not any(stream.ended or peer.being_read for peer, stream in now)
            taken += now
            waiting = [entry for entry in waiting if entry not in now]
        assert len(queue) == sum(len(peer.line.calls) for peer in peers) <= limit
    for peer in peers:
        peer.being_read = False
    taken += queue.take(made + 1)
    assert len(queue) == 0
    assert len(taken) + refused + queue.abandoned == made
    for peer in peers:
        mine = [stream.id for whose, stream in taken if whose is peer]
        assert mine == sorted(set(mine))
