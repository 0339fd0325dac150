"""What is asked of the trail is what is in it: all of it, in order, and nothing else."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.audit import AuditRow
from authz.core.pattern import compile_pattern, fold
from authz.core.tiers import rank
from authz.core.timestamps import rfc3339
from authz.stores import audit_query
from authz.stores.audit_query import (
    BadFilter,
    NothingFound,
    Order,
    TooMuch,
    Unreadable,
    cursor_of,
    filters_of,
    opened,
    page,
    spans,
    stats,
)
from tests.stores.trail import START, execute, row
from tests.stores.trails import ACTIONS, minute, reading, seqs, varied, write

ROWS = varied(1500)


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trail") / "audit.db"
    write(path, ROWS)
    return path


@pytest.fixture(scope="module")
def connection(trail: Path) -> Iterator[sqlite3.Connection]:
    with reading(trail) as opened_one:
        yield opened_one


def found(connection: sqlite3.Connection, **given: str) -> list[int]:
    """The numbers of the rows that fit, oldest first."""
    filters = filters_of({name.rstrip("_"): value for name, value in given.items()})
    return seqs(audit_query.entries(connection, filters, order="asc"))


# Filters.


def _same(column: str) -> Callable[[AuditRow, str], bool]:
    return lambda row, value: getattr(row, column) == value


def _fits(column: str) -> Callable[[AuditRow, str], bool]:
    def fits(row: AuditRow, value: str) -> bool:
        text = getattr(row, column)
        return text is not None and compile_pattern(value)(fold(text))

    return fits


#: What each filter means, without SQL.
MEANINGS: dict[str, Callable[[AuditRow, str], bool]] = {
    "agentId": _same("agent_id"),
    "source": _same("source"),
    "decision": _same("decision"),
    "enforced": _same("enforced"),
    "mode": _same("mode"),
    "traceId": _same("trace_id"),
    "decisionId": _same("id"),
    "action": _fits("action"),
    "resource": _fits("resource"),
    "path": _fits("path"),
    "method": lambda row, value: row.method == value.upper(),
    "trustTier": lambda row, value: (
        row.trust_tier is not None and rank(row.trust_tier) == rank(value)
    ),
    "reason": lambda row, value: row.reason is not None and value.lower() in row.reason.lower(),
    "from": lambda row, value: row.timestamp >= value,
    "to": lambda row, value: row.timestamp < value,
}
VALUES: dict[str, tuple[str, ...]] = {
    "agentId": ("a", "b", "A", "nobody"),
    "source": ("proxy", "control"),
    "decision": ("allow", "deny", "error"),
    "enforced": ("allow", "deny"),
    "mode": ("enforce", "bypass"),
    "traceId": ("t-1",),
    "decisionId": ("d-7", "d-1500"),
    "action": ("read:*", "*docs*", "delete:a*b", "*", "Ü", "READ:DOCS", "%", "_"),
    "resource": ("r/*", "R/1"),
    "path": ("/a*", "/a"),
    "method": ("get", "POST"),
    "trustTier": ("verified", "untrusted", "privileged"),
    "reason": ("BECAUSE", "o"),
    "from": (minute(10), minute(1490)),
    "to": (minute(20), minute(1495)),
}


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}
    )
)
def test_filters_find_what_they_say(trail: Path, asked: dict[str, str]) -> None:
    if asked.get("from", "") >= asked.get("to", "~"):
        asked.pop("from")
    with reading(trail) as connection:
        numbers = seqs(audit_query.entries(connection, filters_of(asked), order="asc"))
    fitting = [
        number
        for number, row in enumerate(ROWS, 1)
        if all(MEANINGS[name](row, value) for name, value in asked.items())
    ]
    assert numbers == fitting


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", '" OR ""="', "a'; DROP TABLE audit; --", "\x00", "*' OR '1'='1", "%"]
)
def test_what_is_asked_for_is_never_part_of_a_statement(
    connection: sqlite3.Connection, text: str
) -> None:
    for name in audit_query.FILTERS:
        with contextlib.suppress(BadFilter):
            filters = filters_of({name: text})
            assert not list(audit_query.entries(connection, filters)), name
    assert found(connection, agentId="a")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"agent": "a"}, "agent: there is no such filter"),
        ({"decision": "denied"}, "decision: write one of allow, deny, error, reported"),
        ({"mode": "off"}, "mode: write one of enforce, audit, bypass"),
        ({"trustTier": "high"}, "trustTier: there is no such tier"),
        ({"from": "yesterday"}, "from: not a time; write 2026-01-31T12:00:00Z"),
        ({"to": "9999-12-31T23:59:59-23:59"}, "to: not a time; write 2026-01-31T12:00:00Z"),
        ({"from": minute(2), "to": minute(1)}, "from: is not before to"),
        ({"from": minute(2), "to": minute(2)}, "from: is not before to"),
        ({"policy": "p" * 2049}, "policy: is longer than 2048 characters"),
    ],
)
def test_a_filter_that_can_mean_nothing_is_refused(asked: dict[str, str], said: str) -> None:
    with pytest.raises(BadFilter) as refused:
        filters_of(asked)
    assert str(refused.value) == said


def test_filters_that_are_empty_are_none() -> None:
    assert filters_of(dict.fromkeys(audit_query.FILTERS, "")) == audit_query.ANY


def test_times_are_read_with_their_offset(connection: sqlite3.Connection) -> None:
    # Row 0 would be at 2023-11-14T22:13:20Z.
    assert found(connection, from_="2023-11-14T23:15:00+01:00", to="2023-11-14T22:17:00Z") == [2, 3]
    assert found(connection, to="2023-11-14") == []


# Pages.


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize("asked", [{}, {"agentId": "a"}, {"action": "nothing"}])
def test_pages_have_every_entry_once_in_order(
    connection: sqlite3.Connection, order: Order, limit: int, asked: dict[str, str]
) -> None:
    if limit == 1:
        asked = {**asked, "to": minute(30)}
    filters = filters_of(asked)
    numbers: list[int] = []
    after = None
    while True:
        one = page(connection, filters, limit=limit, order=order, after=after)
        assert len(one.entries) <= limit
        assert not one.incomplete
        numbers += seqs(one.entries)
        if not one.next:
            break
        after = cursor_of("after", one.next)
    everything = seqs(audit_query.entries(connection, filters, order=order))
    assert numbers == everything
    assert numbers == sorted(numbers, reverse=order == "desc")


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_that_has_no_time_goes_on_where_it_ended(
    connection: sqlite3.Connection, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_query, "SPAN", 100)
    filters = filters_of({"agentId": "a"})
    numbers: list[int] = []
    after, pages = None, 0
    while True:
        one = page(connection, filters, limit=1000, order=order, after=after, within_s=0)
        numbers += seqs(one.entries)
        pages += 1
        if not one.next:
            break
        assert one.incomplete
        assert one.answer()["incomplete"] is True
        after = cursor_of("after", one.next)
    assert pages == 15
    assert numbers == seqs(audit_query.entries(connection, filters, order=order))


def test_a_page_ends_early_when_its_rows_are_long(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_query, "MAX_PAGE_BYTES", 1000)
    one = page(connection, audit_query.ANY, limit=1000)
    assert 0 < len(one.entries) < 20
    assert one.next == str(one.entries[-1]["seq"])


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1e3", "٣", " 1", "9" * 20])
def test_a_cursor_that_no_page_gave_is_refused(text: str) -> None:
    with pytest.raises(BadFilter, match="after: send what the page before has as next"):
        cursor_of("after", text)


def test_a_cursor_beyond_the_trail_finds_nothing_or_everything(
    connection: sqlite3.Connection,
) -> None:
    far = cursor_of("after", "9" * 19)
    assert page(connection, audit_query.ANY, limit=5, order="asc", after=far).entries == []
    assert seqs(page(connection, audit_query.ANY, limit=1, after=far).entries) == [1500]
    assert page(connection, audit_query.ANY, limit=5, after=0).entries == []


def test_gaps_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(3))
    execute(path, "UPDATE audit SET seq = ? WHERE seq = 3", (1 << 62))
    with reading(path) as connection:
        assert found(connection) == [1, 2, 1 << 62]
        assert seqs(page(connection, audit_query.ANY, limit=9).entries) == [1 << 62, 2, 1]


@pytest.mark.parametrize("descending", [False, True])
def test_spans_are_the_whole_trail(connection: sqlite3.Connection, descending: bool) -> None:
    there = list(spans(connection, 1, 1500, descending))
    numbers = [number for low, high in there for number in range(low, high + 1)]
    assert sorted(numbers) == list(range(1, 1501))


# Times.


def test_rows_of_a_clock_that_was_wrong_by_less_than_a_day_are_found(tmp_path: Path) -> None:
    day = 86_400.0
    path = tmp_path / "audit.db"
    # Days of the clock; it was twice most of a day ahead.
    clock = [0.0, 1, 2, 3.9, 3, 4.8, 4, 5, 6, 7, 8, 9]
    write(path, [row(number, at=START + at * day) for number, at in enumerate(clock)])
    with reading(path) as connection:
        for since in range(10):
            for until in range(since + 1, 11):
                times = {"from": START + since * day, "to": START + until * day}
                asked = {name: rfc3339(at) for name, at in times.items()}
                fitting = [n for n, at in enumerate(clock, 1) if since <= at < until]
                assert found(connection, **asked) == fitting


def test_a_question_with_times_looks_only_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, [row(number, at=START + number * 3600) for number in range(1, 1001)])
    with reading(path) as connection:
        since, until = (rfc3339(START + hour * 3600) for hour in (500, 510))
        filters = filters_of({"from": since, "to": until})
        assert audit_query.limits(connection, filters) == (476, 533)


# One, and counts.


def test_one_entry_is_found_by_its_id(connection: sqlite3.Connection) -> None:
    entry = audit_query.one(connection, "d-7")
    assert (entry["seq"], entry["id"]) == (7, "d-7")
    with pytest.raises(NothingFound):
        audit_query.one(connection, "d-0")


def test_one_entry_that_takes_too_long_is_not_said_to_be_absent(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_query, "SPAN", 10)
    with pytest.raises(TooMuch):
        audit_query.one(connection, "d-1", within_s=0)


def test_decisions_are_counted_and_nothing_else(connection: sqlite3.Connection) -> None:
    decided = [row for row in ROWS if row.source in ("proxy", "check")]
    assert stats(connection, audit_query.ANY) == {
        "total": len(decided),
        "allowed": sum(row.decision == "allow" for row in decided),
        "denied": sum(row.decision == "deny" for row in decided),
        "errors": sum(row.decision == "error" for row in decided),
        "wouldDeny": sum((row.decision, row.enforced) == ("deny", "allow") for row in decided),
    }
    of_one = stats(connection, filters_of({"agentId": "a", "from": minute(700)}))
    assert of_one["total"] == sum(
        row.agent_id == "a" and row.timestamp >= minute(700) for row in decided
    )


def test_what_cannot_be_counted_in_time_is_no_number(
    connection: sqlite3.Connection,
) -> None:
    with pytest.raises(TooMuch):
        stats(connection, audit_query.ANY, within_s=0)


# Entries.


def test_an_entry_is_as_the_contract_has_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, [row()._replace(latency_us=1500, metadata='{"meta":{"k":[1]},"host":"h"}')])
    with reading(path) as connection:
        [entry] = audit_query.entries(connection, audit_query.ANY)
    digests = {name: entry.pop(name) for name in ("prevHash", "hash")}
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests.values())
    assert entry == {
        "seq": 1,
        "id": "d-1",
        "timestamp": "2023-11-14T22:13:20.000000Z",
        "source": "proxy",
        "agentId": "agent-ü",
        "trustTier": "verified",
        "action": "read:doc",
        "resource": 'say "hi"\n\\',
        "method": "GET",
        "path": "/proxy/😀",
        "decision": "allow",
        "result": "allow",
        "enforced": "allow",
        "mode": "enforce",
        "code": "rule_allowed",
        "policy": "p",
        "rule": "r",
        "ruleIndex": 1,
        "policyVersion": "v1",
        "traceId": "t-1",
        "latencyMs": 1.5,
        "durationMs": 1.5,
        "metadata": {"meta": {"k": [1]}, "host": "h"},
        "meta": {"k": [1]},
    }


@pytest.mark.parametrize(
    "metadata",
    [
        "nothing",
        "[1]",
        "1",
        '{"a":NaN}',
        '{"a":1e999}',
        "{" * 2000,
        '{"a":' + "[" * 1000 + "]" * 1000 + "}",
        '{"a":' + "9" * 5000 + "}",
    ],
)
def test_metadata_that_no_sidecar_wrote_stays_a_text(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "audit.db"
    write(path, [row()._replace(metadata=metadata)])
    with reading(path) as connection:
        [entry] = audit_query.entries(connection, audit_query.ANY)
    assert entry["metadata"] == metadata
    assert "meta" not in entry


# Files.


def test_bytes_that_are_no_text_hide_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(3))
    execute(path, "UPDATE audit SET action = CAST(x'ff41' AS TEXT), agent_id = x'00' WHERE seq = 2")
    with reading(path) as connection:
        assert found(connection) == [1, 2, 3]
        [odd] = (e for e in audit_query.entries(connection, audit_query.ANY) if e["seq"] == 2)
        assert (odd["action"], odd["agentId"]) == ("\ufffdA", "00")
        assert found(connection, action="*") == [1, 2, 3]
        assert found(connection, agentId="x") == []


def test_what_an_older_version_wrote_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(3))
    for column in ("debit", "delegation_id", "prev_hash", "hash"):
        execute(path, f"ALTER TABLE audit DROP COLUMN {column}")
    with reading(path) as connection:
        assert found(connection) == [1, 2, 3]


def test_an_empty_trail_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, [])
    with reading(path) as connection:
        assert found(connection) == []
        assert page(connection, audit_query.ANY, limit=1).answer() == {"entries": []}
        assert stats(connection, audit_query.ANY)["total"] == 0
        assert stats(connection, filters_of({"from": minute(1)}))["total"] == 0


@pytest.mark.parametrize("content", [None, b"no database", b""])
def test_a_file_that_is_no_trail_is_unreadable(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "audit.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unreadable) as refused:
        opened(path)
    assert str(path) not in str(refused.value)


def test_nothing_can_be_written(connection: sqlite3.Connection) -> None:
    for statement in ("DELETE FROM audit", "PRAGMA user_version = 1", "CREATE TABLE x (y)"):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute(statement)


def test_a_long_question_lets_others_breathe(trail: Path) -> None:
    breaths: list[Any] = []
    with contextlib.closing(opened(trail, lambda: breaths.append(None))) as connection:
        stats(connection, audit_query.ANY)
    assert len(breaths) > 10


def test_the_actions_of_these_tests_are_matched_in_any_case(
    connection: sqlite3.Connection,
) -> None:
    for action in ACTIONS:
        assert found(connection, action=action.upper()) == found(connection, action=action)
