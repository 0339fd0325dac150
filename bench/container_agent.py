"""The agent of `container_sla`: runs in the sidecar's network namespace, and prints what it got.

    python -m bench.container_agent PORT RATE SECONDS CONNECTIONS

Every other request is one that is denied. AGENT_TOKEN is the token. Only the standard library and
`bench.traffic`: it runs in the sidecar's image, in a container of its own.
"""

import asyncio
import itertools
import json
import os
import sys

from bench.traffic import Ask, Traffic, precise_loop

ASKS = (Ask("allow", "GET", "/proxy/docs/intro"), Ask("deny", "DELETE", "/proxy/docs/intro"))
WARM_UP_S = 2.0


async def main(port: int, rate: float, seconds: float, connections: int) -> None:
    """Ask, and print one JSON object."""
    headers = {"Authorization": f"Bearer {os.environ['AGENT_TOKEN']}", "User-Agent": "bench"}
    traffic = Traffic(port, headers, connections)
    warm = await traffic.paced(itertools.cycle(ASKS), WARM_UP_S, rate)
    traffic.late_ms = []
    answers = await traffic.paced(itertools.cycle(ASKS), seconds, rate)
    wanted = {"allow": (200, "allow"), "deny": (403, "deny")}
    print(
        json.dumps(
            {
                "ms": [answer.latency_ms for answer in answers],
                "late_ms": traffic.late_ms,
                "failed": sum(
                    (one.status, one.decision) != wanted[one.kind] for one in (*warm, *answers)
                ),
                "asked": len(warm) + len(answers),
            }
        )
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(main(int(given[0]), float(given[1]), float(given[2]), int(given[3])))
