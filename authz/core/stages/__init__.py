"""The chain, in the seed's order: auth → … → policy → … → proxy.

"audit" wraps all of it and "proxy" is Envoy, so neither is a stage here. delegation-fuse stands
between auth and policy, and provenance-gate and risk-wallet after privilege; each joins the tuple
with its own file when it can judge. Print it: `python -m authz.core.stages`.
"""

from authz.core.stages import auth, policy, privilege
from authz.core.stages.stage import Stage

CHAIN: tuple[Stage, ...] = (
    Stage("auth", auth.judge),
    Stage("policy", policy.judge),
    # After policy: it looks at what was allowed.
    Stage("privilege", privilege.judge),
)
