"""What no configuration of the chain can do, whatever the policies and headers are.

Each example is a world that was made up: documents of every kind, agents and delegations of which
some do not fit together, and then calls of some agents with headers that name any of it, or are
garbage, between them people who approve, reject and revoke, time, and other documents. Whatever
has become of it, each single call is held against what the policies alone say of it.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from authz.core import agents, balance, pending, tiers
from authz.core.action_token import ActionTokens
from authz.core.audit import row_of
from authz.core.balance import Refilled
from authz.core.call import Call, from_http
from authz.core.case import Case
from authz.core.chain_compiled import CompiledWallet, compile_chain
from authz.core.chain_doc import document_of
from authz.core.compiled import CompiledPolicy, compile_policy
from authz.core.delegation.receipt import ChainReader, chain_of
from authz.core.delegation.relationship import Relationship
from authz.core.delegation.walk import collect
from authz.core.environment import Environment
from authz.core.errors import Code
from authz.core.facts import Facts
from authz.core.finding import Deny
from authz.core.identity import TokenVerifier
from authz.core.intent import Intent
from authz.core.ledger import Put
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.pending import NotPending
from authz.core.policy_doc import PolicyDoc
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.state import State
from authz.core.verdict import Decision, Verdict, enforced, judge
from authz.gate import Gate
from tests.builders import NOW, SECRET, MemoryRecorder, bearer, environment
from tests.core.delegation.chains import Key, first, rel

AGENTS: Final = ("a", "b", "c")
KEY: Final = Key(1)
#: The stages without which nothing is allowed.
ALONE: Final = tuple(stage for stage in CHAIN if stage.name in ("auth", "policy"))

_PATHS: Final = ("docs", "account", "mail/purge")
_ACTIONS: Final = ("", "read:docs", "delete:account", "mail:purge", "admin:users", "invoke:tool")
_PATTERNS: Final = ("*", "read:*", "write:*", "delete:*", "*docs", "*:account", "admin:*", "mail:*")
_RESOURCES: Final = ("docs", "account", "other")

actions = st.sampled_from(_ACTIONS)
patterns = st.lists(st.sampled_from(_PATTERNS), min_size=1, max_size=2, unique=True)
tier = st.sampled_from(tiers.TIERS)
lane = st.integers(0, 3)
labels = st.lists(st.sampled_from(("pii", "web")), min_size=1, max_size=1)
scope = st.one_of(
    st.just({"agentIds": ["*"]}),
    st.builds(lambda names: {"agentIds": names}, st.lists(st.sampled_from(AGENTS), min_size=1)),
    st.builds(lambda names: {"trustTiers": names}, st.lists(tier, min_size=1, max_size=3)),
)


def mapping(required: Mapping[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with these keys, and perhaps those."""
    return st.fixed_dictionaries(dict(required), optional=optional)


rate_limits = st.sampled_from(({"requestsPerMinute": 1}, {"requestsPerHour": 2}))
rules = mapping(
    {
        "effect": st.sampled_from(("allow", "allow", "deny", "require_approval")),
        "actions": patterns,
    },
    conditions=st.sampled_from(({"context.x": 1}, {"resource": {"startsWith": "doc"}})),
    enforcement=st.just("dry_run"),
    requiredTrustTier=tier,
    requireActionToken=st.booleans(),
    rateLimits=rate_limits,
)
policies = mapping(
    {
        "appliesTo": scope,
        "rules": st.lists(rules, min_size=1, max_size=3),
        "defaultEffect": st.sampled_from(("deny", "deny", "allow")),
    },
    enforcement=st.just("dry_run"),
    requiredTrustTier=tier,
    rateLimits=rate_limits,
    humanInTheLoop=st.builds(lambda found: {"requireApproval": found}, patterns),
    delegation=mapping({}, maxDepth=st.integers(0, 2), permissionCeiling=patterns),
)
floors = mapping(
    {
        "kind": st.just("PrivilegeFloors"),
        "floors": st.lists(mapping({"actions": patterns, "tier": tier}), min_size=1, max_size=2),
    }
)
gates = mapping(
    {
        "kind": st.just("ProvenanceGate"),
        "requirements": st.lists(
            st.one_of(
                mapping({"actions": patterns, "minLane": lane}),
                mapping({"actions": patterns, "forbidLabels": labels}),
                mapping({"actions": patterns, "requireLabels": labels}),
            ),
            min_size=1,
            max_size=2,
        ),
    }
)
wallets = st.one_of(
    *(
        mapping(
            {
                "kind": st.just("RiskWallet"),
                "capacity": st.integers(1, 20),
                "defaultCost": st.integers(0, 9),
                name: how,
            },
            appliesTo=scope,
            costs=st.lists(mapping({"actions": patterns, "cost": st.integers(0, 9)}), max_size=2),
            tierMultipliers=st.dictionaries(tier, st.sampled_from((0, 0.5, 3)), max_size=2),
            laneMultipliers=st.sampled_from(({"untrusted": 2}, {"approved": 0})),
            declaredCost=st.just("raise"),
        )
        for name, how in (
            ("window", st.sampled_from(("1m", "1h"))),
            ("refill", st.sampled_from(({"points": 3, "every": "20s"},))),
        )
    )
)
maps = mapping(
    {
        "kind": st.just("RouteMap"),
        "routes": st.lists(
            mapping(
                {
                    "method": st.sampled_from(("GET", "POST", "*")),
                    "path": st.sampled_from(("/docs", "/{name}", "/{rest...}")),
                    "action": st.sampled_from(_ACTIONS[1:]),
                },
                resource=st.sampled_from(_RESOURCES),
            ),
            min_size=1,
            max_size=1,
        ),
    },
    verification=st.sampled_from(("off", "warn", "strict")),
    unmapped=st.sampled_from(("allow", "deny")),
)
#: Without it little is allowed, and what is denied at once shows nothing.
permissive = mapping(
    {
        "appliesTo": st.just({"agentIds": ["*"]}),
        "rules": st.just([{"effect": "allow", "actions": ["*"]}]),
    },
    rateLimits=rate_limits,
)
documents = st.tuples(
    st.lists(st.one_of(permissive, policies), min_size=1, max_size=3),
    st.lists(st.one_of(floors, gates, wallets, maps), max_size=3),
)


def compiled(documents: tuple[list[Any], list[Any]]) -> tuple[Snapshot, Snapshot]:
    """The documents in force, and of them the policies alone."""
    made: list[CompiledPolicy] = [
        compile_policy(PolicyDoc.model_validate({"name": f"p{number}", **document}))
        for number, document in enumerate(documents[0])
    ]
    chain = [
        compile_chain(document_of({"name": f"d{number}", **document}))
        for number, document in enumerate(documents[1])
    ]
    return Snapshot(made, chain), Snapshot(made)


_TRUSTED: Final = {"kind": "ProvenanceGate", "requirements": [{"actions": ["*"], "minLane": 1}]}


# Who is there.

high_tier = st.sampled_from(tiers.TIERS[2:])
registered = st.dictionaries(st.sampled_from(AGENTS), st.one_of(high_tier, tier), max_size=3)


seldom = st.sampled_from((False, False, False, True))


@st.composite
def relationships(draw: st.DrawFn) -> list[Relationship]:
    """Hops, most of them sound, that hang below one another or pretend to."""
    made: list[Relationship] = []
    for number in range(draw(st.integers(0, 4))):
        above = draw(st.sampled_from((None, *made)))
        source = above.target if above is not None else draw(st.sampled_from(AGENTS))
        target = draw(st.sampled_from([agent for agent in AGENTS if agent != source]))
        hop = first(source, target, id=rel(number + 1), max_depth=2)
        if above is not None:
            hop = hop._replace(
                parent=above.id,
                root=above.root,
                depth=min(above.depth + 1, 5),
                max_depth=max(above.max_depth - 1, 0),
            )
        changes: dict[str, Any] = {
            "scope": tuple(draw(st.one_of(st.just(("*",)), patterns))),
            "ceiling": ("*",),
            "source_tier": draw(high_tier),
            "requires_approval": draw(seldom),
        }
        if draw(seldom):
            changes |= draw(
                st.sampled_from(
                    (
                        {"source_tier": "basic"},
                        {"target": source},
                        {"expires_at": NOW + 30},
                        {"created_at": NOW + 3600},
                        {"revoked_at": NOW - 1},
                        {"type": "created_by"},
                        {"resources": ("docs",)},
                        {"ceiling": ()},
                        {"depth": 3},
                        {"root": "z"},
                    )
                )
            )
        made.append(hop._replace(**changes))
    return made


# What happens.

garbage = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ("~" * 9, "a.b.c", "rel_" + "0" * 32, "pdact_" + "0" * 32, "lane=4", "-1", "9" * 40, "{", "..")
)
provenance = st.builds(
    lambda lanes, more: ",".join(f"lane={number}{more}" for number in lanes),
    st.lists(lane, min_size=1, max_size=2),
    st.sampled_from(("", ";source=web", ";label=pii", ";label=web")),
)


class Ask(NamedTuple):
    """A call; numbers name the things that are there when it is made, as far as there are any."""

    agent: str
    tier: str
    source: str
    method: str
    path: str
    action: str
    resource: str
    meta: str
    #: A relationship, by its id or as a chain; the one that holds it asks, or whoever it is.
    delegation: int | None
    signed: bool
    held: bool
    pending: int | None
    token: int | None
    provenance: str
    cost: str
    #: Instead of what else they would be.
    garbage: dict[str, str]


GOVERNING: Final = ("delegation", "pending-id", "action-token", "provenance", "cost", "meta")
place = st.one_of(st.none(), st.none(), st.integers(0, 5))
asks = st.builds(
    Ask,
    agent=st.sampled_from((*AGENTS, *AGENTS, *AGENTS, "")),
    tier=st.one_of(high_tier, tier),
    source=st.sampled_from(("proxy", "proxy", "check", "batch", "mint")),
    method=st.sampled_from(("GET", "POST", "DELETE", "BREW")),
    path=st.sampled_from(_PATHS),
    action=actions,
    resource=st.sampled_from(("", *_RESOURCES)),
    meta=st.sampled_from(("", '{"x": 1}', '{"x": 2}')),
    delegation=place,
    signed=st.booleans(),
    held=st.sampled_from((True, True, True, False)),
    pending=place,
    token=place,
    provenance=st.just("") | provenance,
    cost=st.just("") | st.integers(0, 12).map(str),
    garbage=st.one_of(
        st.just({}),
        st.just({}),
        st.dictionaries(st.sampled_from(GOVERNING), garbage, max_size=2),
    ),
)


class Again(NamedTuple):
    """The call before, once more: after a person has approved it, with the newest pending action or
    the newest token, or with neither."""

    approved: bool
    pending: bool
    token: bool


people = st.one_of(
    st.tuples(st.just("answer"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from((1, 20, 61, 310, 3700))),
    st.tuples(st.just("documents"), documents),
    st.tuples(st.just("revoke agent"), st.sampled_from(AGENTS), seldom),
    st.tuples(st.just("revoke hop"), st.integers(0, 5), seldom),
)
RETRY: Final = Again(approved=False, pending=True, token=False)
WITH_TOKEN: Final = Again(approved=False, pending=False, token=True)
calm = asks.map(lambda ask: ask._replace(garbage={}, pending=None, token=None))
#: What hangs together: an approval with its retry and one too many, a token that is used twice, the
#: same call again and again.
flows = st.one_of(
    asks.map(lambda ask: [ask]),
    people.map(lambda happens: [happens]),
    calm.map(lambda ask: [ask, RETRY._replace(approved=True), RETRY]),
    calm.map(lambda ask: [ask, WITH_TOKEN._replace(approved=True), RETRY]),
    calm.map(lambda ask: [ask._replace(source="mint"), WITH_TOKEN, WITH_TOKEN]),
    calm.map(lambda ask: [ask] * 6),
)
happenings = st.lists(flows, min_size=2, max_size=6).map(
    lambda found: list(itertools.chain.from_iterable(found))
)


@functools.cache
def authorization(agent: str, claimed: str) -> str:
    return bearer(sub=agent, tier=claimed, exp=NOW + 10**6) if agent else ""


class World:
    """Everything that was made up, and what has become of it."""

    def __init__(
        self,
        documents: tuple[list[Any], list[Any]],
        registry: Mapping[str, str],
        hops: Sequence[Relationship],
        *,
        intent: Intent,
        destructive_gate: bool,
    ) -> None:
        self.passed = 0.0
        self.before: Ask | None = None
        self.snapshot, self.policies = compiled(documents)
        self.state = State()
        self.tokens = ActionTokens(SECRET)
        self.minted: list[str] = []
        for name, trust in registry.items():
            made = agents.new_agent(name, NOW, name=name, tier=trust)
            self.state.ledger.put(Put(self.state.agents, name, made))
        for hop in hops:
            self.state.ledger.put(Put(self.state.relationships, hop.id, hop))
        self.state.ledger.keep(durable=True)
        ids = itertools.count(1)
        self.verifier = TokenVerifier(SECRET, registry=self.state.agents)
        self.gate = Gate(
            snapshot=lambda: self.snapshot,
            tokens=self.verifier,
            recorder=MemoryRecorder(),
            environment=Environment(
                self.state, self.tokens, ChainReader({"k": KEY.fits}), intent, destructive_gate
            ),
            mode=Mode.ENFORCE,
            now=lambda: NOW + self.passed,
            monotonic_ns=lambda: int(self.passed * 1e9),
            new_id=lambda: f"id-{next(ids)}",
            steady_offset=NOW,
        )

    @property
    def now(self) -> float:
        return NOW + self.passed

    def asks(self, events: Sequence[Any]) -> Iterator[Ask]:
        """What is asked; what else happens before it is done."""
        for event in events:
            if isinstance(event, Ask):
                yield event
            elif not isinstance(event, Again):
                self.happen(event)
            elif self.before is not None:
                if event.approved:
                    self._answer(-1, approve=True)
                known, token = (-1 if flag else None for flag in event[1:])
                source = self.before.source
                yield self.before._replace(
                    source="proxy" if source == "mint" and event.token else source,
                    pending=known,
                    token=token,
                )

    def happen(self, what: tuple[Any, ...]) -> None:
        """Do what people and time do."""
        match what:
            case ("answer", int(number), bool(approve)):
                self._answer(number, approve=approve)
            case ("revoke agent", str(name), True):
                known = self.state.agents.get(name) or name
                self._put(self.state.agents, name, agents.revoked(known, self.now, ""))
            case ("revoke hop", int(number), True):
                hop = _nth(list(self.state.relationships.values()), number)
                if hop is not None:
                    ended = hop._replace(revoked_at=self.now)
                    self._put(self.state.relationships, hop.id, ended)
            case ("advance", int(seconds)):
                self.passed += seconds
            case ("documents", documents):
                self.snapshot, self.policies = compiled(documents)

    def _answer(self, number: int, *, approve: bool) -> None:
        waiting = _nth(list(self.state.pending.values()), number)
        if waiting is None:
            return
        try:
            after = pending.answered(waiting, self.now, approve=approve, approver="ann")
        except NotPending:
            return
        self._put(self.state.pending, waiting.id, after)
        if approve:
            self.mint(after.agent_id, after.action, after.resource, after.id)

    def _put(self, table: Any, key: str, value: object) -> None:
        self.state.ledger.put(Put(table, key, value))
        self.state.ledger.keep(durable=True)

    def mint(self, agent: str, action: str, resource: str, pending_id: str = "") -> None:
        """An action token for what was allowed."""
        self.minted.append(
            self.tokens.mint(
                agent_id=agent,
                action=action,
                resource=resource,
                policy_version=self.snapshot.version,
                jti=f"jti-{len(self.minted)}",
                now=self.now,
                pending_id=pending_id,
            )
        )

    def call(self, ask: Ask) -> Call:
        """The call as it reaches the gate."""
        hop = _nth(list(self.state.relationships.values()), ask.delegation)
        headers = {
            "authorization": authorization(self.asking(ask), ask.tier),
            "x-meshguard-delegation": self._delegation(hop, signed=ask.signed),
            "x-meshguard-pending-id": _nth(list(self.state.pending.entries), ask.pending),
            "x-meshguard-action-token": _nth(self.minted, ask.token),
            "x-meshguard-provenance": ask.provenance,
            "x-meshguard-cost": ask.cost,
            "x-meshguard-meta": ask.meta,
            **{f"x-meshguard-{name}": text for name, text in ask.garbage.items()},
        }
        if ask.source in ("proxy", "check"):
            headers |= {"x-meshguard-action": ask.action, "x-meshguard-resource": ask.resource}
        said = {name: value for name, value in headers.items() if value}
        source: Any = ask.source
        path = f"/proxy/{ask.path}" if ask.source == "proxy" else f"/{ask.source}"
        made = from_http(source, ask.method, path, "upstream.example", said.get)
        if ask.source in ("batch", "mint"):
            made = made._replace(
                action=ask.action or f"read:{ask.path}", resource=ask.resource or ask.path
            )
        return made

    def asking(self, ask: Ask) -> str:
        """The agent that asks."""
        hop = _nth(list(self.state.relationships.values()), ask.delegation)
        return ask.agent if hop is None or not ask.held else str(hop.target)

    def _delegation(self, hop: Relationship | None, *, signed: bool) -> str:
        if hop is None:
            return ""
        if not signed:
            return hop.id
        # What is signed elsewhere does not know of revocations here.
        hops = [h._replace(revoked_at=None) for h in collect(hop.id, self.state.relationships.get)]
        return chain_of(hops, KEY.sign, "k")

    def ask(self, ask: Ask) -> Outcome:
        """Decide one call, and have a token minted where one was asked for and allowed."""
        self.before = ask
        call = self.call(ask)
        [outcome] = self.gate.batch([call])
        if call.source == "mint" and outcome.verdict.decision is Decision.ALLOW:
            known = json.loads(row_of(outcome).metadata or "{}").get("pendingId", "")
            self.mint(outcome.case.identity.agent_id, call.action, call.resource, known)
        return outcome

    def judged(self, ask: Ask) -> Verdict:
        """What would be decided of a call now, with nothing changed by it."""
        call, environment = self.call(ask), self.gate._environment
        caller = self.verifier.identify(call.authorization, self.now)
        case = Case.of(call, caller, self.snapshot, environment, self.now, self.now)
        return judge(case, CHAIN)

    def remembered(self) -> dict[str, dict[str, Any]]:
        """Everything that outlives a call."""
        return {kind: dict(t.entries) for kind, t in self.state.ledger._tables.items()}

    def spent(self, wallet: str, agent: str) -> int:
        """What an agent has spent of a wallet by now."""
        known = self.state.wallets.get(balance.key(wallet, agent))
        if known is None:
            return 0
        if not isinstance(known, Refilled):
            return known.total(self.now)
        chain = (d for d in self.snapshot.chain if isinstance(d, CompiledWallet))
        refill = next(d.refill for d in chain if d.name == wallet)
        return balance.refilled(known, self.now, *refill).spent if refill else known.spent


def _nth(things: Sequence[Any], number: int | None) -> Any:
    return things[number % len(things)] if things and number is not None else None


worlds = st.builds(
    World,
    documents,
    registered,
    relationships(),
    intent=st.sampled_from(tuple(Intent)),
    destructive_gate=st.booleans(),
)


def policies_say(world: World, outcome: Outcome) -> Deny | None:
    """Why the policies alone deny a call; None where they do not, or would have a person asked."""
    case = outcome.case
    finding = world.policies.ruling(Facts(case.call, case.identity)).policy
    if isinstance(finding, Deny) and finding.code is not Code.APPROVAL_REQUIRED:
        return finding
    return None


@given(worlds, happenings)
def test_nothing_turns_a_denial_of_the_policies_into_an_allow(
    world: World, events: list[Any]
) -> None:
    for ask in world.asks(events):
        outcome = world.ask(ask)
        assert outcome.verdict.code is not Code.INTERNAL
        denied = policies_say(world, outcome)
        if denied is not None or not outcome.case.identity.agent_id:
            assert outcome.verdict.decision is Decision.DENY, outcome.verdict
            assert outcome.enforced is Decision.DENY, outcome.verdict


@given(worlds, happenings)
def test_the_chain_allows_only_what_policies_allow_or_a_person_approved(
    world: World, events: list[Any]
) -> None:
    for ask in world.asks(events):
        outcome = world.ask(ask)
        if outcome.verdict.decision is not Decision.ALLOW:
            continue
        case = outcome.case
        bare = case.call._replace(pending_id="", action_token="")
        alone = judge(
            Case(bare, case.caller, world.policies, environment(), case.now, case.steady),
            ALONE,
        )
        if outcome.verdict.code is Code.APPROVED:
            assert alone.code is Code.APPROVAL_REQUIRED
        else:
            assert (alone.decision, alone.code) == (Decision.ALLOW, outcome.verdict.code)


@given(worlds, happenings)
def test_a_denial_changes_nothing_but_what_waits_and_fuses_and_an_allow_what_it_says(
    world: World, events: list[Any]
) -> None:
    for ask in world.asks(events):
        before, wallet = world.remembered(), None
        wallets = [d.name for d in world.snapshot.chain if isinstance(d, CompiledWallet)]
        spent = {(w, a): world.spent(w, a) for w in wallets for a in AGENTS}
        outcome = world.ask(ask)
        after = world.remembered()
        more = outcome.verdict.more
        debit = (more and more.debit) or 0
        if outcome.enforced is Decision.ALLOW:
            wallet = world.snapshot.wallet(outcome.case.identity)
            assert (debit > 0) <= (wallet is not None)
        else:
            assert debit == 0
            for kind in ("agent", "relationship", "wallet", "count", "used"):
                assert _grown(world, kind, before, after) == {}
        if ask.source == "mint":
            assert debit == 0
        for (name, agent), was in spent.items():
            paid = wallet is not None and (name, agent) == (wallet.name, world.asking(ask))
            assert world.spent(name, agent) == was + (debit if paid else 0)


def _grown(
    world: World, kind: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """What is other than before, but for what had expired."""
    table = world.state.ledger._tables[kind]
    changed = {}
    for key in {*before[kind], *after[kind]}:
        was, now = before[kind].get(key), after[kind].get(key)
        gone = now is None and table.expires is not None and table.expires(was) <= world.now
        if was != now and not gone:
            changed[key] = (was, now)
    return changed


#: Where everything is allowed but for what the headers say, or leave out.
guarded = st.builds(
    World,
    st.tuples(
        st.lists(permissive, min_size=1, max_size=1),
        st.one_of(gates, wallets, st.just(_TRUSTED)).map(lambda document: [document]),
    ),
    registered,
    relationships(),
    intent=st.just(Intent.OFF),
    destructive_gate=st.booleans(),
)


@given(st.one_of(worlds, guarded), happenings, asks, garbage)
def test_garbage_in_a_header_allows_nothing_and_breaks_nothing(
    world: World, events: list[Any], ask: Ask, bad: str
) -> None:
    for event in world.asks(events):
        world.ask(event)
    bare = ask._replace(
        delegation=None, pending=None, token=None, provenance="", cost="", meta="", garbage={}
    )
    passes = enforced(world.judged(bare), Mode.ENFORCE) is Decision.ALLOW
    for names in (*((name,) for name in GOVERNING), GOVERNING):
        garbled = world.judged(bare._replace(garbage=dict.fromkeys(names, bad)))
        assert passes or enforced(garbled, Mode.ENFORCE) is not Decision.ALLOW, names


@given(
    st.integers(1, 30),
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from((0, 1, 3, 30, 60))), max_size=20),
)
def test_no_interleaving_of_batches_overspends_a_wallet(
    capacity: int, cost: int, batches: list[tuple[int, int]]
) -> None:
    policy = {
        "appliesTo": {"agentIds": ["*"]},
        "rules": [{"effect": "allow", "actions": ["*"]}],
    }
    wallet = {"kind": "RiskWallet", "capacity": capacity, "window": "1m", "defaultCost": cost}
    world = World(([policy], [wallet]), {}, [], intent=Intent.WARN, destructive_gate=False)
    call = from_http(
        "proxy", "GET", "/proxy/docs", "h", {"authorization": authorization("a", "basic")}.get
    )
    debits: list[tuple[float, int]] = []
    for size, pause in batches:
        world.passed += pause
        for outcome in world.gate.batch([call] * size):
            more = outcome.verdict.more
            assert more is not None
            if outcome.verdict.decision is Decision.ALLOW:
                assert more.debit == cost
                debits.append((world.now, cost))
            else:
                assert outcome.verdict.code is Code.WALLET_EXHAUSTED
        window = sum(amount for at, amount in debits if at > world.now - 60)
        assert window <= world.spent("d0", "a") <= capacity
