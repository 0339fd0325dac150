"""curl's HTTP/2 (libcurl, nghttp2) against the fast transport, with a CheckRequest in a file."""

import subprocess
from pathlib import Path

from authz.core.mode import Mode
from authz.core.wire_pb2 import CheckResponse
from tests.builders import MemoryRecorder, check_request
from tests.e2e.sidecar import wait_until
from tests.peers.corpus import gate_of
from tests.peers.servers import CHECK, Served, directory, judging, serving
from tests.peers.tools import require

GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")


def framed(raw: bytes) -> bytes:
    """A message as gRPC puts it into a body."""
    return b"\0" + len(raw).to_bytes(4) + raw


def _curl(
    served: Served, *arguments: str, version: str = "--http2-prior-knowledge"
) -> tuple[int, str, bytes]:
    """Ask for the method; curl's exit code, status line with fields and trailers, body."""
    program = require("curl", "curl")
    with directory() as path:
        head, body = path / "head", path / "body"
        done = subprocess.run(
            [program, "-sS", version, "--max-time", "30",
             "--unix-socket", served.target.removeprefix("unix:"),
             "-D", head, "-o", body, *arguments, f"http://localhost{CHECK}"],
            check=False, capture_output=True,
        )  # fmt: skip
        said = head.read_text() if head.exists() else ""
        return done.returncode, said, body.read_bytes() if body.exists() else b""


def _data(path: Path, content: bytes) -> tuple[str, ...]:
    (path / "content").write_bytes(content)
    return ("--data-binary", f"@{path / 'content'}")


def test_a_check_is_answered_with_the_gates_bytes_and_status_0_in_the_trailers() -> None:
    for method in ("GET", "DELETE"):
        recorder, raw = MemoryRecorder(), check_request(method)
        asked = gate_of(Mode.ENFORCE, "", recorder)
        with (
            directory() as path,
            serving("h2c", asked.check, asked.check_all, path / "s") as served,
        ):
            code, head, body = _curl(served, *GRPC, *_data(path, framed(raw)))
        assert code == 0
        first, trailers = head.strip().split("\n\n" if "\n\n" in head.strip() else "\r\n\r\n")
        assert first.split("\n")[0].strip() == "HTTP/2 200"
        assert "content-type: application/grpc" in first
        assert trailers.strip() == "grpc-status: 0"
        assert body == framed(gate_of(Mode.ENFORCE, "", MemoryRecorder()).check(raw))
        kind = CheckResponse.FromString(body[5:]).WhichOneof("http_response")
        assert kind == ("ok_response" if method == "GET" else "denied_response")
        assert len(recorder.rows) == 1


def test_a_large_message_in_many_frames_arrives_whole() -> None:
    with directory() as path, judging("h2c") as (served, judge):
        raw = bytes(range(256)) * 1000
        code, _, body = _curl(served, *GRPC, *_data(path, framed(raw)))
        assert (code, body) == (0, framed(raw[::-1]))
        assert judge.asked == [raw]


def test_what_is_no_grpc_call_gets_an_http_answer_and_no_decision() -> None:
    with directory() as path, judging("h2c") as (served, judge):
        code, head, body = _curl(served)
        assert (code, body) == (0, b"")
        assert head.startswith("HTTP/2 405")
        assert "allow: POST" in head
        as_json = ("-H", "content-type: application/json")
        code, head, body = _curl(served, *as_json, "--data", "")
        assert (code, body) == (0, b"")
        assert head.startswith("HTTP/2 415")
        # With a body under way we answer first and then say RST_STREAM with NO_ERROR. RFC 9113 §8.1
        # forbids to throw the answer away for that; curl 7.88 may, and then ends with 92.
        code, head, body = _curl(served, *as_json, *_data(path, framed(check_request())))
        assert body == b""
        assert (code, head[:10]) in {(0, "HTTP/2 415"), (92, "HTTP/2 415"), (92, "")}
        assert judge.asked == []
        assert not served.server.violations


def test_a_body_that_is_no_message_is_refused_in_the_trailers() -> None:
    with directory() as path, judging("h2c") as (served, judge):
        for content in (b"", b"\0\0\0\0\5abc", b"\0\0\0\0\0\0", b"\2\0\0\0\0"):
            code, head, body = _curl(served, *GRPC, *_data(path, content))
            assert (code, body) == (0, b"")
            assert "grpc-status: 13" in head
        code, head, body = _curl(served, *GRPC, *_data(path, b"\1\0\0\0\0"))
        assert "grpc-status: 12" in head
        assert judge.asked == []


def test_http_1_is_not_spoken_and_harms_nobody() -> None:
    with directory() as path, judging("h2c") as (served, judge):
        for version in ("--http1.0", "--http1.1", "--http2"):
            code, head, _ = _curl(served, version=version)
            assert code != 0
            assert "HTTP/1" not in head
        # curl may leave at our first bytes, before its own have been looked at.
        wait_until(lambda: served.server.violations == {"PROTOCOL_ERROR": 3}, "the third")
        code, _, body = _curl(served, *GRPC, *_data(path, framed(b"next")))
        assert (code, body) == (0, framed(b"txen"))
        assert judge.asked == [b"next"]
