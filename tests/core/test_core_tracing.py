"""Trace contexts and samplers, held against those of OpenTelemetry's own SDK."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from authz.core.tracing import EVERY, MAX_STATE, Parent, Sampler, Trace, parent_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (GOOD, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        # Other flags mean nothing that is known (§3.2.2.5.2).
        (f"00-{TRACE}-{SPAN}-fd", 1),
        # A later version is read as far as it is known (§3.2.2).
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", 1),
    ],
)
def test_a_traceparent_is_read(text: str, flags: int) -> None:
    assert parent_of(text) == Parent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{GOOD},{GOOD}",
        f"00-{TRACE}-{SPAN}-0\u0661",
    ],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert parent_of(text, "vendor=1") is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("rojo=00f067aa0ba902b7", True),
        ("a=1, b=2\t,tenant@vendor=3", True),
        ("", False),
        ("a", False),
        ("a=1,a=2", False),
        ("A=1", False),
        ("a=1\n", False),
        ("a=ü", False),
        (",".join(f"k{number}=1" for number in range(33)), False),
        ("a=" + "x" * MAX_STATE, False),
    ],
)
def test_a_tracestate_goes_with_it_where_it_is_one(state: str, kept: bool) -> None:
    parent = parent_of(GOOD, state)
    assert parent is not None
    assert parent.state == (state if kept else "")


@given(
    st.one_of(
        st.from_regex(
            r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?", fullmatch=True
        ),
        st.from_regex(
            r"(00|01|ff)-[0-9a-fA-F]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}", fullmatch=True
        ),
        st.text(max_size=60),
    )
)
def test_it_is_read_as_the_sdk_reads_it(text: str) -> None:
    theirs = otel.get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": text})
    ).get_span_context()
    ours = parent_of(text)
    if ours is None:
        # Theirs takes blanks around it and a line's end; what comes in a header has neither.
        assert not theirs.is_valid or text != text.strip() or not text.isascii()
    else:
        assert (ours.trace_id, ours.span_id) == (
            f"{theirs.trace_id:032x}",
            f"{theirs.span_id:016x}",
        )
        assert bool(ours.flags & 1) == theirs.trace_flags.sampled


SAMPLERS = {
    "always_on": (Sampler(EVERY, False), sampling.ALWAYS_ON),
    "always_off": (Sampler(0, False), sampling.ALWAYS_OFF),
    "traceidratio": (Sampler(round(0.25 * EVERY), False), sampling.TraceIdRatioBased(0.25)),
    "parentbased": (Sampler(round(0.25 * EVERY), True), sampling.ParentBasedTraceIdRatio(0.25)),
}


@pytest.mark.parametrize("name", SAMPLERS)
@given(trace_id=st.integers(1, (1 << 128) - 1), flag=st.sampled_from([None, 0, 1]))
def test_it_is_sampled_as_the_sdk_samples(name: str, trace_id: int, flag: int | None) -> None:
    ours, theirs = SAMPLERS[name]
    parent, context = None, None
    if flag is not None:
        parent = Parent(f"{trace_id:032x}", SPAN, flag)
        span = otel.SpanContext(trace_id, int(SPAN, 16), True, otel.TraceFlags(flag))
        context = otel.set_span_in_context(otel.NonRecordingSpan(span))
    decided: Any = theirs.should_sample(context, trace_id, "a span").decision
    assert ours.samples(f"{trace_id:032x}", parent) == decided.is_sampled()


def test_a_batch_of_ours_is_no_parent() -> None:
    begun = Parent(TRACE)
    assert Sampler(EVERY, True).samples(TRACE, begun)
    assert Trace(TRACE, SPAN, begun, 0.0, 0).is_new


def test_the_upstream_gets_our_span() -> None:
    parent = parent_of(f"00-{TRACE}-{'1' * 16}-03")
    trace = Trace(TRACE, SPAN, parent, 0.0, 0)
    assert trace.traceparent == f"00-{TRACE}-{SPAN}-03"
    assert not trace.is_new
    assert re.fullmatch(rf"00-{TRACE}-{SPAN}-01", Trace(TRACE, SPAN, None, 0.0, 0).traceparent)
