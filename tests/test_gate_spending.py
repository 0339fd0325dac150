"""Sidecars that share a database spend from one wallet, and never more than it holds.

Each is a gate with a ledger of its own, as in a process of its own, and decides batches in turn
with the others; some end in between, and begin anew with what the database says.
"""

import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.balance import key
from authz.core.chain_compiled import compile_chain
from authz.core.chain_doc import document_of
from authz.core.compiled import compile_policy
from authz.core.identity import TokenVerifier
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.state import State
from authz.core.timestamps import seconds_of
from authz.core.window import Window
from authz.gate import Gate
from authz.stores.audit_log import AuditLog
from tests.builders import NOW, SECRET, check_request, environment, policy

CAPACITY: Final = 20
WINDOW_S: Final = 60
COSTS: Final = {"a": 1, "b": 7}

wallet = {
    "name": "w",
    "kind": "RiskWallet",
    "capacity": CAPACITY,
    "window": "1m",
    "costs": [{"actions": [f"read:{name}"], "cost": cost} for name, cost in COSTS.items()],
}
IN_FORCE: Final = Snapshot(
    [compile_policy(policy("all", [("allow", "read:*")]))], [compile_chain(document_of(wallet))]
)
REQUESTS: Final = {name: check_request(path=f"/proxy/{name}") for name in (*COSTS, "free")}


class _Sidecar:
    """A gate, and what it has open."""

    def __init__(self, database: Path, clock: list[float], ids: Iterator[int]) -> None:
        state = State()
        self.audit = AuditLog(database, monotonic=lambda: 0.0, ledger=state.ledger)
        assert self.audit.open()
        self.gate = Gate(
            snapshot=lambda: IN_FORCE,
            tokens=TokenVerifier(SECRET, registry=state.agents),
            recorder=self.audit,
            environment=environment(state=state),
            mode=Mode.ENFORCE,
            now=lambda: clock[0],
            monotonic_ns=lambda: int((clock[0] - NOW) * 1e9),
            new_id=lambda: f"id-{next(ids)}",
            steady_offset=NOW,
        )
        self.state = state


#: Which sidecar decides, what it is asked, how long nothing happens then, and who is killed.
turns = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.lists(st.sampled_from((*REQUESTS,)), min_size=1, max_size=6),
        st.sampled_from((0.0, 0.0, 0.5, 7.0, 61.0)),
        st.sampled_from((None, None, 0, 1, 2)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None)  # each example waits for a disk
@given(turns)
def test_no_order_of_batches_in_several_processes_overspends_a_wallet(
    happening: list[tuple[int, list[str], float, int | None]],
) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        database = Path(directory) / "audit.db"
        clock, ids = [NOW], itertools.count(1)

        def begin() -> _Sidecar:
            sidecar = _Sidecar(database, clock, ids)
            stack.callback(sidecar.audit.close)
            return sidecar

        sidecars = [begin() for _ in range(3)]
        for who, asked, pause, killed in happening:
            sidecars[who].gate.check_all([REQUESTS[name] for name in asked])
            clock[0] += pause
            if killed is not None:
                # Nothing is closed: it is as if it had been killed.
                sidecars[killed] = begin()
        spent = _debits(database)
        for at, _ in spent:
            assert sum(cost for when, cost in spent if at - WINDOW_S < when <= at) <= CAPACITY
        reader = begin()
        reader.audit.begin()
        reader.audit.cancel()
        known = reader.state.wallets.get(key("w", "agent-1"))
        assert isinstance(known, Window | None)
        inside = sum(cost for when, cost in spent if when > clock[0] - WINDOW_S)
        assert inside <= (known.total(clock[0]) if known is not None else 0) <= CAPACITY


def _debits(database: Path) -> list[tuple[float, int]]:
    """When what was spent, by the rows."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT timestamp, debit FROM audit WHERE decision = 'allow' ORDER BY seq"
        return [(seconds_of(at), int(debit)) for at, debit in connection.execute(query)]


@pytest.mark.parametrize("together", [1, 3, 50])
def test_what_the_rows_say_was_spent_is_what_the_ledger_says(tmp_path: Path, together: int) -> None:
    clock, ids = [NOW], itertools.count(1)
    first, second = (_Sidecar(tmp_path / "audit.db", clock, ids) for _ in range(2))
    for sidecar in (first, second, first, second):
        sidecar.gate.check_all([REQUESTS["a"]] * together)
    spent = sum(cost for _, cost in _debits(tmp_path / "audit.db"))
    assert spent == min(4 * together, CAPACITY)
    for sidecar in (first, second):
        sidecar.audit.begin()
        sidecar.audit.cancel()
        known = sidecar.state.wallets.get(key("w", "agent-1"))
        assert isinstance(known, Window)
        assert known.total(NOW) == spent
        sidecar.audit.close()
