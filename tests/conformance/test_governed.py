"""§1.2: what agents ask and send, with their token as Bearer."""

import pytest

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import (
    agent,
    check,
    counting,
    fresh,
    governed,
    json_object,
    raw,
    refusal,
    request,
)
from tests.e2e.sidecar import Sidecar
from tests.e2e.upstream import echoed

NOW = "2026-01-02T03:04:05Z"


@covers("§1.2 GET /proxy/check")
def test_a_check_is_answered_here_and_never_forwarded(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    allowed = check(enforcing, "read:x", agent(tier="verified"))
    body = json_object(allowed)
    assert allowed.status_code == 200
    assert (body["allowed"], body["decision"], body["action"]) == (True, "allow", "read:x")
    assert (body["policy"], body["rule"], body["trustTier"]) == ("conformance", "reads", "verified")
    assert body["traceId"]
    decoders.no_nulls(body)
    denied = check(enforcing, "write:delete")
    refusal(denied, 403)
    assert since.forwarded() == 0
    assert [row["source"] for row in since.rows_since()] == ["check", "check"]


@covers("§1.2 ANY /proxy/<path>")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_is_allowed_is_forwarded_without_the_prefix(enforcing: Sidecar, method: str) -> None:
    since = counting(enforcing)
    headers = {**agent(), **governed(action="work:any")}
    answer = enforcing.client.request(
        method, "/proxy/a/b%20c?x=1&y=%2F", headers=headers, content=b'{"n": 1}'
    )
    assert answer.status_code == 200
    said = echoed(answer.text)
    assert (said["method"], said["path"], said["query"]) == (method, "/a/b%20c", "x=1&y=%2F")
    assert said["body"] == '{"n": 1}'
    denied = enforcing.client.request(
        method, "/proxy/a", headers={**agent(), **governed(action="write:delete")}, content=b"{}"
    )
    refusal(denied, 403)
    assert since.forwarded() == 1


@covers("§1.2 ANY /proxy/<path>")
@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 403, 404, 429, 500, 503])
def test_the_upstreams_status_and_body_pass_through(enforcing: Sidecar, status: int) -> None:
    answer = enforcing.get(f"/proxy/status/{status}", headers=agent())
    assert answer.status_code == status
    if status != 204:
        assert answer.json()["message"] == "said by the upstream"
    assert answer.headers["x-meshguard-decision"] == "allow"


@covers("§1.2 POST /api/v1/governance/batch")
def test_a_batch_is_answered_here(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    answer = enforcing.client.post(
        "/api/v1/governance/batch",
        headers=agent(),
        json={"actions": [{"action": "read:x", "resource": "r"}, {"action": "admin:x"}]},
    )
    assert [item["decision"] for item in decoders.batch(json_object(answer))] == ["allow", "deny"]
    assert since.forwarded() == 0


@covers("§1.2 reserved names")
def test_reserved_names_never_reach_the_upstream_and_neighbours_do(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    headers = {**agent(), **governed(action="read:x")}
    ours = (
        "/proxy/check", "/proxy/audit", "/proxy/governance", "/proxy/governance/check",
        "/proxy/governance/record", "/proxy/governance/other", "/proxy/check/x", "/proxy/audit/x",
    )  # fmt: skip
    for path in ours:
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = enforcing.client.request(method, path, headers=headers, json={})
            json_object(answer)
    assert since.forwarded() == 0
    for path in ("/proxy/checks", "/proxy/auditx", "/proxy/governances", "/proxy/x/check"):
        assert enforcing.get(path, headers=headers).status_code == 200
    assert since.forwarded() == 4


@covers("§1.2 derived action")
@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/proxy/api/users/123?x=1", "read:api/users/123"),
        ("HEAD", "/proxy/a", "read:a"),
        ("OPTIONS", "/proxy/a", "read:a"),
        ("POST", "/proxy/comments", "write:comments"),
        ("PUT", "/proxy/comments", "write:comments"),
        ("PATCH", "/proxy/comments", "write:comments"),
        ("DELETE", "/proxy/tmp/a", "delete:tmp/a"),
        ("GET", "/proxy/a%20b%C3%A9", "read:a bé"),
        ("GET", "/proxy/a%2541", "read:a%41"),
        ("PROPFIND", "/proxy/a", "execute:a"),
    ],
)
def test_an_action_that_nobody_named_comes_from_method_and_path(
    enforcing: Sidecar, method: str, path: str, action: str
) -> None:
    since = counting(enforcing)
    enforcing.client.request(method, path, headers=agent())
    [row] = since.rows_since()
    assert row["action"] == action
    assert since.forwarded() == (row["enforced"] == "allow")


@covers("§1.2 derived action")
@pytest.mark.parametrize("path", [b"/proxy/a/%2e%2e%2fb", b"/proxy/a%2fb", b"/proxy/a%00b"])
def test_a_path_with_two_readings_goes_nowhere(enforcing: Sidecar, path: bytes) -> None:
    since = counting(enforcing)
    header = b"authorization: " + agent()["Authorization"].encode()
    [answer] = raw(enforcing, request(path, [header]))
    assert answer.status == 400
    assert answer.json()["message"]
    assert since.forwarded() == 0


def test_every_governed_answer_is_an_object_without_nulls(enforcing: Sidecar) -> None:
    who = agent(fresh("objects"))
    answers = [
        check(enforcing, "read:x", who), check(enforcing, "admin:x", who),
        check(enforcing, "pay:x", who), check(enforcing, "read:x", {}),
        enforcing.client.post("/api/v1/action-tokens", headers=who, json={"action": "read:x"}),
    ]  # fmt: skip
    for answer in answers:
        decoders.no_nulls(json_object(answer))
