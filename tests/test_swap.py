"""Documents are swapped in the middle of a batch, and change nothing in it (DESIGN §2.4).

The source of snapshots answers with another one whenever it is asked again, or a stage swaps them
while a batch is decided: all of a batch is decided, recorded and paid for by what it began with.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI

from authz.core.audit import AuditRow
from authz.core.case import Case
from authz.core.chain_compiled import compile_chain
from authz.core.chain_doc import document_of
from authz.core.compiled import compile_policy
from authz.core.finding import NO_OBJECTION, Finding
from authz.core.ledger import Change
from authz.core.policy_doc import PolicyDoc
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.edges.http import governed
from authz.gate import Gate
from tests.builders import MemoryRecorder, bearer, check_request, gate, operations, policy

SIZE: Final = 8
RAWS: Final = [check_request()] * SIZE


def _documents(document: PolicyDoc, cost: int) -> Snapshot:
    wallet = {"name": "w", "kind": "RiskWallet", "capacity": 1000, "window": "1h"}
    chain = [compile_chain(document_of({**wallet, "defaultCost": cost}))]
    return Snapshot([compile_policy(document)], chain)


BEFORE: Final = _documents(policy("before", [("allow", "*")]), 3)
AFTER: Final = _documents(policy("after", [("deny", "*")]), 5)


class _Swapping:
    """A source that answers `BEFORE` once, or until a stage has seen so many calls."""

    def __init__(self, seen: int) -> None:
        """`seen`: 0, to swap as soon as it has answered."""
        self._left = seen
        self.current = BEFORE

    def __call__(self) -> Snapshot:
        answer = self.current
        if not self._left:
            self.current = AFTER
        return answer

    def judge(self, case: Case) -> Finding:
        """A stage that swaps."""
        self._left -= 1
        if self._left == 0:
            self.current = AFTER
        return NO_OBJECTION


class _Fails(MemoryRecorder):
    """Cannot bind the rows of the first transaction, so that each call is tried by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._failed = False

    def write(self, rows: Sequence[AuditRow], changes: Sequence[Change] = ()) -> None:
        if not self._failed:
            self._failed = True
            raise ValueError("these rows cannot be bound")
        super().write(rows, changes)


def _decisions(rows: Sequence[AuditRow]) -> set[tuple[Any, ...]]:
    return {(row.decision, row.policy, row.policy_version, row.debit) for row in rows}


ALLOWED: Final = {("allow", "before", BEFORE.version, 3)}
DENIED: Final = {("deny", "after", AFTER.version, None)}

sources = pytest.mark.parametrize("seen", [0, 1, SIZE // 2, SIZE])


def _gate(seen: int, recorder: MemoryRecorder) -> Gate:
    source = _Swapping(seen)
    return gate(source, recorder, chain=(Stage("swaps", source.judge), *CHAIN))


@sources
@pytest.mark.parametrize("recording", [MemoryRecorder, _Fails])
def test_calls_that_come_together_are_decided_by_what_was_in_force_when_they_came(
    seen: int, recording: Callable[[], MemoryRecorder]
) -> None:
    recorder = recording()
    asked = _gate(seen, recorder)
    assert len(set(asked.check_all(RAWS))) == SIZE  # each names its own row
    assert (len(recorder.rows), _decisions(recorder.rows)) == (SIZE, ALLOWED)
    asked.check_all(RAWS)
    assert _decisions(recorder.rows[SIZE:]) == DENIED


@sources
def test_a_governance_batch_is_decided_by_one_version_and_names_it(
    seen: int, tmp_path: Path
) -> None:
    recorder = MemoryRecorder()
    app = FastAPI()
    app.include_router(governed.router(_gate(seen, recorder), operations(tmp_path / "audit.db")))

    async def ask() -> Any:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            actions = [{"action": f"read:{number}"} for number in range(SIZE)]
            answer = await client.post(
                "/api/v1/governance/batch",
                json={"actions": actions},
                headers={"Authorization": bearer()},
            )
            assert answer.status_code == 200
            return answer.json()

    first, second = asyncio.run(ask()), asyncio.run(ask())
    for said, version, decision in ((first, BEFORE, "allow"), (second, AFTER, "deny")):
        assert said["policyVersion"] == version.version
        assert [item["decision"] for item in said["results"]] == [decision] * SIZE
    assert _decisions(recorder.rows[:SIZE]) == ALLOWED
    assert _decisions(recorder.rows[SIZE:]) == DENIED
