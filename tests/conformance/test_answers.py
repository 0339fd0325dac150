"""§2: what a decision is answered with."""

import pytest

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
    agent,
    check,
    counting,
    governed,
    json_object,
    raw,
    refusal,
    request,
)
from tests.e2e.sidecar import Sidecar, bearer


@covers("§2 200")
def test_allowed_is_200_and_names_the_policy(enforcing: Sidecar) -> None:
    answer = check(enforcing, "read:x")
    assert answer.status_code == 200
    assert decoders.text(json_object(answer), "policy") == "conformance"


@covers("§2 401")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer a.b.c"},
        bearer(now=1, ttl_s=60),
    ],
)
def test_who_is_not_known_is_401(enforcing: Sidecar, headers: dict[str, str]) -> None:
    since = counting(enforcing)
    for answer in (
        check(enforcing, "read:x", headers),
        enforcing.get("/proxy/x", headers=headers),
        enforcing.client.post(
            "/api/v1/governance/batch", headers=headers, json={"actions": [{"action": "read:x"}]}
        ),
    ):
        assert refusal(answer, 401)["error"] == "unauthorized"
    assert since.forwarded() == 0
    assert len(since.rows_since()) == 3


@covers("§2 403")
def test_a_denied_request_has_the_body_of_a_denied_check(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = {**agent(), **governed(action="write:delete", trace_id="same")}
    bodies = [
        refusal(enforcing.get(path, headers=who), 403) for path in ("/proxy/check", "/proxy/orders")
    ]
    for body in bodies:
        body.pop("decisionId", None)
    assert bodies[0] == bodies[1]
    assert since.forwarded() == 0


@covers("§2 403 pending")
def test_what_a_person_could_lift_is_403_and_says_what_to_wait_for(enforcing: Sidecar) -> None:
    body = refusal(check(enforcing, "pay:bill"), 403)
    assert body["error"] == "Forbidden"
    assert body["decision"] == "deny"
    assert body["pendingId"].startswith("pdact_")
    assert body["requiresApproval"] is True
    decoders.no_nulls(body)


@covers("§2 429")
def test_too_much_is_429_and_no_denial(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = {**agent(), **governed(action="count:x")}
    assert [enforcing.get("/proxy/x", headers=who).status_code for _ in range(2)] == [200, 200]
    answer = enforcing.get("/proxy/x", headers=who)
    body = refusal(answer, 429)
    assert body["error"] == "rate_limited"
    assert body["limit"] == "2 requests per minute"
    assert isinstance(body["retry_after"], int)
    assert int(answer.headers["retry-after"]) == body["retry_after"] > 0
    assert since.forwarded() == 2
    refusal(check(enforcing, "count:x", who), 429)


@covers("§2 4xx and 5xx")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404), ("GET", "/admin/nothing", (401, 404)), ("POST", "/health", 405),
        ("GET", "/proxy/check", 400), ("GET", "/api/v1/nothing", 404), ("GET", "/proxy", 404),
        ("POST", "/api/v1/governance/batch", 400),
    ],
)  # fmt: skip
def test_whatever_else_is_refused_says_why(
    enforcing: Sidecar, method: str, path: str, status: int
) -> None:
    refusal(enforcing.client.request(method, path, headers=agent()), status)


@covers("§2 4xx and 5xx")
def test_what_envoy_refuses_looks_the_same(enforcing: Sidecar) -> None:
    auth = b"authorization: " + agent()["Authorization"].encode()
    answers = raw(enforcing, request(b"/proxy/a", [auth, b"x-a: " + b"a" * 100_000]))
    assert answers[0].status == 431
    said = answers[0].json()
    assert said["error"]
    assert said["message"]
    odd = enforcing.client.post(
        "/admin/agents", headers={**ADMIN, "Content-Type": "text/plain"}, content=b"name=x"
    )
    refusal(odd, 415)


@covers("§2 unmatched action")
def test_an_action_that_nothing_matches_is_denied_by_name(enforcing: Sidecar) -> None:
    unmatched = refusal(check(enforcing, "unheard:of"), 403)
    assert (unmatched["policy"], unmatched["rule"]) == ("conformance", "default-deny")
    nobody = refusal(check(enforcing, "read:x", bearer(tags=())), 403)
    assert (nobody["policy"], nobody["rule"]) == ("default", "default-deny")
