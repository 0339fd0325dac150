"""The policies of one moment, and the chain's other documents: frozen, named by their content,
indexed by whom they are for.

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

from authz.core.chain_compiled import (
    CompiledChain,
    CompiledFloors,
    CompiledGate,
    CompiledRouteMap,
    CompiledWallet,
)
from authz.core.compiled import CompiledPolicy
from authz.core.evaluation import Ruling, View, no_policy
from authz.core.facts import Facts
from authz.core.floors import Floors
from authz.core.gates import Gates
from authz.core.identity import Identity
from authz.core.limits import NO_DELEGATION_LIMITS, DelegationLimits
from authz.core.routes import Routes
from authz.core.wallets import Wallet, Wallets

#: Callers that are remembered. One sidecar serves one agent; a shared gateway a few hundred.
CALLERS: Final = 1024
#: Sets of policies that apply together; each remembers `evaluation.MEMO_SIZE` at most.
VIEWS: Final = 64
#: Characters of the SHA-256 that name a snapshot; 64 bits tell any two sets of policies apart.
VERSION_LENGTH: Final = 16


def sha256_of(digests: Iterable[str]) -> str:
    """What names a set of documents, by the digest of each; hexadecimal."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


class Snapshot:
    """All documents that are in force together."""

    def __init__(
        self, policies: Sequence[CompiledPolicy], chain: Sequence[CompiledChain] = ()
    ) -> None:
        """`policies` have distinct names, and so has each other kind of document."""
        #: Names the content, in hexadecimal.
        self.sha256: Final = sha256_of(document.digest for document in (*policies, *chain))
        self.version: Final = self.sha256[:VERSION_LENGTH]
        self.policies: Final = tuple(policies)
        #: How many policies can apply to somebody.
        self.size: Final = sum(not policy.scope.is_nobody for policy in policies)
        #: The documents of other kinds.
        self.chain: Final = tuple(chain)
        self.floors: Final = Floors(d for d in chain if isinstance(d, CompiledFloors))
        self.gates: Final = Gates(d for d in chain if isinstance(d, CompiledGate))
        self.wallets: Final = Wallets(d for d in chain if isinstance(d, CompiledWallet))
        self.routes: Final = Routes(d for d in chain if isinstance(d, CompiledRouteMap))
        self._by_agent: dict[str, list[CompiledPolicy]] = defaultdict(list)
        self._by_tag: dict[str, list[CompiledPolicy]] = defaultdict(list)
        self._by_rank: dict[int, list[CompiledPolicy]] = defaultdict(list)
        self._elsewhere: list[CompiledPolicy] = []
        for policy in self.policies:
            self._index(policy)
        self._callers: dict[Identity, View | None] = {}
        #: Callers whose tier counts for less than their own, with the rank that it counts for.
        self._lowered: dict[tuple[Identity, int], View | None] = {}
        self._views: dict[tuple[int, tuple[str, ...]], View] = {}

    def ruling(self, facts: Facts, rank: int | None = None) -> Ruling:
        """What the policies that apply to the caller say about its call.

        Args:
            rank: what the caller's tier counts for where tiers are required, if that is less than
                its own; which policies apply does not depend on it.
        """
        identity = facts.identity
        if rank is None or rank >= identity.rank:
            view = self._view(identity)
        else:
            view = self._lowered_view(identity, rank)
        return no_policy(identity.agent_id) if view is None else view.ruling(facts)

    def delegation_limits(self, identity: Identity) -> DelegationLimits:
        """The strictest of what this caller's policies let it pass on; a dry run limits nothing."""
        view = self._view(identity)
        return NO_DELEGATION_LIMITS if view is None else view.delegation

    def wallet(self, identity: Identity) -> Wallet | None:
        """The wallet for this caller; None where it has none, and costs do not count."""
        return self.wallets.of(identity)

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
        self._lowered.clear()
        self._views.clear()
        for part in (self.floors, self.gates, self.wallets, self.routes):
            part.forget()

    def _view(self, identity: Identity) -> View | None:
        if identity in self._callers:
            return self._callers[identity]
        view = self._shared_view(identity, identity.rank)
        if len(self._callers) >= CALLERS:
            del self._callers[next(iter(self._callers))]
        self._callers[identity] = view
        return view

    def _lowered_view(self, identity: Identity, rank: int) -> View | None:
        key = (identity, rank)
        if key in self._lowered:
            return self._lowered[key]
        view = self._shared_view(identity, rank)
        if len(self._lowered) >= CALLERS:
            del self._lowered[next(iter(self._lowered))]
        self._lowered[key] = view
        return view

    def _shared_view(self, identity: Identity, rank: int) -> View | None:
        policies = self.applicable(identity)
        if not policies:
            return None
        key = (rank, tuple(policy.name for policy in policies))
        view = self._views.get(key)
        if view is None:
            if len(self._views) >= VIEWS:
                self._views.clear()
                self._callers.clear()
                self._lowered.clear()
            view = self._views[key] = View(policies, rank)
        return view

    def _index(self, policy: CompiledPolicy) -> None:
        # Under its most selective list: the others are checked on the few that are left.
        scope = policy.scope
        if scope.agent_ids is not None:
            for agent_id in scope.agent_ids:
                self._by_agent[agent_id].append(policy)
        elif scope.tags is not None:
            for tag in scope.tags:
                self._by_tag[tag].append(policy)
        elif scope.ranks is not None:
            for tier_rank in scope.ranks:
                self._by_rank[tier_rank].append(policy)
        else:
            self._elsewhere.append(policy)
