"""The audit trail over HTTP: what may be asked, what is answered, and what nobody can break."""

import asyncio
import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from authz.core.mode import Mode
from authz.core.timestamps import rfc3339
from authz.edges.http import audit, reading
from authz.edges.http.admin import PREFIXES
from authz.edges.http.app import build_app
from authz.edges.http.credentials import AdminToken
from authz.edges.readers import jobs
from authz.edges.readers.pool import Readers
from authz.stores.audit_query import FILTERS
from authz.stores.audit_table import KEYS
from authz.wiring.http import http as _http
from tests.builders import NOW
from tests.e2e.sidecar import PATIENCE_S
from tests.edges.world import ADMIN, World
from tests.stores.trail import row
from tests.stores.trails import varied, write

PLACES = ("", "/stats", "/export", "/tail", "/trace/t", "/id-1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def told(world: World) -> World:
    """A world in which something was decided."""
    for number in range(5):
        world.check(f"agent-{number % 2}", f"read:docs/{number}", trace_id=f"trace-{number % 3}")
    return world


def seqs(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [entry["seq"] for entry in answer.json()["entries"]]


# Who may.


@pytest.mark.parametrize("place", PLACES)
def test_nobody_may_without_the_admin_token(world: World, place: str) -> None:
    for prefix in PREFIXES:
        for headers in ({}, {"X-Admin-Token": "no"}, world.agent("a")):
            answer = world.ask("GET", f"{prefix}/audit{place}?limit=nonsense", headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


def test_without_an_admin_token_there_is_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, token="")
    with contextlib.closing(world):
        for place in PLACES:
            assert world.admin("GET", f"/audit{place}").status_code == 404


def test_both_prefixes_are_one(told: World) -> None:
    for place in ("", "/stats", "/export?format=csv", "/trace/trace-0", "/id-1"):
        answers = [told.ask("GET", f"{prefix}/audit{place}", headers=ADMIN) for prefix in PREFIXES]
        assert answers[0].status_code == 200
        assert answers[0].content == answers[1].content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD"])
def test_reading_is_all_that_can_be_done(told: World, method: str) -> None:
    for place in PLACES:
        assert told.admin(method, f"/audit{place}").status_code == 405
    assert len(told.rows()) == 5


# Pages.


def test_the_newest_come_first_and_pages_follow(told: World) -> None:
    assert seqs(told.admin("GET", "/audit")) == [5, 4, 3, 2, 1]
    first = told.admin("GET", "/audit?limit=2")
    assert seqs(first) == [5, 4]
    second = told.admin("GET", f"/audit?limit=2&after={first.json()['next']}")
    assert seqs(second) == [3, 2]
    last = told.admin("GET", f"/audit?limit=2&after={second.json()['next']}")
    assert seqs(last) == [1]
    assert set(last.json()) == {"entries"}
    assert seqs(told.admin("GET", "/audit?order=asc&limit=2")) == [1, 2]


def test_fifty_come_unless_asked_otherwise(world: World) -> None:
    write(world.database, varied(60))
    assert len(seqs(world.admin("GET", "/audit"))) == 50
    assert len(seqs(world.admin("GET", "/audit?limit=1000"))) == 60


def test_an_entry_is_what_the_row_says_and_has_no_null(told: World) -> None:
    [entry] = told.admin("GET", "/audit?limit=1").json()["entries"]
    stored = told.rows()[-1]
    assert {"id", "timestamp", "action", "decision", "result", "traceId"} <= set(entry)
    assert entry["decision"] == entry["result"] == stored["decision"]
    assert None not in entry.values()
    for column, key in KEYS.items():
        if column not in ("metadata", "latency_us", "prev_hash", "hash"):
            assert entry.get(key) == stored[column]


def test_filters_are_passed_on(told: World) -> None:
    assert seqs(told.admin("GET", "/audit?agentId=agent-0")) == [5, 3, 1]
    assert seqs(told.admin("GET", "/audit?action=READ:*/3&agentId=agent-1")) == [4]
    assert seqs(told.admin("GET", "/audit?decision=allow")) == []
    assert seqs(told.admin("GET", "/audit", params={"from": rfc3339(NOW + 1)})) == []
    assert seqs(told.admin("GET", "/audit", params={"to": rfc3339(NOW + 1)})) == [5, 4, 3, 2, 1]
    for name in FILTERS:
        if name not in ("from", "to", "trustTier", "decision", "enforced", "mode"):
            assert seqs(told.admin("GET", "/audit", params={name: "' OR 1 --"})) == []
            assert len(seqs(told.admin("GET", "/audit", params={name: ""}))) == 5


def test_every_filter_can_be_asked_everywhere(told: World) -> None:
    for model in (audit.PageAsked, audit.StatsAsked, audit.ExportAsked, audit.TailAsked):
        names = {field.alias for field in model.model_fields.values()}
        assert names >= set(FILTERS)


# What is not usable.


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit: must be at least 1"),
        ("limit=-1", "limit: must be at least 1"),
        ("limit=1000000", "limit: must be at most 1000"),
        ("limit=99999999999999999999", "limit: must be at most 1000"),
        (f"limit={'9' * 5000}", "limit: must be a whole number"),
        ("limit=ten", "limit: must be a whole number"),
        ("limit=", "limit: must be a whole number"),
        ("limit=1.5", "limit: must be a whole number"),
        ("limit=1&limit=2", "limit: is there more than once"),
        ("agentid=a", "agentid: there is no such parameter"),
        ("offset=5", "offset: there is no such parameter"),
        ("order=random", "order: write 'asc' or 'desc'"),
        ("after=%27;DROP", "after: send what the page before has as next, or nothing"),
        ("after=99999999999999999999", "after: send what the page before has as next, or nothing"),
        (f"after={'9' * 33}", "after: is longer than 32 characters"),
        ("from=yesterday", "from: not a time; write 2026-01-31T12:00:00Z"),
        ("to=99999-01-01", "to: not a time; write 2026-01-31T12:00:00Z"),
        ("from=2026-01-02&to=2026-01-01", "from: is not before to"),
        ("decision=denied", "decision: write one of allow, deny, error, reported"),
        ("trustTier=root", "trustTier: there is no such tier"),
        (f"reason={'x' * 2049}", "reason: is longer than 2048 characters"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(told: World, query: str, said: str) -> None:
    answer = told.admin("GET", f"/audit?{query}")
    assert (answer.status_code, answer.json()) == (400, {"error": "bad_request", "message": said})


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/export?format=xml", "format: write 'jsonl', 'json', 'csv' or 'parquet'"),
        ("/export?limit=5", "limit: there is no such parameter"),
        ("/export?format=csv%0d%0aX-Evil:1", "format: write 'jsonl', 'json', 'csv' or 'parquet'"),
        ("/stats?period=1y", "period: write '1h', '24h', '7d' or '30d'"),
        ("/stats?period=1h&from=2026-01-01", "period: give it, or from and to"),
        ("/tail?n=-1", "n: must be at least 0"),
        ("/tail?n=1001", "n: must be at most 1000"),
        ("/trace/t?agentId=a", "agentId: there is no such parameter"),
        ("/id-1?decision=deny&decision=deny", "decision: is there more than once"),
    ],
)
def test_every_place_says_what_it_does_not_take(told: World, place: str, said: str) -> None:
    answer = told.admin("GET", f"/audit{place}")
    assert (answer.status_code, answer.json()["message"]) == (400, said)


def test_an_event_id_that_no_tail_gave_is_refused(told: World) -> None:
    headers = {**ADMIN, "Last-Event-ID": "x'; --"}
    answer = told.ask("GET", "/admin/audit/tail", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("last-event-id: send what")


def test_many_parameters_hold_nobody_up(told: World) -> None:
    query = "&".join(f"p{number}=1" for number in range(5000))
    answer = told.admin("GET", f"/audit?{query}")
    assert (answer.status_code, answer.json()["message"][:4]) == (400, "p0: ")


# Counts, traces, one.


def test_decisions_of_a_period_are_counted(told: World) -> None:
    told.admin("POST", "/agents", json={"name": "no decision"})
    zeros = {"allowed": 0, "errors": 0, "wouldDeny": 0}
    answer = told.admin("GET", "/audit/stats").json()
    assert answer == {"total": 5, "denied": 5, **zeros, "period": "24h"}
    told.now += 3 * 3600
    answer = told.admin("GET", "/audit/stats?period=1h").json()
    assert answer == {"total": 0, "denied": 0, **zeros, "period": "1h"}
    since = rfc3339(NOW - 5)
    params = {"from": since, "agentId": "agent-0"}
    answer = told.admin("GET", "/audit/stats", params=params).json()
    assert answer == {"total": 3, "denied": 3, **zeros, "from": since}


def test_what_audit_mode_let_pass_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, mode=Mode.AUDIT)
    with contextlib.closing(world):
        world.check("a", "read:x")
        answer = world.admin("GET", "/audit/stats").json()
    assert (answer["denied"], answer["wouldDeny"]) == (1, 1)


def test_a_trace_is_told_oldest_first(told: World) -> None:
    answer = told.admin("GET", "/audit/trace/trace-0")
    assert seqs(answer) == [1, 4]
    assert answer.json()["traceId"] == "trace-0"
    first = told.admin("GET", "/audit/trace/trace-0?limit=1")
    assert seqs(first) == [1]
    rest = told.admin("GET", f"/audit/trace/trace-0?limit=1&after={first.json()['next']}")
    assert seqs(rest) == [4]
    # An end that is empty is an end, and no trace that is not there.
    after = rest.json().get("next", "4")
    assert seqs(told.admin("GET", f"/audit/trace/trace-0?after={after}")) == []


@pytest.mark.parametrize("trace", ["none", "%27%20OR%201%20--", "x" * 2048, "%00", "..%2f.."])
def test_a_trace_of_which_there_is_nothing_is_404(told: World, trace: str) -> None:
    answer = told.admin("GET", f"/audit/trace/{trace}")
    assert answer.status_code == 404


def test_one_entry_is_shown(told: World) -> None:
    decided = told.check("a", "read:y").json()["decisionId"]
    assert told.admin("GET", f"/audit/{decided}").json()["action"] == "read:y"
    for unknown in ("nobody", "x" * 3000, "%27", "audit"):
        answer = told.admin("GET", f"/audit/{unknown}")
        assert (answer.status_code, answer.json()["message"]) == (404, "there is no such entry")


# Exports.


@pytest.mark.parametrize(
    ("query", "media_type", "name"),
    [
        ("", "application/x-ndjson", "jsonl"),
        ("?format=json", "application/x-ndjson", "jsonl"),
        ("?format=csv", "text/csv; charset=utf-8; header=present", "csv"),
        ("?format=parquet", "application/vnd.apache.parquet", "parquet"),
    ],
)
def test_an_export_is_a_file_with_a_name(
    told: World, query: str, media_type: str, name: str
) -> None:
    answer = told.admin("GET", f"/audit/export{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="audit-20231114T221320Z.{name}"'
    )
    assert answer.headers["cache-control"] == "no-store"
    count = answer.content.count(b"\n")
    assert count == {"jsonl": 5, "csv": 6}.get(name, count)


def test_nothing_that_is_asked_for_gets_into_a_header(told: World) -> None:
    answer = told.admin("GET", "/audit/export?agentId=%22%0d%0aX-Evil:%201")
    assert (answer.status_code, answer.content) == (200, b"")
    assert set(answer.headers) == {"cache-control", "content-disposition", "content-type"}
    assert "Evil" not in answer.headers["content-disposition"]


def test_without_a_database_there_is_no_answer_now(world: World, tmp_path: Path) -> None:
    world.audit.close()
    for file in tmp_path.glob("audit.db*"):
        file.unlink()
    for place in ("", "/stats", "/export", "/tail", "/trace/t", "/id-1"):
        answer = world.admin("GET", f"/audit{place}")
        assert answer.status_code == 503, place
        assert answer.json() == {
            "error": "unavailable",
            "message": "there is no audit database yet",
        }
        assert answer.headers["retry-after"] == "5"


# Through real sockets.


class Served:
    """A service's HTTP on a unix socket, read by real processes."""

    def __init__(self, world: World, readers: Readers, socket: Path) -> None:
        self.world = world
        self.readers = readers
        transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits())
        self.client = httpx.AsyncClient(
            transport=transport, base_url="http://a", headers=ADMIN, timeout=PATIENCE_S
        )
        self.socket = socket

    def children(self) -> list[Any]:
        """The processes that are alive."""
        found = [*self.readers._busy, *(process for process, _ in self.readers._idle)]
        return [process._child for process in found if process._child.poll() is None]  # type: ignore[attr-defined]

    async def raw(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A request whose answer is read by hand, a little at a time."""
        reader, writer = await asyncio.open_unix_connection(self.socket, limit=4096)
        token = ADMIN["X-Admin-Token"]
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nx-admin-token: {token}\r\n\r\n".encode())
        return reader, writer


def served(rows: int, scenario: Callable[[Served], Any]) -> None:
    """Run a scenario against a service with as many rows."""

    @contextlib.asynccontextmanager
    async def opened(directory: Path) -> AsyncIterator[Served]:
        world = World(directory)
        write(world.database, (row(number) for number in range(rows)))
        readers = Readers(world.database)
        app = build_app(
            world.gate,
            world._health(),
            world.operations,
            audit.router(AdminToken(ADMIN["X-Admin-Token"]), readers),
        )
        try:
            async with _http(app, directory / "http"), asyncio.timeout(PATIENCE_S):
                made = Served(world, readers, directory / "http")
                async with made.client:
                    try:
                        yield made
                    finally:
                        readers.close()
        finally:
            await asyncio.to_thread(world.close)

    async def run() -> None:
        directory = Path(tempfile.mkdtemp(prefix="authz-"))
        try:
            async with opened(directory) as made:
                await scenario(made)
        finally:
            shutil.rmtree(directory)

    uvloop.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_who_stops_reading_an_export_frees_everything() -> None:
    async def scenario(made: Served) -> None:
        held = [await made.raw("/admin/audit/export") for _ in range(2)]
        for reader, _ in held:
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        third = await made.client.get("/admin/audit/export")
        assert (third.status_code, third.json()["error"]) == (503, "unavailable")
        assert int(third.headers["retry-after"]) > 0
        # A question has places of its own.
        assert (await made.client.get("/admin/audit?limit=1")).status_code == 200
        busy = made.children()
        for _, writer in held:
            writer.transport.abort()
        await until(lambda: len([c for c in busy if c.poll() is None]) <= 1)
        again = await made.client.get("/admin/audit/export")
        assert again.content.count(b"\n") == 20_000

    served(20_000, scenario)


def test_who_does_not_read_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TAKE_S", 0.2)

    async def scenario(made: Served) -> None:
        reader, writer = await made.raw("/admin/audit/export")
        await reader.readuntil(b"\r\n\r\n")
        # Nothing is read until the service has given up, and then there is no end.
        await until(lambda: not made.children())
        rest = await reader.read()
        while piece := await reader.read(1 << 16):
            rest += piece
        assert not rest.endswith(b"0\r\n\r\n")
        writer.close()

    served(20_000, scenario)


def test_a_reader_that_dies_leaves_no_export_that_looks_whole() -> None:
    async def export_without_a_reader(made: Served) -> None:
        async with made.client.stream("GET", "/admin/audit/export") as answer:
            assert answer.status_code == 200
            for child in made.children():
                child.kill()
            async for _ in answer.aiter_bytes():
                pass

    async def scenario(made: Served) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await export_without_a_reader(made)
        assert (await made.client.get("/admin/audit?limit=1")).status_code == 200

    served(20_000, scenario)


def test_a_question_is_given_up_when_its_asker_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Served) -> None:
        # A tail as a question never ends.
        asked = made.readers.ask

        async def ask(*_: object) -> bytes:
            return await asked("audit.tail", {"filters": {}, "count": 0, "after": ""})

        monkeypatch.setattr(made.readers, "ask", ask)
        _, writer = await made.raw("/admin/audit")
        await until(lambda: made.readers._busy)
        writer.transport.abort()
        await until(lambda: not made.readers._busy)

    served(1, scenario)


def _events(text: str) -> list[dict[str, str]]:
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event")]
    return [dict(line.split(": ", 1) for line in block) for block in blocks]


def test_a_tail_tells_of_every_entry_whoever_writes_it() -> None:
    async def scenario(made: Served) -> None:
        url = "/admin/audit/tail?n=2"
        async with made.client.stream("GET", url) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            text, pieces = "", answer.aiter_text()
            while len(_events(text)) < 2:
                text += await anext(pieces)
            # By another connection than the service's, as another process would.
            await asyncio.to_thread(
                write, made.world.database, [row(9), row(10)._replace(source="control")]
            )
            while len(_events(text)) < 4:
                text += await anext(pieces)
        events = _events(text)
        assert [event["id"] for event in events] == ["2", "3", "4", "5"]
        assert [event["event"] for event in events] == ["decision"] * 3 + ["control"]
        assert [json.loads(event["data"])["seq"] for event in events] == [2, 3, 4, 5]
        # Cut off after the third, it goes on with the fourth.
        headers = {"Last-Event-ID": "4"}
        async with made.client.stream("GET", url, headers=headers) as answer:
            text, pieces = "", answer.aiter_text()
            while not _events(text):
                text += await anext(pieces)
        assert [event["id"] for event in _events(text)] == ["5"]

    served(3, scenario)


def test_a_tail_ends_with_the_service_and_can_go_on() -> None:
    async def scenario(made: Served) -> None:
        async with made.client.stream("GET", "/admin/audit/tail?n=1") as answer:
            pieces = answer.aiter_text()
            while not _events(await anext(pieces)):
                pass
            made.readers.close()
            # To its end, which is one.
            assert [piece async for piece in pieces] == []
        refused = await made.client.get("/admin/audit/tail")
        assert (refused.status_code, refused.json()["message"]) == (503, "the service is stopping")

    served(1, scenario)


def test_a_silent_tail_shows_that_it_lives(told: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.001)
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(jobs, "TAIL_S", 0.2)
    answer = told.admin("GET", "/audit/tail?n=1&agentId=agent-1")
    assert answer.status_code == 200
    assert re.match(r"retry: 2000\n\nevent: decision\nid: 4\ndata: .*\n\n(:\n\n)+$", answer.text)
