"""The limits of a sidecar, 0.25 CPU and 256 MiB, under a load that comes at even intervals.

Nothing fails, each request has its row, and nothing is killed for want of memory. How long answers
take is `python -m bench container_sla`'s to say.
"""

import asyncio
import itertools
from typing import Final

from bench.traffic import Ask, Traffic, precise_loop
from tests.containers.engine import ROUNDS
from tests.containers.pods import Pod, pod
from tests.e2e.sidecar import bearer

CPUS: Final = 0.25
MEMORY_MB: Final = 256
#: What is requested for it, and so the least that it may have.
LEAST_MB: Final = 128
RATE: Final = 100.0
CONNECTIONS: Final = 16
#: Seconds; `make containers` takes longer.
LOAD_S: Final = 3.0 if ROUNDS == 1 else 60.0


def _load(one: Pod, rate: float, seconds: float) -> None:
    """Ask, and look at each answer and for each row."""
    asks = itertools.cycle(
        [Ask("allow", "GET", "/proxy/docs"), Ask("deny", "DELETE", "/proxy/docs")]
    )
    traffic = Traffic(one.port, bearer(), CONNECTIONS)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        answers = runner.run(traffic.paced(asks, seconds, rate))
    assert len(answers) == int(rate * seconds)
    told = {answer.trace: (answer.status, answer.decision) for answer in answers}
    expected = {"allow": (200, "allow"), "deny": (403, "deny")}
    assert told == {answer.trace: expected[answer.kind] for answer in answers}
    rows = {row["trace_id"]: row["decision"] for row in one.rows(apart=True)}
    assert rows == {trace: decision for trace, (_, decision) in told.items()}


def test_one_container_is_content_with_the_least_memory(image: str) -> None:
    """From the start on, when the most of it is needed."""
    limit = f"{LEAST_MB}m"
    with pod(image, limits={"mem_limit": limit, "memswap_limit": limit}) as one:
        _load_held(one, LEAST_MB)


def test_two_containers_share_the_limits(image: str) -> None:
    with pod(image, "serve") as one:
        _load_held(one, MEMORY_MB)


def _load_held(one: Pod, memory_mb: int) -> None:
    # Not before it has started: on a busy machine it would take its time.
    one.hold(CPUS, memory_mb)
    _load(one, RATE, LOAD_S)
    for box in one.boxes.values():
        assert not box.was_short_of_memory()
        assert box.used().peak_mb <= memory_mb / len(one.boxes)
        # It was held.
        assert box.container.attrs["HostConfig"]["CpuQuota"] > 0
