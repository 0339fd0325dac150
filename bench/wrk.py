"""Drives one wrk: as many requests as the answers allow, over some connections, by one thread."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench import processes, report

_SCRIPT: Final = Path(__file__).with_name("wrk.lua")
_WARM_UP_S: Final = 1


class Load(NamedTuple):
    """What wrk counted."""

    requests: int
    seconds: float
    p50_us: int
    p99_us: int
    p999_us: int
    max_us: int
    #: Answers with a status of 400 or more.
    not_200: int
    #: Requests without an answer.
    failed: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def require() -> str:
    """The program.

    Raises:
        report.Unavailable: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise report.Unavailable(
            "wrk is not on PATH; install it with `apt-get install wrk`, or the package of that name"
            " of another system"
        )
    return found


def warm_up(url: str, headers: Mapping[str, str], connections: int) -> None:
    """The same load for a moment, uncounted."""
    drive(url, headers, connections, _WARM_UP_S)


def drive(url: str, headers: Mapping[str, str], connections: int, seconds: int) -> Load:
    """Send for some seconds."""
    argv = [require(), "--threads", "1", "--connections", str(connections)]
    argv += ["--duration", f"{seconds}s", "--timeout", "5s", "--script", str(_SCRIPT)]
    for name, value in headers.items():
        argv += ["--header", f"{name}: {value}"]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        log = Path(directory) / "wrk"
        with processes.running([*argv, url], log) as process:
            code = process.wait(seconds + processes.PATIENCE_S)
        said = log.read_text()
    assert code == 0, f"wrk ended with {code}: {said}"
    counted = json.loads(said.splitlines()[-1])
    return Load(**counted)
