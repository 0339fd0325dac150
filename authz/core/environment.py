"""What a call is judged with besides the policies: what is remembered, and how the chain is set."""

from dataclasses import dataclass

from authz.core.action_token import ActionTokens
from authz.core.delegation.receipt import ChainReader
from authz.core.intent import Intent
from authz.core.state import State


@dataclass(frozen=True, slots=True)
class Environment:
    """The same for every call of a sidecar."""

    state: State
    action_tokens: ActionTokens
    chains: ChainReader
    #: INTENT_VERIFICATION; a RouteMap can make it stricter.
    intent: Intent = Intent.WARN
    #: DESTRUCTIVE_GATE.
    destructive_gate: bool = False
    #: Where requests are forwarded (PROXY_TARGET), as `RouteMap`s know it; empty: the request says.
    upstream_host: str = ""
