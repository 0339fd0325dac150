"""The audit trail through a real Envoy: read in every way while decisions go on."""

import asyncio
import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from tests.e2e import sidecar as starter
from tests.e2e.load import ask_together
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer, children, wait_until
from tests.e2e.upstream import Upstream
from tests.stores.trail import row
from tests.stores.trails import varied, write

ADMIN = {"X-Admin-Token": ADMIN_TOKEN}
ROWS = 3000
ALLOWED = "/proxy/repos/1"


@pytest.fixture(scope="module")
def recorded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar with a trail of some thousand rows."""
    path = tmp_path_factory.mktemp("recorded") / "audit.db"
    write(path, varied(ROWS))
    # Its rows are of years ago.
    with starter.running(upstream, AUDIT_DB_PATH=str(path), AUDIT_RETENTION_DAYS="0") as sidecar:
        yield sidecar


def count(sidecar: Sidecar) -> int:
    """Rows that there are."""
    answer = sidecar.get("/admin/audit?limit=1", headers=ADMIN)
    return int(answer.json()["entries"][0]["seq"])


def readers(sidecar: Sidecar) -> list[int]:
    """The processes that read for the service."""
    return [
        pid
        for pid, argv in children(sidecar.child("service"))
        if "authz.edges.readers.worker" in argv
    ]


def test_pages_have_the_whole_trail(recorded: Sidecar) -> None:
    numbers: list[int] = []
    query = "order=asc&limit=1000"
    after = ""
    while True:
        answer = recorded.get(f"/api/v1/admin/audit?{query}{after}", headers=ADMIN)
        assert answer.status_code == 200
        numbers += [entry["seq"] for entry in answer.json()["entries"]]
        if "next" not in answer.json():
            break
        after = f"&after={answer.json()['next']}"
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= ROWS


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet"])
def test_exports_have_the_whole_trail(recorded: Sidecar, name: str) -> None:
    answer = recorded.get(f"/admin/audit/export?format={name}", headers=ADMIN)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].endswith(f'.{name}"')
    data = answer.content
    if name == "parquet":
        found = pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata.num_rows
    else:
        found = data.count(b"\n") - (name == "csv")
    assert found == count(recorded)


def test_a_tail_tells_of_a_decision_at_once(recorded: Sidecar) -> None:
    with recorded.client.stream("GET", "/admin/audit/tail?n=0", headers=ADMIN) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        decided = httpx.get(f"{recorded.url}{ALLOWED}", headers=bearer())
        data = next(line for line in lines if line.startswith("data: "))
    entry: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert entry["traceId"] == decided.headers["x-meshguard-trace-id"]


def test_nobody_reads_without_the_admin_token(recorded: Sidecar) -> None:
    for place in ("", "/export", "/tail", "/stats", "/trace/t-1"):
        assert recorded.get(f"/admin/audit{place}", headers=bearer()).status_code == 401


@pytest.mark.parametrize(
    "path", ["/admin/audit/../audit", "/admin//audit", "/admin/./audit", "/proxy/../admin/audit"]
)
def test_no_other_way_to_write_it_is_another_way_in(recorded: Sidecar, path: str) -> None:
    async def ask() -> int:
        # By hand: a client would resolve it itself.
        reader, writer = await asyncio.open_connection("127.0.0.1", recorded.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        head = await reader.read()
        writer.close()
        return int(head.split(b" ")[1])

    assert asyncio.run(ask()) == 401


def test_decisions_go_on_beside_exports_that_nobody_reads(recorded: Sidecar) -> None:
    async def hold() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", recorded.port, limit=4096)
        lines = ("GET /admin/audit/export HTTP/1.1", "host: a", f"x-admin-token: {ADMIN_TOKEN}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        assert b" 200 " in await reader.readuntil(b"\r\n")
        return reader, writer

    async def scenario() -> None:
        held = [await hold() for _ in range(2)]
        replies = await ask_together(recorded.port, ALLOWED, bearer(), 100)
        assert [reply and reply.status for reply in replies] == [200] * 100
        before = readers(recorded)
        for _, writer in held:
            writer.transport.abort()
        await asyncio.to_thread(
            wait_until,
            lambda: len(set(before) & set(readers(recorded))) <= len(before) - 2,
            "the exports' readers to end",
        )

    # So much that it fits into no buffers on the way.
    write(
        Path(recorded.env["AUDIT_DB_PATH"]),
        (row(n)._replace(resource="x" * 8000) for n in range(1500)),
    )
    asyncio.run(scenario())
    answer = recorded.get("/admin/audit/export", headers=ADMIN)
    assert answer.content.count(b"\n") == count(recorded)


def test_who_follows_keeps_nobody_from_stopping(upstream: Upstream) -> None:
    with (
        starter.running(upstream) as sidecar,
        sidecar.client.stream("GET", "/admin/audit/tail", headers=ADMIN) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        began = time.monotonic()
        assert sidecar.stop() == 0
        assert time.monotonic() - began < 5
        with contextlib.suppress(httpx.RemoteProtocolError):
            list(lines)


def test_readers_end_with_a_service_that_is_killed(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        with sidecar.client.stream("GET", "/admin/audit/tail", headers=ADMIN) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "retry: 2000"
            [reader] = readers(sidecar)
            os.kill(sidecar.child("service"), signal.SIGKILL)
            wait_until(lambda: not _runs(reader), "the reader to end")
        wait_until(lambda: starter.answers(sidecar), "the service to be there again")
        assert sidecar.get("/admin/audit", headers=ADMIN).status_code == 200


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
