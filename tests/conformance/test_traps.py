"""§16: what running the SDKs has shown to go wrong."""

import json

import pytest

from tests.conformance import decoders
from tests.conformance.rows import covers
from tests.conformance.upstream import HTML_PATH, LIST_PATH
from tests.conformance.wire import (
    ADMIN,
    agent,
    check,
    counting,
    governed,
    json_object,
    raw,
    request,
)
from tests.e2e.sidecar import Sidecar


@covers("§16 1 below 400 is allowed")
def test_what_is_not_allowed_is_never_below_400(enforcing: Sidecar) -> None:
    bad: list[dict[str, str]] = [
        {}, governed(action="read:x"), {"Authorization": "Bearer x", **governed(action="read:x")},
        agent(), {**agent(), **governed(action="")}, {**agent(), **governed(action="write:delete")},
        {**agent(), **governed(action="pay:x")}, {**agent(tags=()), **governed(action="read:x")},
        {**agent(), **governed(action="read:x", delegation="x")},
        {**agent(), **governed(action="read:" + "x" * 9000)},
    ]  # fmt: skip
    for headers in bad:
        for path in ("/proxy/check", "/proxy/check/", "/proxy/check?action=read:x"):
            answer = enforcing.get(path, headers=headers)
            assert answer.status_code >= 400, (path, headers)
            json_object(answer)


@covers("§16 4 redirects")
@pytest.mark.parametrize(
    "path",
    ["/proxy/check/", "/health/", "/ready/", "/admin", "/admin/", "/admin/agents/", "/api/v1",
     "/api/v1/governance/batch/", "/relationships/", "/proxy", "//health", "/admin//agents",
     "/api/docs/", "/metrics/"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_of_ours_is_a_redirect(enforcing: Sidecar, method: str, path: str) -> None:
    for headers in ({}, ADMIN, agent()):
        answer = enforcing.client.request(method, path, headers=headers)
        assert not 300 <= answer.status_code < 400, answer.headers.get("location")


@covers("§16 4 redirects")
def test_an_upstreams_redirect_is_the_clients_to_follow(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    answer = enforcing.get("/proxy/status/302", headers=agent())
    assert (answer.status_code, since.forwarded()) == (302, 1)
    assert answer.headers["location"] == "http://elsewhere.invalid/x"


@covers("§16 2 objects only")
def test_whatever_we_say_is_an_object_and_an_upstream_may_say_anything(enforcing: Sidecar) -> None:
    open_to_all = ("/", "/health", "/ready", "/nothing", "/proxy/check", "/proxy/audit", "/admin",
                   "/admin/agents", "/api/v1/evaluate", "/relationships")  # fmt: skip
    for path in open_to_all:
        for method in ("GET", "POST", "PUT", "DELETE"):
            json_object(enforcing.client.request(method, path))
    for path in ("/agents", "/policies", "/audit", "/pending", "/wallets", "/fuses"):
        json_object(enforcing.get(f"/admin{path}", headers=ADMIN))
    html = enforcing.get(f"/proxy{HTML_PATH}", headers=agent())
    assert (html.text, html.headers["content-type"]) == ("<p>hello</p>", "text/html")
    assert enforcing.get(f"/proxy{LIST_PATH}", headers=agent()).json() == [1, 2]


@covers("§16 3 whose 403")
@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_refusal_of_the_upstream_can_be_told_from_ours(enforcing: Sidecar, status: int) -> None:
    upstreams = enforcing.get(f"/proxy/status/{status}", headers=agent())
    assert (upstreams.status_code, upstreams.headers["x-meshguard-decision"]) == (status, "allow")
    ours = check(enforcing, "write:delete")
    assert ours.headers["x-meshguard-decision"] == "deny"


@covers("§16 5 agent at /admin")
def test_an_agent_that_is_sent_to_admin_is_nobody_there(enforcing: Sidecar) -> None:
    since = counting(enforcing)
    who = agent(tier="privileged")
    for path in (b"/proxy/../admin/agents", b"/admin/agents", b"/proxy/%2e%2e/admin/agents"):
        header = b"authorization: " + who["Authorization"].encode()
        for method in (b"GET", b"POST", b"DELETE"):
            [answer] = raw(enforcing, request(path, [header], method))
            assert answer.status in (400, 401, 404, 405)
            assert "agents" not in answer.json()
    assert since.forwarded() == 0


@covers("§16 6 ASCII actions")
@pytest.mark.parametrize("action", [b"read:\xc3\xa9", b"read:\xe9", b"read:\x7f", b"read:\x01"])
def test_an_action_is_plain_text_on_the_wire(enforcing: Sidecar, action: bytes) -> None:
    since = counting(enforcing)
    auth = b"authorization: " + agent()["Authorization"].encode()
    for path in (b"/proxy/x", b"/proxy/check"):
        [answer] = raw(enforcing, request(path, [auth, b"x-meshguard-action: " + action]))
        if answer.status == 200:
            # Envoy shows a byte that is no UTF-8 as `!`, and that is what is judged and kept.
            assert (path, since.rows_since()[-1]["action"]) == (b"/proxy/x", "read:!")
        else:
            assert answer.status == 400
            assert answer.json()["message"]


@covers("§16 7 denied bodies")
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_denied_body_does_not_upset_the_connection(enforcing: Sidecar, size: int) -> None:
    since = counting(enforcing)
    auth = b"authorization: " + agent()["Authorization"].encode()
    denied = [auth, b"x-meshguard-action: write:delete", b"content-type: application/json"]
    length = b"content-length: %d" % size
    body = b"x" * size
    for path in (b"/proxy/orders", b"/proxy/check", b"/proxy/governance/check", b"/proxy/audit"):
        first = request(path, [*denied, length], b"POST") + body
        second = request(b"/proxy/x", [auth])
        answers = raw(enforcing, first, second)
        assert answers[0].status >= 400
        assert isinstance(answers[0].json(), dict)
        assert answers[1].status == 200
    assert since.forwarded() == 4


@covers("§16 8 policy on allow")
def test_an_allow_names_its_policy(enforcing: Sidecar) -> None:
    for action in ("read:x", "write:comments", "work:x"):
        assert decoders.text(json_object(check(enforcing, action)), "policy") == "conformance"


@covers("§16 12 go decodes")
def test_one_odd_entry_does_not_spoil_the_list(enforcing: Sidecar) -> None:
    auth = b"authorization: " + agent("odd")["Authorization"].encode()
    for meta in (b"[1]", b"7", b'"text"', b"null", b"\xff\xfe", b"{", b'{"a": null}', b"{}"):
        raw(enforcing, request(b"/proxy/x", [auth, b"x-meshguard-meta: " + meta]))
    for trace in (b"\xff", b"caf\xc3\xa9", b"x" * 5000, b" "):
        raw(enforcing, request(b"/proxy/x", [auth, b"x-meshguard-trace-id: " + trace]))
    answer = enforcing.get("/admin/audit", headers=ADMIN, params={"agentId": "odd", "limit": 1000})
    assert answer.status_code == 200
    assert len(decoders.go_audit(answer.json())) == 12
    decoders.rust_audit(json.loads(answer.content.decode("utf-8")))
    decoders.go_agents(enforcing.get("/admin/agents", headers=ADMIN).json())
