"""Trails that are sent: what is stored, what is refused, and that nothing else notices."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from authz.core.incident import Kind
from authz.core.timestamps import rfc3339
from authz.edges.http import ingest, upload
from authz.edges.http.ingest import LAST_HEADER, ORIGIN_HEADER
from authz.edges.ingest import taker as takers
from authz.edges.ingest.job import Job, Outcome
from authz.edges.ingest.taker import NoRoom, Taker
from authz.edges.ingest.worker import do
from authz.edges.readers.process import without_secrets
from authz.stores import audit_check
from authz.stores.audit_key import default_key_file, public_file, public_key
from authz.stores.audit_slice import write_slice
from authz.stores.ingest.keeping import Kept, keep
from tests.builders import NOW
from tests.e2e.sidecar import wait_until
from tests.edges.world import ADMIN, World
from tests.stores import trail
from tests.stores.trail import DAY_S, START, execute, row

PATH: Final = "/admin/audit/ingest"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a trail of twenty rows, signed."""
    path = tmp_path_factory.mktemp("whole") / "audit.db"
    with trail.world(path) as made:
        for number in range(1, 21):
            made.audit.write([row(number, at=START + number)])
        made.pass_s()
        made.end()
    return path.read_bytes()


class Here(Taker):
    """A taker whose process is this one; that is quicker to start."""

    def _answer(self, job: Job) -> Outcome:
        return Outcome.decoded(do(job).encoded())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("tests.edges.world.Taker", Here)
    made = World(tmp_path)
    yield made
    made.close()


def send(world: World, content: bytes, name: str = "audit", **kwargs: Any) -> httpx.Response:
    """Send a file as `curl -F` does."""
    return world.admin("POST", "/audit/ingest", files={name: ("audit.db", content)}, **kwargs)


def left(world: World) -> list[str]:
    """Uploads that lie about."""
    return [path.name for path in world.taker.path.parent.glob(".ingest-*")]


def stored(path: Path) -> int:
    """Rows of an ingested trail."""
    return len(execute(path, "SELECT seq FROM audit")) if path.exists() else 0


# What is taken.


def test_a_trail_is_taken_once_and_read(world: World, whole: bytes) -> None:
    answer = send(world, whole)
    assert (answer.status_code, answer.json()) == (200, {"ingested": 20, "duplicates": 0})
    origin = answer.headers[ORIGIN_HEADER]
    assert answer.headers[LAST_HEADER] == "20"
    again = send(world, whole)
    assert again.json() == {"ingested": 0, "duplicates": 20}
    assert again.headers[ORIGIN_HEADER] == origin
    page = world.admin("GET", "/audit?trail=ingested&limit=3").json()["entries"]
    assert [(entry["id"], entry["origin"]) for entry in page] == [
        ("d-20", origin), ("d-19", origin), ("d-18", origin),
    ]  # fmt: skip
    assert "origin" not in world.admin("GET", "/audit").json()["entries"][0]
    [first, second] = [change for change in world.changes() if change[0] == "audit:ingest"]
    assert (first[1], second[1]) == (origin, origin)
    assert first[2].startswith("by admin: 20 rows ingested, 0 known, up to row 20, of the file")
    assert "0 rows ingested, 20 known" in second[2]
    assert left(world) == []


def test_the_ingested_trail_is_asked_in_every_way(world: World, whole: bytes) -> None:
    assert world.admin("GET", "/audit?trail=ingested").status_code == 404
    send(world, whole)
    between = {"trail": "ingested", "from": rfc3339(START + 5), "to": rfc3339(START + 8)}
    found = world.admin("GET", "/audit", params=between).json()["entries"]
    assert [entry["id"] for entry in found] == ["d-7", "d-6", "d-5"]
    assert world.admin("GET", "/audit/stats", params=between).json()["total"] == 3
    assert world.admin("GET", "/audit/trace/t-7?trail=ingested").json()["entries"][0]["id"] == "d-7"
    assert world.admin("GET", "/audit/d-7?trail=ingested").json()["action"] == "read:doc"
    assert world.admin("GET", "/audit/d-7").status_code == 404
    lines = world.admin("GET", "/audit/export?trail=ingested").text.splitlines()
    assert len(lines) == 20
    assert '"origin":' in lines[0]
    table = world.admin("GET", "/audit/export?trail=ingested&format=csv").text.splitlines()
    assert table[0].endswith("hash,origin")
    parquet = world.admin("GET", "/audit/export?trail=ingested&format=parquet")
    assert parquet.content[:4] == b"PAR1"
    answer = world.admin("GET", "/audit?trail=other")
    assert answer.json()["message"] == "trail: write 'local' or 'ingested'"


def test_rows_that_came_late_are_found_by_their_time(world: World, tmp_path: Path) -> None:
    for number, at in enumerate((START + 90 * DAY_S, START, START + 45 * DAY_S)):
        path = tmp_path / f"other-{number}" / "audit.db"
        with trail.world(path) as made:
            made.audit.write([row(number + 1, at=at + place) for place in range(1)])
            made.end()
        assert send(world, path.read_bytes()).json()["ingested"] == 1
    params = {"trail": "ingested", "from": rfc3339(START), "to": rfc3339(START + 1)}
    found = world.admin("GET", "/audit", params=params).json()["entries"]
    assert [entry["id"] for entry in found] == ["d-2"]


def test_its_end_is_signed_with_our_key(world: World, whole: bytes) -> None:
    send(world, whole)
    path = world.taker.path
    key = public_key(public_file(default_key_file(path)))
    report = audit_check.verify(path, {key.key_id: key.fits}, now=NOW)
    assert (report.problems, report.rows) == ([], 20)
    ours = public_file(default_key_file(world.database))
    assert (
        not ours.exists() or ours.read_bytes() == public_file(default_key_file(path)).read_bytes()
    )


# What is refused.


def test_what_is_refused_says_why_and_is_an_incident(
    world: World, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(whole)
    execute(path, "UPDATE audit SET action = 'read:all' WHERE seq = 7")
    answer = send(world, path.read_bytes())
    assert answer.status_code == 422
    assert answer.json() == {
        "error": "invalid",
        "message": "row 7 was changed: its hash does not fit what it says",
    }
    path.write_bytes(whole)
    assert write_slice(path, 5, 5, tmp_path / "slice.db")
    answer = send(world, (tmp_path / "slice.db").read_bytes())
    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")
    assert answer.json()["message"].startswith("rows 1..5 are missing")
    assert answer.headers[LAST_HEADER] == "0"
    assert world.incidents.counts[Kind.INGEST_REFUSED] == 2
    assert stored(world.taker.path) == 0
    assert [change[0] for change in world.changes()] == ["incident:ingest_refused"] * 2
    assert send(world, whole).status_code == 200
    assert world.incidents.open == {}
    assert left(world) == []


def test_nobody_may_without_the_admin_token(world: World, whole: bytes) -> None:
    for headers in ({}, {"X-Admin-Token": "no"}, world.agent("a")):
        answer = world.ask("POST", PATH, headers=headers, files={"audit": whole})
        assert answer.status_code == 401
    assert not world.taker.path.exists()


def test_another_form_is_refused(world: World, whole: bytes) -> None:
    answer = send(world, whole, name="file")
    assert answer.status_code == 400
    assert answer.json()["message"] == (
        'the form has `file`, not `audit`; send the file as curl -F "audit=@FILE" does'
    )
    files = [("audit", ("a", whole)), ("audit", ("b", whole))]
    answer = world.admin("POST", "/audit/ingest", files=files)
    assert (answer.status_code, answer.json()["message"]) == (
        400, "the form has more than the one field `audit`",
    )  # fmt: skip
    answer = world.admin("POST", "/audit/ingest", json={})
    assert answer.status_code == 415
    assert "send multipart/form-data, not application/json" in answer.json()["message"]
    assert world.admin("POST", "/audit/ingest?x=1", files={"audit": whole}).status_code == 400
    assert stored(world.taker.path) == 0
    # Whoever sends a wrong form hears of it; nothing was refused that anybody has to look at.
    assert world.incidents.counts[Kind.INGEST_REFUSED] == 0


FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="audit"; filename="a"\r\n\r\n%s\r\n--b--'
)


@pytest.mark.parametrize(
    ("boundary", "body", "said"),
    [
        ("b", b"", "has no end: the upload was cut off"),
        ("b", FORM[:-6] % b"x", "has no end: the upload was cut off"),
        ("b", b"nonsense" * 100, "is not such a form"),
        ("b", b"--b--", "has no"),
        ("", FORM % b"x", "the boundary is missing"),
        ("b" * 71, FORM % b"x", "over 70 characters"),
        ("b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", "a field without a name"),
        ("b", b"--b\r\nX: " + b"y" * 5000 + b"\r\n\r\nx\r\n--b--", "is not such a form"),
        ("b", b"--b\r\n" + b"X: y\r\n" * 50 + b"\r\nx\r\n--b--", "is not such a form"),
    ],
)
def test_a_form_that_is_none_is_refused(
    world: World, boundary: str, body: bytes, said: str
) -> None:
    headers = {**ADMIN, "content-type": f"multipart/form-data; boundary={boundary}"}
    answer = world.ask("POST", PATH, headers=headers, content=body)
    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert left(world) == []


def test_a_body_that_has_no_length_is_bounded_as_well(tmp_path: Path, whole: bytes) -> None:
    world = World(tmp_path, AUDIT_INGEST_MAX_BYTES="70000")
    with contextlib.closing(world):
        answer = send(world, b"x" * 90_000)
        assert answer.status_code == 413
        assert "larger than 70000 bytes (AUDIT_INGEST_MAX_BYTES)" in answer.json()["message"]
        headers = {**ADMIN, "content-type": "multipart/form-data; boundary=b"}

        async def pieces(content: bytes) -> Any:
            for start in range(0, len(content), 1000):
                yield content[start : start + 1000]

        answer = world.ask("POST", PATH, headers=headers, content=pieces(FORM % (b"x" * 80_000)))
        assert answer.status_code == 413
        answer = world.ask("POST", PATH, headers=headers, content=pieces(b"\r\n" * 20_000))
        assert answer.status_code in (400, 413)
        epilogue = FORM % b"x" + b"\r\n" + b"y" * 40_000
        answer = world.ask("POST", PATH, headers=headers, content=pieces(epilogue))
        assert answer.status_code == 413
        assert left(world) == []


def test_an_upload_that_stands_still_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "STALL_S", 0.05)
    headers = {**ADMIN, "content-type": "multipart/form-data; boundary=b"}

    async def pieces() -> Any:
        yield FORM[:40]
        await asyncio.Event().wait()

    answer = world.ask("POST", PATH, headers=headers, content=pieces())
    assert answer.status_code == 400
    assert "stood still" in answer.json()["message"]
    assert world.taker.busy is False


def test_there_is_one_at_a_time(world: World, whole: bytes) -> None:
    world.taker.busy = True
    answer = send(world, whole)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == str(ingest.BUSY_S)
    world.taker.busy = False
    assert send(world, whole).status_code == 200


def test_the_disk_is_not_filled(
    world: World, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takers, "RESERVE", 1 << 62)
    answer = send(world, whole)
    assert answer.status_code == 503
    assert "the disk of the ingested trail has" in answer.json()["message"]
    assert not world.taker.path.exists()
    with pytest.raises(NoRoom):
        world.taker.check_room(1)


def test_keys_that_are_pinned_are_asked_for(tmp_path: Path, whole: bytes) -> None:
    other = tmp_path / "other" / "audit.db"
    with trail.world(other) as made:
        made.write(3)
        made.pass_s()
        made.end()
    pinned = public_file(default_key_file(other))
    kept = Kept(tmp_path / "key", 0.0, lambda: NOW)
    taker = Here(tmp_path / "ingested", keys=[pinned], kept=kept)
    strange = tmp_path / "strange.db"
    strange.write_bytes(whole)
    assert "whose public half was not given" in taker._take(strange).message
    assert taker._take(other).ingested == 3
    assert (
        Here(tmp_path / "ingested", keys=[strange], kept=kept)
        ._take(other)
        .message.startswith("AUDIT_INGEST_KEYS: ")
    )


# What breaks.

#: A process that is in the middle of its transaction, for as long as anybody lets it.
STUCK: Final = """
import time
from authz.edges.ingest import worker
from authz.stores.ingest import taking
def stuck(*_):
    open({mark!r}, "w").close()
    time.sleep(600)
taking._Taking.end = stuck
worker.main()
"""


def test_a_process_that_is_killed_has_stored_nothing(tmp_path: Path, whole: bytes) -> None:
    mark, upload_file = tmp_path / "mark", tmp_path / "upload.db"
    upload_file.write_bytes(whole)
    kept = Kept(tmp_path / "key", 0.0, lambda: NOW)
    script = STUCK.format(mark=str(mark))
    stuck = Taker(tmp_path / "ingested", kept=kept, start=[sys.executable, "-c", script])
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(stuck._take(upload_file)))
    thread.start()
    wait_until(mark.exists, "the rows to be written")
    assert stuck._child is not None
    os.kill(stuck._child.pid, signal.SIGKILL)
    thread.join()
    assert [outcome.kind for outcome in outcomes] == ["unavailable"]
    assert "has ended before it was done" in outcomes[0].message
    assert stored(tmp_path / "ingested") == 0
    # A real process, and the same trail: it is as if nothing had been.
    taken = Taker(tmp_path / "ingested", kept=kept)._take(upload_file)
    assert (taken.kind, taken.ingested, taken.duplicates) == ("", 20, 0)


def test_a_process_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takers, "GRACE_S", 0.0)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    kept = Kept(tmp_path / "key", 0.0, lambda: NOW)
    slow = Taker(tmp_path / "ingested", kept=kept, start=command, work_s=0.1)
    assert slow._take(tmp_path / "none").kind == "unavailable"


def test_the_process_has_bounds_and_no_secrets(tmp_path: Path) -> None:
    code = (
        "import os, resource, sys; from authz.edges.ingest import worker; worker._limit(5);"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0], 'JWT_SECRET' in os.environ)\n"
        "try:\n bytearray(1 << 30)\nexcept MemoryError:\n print('bounded')"
    )
    os.environ["JWT_SECRET"] = "a secret"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=without_secrets(), capture_output=True,
            text=True, check=True,
        )  # fmt: skip
    finally:
        del os.environ["JWT_SECRET"]
    assert done.stdout.split() == [str(512 << 20), "False", "bounded"]


def test_the_event_loop_does_not_wait_for_the_disk(
    world: World, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file is not removed in an instant, and decisions are made there."""
    waited: list[bool] = []
    make = tempfile.NamedTemporaryFile

    def made(**given: Any) -> Any:
        file: Any = make(**given)
        close = file.close

        def closed() -> None:
            with contextlib.suppress(RuntimeError):
                waited.append(asyncio.get_running_loop() is not None)
            close()

        file.close = closed
        with contextlib.suppress(RuntimeError):
            waited.append(asyncio.get_running_loop() is not None)
        return file

    monkeypatch.setattr("authz.edges.ingest.taker.tempfile.NamedTemporaryFile", made)
    assert send(world, whole).status_code == 200
    assert left(world) == []
    assert waited == []


def test_uploads_of_a_service_that_was_killed_are_removed(world: World) -> None:
    lost = world.taker.path.parent / ".ingest-x1.upload"
    lost.write_bytes(b"x")
    world.taker.sweep()
    assert left(world) == []


# What is too old.


def test_rows_that_are_too_old_are_removed(tmp_path: Path) -> None:
    source, target = tmp_path / "audit.db", tmp_path / "ingested"
    with trail.world(source) as made:
        # One that says that it is of next year does not keep those behind it.
        made.audit.write([row(1), row(2, at=START + 365 * DAY_S), row(3), row(4, at=START + DAY_S)])
        made.pass_s()
        made.end()
    now = START
    kept = Kept(tmp_path / "key", DAY_S, lambda: now)
    job = Job(str(source), str(target), [], 60.0)
    assert do(job).ingested == 4
    for seq, at in enumerate((START, START, START, START + DAY_S), 1):
        execute(target, "UPDATE ingest_rows SET at = ? WHERE seq = ?", rfc3339(at), seq)
    assert keep(target, kept) == 0
    now = START + 1.5 * DAY_S
    assert keep(target, kept) == 3
    assert execute(target, "SELECT id FROM audit") == [("d-4",)]
    assert execute(target, "SELECT seq FROM ingest_rows") == [(4,)]
    key = public_key(public_file(default_key_file(target)))
    report = audit_check.verify(target, {key.key_id: key.fits}, now=now)
    assert report.problems == []
    # What was removed here is not taken again.
    outcome = do(job)
    assert (outcome.ingested, outcome.duplicates) == (0, 4)


def test_a_row_that_was_changed_here_is_told(
    world: World, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert send(world, whole).status_code == 200
    path = world.taker.path
    execute(path, "UPDATE audit SET action = 'read:all' WHERE seq = 1")
    kept = Kept(default_key_file(world.database), DAY_S, lambda: NOW + 900 * DAY_S)
    assert keep(path, kept) == 0
    assert "row 1 is gone or was changed" in caplog.text
    assert stored(path) == 20
