"""What requests notice of 1,000 policies being replaced every six seconds, through a real Envoy.

A sidecar (`authz run`) serves policies from a ConfigMap-like volume whose whole content is swapped
between two editions while load comes in: once paced at a moderate rate, once as fast as eight
connections can. Publisher, upstream, Envoy, service and load are processes of their own.

Every answer has to be right: what is always allowed is 200, what is never allowed is 403, and the
probe, which one edition allows and the other denies, is whatever the policies in force said. That
is held against the audit trail: each answer has one row, its decision and the row's are the same,
and the row's version is the one that was activated last before it.

Latency counts from when a request was due. `reloading` is from the first file that is written to
the service's log line about the reload; `between` is the rest of that time; `quiet` the same load
before the first change.
"""

import asyncio
import contextlib
import datetime
import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from authz.core.snapshot import Snapshot
from authz.edges.echo_upstream import EchoUpstream
from bench import policies, report
from bench.policies import AGENT, TAG
from bench.publisher import PROBE, documents
from bench.traffic import Answer, Ask, Traffic
from tests.e2e import sidecar
from tests.e2e.upstream import Upstream

COUNT: Final = 1000
CONNECTIONS: Final = 8
#: Requests a second of the paced run.
RATE: Final = 200.0
SECONDS: Final = 30.0
QUIET_S: Final = 5.0
SWAP_EVERY_S: Final = 6.0
#: How finely the time after a swap is looked at.
STEP_S: Final = 0.5
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


class Told(NamedTuple):
    """What came of one run."""

    quiet: list[Answer]
    answers: list[Answer]
    swaps: list[Swap]
    #: Milliseconds by which the sender itself was late.
    late_ms: list[float]


def run(quick: bool) -> dict[str, Any]:
    """Wrong answers and latencies; no wrong answer and the p99 are to be reached."""
    seconds = SECONDS / 4 if quick else SECONDS
    found = {name: _measure(name, seconds) for name in ("paced", "closed")}
    figures = []
    for name, one in found.items():
        figures += [
            report.figure(f"{name}: wrong or failed answers", one["wrong_or_failed"], 0),
            report.figure(
                f"{name}: p99 while {COUNT} policies are reloaded, ms",
                one["reloading_ms"]["p99"],
                TARGET_MS,
            ),
        ]
    return {"figures": figures, **found}


def _measure(name: str, seconds: float) -> dict[str, Any]:
    versions = {Snapshot(policies.compiled(documents(COUNT, e))).version: e for e in PROBE}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as stack:
        volume = Path(directory) / "volume"
        upstream = stack.enter_context(_child("bench.upstream"))
        publisher = stack.enter_context(_child("bench.publisher", str(volume), str(COUNT), *PROBE))
        target = f"http://127.0.0.1:{int(_line(upstream))}"
        assert _line(publisher) == "ready"
        running = stack.enter_context(
            sidecar.running(Upstream(EchoUpstream(), target), POLICIES_DIR=str(volume))
        )
        report.progress(f"{name}: {SWAP_EVERY_S} s between two editions, for {seconds} s")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = runner.run(_drive(name, seconds, running.port, publisher))
        # Two swaps may be read as one, and then nothing has changed.
        first, last = next(iter(PROBE)), told.swaps[-1].edition
        sidecar.wait_until(
            lambda: [first, *(versions[r.version] for r in reloads(running.log()))][-1] == last,
            "the last reload",
        )
        found = _judged(told, running.rows(control=True), reloads(running.log()), versions)
        report.progress(f"{name}: {found}")
        return found


# ---------------------------------------------------------------- load and swaps


async def _drive(name: str, seconds: float, port: int, publisher: subprocess.Popen[str]) -> Told:
    headers = {**sidecar.bearer(agent_id=AGENT, tags=(TAG,)), "user-agent": "bench"}
    traffic = Traffic(port, headers, CONNECTIONS)
    asks = _asks()

    async def send(for_s: float) -> list[Answer]:
        if name == "paced":
            return await traffic.paced(asks, for_s, RATE)
        return await traffic.closed(asks, for_s)

    warm = await send(1.0)
    traffic.late_ms.clear()
    quiet = await send(QUIET_S)
    swapping = asyncio.create_task(_swap(publisher, seconds))
    answers = await send(seconds)
    return Told(warm + quiet, answers, await swapping, traffic.late_ms)


async def _swap(publisher: subprocess.Popen[str], seconds: float) -> list[Swap]:
    """Publish every `SWAP_EVERY_S`, and the last time early enough to be seen."""
    swaps: list[Swap] = []
    start = time.monotonic()
    editions = itertools.cycle(reversed(PROBE))
    while (at := len(swaps) * SWAP_EVERY_S) <= seconds - SWAP_EVERY_S:
        await asyncio.sleep(start + at - time.monotonic())
        edition = next(editions)
        assert publisher.stdin is not None
        publisher.stdin.write(f"{edition}\n")
        publisher.stdin.flush()
        began, swapped = (await asyncio.to_thread(_line, publisher)).split()
        swaps.append(Swap(edition, float(began), float(swapped)))
    return swaps


def _asks() -> Iterator[Ask]:
    """Every kind in turn; some paths come again, most are new."""
    for number in itertools.count():
        yield Ask("always", "GET", f"/proxy/always/{number}")
        yield Ask("never", "DELETE", f"/proxy/never/{number % 50}")
        yield Ask("probe", "GET", f"/proxy/probe/{number}")
        yield Ask("always", "GET", f"/proxy/always/{number % 50}")


@contextlib.contextmanager
def _child(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of our own processes, which ends when its stdin does."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# ---------------------------------------------------------------- what came of it


def _judged(
    told: Told, rows: Sequence[dict[str, Any]], done: list[Reload], versions: dict[str, str]
) -> dict[str, Any]:
    """The figures of a run, each answer held against the audit trail."""
    answers = told.quiet + told.answers
    wrong = _wrong(answers, rows, versions)
    over = max(answer.done for answer in told.answers)
    windows = []
    for swap in told.swaps:
        end = next((reload.at for reload in done if reload.at > swap.swapped), over)
        windows.append((swap.began, end))
    during: list[float] = []
    between: list[float] = []
    for answer in told.answers:
        touched = any(answer.due <= end and answer.done >= start for start, end in windows)
        (during if touched else between).append(answer.latency_ms)
    return {
        "answers": len(answers),
        "wrong_or_failed": len(wrong),
        "examples": wrong[:5],
        "swaps": len(told.swaps),
        "reloads": len(done),
        "per_second": round(len(told.answers) / (told.answers[-1].done - told.answers[0].due)),
        "quiet_ms": report.spread([answer.latency_ms for answer in told.quiet]),
        "reloading_ms": report.spread(during),
        "between_ms": report.spread(between),
        "since_the_publisher_began_ms": _course(told),
        "sender_late_ms": report.spread(told.late_ms),
        "reload_ms": report.spread([reload.took_ms for reload in done], 0),
        "from_first_file_to_in_force_ms": report.spread(
            [(end - start) * 1000 for start, end in windows], 0
        ),
    }


def _course(told: Told) -> dict[str, dict[str, float]]:
    """Latencies by how long ago the publisher had begun, over all swaps."""
    found = {}
    for step in range(round(SWAP_EVERY_S / STEP_S)):
        latencies = [
            answer.latency_ms
            for swap in told.swaps
            for answer in told.answers
            if step * STEP_S <= answer.due - swap.began < (step + 1) * STEP_S
        ]
        found[f"{step * STEP_S:.1f} s"] = report.spread(latencies)
    return found


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
