"""Decisions as other SDKs ask for them: `POST /proxy/check`, `POST /proxy/governance/check`, and
`POST /api/v1/evaluate`.

- They are decided and recorded as `GET /proxy/check` is. The agent that a body names is what it
  claims: recorded, never trusted, and no reason to refuse (CONTRACT §3).
- These bodies are made by programs that nobody here can mend, and say more than we read. So a key
  that we do not know counts for nothing, and null is as if it was not there. A key that looks like
  one of those that restrict, or that stand for leave, is refused all the same: an agent whose
  `delegated_by` was not read would act on its own authority.
"""

import difflib
import re
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, model_validator

from authz.core import reply, sdk_answers
from authz.core.call import MAX_LABEL
from authz.core.names import API_KEY_HEADER, OUR_API_KEY_HEADER
from authz.core.outcome import Outcome
from authz.core.text import word
from authz.edges.http.asking import NamedAction, call_of, json_of, named
from authz.edges.http.bodies import or_null, read_json
from authz.gate import Gate

#: Keys of a body: each one that we do not know is compared with those that count.
MAX_KEYS: Final = 32

#: What must not be lost by a slip of the pen, as it is written.
_RESTRICTING: Final = (
    "delegation", "delegatedBy", "pendingId", "actionToken", "provenance", "cost",
)  # fmt: skip
#: The same with nothing but its letters, and how those begin that cannot be meant otherwise.
_FOLDED: Final = {name.lower(): name for name in _RESTRICTING}
_STEMS: Final = {"delegat": "delegation", "provenan": "provenance"}
#: How alike two of them are that are taken for one: one letter of five may differ.
_ALIKE: Final = 0.8
#: Longest key that is compared, characters; no longer one is like any of them.
_LONGEST: Final = 24


class SdkAction(NamedAction):
    """An action as SDKs ask about it. Keys that are not known here count for nothing."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=or_null)

    #: What the caller claims to be.
    agent_id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_KEYS:
            raise ValueError(f"has more than {MAX_KEYS} keys")
        known = {key for keys in cls._keys() for key in keys}
        for key in data.keys() - known:
            meant = _meant(key)
            if meant:
                raise ValueError(f"unknown key `{word(key)}`, did you mean `{meant}`?")
        return {key: value for key, value in data.items() if value is not None}


def router(gate: Gate) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    async def decided(request: Request, key_header: str = "") -> Outcome:
        base = call_of("check", request, key_header)._replace(action="check")
        if not gate.refuses(base):
            body = await read_json(request, SdkAction)
            claimed = body.agent_id.strip()[:MAX_LABEL] or base.claimed_agent
            base = named(base, body)._replace(claimed_agent=claimed)
        [outcome] = gate.batch([base])
        return outcome

    @routes.post("/proxy/check")
    async def check_by_body(request: Request) -> JSONResponse:
        return json_of(sdk_answers.checked(await decided(request, API_KEY_HEADER)))

    @routes.post("/proxy/governance/check")
    async def governance_check(request: Request) -> JSONResponse:
        return json_of(reply.http_answer(await decided(request)))

    @routes.post("/api/v1/evaluate")
    async def evaluate(request: Request) -> JSONResponse:
        return json_of(sdk_answers.evaluated(await decided(request, OUR_API_KEY_HEADER)))

    return routes


def _meant(key: str) -> str:
    """What a key that is not known may stand for; empty where that is nothing that restricts."""
    if len(key) > _LONGEST:
        return ""
    folded = re.sub("[^a-z]", "", key.lower())
    for stem, name in _STEMS.items():
        if folded.startswith(stem):
            return name
    close = difflib.get_close_matches(folded, _FOLDED, 1, _ALIKE)
    return _FOLDED[close[0]] if close else ""
