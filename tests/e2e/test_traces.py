"""Traces through a real Envoy: context in, context out, spans at a real receiver, and the end."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar, bearer, wait_until
from tests.e2e.upstream import Upstream, echoed
from tests.otlp import Answer, Receiver, receiving

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SECRET = "Bearer of-the-collector-1234"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture(scope="module")
def tracing(upstream: Upstream, receiver: Receiver) -> Iterator[Sidecar]:
    env = {
        "OTEL_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        # What begins here is not told, so that each test sees its own alone.
        "OTEL_TRACES_SAMPLER_ARG": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_SERVICE_NAME": "tests",
    }
    with starter.running(upstream, arguments=("run",), **env) as sidecar:
        yield sidecar


def _parent(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {**bearer(), "traceparent": f"00-{trace_id}-{SPAN}-{flags}", "tracestate": "vendor=1"}


def _row(sidecar: Sidecar, trace_id: str) -> dict[str, Any]:
    [row] = [row for row in sidecar.rows() if row["trace_id"] == trace_id]
    return row


def test_the_upstreams_span_is_the_child_of_ours(tracing: Sidecar, receiver: Receiver) -> None:
    answer = tracing.get("/proxy/docs?key=of-a-query", headers=_parent(TRACE))
    assert answer.headers["x-meshguard-trace-id"] == TRACE
    row = _row(tracing, TRACE)
    root, below = receiver.decision(row["id"])
    assert (root.trace_id, root.parent_id, root.state) == (TRACE, SPAN, "vendor=1")
    sent = echoed(answer.text)["headers"]
    assert sent["traceparent"] == f"00-{TRACE}-{root.span_id}-01"
    assert sent["tracestate"] == "vendor=1"
    assert root.resource["service.name"] == "tests"
    assert "of-a-query" not in str(root)
    [write] = [one for one in below if one.name == "meshguard.audit.write"]
    assert (write.parent_id, write.attributes["meshguard.trace_id"]) == (root.span_id, TRACE)
    # Real times: the row's own second, and the commit within the decision.
    assert root.started_ns < write.started_ns < write.ended_ns <= root.ended_ns
    assert row["latency_us"] * 1000 <= root.ended_ns - root.started_ns < 30e9


def test_what_is_not_sampled_reaches_the_upstream_as_it_came(
    tracing: Sidecar, receiver: Receiver
) -> None:
    other = "1" * 32
    seen = len(receiver.spans)
    answer = tracing.get("/proxy/docs", headers=_parent(other, "00"))
    sent = echoed(answer.text)["headers"]
    assert (sent["traceparent"], sent["tracestate"]) == (f"00-{other}-{SPAN}-00", "vendor=1")
    assert "traceparent" not in echoed(tracing.get("/proxy/docs", headers=bearer()).text)["headers"]
    # Both are on record, the first by its caller's trace.
    assert _row(tracing, other)["decision"] == "allow"
    _flushed(tracing, receiver)
    assert {one.trace_id for one in receiver.spans[seen:]}.isdisjoint({other})


def _flushed(tracing: Sidecar, receiver: Receiver) -> None:
    """Wait for what is asked now; what was asked before has arrived by then, if it ever does."""
    mark = "e" * 31 + "1"
    tracing.get("/proxy/docs", headers=_parent(mark))
    receiver.until(lambda: [one for one in receiver.spans if one.trace_id == mark], "the mark")


def test_a_denial_is_told_and_forwarded_nowhere(tracing: Sidecar, receiver: Receiver) -> None:
    trace_id, hits = "2" * 32, tracing.upstream.hits
    headers = {**_parent(trace_id), "X-MeshGuard-Action": "write:delete"}
    answer = tracing.client.delete("/proxy/docs", headers=headers)
    assert (answer.status_code, answer.json()["traceId"]) == (403, trace_id)
    root, _ = receiver.decision(answer.json()["decisionId"])
    assert root.attributes["meshguard.reason"] == answer.json()["reason"]
    assert tracing.upstream.hits == hits


def test_a_batch_is_one_trace(tracing: Sidecar, receiver: Receiver) -> None:
    trace_id = "3" * 32
    body = {"actions": [{"action": "read:a"}, {"action": "write:delete"}]}
    answer = tracing.client.post(
        "/api/v1/governance/batch", json=body, headers=_parent(trace_id)
    ).json()
    assert answer["traceId"] == trace_id
    roots = [receiver.decision(one["decisionId"])[0] for one in answer["results"]]
    assert {(one.trace_id, one.parent_id) for one in roots} == {(trace_id, SPAN)}
    assert [one.attributes["meshguard.decision"] for one in roots] == ["allow", "deny"]


def test_decisions_that_are_asked_for_by_name_are_told(
    tracing: Sidecar, receiver: Receiver
) -> None:
    check = tracing.get(
        "/proxy/check", headers={**_parent("4" * 32), "X-MeshGuard-Action": "read:a"}
    )
    tracing.client.post("/api/v1/evaluate", json={"action": "read:a"}, headers=_parent("5" * 32))
    root, _ = receiver.decision(check.json()["decisionId"])
    assert root.trace_id == "4" * 32
    receiver.until(lambda: [one for one in receiver.spans if one.trace_id == "5" * 32], "both")


def test_the_collectors_credential_is_in_no_log(tracing: Sidecar, receiver: Receiver) -> None:
    _flushed(tracing, receiver)
    assert {headers["authorization"] for _, headers in receiver.posts} == {SECRET}
    receiver.answer = lambda: Answer(401)
    tracing.get("/proxy/docs", headers=_parent("6" * 32))
    wait_until(lambda: "it answered 401" in tracing.log(), "the sentence")
    receiver.answer = Answer
    tracing.get("/proxy/docs", headers=_parent("7" * 32))
    wait_until(lambda: "takes traces again" in tracing.log(), "the end of it")
    assert SECRET.removeprefix("Bearer ") not in tracing.log()
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT: traces go to {receiver.url}/v1/traces" in tracing.log()


def test_at_the_end_what_waits_is_sent(upstream: Upstream, receiver: Receiver) -> None:
    """Everything that begins here is told, and nothing of it before SIGTERM."""
    env = {
        "OTEL_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    with starter.running(upstream, arguments=("run",), **env) as sidecar:
        answer = sidecar.get("/proxy/docs", headers=bearer())
        parent = re.fullmatch(
            "00-([0-9a-f]{32})-([0-9a-f]{16})-01", echoed(answer.text)["headers"]["traceparent"]
        )
        assert parent is not None
        row = sidecar.row()
        # One name for all three: the row, its trace and what the answer calls it.
        assert parent[1] == row["trace_id"] == row["id"] == answer.headers["x-meshguard-trace-id"]
        assert sidecar.stop() == 0
        root, below = receiver.decision(row["id"])
        assert root.span_id == parent[2]
        assert len(below) == 11


def test_a_collector_that_is_not_there_costs_nothing(upstream: Upstream) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        env = {
            "OTEL_ENABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{nobody.getsockname()[1]}",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        with starter.running(upstream, arguments=("run",), **env) as sidecar:
            for _ in range(100):
                assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200
            wait_until(lambda: "traces do not arrive" in sidecar.log(), "the sentence")
            assert len(sidecar.rows()) == 100
            assert sidecar.stop() == 0
            # One while it runs, and one at the end.
            assert sidecar.log().count("OTEL_EXPORTER_OTLP_ENDPOINT: traces do not arrive") == 1
            assert sidecar.log().count("did not take the last traces") == 1
