"""Which policy decides an action, and how (CONTRACT §5, DESIGN §4).

- Inside a policy the first rule decides that matches the action and whose conditions hold, else
  `defaultEffect`. A condition that cannot be told holds for a deny or require_approval rule and
  does not hold for an allow.
- Across policies: explicit deny > explicit require_approval > explicit allow > default deny >
  default allow; of equals the most narrowly addressed policy is named, then the first by name.
- `humanInTheLoop` of any of them takes an allow away, whichever policy allows.
- An allow that requires a higher tier than the caller's is an objection of its own, the stage
  privilege's, whichever policy it is in: a requirement takes away, so it does not lose to an
  allow without one.
- An approval lifts neither that objection nor the need of an action token, so both stand beside it;
  a denial stands alone.
- An action token is needed where any rule that lets the action through asks for one, for the same
  reason. Rate limits are those of every policy that applies, and of the rule that decides.
- Dry run: what is enforced is decided as if the dry-run rules and policies were not there; what
  they would have denied rides along as `would`. A caller for whom *all* policies are dry runs is
  not blocked by them.

A `View` is a set of policies that apply together. It looks patterns up in an index and remembers
what it found, so that neither their number nor an action's second time costs a scan.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from authz.core.compiled import CompiledPolicy, CompiledRule
from authz.core.errors import Code
from authz.core.facts import Facts
from authz.core.finding import NO_OBJECTION, Answer, Deny, Pass
from authz.core.limits import NO_DELEGATION_LIMITS, DelegationLimits, Limit
from authz.core.pattern import fold
from authz.core.pattern_index import PatternIndex
from authz.core.tiers import TIERS

#: What an answer names when no policy had a say (CONTRACT §2).
NOBODY: Final = "default"
DEFAULT_DENY: Final = "default-deny"
DEFAULT_ALLOW: Final = "default-allow"
HUMAN: Final = "humanInTheLoop"
DRY_RUN: Final = "dry-run"
TOO_LOW: Final = "privilege:insufficient-trust-tier"

#: Longest action that is remembered, characters. Longer ones are rare, and would let an agent
#: that makes them up fill the memory.
MAX_REMEMBERED: Final = 256
#: Answers, and policies in unfinished answers, that one view remembers before it starts over.
MEMO_SIZE: Final = 8192

#: Where a pattern stands that is not in a rule but in `humanInTheLoop`.
_APPROVAL: Final = -1


class Ruling(NamedTuple):
    """What the policies say about one call: a finding for each stage that asks them."""

    policy: Answer
    privilege: Answer
    #: What the caller's requests are counted against, the most narrowly addressed policy's first.
    limits: tuple[Limit, ...] = ()
    #: The policy, the rule and its 0-based place that asks for an action token; None where none
    #: does, and where the action is denied.
    needs_token: tuple[str, str, int] | None = None


class _Candidate(NamedTuple):
    """A rule whose patterns match the action, and the first pattern that does."""

    rule: CompiledRule
    pattern: str
    #: What counts where this rule decides: its own limits after those of all policies.
    limits: tuple[Limit, ...]


class _Entry(NamedTuple):
    """A policy that has something to say about an action, at its place in the view."""

    place: int
    policy: CompiledPolicy
    candidates: tuple[_Candidate, ...]
    #: The pattern of `humanInTheLoop` that matches; empty where none does.
    approval: str


class _Matched(NamedTuple):
    """All that a set of matching patterns determines."""

    entries: tuple[_Entry, ...]
    #: The first policy without a candidate for each default effect, with its place.
    default_deny: tuple[int, CompiledPolicy] | None
    default_allow: tuple[int, CompiledPolicy] | None
    #: The first of those that allow by default, and not to a tier as low as the callers'.
    default_too_low: tuple[int, CompiledPolicy] | None
    #: The ruling, where no condition has a say in it.
    ruling: Ruling | None


class View:
    """Policies that apply to the same callers, most narrowly addressed first, then by name."""

    def __init__(self, policies: Sequence[CompiledPolicy], rank: int) -> None:
        """`rank`: the callers' trust rank."""
        self.policies = policies
        self._rank = rank
        self._limits = tuple(limit for policy in policies for limit in policy.limits)
        self._memo: dict[str, Ruling] = {}
        self._sets: dict[tuple[int, ...], _Matched] = {}
        self._remembered = 0
        # Each distinct pattern once, with every place where it stands: policy, rule, pattern.
        numbers: dict[str, int] = {}
        self._stands: list[list[tuple[int, int, int]]] = []
        for place, policy in enumerate(policies):
            lists = [(_APPROVAL, policy.approval), *enumerate(r.patterns for r in policy.rules)]
            for rule, patterns in lists:
                for position, pattern in enumerate(patterns):
                    number = numbers.setdefault(fold(pattern.strip()), len(numbers))
                    if number == len(self._stands):
                        self._stands.append([])
                    self._stands[number].append((place, rule, position))
        self._index = PatternIndex(numbers)
        self._deny_defaults = _places(policies, "deny")
        self._allow_defaults = _places(policies, "allow")
        self._low_defaults = [(n, p) for n, p in self._allow_defaults if p.required_rank > rank]
        self._enforced = self._without_dry_runs()
        self.delegation: Final = _delegation(
            policies if self._enforced is None else self._enforced.policies
        )

    def ruling(self, facts: Facts) -> Ruling:
        """What these policies say about a call."""
        action = facts.call.action
        known = self._memo.get(action)
        if known is not None:
            return known
        ruling, final = self.uncached(action, facts)
        if final and len(action) <= MAX_REMEMBERED:
            self._remember(1)
            self._memo[action] = ruling
        return ruling

    def uncached(self, action: str, facts: Facts) -> tuple[Ruling, bool]:
        """The ruling, and whether it holds for every call of this action."""
        numbers = self._index.matching(fold(action))
        matched = self._sets.get(numbers)
        if matched is None:
            matched = self._match(numbers)
            # A number or a candidate is an eighth of a ruling, or less.
            candidates = sum(len(entry.candidates) for entry in matched.entries)
            self._remember(1 + (len(numbers) + candidates) // 8)
            self._sets[numbers] = matched
        final = matched.ruling is not None
        ruling = matched.ruling or self._combine(matched, facts)
        if isinstance(ruling.policy, Deny) and ruling.policy.code is Code.DEFAULT_DENIED:
            reason = f"no rule of policy {ruling.policy.policy} allows {action}"
            ruling = ruling._replace(policy=ruling.policy._replace(reason=reason))
        if self._enforced is None:
            return ruling, final
        if not self._enforced.policies:
            return _lifted(ruling), final
        enforced, enforced_final = self._enforced.uncached(action, facts)
        return _beside(enforced, ruling), final and enforced_final

    def _without_dry_runs(self) -> "View | None":
        """The view of what is enforced, where that is not everything."""
        if not any(p.dry_run or any(r.dry_run for r in p.rules) for p in self.policies):
            return None
        return View(
            [
                policy._replace(rules=tuple(rule for rule in policy.rules if not rule.dry_run))
                for policy in self.policies
                if not policy.dry_run
            ],
            self._rank,
        )

    def _remember(self, weight: int) -> None:
        self._remembered += weight
        if self._remembered > MEMO_SIZE:
            self._memo.clear()
            self._sets.clear()
            self._remembered = weight

    def _match(self, numbers: Sequence[int]) -> _Matched:
        found: dict[int, dict[int, int]] = defaultdict(dict)
        for number in numbers:
            for place, rule, position in self._stands[number]:
                first = found[place].get(rule, position)
                found[place][rule] = min(first, position)
        entries = tuple(self._entry(place, found[place]) for place in sorted(found))
        matched = _Matched(
            entries,
            next(((n, p) for n, p in self._deny_defaults if n not in found), None),
            next(((n, p) for n, p in self._allow_defaults if n not in found), None),
            next(((n, p) for n, p in self._low_defaults if n not in found), None),
            None,
        )
        if any(c.rule.condition for entry in entries for c in entry.candidates):
            return matched
        # What it was made of is not needed again.
        return _Matched((), None, None, None, self._combine(matched, None))

    def _entry(self, place: int, found: dict[int, int]) -> _Entry:
        policy = self.policies[place]
        needs = found.pop(_APPROVAL, None)
        return _Entry(
            place,
            policy,
            tuple(self._candidate(policy.rules[rule], found[rule]) for rule in sorted(found)),
            "" if needs is None else policy.approval[needs],
        )

    def _candidate(self, rule: CompiledRule, position: int) -> _Candidate:
        limits = self._limits + rule.limits if rule.limits else self._limits
        return _Candidate(rule, rule.patterns[position], limits)

    def _combine(self, matched: _Matched, facts: Facts | None) -> Ruling:
        """Weigh the policies against each other. `facts` may be None where no condition asks."""
        approval: Deny | None = None
        allowed: Pass | None = None
        too_low: Deny | None = None
        needs_token: tuple[str, str, int] | None = None
        limits = asked_limits = self._limits
        denies = [matched.default_deny] if matched.default_deny else []
        silent = (matched.default_allow, matched.default_too_low)
        allows = [allow for allow in silent if allow is not None]
        for entry in matched.entries:
            policy = entry.policy
            hit, reason = _first_that_holds(entry, facts)
            effect = hit.rule.effect if hit else policy.default_effect
            if effect == "deny":
                if hit:
                    return Ruling(_denied(policy, hit, reason), NO_OBJECTION, self._limits)
                denies.append((entry.place, policy))
                continue
            if hit is None:
                allows.append((entry.place, policy))
                continue
            if effect == "require_approval":
                if approval is None:
                    approval, asked_limits = _needs_person(policy, hit, reason), hit.limits
            elif allowed is None:
                allowed, limits = _allowed(policy, hit), hit.limits
            if hit.rule.required_rank > self._rank:
                too_low = too_low or _too_low(policy, hit.rule.required_rank, hit)
            if hit.rule.needs_token:
                needs_token = needs_token or (policy.name, hit.rule.label, hit.rule.place)
        if approval:
            return Ruling(approval, too_low or NO_OBJECTION, asked_limits, needs_token)
        if not allowed and denies:
            denied = _default_denied(min(denies, key=lambda deny: deny[0])[1])
            return Ruling(denied, NO_OBJECTION, self._limits)
        human = next((entry for entry in matched.entries if entry.approval), None)
        if allowed:
            finding: Answer = _human_in_the_loop(human) if human else allowed
            return Ruling(finding, too_low or NO_OBJECTION, limits, needs_token)
        allows.sort(key=lambda allow: allow[0])
        low = next((p for _, p in allows if p.required_rank > self._rank), None)
        finding = Pass(Code.DEFAULT_ALLOWED, policy=allows[0][1].name, rule=DEFAULT_ALLOW)
        return Ruling(
            _human_in_the_loop(human) if human else finding,
            _too_low(low, low.required_rank) if low else NO_OBJECTION,
            self._limits,
        )


def no_policy(agent_id: str) -> Ruling:
    """What there is to say where no policy applies."""
    who = f"agent {agent_id}" if agent_id else "a caller without identity"
    reason = f"no policy applies to {who}"
    return Ruling(Deny(Code.NO_POLICY, reason, policy=NOBODY, rule=DEFAULT_DENY), NO_OBJECTION)


def _delegation(policies: Sequence[CompiledPolicy]) -> DelegationLimits:
    """The strictest of what policies let somebody pass on."""
    depths = [policy.max_depth for policy in policies if policy.max_depth is not None]
    ceilings = tuple(policy.ceiling for policy in policies if policy.ceiling is not None)
    if not depths and not ceilings:
        return NO_DELEGATION_LIMITS
    return DelegationLimits(min(depths, default=None), ceilings)


def _places(policies: Sequence[CompiledPolicy], effect: str) -> list[tuple[int, CompiledPolicy]]:
    return [(n, policy) for n, policy in enumerate(policies) if policy.default_effect == effect]


def _first_that_holds(entry: _Entry, facts: Facts | None) -> tuple[_Candidate | None, str]:
    """The candidate that decides, with what to add to its reason."""
    for candidate in entry.candidates:
        condition = candidate.rule.condition
        if condition is None:
            return candidate, ""
        assert facts is not None
        truth = condition.holds(facts)
        if truth:
            return candidate, ""
        if truth is None and candidate.rule.effect != "allow":
            unknown = ", ".join(f"`{fact}`" for fact in condition.unknown(facts))
            return candidate, f"; {unknown} cannot be told, and that does not help"
    return None, ""


def _denied(policy: CompiledPolicy, hit: _Candidate, more: str) -> Deny:
    rule = hit.rule
    return Deny(
        Code.RULE_DENIED,
        (rule.reason or f"policy {policy.name} denies {hit.pattern}") + more,
        policy=policy.name,
        rule=rule.label,
        rule_index=rule.place,
        alert=rule.alert,
    )


def _needs_person(policy: CompiledPolicy, hit: _Candidate, more: str) -> Deny:
    rule = hit.rule
    said = f"policy {policy.name} requires a person's approval for {hit.pattern}"
    return Deny(
        Code.APPROVAL_REQUIRED,
        (rule.reason or said) + more,
        policy=policy.name,
        rule=rule.label,
        rule_index=rule.place,
        alert=rule.alert,
        approval=rule.terms,
    )


def _human_in_the_loop(entry: _Entry) -> Deny:
    name = entry.policy.name
    said = f"policy {name} requires a person's approval for {entry.approval}"
    return Deny(Code.APPROVAL_REQUIRED, said, policy=name, rule=HUMAN)


def _allowed(policy: CompiledPolicy, hit: _Candidate) -> Pass:
    rule = hit.rule
    return Pass(
        Code.RULE_ALLOWED,
        policy=policy.name,
        rule=rule.label,
        rule_index=rule.place,
        reason=rule.reason,
        alert=rule.alert,
    )


def _too_low(policy: CompiledPolicy, required: int, hit: _Candidate | None = None) -> Deny:
    what = hit.pattern if hit else "anything"
    return Deny(
        Code.INSUFFICIENT_TRUST_TIER,
        f"policy {policy.name} allows {what} only from tier {TIERS[required]} on",
        policy=policy.name,
        rule=TOO_LOW,
        rule_index=hit.rule.place if hit else None,
        alert=hit.rule.alert if hit else "",
    )


def _default_denied(policy: CompiledPolicy) -> Deny:
    # The action, which the caller chose, is put in by whoever knows it.
    return Deny(Code.DEFAULT_DENIED, "", policy=policy.name, rule=DEFAULT_DENY)


def _lifted(ruling: Ruling) -> Ruling:
    """A ruling of dry-run policies alone: none of its objections and limits is enforced."""
    policy, privilege = ruling.policy, ruling.privilege
    if isinstance(policy, Deny):
        policy = Pass(Code.DEFAULT_ALLOWED, policy=policy.policy, rule=DRY_RUN, would=policy)
    if isinstance(privilege, Deny):
        privilege = NO_OBJECTION._replace(would=privilege)
    return Ruling(policy, privilege)


def _beside(enforced: Ruling, decided: Ruling) -> Ruling:
    """What is enforced, with what the dry-run parts would have objected to."""
    if isinstance(enforced.policy, Deny):
        return enforced
    if isinstance(decided.policy, Deny):
        return enforced._replace(policy=enforced.policy._replace(would=decided.policy))
    if isinstance(enforced.privilege, Deny) or not isinstance(decided.privilege, Deny):
        return enforced
    return enforced._replace(privilege=enforced.privilege._replace(would=decided.privilege))
