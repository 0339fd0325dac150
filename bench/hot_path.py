"""Requests through Envoy as fast as 32 connections get answers, by authorizer.

All of `bench.contenders` are up at once, each behind an Envoy of its own of one configuration, and
take turns: a rotation is one turn of each, in an order that changes, so that whatever else the
machine does meets them all. The figures are ratios inside a rotation, and of these the median.
The authorizers that decide answer the same request from the same policies.

Before each turn its answers are checked, an allowed and a denied one. In it no answer may be
anything but 200, and whoever records has as many rows as Envoy had answers: a call that Envoy gave
up when wrk hung up may have one as well.

A virtual machine is not always run when it could be. The share that the host gave to others is
known of each turn; what counts are rotations in which that was next to nothing, and there are more
rotations until there are enough of them.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from bench import asked, contenders, processes, report, wrk
from bench.contenders import Contender
from bench.wrk import Load

CONNECTIONS: Final = 32
ROTATIONS: Final = 5
AT_MOST: Final = 9
TURN_S: Final = 5
QUICK_TURN_S: Final = 2
#: Until Envoy and the authorizer are done with what wrk no longer waited for.
_SETTLE_S: Final = 0.2
#: To be reached (DESIGN §10).
THROUGHPUT: Final = 2.2
AGAINST_OPA: Final = 5.0
CPU: Final = 0.35
OF_CEILING: Final = 0.75


class Turn(NamedTuple):
    """One contender's part of a rotation."""

    name: str
    load: Load
    elapsed_s: float
    #: CPU seconds of the authorizer, and of Envoy.
    authorizer_s: float
    envoy_s: float
    #: What Envoy was answered.
    decisions: int
    #: Calls without an answer in time.
    given_up: int
    #: Audit rows; None where none are kept.
    rows: int | None
    stolen: float

    @property
    def cpu_per_1000_s(self) -> float:
        return self.authorizer_s / self.decisions * 1000

    @property
    def wrong(self) -> int:
        """Answers that were not what they should be, and rows that are missing or too many."""
        wrong = self.load.not_200 + self.load.failed
        if self.rows is not None:
            least, most = self.decisions, self.decisions + self.given_up + CONNECTIONS
            wrong += max(0, least - self.rows, self.rows - most)
        return wrong


Rotation = dict[str, Turn]


def run(quick: bool) -> dict[str, Any]:
    """Throughput, CPU and memory by contender; the ratios are to be reached."""
    wrk.require()
    absent = {name: why for name in contenders.NAMES if (why := contenders.missing(name))}
    for name, why in absent.items():
        report.progress(f"{name} is left out: {why}")
    names = [name for name in contenders.NAMES if name not in absent]
    with contextlib.ExitStack() as stack:
        those = [stack.enter_context(contenders.running(name)) for name in names]
        done = rotations(those, quick)
        memory = {
            one.name: {
                "memory_mb": processes.memory_mb(one.pid),
                "envoy_memory_mb": processes.memory_mb(one.envoy.pid),
            }
            for one in those
        }
    undisturbed = calm(done)
    told = undisturbed or done
    return {
        "figures": _figures(told, done, absent),
        "connections": CONNECTIONS,
        "left_out": absent,
        "rotations": len(done),
        "undisturbed_rotations": len(undisturbed),
        "contenders": {
            name: {**summary([one[name] for one in told]), **memory[name]} for name in names
        },
        "each_turn": [[shown(turn) for turn in rotation.values()] for rotation in done],
    }


def rotations(those: Sequence[Contender], quick: bool) -> list[Rotation]:
    """Turns of all of them, until there were enough that nothing disturbed."""
    wanted, at_most = (1, 1) if quick else (ROTATIONS, AT_MOST)
    done: list[Rotation] = []
    while len(done) < at_most and sum(map(_is_calm, done)) < wanted:
        if not quick:
            report.until_calm()
        first = len(done) % len(those)
        rotation = {}
        for one in (*those[first:], *those[:first]):
            rotation[one.name] = turn = _turn(one, QUICK_TURN_S if quick else TURN_S)
            report.progress(f"rotation {len(done) + 1}: {shown(turn)}")
        done.append(rotation)
    return done


def _turn(one: Contender, seconds: int) -> Turn:
    one.verify()
    url, headers = one.envoy.url + asked.PATH, one.headers
    wrk.warm_up(url, headers, CONNECTIONS)
    time.sleep(_SETTLE_S)
    before, stolen, started = _counted(one), report.stolen_s(), time.monotonic()
    load = wrk.drive(url, headers, CONNECTIONS, seconds)
    elapsed = time.monotonic() - started
    share = (report.stolen_s() - stolen) / (elapsed * (os.cpu_count() or 1))
    time.sleep(_SETTLE_S)
    authorizer, before_it, decisions, given_up, rows = (
        after - earlier for after, earlier in zip(_counted(one), before, strict=True)
    )
    return Turn(
        one.name,
        load,
        elapsed,
        authorizer,
        before_it,
        round(decisions),
        round(given_up),
        round(rows) if one.records else None,
        share,
    )


def _counted(one: Contender) -> tuple[float, ...]:
    """CPU seconds of authorizer and Envoy, answers, calls given up, rows; so far."""
    return (
        processes.cpu_s(one.pid),
        processes.cpu_s(one.envoy.pid),
        one.envoy.answers(),
        one.envoy.failures(),
        one.rows() if one.records else 0,
    )


def calm(those: Sequence[Rotation]) -> list[Rotation]:
    """The rotations that nothing disturbed."""
    return [rotation for rotation in those if _is_calm(rotation)]


def _is_calm(rotation: Rotation) -> bool:
    return all(turn.stolen <= report.CALM for turn in rotation.values())


# ---------------------------------------------------------------- what is told


def _figures(
    told: Sequence[Rotation], all_of_them: Sequence[Rotation], absent: dict[str, str]
) -> list[dict[str, Any]]:
    wrong = sum(turn.wrong for rotation in all_of_them for turn in rotation.values())

    def compared(
        make: Callable[[str, float, float], dict[str, Any]],
        what: str,
        of: Callable[[Turn], float],
        name: str,
        target: float,
    ) -> dict[str, Any]:
        why = "; ".join(absent[one] for one in ("h2c", name) if one in absent)
        if why:
            return report.not_measured(make(what, 0, target), why)
        ratios = [of(rotation["h2c"]) / of(rotation[name]) for rotation in told]
        return make(what, report.median(ratios, 3), target)

    def rate(turn: Turn) -> float:
        return turn.load.per_second

    def cpu(turn: Turn) -> float:
        return turn.cpu_per_1000_s

    more, less = report.at_least, report.figure
    return [
        less("answers other than 200, rows missing or too many", wrong, 0),
        compared(
            more, "throughput, h2c / a do-nothing grpc.aio server", rate, "grpc_nothing", THROUGHPUT
        ),
        compared(more, "throughput, h2c / OPA-Envoy", rate, "opa", AGAINST_OPA),
        compared(more, "throughput, h2c / its transport with an empty gate", rate, "ceiling",
                 OF_CEILING),
        compared(less, "CPU per decision, h2c / the same gate behind grpc.aio", cpu, "grpc", CPU),
    ]  # fmt: skip


def summary(turns: Sequence[Turn]) -> dict[str, float]:
    """The median of some turns."""

    def middle(of: Callable[[Turn], float], digits: int) -> float:
        return report.median([of(turn) for turn in turns], digits)

    return {
        "per_second": middle(lambda turn: turn.load.per_second, 0),
        "p50_ms": middle(lambda turn: turn.load.p50_us / 1000, 2),
        "p99_ms": middle(lambda turn: turn.load.p99_us / 1000, 2),
        "p999_ms": middle(lambda turn: turn.load.p999_us / 1000, 2),
        "cpu_s_per_1000_decisions": middle(lambda turn: turn.cpu_per_1000_s, 4),
        "share_of_a_cpu": middle(lambda turn: turn.authorizer_s / turn.elapsed_s, 2),
        "envoy_share_of_a_cpu": middle(lambda turn: turn.envoy_s / turn.elapsed_s, 2),
    }


def shown(turn: Turn) -> dict[str, Any]:
    """One turn, as results keep it."""
    return {
        "name": turn.name,
        **summary([turn]),
        "decisions": turn.decisions,
        "rows": turn.rows,
        "wrong": turn.wrong,
        "stolen": round(turn.stolen, 3),
    }
