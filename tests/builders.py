"""Small makers of requests, tokens, policies and gates that several test files share."""

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from authz.core.action_token import ActionTokens
from authz.core.audit import AuditRow
from authz.core.call import Call
from authz.core.case import Case
from authz.core.compiled import compile_policy
from authz.core.delegation.receipt import ChainReader
from authz.core.environment import Environment
from authz.core.identity import Identity, TokenVerifier, Unidentified
from authz.core.ledger import Change
from authz.core.mode import Mode
from authz.core.policy_doc import PolicyDoc
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.core.state import State
from authz.core.wire_pb2 import CheckRequest
from authz.gate import Gate
from authz.operations import NotPossible, Operations, Signer
from authz.stores.audit_log import AuditLog

SECRET = "a shared secret of the tests, long enough for every HMAC that they sign with"
NOW = 1_700_000_000.0
EVERYONE: Mapping[str, list[str]] = {"agentIds": ["*"]}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(
    claims: Mapping[str, object] | bytes,
    header: Mapping[str, object] | bytes | None = None,
    *,
    secret: str = SECRET,
    digest: str = "sha256",
) -> str:
    """A JWT whose every part is the test's choice; the HMAC over it is a true one."""
    parts: list[Mapping[str, object] | bytes] = [header or {"alg": "HS256", "typ": "JWT"}, claims]
    texts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    signed = ".".join(_base64url(text) for text in texts)
    mac = hmac.new(secret.encode(), signed.encode(), getattr(hashlib, digest)).digest()
    return f"{signed}.{_base64url(mac)}"


def claims(**changes: object) -> dict[str, object]:
    """The claims of a good token at `NOW`; a claim that is set to None is left out."""
    good: dict[str, object] = {
        "iss": "meshguard",
        "sub": "agent-1",
        "tier": "verified",
        "iat": NOW - 10,
        "exp": NOW + 3600,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def bearer(**changes: object) -> str:
    """The `Authorization` of a good token, some claims changed."""
    return "Bearer " + token(claims(**changes))


def check_request(
    method: str = "GET", path: str = "/proxy/doc", headers: Mapping[str, str] | None = None
) -> bytes:
    """An ext_authz CheckRequest; without `headers` it carries a good token."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = method, path, "upstream.example"
    http.headers.update({"authorization": bearer()} if headers is None else headers)
    return request.SerializeToString()


def policy(
    name: str,
    rules: Iterable[tuple[str, str]],
    *,
    default: str = "deny",
    applies_to: Mapping[str, object] | None = EVERYONE,
) -> PolicyDoc:
    """A policy of (effect, pattern) rules, for everyone unless told otherwise."""
    document: dict[str, object] = {
        "name": name,
        "version": "1",
        "rules": [{"effect": effect, "actions": [pattern]} for effect, pattern in rules],
        "defaultEffect": default,
    }
    if applies_to is not None:
        document["appliesTo"] = dict(applies_to)
    return PolicyDoc.model_validate(document)


def snapshot(*documents: PolicyDoc) -> Snapshot:
    """These documents in force together."""
    return Snapshot([compile_policy(document) for document in documents])


def environment(**changes: Any) -> Environment:
    """What calls are judged with, nothing remembered yet."""
    return replace(Environment(State(), ActionTokens(SECRET), ChainReader({})), **changes)


def case(
    call: Call,
    caller: Identity | Unidentified,
    policies: Snapshot,
    judged_with: Environment | None = None,
) -> Case:
    """A call and its caller at `NOW`; nothing is remembered unless told otherwise."""
    return Case.of(call, caller, policies, judged_with or environment(), NOW, NOW)


class MemoryRecorder:
    """Keeps rows instead of writing them, or fails as it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.commits: list[list[AuditRow]] = []
        self.unrecorded = 0

    @property
    def rows(self) -> list[AuditRow]:
        return [row for commit in self.commits for row in commit]

    def begin(self) -> None:
        pass

    def write(self, rows: Sequence[AuditRow], changes: Sequence[Change] = ()) -> None:
        if self.failure is not None:
            raise self.failure
        self.commits.append(list(rows))

    def cancel(self) -> None:
        pass

    def missed(self, count: int) -> None:
        self.unrecorded += count


def gate(
    source: Snapshot | Callable[[], Snapshot],
    recorder: MemoryRecorder,
    *,
    mode: Mode = Mode.ENFORCE,
    proxy_authorization: str = "",
    allow_unrecorded: bool = False,
    chain: Sequence[Stage] = CHAIN,
    new_id: Callable[[], str] | None = None,
    judged_with: Environment | None = None,
) -> Gate:
    """A gate at `NOW` whose ids count up."""
    ids = itertools.count(1)
    judged_with = judged_with or environment()
    return Gate(
        snapshot=source if callable(source) else lambda: source,
        tokens=TokenVerifier(SECRET, registry=judged_with.state.agents),
        recorder=recorder,
        environment=judged_with,
        mode=mode,
        now=lambda: NOW,
        monotonic_ns=lambda: 0,
        steady_offset=NOW,
        new_id=new_id or (lambda: f"id-{next(ids)}"),
        proxy_authorization=proxy_authorization,
        allow_unrecorded=allow_unrecorded,
        chain=chain,
    )


def operations(database: Path, judged_with: Environment | None = None) -> Operations:
    """What people do to the records of a database, at `NOW`; nothing is in force, nobody signs."""
    judged_with = judged_with or environment()
    ids = itertools.count(1)

    def nobody() -> Signer:
        raise NotPossible("there is no key")

    return Operations(
        judged_with.state,
        AuditLog(database, monotonic=lambda: 0.0, ledger=judged_with.state.ledger),
        snapshot=lambda: Snapshot(()),
        mode=lambda: Mode.ENFORCE,
        now=lambda: NOW,
        steady=lambda: NOW,
        new_id=lambda: f"{next(ids):032x}",
        action_tokens=judged_with.action_tokens,
        signer=nobody,
    )
