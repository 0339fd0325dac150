"""Everything a stage may look at. A stage that wants more is asking for the wrong thing."""

from authz.core import delegated
from authz.core.action_token import ActionToken, BadToken
from authz.core.call import MAX_NAME, Call, defect_of_resource, verb_and_path
from authz.core.delegated import Refusal
from authz.core.delegation.walk import Walked
from authz.core.environment import Environment
from authz.core.evaluation import Ruling
from authz.core.facts import Facts
from authz.core.identity import ANONYMOUS, Identity, Unidentified
from authz.core.intent import INTENTS, Intent, stricter
from authz.core.pattern import fold
from authz.core.provenance import Influence, Unclear, influence_of
from authz.core.routes import Mapped
from authz.core.snapshot import Snapshot
from authz.core.sources import OUTWARD


class Case:
    """One call, who makes it, and what it is judged by.

    It never changes once made; what is worked out of it is worked out when a stage first asks.
    """

    __slots__ = (
        "_delegated",
        "_influence",
        "_names",
        "_ruling",
        "_rulings",
        "_token",
        "call",
        "caller",
        "environment",
        "identity",
        "mapped",
        "now",
        "snapshot",
        "steady",
    )

    def __init__(
        self,
        call: Call,
        caller: Identity | Unidentified,
        snapshot: Snapshot,
        environment: Environment,
        now: float,
        steady: float,
        mapped: Mapped | None = None,
    ) -> None:
        """
        Args:
            now: seconds since the epoch.
            steady: the same on the steady clock (`ledger`).
            mapped: what a route says of the request, and the call says already (`of`).
        """
        #: What a RouteMap makes of the request; None where it names none, and nothing is forwarded.
        self.mapped = mapped
        self.call = call
        self.caller = caller
        self.snapshot = snapshot
        self.environment = environment
        self.now = now
        self.steady = steady
        #: The caller, or the anonymous unverified one when there is no usable token.
        self.identity = caller if isinstance(caller, Identity) else ANONYMOUS
        self._names: tuple[str, ...] | None = None
        self._ruling: Ruling | None = None
        self._rulings: tuple[Ruling, ...] | None = None
        self._influence: Influence | Unclear | None = None
        self._delegated: Walked | Refusal | None = None
        self._token: ActionToken | BadToken | None = None

    @classmethod
    def of(
        cls,
        call: Call,
        caller: Identity | Unidentified,
        snapshot: Snapshot,
        environment: Environment,
        now: float,
        steady: float,
    ) -> "Case":
        """The case of a call as it came; arguments as for the constructor."""
        mapped = None
        if snapshot.routes and not call.defect:
            if call.source == "proxy":
                host = environment.upstream_host or call.host
                mapped = snapshot.routes.match(call.method, host, call.upstream_path)
            elif call.source in OUTWARD and call.path:
                # Every host is in reach: a map that names none means PROXY_TARGET.
                mapped = snapshot.routes.match(
                    call.method, call.host, call.upstream_path, named=True
                )
            if mapped is not None and not (call.declares_action and call.declares_resource):
                call = _as_mapped(call, mapped)
        return cls(call, caller, snapshot, environment, now, steady, mapped)

    @property
    def host(self) -> str:
        """Where the request goes.

        To PROXY_TARGET the agent's own Host header changes nothing about that; outward it decides.
        """
        if self.call.source in OUTWARD:
            return self.call.host
        return self.environment.upstream_host or self.call.host

    @property
    def ruling(self) -> Ruling:
        """What the policies say; looked up when the first stage asks."""
        if self._ruling is None:
            facts = Facts(self.call, self.identity)
            self._ruling = self.snapshot.ruling(facts, self.effective_rank)
        return self._ruling

    @property
    def verification(self) -> Intent:
        """What a declared action that is not the observed one leads to."""
        own, asked = self.environment.intent, self.snapshot.routes.verification(self.host)
        return own if asked is None else stricter(own, INTENTS[asked])

    @property
    def names(self) -> tuple[str, ...]:
        """The action by each name that counts, the declared one first.

        Strict verification does not take the agent's word where no route knows the request: what
        its method and path say is true as well, and nothing may be got around by another name.
        A plain request outward is that its host is reached, too.
        """
        if self._names is None:
            call = self.call
            self._names = (call.action,)
            if call.destination:
                self._names = (call.action, call.reaches)
            elif (
                call.declares_action
                and call.source == "proxy"
                and self.mapped is None
                and self.verification is Intent.STRICT
            ):
                observed = verb_and_path(call)
                if fold(observed) != fold(call.action):
                    self._names = (call.action, observed)
        return self._names

    @property
    def rulings(self) -> tuple[Ruling, ...]:
        """What the policies say about the action by each of its names."""
        if self._rulings is None:
            self._rulings = (self.ruling,)
            for name in self.names[1:]:
                resource = self.call.destination or self.call.resource
                facts = Facts(self.call._replace(action=name, resource=resource), self.identity)
                self._rulings += (self.snapshot.ruling(facts, self.effective_rank),)
        return self._rulings

    @property
    def delegated(self) -> Walked | Refusal | None:
        """The delegation that the call names, walked to its root; None where it names none."""
        if self._delegated is None and self.call.delegation:
            self._delegated = delegated.walked(self)
        return self._delegated

    @property
    def effective_rank(self) -> int:
        """The caller's trust rank, or that of the lowest in its delegation."""
        rank = self.identity.effective_rank
        if not self.call.delegation:
            return rank
        found = self.delegated
        return min(rank, found.effective_rank) if isinstance(found, Walked) else rank

    @property
    def influence(self) -> Influence | Unclear | None:
        """What influenced the action, as far as it says; None where it does not."""
        if self._influence is None and self.call.provenance:
            self._influence = influence_of(self.call.provenance)
        return self._influence

    @property
    def token(self) -> ActionToken | BadToken | None:
        """The call's action token; None where it has none."""
        if self._token is None and self.call.action_token:
            try:
                token = self.environment.action_tokens.read(self.call.action_token, self.steady)
            except BadToken as error:
                self._token = error
            else:
                self._token = token
        return self._token

    @property
    def named_pending(self) -> str:
        """The pending action that the call names, by itself or through its action token."""
        if self.call.pending_id or not isinstance(self.token, ActionToken):
            return self.call.pending_id
        return self.token.pending_id

    @property
    def delegation_id(self) -> str:
        """The relationship that the call acts under, or the hop that broke.

        Empty where it names none, and where no stage has asked.
        """
        found = self._delegated
        if isinstance(found, Walked):
            return found.leaf.id
        return found.edge if found is not None else ""


def _as_mapped(call: Call, mapped: Mapped) -> Call:
    """The call with what a route says of it, where it does not say so itself."""
    action = call.action if call.declares_action else mapped.action
    resource = call.resource if call.declares_resource or not mapped.resource else mapped.resource
    if action == call.action and resource == call.resource:
        return call
    defect = defect_of_resource(resource)
    if len(action) > MAX_NAME:
        defect = f"action: longer than {MAX_NAME} characters"
    return call._replace(action=action[:MAX_NAME], resource=resource[:MAX_NAME], defect=defect)
