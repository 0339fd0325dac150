"""What each part of a decision costs: CPU microseconds, each part by itself.

The parts are the gate's, over the request of the benchmarks: decode, identify (a token that was
seen before, and one that was not), judge, row, encode; `commit` is `AuditLog.write` with 1, 8 and
32 rows in a transaction, per row; `whole` is `gate.check_all` with as many calls, commit included.
`transport` is the rest: the CPU time of a do-nothing server (`bench.nothing`) per call that comes
alone, or in batches of 8 and 32.

Everything repeats the same request, as one agent's sidecar sees it; what is remembered is part of
what a decision costs. Medians over rounds.
"""

import contextlib
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from authz.core import reply
from authz.core.audit import row_of
from authz.core.call import from_check_request
from authz.core.case import Case
from authz.core.identity import Identity, TokenVerifier
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.stages import CHAIN
from authz.core.verdict import Decision, judge
from authz.gate import Gate
from authz.stores.audit_log import AuditLog
from authz.stores.policies import PolicyDirectory
from bench import asked, calls, processes, report
from tests import builders

ROUNDS: Final = 9
#: CPU seconds of a round, roughly.
ROUND_S: Final = 0.2
BATCHES: Final = (1, 8, 32)
#: Calls that one measurement of a transport takes, in seconds of the server's CPU, roughly. The
#: kernel counts it in hundredths.
_TRANSPORT_S: Final = 1.0
_ID: Final = "0" * 32


def run(quick: bool) -> dict[str, Any]:
    """Microseconds by part."""
    rounds = 3 if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        parts = _parts(Path(directory), rounds)
    report.progress(f"of the gate: {parts}")
    transports = {}
    for kind in ("h2c", "grpc"):
        transports[kind] = _transport(kind, _TRANSPORT_S / 4 if quick else _TRANSPORT_S)
        report.progress(f"transport {kind}: {transports[kind]}")
    return {
        "figures": [],
        "cpu_us": parts,
        "transport_cpu_us_by_batch": transports,
    }


def _parts(directory: Path, rounds: int) -> dict[str, Any]:
    raw = asked.check_request()
    tokens = TokenVerifier(asked.SECRET)
    snapshot = PolicyDirectory(asked.POLICIES).read().snapshot
    call = from_check_request(raw)
    now = time.time()
    caller = tokens.identify(call.authorization, now)
    assert isinstance(caller, Identity)

    judged_with = builders.environment()

    def case() -> Case:
        return Case(call, caller, snapshot, judged_with, now, now)

    def decided() -> Outcome:
        verdict = judge(case(), CHAIN)
        assert verdict.decision is Decision.ALLOW
        return Outcome(case(), verdict, Mode.ENFORCE, verdict.decision, _ID, _ID, now, 42, now)

    outcome = decided()
    audit = AuditLog(directory / "audit.db", monotonic=time.monotonic)
    assert audit.open(), audit.failure
    gate = Gate(
        snapshot=lambda: snapshot,
        tokens=tokens,
        recorder=audit,
        environment=judged_with,
        mode=Mode.ENFORCE,
        now=time.time,
        monotonic_ns=time.perf_counter_ns,
        new_id=partial(secrets.token_hex, 16),
    )

    with contextlib.closing(audit):
        return {
            "decode": _cpu_us(lambda: from_check_request(raw), rounds),
            "identify": _cpu_us(lambda: tokens.identify(call.authorization, now), rounds),
            "identify_unseen": _cpu_us(
                lambda: TokenVerifier(asked.SECRET).identify(call.authorization, now), rounds
            ),
            "judge": _cpu_us(
                lambda: judge(builders.case(call, caller, snapshot, judged_with), CHAIN), rounds
            ),
            "row": _cpu_us(lambda: row_of(outcome), rounds),
            "encode": _cpu_us(lambda: reply.check_response(outcome, ""), rounds),
            "commit_by_batch": _by_batch(
                lambda count: partial(audit.write, [row_of(outcome)] * count), rounds
            ),
            "whole_by_batch": _by_batch(
                lambda count: partial(gate.check_all, [raw] * count), rounds
            ),
        }


def _by_batch(work: Callable[[int], Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU microseconds of one of so many that are done together."""
    return {str(count): round(_cpu_us(work(count), rounds) / count, 2) for count in BATCHES}


def _cpu_us(work: Callable[[], object], rounds: int) -> float:
    """CPU microseconds of doing it once."""
    times = 1
    while (spent := _spent(work, times)) < ROUND_S / 4:
        times *= 2
    times = max(1, round(times * ROUND_S / spent))
    return report.median([_spent(work, times) / times * 1e6 for _ in range(rounds)])


def _spent(work: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - started


def _transport(kind: str, wanted_s: float) -> dict[str, float]:
    """CPU microseconds of a do-nothing server for one call, by how many come at once."""
    message = asked.check_request()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        address, log = Path(directory) / "socket", Path(directory) / "log"
        argv = [sys.executable, "-m", "bench.nothing", kind, str(address)]
        with processes.running(argv, log) as process:
            processes.wait_until(process, lambda: _listens(address), log)
            return {
                str(batch): _per_call_us(process.pid, address, message, batch, wanted_s)
                for batch in BATCHES
            }


def _per_call_us(pid: int, address: Path, message: bytes, batch: int, wanted_s: float) -> float:
    deadline = time.monotonic() + processes.PATIENCE_S
    with calls.connected(address) as connection:
        connection.ask(message, batch)
        count, before = 0, processes.cpu_s(pid)
        while (spent := processes.cpu_s(pid) - before) < wanted_s and time.monotonic() < deadline:
            for _ in range(max(1, 500 // batch)):
                connection.ask(message, batch)
                count += batch
    return round(spent / count * 1e6, 2)


def _listens(address: Path) -> bool:
    try:
        with calls.connected(address) as connection:
            return bool(connection.ask(asked.check_request()))
    except OSError:
        return False
