"""What it costs to tell: metrics, traces of a tenth of all decisions, and both, beside neither.

Four sidecars' services, each behind an Envoy of its own, take turns at the same load. Those that
trace send to a collector on this machine that takes everything (`bench.collector`); what they had
to leave out, for want of room, would show in their log, and is a figure.
"""

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import contenders, processes, report, wrk
from bench.contenders import TELLING, Contender
from bench.hot_path import Rotation, calm, rotations, shown, summary
from tests.e2e import sidecar

#: Shares of the throughput with neither, to be reached (issue: 5 % and 15 % may be lost).
WITH_METRICS: Final = 0.95
WITH_TRACES: Final = 0.85
#: Of decisions that are traced.
RATIO: Final = 0.1


def run(quick: bool) -> dict[str, Any]:
    """Throughput and CPU by what is told."""
    wrk.require()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_collector())
        those = [stack.enter_context(contenders.running(one, **_env(one, url))) for one in TELLING]
        done = rotations(those, quick)
        memory = {one.name: processes.memory_mb(one.pid) for one in those}
        troubled = sum(map(_troubles, those))
    told = calm(done) or done
    wrong = sum(turn.wrong for rotation in done for turn in rotation.values())
    return {
        "figures": [
            report.figure("answers other than 200, rows missing or too many", wrong, 0),
            report.figure("times that traces did not arrive", troubled, 0),
            report.at_least(
                "throughput, with metrics / with neither", _rate(told, "metrics"), WITH_METRICS
            ),
            report.at_least(
                f"throughput, with {RATIO:.0%} of decisions traced / with neither",
                _rate(told, "traces"),
                WITH_TRACES,
            ),
        ],
        "throughput_with_both_over_neither": _rate(told, "both"),
        "cpu_per_decision_over_neither": {name: _cpu(told, name) for name in TELLING[1:]},
        "rotations": len(done),
        "undisturbed_rotations": len(calm(done)),
        "telling": {
            name: {**summary([one[name] for one in told]), "memory_mb": memory[name]}
            for name in TELLING
        },
        "each_turn": [[shown(turn) for turn in rotation.values()] for rotation in done],
    }


def _env(name: str, collector: str) -> dict[str, str]:
    env = {}
    if name in ("metrics", "both"):
        env["METRICS_ENABLED"] = "true"
    if name in ("traces", "both"):
        env |= {
            "OTEL_ENABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(RATIO),
        }
    return env


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    port = sidecar.free_port()
    with sidecar.directory() as directory:
        log = directory / "collector.log"
        argv = [sys.executable, "-m", "bench.collector", str(port)]
        with processes.running(argv, log) as process:
            processes.wait_until(process, lambda: _listens(port), log)
            yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _troubles(one: Contender) -> int:
    return (Path(one.directory) / "authorizer.log").read_text().count("traces do not arrive")


def _rate(told: Sequence[Rotation], name: str) -> float:
    ratios = [one[name].load.per_second / one["off"].load.per_second for one in told]
    return report.median(ratios, 3)


def _cpu(told: Sequence[Rotation], name: str) -> float:
    return report.median([one[name].cpu_per_1000_s / one["off"].cpu_per_1000_s for one in told], 3)
