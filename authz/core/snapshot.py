"""The policies of one moment: frozen, named by their content, indexed by whom they are for.

- A snapshot never changes. A request takes one reference and is judged by it to the end.
- `version` is a hash of what the documents say, so the same policies have the same version in
  every sidecar, whatever their files are called.
- Who a policy applies to depends only on the identity, so the policies that apply are looked up
  once per identity; identities for whom the same ones apply share a view and what it remembers.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from authz.core.compiled import CompiledPolicy
from authz.core.evaluation import Ruling, View, no_policy
from authz.core.facts import Facts
from authz.core.identity import Identity

#: Callers that are remembered. One sidecar serves one agent; a shared gateway a few hundred.
CALLERS: Final = 1024
#: Sets of policies that apply together; each remembers `evaluation.MEMO_SIZE` at most.
VIEWS: Final = 64
#: Characters of the SHA-256 that name a snapshot; 64 bits tell any two sets of policies apart.
VERSION_LENGTH: Final = 16


class Snapshot:
    """All policies that are in force together."""

    def __init__(self, policies: Sequence[CompiledPolicy]) -> None:
        """`policies` have distinct names."""
        said = "\n".join(sorted(policy.digest for policy in policies))
        #: Names the content, in hexadecimal.
        self.sha256: Final = hashlib.sha256(said.encode()).hexdigest()
        self.version: Final = self.sha256[:VERSION_LENGTH]
        self.policies: Final = tuple(policies)
        #: How many policies can apply to somebody.
        self.size: Final = sum(not policy.is_nobody for policy in policies)
        self._by_agent: dict[str, list[CompiledPolicy]] = defaultdict(list)
        self._by_tag: dict[str, list[CompiledPolicy]] = defaultdict(list)
        self._by_rank: dict[int, list[CompiledPolicy]] = defaultdict(list)
        self._elsewhere: list[CompiledPolicy] = []
        for policy in self.policies:
            self._index(policy)
        self._callers: dict[Identity, View | None] = {}
        self._views: dict[tuple[int, tuple[str, ...]], View] = {}

    def ruling(self, facts: Facts) -> Ruling:
        """What the policies that apply to the caller say about its call."""
        view = self._view(facts.identity)
        return no_policy(facts.identity.agent_id) if view is None else view.ruling(facts)

    def applicable(self, identity: Identity) -> list[CompiledPolicy]:
        """The policies for this caller, the most narrowly addressed first, then by name."""
        candidates = [
            *self._by_agent.get(identity.agent_id, ()),
            *(policy for tag in identity.tags for policy in self._by_tag.get(tag, ())),
            *self._by_rank.get(identity.rank, ()),
            *self._elsewhere,
        ]
        # A policy stands under each of its tags; by name it counts once.
        found = {p.name: p for p in candidates if p.applies_to(identity)}
        return sorted(found.values(), key=lambda p: (-p.specificity, p.name))

    def callers(self) -> list[Identity]:
        """The callers that were judged by this snapshot, as far as it remembers."""
        return list(self._callers)

    def prepare(self, callers: Iterable[Identity]) -> None:
        """Look up what applies to these callers now, before the snapshot is in use."""
        for caller in callers:
            self._view(caller)

    def forget(self) -> None:
        """Drop what was remembered of callers; it is found again when it is needed."""
        self._callers.clear()
        self._views.clear()

    def _view(self, identity: Identity) -> View | None:
        if identity in self._callers:
            return self._callers[identity]
        policies = self.applicable(identity)
        key = (identity.rank, tuple(policy.name for policy in policies))
        view = self._views.get(key) if policies else None
        if policies and view is None:
            if len(self._views) >= VIEWS:
                self._views.clear()
                self._callers.clear()
            view = self._views[key] = View(policies, identity.rank)
        if len(self._callers) >= CALLERS:
            del self._callers[next(iter(self._callers))]
        self._callers[identity] = view
        return view

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
