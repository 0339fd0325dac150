"""What one decision costs with 10 policies and with 10,000, side by side.

Each situation is measured in rounds that alternate between the two sizes, so that whatever else
the machine does meets both. A round times `verdict.judge` alone, and the whole `gate.check`, bytes
to bytes with the row made and kept in memory, over calls that were built before. The figures are
medians over the rounds, of elapsed and of CPU time; the ratio to reach is that of the CPU time of
`gate.check`, which is what a decision costs. The commit is left out: it would only dilute the
ratio.

Every verdict is compared with the expected one, policy included.
"""

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from authz.core.audit import AuditRow
from authz.core.call import from_check_request
from authz.core.compiled import CompiledPolicy
from authz.core.identity import Identity, TokenVerifier, mint
from authz.core.ledger import Change
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.verdict import Decision, Verdict, judge
from authz.core.wire_pb2 import CheckResponse
from authz.gate import Gate
from bench import policies, report
from bench.policies import AGENT, CALLER, TAG, Document, document, resource
from tests import builders
from tests.builders import SECRET, MemoryRecorder, check_request

SMALL: Final = 10
LARGE: Final = 10_000
#: The most that 10,000 policies may cost, in what 10 cost (DESIGN §10).
TARGET: Final = 1.1

#: Many short rounds: what else the machine does lasts longer than two of them.
ROUNDS: Final = 300
#: Calls of a round; fewer where they would take longer than `ROUND_S`.
CALLS: Final = 24
ROUND_S: Final = 0.1
#: Seconds after which a situation ends with the rounds it has.
SITUATION_S: Final = 20.0
#: Calls before the first round; none of them is measured.
WARM_UP: Final = 12


class Asked(NamedTuple):
    """An action, and what the answer has to be."""

    action: str
    decision: Decision
    policy: str


class Situation(NamedTuple):
    """Whom the policies are for, and what is asked."""

    name: str
    policies: Callable[[int], list[CompiledPolicy]]
    #: The n-th action.
    asked: Callable[[int], Asked]
    meta: str = ""
    #: Outside the figure: the answer depends on what 10,000 policies say about this very action,
    #: and each has to be asked.
    extreme: bool = False


def run(quick: bool) -> dict[str, Any]:
    """The costs, and the ratios that are to be reached."""
    measured = {}
    figures = []
    for situation in SITUATIONS:
        found = _measure(situation, ROUNDS // 10 if quick else ROUNDS)
        measured[situation.name] = found
        report.progress(f"{situation.name}: {found}")
        if not situation.extreme:
            what = f"decision cost, {LARGE} policies against {SMALL}: {situation.name}"
            figures.append(report.figure(what, found["check_us"]["cpu_ratio"], TARGET))
    return {
        "figures": figures,
        "situations": measured,
        "first_decision_after_a_swap_ms": _after_a_swap(1 if quick else 5),
    }


# ---------------------------------------------------------------- situations


def _as_is(_: Document) -> None:
    pass


def _allows_by_default(said: Document) -> None:
    said["defaultEffect"] = "allow"


def _denies_large_amounts(said: Document) -> None:
    condition = {"context.amount": {"gt": 5000}}
    rule = {"id": "large", "effect": "deny", "actions": ["write:*"], "conditions": condition}
    said["rules"].insert(0, rule)


def _three(count: int) -> list[CompiledPolicy]:
    """Three policies for the caller, the others for others."""
    return policies.compiled(policies.documents(count))


def _all(change: Callable[[Document], None] = _as_is) -> Callable[[int], list[CompiledPolicy]]:
    """Every policy for the caller, each changed in the same way."""

    def make(count: int) -> list[CompiledPolicy]:
        made = [document(index, CALLER) for index in range(count)]
        for said in made:
            change(said)
        return policies.compiled(made)

    return make


def _plain(number: int) -> Asked:
    """What one of the first three policies says, or none; no condition is looked at."""
    index, tail = number % 3, number // 12
    what, name = resource(index), f"policy-{index:05}"
    return (
        Asked(f"read:{what}/{tail}", Decision.ALLOW, name),
        Asked(f"delete:{what}/{tail}", Decision.DENY, name),
        Asked(f"read:archive-{tail}/{what}/summary", Decision.ALLOW, name),
        Asked(f"read:elsewhere/{tail}", Decision.DENY, "policy-00000"),
    )[number % 4]


def _open(number: int) -> Asked:
    """The same where policies allow by default."""
    asked = _plain(number)
    known = asked.action.startswith("delete:")
    return asked if known else asked._replace(decision=Decision.ALLOW)


def _conditional(number: int) -> Asked:
    """What the first policy allows for small amounts."""
    return Asked(f"write:{resource(0)}/drafts/{number}", Decision.ALLOW, "policy-00000")


def _shared(number: int) -> Asked:
    """What every policy denies in the same words."""
    return Asked(f"read:secrets/{number}", Decision.DENY, "policy-00000")


def _again(asked: Callable[[int], Asked]) -> Callable[[int], Asked]:
    """The first twelve actions, over and over."""
    return lambda number: asked(number % 12)


_AMOUNT: Final = '{"amount": 5}'

SITUATIONS: Final = (
    Situation("3 apply, actions repeat", _three, _again(_plain)),
    Situation("3 apply, every action is new", _three, _plain),
    Situation("3 apply, a condition decides", _three, _conditional, _AMOUNT),
    Situation("all apply, actions repeat", _all(), _again(_plain)),
    Situation("all apply, every action is new", _all(), _plain),
    Situation("all apply, a condition decides", _all(), _conditional, _AMOUNT),
    Situation("all apply and allow by default, new", _all(_allows_by_default), _open),
    Situation(
        "all apply and allow by default, a condition decides",
        _all(_allows_by_default),
        _conditional,
        _AMOUNT,
    ),
    Situation("all apply, all have the rule that decides, repeat", _all(), _again(_shared)),
    Situation("all apply, all have the rule that decides, new", _all(), _shared),
    Situation(
        "all apply, all have a condition on the action",
        _all(_denies_large_amounts),
        _conditional,
        _AMOUNT,
        extreme=True,
    ),
)


# ---------------------------------------------------------------- measuring


class _NewestRow(MemoryRecorder):
    """Keeps one commit, so that every round finds the same memory."""

    def write(self, rows: Sequence[AuditRow], changes: Sequence[Change] = ()) -> None:  # noqa: ARG002
        self.commits = [list(rows)]


class _Side:
    """One size of a situation: its policies with a gate before them, and what was measured."""

    def __init__(self, situation: Situation, count: int) -> None:
        self._situation = situation
        self._numbers = itertools.count()
        self._ids = itertools.count()
        self._bearer = "Bearer " + mint(
            SECRET, agent_id=AGENT, tags=(TAG,), now=time.time(), ttl_s=3600
        )
        self._tokens = TokenVerifier(SECRET)
        self._recorder = _NewestRow()
        self._snapshot = Snapshot(situation.policies(count))
        self._gate = Gate(
            snapshot=lambda: self._snapshot,
            tokens=self._tokens,
            recorder=self._recorder,
            environment=builders.environment(),
            mode=Mode.ENFORCE,
            now=time.time,
            monotonic_ns=time.perf_counter_ns,
            new_id=lambda: f"{next(self._ids):032x}",
        )
        #: Elapsed and CPU microseconds of one call, by round.
        self.judge_us: list[tuple[float, float]] = []
        self.check_us: list[tuple[float, float]] = []
        self._judge(WARM_UP)
        self._check(WARM_UP)
        # What a call costs, roughly, in seconds.
        self._judge(2)
        self._check(2)
        self.each_s = (self.judge_us[-1][0] + self.check_us[-1][0]) / 1e6
        self.judge_us.clear()
        self.check_us.clear()

    def round(self, calls: int) -> None:
        """Measure once more."""
        self._judge(calls)
        self._check(calls)

    def _judge(self, calls: int) -> None:
        asked, raw = self._requests(calls)
        cases = []
        for request in raw:
            call = from_check_request(request)
            caller = self._tokens.identify(call.authorization, time.time())
            assert isinstance(caller, Identity)
            cases.append(builders.case(call, caller, self._snapshot))
        answers: list[Verdict] = []
        elapsed, cpu = time.perf_counter(), time.process_time()
        for case in cases:
            answers.append(judge(case, CHAIN))  # noqa: PERF401 - timed like the loop below
        self.judge_us.append(_each(elapsed, cpu, calls))
        for one, verdict in zip(asked, answers, strict=True):
            assert (verdict.decision, verdict.policy) == (one.decision, one.policy), (one, verdict)

    def _check(self, calls: int) -> None:
        asked, raw = self._requests(calls)
        answers: list[bytes] = []
        elapsed, cpu = time.perf_counter(), time.process_time()
        for request in raw:
            answers.append(self._gate.check(request))  # noqa: PERF401
        self.check_us.append(_each(elapsed, cpu, calls))
        for one, answer in zip(asked, answers, strict=True):
            response = CheckResponse.FromString(answer)
            assert (response.status.code == 0) == (one.decision is Decision.ALLOW), (one, response)
            said = response.dynamic_metadata.fields["policy"].string_value
            assert said == one.policy, (one, response)

    def _requests(self, calls: int) -> tuple[list[Asked], list[bytes]]:
        asked = [self._situation.asked(next(self._numbers)) for _ in range(calls)]
        headers = {"authorization": self._bearer, "user-agent": "bench", "accept": "*/*"}
        if self._situation.meta:
            headers["x-meshguard-meta"] = self._situation.meta
        return asked, [
            check_request("POST", "/proxy/somewhere", {**headers, "x-meshguard-action": one.action})
            for one in asked
        ]


def _each(elapsed: float, cpu: float, calls: int) -> tuple[float, float]:
    # The CPU clock is read inside the other one's interval.
    cpu = time.process_time() - cpu
    return (time.perf_counter() - elapsed) / calls * 1e6, cpu / calls * 1e6


def _measure(situation: Situation, rounds: int) -> dict[str, Any]:
    small, large = _Side(situation, SMALL), _Side(situation, LARGE)
    # As many for both: the first calls of a round are dearer than the next.
    calls = max(1, min(CALLS, int(ROUND_S / max(small.each_s, large.each_s))))
    gc.collect()
    deadline = time.monotonic() + SITUATION_S
    done = 0
    while done < rounds and (done < 3 or time.monotonic() < deadline):
        # Whoever goes first finds the caches as the other left them.
        for side in (small, large) if done % 2 else (large, small):
            side.round(calls)
        done += 1
    return {
        "rounds": done,
        "calls": calls,
        "check_us": _compared(small.check_us, large.check_us),
        "judge_us": _compared(small.judge_us, large.judge_us),
    }


def _compared(
    small: list[tuple[float, float]], large: list[tuple[float, float]]
) -> dict[str, float]:
    (few, few_cpu), (many, many_cpu) = (
        [report.median([sample[which] for sample in side], 4) for which in (0, 1)]
        for side in (small, large)
    )
    return {
        str(SMALL): round(few, 2),
        str(LARGE): round(many, 2),
        "ratio": round(many / few, 3),
        "cpu_ratio": round(many_cpu / few_cpu, 3),
    }


# ---------------------------------------------------------------- after a swap


def _after_a_swap(repeats: int) -> dict[str, Any]:
    """What a caller's first decision costs by new policies, and what `prepare` takes of that."""
    found: dict[str, Any] = {}
    caller = Identity(AGENT, AGENT, "verified", 2, frozenset([TAG]), "", 2)
    asked = _plain(0)
    headers = {"authorization": "none", "x-meshguard-action": asked.action}
    call = from_check_request(check_request("POST", "/proxy/somewhere", headers))
    for name, make in (("3 apply", _three), ("all apply", _all())):
        for count in (SMALL, 1000, LARGE):
            compiled = make(count)
            cold, preparing, prepared, second = [], [], [], []
            for _ in range(repeats):
                snapshot = Snapshot(compiled)
                cold.append(_first(snapshot, caller, call, asked))
                second.append(_first(snapshot, caller, call, asked))
                snapshot = Snapshot(compiled)
                started = time.perf_counter()
                snapshot.prepare([caller])
                preparing.append((time.perf_counter() - started) * 1e3)
                prepared.append(_first(snapshot, caller, call, asked))
            found[f"{name}, {count} policies"] = {
                "unprepared": report.median(cold, 3),
                "prepared": report.median(prepared, 3),
                "the_second": report.median(second, 3),
                "prepare_itself": report.median(preparing, 3),
            }
            report.progress(f"after a swap, {name}, {count}: {list(found.values())[-1]}")
    return found


def _first(snapshot: Snapshot, caller: Identity, call: Any, asked: Asked) -> float:
    case = builders.case(call, caller, snapshot)
    started = time.perf_counter()
    verdict = judge(case, CHAIN)
    took = (time.perf_counter() - started) * 1e3
    assert (verdict.decision, verdict.policy) == (asked.decision, asked.policy), verdict
    return took
