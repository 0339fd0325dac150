"""Audit databases with rows of every kind, for whoever reads them."""

import contextlib
import random
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from authz.core.audit import AuditRow
from authz.core.timestamps import rfc3339
from authz.stores import audit_query
from authz.stores.audit_log import AuditLog
from tests.stores.trail import START, row

ACTIONS: Final = ("read:docs", "READ:Docs/1", "write:x", "delete:a*b", "pay", "=cmd|'/c'!A1", "ü")
AGENTS: Final = ("a", "b", None)
TIERS: Final = ("verified", "standard", "anonymous", None)


def varied(count: int, seed: int = 0) -> list[AuditRow]:
    """Rows that differ in everything, a minute apart; the same for the same seed."""
    pick = random.Random(seed)
    return [
        row(number, at=START + 60 * number)._replace(
            agent_id=pick.choice(AGENTS),
            trust_tier=pick.choice(TIERS),
            action=pick.choice(ACTIONS),
            resource=pick.choice(("r/1", "r/2", None)),
            method=pick.choice(("GET", "POST", None)),
            path=pick.choice(("/a", "/A/b", None)),
            decision=pick.choice(("allow", "deny", "error")),
            enforced=pick.choice(("allow", "deny", "error")),
            mode=pick.choice(("enforce", "audit")),
            source=pick.choice(("proxy", "check", "control", "client")),
            reason=pick.choice(("Because it is", "no", None)),
            trace_id=pick.choice(("t-1", "t-2")),
            latency_us=pick.randrange(10_000),
            metadata=pick.choice(('{"meta":{"k":1}}', '{"host":"h"}', None, "no JSON", "[1]")),
            debit=pick.choice((None, 3)),
        )
        for number in range(1, count + 1)
    ]


def write(path: Path, rows: Iterable[AuditRow]) -> None:
    """Append rows as a sidecar does."""
    audit = AuditLog(path, monotonic=lambda: 0.0, now=lambda: START)
    with contextlib.closing(audit):
        assert audit.open(), audit.failure
        audit.write(list(rows))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads."""
    with contextlib.closing(audit_query.opened(path)) as connection:
        yield connection


def minute(number: int) -> str:
    """The time of row `number`."""
    return rfc3339(START + 60 * number)


def seqs(entries: Iterable[dict[str, Any]]) -> list[int]:
    """The numbers of entries."""
    return [entry["seq"] for entry in entries]
