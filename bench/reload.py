"""What requests notice of 1,000 policies being replaced, through a real Envoy.

A sidecar (`authz run`) serves policies from a ConfigMap-like volume whose whole content is swapped
between two editions while load comes in: once paced at a moderate rate, once as fast as eight
connections can. Publisher, upstream, Envoy, service and load are processes of their own. Each
stretch of the load has one swap in it.

Every answer has to be right: what is always allowed is 200, what is never allowed is 403, and the
probe, which one edition allows and the other denies, is whatever the policies in force said. That
is held against the audit trail: each answer has one row, its decision and the row's are the same,
and the row's version is the one that was activated last before it. No answer within 100 ms is a
503, which is not wrong, but failed.

Latency counts from when a request was due. `reloading` is from the first file that is written to
the service's log line about the reload; `between` is the rest of that time; `quiet` the same load
before the first change. A virtual machine is not always run when it could be. What the host gave to
others is known, so the figures are those of stretches in which that was next to nothing; there are
more stretches until there are enough of them, and the others are shown apart.
"""

import asyncio
import contextlib
import datetime
import itertools
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from authz.core.snapshot import Snapshot
from authz.edges.echo_upstream import EchoUpstream
from bench import policies, processes, report
from bench.policies import AGENT, TAG
from bench.publisher import PROBE, documents
from bench.traffic import Answer, Ask, Traffic
from tests.e2e import sidecar
from tests.e2e.upstream import Upstream

COUNT: Final = 1000
CONNECTIONS: Final = 8
#: Requests a second of the paced run.
RATE: Final = 200.0
WARM_UP_S: Final = 2.0
#: Seconds of a stretch; a reload takes about half of it.
STRETCH_S: Final = 6.0
#: Undisturbed stretches that are wanted, without a swap and with one, and how many are tried.
QUIET: Final = 1
SWAPS: Final = 5
AT_MOST: Final = 12
#: p99 while policies are reloaded, milliseconds (DESIGN §10).
TARGET_MS: Final = 20.0
ROOT: Final = Path(__file__).parents[1]

_RELOADED: Final = re.compile(
    r"^(\S+) .* policies: reloaded, version (\w+), .*\((\d+) ms\)$", re.MULTILINE
)


class Swap(NamedTuple):
    """When the publisher began to write an edition, and when it was in place."""

    edition: str
    began: float
    swapped: float


class Reload(NamedTuple):
    """A line of the service's log."""

    at: float
    version: str
    took_ms: float


def reloads(log: str) -> list[Reload]:
    """Every reload that a log tells of."""
    return [
        Reload(datetime.datetime.fromisoformat(at).timestamp(), version, float(took))
        for at, version, took in _RELOADED.findall(log)
    ]


class Stretch(NamedTuple):
    """Some seconds of load."""

    #: None: nothing was changed.
    swap: Swap | None
    #: When that was in force; else, when the stretch was over.
    end: float
    answers: list[Answer]
    #: Milliseconds by which the sender itself was late.
    late_ms: list[float]
    #: The share of its processors' time that the host gave to others meanwhile.
    stolen: float

    @property
    def is_calm(self) -> bool:
        return self.stolen <= report.CALM

    def reloading(self) -> list[Answer]:
        """The answers on the way between the first file that was written and the last reload."""
        if self.swap is None:
            return []
        began = self.swap.began
        return [one for one in self.answers if one.due <= self.end and one.done >= began]


def run(quick: bool) -> dict[str, Any]:
    """Wrong answers and latencies; no wrong answer and the p99 are to be reached."""
    found = {name: _measure(name, quick) for name in ("paced", "closed")}
    figures = []
    for name, one in found.items():
        p99 = one["reloading_ms"]["p99"]
        figures += [
            report.figure(f"{name}: wrong answers", one["wrong"], 0),
            report.figure(f"{name}: failed answers", one["failed"], 0),
            report.figure(f"{name}: p99 while {COUNT} policies are reloaded, ms", p99, TARGET_MS),
        ]
    return {"figures": figures, **found}


def _measure(name: str, quick: bool) -> dict[str, Any]:
    versions = {Snapshot(policies.compiled(documents(COUNT, e))).version: e for e in PROBE}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as stack:
        volume = Path(directory) / "volume"
        upstream = stack.enter_context(processes.child("bench.upstream"))
        publisher = stack.enter_context(
            processes.child("bench.publisher", str(volume), str(COUNT), *PROBE)
        )
        target = f"http://127.0.0.1:{int(processes.line(upstream))}"
        assert processes.line(publisher) == "ready"
        running = stack.enter_context(
            sidecar.running(
                Upstream(EchoUpstream(), target),
                POLICIES_DIR=str(volume),
                DECISION_TIMEOUT_MS="100",
            )
        )
        load = Load(name, running, publisher, versions)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = runner.run(load.drive(quick))
        return _judged(told, running.rows(control=True), versions)


# ---------------------------------------------------------------- load and swaps


class Load:
    """One kind of load on one sidecar."""

    def __init__(
        self,
        name: str,
        running: sidecar.Sidecar,
        publisher: subprocess.Popen[str],
        versions: dict[str, str],
    ) -> None:
        """`versions`: the edition that each stands for."""
        self._name = name
        self._running = running
        self._publisher = publisher
        self._versions = versions
        headers = {**sidecar.bearer(agent_id=AGENT, tags=(TAG,)), "user-agent": "bench"}
        self._traffic = Traffic(running.port, headers, CONNECTIONS)
        self._asks = _asks()

    async def drive(self, quick: bool) -> list[Stretch]:
        """Stretches until enough of them were undisturbed."""
        told = [await self._stretch(None, WARM_UP_S)]
        editions = itertools.cycle(reversed(PROBE))
        at_most = 3 if quick else AT_MOST
        for wanted, swaps in ((QUIET, False), (1 if quick else SWAPS, True)):
            tried: list[Stretch] = []
            while sum(one.is_calm for one in tried) < wanted and len(tried) < at_most:
                await asyncio.to_thread(report.until_calm)
                one = await self._stretch(next(editions) if swaps else None)
                report.progress(f"{self._name}: {_shown(one)}")
                tried.append(one)
            told += tried
        return told

    async def _stretch(self, edition: str | None, seconds: float = STRETCH_S) -> Stretch:
        self._traffic.late_ms = []
        began, stolen = time.monotonic(), report.stolen_s()
        swapping = asyncio.create_task(self._swap(edition)) if edition else None
        if self._name == "paced":
            answers = await self._traffic.paced(self._asks, seconds, RATE)
        else:
            answers = await self._traffic.closed(self._asks, seconds)
        lasted = (time.monotonic() - began) * (os.cpu_count() or 1)
        share = (report.stolen_s() - stolen) / lasted
        swap, end = None, answers[-1].done
        if swapping is not None:
            swap = await swapping
            end = await asyncio.to_thread(self._in_force, swap)
        return Stretch(swap, end, answers, self._traffic.late_ms, share)

    async def _swap(self, edition: str) -> Swap:
        assert self._publisher.stdin is not None
        self._publisher.stdin.write(f"{edition}\n")
        self._publisher.stdin.flush()
        began, swapped = (await asyncio.to_thread(processes.line, self._publisher)).split()
        return Swap(edition, float(began), float(swapped))

    def _in_force(self, swap: Swap) -> float:
        """When what was swapped was in force, as the service's log has it."""
        found: list[float] = []

        def is_there() -> bool:
            found.extend(
                done.at
                for done in reloads(self._running.log())
                if done.at > swap.began and self._versions[done.version] == swap.edition
            )
            return bool(found)

        sidecar.wait_until(is_there, "the reload")
        return found[0]


def _asks() -> Iterator[Ask]:
    """Every kind in turn; some paths come again, most are new."""
    for number in itertools.count():
        yield Ask("always", "GET", f"/proxy/always/{number}")
        yield Ask("never", "DELETE", f"/proxy/never/{number % 50}")
        yield Ask("probe", "GET", f"/proxy/probe/{number}")
        yield Ask("always", "GET", f"/proxy/always/{number % 50}")


# ---------------------------------------------------------------- what came of it


def _judged(
    told: Sequence[Stretch], rows: Sequence[dict[str, Any]], versions: dict[str, str]
) -> dict[str, Any]:
    """The figures of a run, each answer held against the audit trail."""
    answers = list(itertools.chain(*(one.answers for one in told)))
    wrong = _wrong(answers, rows, versions)
    swapped = [one for one in told if one.swap is not None]
    calm = [one for one in swapped if one.is_calm]
    disturbed = [one for one in swapped if not one.is_calm]
    quiet = [one for one in told[1:] if one.swap is None and one.is_calm]
    return {
        "answers": len(answers),
        "wrong": len(wrong),
        "examples": wrong[:5],
        "undisturbed_reloads": len(calm),
        "failed": _failed(calm or swapped),
        "per_second": round(_rate(calm or swapped)),
        "quiet_ms": _latencies(*(one.answers for one in quiet)),
        "reloading_ms": _latencies(*(one.reloading() for one in calm or swapped)),
        "between_ms": _latencies(
            *(set(one.answers).difference(one.reloading()) for one in calm or swapped)
        ),
        "sender_late_ms": report.spread([late for one in calm or swapped for late in one.late_ms]),
        "disturbed_reloads": len(disturbed),
        "failed_while_disturbed": _failed(disturbed),
        "reloading_while_disturbed_ms": _latencies(*(one.reloading() for one in disturbed)),
        "each_reload": [_shown(one) for one in swapped],
    }


def _shown(one: Stretch) -> dict[str, Any]:
    latencies = _latencies(one.reloading() or one.answers)
    took_s = round(one.end - one.swap.began, 2) if one.swap else 0
    return {"stolen": round(one.stolen, 3), "in_force_after_s": took_s, "ms": latencies}


def _latencies(*answers: Iterable[Answer]) -> dict[str, float]:
    return report.spread([answer.latency_ms for some in answers for answer in some])


def _failed(stretches: Iterable[Stretch]) -> int:
    """Answers that are no decision: nothing came in time."""
    answers = itertools.chain(*(one.answers for one in stretches))
    return sum(answer.status not in (200, 403) for answer in answers)


def _rate(stretches: Iterable[Stretch]) -> float:
    """Answers a second."""
    each = [len(one.answers) / (one.answers[-1].done - one.answers[0].due) for one in stretches]
    return report.median(each) if each else 0.0


def _wrong(
    answers: Sequence[Answer], rows: Sequence[dict[str, Any]], versions: dict[str, str]
) -> list[str]:
    """What is wrong with which answer."""
    recorded: dict[str, list[dict[str, Any]]] = {}
    in_force = ""
    wrong = []
    for row in rows:
        if row["action"].startswith("policies:"):
            in_force = row["policy_version"]
        elif row["policy_version"] != in_force:
            wrong.append(f"row {row['seq']}: version {row['policy_version']}, not {in_force}")
        recorded.setdefault(row["trace_id"], []).append(row)
    for answer in answers:
        found = recorded.get(answer.trace, [])
        if answer.status in (0, 503) and len(found) <= 1:
            continue  # failed: it was decided too late, or not at all
        if answer.status not in (200, 403) or len(found) != 1:
            wrong.append(f"{answer.kind}: status {answer.status}, {len(found)} rows")
            continue
        [row] = found
        edition = versions.get(row["policy_version"], "")
        expected = {"always": "allow", "never": "deny", "probe": PROBE.get(edition, "")}
        decision = {200: "allow", 403: "deny"}[answer.status]
        if not decision == answer.decision == row["enforced"] == expected[answer.kind]:
            wrong.append(
                f"{answer.kind}: {answer.status} {answer.decision}, row {row['enforced']},"
                f" edition {edition}"
            )
    return wrong
