"""`kill -9` of whatever is in a pod, under load: it comes back, and no told decision is lost.

Clients ask through the port, some to be allowed and some to be denied. Whatever they were told by
`x-meshguard-decision` must be in the trail afterwards, with the same decision, exactly once; and a
sidecar of other containers, on the same volumes, finds it all and verifies it.

Each kind of kill is done CONTAINER_ROUNDS times; `make containers` does it twenty times.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import pytest

from tests.containers.engine import ROUNDS
from tests.containers.pods import SHAPES, Pod, Shape, pod, until
from tests.e2e.load import Client
from tests.e2e.sidecar import bearer

CLIENTS: Final = 4
#: Seconds between a client's requests: load enough to be met, and not to starve who starts again.
PAUSE_S: Final = 0.01
#: Answers of either kind that are waited for before a kill.
ANSWERS: Final = 20
DENIED: Final = {"X-MeshGuard-Action": "write:delete"}

pytestmark = pytest.mark.timeout(280 + 30 * ROUNDS)

#: Kills a child of the supervisor's by what is in its command line, and prints which.
_KILL_CHILD: Final = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit():
        words = (entry / "cmdline").read_bytes().split(bytes(1))
        if {mark!r}.encode() in words:
            os.kill(int(entry.name), signal.SIGKILL)
            print(entry.name)
"""


class Kill(NamedTuple):
    """One way to take something away, and to have it back."""

    name: str
    do: Callable[[Pod], None]


def _child(mark: str) -> Callable[[Pod], None]:
    def kill(one: Pod) -> None:
        box = one.boxes["sidecar"]
        back = box.log().count(" is back")
        assert box.python(_KILL_CHILD.format(mark=mark)).count("\n") == 1
        # Nobody outside does anything about it.
        until(lambda: box.log().count(" is back") > back, "the supervisor to start it again")

    return kill


def _container(name: str) -> Callable[[Pod], None]:
    def kill(one: Pod) -> None:
        box = one.boxes[name]
        box.kill()
        assert box.state()["ExitCode"] == 137
        box.start()

    return kill


KILLS: Final[Mapping[Shape, tuple[Kill, ...]]] = {
    "run": (
        Kill("the service", _child("serve")),
        Kill("Envoy", _child("--config-path")),
        Kill("the supervisor, and so all", _container("sidecar")),
    ),
    "serve": (
        Kill("the service's container", _container("service")),
        Kill("Envoy's container", _container("envoy")),
    ),
}


class Told:
    """What clients were told: trace id to decision."""

    def __init__(self) -> None:
        self.decisions: dict[str, str] = {}
        #: How often each was said since the last kill.
        self.now: Counter[str] = Counter()

    def hear(self, fields: Mapping[str, str]) -> None:
        """An answer's header, whether or not its body will be whole."""
        decision = fields.get("x-meshguard-decision", "")
        if decision in ("allow", "deny"):
            trace = fields["x-meshguard-trace-id"]
            assert trace not in self.decisions
            self.decisions[trace] = decision
            self.now[decision] += 1

    async def ask(self, port: int, number: int) -> None:
        """One client, until it is cancelled."""
        client = Client(port, self.hear)
        try:
            for turn in itertools.count():
                headers = bearer() | {"X-MeshGuard-Trace-ID": f"client-{number}-{turn}"}
                if (turn + number) % 3 == 0:
                    headers |= DENIED
                await client.ask("/proxy/docs", headers)
                await asyncio.sleep(PAUSE_S)
        finally:
            await client.close()

    async def enough(self, asking: list["asyncio.Task[None]"]) -> None:
        """Wait for some answers of either kind from now on."""
        self.now.clear()

        def done() -> bool:
            return min(self.now["allow"], self.now["deny"]) >= ANSWERS or any(
                task.done() for task in asking
            )

        await asyncio.to_thread(until, done, "answers")


async def _killed(one: Pod, told: Told) -> int:
    asking = [asyncio.create_task(told.ask(one.port, at)) for at in range(CLIENTS)]
    count = 0
    try:
        for kill in itertools.chain.from_iterable(itertools.repeat(KILLS[one.shape], ROUNDS)):
            await told.enough(asking)
            await asyncio.to_thread(kill.do, one)
            await asyncio.to_thread(one.until_answering)
            count += 1
        await told.enough(asking)
    finally:
        for task in asking:
            task.cancel()
        ends = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
    return count


@pytest.mark.parametrize("shape", SHAPES)
def test_no_told_decision_is_lost_and_another_sidecar_finds_them_all(
    image: str, shape: Shape
) -> None:
    told = Told()
    with pod(image, shape) as one:
        count = asyncio.run(_killed(one, told))
        assert count == ROUNDS * len(KILLS[shape])
        _compare(one, told)
        # Other containers, and the same volumes.
        before = one.rows()
        old = {box.id for box in one.boxes.values()}
        one.replace()
        assert old.isdisjoint(box.id for box in one.boxes.values())
        assert one.rows() == before
        assert one.client.get("/proxy/docs", headers=bearer()).status_code == 200
        assert len(one.rows()) == len(before) + 1
        assert one.verify().endswith("the trail verifies\n")
    print(f"{shape}: {count} kills, {len(told.decisions)} answers compared")  # noqa: T201


def _compare(one: Pod, told: Told) -> None:
    rows: dict[str, list[str]] = {}
    for row in one.rows():
        rows.setdefault(row["trace_id"], []).append(row["decision"])
    assert {trace: rows.get(trace) for trace in told.decisions} == {
        trace: [decision] for trace, decision in told.decisions.items()
    }
    # Rows whose answer nobody got are right; two of one request are not.
    assert {trace: found for trace, found in rows.items() if len(found) > 1} == {}
    assert set(told.decisions.values()) == {"allow", "deny"}
