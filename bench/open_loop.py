"""The service with a quarter of a CPU, and 1,000 requests a second whether or not it keeps up.

Requests are due at even intervals, and latency counts from when one was due. A cgroup holds the
service, children included, to 0.25 CPU, the seed's own limit; Envoy and the sender are outside of
it. `grpc`, the same gate behind grpc.aio, is there for comparison: it does not keep up.

The sender's own lateness is part of every latency and told beside it (`sender_late_ms`). Rounds in
which the host gave processor time to others are told apart, as in `bench.hot_path`.
"""

import asyncio
import itertools
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from bench import asked, cgroup, contenders, processes, report
from bench.cgroup import Throttling
from bench.contenders import Contender
from bench.traffic import Answer, Ask, Traffic, precise_loop

CPUS: Final = 0.25
RATE: Final = 1000.0
CONNECTIONS: Final = 64
WARM_UP_S: Final = 2.0
ROUND_S: Final = 15.0
QUICK_ROUND_S: Final = 4.0
#: Undisturbed rounds that are wanted, and how many are tried.
ROUNDS: Final = 2
AT_MOST: Final = 5
#: To be reached (DESIGN §10), milliseconds.
P50_MS: Final = 1.0
P99_MS: Final = 5.0


class Round(NamedTuple):
    """Some seconds at the full rate."""

    answers: list[Answer]
    late_ms: list[float]
    throttling: Throttling
    #: CPUs that the service used.
    used: float


def run(quick: bool) -> dict[str, Any]:
    """Latencies of h2c, to be reached, and of grpc."""
    measured: dict[str, Any] = {}
    why = ""
    try:
        for name in ("h2c", "grpc"):
            measured[name] = _told(_held(name, quick))
            report.progress(f"{name}: {measured[name]}")
    except report.Unavailable as reason:
        why = str(reason)
    return {"figures": _figures(measured, why), "cpus": CPUS, "rate": RATE, **measured}


def _figures(measured: dict[str, Any], why: str) -> list[dict[str, Any]]:
    found = measured.get("h2c", {"ms": {"p50": 0, "p99": 0}, "failed": 0})
    what = f"h2c with {CPUS:g} CPU, {RATE:.0f} requests a second"
    figures = [
        report.figure(f"{what}: p50, ms", found["ms"]["p50"], P50_MS),
        report.figure(f"{what}: p99, ms", found["ms"]["p99"], P99_MS),
        report.figure(f"{what}: failed", found["failed"], 0),
    ]
    return figures if measured else [report.not_measured(figure, why) for figure in figures]


def _held(name: str, quick: bool) -> report.Rounds[Round]:
    """Rounds on one authorizer that is held."""
    with cgroup.limited(CPUS) as group, contenders.running(name) as one:
        one.verify()
        # Only now: starting is measured elsewhere, and would take a few times as long.
        group.add(processes.tree(one.pid))

        def measure(_: int) -> Round:
            with asyncio.Runner(loop_factory=precise_loop) as runner:
                return runner.run(_round(one, group, QUICK_ROUND_S if quick else ROUND_S))

        # The comparison needs no second look.
        wanted, at_most = (ROUNDS, AT_MOST) if name == "h2c" else (1, 2)
        return report.in_rounds(measure, wanted=wanted, at_most=at_most, quick=quick)


async def _round(one: Contender, group: cgroup.Cgroup, seconds: float) -> Round:
    port = int(one.envoy.url.rpartition(":")[2])
    traffic = Traffic(port, asked.headers(), CONNECTIONS)
    asks = itertools.repeat(Ask("allowed", asked.ALLOWED, asked.PATH))
    await traffic.paced(asks, WARM_UP_S, RATE)
    traffic.late_ms = []
    throttled, cpu = group.throttling(), processes.cpu_s(one.pid)
    started = time.monotonic()
    answers = await traffic.paced(asks, seconds, RATE)
    lasted = time.monotonic() - started
    waited = group.throttling().since(throttled)
    used = (processes.cpu_s(one.pid) - cpu) / lasted
    return Round(answers, traffic.late_ms, waited, used)


def _told(rounds: report.Rounds[Round]) -> dict[str, Any]:
    told = rounds.told
    answers = [answer for one in told for answer in one.answers]
    return {
        **rounds.shown(),
        "ms": report.spread([answer.latency_ms for answer in answers], 3),
        "failed": sum(
            (answer.status, answer.decision) != (200, "allow")
            for one in told
            for answer in one.answers
        ),
        "statuses": dict(Counter(str(answer.status) for answer in answers)),
        "sender_late_ms": report.spread([late for one in told for late in one.late_ms], 3),
        "cpus_used": report.median([one.used for one in told], 3),
        "throttled_periods": [f"{o.throttling.throttled} of {o.throttling.periods}" for o in told],
        "throttled_s": [round(one.throttling.throttled_s, 3) for one in told],
    }
