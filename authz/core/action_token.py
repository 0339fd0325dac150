"""Action tokens: leave for one action, once, within minutes (CONTRACT §15 "action token").

- A JWT (HS256) of a type of its own, signed with a key of its own that is derived from JWT_SECRET:
  it identifies nobody, and no agent's token is one.
- It names agent, action, resource and the version of the policies, and is good for one request: its
  id is kept as used, in the transaction of the row, until it would have expired anyway.
- A signature is compared before anything of a token is read.
- Times are the steady clock's (`ledger`): one that steps back makes no used token good again.
"""

import hmac
import json
from typing import Any, Final, NamedTuple

import jwt

from authz.core.errors import Code
from authz.core.identity import SIGNATURE_ALONE, is_signed
from authz.core.ledger import Table, parsed

TYPE: Final = "mg-action+jwt"
#: Longest that one is good for, seconds (CONTRACT §15).
MAX_TTL_S: Final = 300
#: Used tokens that are kept of one agent, for as long as they would be good: sixteen a second all
#: the time. More would leave no room for other agents'.
MAX_USED: Final = 5000
#: Seconds by which `iat` may lie in the future: only sidecars that share a secret mint them.
LEEWAY_S: Final = 5
#: Longest token, characters: an action and a resource of 8 KiB each, in base64, and room.
MAX_TOKEN: Final = 24 * 1024
ALGORITHM: Final = "HS256"


class ActionToken(NamedTuple):
    """A token whose signature is ours."""

    agent_id: str
    action: str
    resource: str
    policy_version: str
    jti: str
    issued_at: float
    expires_at: float
    #: The pending action that was approved with it, or empty.
    pending_id: str


class BadToken(Exception):
    """Why a token does not count: a code and one sentence."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class ActionTokens:
    """Mints and reads action tokens."""

    def __init__(self, secret: str) -> None:
        """`secret`: what agent tokens are signed with, or any other secret of this sidecar."""
        self._key = hmac.digest(secret.encode(), b"authz action token", "sha256")

    def mint(
        self,
        *,
        agent_id: str,
        action: str,
        resource: str,
        policy_version: str,
        jti: str,
        now: float,
        ttl_s: int = MAX_TTL_S,
        pending_id: str = "",
    ) -> str:
        """A token; `now` in seconds of the steady clock, `ttl_s` at most `MAX_TTL_S`."""
        issued = int(now)
        claims: dict[str, object] = {
            "sub": agent_id,
            "act": action,
            "res": resource,
            "ver": policy_version,
            "jti": jti,
            "iat": issued,
            "exp": issued + min(ttl_s, MAX_TTL_S),
        }
        if pending_id:
            claims["pid"] = pending_id
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"typ": TYPE})

    def read(self, token: str, now: float) -> ActionToken:
        """The token, if it is one of ours and its time is now.

        Raises:
            BadToken: it is not.
        """
        if len(token) > MAX_TOKEN or token.count(".") != 2:
            raise BadToken(Code.ACTION_TOKEN_MALFORMED, "the action token is not a JWT")
        if not is_signed(self._key, token):
            said = "the action token's signature does not verify"
            raise BadToken(Code.ACTION_TOKEN_BAD_SIGNATURE, said)
        try:
            decoded = jwt.decode_complete(
                token, self._key, algorithms=[ALGORITHM], options=SIGNATURE_ALONE
            )
        except Exception:  # noqa: BLE001 - whatever PyJWT's parsers raise, it is no token
            raise BadToken(Code.ACTION_TOKEN_MALFORMED, "the action token is not a JWT") from None
        found = _read(decoded["header"], decoded["payload"])
        if found is None:
            said = "the action token lacks a claim, or is of another type"
            raise BadToken(Code.ACTION_TOKEN_MALFORMED, said)
        if found.issued_at > now + LEEWAY_S:
            said = "the action token's iat lies in the future"
            raise BadToken(Code.ACTION_TOKEN_NOT_YET_VALID, said)
        if now >= found.expires_at:
            raise BadToken(Code.ACTION_TOKEN_EXPIRED, "the action token has expired")
        return found


def _read(header: Any, claims: Any) -> ActionToken | None:
    texts = [claims.get(name, "") for name in ("sub", "act", "res", "ver", "jti")]
    pending = claims.get("pid", "")
    times = [claims.get(name) for name in ("iat", "exp")]
    if header.get("typ") != TYPE or not all(isinstance(text, str) for text in (*texts, pending)):
        return None
    if not all(isinstance(time, int) and not isinstance(time, bool) for time in times):
        return None
    issued, expires = times
    if not (0 <= issued < expires <= issued + MAX_TTL_S and expires < 2**53):
        return None
    agent_id, action, resource, version, jti = texts
    if not (agent_id and action and version and jti):
        return None
    return ActionToken(
        agent_id, action, resource, version, jti, float(issued), float(expires), pending
    )


class Used(NamedTuple):
    """A token that was used."""

    #: Until when it is kept, seconds of the steady clock.
    until: float
    #: Whose it was; empty where a version before this one has written it down.
    agent_id: str = ""


def _dumps(used: Used) -> str:
    return json.dumps(used)


def _loads(_: str, text: str) -> Used:
    found = parsed(text)
    until, agent_id = found if isinstance(found, list) and len(found) == 2 else (found, "")
    if isinstance(until, bool) or not isinstance(until, (int, float)):
        raise ValueError("not a time")
    if not isinstance(agent_id, str):
        raise ValueError("not an agent's id")
    return Used(float(until), agent_id)


def used() -> Table[Used]:
    """An empty table of the ids that were used, each with the time until which it is kept.

    That is for each process to say by its own steady clock, which another's may be ahead of.
    """
    return Table(
        "used",
        _dumps,
        _loads,
        lambda token: token.until,
        group=lambda token: token.agent_id,
        is_final=lambda _: True,
    )
