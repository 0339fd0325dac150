"""Outcome to answer: CheckResponse bytes for Envoy, status and JSON for our own endpoints.

- One body and one set of headers for both (CONTRACT §2, §3), so that an agent sees the same
  denial whether Envoy carried its request or it asked `/proxy/check`.
- Absent values are left out, never null (CONTRACT §9).
- A forwarded request loses what is ours: the agent's token, and every header that governs us.
- Values that reach a header are made header-safe here; Envoy would answer 500 for a bad one.
- Allows are most answers, and those of one agent differ in little: what they have in common is
  encoded once, and what differs is appended. Protobuf defines two encoded messages, one after the
  other, to be the two merged.
"""

import functools
import json
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from authz.core.errors import Code
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.names import DECISION_HEADER, RETRY_AFTER_S
from authz.core.outcome import Outcome
from authz.core.sources import OUTWARD
from authz.core.tracing import TRACEPARENT, TRACESTATE
from authz.core.verdict import Decision
from authz.core.wire_pb2 import CheckResponse, HeaderValueOption

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    _Headers = RepeatedCompositeFieldContainer[HeaderValueOption]

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
TRACE_HEADER: Final = "x-meshguard-trace-id"
#: Risk points that are left in the agent's wallet after this call.
WALLET_HEADER: Final = "x-meshguard-wallet-remaining"

#: Longest names of headers, characters in all, for which an answer is kept encoded: an agent can
#: make up 60 KiB of them for each request, and ours have 300.
MAX_KEPT: Final = 1024

#: google.rpc.Code for the status of an answer; Envoy only looks at OK or not OK.
_RPC_CODE: Final = {400: 3, 401: 16, 403: 7, 407: 16, 429: 8, 503: 14}

#: The `error` word of an answer (CONTRACT §2; 400 and 503 are ours).
_ERROR_WORD: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "Forbidden",
    407: "unauthorized",
    429: "rate_limited",
    503: "unavailable",
}


class Answer(NamedTuple):
    """An HTTP answer that we make ourselves."""

    status: int
    headers: dict[str, str]
    body: dict[str, object]


def check_response(outcome: Outcome, proxy_authorization: str) -> bytes:
    """The answer to Envoy, as an envoy.service.auth.v3.CheckResponse on the wire.

    Args:
        proxy_authorization: the upstream's `Authorization` (PROXY_AUTHORIZATION), or empty. When
            it is set the agent's own `X-MeshGuard-Upstream-Authorization` has no effect: an
            operator who provides the credential does not want another account billed or read.
    """
    if outcome.enforced is Decision.ALLOW:
        return _allowance(outcome, proxy_authorization)
    answer = http_answer(outcome)
    response = CheckResponse()
    response.status.code = _RPC_CODE[answer.status]
    refusal = (
        response.error_response if outcome.enforced is Decision.ERROR else response.denied_response
    )
    refusal.status.code = answer.status
    refusal.body = json.dumps(answer.body)
    for name, value in answer.headers.items():
        _set(refusal.headers, name, value)
    fields = response.dynamic_metadata.fields
    for name, value in (_common_metadata(_common(outcome)) | _own_metadata(outcome)).items():
        fields[name].string_value = value
    return response.SerializeToString()


def http_answer(outcome: Outcome) -> Answer:
    """The answer to a caller of our own endpoints, and the body of what Envoy refuses for us."""
    headers = _governance_headers(outcome)
    headers["content-type"] = "application/json"
    verdict, call = outcome.verdict, outcome.case.call
    said = {
        "action": call.action,
        "decision": str(outcome.enforced),
        "policy": verdict.policy,
        "rule": verdict.rule,
        "mode": str(outcome.mode),
        "traceId": outcome.trace_id,
        "decisionId": outcome.decision_id,
    }
    if outcome.enforced is Decision.ALLOW:
        body: dict[str, object] = {"allowed": True, **_present(said)}
        # The Python SDK reads `policy` of every allow (CONTRACT §16.8).
        body["policy"] = verdict.policy or str(verdict.code)
        identity = outcome.case.caller
        if isinstance(identity, Identity):
            body["trustTier"] = identity.tier
        if outcome.would_deny:
            body.update(wouldDeny=True, code=str(verdict.code), reason=verdict.reason)
        if verdict.more is not None:
            body.update(verdict.more.body)
        return Answer(200, headers, body)
    status = verdict.code.status
    if status == 401 and call.source in OUTWARD:
        # RFC 9110 §15.5.8. Who was captured did not ask a proxy, and has nothing to show to one.
        status = 407 if call.source == "forward" else 403
    body = {
        "error": _ERROR_WORD[status],
        "message": verdict.reason,
        "reason": verdict.reason,
        "code": str(verdict.code),
        **_present({"stage": verdict.stage}),
        **_present(said),
        "trace_id": outcome.trace_id,
    }
    if status == 401:
        # RFC 6750 §3: a challenge names the scheme, and the error only when a token was sent.
        sent = verdict.code is not Code.TOKEN_MISSING
        headers["www-authenticate"] = "Bearer" + (' error="invalid_token"' if sent else "")
    if status == 407:
        headers["proxy-authenticate"] = 'Basic realm="authz"'
    more = verdict.more
    if more is not None:
        body.update(more.body)
    retry_after_s = RETRY_AFTER_S if status == 503 else more and more.retry_after_s
    if retry_after_s:
        headers["retry-after"] = str(retry_after_s)
        if status == 429:
            body["retry_after"] = retry_after_s
    return Answer(status, headers, body)


def batch_item(outcome: Outcome) -> dict[str, object]:
    """One entry of a batch answer's `results` (CONTRACT §6)."""
    verdict = outcome.verdict
    item: dict[str, object] = {
        "action": outcome.case.call.action,
        "decision": "allow" if outcome.enforced is Decision.ALLOW else "deny",
        "latencyMs": outcome.latency_us / 1000,
        "decisionId": outcome.decision_id,
    }
    if outcome.enforced is not Decision.ALLOW or outcome.would_deny:
        item["reason"] = verdict.reason
        item["code"] = str(verdict.code)
        item.update(_present({"policy": verdict.policy, "rule": verdict.rule}))
        if verdict.more is not None:
            item.update(verdict.more.body)
    if outcome.would_deny:
        item["wouldDeny"] = True
    return item


def _allowance(outcome: Outcome, proxy_authorization: str) -> bytes:
    call, caller = outcome.case.call, outcome.case.caller
    upstream = proxy_authorization or call.upstream_authorization
    removed = call.governance_headers
    is_outward = call.source in OUTWARD
    if is_outward:
        # PROXY_AUTHORIZATION is for PROXY_TARGET, and what the agent sent for its own host stays,
        # unless it is among what is removed.
        upstream = proxy_authorization = ""
    if not upstream and not is_outward and (isinstance(caller, Identity) or caller.ours):
        # Another party's credential stays: in audit mode an agent may still bring its own.
        removed = (*removed, "authorization")
    # The agent's own credential is for this request, and kept no longer.
    is_kept = upstream == proxy_authorization and sum(map(len, removed)) <= MAX_KEPT
    encode = _encoded if is_kept else _encoded.__wrapped__
    same = encode(removed, upstream, _common(outcome))
    trace = sized(b"\x0a", _TRACE_KEY + sized(b"\x12", header_safe(outcome.trace_id).encode()))
    added = sized(b"\x32", trace + _APPEND)
    more = outcome.verdict.more
    if more is not None and more.remaining is not None:
        remaining = sized(b"\x12", str(more.remaining).encode())
        added += sized(b"\x32", sized(b"\x0a", _WALLET_KEY + remaining) + _APPEND)
    own = b""
    for key, value in zip(_OWN_KEYS, _own_metadata(outcome).values(), strict=True):
        # Struct.fields: an entry of a key and a Value with its string_value.
        own += sized(b"\x0a", key + sized(b"\x12", sized(b"\x1a", value.encode())))
    if outcome.trace is not None:
        # ok_response.headers: the upstream's span is our child. A tracestate of a trace that does
        # not go on is nobody's (W3C Trace Context §4.3): headers_to_remove.
        parent = sized(b"\x12", outcome.trace.traceparent.encode())
        added += sized(b"\x12", sized(b"\x0a", _TRACEPARENT_KEY + parent) + _APPEND)
        if outcome.trace.is_new:
            added += sized(b"\x2a", TRACESTATE.encode())
    # CheckResponse.ok_response { response_headers_to_add }, CheckResponse.dynamic_metadata.
    return same + sized(b"\x1a", added) + sized(b"\x22", own)


@functools.lru_cache(maxsize=256)
def _encoded(removed: tuple[str, ...], upstream: str, common: "_Common") -> bytes:
    response = CheckResponse()
    ok = response.ok_response
    ok.headers_to_remove.extend(removed)
    if upstream:
        _set(ok.headers, "authorization", upstream)
    for name, value in _common_headers(common).items():
        _set(ok.response_headers_to_add, name, value)
    for name, value in _common_metadata(common).items():
        response.dynamic_metadata.fields[name].string_value = value
    return response.SerializeToString()


class _Common(NamedTuple):
    """What the answers to one agent have in common, from one call to its next."""

    decision: Decision
    enforced: Decision
    code: Code
    policy: str
    rule: str
    agent_id: str
    mode: Mode
    policy_version: str


def _common(outcome: Outcome) -> _Common:
    verdict, case = outcome.verdict, outcome.case
    return _Common(
        verdict.decision,
        outcome.enforced,
        verdict.code,
        verdict.policy,
        verdict.rule,
        case.identity.agent_id,
        outcome.mode,
        case.snapshot.version,
    )


def _common_headers(common: _Common) -> dict[str, str]:
    allowed, decided = common.enforced is Decision.ALLOW, common.decision is Decision.ALLOW
    headers = {
        DECISION_HEADER: common.enforced.value,
        "x-meshguard-policy": common.policy,
        "x-meshguard-agent-id": common.agent_id,
        "x-meshguard-mode": common.mode.value,
        "x-meshguard-would-deny": common.rule if allowed and not decided else "",
    }
    return {name: header_safe(value) for name, value in headers.items() if value}


def _governance_headers(outcome: Outcome) -> dict[str, str]:
    headers = {**_common_headers(_common(outcome)), TRACE_HEADER: header_safe(outcome.trace_id)}
    more = outcome.verdict.more
    if more is not None and more.remaining is not None:
        headers[WALLET_HEADER] = str(more.remaining)
    return headers


def _common_metadata(common: _Common) -> dict[str, str]:
    """What Envoy's access log can join on, as far as it does not differ between calls."""
    return _present(
        {
            "agent_id": common.agent_id,
            "decision": common.decision.value,
            "enforced": common.enforced.value,
            "code": common.code.value,
            "policy": common.policy,
            "rule": common.rule,
            "policy_version": common.policy_version,
            "mode": common.mode.value,
        }
    )


def _own_metadata(outcome: Outcome) -> dict[str, str]:
    """The rest of it, in the order of `_OWN_KEYS`."""
    return {
        "decision_id": outcome.decision_id,
        "trace_id": outcome.trace_id,
        "action": outcome.case.call.action,
    }


def header_safe(value: str) -> str:
    """A text as a header value: visible ASCII as it is, everything else percent-encoded."""
    if value.isascii() and value.isprintable():
        return value
    return quote(value, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _present(values: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


def _set(headers: "_Headers", name: str, value: str) -> None:
    option = headers.add()
    option.append_action = _OVERWRITE
    option.header.key = name
    option.header.value = value


def sized(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field: its tag, how long it is, and that."""
    size = len(content)
    if size < 128:
        return tag + _SIZES[size] + content
    length = b""
    while size >= 128:
        length += _SIZES[size & 127 | 128]
        size >>= 7
    return tag + length + _SIZES[size] + content


_SIZES: Final = [bytes((number,)) for number in range(256)]
#: HeaderValue.key (two), an entry's key, and HeaderValueOption.append_action, encoded.
_TRACE_KEY: Final = sized(b"\x0a", TRACE_HEADER.encode())
_TRACEPARENT_KEY: Final = sized(b"\x0a", TRACEPARENT.encode())
_WALLET_KEY: Final = sized(b"\x0a", WALLET_HEADER.encode())
_OWN_KEYS: Final = [sized(b"\x0a", key) for key in (b"decision_id", b"trace_id", b"action")]
_APPEND: Final = b"\x18" + _SIZES[_OVERWRITE]
