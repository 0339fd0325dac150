"""What the thread beside the log does: signing, checkpoints, retention, and letting go."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from authz.core.errors import AuditUnavailable
from authz.stores import audit_check, audit_maintenance, audit_seal
from authz.stores.audit_key import default_key_file, public_file, public_key, signing_key
from authz.stores.audit_log import AuditLog, AuditReader
from authz.stores.audit_maintenance import LOCKED_BEFORE_TOLD, RESIGN_S, AuditMaintenance
from tests.stores import trail
from tests.stores.trail import DAY_S, START, World, execute, kinds

#: How long a condition is waited for; it takes a fraction of that.
PATIENCE_S: Final = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def world(path: Path) -> Iterator[World]:
    with trail.world(path) as made:
        yield made


def _heads(world: World) -> list[tuple[object, ...]]:
    return world.execute("SELECT seq, at, final FROM audit_heads ORDER BY id")


# Heads.


def test_the_newest_row_is_signed_and_the_anchor_too(world: World) -> None:
    world.pass_s()
    assert _heads(world) == [(0, "2023-11-14T22:13:21.000000Z", 0)]
    assert world.verify().verified
    world.write(3)
    world.pass_s()
    world.write(2)
    world.pass_s()
    assert [seq for seq, _, _ in _heads(world)] == [0, 5]
    report = world.verify()
    assert (report.verified, report.age_s, report.clean_stop) == (True, 0.0, False)


def test_a_clean_stop_is_signed_as_one(world: World) -> None:
    world.write(3)
    world.pass_s()
    world.write(1)
    world.end()
    assert _heads(world)[-1][0::2] == (4, 1)
    assert world.verify().clean_stop
    world.begin()
    world.pass_s()
    assert _heads(world)[-1][0::2] == (4, 0)
    assert not world.verify().clean_stop


def test_after_a_crash_what_was_not_signed_is_signed(world: World) -> None:
    world.write(3)
    world.pass_s()
    world.write(2)
    world.vanish()
    assert world.verify().verified
    assert not world.verify().clean_stop
    world.begin()
    world.write(1)
    world.pass_s()
    assert _heads(world)[-1][0] == 6
    report = world.verify()
    assert (report.verified, report.notes) == (True, [])


def test_an_idle_trail_is_signed_again_in_place(world: World) -> None:
    world.write(1)
    for _ in range(10):
        world.pass_s(RESIGN_S / 4)
    assert len(_heads(world)) == 1
    assert world.verify().age_s is not None
    assert (world.verify().age_s or 0) < RESIGN_S
    assert not world.verify(max_age_s=RESIGN_S).problems
    world.vanish()
    world.wall += 3600
    assert kinds(world.verify(max_age_s=RESIGN_S)) == ["too_old"]


def test_one_head_an_hour_stays(world: World) -> None:
    for _ in range(200):
        world.write(1)
        world.pass_s(120.0)
    assert 6 <= len(_heads(world)) <= 9
    assert world.verify().verified


def test_a_trail_that_was_cut_off_while_running_is_noticed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(9)
    world.pass_s()
    world.write(3)
    world.pass_s()
    world.execute("DELETE FROM audit WHERE seq > 5")
    world.write(1)
    world.pass_s()
    world.write(20)
    world.pass_s()
    world.pass_s()
    assert [r.message for r in caplog.records if "is gone or was changed" in r.message] == [
        f"AUDIT_DB_PATH: {world.path}: row 12 of the audit trail, as it was signed at"
        " 2023-11-14T22:13:22.000000Z, is gone or was changed; `authz audit verify` says more"
    ]
    actions = [entry["action"] for entry in AuditReader(world.path).tail(30)]
    assert actions.count("audit:broken") == 1
    # The chain goes on, and the evidence stays.
    assert kinds(world.verify())[0] == "rewritten"


def test_a_crash_between_any_two_statements_leaves_a_trail_that_verifies(path: Path) -> None:
    seen: list[str] = []
    with trail.world(path, retention_days=1) as world:
        world.write(450)
        world.pass_s()
        world.write(5)
        database = world.maintenance._database
        assert database is not None

        def look(statement: str) -> None:
            copy = path.with_name(f"at-{len(seen)}.db")
            for suffix in ("", "-wal", ".pub"):
                if (file := Path(f"{path}{suffix}")).exists():
                    trail.copy(file, Path(f"{copy}{suffix}"))
            seen.append(statement)
            report = trail.verify(copy, now=world.wall)
            assert report.verified, (statement, report)

        database.connection().set_trace_callback(look)  # type: ignore[no-untyped-call]
        world.pass_s()  # signs
        world.write(10, at=START + 2 * DAY_S)
        world.wall += 2 * DAY_S
        world.monotonic += 2 * DAY_S
        world.maintenance.tick()  # signs and removes
        database.connection().set_trace_callback(None)  # type: ignore[no-untyped-call]
    assert any(statement.startswith("DELETE") for statement in seen)
    assert len(seen) > 30
    assert trail.verify(path, now=world.wall).first == 456


# Keys.


def test_another_key_is_a_row_and_both_verify(world: World, path: Path) -> None:
    world.write(2)
    world.pass_s()
    world.end()
    first = path.with_name("first.pub")
    first.write_bytes(public_file(world.key_file).read_bytes())
    world.key_file.unlink()
    for _ in range(2):
        world.begin()
        world.write(1)
        world.pass_s()
        world.end()
    told = [e for e in AuditReader(path).tail(50) if e["action"] == "audit:key"]
    old, new = public_key(first), public_key(public_file(world.key_file))
    assert [entry["reason"] for entry in told] == [
        f"the audit trail was signed with key {old.key_id}, and is with {new.key_id} now"
    ]
    keys = {old.key_id: old.fits, new.key_id: new.fits}
    assert audit_check.verify(path, keys, now=world.wall).verified
    assert audit_check.signers(path) == set(keys)
    assert "unknown_key" in kinds(world.verify())


def test_without_a_key_everything_else_works(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key_file = default_key_file(path)
    key_file.write_text("no key")
    with trail.world(path, retention_days=1) as world:
        world.write(300)
        for _ in range(5):
            world.pass_s()
        world.pass_s(2 * DAY_S)
        world.write(1)
        world.pass_s()
        assert key_file.read_text() == "no key"
        assert [r.message for r in caplog.records if "AUDIT_KEY_FILE" in r.message] == [
            f"AUDIT_KEY_FILE: {key_file}: not an Ed25519 private key in PEM, without a password;"
            " the audit trail is not signed until it is"
        ]
        report = audit_check.verify(path, {}, now=world.wall)
        assert kinds(report) == ["unsigned", "unsigned"]
        assert report.first == 301
        # Mended, it is found without a start.
        key_file.unlink()
        world.pass_s(audit_maintenance.KEY_AGAIN_S)
        assert world.verify().verified


def test_a_damaged_anchor_or_head_does_not_stop_the_signing(world: World) -> None:
    world.write(2)
    world.pass_s()
    world.vanish()
    for statement in (
        "UPDATE audit_anchors SET hash = 'text', signature = NULL, key_id = NULL",
        "UPDATE audit_heads SET at = 7, hash = 'text', final = 'x'",
    ):
        world.execute(statement)
    world.begin()
    world.write(2)
    world.pass_s()
    world.write(2)
    world.pass_s()
    assert _heads(world)[-1][0] == 7  # four rows, two more, and the one that says so
    assert not world.verify().verified


# The WAL.


def _wal_bytes(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def test_a_copy_of_the_file_alone_has_every_row_after_a_tick(world: World, path: Path) -> None:
    for _ in range(5):
        world.write(20)
        world.pass_s()
        copy = path.with_name("copy.db")
        trail.copy(path, copy)
        written = execute(path, "SELECT max(seq) FROM audit")
        assert execute(copy, "SELECT max(seq) FROM audit") == written
        Path(f"{copy}-wal").unlink(missing_ok=True)


def test_between_two_ticks_the_wal_is_not_begun_anew(world: World, path: Path) -> None:
    """Its first commit would wait for the disk, on the path of a decision."""

    def salt() -> bytes:
        # It changes with each reset.
        copied = path.with_name("wal")
        trail.copy(Path(f"{path}-wal"), copied)
        return copied.read_bytes()[16:24]

    world.write(1)
    world.pass_s()
    before = salt()
    for number in range(20):
        world.write(1)
        if number % 3 == 0:
            world.pass_s()
    assert salt() == before
    world.pass_s()
    world.pass_s()
    world.write(1)
    assert salt() == before


def _writing(
    audit: AuditLog, stop: threading.Event, failures: list[AuditUnavailable], pause_s: float
) -> None:
    rows = [trail.row(number) for number in range(8)]
    while not stop.wait(pause_s) if pause_s else not stop.is_set():
        try:
            audit.write(rows)
        except AuditUnavailable as error:
            failures.append(error)


@contextlib.contextmanager
def _busy_writer(
    path: Path, pause_s: float = 0.0
) -> Iterator[tuple[AuditLog, list[AuditUnavailable]]]:
    """A log that is written all the time, in a thread of its own."""
    stop, ready = threading.Event(), threading.Event()
    failures: list[AuditUnavailable] = []
    logs: list[AuditLog] = []

    def work() -> None:
        # How long the disk keeps the lock is not what is tested.
        audit = AuditLog(path, monotonic=time.monotonic, patience_s=PATIENCE_S)
        assert audit.open()
        logs.append(audit)
        ready.set()
        try:
            _writing(audit, stop, failures, pause_s)
        finally:
            audit.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield logs[0], failures
    finally:
        stop.set()
        thread.join()


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def _looked_after(audit: AuditLog, path: Path, **options: float) -> AuditMaintenance:
    return AuditMaintenance(
        audit,
        path,
        key_file=default_key_file(path),
        retention_days=0,
        change=lambda *_: trail.row(),
        now=time.time,
        monotonic=time.monotonic,
        **options,  # type: ignore[arg-type]
    )


LIMIT: Final = 4 << 20
#: Some hundred are enough. Without the checkpoints that begin the WAL anew there is no end to it.
MAX_LOOKS: Final = 2_500


def _frames(connection: sqlite3.Connection) -> int | None:
    """Frames in the WAL, by a checkpoint; None where that came while its header was written."""
    found: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    return None if found < 0 else found


def test_passive_checkpoints_alone_never_reset_the_wal_of_a_busy_writer(path: Path) -> None:
    """Why there is another kind: a writer that has begun goes on where the WAL ends.

    Without threads, so that there is always one that has begun when a checkpoint comes. Between two
    of its transactions a checkpoint may find all of them, and the WAL be begun anew: by chance.
    """
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer,
        contextlib.closing(sqlite3.connect(path)) as other,
    ):
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE filling (bytes BLOB)")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("SELECT 1 FROM filling").fetchall()  # so that it knows of the WAL
        frames = [0]
        while len(frames) <= 20 or _wal_bytes(path) <= 4 * LIMIT:
            writer.execute("BEGIN IMMEDIATE")
            now = _frames(other)
            assert now is not None
            assert now >= frames[-1], "it was begun anew"
            frames.append(now)
            writer.execute("INSERT INTO filling VALUES (zeroblob(1000000))")
            writer.execute("COMMIT")
        # The other kind has the next one begin it anew.
        other.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        writer.execute("INSERT INTO filling VALUES ('')")
        last = _frames(other)
        assert last is not None
        assert last < frames[1]


def test_the_wal_of_a_busy_writer_stays_bounded(path: Path) -> None:
    """It is begun anew again and again, while what is written is many times its size.

    Each time takes some looks, since the writer leaves the lock for next to no time: so they are
    counted, and how long they take is the machine's to say.
    """
    signing_key(default_key_file(path))
    begun = frames = looks = 0
    with _busy_writer(path) as (audit, failures):
        maintenance = _looked_after(audit, path, wal_limit=LIMIT)
        with contextlib.closing(sqlite3.connect(path)) as other:
            while begun < 5:
                looks += 1
                assert looks < MAX_LOOKS, "the WAL was not begun anew"
                maintenance.tick()
                now = _frames(other)
                if now is not None:
                    begun, frames = begun + (now < frames), now
        maintenance.finish()
    assert failures == []
    report = trail.verify(path, now=time.time())
    assert report.verified, report


def test_copies_under_load_have_every_row_that_is_two_seconds_old(path: Path) -> None:
    with _busy_writer(path, pause_s=0.002) as (audit, _):
        maintenance = _looked_after(audit, path)
        maintenance.start()
        copies = 0
        began = time.monotonic()
        attempts = 0
        with contextlib.closing(sqlite3.connect(path)) as reader:
            _until(lambda: bool(execute(path, "SELECT 1 FROM audit LIMIT 1")), "nothing written")
            while copies < 3:
                attempts += 1
                assert attempts < 50
                [[there]] = reader.execute("SELECT max(seq) FROM audit").fetchall()
                seen = time.monotonic()
                while time.monotonic() < max(seen, began) + 2.0:
                    time.sleep(0.05)
                copy = path.with_name(f"copy-{attempts}.db")
                trail.copy(path, copy)
                # One that overlaps a checkpoint may be torn, which SQLite tells; then again.
                try:
                    whole = execute(copy, "PRAGMA quick_check") == [("ok",)]
                except sqlite3.DatabaseError:
                    continue
                if whole:
                    copies += 1
                    [[last]] = execute(copy, "SELECT max(seq) FROM audit")
                    [[count]] = execute(copy, "SELECT count(*) FROM audit")
                    assert isinstance(last, int)
                    assert last >= there
                    assert count == last
        maintenance.stop()


# Retention.


def test_old_rows_go_and_the_rest_verifies(path: Path) -> None:
    with trail.world(path, retention_days=90) as world:
        for _ in range(10):
            world.write(150)
            world.pass_s(20 * DAY_S)
        world.pass_s()
        report = world.verify()
        assert report.verified, report
        assert (report.first, report.last) == (901, 1500)
        assert world.execute("SELECT count(*), max(seq), max(reason) FROM audit_anchors") == [
            (1, 900, "retention")
        ]
        assert report.notes == ["the rows up to 900 were removed by retention"]
        assert all(isinstance(seq, int) and seq >= 900 for seq, _, _ in _heads(world))
        world.pass_s(400 * DAY_S)
        world.pass_s()
        assert world.verify().rows == 0
        assert world.verify().verified
        world.write(1)
        world.pass_s()
        assert (world.verify().verified, world.verify().first) == (True, 1501)


def test_nothing_is_removed_unless_asked(world: World) -> None:
    world.write(10)
    world.pass_s(36_500 * DAY_S)
    assert world.verify().rows == 10


def test_a_clock_that_jumps_forward_removes_nothing(path: Path) -> None:
    with trail.world(path, retention_days=1) as world:
        world.write(10)
        world.pass_s()
        world.wall += 100 * DAY_S
        world.pass_s(100.0)
        assert world.verify().rows == 10
        world.pass_s(DAY_S)
        assert world.verify().rows == 0


def test_a_clock_that_jumps_back_removes_nothing_early(path: Path) -> None:
    with trail.world(path, retention_days=1) as world:
        world.write(10)
        world.wall -= 100 * DAY_S
        world.pass_s(2 * DAY_S)
        assert world.verify().rows == 10


def test_only_a_beginning_is_removed(path: Path) -> None:
    """A row whose time lies ahead holds up the ones behind it; none is taken from between."""
    with trail.world(path, retention_days=1) as world:
        world.write(5)
        world.write(1, at=START + 50 * DAY_S)
        world.write(5)
        world.pass_s(10 * DAY_S)
        assert (world.verify().first, world.verify().rows) == (6, 6)
        assert world.verify().verified


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        # Older than it is, so that it is forgotten.
        ("UPDATE audit SET timestamp = '2000-01-01T00:00:00.000000Z' WHERE seq <= 3", 1),
        # Edited, and soon to be vouched for by the anchor behind it.
        ("UPDATE audit SET reason = 'other' WHERE seq = 2", 2),
        ("DELETE FROM audit WHERE seq = 2", 2),
        ("UPDATE audit SET hash = x'00' WHERE seq = 3", 3),
    ],
)
def test_retention_removes_no_evidence(path: Path, statement: str, row: int) -> None:
    with trail.world(path, retention_days=1) as world:
        world.write(5)
        world.pass_s()
        world.execute(statement)
        [[before]] = world.execute("SELECT count(*) FROM audit")
        if "timestamp" not in statement:
            world.pass_s(2 * DAY_S)
        world.pass_s(100.0)
        world.pass_s(100.0)
        assert isinstance(before, int)
        assert world.execute("SELECT seq, reason FROM audit_anchors") == [(0, "genesis")]
        assert world.execute("SELECT action, resource FROM audit WHERE action LIKE 'audit:%'") == [
            ("audit:broken", str(row))
        ]
        assert world.execute("SELECT count(*) FROM audit") == [(before + 1,)]
        assert not world.verify().verified


def test_a_beginning_that_nobody_signed_is_on_record_when_it_is(path: Path) -> None:
    with trail.world(path) as world:
        world.write(5)
        world.pass_s()
        world.end()
        world.execute("DELETE FROM audit_heads")
        world.execute(
            "UPDATE audit_anchors SET seq = 3, hash = (SELECT hash FROM audit WHERE seq = 3),"
            " key_id = NULL, signature = NULL"
        )
        world.execute("DELETE FROM audit WHERE seq <= 3")
        world.begin()
        world.pass_s()
        assert world.execute("SELECT resource FROM audit WHERE action = 'audit:anchor'") == [("3",)]


def test_removing_much_is_done_a_little_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_maintenance, "RETENTION_REST_S", 0.0)
    with trail.world(path, retention_days=1) as world:
        world.write(audit_seal.CHUNK * 3)
        held: list[int] = []

        def at_commit(statement: str) -> None:
            if statement == "COMMIT":
                held.append(1)

        world.maintenance.tick()
        database = world.maintenance._database
        assert database is not None
        database.connection().set_trace_callback(at_commit)  # type: ignore[no-untyped-call]
        world.pass_s(3 * DAY_S)
        database.connection().set_trace_callback(None)  # type: ignore[no-untyped-call]
        assert len(held) >= 3
        assert world.verify().rows == 0


# Which file.


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_it_follows_the_log_to_another_file(world: World, path: Path, how: str) -> None:
    world.write(3)
    world.pass_s()
    elsewhere = path.with_name("elsewhere.db")
    if how == "replaced":
        with trail.world(elsewhere) as other:
            other.write(1)
        elsewhere.rename(path)
    elif how == "moved":
        path.rename(elsewhere)
    else:
        path.unlink()
    world.pass_s()
    assert world.maintenance._database is None
    assert world.maintenance._holder is None
    if how != "replaced":
        assert not path.exists()
    world.write(2)
    world.pass_s()
    assert world.verify().verified
    assert world.verify().rows == (3 if how == "replaced" else 2)


def test_it_holds_no_descriptor_of_a_file_that_is_gone(world: World, path: Path) -> None:
    world.write(3)
    world.pass_s()
    path.unlink()
    world.write(1)
    world.pass_s()
    open_now = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            open_now.append(str(link.readlink()))
    assert not [name for name in open_now if str(path) in name and "(deleted)" in name]


def test_a_locked_file_is_waited_for_and_told_of_once(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_maintenance, "PATIENCE_MS", 1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(LOCKED_BEFORE_TOLD + 5):
            world.pass_s()
        other.execute("ROLLBACK")
    told = [r.message for r in caplog.records if "cannot be signed" in r.message]
    assert told == [
        f"AUDIT_DB_PATH: {path}: its heads cannot be signed, nor its WAL be folded in, now:"
        " database is locked"
    ]
    world.pass_s()
    assert [r.message for r in caplog.records if "again" in r.message] == [
        f"AUDIT_DB_PATH: {path} can be looked after again"
    ]
    assert world.verify().verified


def test_a_bug_of_ours_is_told_of_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    world.write(1)
    with monkeypatch.context() as patch:
        patch.setattr(audit_maintenance, "sign_head", broken)
        for _ in range(5):
            world.pass_s()
    assert len([r for r in caplog.records if r.exc_info]) == 1
    world.pass_s()
    assert world.verify().verified


# The thread.


def test_it_starts_works_and_stops_within_a_second(path: Path) -> None:
    audit = AuditLog(path, monotonic=time.monotonic)
    assert audit.open()
    maintenance = _looked_after(audit, path)
    maintenance.start()
    audit.write([trail.row(1)])
    _until(lambda: bool(execute(path, "SELECT 1 FROM audit_heads")), "nothing was signed")
    audit.write([trail.row(2)])
    began = time.monotonic()
    maintenance.stop()
    assert time.monotonic() - began < 1.0
    audit.close()
    assert not Path(f"{path}-wal").exists()
    report = trail.verify(path, now=time.time())
    assert (report.verified, report.clean_stop, report.rows) == (True, True, 2)
    maintenance.stop()


def test_a_disk_that_hangs_does_not_keep_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hangs, works = threading.Event(), threading.Event()

    def look_after(*_: object) -> None:
        hangs.set()
        works.wait(PATIENCE_S)

    monkeypatch.setattr(audit_maintenance, "STOP_S", 0.05)
    monkeypatch.setattr(AuditMaintenance, "_look_after", look_after)
    audit = AuditLog(path, monotonic=time.monotonic)
    assert audit.open()
    maintenance = _looked_after(audit, path)
    maintenance.start()
    assert hangs.wait(PATIENCE_S)
    thread = maintenance._thread
    assert thread is not None
    maintenance.stop()
    assert "the disk hangs" in caplog.text
    works.set()
    thread.join()
    audit.close()
