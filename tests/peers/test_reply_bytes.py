"""An allowance is put together from bytes that are kept and bytes that are not: whatever the
outcome, it says what a plain protobuf build says, and no credential of an agent is kept."""

import gc
from typing import Any

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse as OfficialResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core import reply
from authz.core.call import GOVERNANCE_HEADERS, Call, unreadable
from authz.core.errors import Code
from authz.core.finding import More
from authz.core.identity import Identity, Unidentified
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.snapshot import Snapshot
from authz.core.verdict import Decision, Verdict, enforced
from authz.core.wire_pb2 import CheckResponse, HeaderValueOption
from authz.gate import Gate
from tests import builders
from tests.builders import MemoryRecorder, bearer, check_request, gate
from tests.peers.corpus import GATES, OPERATORS, POLICIES, REQUESTS, gate_of

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

# What the wire can carry: no lone surrogates. Lengths on both sides of one, two and three bytes.
TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.builds(
    lambda letter, size: letter * size,
    st.sampled_from("aé%"),
    st.sampled_from([126, 127, 128, 129, 255, 256, 8192, 16_383, 16_384, 20_000]),
)
CREDENTIAL = st.sampled_from(["", "Bearer own", OPERATORS]) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), max_size=30
)
IDENTITIES = st.builds(
    Identity, TEXT, TEXT, st.just("verified"), st.just(2), st.just(frozenset()), TEXT, st.just(2)
) | st.builds(Unidentified, st.sampled_from(Code), TEXT, st.booleans())
CALLS = st.builds(
    lambda action, trace, own, removed: unreadable("proxy", "")._replace(
        action=action, trace_id=trace, upstream_authorization=own, governance_headers=removed
    ),
    TEXT,
    TEXT,
    CREDENTIAL,
    st.lists(st.sampled_from([*GOVERNANCE_HEADERS, "x-meshguard-ü"]), unique=True).map(tuple),
)
VERDICTS = st.builds(
    Verdict, st.sampled_from(Decision), TEXT, st.sampled_from(Code), TEXT, TEXT, TEXT,
    rule_index=st.none() | st.integers(0, 9),
    alert=TEXT,
    dry_run=st.booleans(),
    more=st.none() | st.builds(More, st.just(()), remaining=st.none() | st.integers(0, 10**9)),
)  # fmt: skip


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Any outcome whose answer is an allowance."""
    call: Call = draw(CALLS)
    verdict, mode = draw(VERDICTS), draw(st.sampled_from(Mode))
    if enforced(verdict, mode) is not Decision.ALLOW:
        mode = Mode.AUDIT
    return Outcome(
        case=builders.case(call, draw(IDENTITIES), Snapshot(())),
        verdict=verdict,
        mode=mode,
        enforced=Decision.ALLOW,
        decision_id=draw(TEXT),
        trace_id=draw(TEXT),
        decided_at=0.0,
        latency_us=0,
        steady=0.0,
    )


def _plain(outcome: Outcome, proxy_authorization: str) -> CheckResponse:
    """The same answer, as one would write it without a thought of speed (CONTRACT §3)."""
    call, verdict, caller = outcome.case.call, outcome.verdict, outcome.case.identity
    response = CheckResponse()
    ok = response.ok_response

    def add(headers: Any, name: str, value: str) -> None:
        headers.add(append_action=_OVERWRITE, header={"key": name, "value": value})

    upstream = proxy_authorization or call.upstream_authorization
    ok.headers_to_remove.extend(call.governance_headers)
    if upstream:
        add(ok.headers, "authorization", upstream)
    elif not isinstance(outcome.case.caller, Unidentified) or outcome.case.caller.ours:
        ok.headers_to_remove.append("authorization")
    would = verdict.decision is not Decision.ALLOW
    said = {
        "x-meshguard-decision": "allow",
        "x-meshguard-policy": verdict.policy,
        "x-meshguard-agent-id": caller.agent_id,
        "x-meshguard-mode": str(outcome.mode),
        "x-meshguard-would-deny": verdict.rule if would else "",
        "x-meshguard-trace-id": outcome.trace_id,
    }
    for name, value in said.items():
        if value or name == "x-meshguard-trace-id":
            add(ok.response_headers_to_add, name, reply.header_safe(value))
    if verdict.more is not None and verdict.more.remaining is not None:
        remaining = str(verdict.more.remaining)
        add(ok.response_headers_to_add, "x-meshguard-wallet-remaining", remaining)
    metadata = {
        "agent_id": caller.agent_id,
        "decision": str(verdict.decision),
        "enforced": str(outcome.enforced),
        "code": str(verdict.code),
        "policy": verdict.policy,
        "rule": verdict.rule,
        "policy_version": outcome.case.snapshot.version,
        "mode": str(outcome.mode),
    }
    own = {
        "decision_id": outcome.decision_id,
        "trace_id": outcome.trace_id,
        "action": call.action,
    }
    for name, value in metadata.items():
        if value:
            response.dynamic_metadata.fields[name].string_value = value
    for name, value in own.items():
        response.dynamic_metadata.fields[name].string_value = value
    return response


@given(outcomes(), CREDENTIAL)
@settings(deadline=None, max_examples=500)
def test_an_allowance_says_what_a_plain_build_says(outcome: Outcome, key: str) -> None:
    encoded = reply.check_response(outcome, key)
    plain = _plain(outcome, key)
    assert CheckResponse.FromString(encoded) == plain
    # And once more, when what is kept is kept.
    assert reply.check_response(outcome, key) == encoded


@given(outcomes(), CREDENTIAL)
@settings(deadline=None, max_examples=60)
def test_envoys_own_schema_reads_the_same(outcome: Outcome, key: str) -> None:
    """Put together as protobuf does: this library takes the last of two parts, and does not merge.

    That Envoy itself merges them is shown by tests/e2e/test_envoy.py, which reads its metadata.
    """
    whole = CheckResponse.FromString(reply.check_response(outcome, key)).SerializeToString()
    official = OfficialResponse.parse(whole)
    assert official == OfficialResponse.parse(_plain(outcome, key).SerializeToString())
    assert official.ok_response is not None
    assert official.dynamic_metadata is not None
    assert official.dynamic_metadata.fields["decision_id"].string_value == outcome.decision_id


@pytest.mark.parametrize(("mode", "key"), GATES, ids=lambda value: str(value)[:10] or "no key")
def test_every_answer_of_the_corpus_is_one_encoded_message(mode: Mode, key: str) -> None:
    """Encoded again by protobuf it means the same, and nothing of it is unknown to the schema."""
    asked = gate_of(mode, key, MemoryRecorder())
    for name, raw in REQUESTS.items():
        answer = asked.check(raw)
        response = CheckResponse.FromString(answer)
        assert CheckResponse.FromString(response.SerializeToString()) == response, name
        assert response.ByteSize() <= len(answer), name
        response.DiscardUnknownFields()
        assert response == CheckResponse.FromString(answer), name


#: Part of a credential, from its end to its beginning, so that this file itself does not hold it.
_NEEDLE = "9a3f yek nwo"


def _ask(asked: Gate, credential: str = "") -> None:
    """An allowed call, perhaps with a credential of the agent's own."""
    headers = {"authorization": bearer(sub="cache-agent")}
    if credential:
        headers["x-meshguard-upstream-authorization"] = credential
    answer = CheckResponse.FromString(asked.check(check_request(headers=headers)))
    sent = [o.header.value for o in answer.ok_response.headers]
    assert sent == ([credential] if credential else sent)


def _is_anywhere(needle: str) -> bool:
    """Whether a text that the collector knows of holds it; `needle` from its end."""
    gc.collect()
    for thing in gc.get_objects():
        # A cache's dictionary is not listed, but what it refers to is; its keys are tuples.
        for inner in gc.get_referents(thing):
            for part in inner if isinstance(inner, tuple) else (inner,):
                text = part.decode("latin-1") if isinstance(part, bytes) else part
                if isinstance(text, str) and needle in text[::-1]:
                    return True
    return False


def test_an_agents_own_credential_is_kept_by_no_cache() -> None:
    asked = gate(POLICIES, MemoryRecorder())
    _ask(asked)
    before = reply._encoded.cache_info()
    for _ in range(3):
        _ask(asked, f"Bearer {_NEEDLE[::-1]}")
    assert reply._encoded.cache_info() == before
    _ask(asked)
    assert reply._encoded.cache_info().hits == before.hits + 1
    assert not _is_anywhere(_NEEDLE)


def test_the_search_for_kept_credentials_would_find_one() -> None:
    """The operator's key is kept, on purpose: it is the same for everybody."""
    needle = "0c71 yek srotarepo"
    asked = gate(POLICIES, MemoryRecorder(), proxy_authorization=f"Bearer {needle[::-1]}")
    _ask(asked)
    del asked
    assert _is_anywhere(needle)
    reply._encoded.cache_clear()
    assert not _is_anywhere(needle)


def test_an_agent_cannot_have_the_operators_key_replaced_or_shown_to_be_equal() -> None:
    """Where the operator gives a credential, the agent's has no effect on what is kept or sent."""
    for own in ("Bearer own", OPERATORS):
        asked = gate(POLICIES, MemoryRecorder(), proxy_authorization=OPERATORS)
        headers = {"authorization": bearer(), "x-meshguard-upstream-authorization": own}
        answer = CheckResponse.FromString(asked.check(check_request(headers=headers)))
        assert [o.header.value for o in answer.ok_response.headers] == [OPERATORS]
