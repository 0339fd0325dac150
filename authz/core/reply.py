"""Outcome to answer: CheckResponse bytes for Envoy, status and JSON for our own endpoints.

- One body and one set of headers for both (CONTRACT §2, §3), so that an agent sees the same
  denial whether Envoy carried its request or it asked `/proxy/check`.
- Absent values are left out, never null (CONTRACT §9).
- A forwarded request loses what is ours: the agent's token, and every header that governs us.
- Values that reach a header are made header-safe here; Envoy would answer 500 for a bad one.
"""

import json
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from authz.core.errors import Code
from authz.core.identity import Identity
from authz.core.names import DECISION_HEADER, RETRY_AFTER_S
from authz.core.outcome import Outcome
from authz.core.verdict import Decision
from authz.core.wire_pb2 import CheckResponse, HeaderValueOption

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    _Headers = RepeatedCompositeFieldContainer[HeaderValueOption]

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

#: google.rpc.Code for the status of an answer; Envoy only looks at OK or not OK.
_RPC_CODE: Final = {400: 3, 401: 16, 403: 7, 503: 14}

#: The `error` word of an answer (CONTRACT §2; 400 and 503 are ours).
_ERROR_WORD: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "Forbidden",
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
    response = CheckResponse()
    if outcome.enforced is Decision.ALLOW:
        _forward(response, outcome, proxy_authorization)
    else:
        answer = http_answer(outcome)
        response.status.code = _RPC_CODE[answer.status]
        refusal = (
            response.error_response
            if outcome.enforced is Decision.ERROR
            else response.denied_response
        )
        refusal.status.code = answer.status
        refusal.body = json.dumps(answer.body)
        for name, value in answer.headers.items():
            _set(refusal.headers, name, value)
    fields = response.dynamic_metadata.fields
    for name, value in _metadata(outcome).items():
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
        return Answer(200, headers, body)
    status = verdict.code.status
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
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
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
    if outcome.would_deny:
        item["wouldDeny"] = True
    return item


def _forward(response: CheckResponse, outcome: Outcome, proxy_authorization: str) -> None:
    call, caller = outcome.case.call, outcome.case.caller
    ok = response.ok_response
    ok.headers_to_remove.extend(call.governance_headers)
    upstream = proxy_authorization or call.upstream_authorization
    if upstream:
        _set(ok.headers, "authorization", upstream)
    elif isinstance(caller, Identity) or caller.ours:
        # Another party's credential stays: in audit mode an agent may still bring its own.
        ok.headers_to_remove.append("authorization")
    for name, value in _governance_headers(outcome).items():
        _set(ok.response_headers_to_add, name, value)


def _governance_headers(outcome: Outcome) -> dict[str, str]:
    verdict = outcome.verdict
    headers = {
        DECISION_HEADER: str(outcome.enforced),
        "x-meshguard-policy": verdict.policy,
        "x-meshguard-trace-id": outcome.trace_id,
        "x-meshguard-agent-id": outcome.case.identity.agent_id,
        "x-meshguard-mode": str(outcome.mode),
        "x-meshguard-would-deny": verdict.rule if outcome.would_deny else "",
    }
    return {name: header_safe(value) for name, value in headers.items() if value}


def _metadata(outcome: Outcome) -> dict[str, str]:
    verdict = outcome.verdict
    return _present(
        {
            "decision_id": outcome.decision_id,
            "trace_id": outcome.trace_id,
            "agent_id": outcome.case.identity.agent_id,
            "action": outcome.case.call.action,
            "decision": str(verdict.decision),
            "enforced": str(outcome.enforced),
            "code": str(verdict.code),
            "policy": verdict.policy,
            "rule": verdict.rule,
            "policy_version": outcome.case.snapshot.version,
            "mode": str(outcome.mode),
        }
    )


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
