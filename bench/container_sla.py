"""A sidecar in a container that is held to the seed's limits, and an agent beside it in the pod.

0.25 CPU and 256 MiB: of the one container that has service and Envoy, or of both containers where
they have one each, half for either. Requests come at even intervals, half of them denied, and
latency counts from when one was due, through Envoy and to the upstream and back; the agent and the
upstream, our own echo, are not held. Each request has to have its row.

To be reached is the seed's own service level, at the modest rate; how far it holds above that is
told. Where the processor time is used up, answers come too late, and after 100 ms they are 503.

Rounds in which the host gave processor time to others are told apart, as in `bench.hot_path`.
"""

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import report
from tests.containers import engine, pods
from tests.containers.pods import SHAPES, Pod, Shape
from tests.e2e.sidecar import token

CPUS: Final = 0.25
MEMORY_MB: Final = 256
#: Requests a second: of one agent that is busy, and more.
RATE: Final = 100
RATES: Final = (RATE, 200, 300)
CONNECTIONS: Final = 16
ROUND_S: Final = 15.0
QUICK_ROUND_S: Final = 3.0
#: Undisturbed rounds that are wanted, and how many are tried.
ROUNDS: Final = 2
AT_MOST: Final = 4
#: To be reached, milliseconds.
SLA_MS: Final = {"p50": 5.0, "p95": 20.0, "p99": 50.0}


class Round(NamedTuple):
    """Some seconds at one rate."""

    ms: list[float]
    late_ms: list[float]
    failed: int
    #: Requests that have not exactly one row.
    unrecorded: int
    #: CPUs that the sidecar used, by container, and the share of periods in which it had to wait.
    cpus: dict[str, float]
    throttled: dict[str, float]


def run(quick: bool) -> dict[str, Any]:
    """Latencies by rate, of pods of one container and of two."""
    measured: dict[str, Any] = {}
    why = engine.missing()
    if not why:
        with tempfile.TemporaryDirectory() as directory:
            image = engine.sidecar_image(Path(directory) / "lock")
        try:
            for shape in SHAPES:
                measured[shape] = _measured(image, shape, quick)
        finally:
            engine.remove_leftovers()
    return {
        "figures": _figures(measured, why),
        "cpus_held_to": CPUS,
        "memory_mb_held_to": MEMORY_MB,
        "pods": measured,
    }


def _figures(measured: dict[str, Any], why: str) -> list[dict[str, Any]]:
    figures = []
    for shape in SHAPES:
        what = {"run": "one container", "serve": "two containers"}[shape]
        rates = measured.get(shape, {}).get("rates", {})
        found = rates.get(str(RATE), {"ms": dict.fromkeys(SLA_MS, 0.0)})
        for name, target in SLA_MS.items():
            said = f"{what}, {RATE} requests a second: {name}, ms"
            figures.append(report.figure(said, found["ms"][name], target))
        said = f"{what}, {RATE} requests a second: failed"
        figures.append(report.figure(said, found.get("failed", 0), 0))
        unrecorded = sum(one["unrecorded"] for one in rates.values())
        figures.append(report.figure(f"{what}: requests without a row", unrecorded, 0))
        peak = sum(measured.get(shape, {}).get("peak_mb", {}).values())
        figures.append(report.figure(f"{what}: most memory, MiB", round(peak, 1), MEMORY_MB))
    return [report.not_measured(figure, why) for figure in figures] if why else figures


def _measured(image: str, shape: Shape, quick: bool) -> dict[str, Any]:
    started = time.monotonic()
    # As a user has it: an answer that takes too long is none.
    with pods.pod(image, shape, DECISION_TIMEOUT_MS="100") as one:
        up_s = time.monotonic() - started
        one.hold(CPUS, MEMORY_MB)
        rates = {}
        for rate in RATES:
            rounds = report.in_rounds(
                functools.partial(_round, one, rate, QUICK_ROUND_S if quick else ROUND_S),
                wanted=ROUNDS,
                at_most=AT_MOST,
                quick=quick,
            )
            rates[str(rate)] = _told(rounds)
            report.progress(f"{shape} at {rate} a second: {rates[str(rate)]}")
        short = [name for name, box in one.boxes.items() if box.was_short_of_memory()]
        assert not short, f"{short} were short of memory"
        return {
            "start_s": round(up_s, 2),
            "rates": rates,
            "peak_mb": {name: round(box.used().peak_mb, 1) for name, box in one.boxes.items()},
        }


def _round(one: Pod, rate: int, seconds: float, _: int) -> Round:
    rows = len(one.rows(apart=True))
    before = {name: box.used() for name, box in one.boxes.items()}
    started = time.monotonic()
    ended = one.agent(
        *("-m", "bench.container_agent", str(pods.PORT), str(rate), str(seconds)),
        str(CONNECTIONS),
        env={"AGENT_TOKEN": token(ttl_s=3600), "PYTHONPATH": "/bench"},
        volumes={str(engine.ROOT / "bench"): "/bench/bench:ro"},
    )
    lasted = time.monotonic() - started
    assert ended.code == 0, ended.log
    after = {name: box.used() for name, box in one.boxes.items()}
    said = json.loads(ended.log)
    return Round(
        said["ms"],
        said["late_ms"],
        said["failed"],
        abs(len(one.rows(apart=True)) - rows - said["asked"]),
        {name: (after[name].cpu_s - used.cpu_s) / lasted for name, used in before.items()},
        {
            name: (after[name].throttled - used.throttled)
            / max(1, after[name].periods - used.periods)
            for name, used in before.items()
        },
    )


def _told(rounds: report.Rounds[Round]) -> dict[str, Any]:
    told = rounds.told
    spread = report.spread([ms for one in told for ms in one.ms], 2)
    p95 = report.quantile([ms for one in told for ms in one.ms], 0.95)
    return {
        **rounds.shown(),
        "ms": spread | {"p95": round(p95, 2)},
        "sender_late_ms": report.spread([ms for one in told for ms in one.late_ms], 2),
        # Of all of them: a failure is one whatever the host did.
        "failed": sum(one.failed for one in rounds.all),
        "unrecorded": sum(one.unrecorded for one in rounds.all),
        "cpus_used": {
            name: report.median([one.cpus[name] for one in told], 3) for name in told[0].cpus
        },
        "throttled": {
            name: report.median([one.throttled[name] for one in told], 3)
            for name in told[0].throttled
        },
    }
