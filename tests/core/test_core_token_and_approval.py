"""A rule can want a person's approval and an action token, and neither stands for the other."""

from typing import Final

import pytest

from authz.core import pending
from authz.core.call import from_check_request
from authz.core.case import Case
from authz.core.compiled import compile_policy
from authz.core.environment import Environment
from authz.core.errors import Code
from authz.core.identity import Identity
from authz.core.ledger import Put
from authz.core.policy_doc import PolicyDoc
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.verdict import Verdict, judge
from tests.builders import EVERYONE, NOW, check_request, environment

WORKER: Final = Identity("worker", "", "verified", 2, frozenset(), "", 2)
HELD: Final = {"actions": ["write:*"], "requireActionToken": True}
BY_RULE: Final = {"rules": [{"effect": "require_approval", **HELD}]}
BY_HUMAN: Final = {
    "rules": [{"effect": "allow", **HELD}],
    "humanInTheLoop": {"requireApproval": ["write:doc"]},
}


def case(policies: Snapshot, world: Environment, **headers: str) -> Case:
    named = {f"x-meshguard-{name.replace('_', '-')}": value for name, value in headers.items()}
    call = from_check_request(check_request("POST", "/proxy/doc", named))
    return Case.of(call, WORKER, policies, world, NOW, NOW)


def verdict(policies: Snapshot, world: Environment, **headers: str) -> Verdict:
    """What is decided, and done to the ledger."""
    found = judge(case(policies, world, **headers), CHAIN)
    for change in found.more.puts if found.more else ():
        world.state.ledger.put(change)
    return found


@pytest.mark.parametrize("document", [BY_RULE, BY_HUMAN], ids=["rule", "human in the loop"])
def test_an_approval_does_not_stand_for_the_action_token(document: dict[str, object]) -> None:
    said = {"name": "held", "version": "1", "defaultEffect": "deny", "appliesTo": EVERYONE}
    policies = Snapshot([compile_policy(PolicyDoc.model_validate({**said, **document}))])
    world = environment()
    # Nobody is sent for a token while a person has not answered.
    assert verdict(policies, world).code is Code.APPROVAL_REQUIRED
    [waiting] = world.state.pending.values()
    assert verdict(policies, world, pending_id=waiting.id).code is Code.APPROVAL_REQUIRED
    approved = pending.answered(waiting, NOW, approve=True, approver="ann")
    world.state.ledger.put(Put(world.state.pending, waiting.id, approved))

    without = verdict(policies, world, pending_id=waiting.id)
    assert (without.code, without.stage) == (Code.ACTION_TOKEN_REQUIRED, "action-token")
    token = world.action_tokens.mint(
        agent_id="worker",
        action="write:doc",
        resource="doc",
        policy_version=policies.version,
        jti="one",
        now=NOW,
    )
    # The denial has not used the approval up.
    with_both = verdict(policies, world, pending_id=waiting.id, action_token=token)
    assert with_both.code is Code.APPROVED
    again = verdict(policies, world, pending_id=waiting.id, action_token=token)
    assert again.code is Code.ACTION_TOKEN_REPLAYED
