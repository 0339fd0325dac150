"""What an agent may do: the patterns that its documents name, each with its answer.

Actions are endless, patterns are not. Each pattern of a rule that is for the agent is asked about
as if it were an action: a `*` in it is matched by nothing but a `*`, so the answer is that for all
that the pattern stands for and no other one takes out of it. What others take out is said beside
it. The answer is the whole chain's, for a request of which nothing else is known: no resource, no
context, no token, no provenance, nothing spent before.

- Where a condition decides and cannot be told so, the answer is that of the request for which it
  turns out best, and the conditions are said: it may, but only so.
- `*` alone is asked last: whatever no other pattern is for.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from authz.core import explain
from authz.core.call import Call, from_http
from authz.core.chain_compiled import CompiledFloors, CompiledGate
from authz.core.compiled import CompiledPolicy, CompiledRule
from authz.core.conditions import GROUPS
from authz.core.errors import Code
from authz.core.facts import Facts
from authz.core.floors import ADMIN
from authz.core.identity import Identity
from authz.core.lints import covers, overlap
from authz.core.pattern import compile_pattern, fold
from authz.core.snapshot import Snapshot
from authz.core.verdict import Verdict

#: Patterns that are asked about; a policy of one agent has some dozens.
MAX_PATTERNS: Final = 2_000
#: Exceptions that one pattern is shown with.
MAX_EXCEPTIONS: Final = 20
#: Pairs of patterns that are compared: a second's work.
MAX_PAIRS: Final = 200_000

_EVERYTHING: Final = "*"
#: What a rule's conditions mean for an action that it is for, by its effect.
_MEANS: Final = {"allow": "if", "deny": "unless", "require_approval": "with approval if"}
#: What a request has to bring, by the code of what is said to one that does not.
_BRINGS: Final = {
    Code.ACTION_TOKEN_REQUIRED: "with an action token",
    Code.PROVENANCE_TOO_LOW: "with provenance",
    Code.PROVENANCE_LABEL: "with provenance",
}


class Permission(NamedTuple):
    """What an agent hears to the actions of a pattern."""

    #: As the first of the documents writes it.
    pattern: str
    #: `allow`, `require_approval`, `would_deny` (a dry run: it passes) or `deny`.
    answer: str
    #: Who says so.
    policy: str
    rule: str
    code: Code
    #: What has to hold of a request, or what it has to bring; empty where that is all.
    only: tuple[str, ...] = ()
    #: Patterns of which some or all actions are answered in another way, though this one matches.
    unless: tuple[str, ...] = ()

    @property
    def may(self) -> bool:
        """Some request of this kind passes, or does when a person agrees."""
        return self.answer != "deny" or bool(self.only)


class Allowed(NamedTuple):
    """Everything that can be said of an agent."""

    permissions: tuple[Permission, ...]
    #: The policies that are for it.
    policies: tuple[str, ...]
    #: There were more patterns, or more pairs of them, than are looked at.
    is_cut: bool


def allowed(snapshot: Snapshot, identity: Identity) -> Allowed:
    """What the documents of a snapshot let an agent do, in the order in which they name it."""
    policies = snapshot.applicable(identity)
    patterns = _patterns(snapshot, policies)
    written = dict(itertools.islice(patterns.items(), MAX_PATTERNS))
    written.pop(_EVERYTHING, None)
    written[_EVERYTHING] = _EVERYTHING
    found = {folded: _asked(snapshot, identity, folded, policies) for folded in written}
    pairs = itertools.count(1)
    is_cut = len(patterns) > MAX_PATTERNS
    permissions = []
    for folded, text in written.items():
        one = found[folded]._replace(pattern=text)
        if one.may:
            unless, was_cut = _exceptions(snapshot, identity, folded, written, found, pairs)
            is_cut |= was_cut
            one = one._replace(unless=unless)
        permissions.append(one)
    return Allowed(tuple(permissions), tuple(policy.name for policy in policies), is_cut)


def _patterns(snapshot: Snapshot, policies: Sequence[CompiledPolicy]) -> dict[str, str]:
    """Every distinct pattern, folded, with how it is written first."""
    given: list[Iterable[str]] = [rule.patterns for policy in policies for rule in policy.rules]
    given += [policy.approval for policy in policies]
    for document in snapshot.chain:
        if isinstance(document, CompiledFloors):
            given += [floor.patterns for floor in document.floors]
        elif isinstance(document, CompiledGate):
            given += [requirement.patterns for requirement in document.requirements]
    given.append((ADMIN,))
    written: dict[str, str] = {}
    for pattern in itertools.chain.from_iterable(given):
        text = pattern.strip()
        written.setdefault(fold(text), text)
    return written


def _asked(
    snapshot: Snapshot, identity: Identity, folded: str, policies: Sequence[CompiledPolicy]
) -> Permission:
    verdict = _answer(snapshot, identity, folded)
    if verdict.code in _BRINGS:
        return _permission(folded, verdict, (_BRINGS[verdict.code],))
    if explain.outcome_of(verdict) != "deny":
        return _permission(folded, verdict)
    facts = Facts(_call(folded), identity)
    unclear = [
        rule
        for policy in policies
        for rule in policy.rules
        if _is_unclear(rule, facts) and any(compile_pattern(p)(folded) for p in rule.patterns)
    ]
    if not unclear:
        return _permission(folded, verdict)
    best = Snapshot([_at_best(policy, facts) for policy in policies], snapshot.chain)
    at_best = _answer(best, identity, folded)
    if explain.outcome_of(at_best) == "deny" and at_best.code not in _BRINGS:
        return _permission(folded, verdict)
    only = [_said(rule) for rule in unclear]
    if at_best.code in _BRINGS:
        only.append(_BRINGS[at_best.code])
    return _permission(folded, at_best, tuple(dict.fromkeys(only)))


def _permission(folded: str, verdict: Verdict, only: tuple[str, ...] = ()) -> Permission:
    answer = explain.outcome_of(verdict)
    return Permission(folded, answer, verdict.policy, verdict.rule, verdict.code, only)


def _is_unclear(rule: CompiledRule, facts: Facts) -> bool:
    return rule.condition is not None and rule.condition.holds(facts) is None


def _at_best(policy: CompiledPolicy, facts: Facts) -> CompiledPolicy:
    """The policy for the request that it is kindest to: what cannot be told helps."""
    rules = tuple(
        rule._replace(condition=None) if _is_unclear(rule, facts) else rule
        for rule in policy.rules
        if rule.effect == "allow" or not _is_unclear(rule, facts)
    )
    return policy._replace(rules=rules)


def _said(rule: CompiledRule) -> str:
    condition = rule.condition
    assert condition is not None
    said = " and ".join(str(test) for test in condition.tests)
    if any(key in condition.written for key in GROUPS):
        # Not all of their tests have to hold.
        said = json.dumps(condition.written, ensure_ascii=False)
    return f"{_MEANS[rule.effect]} {said}"


def _exceptions(
    snapshot: Snapshot,
    identity: Identity,
    folded: str,
    written: dict[str, str],
    found: dict[str, Permission],
    pairs: Iterator[int],
) -> tuple[tuple[str, ...], bool]:
    """Patterns that take something out of one, and whether some were not looked at."""
    unless: list[str] = []
    for other, text in written.items():
        if other == folded or covers(other, folded) or not overlap(folded, other):
            continue
        if len(unless) >= MAX_EXCEPTIONS or next(pairs) > MAX_PAIRS:
            return tuple(unless), True
        if covers(folded, other):
            differs = _kind(found[other]) != _kind(found[folded])
        else:
            said = explain.outcome_of(_answer(snapshot, identity, _of_both(folded, other)))
            differs = said != found[folded].answer and not found[folded].only
        if differs:
            unless.append(text)
    return tuple(unless), False


def _of_both(one: str, other: str) -> str:
    """Of what two patterns that overlap both match, the most general: all their pieces."""
    if "*" not in one or "*" not in other:
        return one if "*" not in one else other
    (first, *middle, last), (head, *pieces, tail) = one.split("*"), other.split("*")
    ends = max(first, head, key=len), max(last, tail, key=len)
    return "*".join([ends[0], *filter(None, (*middle, *pieces)), ends[1]])


def _kind(permission: Permission) -> tuple[str, bool]:
    return permission.answer, bool(permission.only)


def _call(action: str) -> Call:
    said = {"x-meshguard-action": action}
    return from_http("check", "GET", "/proxy/check", "", said.get)


def _answer(snapshot: Snapshot, identity: Identity, action: str) -> Verdict:
    return explain.answer(snapshot, identity, _call(action))
