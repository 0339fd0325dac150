"""What is told of traced decisions: by the gate, through the exporter, to a real OTLP receiver."""

import contextlib
import functools
import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from authz.core import otlp
from authz.core.errors import AuditUnavailable
from authz.core.mode import Mode
from authz.core.stages import CHAIN
from authz.core.tracing import EVERY, Export, Sampler
from authz.core.wire_pb2 import CheckResponse
from authz.edges.tracing.collector import Collector, Failure
from authz.edges.tracing.exporter import DECISION, Exporter
from tests import builders
from tests.e2e.sidecar import wait_until
from tests.otlp import PROTOBUF, Answer, Receiver, Span, receiving
from tests.traced import POLICIES, World, delegated

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SECRET = "Bearer of-the-collector-1234"


def sent_on(response: CheckResponse) -> dict[str, str]:
    return {one.header.key: one.header.value for one in response.ok_response.headers}


def test_a_decision_is_a_span_with_one_for_each_stage_and_one_for_its_row() -> None:
    world = World()
    response = world.ask()
    spans = world.sink.spans()
    root = spans[0]
    [row] = world.recorder.rows
    assert root.attributes == {
        "meshguard.agent_id": "agent-1",
        "meshguard.action": "read:docs",
        "meshguard.decision": "allow",
        "meshguard.enforced": "allow",
        "meshguard.code": "rule_allowed",
        "meshguard.policy_name": "readers",
        "meshguard.rule": "rules[0]",
        "meshguard.stage": "policy",
        "meshguard.mode": "enforce",
        "meshguard.source": "proxy",
        "meshguard.policy_version": POLICIES.version,
        "meshguard.decision_id": row.id,
        "meshguard.trace_id": row.trace_id,
        "meshguard.trust_tier": "verified",
        "http.request.method": "GET",
        "url.path": "/proxy/docs",
    }
    assert (root.name, root.parent_id, root.status) == ("meshguard.policy.evaluate", "", 0)
    # Without a trace to go on with, all of these are one name.
    assert root.trace_id == row.trace_id == row.id
    names = [f"meshguard.stage.{stage.name}" for stage in CHAIN]
    assert [one.name for one in spans[1:]] == [*names, "meshguard.audit.write"]
    assert {one.parent_id for one in spans[1:]} == {root.span_id}
    assert {one.trace_id for one in spans} == {root.trace_id}
    assert len({one.span_id for one in spans}) == len(spans)
    write = spans[-1]
    assert write.attributes == {
        "meshguard.agent_id": "agent-1",
        "meshguard.action": "read:docs",
        "meshguard.decision": "allow",
        "meshguard.trace_id": row.trace_id,
    }
    # They lie within the decision, one after the other, and the row comes last.
    at = root.started_ns
    assert abs(at - builders.NOW * 1e9) < 1e6
    for one in spans[1:]:
        assert at <= one.started_ns < one.ended_ns <= root.ended_ns
        at = one.ended_ns
    assert sent_on(response)["traceparent"] == f"00-{root.trace_id}-{root.span_id}-01"
    assert list(response.ok_response.headers_to_remove) == ["authorization", "tracestate"]
    assert world.sink.told[0].spans == len(spans)


def test_the_callers_trace_goes_on() -> None:
    world = World()
    response = world.ask(traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=1")
    root, *below = world.sink.spans()
    assert (root.trace_id, root.parent_id, root.state) == (TRACE, SPAN, "vendor=1")
    assert root.flags == 0x301
    assert {one.flags for one in below} == {0x101}
    assert sent_on(response)["traceparent"] == f"00-{TRACE}-{root.span_id}-01"
    assert "tracestate" not in response.ok_response.headers_to_remove
    assert world.recorder.rows[0].trace_id == TRACE


def test_the_callers_own_name_for_it_stays_in_the_row() -> None:
    world = World()
    world.ask(traceparent=f"00-{TRACE}-{SPAN}-01", x_meshguard_trace_id="mine")
    assert world.recorder.rows[0].trace_id == "mine"
    assert world.sink.spans()[0].attributes["meshguard.trace_id"] == "mine"


def test_what_is_not_sampled_is_left_as_it_is() -> None:
    world = World(below=0)
    assert sent_on(world.ask()) == {}
    response = world.ask(traceparent=f"00-{TRACE}-{SPAN}-00", tracestate="vendor=1")
    assert sent_on(response) == {}
    assert list(response.ok_response.headers_to_remove) == ["authorization"]
    assert world.sink.told == []
    # The row can be found by the caller's trace all the same.
    assert [row.trace_id for row in world.recorder.rows] == [f"{1:032x}", TRACE]


def test_a_traceparent_that_cannot_be_read_begins_a_new_trace() -> None:
    world = World()
    response = world.ask(traceparent=f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01", tracestate="a=1")
    [root, *_] = world.sink.spans()
    assert (root.trace_id, root.parent_id, root.state) == (f"{1:032x}", "", "")
    assert "tracestate" in response.ok_response.headers_to_remove


def test_a_denial_has_its_reason_and_is_no_error() -> None:
    world = World()
    world.ask(method="POST")
    root, *below = world.sink.spans()
    assert root.attributes["meshguard.decision"] == "deny"
    assert root.attributes["meshguard.reason"] == "policy readers denies write:*"
    assert {one.status for one in (root, *below)} == {0}
    # The stage that ended the chain says so, and those after it never ran.
    assert below[-2].name == "meshguard.stage.policy"
    assert below[-2].attributes == {"meshguard.decision": "deny", "meshguard.code": "rule_denied"}


def test_what_could_not_be_decided_is_an_error() -> None:
    world = World(recorder=builders.MemoryRecorder(AuditUnavailable("the disk is full")))
    world.ask()
    root, *below = world.sink.spans()
    assert (root.status, root.attributes["meshguard.code"]) == (2, "audit_unavailable")
    # There is no row, so there is no span of one.
    assert "meshguard.audit.write" not in {one.name for one in below}


def test_bypass_tells_nothing() -> None:
    world = World(mode=Mode.BYPASS)
    assert sent_on(world.ask(traceparent=f"00-{TRACE}-{SPAN}-01")) == {}
    assert world.sink.told == []


def test_a_batch_shares_one_commit() -> None:
    world = World()
    raws = [builders.check_request(path=f"/proxy/{name}") for name in "abc"]
    world.gate.check_all(raws)
    spans = world.sink.spans()
    roots = [one for one in spans if one.name == "meshguard.policy.evaluate"]
    writes = [one for one in spans if one.name == "meshguard.audit.write"]
    assert len({one.trace_id for one in roots}) == 3
    assert len({(one.commit_started_ns, one.commit_ns) for one in world.sink.told}) == 1
    assert [one.parent_id for one in writes] == [one.span_id for one in roots]
    # Each has its own stages, also where the others' ran in between.
    assert len(spans) == 3 * (len(CHAIN) + 2)


def test_a_delegation_that_is_walked_is_a_span() -> None:
    world = World()
    name = delegated(world)
    world.ask(x_meshguard_delegation=name)
    world.ask(x_meshguard_delegation=f"rel_{8:032x}")
    world.ask(x_meshguard_delegation="nonsense")
    holds, unknown, unreadable = [
        one for one in world.sink.spans() if one.name == "meshguard.delegation.check"
    ]
    assert holds.attributes == {
        "meshguard.delegation.depth": 1,
        "meshguard.delegation.parent_id": "boss",
        "meshguard.delegation.agent_id": "agent-1",
        "meshguard.delegation.id": name,
        "meshguard.agent_id": "agent-1",
    }
    assert "meshguard.delegation.depth" not in unknown.attributes
    assert unknown.attributes["meshguard.delegation.id"] == f"rel_{8:032x}"
    assert "meshguard.delegation.id" not in unreadable.attributes
    [stage, *_] = [one for one in world.sink.spans() if one.span_id == holds.parent_id]
    assert stage.name == "meshguard.stage.delegation-fuse"


def test_texts_are_bounded_and_nothing_secret_is_among_them() -> None:
    world = World()
    world.ask(
        f"/proxy/{'x' * 5000}?key=of-a-query",
        x_meshguard_upstream_authorization="Bearer of-the-upstream",
        x_meshguard_action_token="of-an-action",
    )
    raw = b"".join(otlp.spans_of(world.sink.told[0], itertools.count(1).__next__))
    for secret in (b"of-a-query", b"of-the-upstream", b"of-an-action", b"eyJ"):
        assert secret not in raw
    assert max(len(str(v)) for v in world.sink.spans()[0].attributes.values()) == otlp.MAX_TEXT


def test_where_there_is_no_room_nothing_is_begun() -> None:
    world = World()
    world.sink.has_room = False
    assert sent_on(world.ask(traceparent=f"00-{TRACE}-{SPAN}-01")) == {}
    assert (world.sink.told, world.sink.not_told) == ([], 1)


def test_a_tracer_that_breaks_changes_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def begin(self, *_: object) -> None:
            raise RuntimeError("begun badly")

        def decided(self, *_: object) -> None:
            raise RuntimeError("told badly")

    world = World(tracer=Broken())
    assert world.ask().status.code == 0
    assert len(world.recorder.rows) == 1
    assert {record.getMessage() for record in caplog.records} == {
        "a trace could not begin", "a trace could not be told",
    }  # fmt: skip


def test_the_bytes_are_those_of_the_sdks_encoder() -> None:
    world = World()
    world.ask(traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=1")
    world.ask(method="DELETE", path="/proxy/%C3%BC")
    spans = world.sink.spans()
    ids = itertools.count(1)
    fields = [field for one in world.sink.told for field in otlp.spans_of(one, ids.__next__)]
    ours = ExportTraceServiceRequest.FromString(
        otlp.request((("service.name", "tests"),), "1", fields)
    )
    theirs = encode_spans([_as_theirs(one) for one in spans])
    for request in (ours, theirs):
        for of_resource in request.resource_spans:
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    # The SDK leaves the trace's own flags out of them.
                    span.flags &= 0x300
                    if not span.status.code:
                        span.ClearField("status")
    assert ours == theirs


def _as_theirs(span: Span) -> ReadableSpan:
    state = TraceState.from_header([span.state])

    def context(span_id: str, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(
            int(span.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(1), state
        )

    is_root = span.name == "meshguard.policy.evaluate"
    return ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id, is_remote=is_root) if span.parent_id else None,
        Resource({"service.name": "tests"}),
        span.attributes,
        kind=SpanKind.SERVER if is_root else SpanKind.INTERNAL,
        status=Status(StatusCode(0)),
        start_time=span.started_ns,
        end_time=span.ended_ns,
        instrumentation_scope=InstrumentationScope("authz", "1"),
    )


# ---------------------------------------------------------------- the exporter


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def _export(url: str, **changes: Any) -> Export:
    host, port = url.removeprefix("http://").split(":")
    given: dict[str, Any] = {
        "sampler": Sampler(EVERY, True),
        "resource": (("service.name", "tests"),),
        "variable": "OTEL_EXPORTER_OTLP_ENDPOINT",
        "is_tls": False,
        "host": host,
        "port": int(port),
        "path": "/v1/traces?key=of-a-query",
        "headers": (("authorization", SECRET),),
        "timeout_s": 5.0,
        "delay_s": 0.01,
    }
    return Export(**(given | changes))


class Line:
    """An exporter, and decisions to give it."""

    def __init__(self, export: Export) -> None:
        self.exporter = Exporter(export, Collector(export, "authz/test"), "1", 1)
        self.world = World()
        self.exporter.start()

    def tell(self, count: int = 1) -> int:
        """Offer so many decisions; how many there was room for."""
        self.world.sink.told.clear()
        for _ in range(count):
            self.world.ask()
        taken = 0
        for one in self.world.sink.told:
            if self.exporter.has_room:
                self.exporter.offer(one)
                taken += 1
            else:
                self.exporter.lost()
        return taken


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    made: list[Line] = []
    yield made
    for line in made:
        line.exporter.stop(0.05)


def test_spans_arrive_with_their_resource_and_headers(
    receiver: Receiver, lines: list[Line]
) -> None:
    lines.append(line := Line(_export(receiver.url)))
    line.tell(3)
    receiver.until(lambda: len(receiver.spans) == 36, "three decisions")
    assert {one.resource["service.name"] for one in receiver.spans} == {"tests"}
    path, headers = receiver.posts[0]
    assert path == "/v1/traces?key=of-a-query"
    assert headers["authorization"] == SECRET
    assert (headers["content-type"], headers["user-agent"]) == (PROTOBUF, "authz/test")
    wait_until(lambda: line.exporter.figures()["sent"] == 36, "the count")


def test_they_are_compressed_where_that_is_asked_for(receiver: Receiver, lines: list[Line]) -> None:
    lines.append(line := Line(_export(receiver.url, is_compressed=True)))
    line.tell(20)
    receiver.until(lambda: len(receiver.spans) == 240, "them")
    assert receiver.posts[0][1]["content-encoding"] == "gzip"


def test_a_full_batch_does_not_wait_and_a_connection_is_kept(
    receiver: Receiver, lines: list[Line]
) -> None:
    lines.append(line := Line(_export(receiver.url, delay_s=600, max_batch=64, max_queue=65536)))
    line.tell(50)
    receiver.until(lambda: len(receiver.spans) >= 600 - 64, "all but the last batch")
    # Whole decisions, and no more spans than go together.
    assert 9 <= len(receiver.posts) <= 12
    line.exporter.stop(5.0)
    assert len(receiver.spans) == 600


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(400), "it answered 400"),
        (Answer(301, headers={"Location": "http://169.254.169.254/"}), "it answered 301"),
        (Answer(200, b"<html>", {"Content-Type": "text/html"}), "its answer is not a collector's"),
        (Answer(200, b"\xff\xff"), "its answer is not a collector's"),
    ],
)
def test_what_is_not_taken_is_said_once_and_counted(
    answer: Answer,
    why: str,
    receiver: Receiver,
    lines: list[Line],
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.answer = lambda: answer
    lines.append(line := Line(_export(receiver.url)))
    for count in range(1, 6):
        line.tell()
        wait_until(functools.partial(_has_given_up, line, count), "it to be given up")
    assert len(receiver.posts) == 5
    [record] = caplog.records
    assert record.getMessage() == (
        f"OTEL_EXPORTER_OTLP_ENDPOINT: traces do not arrive at {receiver.url}/v1/traces: {why};"
        " decisions go on, 1 of them are not told so far"
    )
    receiver.answer = Answer
    line.tell()
    wait_until(lambda: "takes traces again" in caplog.text, "the end of it")
    _shows_no_secret(caplog)


def _has_given_up(line: Line, count: int) -> bool:
    return line.exporter.refused == count


def _shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    assert SECRET not in caplog.text
    assert "of-a-query" not in caplog.text


def test_what_may_be_taken_later_is_sent_again(receiver: Receiver, lines: list[Line]) -> None:
    answers = iter([Answer(503, headers={"Retry-After": "0"}), Answer(429), Answer()])
    receiver.answer = lambda: next(answers)
    lines.append(line := Line(_export(receiver.url)))
    line.tell()
    receiver.until(lambda: receiver.spans, "them, at the third try")
    assert len(receiver.posts) == 3
    wait_until(lambda: line.exporter.sent == 12, "the count")
    assert line.exporter.refused == 0


@pytest.mark.parametrize("when", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_one_that_wants_it_again_at_once_is_not_asked_without_a_rest(
    receiver: Receiver, lines: list[Line], when: str
) -> None:
    """The thread that sends and the one that decides share an interpreter."""
    receiver.answer = lambda: Answer(503, headers={"Retry-After": when})
    lines.append(line := Line(_export(receiver.url, timeout_s=1.0)))
    line.tell()
    wait_until(lambda: line.exporter.refused == 1, "it to be given up")
    assert len(receiver.posts) <= 4


def test_spans_that_a_collector_rejects_are_said(
    receiver: Receiver, lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=5, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    receiver.answer = lambda: Answer(body=body)
    lines.append(line := Line(_export(receiver.url)))
    line.tell()
    wait_until(lambda: line.exporter.sent == 7, "the count")
    wait_until(lambda: "it has not taken 5 of 12 spans" in caplog.text, "the sentence")


def test_a_connection_that_was_kept_and_is_gone_is_no_failure(
    receiver: Receiver, lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    # A collector that restarts closes what was open; here after every answer, without saying so.
    lines.append(line := Line(_export(receiver.url)))
    line.tell()
    receiver.until(lambda: len(receiver.spans) == 12, "the first")
    connection = line.exporter._collector._connection  # type: ignore[attr-defined]
    wait_until(lambda: line.exporter.sent == 12, "the answer")
    connection.sock.shutdown(socket.SHUT_RDWR)
    line.tell()
    receiver.until(lambda: len(receiver.spans) == 24, "the second")
    assert caplog.text == ""


def test_nobody_there_costs_spans_and_nothing_else(
    lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        lines.append(line := Line(_export(url, max_queue=120)))
        started = time.thread_time()
        taken = line.tell(200)
        assert time.thread_time() - started < 5
        # What waits is bounded, and what is beyond that is not even begun.
        assert taken <= 30
        assert line.exporter.crowded_out == 200 - taken
        wait_until(lambda: caplog.records, "a sentence")
        assert len(caplog.records) == 1
        started = time.monotonic()
        line.exporter.stop(0.2)
        assert time.monotonic() - started < 5
    assert "did not take the last traces in 0.2 s" in caplog.text
    _shows_no_secret(caplog)


def test_one_that_hangs_does_not_keep_us_from_stopping(
    receiver: Receiver, lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda: None
    lines.append(line := Line(_export(receiver.url, timeout_s=600.0)))
    line.tell()
    wait_until(lambda: receiver.posts, "the post")
    line.exporter.stop(0.1)
    assert "did not take the last traces in 0.1 s" in caplog.text


def test_one_that_is_slow_is_given_up(
    receiver: Receiver, lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda: None
    lines.append(line := Line(_export(receiver.url, timeout_s=0.2)))
    line.tell()
    wait_until(lambda: line.exporter.refused == 1, "it to be given up")
    assert re.search(r"no answer in 0\.[12]\d* s", caplog.text)


@pytest.mark.parametrize("piece", [b"x", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_one_that_drips_is_given_up(piece: bytes) -> None:
    """A byte now and then, or answers that are none yet, hold an export no longer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):
                for _ in range(30):
                    time.sleep(0.1)
                    peer.sendall(piece)

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        collector = Collector(_export(f"http://127.0.0.1:{listening.getsockname()[1]}"), "test")
        began = time.monotonic()
        with pytest.raises(Failure, match=r"no answer in 0\.5 s"):
            collector.send(b"x", 0.5)
        assert time.monotonic() - began < 1.5
        dripping.join(5)


def test_at_the_end_what_waits_is_sent(receiver: Receiver, lines: list[Line]) -> None:
    lines.append(line := Line(_export(receiver.url, delay_s=600.0)))
    line.tell(2)
    line.exporter.stop(10.0)
    assert len(receiver.spans) == 24
    assert not line.exporter._thread.is_alive()


def test_room_is_kept_for_a_whole_decision() -> None:
    world = World()
    delegated(world)
    world.ask(x_meshguard_delegation=f"rel_{7:032x}")
    assert world.sink.told[0].spans <= DECISION


def test_levels_of_the_log_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    # A collector that is away is no error of ours: the trail has every decision.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        export = _export(f"http://127.0.0.1:{nobody.getsockname()[1]}", timeout_s=0.1)
        line = Line(export)
        line.tell()
        wait_until(lambda: line.exporter.refused == 1, "it to be given up")
        line.exporter.stop(1.0)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
