"""What `authz audit tail -f --gateway` reads."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.cli.event_stream import MAX_EVENT, Event, EventStream, TooLong


def events(*chunks: bytes) -> list[Event]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)]


def test_events_of_every_shape() -> None:
    sent = (
        b"\xef\xbb\xbf: hello\n\n"
        b'event: decision\nid: 7\ndata: {"a":\ndata: 1}\n\n'
        b"data:x\r\n\r\nid: 8\r\rdata\n\nretry: 10\nwhat: ever\nnothing\n\n"
        b"id: 9\0\ndata:  y\n\ndata: not complete\n"
    )
    assert events(sent) == [
        Event("decision", '{"a":\n1}', "7"),
        Event("message", "x", "7"),
        Event("message", "", "8"),
        Event("message", " y", "8"),
    ]


@given(st.lists(st.integers(0, 60), max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_it_does_not_matter_how_they_are_cut_up(cuts: list[int], end: bytes) -> None:
    sent = end.join(
        [b"event: a", b"id: 1", b"data: \xe2\x80\xa8x", b"", b"data: z", b"", b":", b""]
    )
    places = sorted({min(cut, len(sent)) for cut in cuts})
    edges = [0, *places, len(sent)]
    chunks = [sent[a:b] for a, b in itertools.pairwise(edges)]
    assert events(*chunks) == [Event("a", "\u2028x", "1"), Event("message", "z", "1")]


def test_an_id_counts_when_its_event_is_complete() -> None:
    stream = EventStream()
    assert list(stream.feed(b"id: 5\ndata: x\n")) == []
    assert stream.last_id == ""
    assert len(list(stream.feed(b"\n"))) == 1
    assert stream.last_id == "5"


@pytest.mark.parametrize("sent", [b"data: ", b"data: x\ndata: ", b": "])
def test_an_event_without_an_end_is_given_up(sent: bytes) -> None:
    stream = EventStream()
    assert not list(stream.feed(sent))
    assert not any(list(stream.feed(b"x" * (MAX_EVENT // 8))) for _ in range(7))
    with pytest.raises(TooLong):
        list(stream.feed(b"x" * (MAX_EVENT // 4)))
    with pytest.raises(TooLong):
        events(*[b"data: " + b"x" * 1000 + b"\n"] * (MAX_EVENT // 1000))
