"""A real OTLP/HTTP receiver: it takes what is posted, and reads it with the official schema."""

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.e2e.sidecar import wait_until

PROTOBUF: Final = "application/x-protobuf"


@dataclass(frozen=True)
class Span:
    """One span as it arrived, ids in hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    kind: int
    flags: int
    started_ns: int
    ended_ns: int
    status: int
    attributes: dict[str, str | int]
    resource: dict[str, str]


@dataclass
class Answer:
    """What the receiver says to a post."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": PROTOBUF})


@dataclass
class Receiver:
    """Everything that has arrived."""

    url: str
    spans: list[Span] = field(default_factory=list)
    #: The headers and the path of each post.
    posts: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    #: What is answered to each post; None hangs until the end.
    answer: Callable[[], Answer | None] = Answer
    over: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def until(self, found: Callable[[], Any], what: str) -> Any:
        """Wait for something to have arrived."""
        wait_until(found, what)
        return found()

    def decision(self, decision_id: str) -> tuple[Span, list[Span]]:
        """The span of a decision, and those below it, once they have arrived."""

        def found() -> list[Span]:
            every = list(self.spans)
            return [s for s in every if s.attributes.get("meshguard.decision_id") == decision_id]

        [span] = self.until(found, f"the spans of decision {decision_id}")
        below = [span.span_id]
        rest = []
        for one in list(self.spans):
            if one.trace_id == span.trace_id and one.parent_id in below:
                below.append(one.span_id)
                rest.append(one)
        return span, rest


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            answer = receiver.answer()
            if answer is not None and answer.status == 200:
                receiver.spans += spans_of(body)
            receiver.posts.append((self.path, headers))
            if answer is None:
                receiver.over.wait()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.over.set()
            server.shutdown()
            thread.join()


def spans_of(body: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest."""
    found = []
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
        for scope in of_resource.scope_spans:
            assert scope.scope.name == "authz"
            found += [_span(one, resource) for one in scope.spans]
    return found


def _span(one: trace_pb2.Span, resource: dict[str, str]) -> Span:
    attributes: dict[str, str | int] = {}
    for attribute in one.attributes:
        assert attribute.key not in attributes, f"{attribute.key} twice"
        kind = attribute.value.WhichOneof("value")
        attributes[attribute.key] = (
            attribute.value.int_value if kind == "int_value" else attribute.value.string_value
        )
    return Span(
        name=one.name,
        trace_id=one.trace_id.hex(),
        span_id=one.span_id.hex(),
        parent_id=one.parent_span_id.hex(),
        state=one.trace_state,
        kind=one.kind,
        flags=one.flags,
        started_ns=one.start_time_unix_nano,
        ended_ns=one.end_time_unix_nano,
        status=one.status.code,
        attributes=attributes,
        resource=resource,
    )
