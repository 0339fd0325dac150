"""h2load (nghttp2): thousands of calls over several connections and streams, every one answered."""

import re
import subprocess
from pathlib import Path

import pytest

from authz.core.mode import Mode
from tests.builders import MemoryRecorder, check_request
from tests.e2e.sidecar import free_port, wait_until
from tests.peers.corpus import gate_of
from tests.peers.servers import CHECK, directory, serving
from tests.peers.test_curl import framed
from tests.peers.tools import require

REQUESTS = 6000


@pytest.mark.parametrize(
    ("connections", "streams", "threads", "window_bits"),
    [
        (1, 1, 1, 30),
        (1, 100, 1, 30),
        (8, 32, 2, 30),
        (60, 8, 2, 30),
        # A window of 255 bytes: no answer fits into it, and each waits for several WINDOW_UPDATEs.
        (4, 20, 1, 8),
    ],
)
@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_every_call_succeeds_and_has_its_row(
    where: str, connections: int, streams: int, threads: int, window_bits: int
) -> None:
    program = require("h2load", "nghttp2-client")
    recorder = MemoryRecorder()
    asked = gate_of(Mode.ENFORCE, "", recorder)
    with directory() as path:
        file = path / "request"
        file.write_bytes(framed(check_request()))
        address: Path | tuple[str, int] = path / "s" if where == "unix" else ("::1", free_port())
        base = f"unix:{address}" if isinstance(address, Path) else f"http://[::1]:{address[1]}"
        with serving("h2c", asked.check, asked.check_all, address, asked.turn_away) as served:
            done = subprocess.run(
                [program, "--base-uri", base, "-n", str(REQUESTS), "-c", str(connections),
                 "-m", str(streams), "-t", str(threads), "-w", str(window_bits), "-d", file,
                 "-H", "content-type: application/grpc", "-H", "te: trailers",
                 "-H", "grpc-timeout: 60S", f"http://localhost{CHECK}"],
                check=True, capture_output=True, text=True, timeout=100,
            )  # fmt: skip
            wait_until(lambda: not served.server.figures()["connections"], "them to be gone")
            assert served.server.violations == {}
            assert served.server.abandoned == served.server.overloaded == 0
    said = re.search(r"^requests: (.*)$", done.stdout, re.MULTILINE)
    assert said is not None, done.stdout
    assert said[1] == (
        f"{REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded,"
        " 0 failed, 0 errored, 0 timeout"
    )
    assert f"status codes: {REQUESTS} 2xx" in done.stdout
    assert len(recorder.rows) == REQUESTS
    assert len({row.id for row in recorder.rows}) == REQUESTS


def test_what_is_beyond_the_queue_is_turned_away_and_counted() -> None:
    """More at once than may wait: all are answered, and each is a row or was turned away."""
    program = require("h2load", "nghttp2-client")
    recorder = MemoryRecorder()
    asked = gate_of(Mode.ENFORCE, "", recorder)
    with directory() as path:
        file = path / "request"
        file.write_bytes(framed(check_request()))
        with serving("h2c", asked.check, asked.check_all, path / "s", asked.turn_away) as served:
            subprocess.run(
                [program, "-B", f"unix:{path / 's'}", "-n", str(REQUESTS), "-c", "8", "-m", "500",
                 "-d", file, "-H", "content-type: application/grpc", "-H", "te: trailers",
                 f"http://localhost{CHECK}"],
                check=True, capture_output=True, text=True, timeout=100,
            )  # fmt: skip
            overloaded = served.server.overloaded
    asked.check(check_request())
    judged = [row for row in recorder.rows if row.source == "proxy"]
    away = [int((row.resource or "").split()[0]) for row in recorder.rows if row.source != "proxy"]
    assert overloaded > 0
    assert sum(away) == overloaded == recorder.unrecorded
    assert len(judged) == REQUESTS - overloaded + 1
