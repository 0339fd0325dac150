"""A batch of 64 with one call in it that breaks something: the other 63 are answered and recorded
as if it had not been there, it has an answer itself, and nothing raises, whatever breaks where."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest

from authz import gate as gates
from authz.core import call as calls
from authz.core import reply
from authz.core.audit import AuditRow, row_of
from authz.core.case import Case
from authz.core.errors import AuditUnavailable
from authz.core.finding import Finding, Pass
from authz.core.ledger import Change
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.core.verdict import Decision
from authz.core.wire_pb2 import CheckResponse
from authz.gate import Gate
from tests.builders import MemoryRecorder, check_request, gate, policy, snapshot

SIZE = 64
POISON = "/proxy/poison"
ALLOW_READS = snapshot(policy("readers", [("allow", "read:*")]))


class Poisoned(Exception):
    """What breaks."""


def _is_poison(text: str) -> bool:
    return text.endswith("poison")


class _Fussy(MemoryRecorder):
    """Commits all rows or none, and cannot bind one of them."""

    def write(self, rows: Sequence[AuditRow], changes: Sequence[Change] = ()) -> None:
        if any(_is_poison(row.action) for row in rows):
            raise Poisoned
        super().write(rows, changes)


def _read_badly(raw: bytes) -> calls.Call:
    if b"poison" in raw:
        raise Poisoned
    return calls.from_check_request(raw)


def _row_badly(outcome: Outcome) -> AuditRow:
    if _is_poison(outcome.case.call.action):
        raise Poisoned
    return row_of(outcome)


_check_response = reply.check_response


def _reply_badly(outcome: Outcome, key: str) -> bytes:
    if _is_poison(outcome.case.call.action):
        raise Poisoned
    return _check_response(outcome, key)


def _judge_badly(case: Case) -> Finding:
    if _is_poison(case.call.action):
        raise Poisoned
    return Pass()


class _Calls:
    """`authz.core.call` as the gate sees it, reading badly."""

    unreadable = staticmethod(calls.unreadable)
    from_check_request = staticmethod(_read_badly)


def _break_reading(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gates, "calls", _Calls)


def _break_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gates, "row_of", _row_badly)


def _break_replies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reply, "check_response", _reply_badly)


def _break_nothing(_: pytest.MonkeyPatch) -> None:
    pass


#: What breaks; the recorder; the chain; whether the poisonous call is answered as if nothing was
#: wrong with deciding it; its rows; what is counted as unrecorded.
WAYS: dict[
    str, tuple[Callable[[pytest.MonkeyPatch], None], type[MemoryRecorder], Any, int, int]
] = {
    "reading the request": (_break_reading, MemoryRecorder, CHAIN, 0, 1),
    "a stage": (_break_nothing, MemoryRecorder, (*CHAIN, Stage("bad", _judge_badly)), 1, 0),
    "making the row": (_break_rows, MemoryRecorder, CHAIN, 0, 1),
    "writing the row": (_break_nothing, _Fussy, CHAIN, 0, 1),
    "writing the answer": (_break_replies, MemoryRecorder, CHAIN, 1, 1),
}


def _requests(poison: int | None) -> list[bytes]:
    """Allowed and denied ones in turn, with a poisonous one at a place."""
    requests = [
        check_request("POST" if at % 3 == 0 else "GET", f"/proxy/{at}") for at in range(SIZE)
    ]
    if poison is not None:
        requests[poison] = check_request(path=POISON)
    return requests


def _kinds(answers: list[bytes]) -> list[tuple[str | None, int, str]]:
    """What kind of answer each is, its status and its code."""
    found = []
    for answer in answers:
        response = CheckResponse.FromString(answer)
        kind = response.WhichOneof("http_response")
        refusal = getattr(response, kind or "", None)
        status = 200 if kind == "ok_response" else refusal.status.code if refusal else 0
        code = "" if kind == "ok_response" else json.loads(refusal.body)["code"]  # type: ignore[union-attr]
        found.append((kind, status, code))
    return found


def _told(row: AuditRow) -> tuple[str, ...]:
    return (row.action, row.decision, row.enforced, row.code)


@pytest.mark.parametrize("poison", [0, 1, 31, SIZE - 1])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.AUDIT])
def test_one_poisonous_call_changes_nothing_for_the_others(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, way: str, poison: int
) -> None:
    healthy = MemoryRecorder()
    expected = _kinds(gate(ALLOW_READS, healthy, mode=mode).check_all(_requests(poison)))
    others = [_told(row) for row in healthy.rows if not _is_poison(row.action)]

    prepare, recording, chain, rows, unrecorded = WAYS[way]
    prepare(monkeypatch)
    recorder = recording()
    answers = gate(ALLOW_READS, recorder, mode=mode, chain=chain).check_all(_requests(poison))
    found = _kinds(answers)
    assert len(answers) == SIZE
    assert [kind for at, kind in enumerate(found) if at != poison] == [
        kind for at, kind in enumerate(expected) if at != poison
    ]
    if mode is Mode.AUDIT:
        assert found[poison][0] == "ok_response"
    else:
        assert found[poison] == ("error_response", 503, "internal")
    assert [_told(row) for row in recorder.rows if not _is_poison(row.action)] == others
    assert len(recorder.rows) == SIZE - 1 + rows
    assert recorder.unrecorded == unrecorded
    # Every other answer has the id of its own row.
    ids = [row.id for row in recorder.rows]
    assert len(set(ids)) == len(ids)
    for at, answer in enumerate(answers):
        if at != poison:
            fields = CheckResponse.FromString(answer).dynamic_metadata.fields
            assert fields["decision_id"].string_value in ids


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_poison_alone_is_answered(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    prepare, recording, chain, rows, unrecorded = WAYS[way]
    prepare(monkeypatch)
    recorder = recording()
    asked = gate(ALLOW_READS, recorder, chain=chain)
    answers = asked.check_all([check_request(path=POISON)] * 5)
    assert _kinds(answers) == [("error_response", 503, "internal")] * 5
    assert (len(recorder.rows), recorder.unrecorded) == (5 * rows, 5 * unrecorded)
    assert asked.check_all([]) == []


UNAVAILABLE = AuditUnavailable("the disk is full")


def test_without_a_store_a_whole_batch_is_503() -> None:
    recorder = MemoryRecorder(UNAVAILABLE)
    answers = gate(ALLOW_READS, recorder).check_all(_requests(None))
    assert _kinds(answers) == [("error_response", 503, "audit_unavailable")] * SIZE
    assert recorder.unrecorded == SIZE


@pytest.mark.parametrize(
    ("mode", "allow_unrecorded"), [(Mode.AUDIT, False), (Mode.AUDIT, True), (Mode.ENFORCE, True)]
)
def test_without_a_store_a_batch_stands_where_that_is_wanted(
    mode: Mode, allow_unrecorded: bool
) -> None:
    def ask(recorder: MemoryRecorder) -> list[bytes]:
        asked = gate(ALLOW_READS, recorder, mode=mode, allow_unrecorded=allow_unrecorded)
        return asked.check_all(_requests(None))

    recorder = MemoryRecorder(UNAVAILABLE)
    assert ask(recorder) == ask(MemoryRecorder())
    assert recorder.unrecorded == SIZE


def test_without_a_store_a_poisonous_call_is_no_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    _break_rows(monkeypatch)
    recorder = MemoryRecorder(UNAVAILABLE)
    found = _kinds(gate(ALLOW_READS, recorder).check_all(_requests(7)))
    assert found.pop(7) == ("error_response", 503, "internal")
    assert found == [("error_response", 503, "audit_unavailable")] * (SIZE - 1)
    assert recorder.unrecorded == SIZE


# Turning away.


@pytest.mark.parametrize(
    ("mode", "kind"), [(Mode.ENFORCE, ("error_response", 503, "overloaded")),
                       (Mode.AUDIT, ("ok_response", 200, "")),
                       (Mode.BYPASS, ("ok_response", 200, ""))],
)  # fmt: skip
def test_a_call_that_is_turned_away_is_told_so_as_the_mode_wants(
    mode: Mode, kind: tuple[str, int, str]
) -> None:
    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder, mode=mode)
    away = asked.turn_away()
    assert _kinds([away]) == [kind]
    assert asked.turn_away() == away
    response = CheckResponse.FromString(away)
    if mode is Mode.ENFORCE:
        headers = {o.header.key: o.header.value for o in response.error_response.headers}
        assert headers["retry-after"] == "1"
        assert headers["x-meshguard-decision"] == "error"
    else:
        # What it carries was not looked at, so all of what is ours is kept from the upstream.
        assert {"authorization", "x-admin-token", "x-meshguard-action"} <= set(
            response.ok_response.headers_to_remove
        )


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.AUDIT])
def test_those_turned_away_are_a_row_of_the_next_batch_and_of_no_other(mode: Mode) -> None:
    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder, mode=mode)
    for _ in range(3):
        asked.turn_away()
    assert recorder.rows == []
    asked.check(check_request())
    [commit] = recorder.commits
    [judged, overload] = commit
    assert judged.source == "proxy"
    assert (overload.source, overload.action, overload.resource) == (
        "control", "overload", "3 calls",
    )  # fmt: skip
    enforced = Decision.ERROR if mode is Mode.ENFORCE else Decision.ALLOW
    assert (overload.decision, overload.enforced, overload.code, overload.mode) == (
        "error", str(enforced), "overloaded", str(mode),
    )  # fmt: skip
    assert recorder.unrecorded == 3
    asked.check(check_request())
    assert len(recorder.rows) == 3


def test_the_answer_to_those_turned_away_follows_the_mode() -> None:
    asked = gate(ALLOW_READS, MemoryRecorder())
    kinds = []
    for mode in (Mode.ENFORCE, Mode.AUDIT, Mode.ENFORCE):
        asked.mode = mode
        kinds += _kinds([asked.turn_away()])
    assert [kind for kind, _, _ in kinds] == ["error_response", "ok_response", "error_response"]


def test_bypass_counts_nobody_and_writes_nothing() -> None:
    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder, mode=Mode.BYPASS)
    asked.turn_away()
    asked.check_all(_requests(None))
    asked.mode = Mode.ENFORCE
    asked.check(check_request())
    assert [row.source for row in recorder.rows] == ["proxy"]
    assert recorder.unrecorded == 0


def test_those_turned_away_are_told_of_once_the_store_takes_rows_again() -> None:
    recorder = MemoryRecorder(UNAVAILABLE)
    asked = gate(ALLOW_READS, recorder)
    asked.turn_away()
    asked.turn_away()
    assert recorder.unrecorded == 2
    asked.check(check_request())
    assert recorder.unrecorded == 3
    recorder.failure = None
    asked.turn_away()
    asked.check(check_request())
    asked.check(check_request())
    assert [row.resource for row in recorder.rows] == ["doc", "3 calls", "doc"]
    assert recorder.unrecorded == 4


def test_those_turned_away_last_are_a_row_when_the_gate_closes() -> None:
    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder)
    asked.check(check_request())
    asked.turn_away()
    asked.turn_away()
    asked.close()
    asked.close()
    assert [row.resource for row in recorder.rows] == ["doc", "2 calls"]


def test_a_gate_that_closes_in_bypass_tells_of_those_it_turned_away_before() -> None:
    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder)
    asked.turn_away()
    asked.mode = Mode.BYPASS
    asked.turn_away()
    asked.close()
    assert [row.resource for row in recorder.rows] == ["1 calls"]


def test_a_gate_closes_without_a_store() -> None:
    for recorder in (MemoryRecorder(UNAVAILABLE), MemoryRecorder()):
        asked = gate(ALLOW_READS, recorder)
        if recorder.failure:
            asked.turn_away()
        asked.close()
        assert recorder.rows == []


@pytest.mark.parametrize("way", WAYS)
def test_a_poisonous_call_takes_no_overload_row_along(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """How many were turned away is told all the same, and once."""
    prepare, recording, chain, _, unrecorded = WAYS[way]
    prepare(monkeypatch)
    recorder = recording()
    asked = gate(ALLOW_READS, recorder, chain=chain)
    asked.turn_away()
    asked.turn_away()
    asked.check_all(_requests(5))
    asked.check_all(_requests(None))
    told = [row.resource for row in recorder.rows if row.source == "control"]
    assert told == ["2 calls"]
    assert recorder.unrecorded == 2 + unrecorded


def _raise(*_: object) -> NoReturn:
    raise Poisoned


@pytest.mark.parametrize("part", ["now", "monotonic_ns", "new_id", "snapshot"])
@pytest.mark.parametrize("mode", list(Mode))
def test_nothing_raises_when_everything_breaks(
    monkeypatch: pytest.MonkeyPatch, part: str, mode: Mode
) -> None:
    _break_replies(monkeypatch)
    _break_rows(monkeypatch)
    recorder = MemoryRecorder(Poisoned())
    monkeypatch.setattr(recorder, "missed", _raise)
    asked: Gate = gate(ALLOW_READS, recorder, mode=mode)
    monkeypatch.setattr(asked, f"_{part}", _raise)
    asked.turn_away()
    answers = asked.check_all(_requests(3))
    assert len(answers) == SIZE
    for kind, status, code in _kinds(answers):
        if mode is Mode.ENFORCE:
            assert (kind, status, code) == ("error_response", 503, "internal")
        else:
            assert kind == "ok_response"
