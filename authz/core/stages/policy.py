"""policy: some policy allows the action and none denies it (CONTRACT §5, DESIGN §4).

Inside a policy the first matching rule decides, else its `defaultEffect`. Across the policies
that apply: explicit deny > explicit allow > default deny > default allow; of equals the most
narrowly addressed decides, then the first by name. No policy at all is a deny.
"""

from typing import Final, NamedTuple

from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import Deny, Finding, Pass
from authz.core.pattern import fold
from authz.core.snapshot import CompiledPolicy, CompiledRule


class _Match(NamedTuple):
    policy: CompiledPolicy
    rule_index: int
    rule: CompiledRule
    pattern: str


#: What an answer names when no policy had a say (CONTRACT §2).
NOBODY: Final = "default"


def judge(case: Case) -> Finding:
    """Find the policy that decides; every answer names it."""
    identity, call = case.identity, case.call
    policies = case.snapshot.applicable(identity)
    if not policies:
        who = f"agent {identity.agent_id}" if identity.agent_id else "a caller without identity"
        return Deny(
            Code.NO_POLICY, f"no policy applies to {who}", policy=NOBODY, rule="default-deny"
        )
    action = fold(call.action)
    allowed: _Match | None = None
    default: CompiledPolicy | None = None
    for policy in policies:
        match = _first_match(policy, action)
        if match is None:
            if default is None or (
                policy.default_effect == "deny" and default.default_effect == "allow"
            ):
                default = policy
        elif match.rule.effect == "deny":
            return _denied(match)
        elif allowed is None:
            allowed = match
    if allowed is not None:
        return Pass(
            Code.RULE_ALLOWED,
            policy=allowed.policy.name,
            rule=allowed.rule.label,
            rule_index=allowed.rule_index,
            reason=allowed.rule.reason,
        )
    assert default is not None  # every policy either matched or set it
    if default.default_effect == "allow":
        return Pass(Code.DEFAULT_ALLOWED, policy=default.name, rule="default-allow")
    return Deny(
        Code.DEFAULT_DENIED,
        f"no rule of policy {default.name} allows {call.action}",
        policy=default.name,
        rule="default-deny",
    )


def _first_match(policy: CompiledPolicy, action: str) -> _Match | None:
    for index, rule in enumerate(policy.rules):
        for pattern, matches in rule.patterns:
            if matches(action):
                return _Match(policy, index, rule, pattern)
    return None


def _denied(match: _Match) -> Deny:
    name, rule = match.policy.name, match.rule
    return Deny(
        Code.RULE_DENIED,
        rule.reason or f"policy {name} denies {match.pattern}",
        policy=name,
        rule=rule.label,
        rule_index=match.rule_index,
    )
