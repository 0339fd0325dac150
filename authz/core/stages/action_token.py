"""action-token: where a rule asks for one, an unused token for this very action (CONTRACT §15).

The second part of the execution gate. A token that is sent is checked and used up whether or not a
rule asks for it.
"""

from authz.core.action_token import MAX_TTL_S, MAX_USED, ActionToken, BadToken, Used
from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, Finding, More, noted
from authz.core.ledger import Put
from authz.core.pattern import fold
from authz.core.stages import policy
from authz.core.text import word

NAME = "action-token"


def judge(case: Case) -> Finding:
    """Deny a token that is not good for this call, and a call that needs one and has none."""
    if case.call.source == "mint":
        return NO_OBJECTION  # it is what is being asked for
    token = case.token
    if token is None:
        needed = next((r.needs_token for r in case.rulings if r.needs_token is not None), None)
        if needed is None or isinstance(policy.judge(case), Deny):
            # Where a person has approved, the policies do not deny any more, and the token counts.
            return NO_OBJECTION
        name, rule, place = needed
        said = f"policy {name} allows this only with an action token"
        return Deny(Code.ACTION_TOKEN_REQUIRED, said, rule, name, place)
    if isinstance(token, BadToken):
        return _denied(token.code, token.reason)
    wrong = _mismatch(case, token)
    if wrong:
        said = f"the action token is for {wrong}"
        return _denied(Code.ACTION_TOKEN_MISMATCH, said)
    if token.policy_version != case.snapshot.version:
        said = "the policies have changed since the action token was minted; ask for another"
        return _denied(Code.ACTION_TOKEN_OUTDATED, said)
    used = case.environment.state.used
    if used.get(token.jti) is not None:
        return _denied(Code.ACTION_TOKEN_REPLAYED, "the action token has been used already")
    if len(used.keys_of(token.agent_id)) >= MAX_USED:
        words = f"{MAX_USED} action tokens per {MAX_TTL_S} seconds"
        said = f"one agent may use {words}"
        more = More(retry_after_s=MAX_TTL_S, body={"limit": words})
        return Deny(Code.RATE_LIMITED, said, rule=f"{NAME}:too-many", more=more)
    use = Put(used, token.jti, Used(token.expires_at, token.agent_id))
    return More((use,), notes=noted(actionToken=token.jti))


def _mismatch(case: Case, token: ActionToken) -> str:
    """What the token is for, where that is not the call; empty where it fits."""
    call = case.call
    if token.agent_id != case.identity.agent_id:
        return "another agent"
    if fold(token.action) != fold(call.action):
        return f"action `{word(token.action)}`, and not for `{word(call.action)}`"
    if token.resource != call.resource:
        return f"resource `{word(token.resource)}`, and not for `{word(call.resource)}`"
    return ""


def _denied(code: Code, reason: str) -> Deny:
    cause = str(code).removeprefix("action_token_").replace("_", "-")
    return Deny(code, reason, rule=f"{NAME}:{cause}")
