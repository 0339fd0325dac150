"""A verdict begins as "could not decide", the mode is applied once and afterwards, the row is
committed before the answer, and what is answered is what the contract says."""

import itertools
import json
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from authz.core import reply
from authz.core.call import from_check_request
from authz.core.case import Case
from authz.core.errors import AuditUnavailable, Code
from authz.core.finding import Deny, Finding, Pass
from authz.core.identity import TokenVerifier
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.policy_doc import PolicyDoc, Rule
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.core.verdict import Decision, Verdict, enforced
from authz.core.wire_pb2 import CheckResponse
from authz.gate import Gate
from tests.builders import (
    NOW,
    SECRET,
    MemoryRecorder,
    bearer,
    check_request,
    claims,
    environment,
    gate,
    policy,
    snapshot,
    token,
)

ALLOW_READS = snapshot(policy("readers", [("allow", "read:*"), ("deny", "admin:*")]))
AUTH = CHAIN[0]
POLICY = next(stage for stage in CHAIN if stage.name == "policy")


def answer(asked: Gate, raw: bytes) -> CheckResponse:
    return CheckResponse.FromString(asked.check(raw))


def ask(
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    *,
    mode: Mode = Mode.ENFORCE,
    policies: Snapshot = ALLOW_READS,
    proxy_authorization: str = "",
) -> CheckResponse:
    """What Envoy is told, by default about an allowed request with a good token."""
    raw = check_request(method, headers=headers)
    asked = gate(policies, MemoryRecorder(), mode=mode, proxy_authorization=proxy_authorization)
    return answer(asked, raw)


def kind(response: CheckResponse) -> str:
    return response.WhichOneof("http_response") or ""


def refusal(response: CheckResponse) -> tuple[int, dict[str, object], dict[str, str]]:
    """Status, body and headers of an answer that blocks."""
    assert kind(response) in {"denied_response", "error_response"}
    assert response.status.code != 0
    refused = (
        response.denied_response if kind(response) == "denied_response" else response.error_response
    )
    body = json.loads(refused.body)
    assert isinstance(body, dict)
    headers = {option.header.key: option.header.value for option in refused.headers}
    return refused.status.code, body, headers


def response_headers(response: CheckResponse) -> dict[str, str]:
    """The headers that an allowed caller finds on the upstream's response."""
    assert kind(response) == "ok_response"
    assert response.status.code == 0
    added = response.ok_response.response_headers_to_add
    return {option.header.key: option.header.value for option in added}


def upstream_authorization(response: CheckResponse) -> str | None:
    """What the upstream receives: the new value, "" when it is taken away, None when kept."""
    assert kind(response) == "ok_response"
    ok = response.ok_response
    for option in ok.headers:
        if option.header.key == "authorization":
            assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
            return option.header.value
    return "" if "authorization" in ok.headers_to_remove else None


def has_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(has_null, value.values()))
    if isinstance(value, list):
        return any(map(has_null, value))
    return value is None


# The verdict.


def explode(_: Case) -> Finding:
    raise RuntimeError("the secret detail")


def silent(_: Case) -> Finding:
    return Pass()


BROKEN_CHAINS = {
    "no stage at all": ((), "unfinished"),
    "no policy stage": ((AUTH,), "unfinished"),
    "only stages without an objection": ((AUTH, Stage("x", silent)), "unfinished"),
    "a stage raises": ((Stage("x", explode), *CHAIN), "internal"),
    "a stage raises after the policy allowed": ((*CHAIN, Stage("x", explode)), "internal"),
    "a stage finds nothing": (
        (*CHAIN, Stage("x", lambda _: None)),  # type: ignore[arg-type, return-value]
        "internal",
    ),
}


@pytest.mark.parametrize("broken", BROKEN_CHAINS)
def test_a_chain_that_cannot_decide_is_503_and_not_a_denial(broken: str) -> None:
    chain, code = BROKEN_CHAINS[broken]
    recorder = MemoryRecorder()
    response = answer(gate(ALLOW_READS, recorder, chain=chain), check_request())
    assert kind(response) == "error_response"
    status, body, headers = refusal(response)
    assert (status, body["code"]) == (503, code)
    assert int(headers["retry-after"]) >= 1
    assert "secret detail" not in response.error_response.body
    assert [(row.decision, row.enforced) for row in recorder.rows] == [("error", "error")]


@pytest.mark.parametrize("broken", BROKEN_CHAINS)
def test_audit_mode_forwards_what_could_not_be_decided(broken: str) -> None:
    chain, code = BROKEN_CHAINS[broken]
    recorder = MemoryRecorder()
    response = answer(gate(ALLOW_READS, recorder, chain=chain, mode=Mode.AUDIT), check_request())
    assert kind(response) == "ok_response"
    assert [(row.decision, row.enforced, row.code) for row in recorder.rows] == [
        ("error", "allow", code)
    ]


def test_a_policy_that_allows_cannot_undo_an_earlier_objection() -> None:
    denies = Stage("early", lambda _: Deny(Code.RULE_DENIED, "no", rule="early:no"))
    recorder = MemoryRecorder()
    response = answer(gate(ALLOW_READS, recorder, chain=(denies, *CHAIN)), check_request())
    assert refusal(response)[0] == 403
    assert recorder.rows[0].stage == "early"


def test_a_later_objection_undoes_an_allow() -> None:
    denies = Stage("late", lambda _: Deny(Code.RULE_DENIED, "no", rule="late:no"))
    response = answer(gate(ALLOW_READS, MemoryRecorder(), chain=(*CHAIN, denies)), check_request())
    assert refusal(response)[1]["rule"] == "late:no"


@pytest.mark.parametrize(
    ("mode", "decision", "done"),
    [
        (Mode.ENFORCE, Decision.ALLOW, Decision.ALLOW),
        (Mode.ENFORCE, Decision.DENY, Decision.DENY),
        (Mode.ENFORCE, Decision.ERROR, Decision.ERROR),
        *((Mode.AUDIT, decision, Decision.ALLOW) for decision in Decision),
    ],
)
def test_the_mode_says_what_is_done_and_not_what_was_decided(
    mode: Mode, decision: Decision, done: Decision
) -> None:
    verdict = Verdict(decision, "x", Code.INTERNAL, "because")
    assert enforced(verdict, mode) is done
    assert verdict.decision is decision


REFUSALS = [code for code in Code if code.status >= 400]


@pytest.mark.parametrize("code", REFUSALS)
def test_audit_mode_never_blocks_whatever_the_code(code: Code) -> None:
    chain = (Stage("x", lambda _: Deny(code, "because", rule="x:y")),)
    recorder = MemoryRecorder()
    response = answer(gate(ALLOW_READS, recorder, chain=chain, mode=Mode.AUDIT), check_request())
    headers = response_headers(response)
    assert (headers["x-meshguard-mode"], headers["x-meshguard-would-deny"]) == ("audit", "x:y")
    assert [(row.decision, row.enforced, row.code) for row in recorder.rows] == [
        ("deny", "allow", code)
    ]


@pytest.mark.parametrize("code", [code for code in REFUSALS if code.status < 500])
def test_enforce_mode_answers_a_denial_with_the_status_of_its_code(code: Code) -> None:
    chain = (Stage("x", lambda _: Deny(code, "because", rule="x:y")),)
    response = answer(gate(ALLOW_READS, MemoryRecorder(), chain=chain), check_request())
    assert kind(response) == "denied_response"
    status, body, _ = refusal(response)
    assert (status, body["code"]) == (code.status, code)


def test_bypass_evaluates_and_records_nothing() -> None:
    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder, mode=Mode.BYPASS, chain=(Stage("x", explode),))
    headers = response_headers(answer(asked, check_request("DELETE", headers={})))
    assert headers["x-meshguard-mode"] == "bypass"
    assert recorder.rows == []


# The answers.


def test_an_allowed_caller_is_told_who_decided_and_what() -> None:
    headers = {"authorization": bearer(), "x-meshguard-trace-id": "trace-7"}
    said = response_headers(ask(headers=headers))
    assert said == {
        "x-meshguard-decision": "allow",
        "x-meshguard-policy": "readers",
        "x-meshguard-trace-id": "trace-7",
        "x-meshguard-agent-id": "agent-1",
        "x-meshguard-mode": "enforce",
    }


def test_what_governs_us_does_not_reach_the_upstream() -> None:
    headers = {
        "authorization": bearer(),
        "x-meshguard-action": "read:x",
        "x-meshguard-made-up": "y",
        "x-admin-token": "t",
        "accept": "*/*",
    }
    response = ask(headers=headers)
    assert sorted(response.ok_response.headers_to_remove) == [
        "authorization",
        "x-admin-token",
        "x-meshguard-action",
        "x-meshguard-made-up",
    ]


OWN = "x-meshguard-upstream-authorization"


@pytest.mark.parametrize(
    ("operators", "agents", "received"),
    [
        ("", "", ""),
        ("", "Bearer agents-key", "Bearer agents-key"),
        ("Bearer operators-key", "", "Bearer operators-key"),
        ("Bearer operators-key", "Bearer agents-key", "Bearer operators-key"),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_the_upstreams_credential_is_the_operators_else_the_agents_and_never_our_token(
    mode: Mode, operators: str, agents: str, received: str
) -> None:
    headers = {"authorization": bearer()} | ({OWN: agents} if agents else {})
    response = ask(headers=headers, mode=mode, proxy_authorization=operators)
    assert upstream_authorization(response) == received
    assert (OWN in response.ok_response.headers_to_remove) is bool(agents)


@pytest.mark.parametrize(
    ("authorization", "received"),
    [
        (bearer(exp=1), ""),
        (bearer(sub=None), ""),
        ("Bearer " + token(claims(), secret="another"), ""),
        ("Bearer sk-someone-elses-key", None),
        ("Basic dXNlcjpwYXNz", None),
    ],
)
def test_a_forwarded_request_loses_a_bad_token_of_ours_and_keeps_anothers_credential(
    authorization: str, received: str | None
) -> None:
    response = ask(headers={"authorization": authorization}, mode=Mode.AUDIT)
    assert upstream_authorization(response) == received


def test_a_forwarded_request_that_cannot_be_read_loses_all_it_may_carry() -> None:
    response = answer(gate(ALLOW_READS, MemoryRecorder(), mode=Mode.AUDIT), b"\xff")
    assert upstream_authorization(response) == ""
    assert "x-admin-token" in response.ok_response.headers_to_remove


def test_a_denial_has_the_contracts_fields() -> None:
    headers = {
        "authorization": bearer(),
        "x-meshguard-action": "admin:users",
        "x-trace-id": "trace-7",
    }
    status, body, said = refusal(ask(headers=headers))
    assert status == 403
    assert body["error"] == "Forbidden"
    assert body["message"] == body["reason"] != ""
    assert body["action"] == "admin:users"
    assert body["policy"] == "readers"
    assert body["rule"]
    assert body["decision"] == "deny"
    assert body["traceId"] == body["trace_id"] == "trace-7"
    assert said["content-type"] == "application/json"
    assert said["x-meshguard-decision"] == "deny"
    assert said["x-meshguard-policy"] == "readers"
    assert said["x-meshguard-trace-id"] == "trace-7"
    assert said["x-meshguard-agent-id"] == "agent-1"


def test_a_denial_without_any_policy_names_the_default() -> None:
    _, body, _ = refusal(ask(policies=snapshot()))
    assert (body["policy"], body["rule"], body["code"]) == ("default", "default-deny", "no_policy")


@pytest.mark.parametrize(
    ("authorization", "code", "challenge"),
    [
        ("", "token_missing", "Bearer"),
        (bearer(exp=1), "token_expired", 'Bearer error="invalid_token"'),
        ("Bearer x", "token_malformed", 'Bearer error="invalid_token"'),
    ],
)
def test_a_caller_without_identity_is_challenged(
    authorization: str, code: str, challenge: str
) -> None:
    status, body, headers = refusal(ask(headers={"authorization": authorization}))
    assert (status, body["error"], body["code"]) == (401, "unauthorized", code)
    assert body["message"]
    assert headers["www-authenticate"] == challenge
    assert headers["content-type"] == "application/json"


def test_a_request_that_cannot_be_read_is_a_bad_request() -> None:
    status, body, headers = refusal(answer(gate(ALLOW_READS, MemoryRecorder()), b"\xff"))
    assert (status, body["code"], headers["content-type"]) == (400, "malformed", "application/json")
    assert body["error"]
    assert body["message"]


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.AUDIT])
@pytest.mark.parametrize("headers", [None, {}, {"authorization": bearer(sub=None)}])
@pytest.mark.parametrize("method", ["GET", "POST", ""])
def test_nothing_in_an_answer_is_null(
    method: str, headers: dict[str, str] | None, mode: Mode
) -> None:
    recorder = MemoryRecorder()
    call = from_check_request(check_request(method, headers=headers))
    (outcome,) = gate(ALLOW_READS, recorder, mode=mode).batch([call])
    assert not has_null(reply.http_answer(outcome).body)
    assert not has_null(reply.batch_item(outcome))
    response = CheckResponse.FromString(reply.check_response(outcome, ""))
    if kind(response) != "ok_response":
        assert not has_null(refusal(response)[1])
    fields = response.dynamic_metadata.fields.values()
    assert fields
    assert all(field.WhichOneof("kind") == "string_value" for field in fields)
    row = recorder.rows[0]
    assert row.id
    assert row.timestamp == "2023-11-14T22:13:20.000000Z"
    assert row.action
    assert row.decision


NAMES = ["caf\u00e9-\u7b56\u7565 \u2713", "\U0001f512", 'quotes " and % and \u00e9', "x" * 256]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_any_policy_name_is_safe_in_a_header_and_exact_in_a_body(method: str, name: str) -> None:
    response = ask(method, policies=snapshot(policy(name, [("allow", "read:*")])))
    if method == "GET":
        said = response_headers(response)
    else:
        _, body, said = refusal(response)
        assert body["policy"] == name
    for value in said.values():
        assert value.isascii()
        assert value.isprintable()
    assert unquote(said["x-meshguard-policy"]) == name


def test_a_rule_label_cannot_split_a_header() -> None:
    rule = {"effect": "deny", "actions": ["*"], "id": "a\r\nset-cookie: b=c\x00"}
    with pytest.raises(ValidationError, match="control characters"):
        Rule.model_validate(rule)
    document = PolicyDoc.model_validate(
        {
            "name": "p",
            "appliesTo": {"agentIds": ["*"]},
            "rules": [rule | {"id": "ünicode"}],
        }
    )
    said = response_headers(ask(mode=Mode.AUDIT, policies=snapshot(document)))
    assert all(value.isascii() and value.isprintable() for value in said.values())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_envoys_metadata_names_the_agent_the_policy_the_rule_and_the_trace(method: str) -> None:
    recorder = MemoryRecorder()
    headers = {"authorization": bearer(), "x-trace-id": "trace-7"}
    raw = check_request(method, headers=headers)
    fields = answer(gate(ALLOW_READS, recorder), raw).dynamic_metadata.fields
    values = {name: field.string_value for name, field in fields.items()}
    (row,) = recorder.rows
    assert (values["policy"], values["rule"]) == (row.policy, row.rule)
    assert {"agent-1", "trace-7", row.id, row.policy_version} <= set(values.values())


def test_an_answer_of_our_own_to_an_allowed_check_is_an_object_with_the_policy() -> None:
    call = from_check_request(check_request(headers={"authorization": bearer(tier="standard")}))
    (outcome,) = gate(ALLOW_READS, MemoryRecorder()).batch([call])
    said = reply.http_answer(outcome)
    assert said.status == 200
    assert said.body["policy"] == "readers"
    assert (said.body["allowed"], said.body["decision"]) == (True, "allow")
    assert said.body["action"] == "read:doc"
    assert said.body["rule"]
    assert said.body["traceId"] == outcome.trace_id
    assert said.body["trustTier"] == "standard"


def test_audit_mode_answers_a_check_that_has_no_token_with_200_and_would_deny() -> None:
    recorder = MemoryRecorder()
    call = from_check_request(check_request(headers={}))
    (outcome,) = gate(ALLOW_READS, recorder, mode=Mode.AUDIT).batch([call])
    said = reply.http_answer(outcome)
    assert (said.status, said.body["wouldDeny"]) == (200, True)
    assert said.body["policy"]
    (row,) = recorder.rows
    assert (row.stage, row.decision, row.enforced) == ("auth", "deny", "allow")
    assert row.agent_id is None


@pytest.mark.parametrize(
    ("mode", "method", "expected"),
    [
        (Mode.ENFORCE, "GET", {"decision": "allow"}),
        (Mode.ENFORCE, "POST", {"decision": "deny"}),
        (Mode.AUDIT, "POST", {"decision": "allow", "wouldDeny": True}),
    ],
)
def test_a_batch_result_says_why_when_it_denies_or_would(
    mode: Mode, method: str, expected: dict[str, object]
) -> None:
    call = from_check_request(check_request(method))
    (outcome,) = gate(ALLOW_READS, MemoryRecorder(), mode=mode).batch([call])
    item = reply.batch_item(outcome)
    assert item.items() >= ({"action": call.action, "latencyMs": 0.0} | expected).items()
    assert ("reason" in item) is (method == "POST")
    assert "resource" not in item


# The gate.


class OrderedRecorder(MemoryRecorder):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def write(self, rows: object, changes: object = ()) -> None:
        self.events.append("committed")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_row_is_committed_before_the_answer_is_out(method: str) -> None:
    recorder = OrderedRecorder()
    response = gate(ALLOW_READS, recorder).check(check_request(method))
    recorder.events.append("answered")
    assert response
    assert recorder.events == ["committed", "answered"]


def test_a_batch_is_committed_at_once_and_in_order() -> None:
    recorder = MemoryRecorder()
    calls = [from_check_request(check_request(path=f"/proxy/{at}")) for at in range(5)]
    outcomes = gate(ALLOW_READS, recorder).batch(calls)
    (commit,) = recorder.commits
    assert [row.action for row in commit] == [f"read:{at}" for at in range(5)]
    assert [row.id for row in commit] == [outcome.decision_id for outcome in outcomes]
    assert len({row.id for row in commit}) == 5


FAILURES = [
    (AuditUnavailable("the disk is full"), "audit_unavailable"),
    (RuntimeError("unforeseen"), "internal"),
]


@pytest.mark.parametrize(("failure", "code"), FAILURES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_row_there_is_no_answer_but_503(
    method: str, failure: Exception, code: str
) -> None:
    recorder = MemoryRecorder(failure)
    response = answer(gate(ALLOW_READS, recorder), check_request(method))
    assert kind(response) == "error_response"
    status, body, headers = refusal(response)
    assert (status, body["code"]) == (503, code)
    assert "retry-after" in headers
    assert recorder.unrecorded == 1


@pytest.mark.parametrize(
    ("method", "expected"), [("GET", "ok_response"), ("POST", "denied_response")]
)
def test_where_the_operator_said_so_a_decision_stands_without_its_row_and_is_counted(
    method: str, expected: str
) -> None:
    recorder = MemoryRecorder(AuditUnavailable("the disk is full"))
    asked = gate(ALLOW_READS, recorder, allow_unrecorded=True)
    assert kind(answer(asked, check_request(method))) == expected
    assert recorder.unrecorded == 1


@pytest.mark.parametrize(("failure", "code"), FAILURES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_audit_mode_forwards_without_a_row_and_counts(
    method: str, failure: Exception, code: str
) -> None:
    recorder = MemoryRecorder(failure)
    asked = gate(ALLOW_READS, recorder, mode=Mode.AUDIT)
    assert kind(answer(asked, check_request(method))) == "ok_response"
    assert recorder.unrecorded == 1


def test_every_unrecorded_decision_of_a_batch_is_counted() -> None:
    recorder = MemoryRecorder(AuditUnavailable("locked"))
    outcomes = gate(ALLOW_READS, recorder).batch([from_check_request(check_request())] * 7)
    assert [outcome.enforced for outcome in outcomes] == [Decision.ERROR] * 7
    assert recorder.unrecorded == 7


def test_a_batch_is_judged_by_one_snapshot_and_one_mode_whatever_changes_meanwhile() -> None:
    nothing = snapshot(policy("closed", [("deny", "*")]))
    current = [ALLOW_READS]
    recorder, ids = MemoryRecorder(), itertools.count()

    def reload() -> str:
        # Called once in the middle of each decision.
        current[0], asked.mode = nothing, Mode.AUDIT
        return f"id-{next(ids)}"

    asked = gate(lambda: current[0], recorder, new_id=reload)
    asked.batch([from_check_request(check_request())] * 4)
    assert {(row.policy_version, row.policy, row.mode) for row in recorder.rows} == {
        (ALLOW_READS.version, "readers", "enforce")
    }
    recorder.commits.clear()
    asked.batch([from_check_request(check_request())] * 2)
    assert {(row.policy_version, row.policy, row.mode) for row in recorder.rows} == {
        (nothing.version, "closed", "audit")
    }


def test_one_call_that_breaks_does_not_take_its_batch_along() -> None:
    def fragile(case: Case) -> Finding:
        if case.call.action == "read:bad":
            raise RuntimeError
        return POLICY.judge(case)

    recorder = MemoryRecorder()
    asked = gate(ALLOW_READS, recorder, chain=(AUTH, Stage("fragile", fragile)))
    paths = ("/proxy/a", "/proxy/bad", "/proxy/b")
    outcomes: list[Outcome] = asked.batch(
        [from_check_request(check_request(path=path)) for path in paths]
    )
    assert [str(outcome.enforced) for outcome in outcomes] == ["allow", "error", "allow"]
    assert len(recorder.rows) == 3


def test_a_row_holds_neither_tokens_nor_the_query_string() -> None:
    recorder = MemoryRecorder()
    headers = {
        "authorization": bearer(),
        "x-meshguard-upstream-authorization": "Bearer hush-upstream",
        "x-admin-token": "hush-admin",
    }
    gate(ALLOW_READS, recorder).check(check_request("GET", "/proxy/doc?key=hush-query", headers))
    (row,) = recorder.rows
    assert "hush" not in repr(row)
    assert bearer().removeprefix("Bearer ") not in repr(row)
    assert row.path == "/proxy/doc"


@given(st.binary(max_size=200), st.sampled_from(Mode))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_answered_and_never_allowed_in_enforce_mode(raw: bytes, mode: Mode) -> None:
    recorder = MemoryRecorder()
    response = answer(gate(ALLOW_READS, recorder, mode=mode), raw)
    assert (kind(response) == "ok_response") is (mode is not Mode.ENFORCE)
    assert len(recorder.rows) == (0 if mode is Mode.BYPASS else 1)


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "authorization",
            "x-meshguard-action",
            "x-meshguard-resource",
            "x-meshguard-trace-id",
            "x-trace-id",
            "x-meshguard-agent-id",
            "x-meshguard-upstream-authorization",
        ]
    ),
    st.text(max_size=20) | st.just(bearer()) | st.sampled_from(["read:x", "admin:x"]),
)


@given(st.sampled_from(["GET", "POST", "X"]) | st.text(max_size=5), st.text(max_size=20), HEADERS)
@settings(deadline=None, max_examples=300)
def test_any_request_is_answered_and_an_allow_has_its_row(
    method: str, path: str, headers: dict[str, str]
) -> None:
    recorder = MemoryRecorder()
    response = answer(gate(ALLOW_READS, recorder), check_request(method, f"/proxy/{path}", headers))
    (row,) = recorder.rows
    if kind(response) == "ok_response":
        assert (row.decision, row.enforced, row.agent_id) == ("allow", "allow", "agent-1")
        said = response_headers(response)
    else:
        assert row.enforced != "allow"
        status, body, said = refusal(response)
        assert status in {400, 401, 403}
        assert not has_null(body)
    assert all(value.isascii() and value.isprintable() for value in said.values())


class _Broken(Exception):
    pass


def _raise(*_: object) -> NoReturn:
    raise _Broken


@pytest.mark.parametrize("part", ["snapshot", "now", "monotonic_ns", "new_id"])
@pytest.mark.parametrize("mode", list(Mode))
def test_whatever_breaks_there_is_an_answer_and_a_count(part: str, mode: Mode) -> None:
    recorder = MemoryRecorder()
    parts: dict[str, Any] = {
        "snapshot": lambda: Snapshot(()),
        "now": lambda: NOW,
        "monotonic_ns": lambda: 0,
        "new_id": lambda: "d",
    }
    parts[part] = _raise
    parts |= {"tokens": TokenVerifier(SECRET), "environment": environment()}
    asked = Gate(recorder=recorder, mode=mode, **parts)
    said = answer(asked, check_request())
    if mode is Mode.ENFORCE:
        assert said.error_response.status.code == 503
    else:
        assert kind(said) == "ok_response"
    assert recorder.unrecorded == 1
