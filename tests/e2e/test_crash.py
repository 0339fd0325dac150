"""`kill -9` at full load loses no acknowledged decision (DESIGN §2.1, §10).

Clients ask through Envoy, some to be allowed and some to be denied. At a random moment the service
is killed, or Envoy, or the supervisor, or all three; they come back on the same database, and it
goes on. Whatever a client was told by `x-meshguard-decision` must then be in the database, under
its trace id, with the same decision, exactly once; and the database and its chain must be whole.
Each agent has a wallet: what its rows say was spent is what the ledger says, and never more than
the wallet holds.

`make crash` does 100 rounds. CRASH_ROUNDS and CRASH_SEED say how many and which; the seed is
printed, but what happens between two kills is the machine's to decide.
"""

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from authz.core.state import State
from authz.core.window import Window
from authz.stores import ledger_log
from tests.e2e import sidecar as starter
from tests.e2e.load import Client
from tests.e2e.sidecar import PATIENCE_S, bearer, children, environment, free_port, wait_until
from tests.e2e.upstream import Upstream

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "5"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or secrets.randbelow(2**31)
CLIENTS = 12
#: Seconds of load before a kill, at most.
LOAD_S = 0.5
DENIED = {"X-MeshGuard-Action": "write:delete"}
#: Agents, and what each may spend while this takes; the last one's wallet is soon empty.
CAPACITIES = {"reviewer-0": 1_000_000_000, "reviewer-1": 1_000_000, "reviewer-2": 100}
COST = 3
WALLETS = "\n---\n".join(
    f"""\
kind: RiskWallet
name: {agent}
appliesTo: {{agentIds: [{agent}]}}
capacity: {capacity}
window: 30d
defaultCost: {COST}"""
    for agent, capacity in CAPACITIES.items()
)

#: What is killed in each five rounds, in some order: the supervisor's back-off grows with each kill
#: of one child and is forgotten with the supervisor, which is why that one is killed, too.
KINDS = (
    ("service", "service", "service", "envoy", "everything"),
    ("service", "service", "service", "envoy", "supervisor"),
)
_MARKS = {"service": "serve", "envoy": "--config-path"}

pytestmark = pytest.mark.timeout(120 + 20 * ROUNDS)


class Lives:
    """A sidecar that is started again and again in one directory."""

    def __init__(self, path: Path, port: int, upstream: Upstream) -> None:
        self.path, self.port = path, port
        policies = path / "policies"
        policies.mkdir()
        sample = (starter.SAMPLE_POLICIES / "code-review.yaml").read_text()
        (policies / "crash.yaml").write_text(f"{sample}\n---\n{WALLETS}\n")
        self.env = environment(path, port, upstream.url, POLICIES_DIR=str(policies))
        self._life = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it is up."""
        self._life.close()
        process = self._life.enter_context(starter.start(self.path, self.env, "run"))
        self._process = process
        log = self.path / "stderr"
        wait_until(
            lambda: "listening on" in log.read_text() or process.poll() is not None, "the start"
        )
        assert process.poll() is None, log.read_text()

    def kill(self, kind: str) -> None:
        """Kill one, or all, and return when what is killed has been replaced."""
        assert self._process is not None
        supervisor = self._process.pid
        before = {name: self._child(name) for name in _MARKS}
        if kind in before:
            victim = before[kind]
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: self._child(kind) not in (victim, None), f"another {kind}")
            return
        victims = [supervisor, *(pid for pid in before.values() if pid is not None)]
        for victim in victims if kind == "everything" else victims[:1]:
            os.kill(victim, signal.SIGKILL)
        self._process.wait()
        wait_until(lambda: not any(map(_is_alive, victims)), "its children to end")
        self.start()

    def stop(self) -> None:
        """End it as one should."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_S) == 0
        self._life.close()

    def close(self) -> None:
        """End it in any case."""
        self._life.close()

    def _child(self, name: str) -> int | None:
        assert self._process is not None
        found = (pid for pid, argv in children(self._process.pid) if _MARKS[name] in argv)
        return next(found, None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Told:
    """What clients were told: trace id to decision."""

    def __init__(self) -> None:
        self.decisions: dict[str, str] = {}
        self.round = 0
        #: How often each was said in this round.
        self.now: Counter[str] = Counter()
        self.failed = 0

    def hear(self, fields: Mapping[str, str]) -> None:
        """An answer's header."""
        decision = fields.get("x-meshguard-decision", "")
        if decision in ("allow", "deny"):
            trace = fields["x-meshguard-trace-id"]
            assert trace not in self.decisions
            self.decisions[trace] = decision
            self.now[decision] += 1

    async def ask(self, port: int, number: int) -> None:
        """One client, until it is cancelled."""
        client = Client(port, self.hear)
        given = bearer(agent_id=f"reviewer-{number % len(CAPACITIES)}", ttl_s=86_400)
        try:
            for turn in itertools.count():
                headers = given | {"X-MeshGuard-Trace-ID": f"r{self.round}-c{number}-{turn}"}
                denied = (turn + number) % 3 == 0
                reply = await client.ask("/proxy/docs", headers | DENIED if denied else headers)
                if reply is None or reply.status >= 500:
                    self.failed += 1
                    await asyncio.sleep(0.005)  # nobody is there; do not starve who starts
        finally:
            await client.close()


async def _rounds(lives: Lives, told: Told, say: Callable[[str], None]) -> Counter[str]:
    dice = random.Random(SEED)
    plan = itertools.chain.from_iterable(
        dice.sample(kinds, len(kinds)) for kinds in itertools.cycle(KINDS)
    )
    killed: Counter[str] = Counter()
    await asyncio.to_thread(lives.start)
    asking = [asyncio.create_task(told.ask(lives.port, at)) for at in range(CLIENTS)]
    try:
        for number, kind in enumerate(itertools.islice(plan, ROUNDS), 1):
            told.round = number
            told.now.clear()
            await asyncio.to_thread(
                wait_until,
                lambda: (told.now["allow"] and told.now["deny"]) or any(t.done() for t in asking),
                "answers",
            )
            moment = dice.uniform(0, LOAD_S)
            await asyncio.sleep(moment)
            answers = sum(told.now.values())
            await asyncio.to_thread(lives.kill, kind)
            killed[kind] += 1
            say(f"round {number}: {kind} killed after {answers} answers and {moment:.3f} s")
    finally:
        for task in asking:
            task.cancel()
        ends = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
    await asyncio.to_thread(lives.stop)
    return killed


@contextlib.contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        yield database


def _debited(connection: sqlite3.Connection) -> dict[str, int]:
    """What each agent has spent, by the rows."""
    query = "SELECT agent_id, sum(debit) FROM audit WHERE debit > 0 GROUP BY agent_id"
    return dict(connection.execute(query))


def _spent(connection: sqlite3.Connection) -> dict[str, int]:
    """What each agent has spent, by the ledger: within one window, since that is longer."""
    state = State()
    ledger_log.follow(connection, state.ledger, 0)
    found = {}
    for key, known in state.wallets.entries.items():
        assert isinstance(known, Window)
        found[key.partition("\n")[2]] = known.total(time.time())
    return found


def test_no_acknowledged_decision_is_lost_and_no_point_is_spent_twice(upstream: Upstream) -> None:
    def say(line: str) -> None:
        sys.stdout.write(f"crash: {line}\n")
        sys.stdout.flush()

    say(f"CRASH_SEED={SEED} CRASH_ROUNDS={ROUNDS}")
    started = time.monotonic()
    told = Told()
    with starter.directory() as path:
        lives = Lives(path, free_port(), upstream)
        try:
            killed = asyncio.run(_rounds(lives, told, say))
        finally:
            lives.close()
        database = path / "audit.db"
        with _database(database) as connection:
            integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            rows: dict[str, list[str]] = {}
            for trace, decision in connection.execute(
                "SELECT trace_id, decision FROM audit WHERE source = 'proxy'"
            ):
                rows.setdefault(trace, []).append(decision)
            debited, spent = _debited(connection), _spent(connection)
            query = "SELECT DISTINCT agent_id FROM audit WHERE code = 'wallet_exhausted'"
            exhausted = {agent for (agent,) in connection.execute(query)}
        missing = [trace for trace in told.decisions if trace not in rows]
        wrong = {
            trace: (decision, rows[trace])
            for trace, decision in told.decisions.items()
            if trace in rows and rows[trace] != [decision]
        }
        unsaid = sum(len(found) for trace, found in rows.items() if trace not in told.decisions)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(killed.items()))
        say(
            f"{sum(killed.values())} rounds ({kinds}) in {time.monotonic() - started:.0f} s,"
            f" {len(told.decisions)} answers compared, missing {len(missing)}, wrong {len(wrong)};"
            f" {unsaid} rows whose answer nobody got, {told.failed} requests without a decision"
        )
        say(f"spent by the rows {debited}, by the ledger {spent}")
        assert missing == []
        assert wrong == {}
        assert integrity == ["ok"]
        assert all(len(found) == 1 for found in rows.values())
        assert debited == spent
        left = {agent: capacity - spent.get(agent, 0) for agent, capacity in CAPACITIES.items()}
        assert all(points >= 0 for points in left.values()), left
        assert exhausted <= {agent for agent, points in left.items() if points < COST}
        assert sum(spent.values()) > 0
        verified = subprocess.run(
            [sys.executable, "-m", "authz", "audit", "verify", "--database", database],
            env=lives.env,
            cwd=path,
            capture_output=True,
            text=True,
            check=False,
        )
        say(verified.stdout.strip().replace("\n", "; "))
        assert verified.returncode == 0, verified.stdout + verified.stderr
    assert sum(killed.values()) == ROUNDS
    assert {"allow", "deny"} == set(told.decisions.values())
