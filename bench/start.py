"""From exec to the first answer: `authz serve` by itself, and `authz run` with its Envoy.

The service says that it is ready on a descriptor, and then has to answer a decision; `authz run` is
asked through its port until it answers. The files are in the page cache, as after a restart.
Where the time goes: `python -X importtime`, by package, in a run of its own, which it slows down.
"""

import contextlib
import http.client
import os
import re
import select
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz.settings import EXT_AUTHZ_SOCKET
from bench import asked, calls, contenders, processes, report
from tests.e2e import sidecar

ROUNDS: Final = 5
AT_MOST: Final = 9
#: Packages that are told of.
TOP: Final = 10
#: To be reached (DESIGN §10), seconds.
TARGET_S: Final = 1.5
_POLL_S: Final = 0.005

_IMPORTED: Final = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \| +([^\s.]+)", re.MULTILINE)


class Started(NamedTuple):
    """Seconds since exec."""

    #: The service said so.
    ready_s: float
    #: It had answered a decision.
    answered_s: float
    #: `authz run` had answered a request.
    run_answered_s: float


def run(quick: bool) -> dict[str, Any]:
    """Seconds; those until the first decision are to be reached."""

    def measure(_: int) -> Started:
        started = Started(*_serve(), _run())
        report.progress(f"started: {started}")
        return started

    rounds = report.in_rounds(measure, wanted=ROUNDS, at_most=AT_MOST, quick=quick)
    medians = {
        name: report.median([getattr(one, name) for one in rounds.told], 3)
        for name in Started._fields
    }
    what = "authz serve, start to first decision, s"
    return {
        "figures": [report.figure(what, medians["answered_s"], TARGET_S)],
        **rounds.shown(),
        "authz_serve": {"ready_s": medians["ready_s"], "answered_s": medians["answered_s"]},
        "authz_run": {"answered_s": medians["run_answered_s"]},
        "imports_ms": _imports(),
    }


def _serve() -> tuple[float, float]:
    with sidecar.directory() as directory, _service(directory) as (started, ready):
        address = directory / "run" / EXT_AUTHZ_SOCKET
        with calls.connected(address) as connection:
            [answer] = connection.ask(asked.check_request())
        assert answer, "the service answered nothing"
        return ready - started, time.perf_counter() - started


def _run() -> float:
    """Seconds until a request is denied: that takes Envoy and the service, and no upstream."""
    with sidecar.directory() as directory:
        env = contenders.environment(directory, transport="h2c")
        port = int(env["PORT"])
        log = directory / "log"
        argv = [sys.executable, "-m", "authz", "run"]
        started = time.perf_counter()
        with processes.running(argv, log, env=env) as process:
            processes.wait_until(process, lambda: _denies(port), log)
            return time.perf_counter() - started


def _denies(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request(asked.DENIED, asked.PATH, headers=asked.headers())
        said = connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return said.status == 403 and said.headers["x-meshguard-decision"] == "deny"


@contextlib.contextmanager
def _service(directory: Path, *options: str) -> Iterator[tuple[float, float]]:
    """`authz serve`; when it was started, and when it said that it was ready."""
    read, write = os.pipe()
    argv = [sys.executable, *options, "-m", "authz", "serve", "--ready-fd", str(write)]
    log = directory / "log"
    env = contenders.environment(directory, transport="h2c")
    try:
        started = time.perf_counter()
        with processes.running(argv, log, env=env, pass_fds=[write]) as process:

            def is_ready() -> bool:
                return bool(select.select([read], [], [], _POLL_S)[0])

            processes.wait_until(process, is_ready, log)
            yield started, time.perf_counter()
    finally:
        os.close(read)
        os.close(write)


def _imports() -> dict[str, float]:
    """Milliseconds of importing, by package, the dearest first; each without what it imports."""
    spent: Counter[str] = Counter()
    with sidecar.directory() as directory:
        with _service(directory, "-X", "importtime"):
            pass
        for microseconds, package in _IMPORTED.findall((directory / "log").read_text()):
            spent[package] += int(microseconds)
    found = {name: round(total / 1000, 1) for name, total in spent.most_common(TOP)}
    return {"all": round(spent.total() / 1000, 1), **found}
