"""Why a call gets its answer: every policy that applies, every rule, matched or why not.

The answer itself is the gate's own (`verdict.judge`); this walks the documents beside it, slowly
and in words. Rules are counted from 1, as people do.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from authz.core.action_token import ActionTokens
from authz.core.call import Call
from authz.core.case import Case
from authz.core.compiled import CompiledPolicy, CompiledRule
from authz.core.delegation.receipt import ChainReader
from authz.core.environment import Environment
from authz.core.facts import Facts
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.pattern import compile_pattern, fold
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.state import State
from authz.core.tiers import TIERS
from authz.core.verdict import Decision, Verdict, enforced, judge

#: Nothing was spent, counted, delegated or approved before: what the documents alone say.
_ALONE: Final = Environment(State(), ActionTokens(""), ChainReader({}))


class RuleTrace(NamedTuple):
    """One rule, as the call met it."""

    #: Counted from 1 in the order of the document.
    number: int
    rule: CompiledRule
    #: `match`: it decides its policy. `skip`: it does not match. `late`: an earlier rule decided.
    outcome: Literal["match", "skip", "late"]
    why: str

    def __str__(self) -> str:
        said = f"Rule {self.number}: {self.rule.effect} {', '.join(self.rule.patterns)}"
        if self.rule.dry_run:
            said += " (dry run)"
        if self.outcome == "match":
            return f"{said} → MATCH" + (f" ({self.why})" if self.why else "")
        return f"{said} → {'SKIP' if self.outcome == 'skip' else 'NOT REACHED'} ({self.why})"


class PolicyTrace(NamedTuple):
    """One policy that applies."""

    policy: CompiledPolicy
    rules: tuple[RuleTrace, ...]
    #: What the policy alone says: `allow`, `deny` or `require_approval`, and through what.
    says: str


class Explanation(NamedTuple):
    """An answer and how it came about."""

    verdict: Verdict
    #: What enforce mode does about it.
    enforced: Decision
    applicable: tuple[PolicyTrace, ...]
    #: Policies that do not apply, with the part of appliesTo that the caller is not in.
    others: tuple[tuple[str, str], ...]

    @property
    def outcome(self) -> str:
        """`allow`, `deny`, `require_approval`, or `would_deny` for a denial that is a dry run."""
        return outcome_of(self.verdict)


def outcome_of(verdict: Verdict) -> str:
    """A verdict in the word that tests and comparisons use for it."""
    if verdict.dry_run:
        return "would_deny"
    if verdict.code == "approval_required":
        return "require_approval"
    return str(enforced(verdict, Mode.ENFORCE))


def answer(snapshot: Snapshot, identity: Identity, call: Call) -> Verdict:
    """The verdict alone, as quickly as the gate comes to it."""
    return judge(_case(snapshot, identity, call), CHAIN)


def explain(snapshot: Snapshot, identity: Identity, call: Call) -> Explanation:
    """What the policies of a snapshot say about a call, and why."""
    case = _case(snapshot, identity, call)
    verdict = judge(case, CHAIN)
    applicable = snapshot.applicable(identity)
    names = {policy.name for policy in applicable}
    # A RouteMap may have named what the call did not.
    facts = Facts(case.call, identity)
    return Explanation(
        verdict,
        enforced(verdict, Mode.ENFORCE),
        tuple(_trace(policy, facts) for policy in applicable),
        tuple(
            (policy.name, _why_not(policy, identity))
            for policy in snapshot.policies
            if policy.name not in names
        ),
    )


def as_object(explanation: Explanation, sources: Mapping[str, str] | None = None) -> dict[str, Any]:
    """An explanation as API answers and `--json` show it.

    Args:
        sources: where each policy stands, by name; left out where it is not known.
    """
    verdict = explanation.verdict
    said: dict[str, Any] = {
        "decision": explanation.outcome,
        "code": str(verdict.code),
        "stage": verdict.stage,
        "policy": verdict.policy,
        "rule": verdict.rule,
        "ruleIndex": verdict.rule_index,
        "reason": verdict.reason,
    }
    return {
        **{key: value for key, value in said.items() if value not in (None, "")},
        "applicable": [
            {
                "policy": trace.policy.name,
                **({"source": sources[trace.policy.name]} if sources is not None else {}),
                "says": trace.says,
                "rules": [
                    {
                        "number": rule.number,
                        "effect": rule.rule.effect,
                        "actions": list(rule.rule.patterns),
                        "outcome": rule.outcome,
                        **({"why": rule.why} if rule.why else {}),
                    }
                    for rule in trace.rules
                ],
                "defaultEffect": trace.policy.default_effect,
            }
            for trace in explanation.applicable
        ],
        "others": [{"policy": name, "because": why} for name, why in explanation.others],
    }


def _case(snapshot: Snapshot, identity: Identity, call: Call) -> Case:
    return Case.of(call, identity, snapshot, _ALONE, 0.0, 0.0)


def _trace(policy: CompiledPolicy, facts: Facts) -> PolicyTrace:
    action = fold(facts.call.action)
    rules: list[RuleTrace] = []
    hit: RuleTrace | None = None
    #: The rule that would decide if the dry-run ones were not there.
    enforced_hit: RuleTrace | None = None
    for rule in policy.rules:
        number = rule.place + 1
        matches, why = _matches(rule, action, facts)
        if matches and not rule.dry_run and enforced_hit is None:
            enforced_hit = RuleTrace(number, rule, "match", why)
        if hit is not None and matches:
            rules.append(RuleTrace(number, rule, "late", f"rule {hit.number} decided before it"))
        elif matches:
            hit = RuleTrace(number, rule, "match", why)
            rules.append(hit)
        else:
            rules.append(RuleTrace(number, rule, "skip", why))
    rules.sort(key=lambda trace: trace.number)
    says = _says(policy, hit, action, facts)
    if policy.dry_run:
        says += " (the policy is a dry run)"
    elif hit is not None and hit.rule.dry_run:
        says += f" (a dry run; enforced: {_says(policy, enforced_hit, action, facts)})"
    return PolicyTrace(policy, tuple(rules), says)


def _says(policy: CompiledPolicy, hit: RuleTrace | None, action: str, facts: Facts) -> str:
    effect = hit.rule.effect if hit else policy.default_effect
    says = f"{effect} by {f'rule {hit.number}' if hit else 'defaultEffect'}"
    person = next((p for p in policy.approval if compile_pattern(p)(action)), None)
    if effect == "allow":
        required = hit.rule.required_rank if hit else policy.required_rank
        if required > facts.identity.rank:
            says += f", but from tier {TIERS[required]} on"
    if person is not None:
        says += f"; what is allowed needs a person (humanInTheLoop: {person})"
    return says


def _matches(rule: CompiledRule, action: str, facts: Facts) -> tuple[bool, str]:
    if not any(compile_pattern(pattern)(action) for pattern in rule.patterns):
        return False, "action mismatch"
    if rule.condition is None:
        return True, ""
    truth = rule.condition.holds(facts)
    tests = [(str(test), test.holds(facts)) for test in rule.condition.tests]
    if truth:
        return True, "its conditions hold"
    if truth is False:
        false = [said for said, holds in tests if holds is False]
        return False, "conditions do not hold: " + "; ".join(false or [said for said, _ in tests])
    unknown = "cannot be told: " + "; ".join(said for said, holds in tests if holds is None)
    return rule.effect != "allow", unknown


def _why_not(policy: CompiledPolicy, identity: Identity) -> str:
    scope = policy.scope
    if scope.is_nobody:
        return "appliesTo is nobody"
    if scope.agent_ids is not None and identity.agent_id not in scope.agent_ids:
        return "appliesTo.agentIds"
    if scope.tags is not None and scope.tags.isdisjoint(identity.tags):
        return "appliesTo.tags"
    if scope.ranks is not None and identity.rank not in scope.ranks:
        return "appliesTo.trustTiers"
    return "appliesTo.orgIds"
