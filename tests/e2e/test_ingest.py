"""The seed's curl, through a real Envoy: another sidecar's trail is taken in, decisions go on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.envoy_config.limits import BUFFER_LIMIT
from authz.stores.audit_slice import write_slice
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer, children, wait_until
from tests.e2e.upstream import Upstream
from tests.stores.trail import execute, row
from tests.stores.trails import write

ADMIN = {"X-Admin-Token": ADMIN_TOKEN}
#: More than Envoy and the service hold of a request, many times.
ROWS = 6000


@pytest.fixture(scope="module")
def control(upstream: Upstream) -> Iterator[Sidecar]:
    """The sidecar that trails are sent to. Rows of the tests are of years ago."""
    with starter.running(upstream, AUDIT_RETENTION_DAYS="0") as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole audit database."""
    path = tmp_path_factory.mktemp("trail") / "audit.db"
    write(path, (row(number) for number in range(1, ROWS + 1)))
    assert path.stat().st_size > 10 * BUFFER_LIMIT
    return path


def curl(control: Sidecar, file: Path, *more: str, field: str = "audit") -> tuple[int, Any]:
    """As the seed prints it; the status, and the answer's JSON."""
    done = subprocess.run(
        [
            "curl", "-sS", "-X", "POST", f"{control.url}/admin/audit/ingest",
            "-H", f"Authorization: Bearer {ADMIN_TOKEN}", "-F", f"{field}=@{file}",
            "-w", "\n%{http_code}", *more,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_the_curl_of_the_documentation_is_this_one(control: Sidecar, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/audit.md").read_text()
    [shown, answer] = re.findall(
        r"^\$ (curl .*audit/ingest(?:.|\n)*?)\n(\{.*\})$", text, re.MULTILINE
    )[0]
    source = tmp_path / "audit.db"
    write(source, (row(number) for number in range(300_001, 301_201)))
    command = shown.replace("http://127.0.0.1:3100", control.url).replace(
        "/data/audit.db", str(source)
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "ADMIN_TOKEN": ADMIN_TOKEN},
    )  # fmt: skip
    assert done.stdout == answer


def workers(control: Sidecar) -> list[int]:
    """Processes that take a trail in."""
    return [
        pid
        for pid, argv in children(control.child("service"))
        if "authz.edges.ingest.worker" in argv
    ]


def test_the_seeds_curl_works_and_decisions_go_on(control: Sidecar, tmp_path: Path) -> None:
    first, last = 400_001, 400_000 + ROWS
    trail = tmp_path / "audit.db"
    write(trail, (row(number) for number in range(first, last + 1)))
    answers: list[int] = []
    stop = threading.Event()

    def decide() -> None:
        while not stop.is_set():
            answers.append(control.get("/proxy/repos/1", headers=bearer()).status_code)

    thread = threading.Thread(target=decide)
    thread.start()
    try:
        assert curl(control, trail) == (200, {"ingested": ROWS, "duplicates": 0})
        assert curl(control, trail) == (200, {"ingested": 0, "duplicates": ROWS})
    finally:
        stop.set()
        thread.join()
    assert set(answers) == {200}
    page = control.get("/admin/audit?trail=ingested&limit=1", headers=ADMIN).json()
    assert page["entries"][0]["id"] == f"d-{last}"
    assert workers(control) == []
    assert "audit:ingest" in {entry["action"] for entry in control.rows(control=True)}


def test_other_prefix_and_slices(control: Sidecar, tmp_path: Path) -> None:
    source = tmp_path / "audit.db"
    write(source, (row(number) for number in range(100_001, 100_021)))
    after = 0
    for expected in (8, 8, 4):
        made = write_slice(source, after, 8, tmp_path / f"{after}.db")
        assert made is not None
        answer = control.client.post(
            "/api/v1/admin/audit/ingest",
            headers=ADMIN,
            files={"audit": (tmp_path / f"{after}.db").read_bytes()},
        )
        assert answer.json() == {"ingested": expected, "duplicates": 0}
        after = int(answer.headers["x-meshguard-ingest-last"])
    assert after == 20


def test_what_is_refused_says_why(control: Sidecar, trail: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html>")
    status, body = curl(control, page)
    assert (status, body["message"]) == (422, "the file is not an SQLite database")
    status, body = curl(control, trail, field="file")
    assert (status, body["error"]) == (400, "bad_request")
    edited = tmp_path / "edited.db"
    edited.write_bytes(trail.read_bytes())
    execute(edited, "UPDATE audit SET decision = 'deny' WHERE seq = 3000")
    status, body = curl(control, edited)
    assert (status, body["message"]) == (
        422, "row 3000 was changed: its hash does not fit what it says",
    )  # fmt: skip
    kinds = {entry["action"] for entry in control.rows(control=True)}
    assert "incident:ingest_refused" in kinds


def test_a_worker_that_is_killed_leaves_nothing(control: Sidecar, tmp_path: Path) -> None:
    source = tmp_path / "audit.db"
    write(source, (row(number) for number in range(200_001, 206_001)))
    found: list[tuple[int, Any]] = []
    thread = threading.Thread(target=lambda: found.append(curl(control, source)))
    thread.start()
    wait_until(lambda: workers(control), "a process to take it in")
    [pid] = workers(control)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    [(status, body)] = found
    assert (status, body["message"]) == (
        503, "the process that took it in has ended before it was done",
    )  # fmt: skip
    assert curl(control, source)[1] == {"ingested": 6000, "duplicates": 0}


def test_a_slow_upload_is_not_cut_off(control: Sidecar, trail: Path) -> None:
    # Longer than whoever answers the other endpoints gets: SERVICE_TIMEOUT is 5 s.
    began = time.monotonic()
    size = trail.stat().st_size
    status, body = curl(control, trail, "--limit-rate", str(size // 6))
    assert (status, body["ingested"] + body["duplicates"]) == (200, ROWS)
    assert time.monotonic() - began > 5


def test_the_command_line_reads_both(control: Sidecar, tmp_path: Path) -> None:
    write(tmp_path / "audit.db", (row(number) for number in range(500_001, 500_003)))
    assert curl(control, tmp_path / "audit.db")[0] == 200
    for where in (
        ["--gateway", control.url],
        [],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "authz", *where, "audit", "query", "--trail", "ingested",
             "--limit", "1", "--json"],
            capture_output=True, text=True, check=True,
            env={**control.env, "MESHGUARD_ADMIN_TOKEN": ADMIN_TOKEN},
        )  # fmt: skip
        assert json.loads(done.stdout)["origin"]
    path = f"{control.env['AUDIT_DB_PATH']}.ingested"
    subprocess.run(
        [sys.executable, "-m", "authz", "audit", "verify", "--database", path], check=True
    )
