"""A policy document made ready to be evaluated: scopes as sets, words as ranks, rules in order.

Compiling happens while loading, never while deciding. What a compiled policy says is kept as the
canonical JSON of its document, a tenth of the model's size; `document` reads it back.
"""

import hashlib
from typing import Final, NamedTuple

from authz.core.conditions import Condition, compile_conditions
from authz.core.finding import ApprovalTerms
from authz.core.identity import Identity
from authz.core.limits import Limit, limits_of
from authz.core.policy_doc import AppliesTo, Approval, DefaultEffect, Effect, PolicyDoc, Rule
from authz.core.tiers import rank

ANYONE: Final = "*"
#: The order in which `ruleOrder: deny-overrides` looks at rules.
STRICTEST_FIRST: Final = {"deny": 0, "require_approval": 1, "allow": 2}


class Scope(NamedTuple):
    """An `appliesTo`."""

    #: None: not restricted. A list with `*` in it is not restricted either.
    agent_ids: frozenset[str] | None
    tags: frozenset[str] | None
    ranks: frozenset[int] | None
    org_ids: frozenset[str] | None
    #: It names nobody.
    is_nobody: bool

    def includes(self, identity: Identity) -> bool:
        """Whether every list that restricts has the identity in it."""
        return (
            not self.is_nobody
            and (self.agent_ids is None or identity.agent_id in self.agent_ids)
            and (self.tags is None or not self.tags.isdisjoint(identity.tags))
            and (self.ranks is None or identity.rank in self.ranks)
            and (self.org_ids is None or identity.org_id in self.org_ids)
        )

    @property
    def specificity(self) -> int:
        """How narrowly it is addressed; breaks ties (CONTRACT §5)."""
        # Weights that keep the order agentIds > tags > trustTiers > orgIds for any combination.
        weights = ((self.agent_ids, 8), (self.tags, 4), (self.ranks, 2), (self.org_ids, 1))
        return sum(weight for names, weight in weights if names is not None)


class CompiledRule(NamedTuple):
    """A rule; its patterns are matched by the index of everything that applies together."""

    #: 0-based place in the document, whatever order the rules are looked at in.
    place: int
    effect: Effect
    #: `id`, else `name`, else its place: `rules[2]`.
    label: str
    reason: str
    patterns: tuple[str, ...]
    condition: Condition | None
    dry_run: bool
    #: The least rank that an allow is for, the policy's own requirement included.
    required_rank: int
    alert: str
    limits: tuple[Limit, ...]
    #: What it allows needs an action token.
    needs_token: bool
    terms: ApprovalTerms | None


class CompiledPolicy(NamedTuple):
    """A policy."""

    name: str
    #: As its author numbers it; may be empty.
    version: str
    #: SHA-256 of the canonical document, hexadecimal.
    digest: str
    #: The document as canonical JSON.
    said: str
    rules: tuple[CompiledRule, ...]
    default_effect: DefaultEffect
    dry_run: bool
    required_rank: int
    #: Patterns that need a person although the policy allows them.
    approval: tuple[str, ...]
    limits: tuple[Limit, ...]
    #: Hops that an agent under this policy may pass on; None: the policy does not say.
    max_depth: int | None
    #: Patterns that cover what it may pass on; None: the policy does not say.
    ceiling: tuple[str, ...] | None
    scope: Scope
    #: Of its scope; sorting asks for it often.
    specificity: int

    def applies_to(self, identity: Identity) -> bool:
        """Whether every list that restricts this policy has the identity in it."""
        return self.scope.includes(identity)

    @property
    def document(self) -> PolicyDoc:
        """The document that was compiled."""
        return PolicyDoc.model_validate_json(self.said)


def compile_policy(document: PolicyDoc) -> CompiledPolicy:
    """Make a document ready. Of one that was validated this cannot fail."""
    scope = compile_scope(document.applies_to)
    said = document.canonical()
    required = _rank(document.required_trust_tier)
    rules = tuple(
        _compile_rule(document.name, index, rule, required)
        for index, rule in enumerate(document.rules)
    )
    if document.rule_order == "deny-overrides":
        rules = tuple(sorted(rules, key=lambda rule: STRICTEST_FIRST[rule.effect]))
    human, delegation = document.human_in_the_loop, document.delegation
    ceiling = delegation.permission_ceiling if delegation else None
    return CompiledPolicy(
        name=document.name,
        version=document.version,
        digest=hashlib.sha256(said.encode()).hexdigest(),
        said=said,
        rules=rules,
        default_effect=document.default_effect,
        dry_run=document.enforcement == "dry_run",
        required_rank=required,
        approval=tuple(human.require_approval) if human else (),
        limits=limits_of(document.rate_limits, document.name),
        max_depth=delegation.max_depth if delegation else None,
        ceiling=None if ceiling is None else tuple(ceiling),
        scope=scope,
        specificity=scope.specificity,
    )


def compile_scope(document: AppliesTo) -> Scope:
    """Make an `appliesTo` ready."""
    tier_names = _restriction(document.trust_tiers)
    ranks = None
    if tier_names is not None:
        ranks = frozenset(r for r in (rank(tier) for tier in tier_names) if r is not None)
    return Scope(
        agent_ids=_restriction(document.agent_ids),
        tags=_restriction(document.tags),
        ranks=ranks,
        org_ids=_restriction(document.org_ids),
        is_nobody=document.is_nobody,
    )


def _compile_rule(policy: str, index: int, rule: Rule, policy_rank: int) -> CompiledRule:
    label = rule.id or rule.name or f"rules[{index}]"
    return CompiledRule(
        place=index,
        effect=rule.effect,
        label=label,
        reason=rule.reason or rule.description,
        patterns=tuple(rule.actions),
        condition=compile_conditions(rule.conditions) if rule.conditions else None,
        dry_run=rule.enforcement == "dry_run",
        required_rank=max(policy_rank, _rank(rule.required_trust_tier)),
        alert=rule.alert or _notified(rule),
        limits=limits_of(rule.rate_limits, policy, label, index),
        needs_token=rule.require_action_token,
        terms=_terms(rule.approval) if rule.approval else None,
    )


def _notified(rule: Rule) -> str:
    """How grave it is where the author only says that somebody is to be told."""
    if rule.audit is None or not rule.audit.notify:
        return ""
    return "info" if rule.effect == "allow" else "warning"


def _terms(approval: Approval) -> ApprovalTerms:
    return ApprovalTerms(approval.timeout_seconds, approval.message, approval.url)


def _rank(tier: str | None) -> int:
    return (rank(tier) or 0) if tier is not None else 0


def _restriction(names: list[str] | None) -> frozenset[str] | None:
    if names is None or ANYONE in names:
        return None
    return frozenset(names)
