"""The ledger: what is changed, taken back, written, followed and forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core import ledger as ledgers
from authz.core.ledger import Ledger, LedgerFull, Put, Table, parsed


def number(_: str, text: str) -> float:
    value = parsed(text)
    if not isinstance(value, (int, float)):
        raise ValueError("no number")
    return float(value)


def table(kind: str = "n") -> Table[float]:
    """Numbers, each of which is the time at which it expires; negative ones are final."""
    return Table(
        kind,
        repr,
        number,
        expires=abs,
        group=lambda value: str(int(value) % 3),
        is_final=lambda value: value < 0,
    )


changes = st.lists(
    st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 9).map(float)), max_size=20
)


@given(changes, changes)
def test_undo_puts_back_what_was_there_with_its_groups(
    before: list[tuple[str, float | None]], after: list[tuple[str, float | None]]
) -> None:
    numbers = table()
    ledger = Ledger(numbers)
    for key, value in before:
        ledger.put(Put(numbers, key, value))
    ledger.keep(durable=True)
    was = dict(numbers.entries)
    mark = ledger.mark
    for key, value in after:
        ledger.put(Put(numbers, key, value))
    ledger.undo(mark)
    assert numbers.entries == was
    groups = {group: {*keys} for group, keys in numbers.groups.items()}
    for key, value in was.items():
        groups[str(int(value) % 3)].remove(key)
    assert not any(groups.values())
    assert ledger.changes() == []


def test_what_is_not_durable_is_written_with_the_next_changes() -> None:
    numbers = table()
    ledger = Ledger(numbers)
    ledger.put(Put(numbers, "a", 1.0))
    ledger.keep(durable=False)
    ledger.put(Put(numbers, "b", 2.0))
    ledger.undo()
    assert ledger.changes() == [("n", "a", "1.0")]
    ledger.put(Put(numbers, "a", None))
    assert ledger.changes() == [("n", "a", None)]
    ledger.keep(durable=True)
    assert ledger.changes() == []


def test_several_changes_of_an_entry_are_written_once() -> None:
    numbers = table()
    ledger = Ledger(numbers)
    for value in (1.0, 2.0, 3.0):
        ledger.put(Put(numbers, "a", value))
    assert ledger.changes() == [("n", "a", "3.0")]


def test_what_others_wrote_is_taken_over_but_for_what_is_final() -> None:
    numbers = table()
    ledger = Ledger(numbers)
    ledger.load("n", "a", "1.0")
    ledger.load("n", "a", "2.0")
    ledger.load("another kind", "a", "not even json")
    assert numbers.entries == {"a": 2.0}
    ledger.load("n", "a", "-5.0")
    ledger.load("n", "a", "2.0")
    ledger.load("n", "a", None)
    assert numbers.entries == {"a": -5.0}
    assert ledger.changes() == [("n", "a", "-5.0")]
    with pytest.raises(ValueError, match="no number"):
        ledger.load("n", "b", '"x"')


def test_a_full_table_takes_changes_and_no_new_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "MAX_ENTRIES", 2)
    numbers = table()
    ledger = Ledger(numbers)
    for key in "ab":
        ledger.put(Put(numbers, key, 1.0))
    ledger.put(Put(numbers, "a", 2.0))
    with pytest.raises(LedgerFull, match="kind n"):
        ledger.put(Put(numbers, "c", 1.0))
    assert numbers.entries == {"a": 2.0, "b": 1.0}


def test_what_has_expired_is_removed_and_what_was_prolonged_is_not() -> None:
    numbers = table()
    ledger = Ledger(numbers)
    for key, value in (("a", 10.0), ("b", 10.0), ("c", 30.0)):
        ledger.put(Put(numbers, key, value))
    ledger.put(Put(numbers, "b", 20.0))
    ledger.keep(durable=True)
    ledger.purge(15.0)
    assert numbers.entries == {"b": 20.0, "c": 30.0}
    assert ledger.changes() == [("n", "a", None)]
    ledger.purge(25.0)
    assert numbers.entries == {"c": 30.0}


def test_what_was_taken_back_is_not_awaited_and_so_fills_nothing() -> None:
    """An agent that asks again and again while nothing can be written left one trace each time."""
    numbers = table()
    ledger = Ledger(numbers)
    for turn in range(10 * ledgers.PURGED_AT_ONCE):
        ledger.put(Put(numbers, "same", 10.0))
        ledger.put(Put(numbers, f"another {turn}", 10.0))
        ledger.undo()
    ledger.put(Put(numbers, "kept", 20.0))
    ledger.keep(durable=True)
    ledger.purge(25.0)
    assert numbers.entries == {}
    ledger.undo()
    assert numbers.entries == {"kept": 20.0}
    ledger.purge(25.0)
    assert numbers.entries == {}


def test_everything_is_written_to_a_file_that_knows_nothing() -> None:
    numbers = table()
    ledger = Ledger(numbers)
    ledger.load("n", "a", "1.0")
    ledger.everything_unsaved()
    ledger.load("n", "b", "2.0")
    assert ledger.changes() == [("n", "a", "1.0")]
