"""Sending audit rows: nothing is lost, nothing is doubled, whatever happens in between."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.core.timestamps import rfc3339
from authz.stores.audit_log import AuditLog
from authz.sync import push as pushing
from authz.sync.errors import Cause, SyncFailed
from authz.sync.push import at_risk, push, waiting
from authz.sync.turn import answered, asked
from tests.stores.trail import DAY_S, START, World, row
from tests.sync import plane as planes
from tests.sync.plane import Plane, Request, plan


class Trail:
    """What a control plane has taken: the rows of real databases, by id."""

    def __init__(self, directory: Path) -> None:
        self.rows: dict[str, int] = {}
        #: The numbers of the rows of each slice.
        self.slices: list[list[int]] = []
        #: Rows that it takes at once.
        self.most = 1_000
        self._file = directory / "uploaded.db"

    def take(self, request: Request) -> None:
        """Answer an upload as a gateway does."""
        begin = request.body.index(b"SQLite format 3\0")
        assert b'name="audit"' in request.body[:begin]
        self._file.write_bytes(request.body[begin : request.body.rindex(b"\r\n--")])
        with contextlib.closing(sqlite3.connect(self._file)) as connection:
            found = connection.execute("SELECT id, seq FROM audit ORDER BY seq").fetchall()
        if len(found) > self.most:
            request.say(413)
            return
        new = [one for one in found if one[0] not in self.rows]
        self.rows |= dict(found)
        self.slices.append([seq for _, seq in found])
        said = {"ingested": len(new), "duplicates": len(found) - len(new)}
        request.say(200, json.dumps(said).encode(), content_type="application/json")


@pytest.fixture(scope="module")
def server() -> Iterator[Plane]:
    with planes.plane() as made:
        yield made


@pytest.fixture
def trail(server: Plane, tmp_path: Path) -> Trail:
    server.requests.clear()
    made = Trail(tmp_path)
    server.answer = made.take
    return made


def _write(path: Path, count: int, *, first: int = 1) -> None:
    audit = AuditLog(path, monotonic=lambda: 0.0)
    with contextlib.closing(audit):
        assert audit.open()
        audit.write([row(number) for number in range(first, first + count)])


def _failed(here: Any) -> SyncFailed:
    with pytest.raises(SyncFailed) as caught:
        push(here)
    assert planes.TOKEN not in str(caught.value)
    return caught.value


def test_rows_go_once_and_in_order(server: Plane, trail: Trail, tmp_path: Path) -> None:
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 7)
    seen: list[tuple[int, int]] = []
    done = push(here, progress=lambda *figures: seen.append(figures))
    assert (done.ingested, done.duplicates, done.acknowledged, done.pending) == (7, 0, 7, 0)
    assert seen == [(7, 7)]
    assert push(here).ingested == 0
    _write(tmp_path / "audit.db", 2, first=8)
    assert waiting(here)["pending"] == 2
    assert push(here).acknowledged == 9
    assert trail.slices == [[1, 2, 3, 4, 5, 6, 7], [8, 9]]
    assert server.requests[0][0] == "POST /admin/audit/ingest"
    assert not (tmp_path / "state/slice.db").exists()


def test_a_long_trail_goes_in_slices_and_a_turn_ends(
    server: Plane, trail: Trail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "ROWS", 3)
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 8)
    first = push(here, turn_s=0)
    assert (first.acknowledged, first.pending, first.more) == (3, 5, True)
    second = push(here)
    assert (second.acknowledged, second.pending, second.more) == (8, 0, False)
    assert trail.slices == [[1, 2, 3], [4, 5, 6], [7, 8]]


def test_what_was_taken_but_not_acknowledged_is_not_doubled(
    server: Plane, trail: Trail, tmp_path: Path
) -> None:
    """The other side has it, and the connection ends before it can say so."""
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 3)

    def take_and_die(request: Request) -> None:
        request.say = lambda *_args, **_named: None  # type: ignore[method-assign]
        trail.take(request)
        request.close_connection = True

    server.answer = take_and_die
    assert _failed(here).cause is Cause.BROKEN_OFF
    server.answer = trail.take
    done = push(here)
    assert (done.ingested, done.duplicates, done.acknowledged) == (0, 3, 3)
    assert len(trail.rows) == 3


@pytest.mark.parametrize(
    "said",
    [b"{}", b"[]", b"<html>", b'{"ingested": 2, "duplicates": 0}', b'{"ingested": true}',
     b'{"ingested": 4, "duplicates": -1}', b'{"ingested": "3", "duplicates": 0}', b"[" * 10_000,
     b" " * 100_000],
    ids=range(9),
)  # fmt: skip
def test_an_answer_that_does_not_account_for_each_row_acknowledges_none(
    server: Plane, trail: Trail, tmp_path: Path, said: bytes
) -> None:
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 3)
    server.answer = lambda request: request.say(200, said, content_type="application/json")
    assert _failed(here).cause is Cause.NOT_A_GATEWAY
    server.answer = trail.take
    assert push(here).ingested == 3


@pytest.mark.parametrize(
    ("status", "cause"),
    [(307, Cause.REDIRECTED), (401, Cause.UNAUTHORISED), (404, Cause.MISSING),
     (409, Cause.REFUSED_THERE), (429, Cause.BUSY), (503, Cause.BUSY), (500, Cause.SERVER)],
)  # fmt: skip
def test_a_refusal_leaves_the_rows_waiting(
    server: Plane, trail: Trail, tmp_path: Path, status: int, cause: Cause
) -> None:
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 3)
    said = b'{"message": "rows 1..2 are missing"}'
    server.answer = lambda request: request.say(status, said, location="http://127.0.0.1:1/")
    failure = _failed(here)
    assert failure.cause is cause
    assert len(server.requests) == 1
    if cause is Cause.REFUSED_THERE:
        assert "rows 1..2 are missing" in str(failure)
    assert waiting(here)["pending"] == 3
    server.answer = trail.take
    assert push(here).ingested == 3


def test_one_that_is_busy_is_waited_for(
    server: Plane, trail: Trail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others send at the same time, and it takes one at a time."""
    waits: list[float] = []
    monkeypatch.setattr("authz.sync.push.time.sleep", waits.append)
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 3)

    def answer(request: Request) -> None:
        if len(server.requests) < 3:
            request.say(503, retry_after="2")
        else:
            trail.take(request)

    server.answer = answer
    assert push(here).ingested == 3
    assert len(waits) == 2
    assert all(1 <= wait <= 3 for wait in waits)
    _write(tmp_path / "audit.db", 1, first=4)
    server.answer = lambda request: request.say(503, retry_after="2")
    assert _failed(here).retry_after_s == 2
    assert len(waits) == 2 + pushing.BUSY_TIMES


def test_what_is_too_large_goes_in_smaller_slices(
    server: Plane, trail: Trail, tmp_path: Path
) -> None:
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 5)
    trail.most = 2
    assert push(here).ingested == 5
    assert [len(one) for one in trail.slices] == [2, 2, 1]
    _write(tmp_path / "audit.db", 1, first=6)
    trail.most = 0
    assert "AUDIT_INGEST_MAX_BYTES" in str(_failed(here))


def test_one_that_has_forgotten_gets_everything_again(
    server: Plane, trail: Trail, tmp_path: Path
) -> None:
    """A backup was put back there: it says that rows are missing."""
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 3)
    push(here)
    trail.rows.clear()
    _write(tmp_path / "audit.db", 2, first=4)

    def answer(request: Request) -> None:
        if len(server.requests) == 2:
            said = b'{"message": "rows 1..3 are missing"}'
            request.say(409, said, x_meshguard_ingest_last="0")
        else:
            trail.take(request)

    server.answer = answer
    done = push(here)
    assert (done.ingested, done.acknowledged) == (5, 5)
    assert "everything is sent again" in done.warnings[0]


@pytest.mark.parametrize(
    ("status", "last"), [(422, ""), (409, ""), (409, "3"), (409, "7"), (409, "none")]
)
def test_a_row_that_is_refused_does_not_have_everything_sent_again(
    server: Plane, trail: Trail, tmp_path: Path, status: int, last: str
) -> None:
    """A month of rows each turn, for one that nobody will ever take."""
    here = plan(tmp_path, server.url)
    _write(tmp_path / "audit.db", 3)
    push(here)
    _write(tmp_path / "audit.db", 2, first=4)
    more = {"x_meshguard_ingest_last": last} if last else {}
    server.answer = lambda request: request.say(status, b'{"message": "row 4 is bad"}', **more)
    for turn in range(2):
        assert _failed(here).cause is Cause.REFUSED_THERE
        assert len(server.requests) == 2 + turn
    assert waiting(here)["acknowledged"] == 3


def test_another_database_is_sent_from_its_beginning(
    server: Plane, trail: Trail, tmp_path: Path
) -> None:
    here = plan(tmp_path, server.url)
    for count in (5, 7, 3):
        for file in tmp_path.glob("audit.db*"):
            file.unlink()
        trail.rows.clear()
        _write(tmp_path / "audit.db", count)
        done = push(here)
        assert (done.ingested, done.acknowledged, done.pending) == (count, count, 0)
    assert "another trail" in done.warnings[0]


def test_what_retention_has_removed_is_said(server: Plane, trail: Trail, tmp_path: Path) -> None:
    world = World(tmp_path / "audit.db", retention_days=30)
    here = plan(tmp_path, server.url)
    with contextlib.closing(world.audit):
        world.write(3)
        sent = push(here).acknowledged
        world.write(3)
        world.pass_s(60 * DAY_S)
        world.write(1)
        world.pass_s(DAY_S)
        done = push(here)
    assert any(
        f"rows {sent + 1} to {sent + 3} were removed before they were acknowledged" in said
        for said in done.warnings
    ), done
    assert done.pending == 0
    assert {"d-1", "d-3", "d-7"} <= trail.rows.keys()


def test_another_control_plane_has_nothing_yet(server: Plane, trail: Trail, tmp_path: Path) -> None:
    _write(tmp_path / "audit.db", 3)
    push(plan(tmp_path, server.url))
    trail.rows.clear()
    server.answer = trail.take
    assert push(plan(tmp_path, f"{server.url}/other")).ingested == 3


def test_no_trail_and_one_that_is_none(server: Plane, tmp_path: Path) -> None:
    here = plan(tmp_path, server.url)
    assert _failed(here).cause is Cause.TRAIL
    (tmp_path / "audit.db").write_bytes(os.urandom(8192))
    assert _failed(here).cause is Cause.TRAIL


@pytest.mark.parametrize(
    ("days", "retention", "expected"),
    [(10, 90, ""), (60, 90, "in 30 days"), (100, 90, "in 0 days"), (100, 0, "")],
)
def test_rows_that_retention_will_remove_are_warned_of(
    tmp_path: Path, days: int, retention: int, expected: str
) -> None:
    here = plan(tmp_path, "http://127.0.0.1:1", retention_days=retention)
    said = at_risk(here, rfc3339(START - days * DAY_S), START)
    assert (expected in said) if expected else not said


def test_a_push_that_fails_tells_what_waits_and_that_retention_will_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is while the control plane is away that rows grow old."""
    monkeypatch.setattr("authz.sync.turn.logs.configure", lambda *_: None)
    _write(tmp_path / "audit.db", 3)
    told = json.loads(answered(asked("push", plan(tmp_path, "http://127.0.0.1:1"))))
    assert (told["failed"]["cause"], told["pending"]) == ("unreachable", 3)
    assert "rows that were not sent are removed in 0 days" in told["retention"]
    (tmp_path / "audit.db").unlink()
    told = json.loads(answered(asked("push", plan(tmp_path, "http://127.0.0.1:1"))))
    assert (told["failed"]["cause"], told.get("pending")) == ("trail", None)
