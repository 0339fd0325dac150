"""What a request through Envoy costs while others flood the socket on which Envoy asks.

One connection to Envoy that waits for each answer, beside one hostile connection to the authorizer
and beside as many as it takes, of each kind that `bench.hostile` knows. What counts is that every
request is still answered, and how late. The flood and Envoy share two cores with the service, so
that the figures contain what the flood itself takes of them.
"""

import contextlib
import sys
from typing import Any, Final

from authz.edges.h2c.server import MAX_CONNECTIONS
from authz.settings import EXT_AUTHZ_SOCKET
from bench import asked, contenders, processes, report, wrk
from bench.contenders import Contender
from bench.hostile import KINDS
from bench.wrk import Load

SECONDS: Final = 5
#: All that are let in, less those of Envoy.
MANY: Final = MAX_CONNECTIONS - 4
#: To be reached: half of what Envoy waits for a decision, so that none is given up.
P99_MS: Final = 50.0


def run(quick: bool) -> dict[str, Any]:
    """Milliseconds with and without, and what was not answered."""
    wrk.require()
    seconds = 1 if quick else SECONDS
    measured: dict[str, Any] = {}
    worst, failed = 0.0, 0
    for kind in (None, *KINDS):
        for connections in (1, MANY) if kind else (0,):
            name = f"{connections} x {kind}" if kind else "alone"
            # A service for each, so that none finds what another has left.
            with contenders.running("h2c") as one:
                load = _drive(one, kind, connections, seconds)
            measured[name] = {
                "requests": load.requests,
                "p50_ms": load.p50_us / 1000,
                "p99_ms": load.p99_us / 1000,
                "max_ms": load.max_us / 1000,
                "failed": load.not_200 + load.failed,
            }
            report.progress(f"{name}: {measured[name]}")
            if kind:
                worst = max(worst, load.p99_us / 1000)
                failed += load.not_200 + load.failed
    return {
        "figures": [
            report.figure("beside a flood: p99 of a request, worst kind, ms", worst, P99_MS),
            report.figure("beside a flood: requests not answered as they should be", failed, 0),
        ],
        **measured,
    }


def _drive(one: Contender, kind: str | None, connections: int, seconds: int) -> Load:
    url, headers = one.envoy.url + asked.PATH, asked.headers()
    with contextlib.ExitStack() as stack:
        if kind:
            address = one.directory / "run" / EXT_AUTHZ_SOCKET
            argv = [sys.executable, "-m", "bench.hostile", kind, str(connections), str(address)]
            stack.enter_context(processes.running(argv, one.directory / "hostile.log"))
        wrk.warm_up(url, headers, 1)
        return wrk.drive(url, headers, 1, seconds)
