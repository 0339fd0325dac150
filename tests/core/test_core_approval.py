"""Approvals and action tokens: what was approved is done once, whichever way it was asked for."""

import pytest

from authz.core import call as calls
from authz.core import pending as pendings
from authz.core.call import Call
from authz.core.environment import Environment
from authz.core.errors import Code
from authz.core.ledger import Put
from authz.core.outcome import Outcome
from authz.core.sources import Source
from authz.gate import Gate
from tests.builders import NOW, MemoryRecorder, bearer, environment, gate, policy, snapshot

ASKING = snapshot(policy("asking", [("require_approval", "write:*"), ("allow", "read:*")]))


def call(source: Source = "proxy", **headers: str) -> Call:
    """A request to write the report, or one that asks for a token to do so."""
    given = {"authorization": bearer(), "x-meshguard-action": "write:report"}
    given |= {f"x-meshguard-{name.replace('_', '-')}": value for name, value in headers.items()}
    target = "/proxy/report" if source == "proxy" else "/api/v1/action-tokens"
    return calls.from_http(source, "POST", target, "a", given.get)._replace(resource="report")


def asked(gate: Gate, call: Call) -> Outcome:
    [outcome] = gate.batch([call])
    return outcome


def pending_id(outcome: Outcome) -> str:
    assert outcome.verdict.code is Code.APPROVAL_REQUIRED
    assert outcome.verdict.more is not None
    return str(outcome.verdict.more.body["pendingId"])


def approve(judged_with: Environment, pending: str) -> None:
    table = judged_with.state.pending
    known = table.get(pending)
    assert known is not None
    approved = pendings.answered(known, NOW, approve=True, approver="ann")
    judged_with.state.ledger.put(Put(table, pending, approved))


def minted(judged_with: Environment, pending: str) -> str:
    return judged_with.action_tokens.mint(
        agent_id="agent-1", action="write:report", resource="report",
        policy_version=ASKING.version, jti=f"jti of {pending}", now=NOW, pending_id=pending,
    )  # fmt: skip


@pytest.mark.parametrize("source", ["mint", "proxy"])
def test_what_was_approved_for_a_token_or_a_request_is_done_once_with_the_token(
    source: Source,
) -> None:
    judged_with = environment()
    deciding = gate(ASKING, MemoryRecorder(), judged_with=judged_with)
    pending = pending_id(asked(deciding, call(source)))
    assert pending_id(asked(deciding, call("mint", pending_id=pending))) == pending
    approve(judged_with, pending)
    for _ in range(2):  # asking for a token uses nothing up
        outcome = asked(deciding, call("mint", pending_id=pending))
        assert outcome.verdict.code is Code.APPROVED
    token = minted(judged_with, pending)
    used = call("proxy", action_token=token)
    assert asked(deciding, used).verdict.code is Code.APPROVED
    assert asked(deciding, used).verdict.code is Code.ACTION_TOKEN_REPLAYED
    named = call("proxy", pending_id=pending)
    assert asked(deciding, named).verdict.code is Code.PENDING_USED


def test_a_token_for_one_request_does_not_do_it_at_another_path() -> None:
    judged_with = environment()
    deciding = gate(ASKING, MemoryRecorder(), judged_with=judged_with)
    pending = pending_id(asked(deciding, call("proxy")))
    approve(judged_with, pending)
    assert asked(deciding, call("mint", pending_id=pending)).verdict.code is Code.APPROVED
    elsewhere = call("proxy", action_token=minted(judged_with, pending))
    elsewhere = elsewhere._replace(path="/proxy/another")
    assert asked(deciding, elsewhere).verdict.code is Code.PENDING_MISMATCH


@pytest.mark.parametrize("change", [{"action": "write:other"}, {"resource": "other"}])
def test_an_approval_asked_for_as_a_token_is_for_that_action_and_resource(
    change: dict[str, str],
) -> None:
    judged_with = environment()
    deciding = gate(ASKING, MemoryRecorder(), judged_with=judged_with)
    pending = pending_id(asked(deciding, call("mint")))
    approve(judged_with, pending)
    other = call("proxy", pending_id=pending)._replace(**change)  # type: ignore[arg-type]
    assert asked(deciding, other).verdict.code is Code.PENDING_MISMATCH
    assert asked(deciding, call("proxy", pending_id=pending)).verdict.code is Code.APPROVED


def test_asking_fills_neither_the_memory_nor_the_list_of_whoever_approves() -> None:
    judged_with = environment()
    deciding = gate(ASKING, MemoryRecorder(), judged_with=judged_with)
    table = judged_with.state.pending

    def ask(number: int, **claims: object) -> Outcome:
        given = {"authorization": bearer(**claims)}
        return asked(deciding, calls.from_http("proxy", "POST", f"/proxy/{number}", "a", given.get))

    for number in range(pendings.MAX_PER_AGENT):
        pending_id(ask(number))
    for number in range(pendings.MAX_PER_AGENT, pendings.MAX_PER_AGENT + 20):
        refused = ask(number)
        assert refused.verdict.code is Code.APPROVAL_REQUIRED
        assert refused.verdict.more is None
        assert f"{pendings.MAX_PER_AGENT} actions of this agent are pending" in (
            refused.verdict.reason
        )
    assert len(table.entries) == pendings.MAX_PER_AGENT
    # What waits already is asked for as before, and others are not kept from asking.
    assert table.get(pending_id(ask(0))) is not None
    pending_id(ask(0, sub="agent-2"))
