"""The chain, in the seed's order: auth → … → proxy. Print it: `python -m authz.core.stages`.

"audit" wraps all of it and "proxy" is Envoy, so neither is a stage here. The execution gate of the
seed is three stages in the place of one, and what a policy grants under a condition of its own, a
cooling-off period or so many requests a minute, follows it. Each passes through until something is
configured that it asks for.
"""

from authz.core.stages import (
    action_token,
    auth,
    delegation_fuse,
    destructive_gate,
    intent,
    policy,
    privilege,
    provenance_gate,
    rate_limit,
    risk_wallet,
)
from authz.core.stages.stage import Stage

#: Intent verification, action token validation and policy evaluation; any failure denies (seed).
EXECUTION_GATE: tuple[Stage, ...] = (
    Stage(intent.NAME, intent.judge),
    Stage(action_token.NAME, action_token.judge),
    Stage("policy", policy.judge),
)
CHAIN: tuple[Stage, ...] = (
    Stage("auth", auth.judge),
    Stage(delegation_fuse.NAME, delegation_fuse.judge),
    *EXECUTION_GATE,
    Stage(destructive_gate.NAME, destructive_gate.judge),
    Stage(rate_limit.NAME, rate_limit.judge),
    # After policy: it looks at what was allowed.
    Stage(privilege.NAME, privilege.judge),
    Stage(provenance_gate.NAME, provenance_gate.judge),
    Stage(risk_wallet.NAME, risk_wallet.judge),
)
