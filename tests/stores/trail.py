"""A small audit trail as a sidecar leaves it, kept as bytes so that each test has its own."""

import contextlib
import itertools
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from authz.core.audit import AuditRow, change_row
from authz.core.audit_verify import Report
from authz.core.mode import Mode
from authz.core.timestamps import rfc3339
from authz.stores import audit_check
from authz.stores.audit_key import default_key_file, public_file, public_key
from authz.stores.audit_log import AuditLog
from authz.stores.audit_maintenance import AuditMaintenance

START: Final = 1_700_000_000.0
DAY_S: Final = 86_400.0


def row(number: int = 1, *, at: float = START) -> AuditRow:
    """A row with something in every kind of column."""
    return AuditRow(
        id=f"d-{number}",
        timestamp=rfc3339(at),
        source="proxy",
        agent_id="agent-ü",
        agent_name=None,
        trust_tier="verified",
        org_id=None,
        action="read:doc",
        resource='say "hi"\n\\',
        method="GET",
        path="/proxy/\N{GRINNING FACE}",
        decision="allow",
        enforced="allow",
        mode="enforce",
        stage=None,
        code="rule_allowed",
        policy="p",
        rule="r",
        rule_index=number % 3,
        reason=None,
        policy_version="v1",
        trace_id=f"t-{number}",
        latency_us=7,
        metadata='{"host":"h"}',
    )


class World:
    """A log, what looks after it, and both clocks; `pass_s` is time that passes."""

    def __init__(self, path: Path, *, retention_days: int = 0, wal_limit: int = 1 << 26) -> None:
        self.path = path
        self.key_file = default_key_file(path)
        self.wall = START
        self.monotonic = 0.0
        self.retention_days = retention_days
        self.wal_limit = wal_limit
        self._ids = itertools.count(1)
        self._changes = itertools.count(1)
        self.begin()

    def begin(self) -> None:
        """Start, as after a stop or a crash."""
        self.audit = AuditLog(self.path, monotonic=lambda: self.monotonic, now=lambda: self.wall)
        assert self.audit.open()
        self.maintenance = AuditMaintenance(
            self.audit,
            self.path,
            key_file=self.key_file,
            retention_days=self.retention_days,
            change=self._change,
            now=lambda: self.wall,
            monotonic=lambda: self.monotonic,
            wal_limit=self.wal_limit,
        )

    def _change(self, action: str, resource: str, reason: str) -> AuditRow:
        return change_row(
            row_id=f"c-{next(self._changes)}",
            at=self.wall,
            action=action,
            resource=resource,
            reason=reason,
            mode=Mode.ENFORCE,
            policy_version="v1",
        )

    def write(self, count: int = 1, *, at: float | None = None) -> None:
        """Record decisions."""
        when = self.wall if at is None else at
        self.audit.write([row(next(self._ids), at=when) for _ in range(count)])

    def pass_s(self, seconds: float = 1.0) -> None:
        """Let time pass, and what is due be done."""
        self.wall += seconds
        self.monotonic += seconds
        self.maintenance.tick()

    def end(self) -> None:
        """Stop cleanly."""
        self.maintenance.finish()
        self.audit.close()

    def vanish(self) -> None:
        """Stop as a killed process does: nothing more is signed."""
        self.maintenance._let_go()
        self.audit.close()

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Do something to the file that no sidecar does."""
        return execute(self.path, statement, *values)

    def verify(self, **options: object) -> Report:
        """What verifying with the public half beside the file finds."""
        return verify(self.path, now=self.wall, **options)


def copy(path: Path, to: Path) -> None:
    """Copy a file as another process does: closing it here would drop SQLite's locks on it."""
    subprocess.run(["cp", str(path), str(to)], check=True)


def execute(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """One statement on a database."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as other:
        return other.execute(statement, values).fetchall()


def overfill(path: Path, root: int) -> None:
    """Let the first leaf of a table say that it has 200 rows (SQLite file format, §1.6).

    Those it does not have are read as row 0 each, so that whoever reads on behind the last one
    begins at the first. Their pointers are zeros, as in the gap before the rows, also where the gap
    has no room for all of them.
    """
    with path.open("r+b") as stream:
        page = int.from_bytes(stream.read(18)[16:], "big")
        stream.seek((root - 1) * page)
        kind, _, cells, _, _, _, first = struct.unpack(">BHHHBIH", stream.read(14))
        assert (kind, cells > 0) == (5, True), "not an interior page of a table"
        stream.seek((root - 1) * page + first)
        leaf = int.from_bytes(stream.read(4), "big")
        header = (leaf - 1) * page
        stream.seek(header + 3)
        there = int.from_bytes(stream.read(2), "big")
        stream.seek(header + 3)
        stream.write((200).to_bytes(2, "big"))
        stream.seek(header + 8 + 2 * there)
        stream.write(bytes(2 * (200 - there)))


def verify(path: Path, *, now: float = START, **options: object) -> Report:
    """What verifying with the public half beside the file finds."""
    key = public_key(public_file(default_key_file(path)))
    return audit_check.verify(path, {key.key_id: key.fits}, now=now, **options)  # type: ignore[arg-type]


def kinds(report: Report) -> list[str]:
    """The kinds of problems, in their order."""
    return [problem.kind for problem in report.problems]


@contextlib.contextmanager
def world(path: Path, **options: int) -> Iterator[World]:
    """A world that is closed afterwards."""
    made = World(path, **options)
    try:
        yield made
    finally:
        made.vanish()
