"""Who may: the admin token, wherever our own endpoints ask for it.

- The credential is ADMIN_TOKEN itself, as `Authorization: Bearer` or `X-Admin-Token`, compared in
  constant time. Whatever else is sent is 401, never 403, which SDKs take for a denial, and is told
  of in the trail (`attempts`).
- An agent's token is never one: `client.get("../admin/agents")` sends it here (CONTRACT §16.5).
"""

import hmac
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException

from authz.core.names import ADMIN_HEADER
from authz.edges.http.attempts import Attempts

#: Who has done it, in the trail: whoever holds ADMIN_TOKEN.
BY: Final = "admin"
#: RFC 6750 §3: what a 401 asks for.
CHALLENGE: Final = {"www-authenticate": "Bearer"}


class AdminToken:
    """ADMIN_TOKEN; false where it is not set, and then nobody may."""

    def __init__(self, token: str, attempts: Attempts | None = None) -> None:
        """`attempts`: is told who was refused."""
        self._token = token.encode()
        self._attempts = attempts

    def __bool__(self) -> bool:
        return bool(self._token)

    async def required(self, request: Request) -> None:
        """Let nobody else pass.

        Raises:
            HTTPException: 401.
        """
        if not self.is_sent(request):
            raise self.refusal(request)

    def refusal(self, request: Request) -> HTTPException:
        """What to answer whoever has not sent it; the trail hears of that."""
        why = "the admin token is wrong" if _sent(request) else "an admin token is required"
        if self._attempts is not None:
            self._attempts.refused(request, why)
        return HTTPException(401, why, CHALLENGE)

    def is_sent(self, request: Request) -> bool:
        """Whether the request carries it."""
        sent = _sent(request).encode()
        return bool(self._token) and hmac.compare_digest(sent, self._token)


def claims_admin(request: Request) -> bool:
    """Whether the request says of itself that an administrator sent it, true or not."""
    return bool(request.headers.get(ADMIN_HEADER, "").strip())


def _sent(request: Request) -> str:
    """What is there to compare. `X-Admin-Token` counts before an agent's token that came along."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    named = request.headers.get(ADMIN_HEADER, "")
    return (named or (bearer if scheme.lower() == "bearer" else "")).strip()
