"""A policy document made ready to be evaluated: scopes as sets, words as ranks, rules in order.

Compiling happens while loading, never while deciding. What a compiled policy says is kept as the
canonical JSON of its document, a tenth of the model's size; `document` reads it back.
"""

import hashlib
from typing import Final, NamedTuple

from authz.core.conditions import Condition, compile_conditions
from authz.core.identity import Identity
from authz.core.policy_doc import DefaultEffect, Effect, PolicyDoc, Rule
from authz.core.tiers import rank

ANYONE: Final = "*"
#: The order in which `ruleOrder: deny-overrides` looks at rules.
STRICTEST_FIRST: Final = {"deny": 0, "require_approval": 1, "allow": 2}


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
    #: None: not restricted. A list with `*` in it is not restricted either.
    agent_ids: frozenset[str] | None
    tags: frozenset[str] | None
    ranks: frozenset[int] | None
    org_ids: frozenset[str] | None
    #: How narrowly it is addressed; breaks ties about which policy is named (CONTRACT §5).
    specificity: int
    #: Its appliesTo names nobody.
    is_nobody: bool

    def applies_to(self, identity: Identity) -> bool:
        """Whether every list that restricts this policy has the identity in it."""
        return (
            not self.is_nobody
            and (self.agent_ids is None or identity.agent_id in self.agent_ids)
            and (self.tags is None or not self.tags.isdisjoint(identity.tags))
            and (self.ranks is None or identity.rank in self.ranks)
            and (self.org_ids is None or identity.org_id in self.org_ids)
        )

    @property
    def document(self) -> PolicyDoc:
        """The document that was compiled."""
        return PolicyDoc.model_validate_json(self.said)


def compile_policy(document: PolicyDoc) -> CompiledPolicy:
    """Make a document ready. Of one that was validated this cannot fail."""
    scope = document.applies_to
    agent_ids, tags = _restriction(scope.agent_ids), _restriction(scope.tags)
    tier_names, org_ids = _restriction(scope.trust_tiers), _restriction(scope.org_ids)
    ranks = None
    if tier_names is not None:
        ranks = frozenset(r for r in (rank(tier) for tier in tier_names) if r is not None)
    # Weights that keep the order agentIds > tags > trustTiers > orgIds for any combination.
    weights = ((agent_ids, 8), (tags, 4), (ranks, 2), (org_ids, 1))
    said = document.canonical()
    required = _rank(document.required_trust_tier)
    rules = tuple(_compile_rule(index, rule, required) for index, rule in enumerate(document.rules))
    if document.rule_order == "deny-overrides":
        rules = tuple(sorted(rules, key=lambda rule: STRICTEST_FIRST[rule.effect]))
    human = document.human_in_the_loop
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
        agent_ids=agent_ids,
        tags=tags,
        ranks=ranks,
        org_ids=org_ids,
        specificity=sum(weight for value, weight in weights if value is not None),
        is_nobody=scope.is_nobody,
    )


def _compile_rule(index: int, rule: Rule, policy_rank: int) -> CompiledRule:
    return CompiledRule(
        place=index,
        effect=rule.effect,
        label=rule.id or rule.name or f"rules[{index}]",
        reason=rule.reason or rule.description,
        patterns=tuple(rule.actions),
        condition=compile_conditions(rule.conditions) if rule.conditions else None,
        dry_run=rule.enforcement == "dry_run",
        required_rank=max(policy_rank, _rank(rule.required_trust_tier)),
        alert=rule.alert or "",
    )


def _rank(tier: str | None) -> int:
    return (rank(tier) or 0) if tier is not None else 0


def _restriction(names: list[str] | None) -> frozenset[str] | None:
    if names is None or ANYONE in names:
        return None
    return frozenset(names)
