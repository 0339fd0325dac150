"""The policies of one moment: frozen, named by their content, indexed by whom they are for.

- A snapshot never changes. A request takes one reference and is judged by it to the end.
- `version` is a hash of what the documents say, so the same policies have the same version in
  every sidecar, whatever their files are called.
- Who a policy applies to depends only on the identity, so the applicable policies are looked up
  once per identity and kept, at most `APPLICABLE_CACHE` of them.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from authz.core.identity import Identity
from authz.core.pattern import Matcher, compile_pattern
from authz.core.policy_doc import PolicyDoc, Problem
from authz.core.text import word
from authz.core.tiers import rank

#: One sidecar serves one agent; a shared gateway a few hundred.
APPLICABLE_CACHE: Final = 1024
#: Characters of the SHA-256 that name a snapshot; 64 bits tell any two sets of policies apart.
VERSION_LENGTH: Final = 16

ANYONE: Final = "*"


class CompiledRule(NamedTuple):
    """A rule ready to be matched against folded actions."""

    effect: Literal["allow", "deny"]
    #: `id`, else `name`, else its place: `rules[2]`.
    label: str
    reason: str
    patterns: tuple[tuple[str, Matcher], ...]


class CompiledPolicy(NamedTuple):
    """A policy ready to be evaluated."""

    name: str
    rules: tuple[CompiledRule, ...]
    default_effect: Literal["allow", "deny"]
    #: None: not restricted. A list with `*` in it is not restricted either.
    agent_ids: frozenset[str] | None
    tags: frozenset[str] | None
    ranks: frozenset[int] | None
    org_ids: frozenset[str] | None
    #: How narrowly it is addressed; breaks ties about which policy is named (CONTRACT §5).
    specificity: int

    def applies_to(self, identity: Identity) -> bool:
        """Whether every list that restricts this policy has the identity in it."""
        return (
            (self.agent_ids is None or identity.agent_id in self.agent_ids)
            and (self.tags is None or not self.tags.isdisjoint(identity.tags))
            and (self.ranks is None or identity.rank in self.ranks)
            and (self.org_ids is None or identity.org_id in self.org_ids)
        )


class Snapshot:
    """All policies that are in force together."""

    def __init__(self, documents: Sequence[PolicyDoc]) -> None:
        self.version: Final = _version(documents)
        self.policies: Final = tuple(
            _compile(document) for document in documents if not document.applies_to.is_nobody
        )
        #: How many policies can apply to somebody.
        self.size: Final = len(self.policies)
        self._by_agent: dict[str, list[CompiledPolicy]] = defaultdict(list)
        self._by_tag: dict[str, list[CompiledPolicy]] = defaultdict(list)
        self._by_rank: dict[int, list[CompiledPolicy]] = defaultdict(list)
        self._elsewhere: list[CompiledPolicy] = []
        for policy in self.policies:
            self._index(policy)
        self._applicable: dict[Identity, tuple[CompiledPolicy, ...]] = {}

    def applicable(self, identity: Identity) -> tuple[CompiledPolicy, ...]:
        """The policies for this caller, the most narrowly addressed first, then by name."""
        known = self._applicable.get(identity)
        if known is not None:
            return known
        candidates = [
            *self._by_agent.get(identity.agent_id, ()),
            *(policy for tag in identity.tags for policy in self._by_tag.get(tag, ())),
            *self._by_rank.get(identity.rank, ()),
            *self._elsewhere,
        ]
        # A policy stands under each of its tags; by name it counts once.
        found = {p.name: p for p in candidates if p.applies_to(identity)}
        result = tuple(sorted(found.values(), key=lambda p: (-p.specificity, p.name)))
        if len(self._applicable) >= APPLICABLE_CACHE:
            del self._applicable[next(iter(self._applicable))]
        self._applicable[identity] = result
        return result

    def _index(self, policy: CompiledPolicy) -> None:
        # Under its most selective list: the others are checked on the few that are left.
        if policy.agent_ids is not None:
            for agent_id in policy.agent_ids:
                self._by_agent[agent_id].append(policy)
        elif policy.tags is not None:
            for tag in policy.tags:
                self._by_tag[tag].append(policy)
        elif policy.ranks is not None:
            for tier_rank in policy.ranks:
                self._by_rank[tier_rank].append(policy)
        else:
            self._elsewhere.append(policy)


def build(
    files: Iterable[tuple[str, Sequence[tuple[PolicyDoc, int]]]],
) -> tuple[Snapshot, list[Problem]]:
    """A snapshot of these files' documents, and the duplicates that were left out.

    Of several policies with one name the first counts, in the order given (CONTRACT §5: sorted).
    """
    kept: dict[str, tuple[PolicyDoc, str]] = {}
    problems: list[Problem] = []
    for file, documents in files:
        for document, line in documents:
            first = kept.get(document.name)
            if first is not None:
                problems.append(
                    Problem(
                        file,
                        line,
                        1,
                        "error",
                        f"the policy name `{word(document.name)}` is taken by {first[1]};"
                        " this one is not loaded",
                    )
                )
                continue
            kept[document.name] = document, file
    return Snapshot([document for document, _ in kept.values()]), problems


def _version(documents: Sequence[PolicyDoc]) -> str:
    said = sorted(
        json.dumps(document.model_dump(mode="json"), sort_keys=True) for document in documents
    )
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:VERSION_LENGTH]


def _compile(document: PolicyDoc) -> CompiledPolicy:
    scope = document.applies_to
    agent_ids, tags = _restriction(scope.agent_ids), _restriction(scope.tags)
    tier_names, org_ids = _restriction(scope.trust_tiers), _restriction(scope.org_ids)
    ranks = None
    if tier_names is not None:
        ranks = frozenset(r for r in (rank(tier) for tier in tier_names) if r is not None)
    # Weights that keep the order agentIds > tags > trustTiers > orgIds for any combination.
    weights = ((agent_ids, 8), (tags, 4), (ranks, 2), (org_ids, 1))
    return CompiledPolicy(
        name=document.name,
        rules=tuple(
            CompiledRule(
                effect=rule.effect,
                label=rule.id or rule.name or f"rules[{index}]",
                reason=rule.reason or rule.description,
                patterns=tuple((p, compile_pattern(p)) for p in rule.actions),
            )
            for index, rule in enumerate(document.rules)
        ),
        default_effect=document.default_effect,
        agent_ids=agent_ids,
        tags=tags,
        ranks=ranks,
        org_ids=org_ids,
        specificity=sum(weight for value, weight in weights if value is not None),
    )


def _restriction(names: list[str] | None) -> frozenset[str] | None:
    if names is None or ANYONE in names:
        return None
    return frozenset(names)
