"""What asking adds for one caller that waits for each answer: Envoy with the question and without.

One Envoy, one connection, two paths that it answers alike; before the answer to one of them it asks
the authorizer (`bench.envoy`). The two take turns, and the figures are medians over the rounds of
the differences between their p50, and between their p99.
"""

from typing import Any, Final, NamedTuple

from bench import asked, contenders, report, wrk
from bench.contenders import Contender
from bench.wrk import Load

ROUNDS: Final = 5
AT_MOST: Final = 9
ROUND_S: Final = 4
#: To be reached (DESIGN §10), milliseconds.
P50_MS: Final = 0.4
P99_MS: Final = 2.0


class Round(NamedTuple):
    """The same load with the question and without."""

    asking: Load
    unasked: Load


def run(quick: bool) -> dict[str, Any]:
    """Milliseconds that h2c adds, to be reached, and grpc for comparison."""
    wrk.require()
    measured: dict[str, Any] = {}
    for name in ("h2c", "grpc"):
        with contenders.running(name) as one:
            measured[name] = _told(_rounds(one, quick))
        report.progress(f"{name}: {measured[name]}")
    added = measured["h2c"]["added_ms"]
    return {
        "figures": [
            report.figure("one connection: p50 added by h2c, ms", added["p50"], P50_MS),
            report.figure("one connection: p99 added by h2c, ms", added["p99"], P99_MS),
        ],
        **measured,
    }


def _rounds(one: Contender, quick: bool) -> report.Rounds[Round]:
    seconds = 1 if quick else ROUND_S
    one.verify()

    def measure(number: int) -> Round:
        # Whoever goes first finds the caches as the other left them.
        order = (asked.PATH, asked.UNASKED_PATH)[:: 1 if number % 2 else -1]
        loads = {}
        for path in order:
            wrk.warm_up(one.envoy.url + path, asked.headers(), 1)
            loads[path] = load = wrk.drive(one.envoy.url + path, asked.headers(), 1, seconds)
            assert not load.not_200 + load.failed, f"{one.name}, {path}: {load}"
        return Round(loads[asked.PATH], loads[asked.UNASKED_PATH])

    return report.in_rounds(measure, wanted=ROUNDS, at_most=AT_MOST, quick=quick)


def _told(rounds: report.Rounds[Round]) -> dict[str, Any]:
    told = rounds.told
    return {
        **rounds.shown(),
        "asking_ms": _percentiles([one.asking for one in told]),
        "unasked_ms": _percentiles([one.unasked for one in told]),
        "added_ms": {
            "p50": report.median([(e.asking.p50_us - e.unasked.p50_us) / 1000 for e in told], 3),
            "p99": report.median([(e.asking.p99_us - e.unasked.p99_us) / 1000 for e in told], 3),
        },
    }


def _percentiles(loads: list[Load]) -> dict[str, float]:
    return {
        "p50": report.median([load.p50_us / 1000 for load in loads], 3),
        "p99": report.median([load.p99_us / 1000 for load in loads], 3),
        "p999": report.median([load.p999_us / 1000 for load in loads], 3),
    }
