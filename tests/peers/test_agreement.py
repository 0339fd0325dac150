"""Both transports answer the whole corpus byte for byte as the gate does, and record the same rows.

And it does not matter what is asked together: however the corpus is cut into batches, answers and
rows are those of one call after the other.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.audit import AuditRow
from authz.core.mode import Mode
from authz.core.wire_pb2 import CheckResponse
from authz.gate import Gate
from tests.builders import MemoryRecorder
from tests.e2e.sidecar import PATIENCE_S
from tests.peers.corpus import CASES, GATES, REQUESTS, gate_of
from tests.peers.servers import CHECK, TRANSPORTS, directory, serving

RAWS = list(REQUESTS.values())


@functools.cache
def _one_by_one(mode: Mode, key: str) -> tuple[list[bytes], list[AuditRow]]:
    recorder = MemoryRecorder()
    asked = gate_of(mode, key, recorder)
    return [asked.check(raw) for raw in RAWS], recorder.rows


def test_the_corpus_has_every_kind_of_answer() -> None:
    answers, rows = [], []
    for mode, key in GATES:
        some, more = _one_by_one(mode, key)
        answers += some
        rows += more
    assert len(answers) == len(CASES) > 600
    kinds = {CheckResponse.FromString(answer).WhichOneof("http_response") for answer in answers}
    assert kinds == {"ok_response", "denied_response"}
    assert {row.code for row in rows} >= {
        "rule_allowed", "rule_denied", "default_denied", "approval_required",
        "insufficient_trust_tier", "malformed", "token_missing", "token_malformed",
        "token_bad_signature", "token_wrong_algorithm", "token_expired", "token_not_yet_valid",
        "token_wrong_issuer", "token_bad_claim",
    }  # fmt: skip
    assert any(row.metadata and '"dryRun":true' in row.metadata for row in rows)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("mode", "key"), GATES, ids=lambda value: str(value)[:10] or "no key")
def test_a_transport_answers_as_the_gate_does(transport: str, mode: Mode, key: str) -> None:
    recorder = MemoryRecorder()
    asked = gate_of(mode, key, recorder)
    with (
        directory() as path,
        serving(transport, asked.check, asked.check_all, path / "s", asked.turn_away) as served,
        grpc.insecure_channel(served.target) as channel,
    ):
        check: Any = channel.unary_unary(CHECK)
        answers = [check(raw, timeout=PATIENCE_S) for raw in RAWS]
    _agree(answers, recorder, mode, key)


@pytest.mark.parametrize("batch", [1, 7, 64, 512])
def test_what_is_asked_at_once_is_answered_as_one_by_one(batch: int) -> None:
    """As many at once as the fast transport takes, in whatever order they arrive."""
    mode, key = GATES[0]
    recorder = MemoryRecorder()
    asked = gate_of(mode, key, recorder)
    order: list[bytes] = []
    commits: list[int] = []

    def check_all(raws: Sequence[bytes]) -> list[bytes]:
        order.extend(raws)
        commits.append(len(raws))
        return asked.check_all(raws)

    with (
        directory() as path,
        serving("h2c", asked.check, check_all, path / "s", asked.turn_away, batch=batch) as served,
        grpc.insecure_channel(served.target) as channel,
    ):
        check: Any = channel.unary_unary(CHECK)
        check(RAWS[0], timeout=PATIENCE_S)
        held = threading.Event()
        served.loop.call_soon_threadsafe(lambda: held.wait(PATIENCE_S))
        calls = [check.future(raw, timeout=PATIENCE_S) for raw in RAWS]
        served.until_unread(1)
        held.set()
        answers = [call.result(PATIENCE_S) for call in calls]
    assert max(commits) <= batch
    assert len(commits) < len(order) or batch == 1
    again = MemoryRecorder()
    same = gate_of(mode, key, again)
    expected = [(raw, same.check(raw)) for raw in order][1:]
    assert sorted(zip(RAWS, answers, strict=True)) == sorted(expected)
    assert recorder.rows == again.rows


def _agree(answers: list[bytes], recorder: MemoryRecorder, mode: Mode, key: str) -> None:
    expected, rows = _one_by_one(mode, key)
    for name, mine, theirs in zip(REQUESTS, answers, expected, strict=True):
        assert mine == theirs, name
    assert recorder.rows == rows
    assert recorder.unrecorded == 0


@given(data=st.data(), chosen=st.sampled_from(GATES))
@settings(deadline=None, max_examples=60)
def test_batches_of_any_size_are_answered_as_one_by_one(
    data: st.DataObject, chosen: tuple[Mode, str]
) -> None:
    cuts = data.draw(st.sets(st.integers(1, len(RAWS) - 1)).map(sorted))
    recorder = MemoryRecorder()
    asked = gate_of(*chosen, recorder)
    answers: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(RAWS)], strict=True):
        answers += asked.check_all(RAWS[start:stop])
    _agree(answers, recorder, *chosen)
    if chosen[0] is not Mode.BYPASS:
        assert len(recorder.commits) == len(cuts) + 1


@given(order=st.permutations(range(len(RAWS))), chosen=st.sampled_from(GATES))
@settings(deadline=None, max_examples=30)
def test_an_answer_does_not_depend_on_what_was_asked_before(
    order: list[int], chosen: tuple[Mode, str]
) -> None:
    """But for the ids, which count up."""
    recorder = MemoryRecorder()
    asked = gate_of(*chosen, recorder)
    answers = asked.check_all([RAWS[at] for at in order])
    expected, _ = _one_by_one(*chosen)
    for place, at in enumerate(order):
        assert _without_ids(answers[place], place) == _without_ids(expected[at], at)


def _without_ids(answer: bytes, place: int) -> CheckResponse:
    response = CheckResponse.FromString(answer)
    own = f"id-{place + 1}"
    refusals = (response.denied_response, response.error_response)
    for option in (
        *response.ok_response.response_headers_to_add,
        *(option for refusal in refusals for option in refusal.headers),
    ):
        option.header.value = option.header.value.replace(own, "id")
    for refusal in refusals:
        if refusal.body:
            refusal.body = refusal.body.replace(f'"{own}"', '"id"')
    for value in response.dynamic_metadata.fields.values():
        if value.string_value == own:
            value.string_value = "id"
    return response


def test_an_outcome_of_the_gate_is_repeated_by_an_equal_gate() -> None:
    """What the comparisons above rest on."""

    def answers() -> tuple[list[bytes], list[AuditRow]]:
        recorder = MemoryRecorder()
        asked: Gate = gate_of(*GATES[0], recorder)
        return [asked.check(raw) for raw in RAWS], recorder.rows

    assert answers() == answers()
