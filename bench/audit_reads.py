"""What requests notice of an audit trail that is read through and exported all the time.

A sidecar (`authz run`) with a trail of some 200,000 rows gets requests at a moderate rate. Quiet
rounds and busy ones take turns. In busy ones others ask its admin API without a pause: one walks
through all rows, page by page, with a filter that matches none, so that the whole table is looked
at; one exports the table as JSON lines; one asks for analytics of all of it. They are processes of
their own, and share two cores with everything else.

Every request has to be allowed, and to have its row; each export has to have every row of the
trail, and each walk to come to its end, so that what was slow is not left out.
"""

import asyncio
import contextlib
import itertools
import json
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.core.audit import AuditRow
from authz.core.timestamps import rfc3339
from authz.edges.echo_upstream import EchoUpstream
from authz.stores.audit_log import AuditLog
from bench import asked, processes, report
from bench.traffic import Answer, Ask, Traffic, precise_loop
from tests.e2e import sidecar
from tests.e2e.upstream import Upstream

ROWS: Final = 200_000
QUICK_ROWS: Final = 20_000
BATCH: Final = 1000
RATE: Final = 500.0
CONNECTIONS: Final = 16
WARM_UP_S: Final = 2.0
ROUND_S: Final = 20.0
QUICK_ROUND_S: Final = 5.0
#: Undisturbed rounds that are wanted, each a quiet stretch and a busy one, and how many are tried.
ROUNDS: Final = 3
AT_MOST: Final = 6
#: To be reached, milliseconds.
P99_MS: Final = 10.0
#: What is asked all the time, by name.
READERS: Final = ("walk", "export", "analytics")


class Round(NamedTuple):
    """The same load without readers and with them."""

    quiet: list[Answer]
    busy: list[Answer]
    late_ms: list[float]
    #: What each reader has done: times it came to an end, rows, what went wrong.
    read: dict[str, dict[str, int]]


def run(quick: bool) -> dict[str, Any]:
    """Latencies with and without readers; the former are to be reached."""
    with sidecar.directory() as directory, contextlib.ExitStack() as stack:
        database = directory / "audit.db"
        rows = QUICK_ROWS if quick else ROWS
        fill(database, rows)
        report.progress(f"{rows} rows, {database.stat().st_size >> 20} MiB")
        upstream = stack.enter_context(processes.child("bench.upstream"))
        target = f"http://127.0.0.1:{int(processes.line(upstream))}"
        running = stack.enter_context(
            sidecar.running(
                Upstream(EchoUpstream(), target),
                AUDIT_DB_PATH=str(database),
                JWT_SECRET=asked.SECRET,
                POLICIES_DIR=str(asked.POLICIES),
                DECISION_TIMEOUT_MS="100",
            )
        )
        # One for all rounds, so that no trace id comes again.
        traffic = Traffic(running.port, asked.headers(), CONNECTIONS)
        rounds = report.in_rounds(
            lambda _: _round(running, traffic, QUICK_ROUND_S if quick else ROUND_S),
            wanted=ROUNDS,
            at_most=AT_MOST,
            quick=quick,
        )
        missing = _missing(database, rounds.all)
    told = rounds.told
    quiet = [answer for one in told for answer in one.quiet]
    busy = [answer for one in told for answer in one.busy]
    wrong = sum(map(_is_wrong, (answer for one in rounds.all for answer in one.quiet + one.busy)))
    failed = sum(one.read[name]["failed"] for one in rounds.all for name in READERS)
    idle = sum(not one.read[name]["ended"] for one in rounds.all for name in READERS)
    what = f"{RATE:.0f} requests a second beside full-table reads"
    return {
        "figures": [
            report.figure(f"{what}: p99, ms", report.spread(_ms(busy))["p99"], P99_MS),
            report.figure(f"{what}: decisions that failed, or have no row", wrong + missing, 0),
            report.figure("reads that failed, or of which none ended in a round", failed + idle, 0),
        ],
        "rows": rows,
        "rate": RATE,
        **rounds.shown(),
        "quiet_ms": report.spread(_ms(quiet)),
        "busy_ms": report.spread(_ms(busy)),
        "sender_late_ms": report.spread([late for one in told for late in one.late_ms]),
        "read": [one.read for one in rounds.all],
    }


def fill(path: Path, count: int) -> None:
    """A trail of decisions over the last 20 hours, as a sidecar would have written it."""
    audit = AuditLog(path, monotonic=time.monotonic)
    started = time.time() - 20 * 3600
    with contextlib.closing(audit):
        assert audit.open(), audit.failure
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            audit.write([_row(number, started + number * 72_000 / count) for number in numbers])


def _row(number: int, at: float) -> AuditRow:
    denied = number % 10 == 0
    decision = "deny" if denied else "allow"
    return AuditRow(
        id=f"row-{number:032x}",
        timestamp=rfc3339(at),
        source="proxy",
        agent_id=f"agent-{number % 50}",
        agent_name=f"Agent {number % 50}",
        trust_tier="verified",
        org_id=None,
        action=f"{'write' if denied else 'read'}:docs/{number % 1000}",
        resource=f"docs/{number % 1000}",
        method="POST" if denied else "GET",
        path=f"/docs/{number % 1000}",
        decision=decision,
        enforced=decision,
        mode="enforce",
        stage="policy",
        code="rule_denied" if denied else "rule_allowed",
        policy=f"policy-{number % 20}",
        rule=f"rule-{number % 3}",
        rule_index=number % 3,
        reason=f"policy policy-{number % 20} denies it" if denied else None,
        policy_version="0" * 16,
        trace_id=f"trace-{number}",
        latency_us=80 + number % 400,
        metadata=json.dumps({"host": "a", "tags": ["code-review"], "meta": {"ticket": number}}),
    )


async def _load(traffic: Traffic, seconds: float) -> tuple[list[Answer], list[float]]:
    asks = itertools.repeat(Ask("allowed", asked.ALLOWED, asked.PATH))
    await traffic.paced(asks, WARM_UP_S, RATE)
    traffic.late_ms = []
    return await traffic.paced(asks, seconds, RATE), traffic.late_ms


def _round(running: sidecar.Sidecar, traffic: Traffic, seconds: float) -> Round:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        quiet, _ = runner.run(_load(traffic, seconds))
        with contextlib.ExitStack() as stack:
            readers = {
                name: stack.enter_context(
                    processes.child("bench.audit_reader", name, running.url, sidecar.ADMIN_TOKEN)
                )
                for name in READERS
            }
            for reader in readers.values():
                assert processes.line(reader) == "reading"
            busy, late_ms = runner.run(_load(traffic, seconds))
            read = {name: _stop(reader) for name, reader in readers.items()}
    report.progress(f"quiet {report.spread(_ms(quiet))}, busy {report.spread(_ms(busy))}: {read}")
    return Round(quiet, busy, late_ms, read)


def _stop(reader: subprocess.Popen[str]) -> dict[str, int]:
    assert reader.stdin is not None
    reader.stdin.write("stop\n")
    reader.stdin.flush()
    said: dict[str, int] = json.loads(processes.line(reader))
    return said


def _ms(answers: Sequence[Answer]) -> list[float]:
    return [answer.latency_ms for answer in answers]


def _is_wrong(answer: Answer) -> bool:
    return (answer.status, answer.decision) != (200, "allow")


def _missing(database: Path, rounds: Sequence[Round]) -> int:
    """Answers of which the trail has not exactly one row that allows."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        found = dict(
            db.execute(
                "SELECT trace_id, group_concat(enforced) FROM audit WHERE agent_id = ?"
                " GROUP BY trace_id",
                (asked.AGENT,),
            )
        )
    answers = (answer for one in rounds for answer in one.quiet + one.busy)
    return sum(found.get(answer.trace) != "allow" for answer in answers)
