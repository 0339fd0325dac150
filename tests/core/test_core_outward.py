"""Requests by the forward proxy and by capture: what they are judged by, who sends them, and what
is answered. Everything here is what Envoy sends and gets; `tests/e2e` has the rest."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from authz.cli.policy.records import asked_of
from authz.core.agents import Agent, new_agent
from authz.core.call import MAX_NAME, Call, from_check_request
from authz.core.compiled import compile_policy
from authz.core.identity import EMPTY, Identity, Registry, TokenVerifier, Unidentified
from authz.core.mode import Mode
from authz.core.routes import Routes
from authz.core.snapshot import Snapshot
from authz.core.wire_pb2 import CheckRequest, CheckResponse
from authz.gate import Gate
from authz.stores.audit_log import Recorded
from tests import builders
from tests.builders import NOW, SECRET, MemoryRecorder, bearer, policy, snapshot
from tests.core.test_core_chain_doc import route_map

RESIDENT = Identity("pod-agent", "pod-agent", "verified", 2, frozenset({"t"}), "", 2)


def asked(
    method: str = "GET",
    path: str = "/v1/users",
    host: str = "api.example.com",
    headers: Mapping[str, str] | None = None,
    via: str = "forward",
    scheme: str = "http",
) -> bytes:
    request = CheckRequest()
    attributes = request.attributes
    http = attributes.request.http
    http.method, http.path, http.host, http.scheme = method, path, host, scheme
    http.headers.update(headers or {})
    attributes.context_extensions["via"] = via
    return request.SerializeToString()


def tunnel(host: str = "api.example.com:443", **more: Any) -> bytes:
    return asked("CONNECT", "", host, **more)


def read(raw: bytes) -> Call:
    return from_check_request(raw)


@pytest.mark.parametrize("via", ["forward", "capture"])
def test_a_request_is_judged_by_verb_host_and_path(via: str) -> None:
    call = read(asked("POST", "/v1/a%20b?key=secret", "API.Example.com:80", via=via))
    assert (call.source, call.action) == (via, "write:api.example.com/v1/a b")
    assert (call.resource, call.host) == ("api.example.com/v1/a b", "api.example.com")
    assert (call.method, call.path, call.upstream_path) == ("POST", "/v1/a%20b", "v1/a b")
    assert call.defect == ""


@pytest.mark.parametrize(
    ("raw", "action", "host"),
    [
        (tunnel(), "connect:api.example.com:443", "api.example.com"),
        (tunnel("[2001:DB8::1]:8443"), "connect:[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        (asked(path="/"), "read:api.example.com/", "api.example.com"),
        (asked(path="/proxy/x"), "read:api.example.com/proxy/x", "api.example.com"),
        (asked(host="10.0.0.1:8080"), "read:10.0.0.1:8080/v1/users", "10.0.0.1:8080"),
        # A port that is usual elsewhere is said.
        (asked(host="a.test:443"), "read:a.test:443/v1/users", "a.test:443"),
        (tunnel("a.test:80"), "connect:a.test:80", "a.test:80"),
    ],
)
def test_the_action_shows_where_it_goes(raw: bytes, action: str, host: str) -> None:
    call = read(raw)
    assert (call.action, call.host, call.defect) == (action, host, "")


@pytest.mark.parametrize(
    ("raw", "defect"),
    [
        (tunnel("api.example.com"), "no port"),
        (asked("CONNECT", "/x", "a.test:443"), "CONNECT has none"),
        (asked(host="user@a.test"), "user's name"),
        (asked(host=""), "empty"),
        (asked(host="2130706433"), "IPv4"),
        (asked(path="/a/../b"), ".. segment"),
        (asked(path="//a"), "empty segment"),
        (asked(path="/a%2fb"), "encoded slash"),
        (asked(path="/a;b"), "; parameter"),
        (asked(path="/" + "a" * MAX_NAME), "longer than"),
        (asked(path="/" + "a" * (MAX_NAME - 10)), "action: longer than"),
        (asked("A" * 33), "method"),
        (asked(scheme="https"), "CONNECT"),
        (asked(scheme="HTTPS"), "CONNECT"),
    ],
)
def test_what_cannot_be_judged_is_a_defect(raw: bytes, defect: str) -> None:
    call = read(raw)
    assert defect in call.defect
    assert len(call.action) <= MAX_NAME


def test_what_stood_in_place_of_a_host_is_told_and_names_nothing() -> None:
    call = read(asked(host="2130706433\r\nx"))
    assert call.action == "read:(unreadable)/v1/users"
    assert call.host == "2130706433\\r\\nx"


def test_a_password_in_a_host_is_not_recorded() -> None:
    """An agent's library may put one there, and rows are kept."""
    for raw in (asked(host="me:hunter2@a.test:8080"), tunnel("me:hunter2@a.test:443")):
        _, recorder = answered(raw)
        [row] = recorder.rows
        assert row.code == "malformed"
        assert json.loads(row.metadata or "")["host"].startswith("a.test:")
        assert "hunter2" not in str(row)
    # Nor by PORT, where what stands in `Host` decides nothing.
    request = CheckRequest.FromString(asked(host="me:hunter2@a.test"))
    request.attributes.context_extensions.clear()
    assert read(request.SerializeToString()).host == "a.test"


@pytest.mark.parametrize("via", ["", "elsewhere", "proxy"])
def test_a_listener_that_nobody_knows_is_taken_for_the_strictest(via: str) -> None:
    """Never for PORT's, where the agent would name its action itself."""
    call = read(asked(headers={"x-meshguard-action": "read:nothing"}, via=via))
    assert (call.source, call.action) == ("forward", "read:api.example.com/v1/users")


def test_the_agent_does_not_name_what_it_does_there() -> None:
    headers = {
        "x-meshguard-action": "read:nothing,\u00fc",
        "x-meshguard-resource": "nothing\u200b",
        "x-meshguard-trace-id": "t-1",
        "x-meshguard-pending-id": "p-1",
        "x-meshguard-meta": '{"a": 1}',
        "x-meshguard-upstream-authorization": "Bearer mine",
    }
    call = read(asked(headers=headers))
    assert (call.action, call.defect) == ("read:api.example.com/v1/users", "")
    assert (call.declares_action, call.declares_resource) == (False, False)
    assert (call.trace_id, call.pending_id, call.meta) == ("t-1", "p-1", '{"a": 1}')
    assert call.upstream_authorization == ""
    assert {*headers, "proxy-authorization"} == {*call.governance_headers}


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("sent", "authorization"),
    [
        ({}, ""),
        ({"proxy-authorization": "Bearer a.b.c"}, "Bearer a.b.c"),
        ({"proxy-authorization": basic("agent:a.b.c")}, "Bearer a.b.c"),
        ({"proxy-authorization": basic("a.b.c")}, "Bearer "),
        ({"proxy-authorization": "Basic ???"}, "Basic ???"),
        ({"proxy-authorization": " "}, "(empty)"),
        ({"authorization": "Bearer a.b.c"}, ""),
    ],
)
def test_proxy_authorization_says_who_asks_and_nothing_else_does(
    sent: dict[str, str], authorization: str
) -> None:
    call = read(asked(headers=sent))
    assert call.authorization == authorization
    assert call.upstream_authorization == sent.get("authorization", "")


def test_a_captured_request_was_not_sent_to_a_proxy() -> None:
    """A credential for one is some other proxy's: not read, and not passed on."""
    call = read(asked(headers={"proxy-authorization": bearer()}, via="capture"))
    assert call.authorization == ""
    assert "proxy-authorization" in call.governance_headers


class Known:
    """A registry with one agent in it."""

    def __init__(self, agent: Agent) -> None:
        self.version = 1
        self.agent = agent

    def get(self, agent_id: str) -> Agent | None:
        return self.agent if agent_id == self.agent.agent_id else None


def verifier(resident: Identity | None = RESIDENT, registry: Registry = EMPTY) -> TokenVerifier:
    return TokenVerifier(SECRET, registry=registry, resident=resident)


def test_what_is_registered_of_the_pods_agent_wins() -> None:
    record = new_agent("pod-agent", NOW, name="Pod", tier="privileged", tags=("registered",))
    known = Known(record)
    found = verifier(registry=known).identify_outward("", NOW)
    assert isinstance(found, Identity)
    assert (found.name, found.tier, found.tags) == ("Pod", "privileged", frozenset({"registered"}))
    # Of what two say of its tier, the lower counts, as with a token.
    assert found.effective_rank == RESIDENT.rank
    known.agent = record._replace(revoked_at=NOW)
    revoked = verifier(registry=known).identify_outward("", NOW)
    assert isinstance(revoked, Unidentified)
    assert revoked.code == "agent_revoked"


def test_without_a_credential_it_is_the_agent_of_the_pod() -> None:
    assert verifier().identify_outward("", NOW) == RESIDENT
    nobody = verifier(None).identify_outward("", NOW)
    assert isinstance(nobody, Unidentified)
    assert (nobody.code, nobody.ours) == ("token_missing", False)


@pytest.mark.parametrize("credential", ["(empty)", "Bearer ", "Basic x", "Bearer x", "x"])
def test_one_that_is_there_has_to_be_good(credential: str) -> None:
    found = verifier().identify_outward(credential, NOW)
    assert isinstance(found, Unidentified)
    assert found.code.status == 401


def test_on_the_usual_port_the_agent_of_the_pod_is_nobody_without_a_token() -> None:
    assert isinstance(verifier().identify("", NOW), Unidentified)


def answered(
    raw: bytes,
    *,
    mode: Mode = Mode.ENFORCE,
    resident: Identity | None = RESIDENT,
    proxy_authorization: str = "",
    rules: tuple[tuple[str, str], ...] = (
        ("allow", "connect:api.example.com:80"),
        ("allow", "read:api.example.com/*"),
    ),
) -> tuple[CheckResponse, MemoryRecorder]:
    recorder = MemoryRecorder()
    gate: Gate = builders.gate(
        snapshot(policy("p", rules)), recorder, mode=mode, proxy_authorization=proxy_authorization
    )
    gate._tokens = TokenVerifier(SECRET, resident=resident)
    return CheckResponse.FromString(gate.check(raw)), recorder


READS = ("allow", "read:*")
REACHES = ("allow", "connect:api.example.com:80")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ((READS, REACHES), ""),
        ((READS,), "the request is also connect:api.example.com:80: no rule of policy p"),
        ((READS, ("allow", "connect:api.example.com:443")), "also connect:api.example.com:80: no"),
        ((READS, ("deny", "connect:*"), ("allow", "*")), "also connect:api.example.com:80: policy"),
        # What a path fits is no host.
        ((READS, ("allow", "*/v1/*")), "the request is also connect:api.example.com:80: no rule"),
        ((REACHES,), "no rule of policy p allows read:api.example.com/v1/users"),
    ],
)
def test_a_plain_request_is_that_its_host_is_reached_too(
    rules: tuple[tuple[str, str], ...], reason: str
) -> None:
    """A `read:*` that was written of PROXY_TARGET opens no host."""
    for via in ("forward", "capture"):
        _, recorder = answered(asked(via=via), rules=rules)
        [row] = recorder.rows
        assert row.action == "read:api.example.com/v1/users"
        assert row.decision == ("deny" if reason else "allow")
        assert reason in (row.reason or "")


def test_what_a_host_may_be_reached_for_is_held_against_its_port() -> None:
    raw, rules = asked(host="api.example.com:8080"), (READS, REACHES)
    _, recorder = answered(raw, rules=rules)
    assert recorder.rows[0].decision == "deny"
    _, recorder = answered(raw, rules=(READS, ("allow", "connect:api.example.com:8080")))
    assert recorder.rows[0].decision == "allow"


def test_an_allowed_request_keeps_what_is_the_hosts() -> None:
    response, recorder = answered(
        asked(headers={"authorization": "Bearer sk-1"}), proxy_authorization="Bearer operator"
    )
    assert response.WhichOneof("http_response") == "ok_response"
    assert list(response.ok_response.headers_to_remove) == ["proxy-authorization"]
    # PROXY_AUTHORIZATION is for PROXY_TARGET alone.
    assert not response.ok_response.headers
    [row] = recorder.rows
    assert (row.source, row.agent_id, row.trust_tier) == ("forward", "pod-agent", "verified")
    assert json.loads(row.metadata or "")["host"] == "api.example.com"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("credential", [bearer(), basic("x:" + bearer().removeprefix("Bearer "))])
def test_a_token_of_ours_in_authorization_does_not_leave(credential: str, mode: Mode) -> None:
    """Also without an `iss`, by its signature."""
    for sent in (credential, bearer(iss=None)):
        response, _ = answered(asked(headers={"authorization": sent}), mode=mode)
        assert "authorization" in response.ok_response.headers_to_remove


def test_who_proves_nothing_is_asked_by_the_proxy_and_refused_by_capture() -> None:
    response, _ = answered(asked(), resident=None)
    refusal = response.denied_response
    headers = {one.header.key: one.header.value for one in refusal.headers}
    assert (refusal.status.code, headers["proxy-authenticate"]) == (407, 'Basic realm="authz"')
    assert "www-authenticate" not in headers
    assert json.loads(refusal.body)["code"] == "token_missing"
    response, recorder = answered(asked(via="capture"), resident=None)
    names = {one.header.key for one in response.denied_response.headers}
    assert response.denied_response.status.code == 403
    assert not {"proxy-authenticate", "www-authenticate"} & names
    assert recorder.rows[0].code == "token_missing"
    response, recorder = answered(asked(), resident=None, mode=Mode.AUDIT)
    assert response.WhichOneof("http_response") == "ok_response"
    assert recorder.rows[0].decision == "deny"


def test_what_is_for_a_path_is_not_for_a_tunnel() -> None:
    """A star is any run of characters, but a tunnel's verb is its own."""
    response, _ = answered(tunnel(), rules=(("allow", "read:*"), ("allow", "*/*")))
    assert response.denied_response.status.code == 403
    response, _ = answered(tunnel(), rules=(("allow", "connect:*.example.com:443"),))
    assert response.WhichOneof("http_response") == "ok_response"


def test_of_a_tunnel_conditions_see_host_and_method_and_no_path() -> None:
    document = policy("p", [("allow", "connect:*")])
    for conditions, code in (
        ({"host": {"equals": "api.example.com"}, "method": {"equals": "CONNECT"}}, "rule_allowed"),
        ({"path": {"startsWith": "/"}}, "default_denied"),
        ({"host": {"equals": "api.example.com:443"}}, "default_denied"),
    ):
        made = document.model_dump(by_alias=True, exclude_none=True)
        made["rules"][0]["conditions"] = conditions
        recorder = MemoryRecorder()
        gate = builders.gate(snapshot(type(document).model_validate(made)), recorder)
        gate._tokens = TokenVerifier(SECRET, resident=RESIDENT)
        gate.check(tunnel())
        assert recorder.rows[0].code == code


def test_only_a_route_map_that_names_hosts_says_what_a_request_there_is() -> None:
    """Else one that was written for PROXY_TARGET would make the same action of any host's path."""
    anywhere = route_map("anywhere", "GET /v1/users users:list")
    star = route_map("star", "GET /v1/users users:list", hosts=["a.test", "*"])
    named = route_map("named", "GET /v1/users users:list", hosts=["*.example.com"])
    for maps, outward in (((anywhere,), None), ((star,), None), ((named,), "named")):
        routes = Routes(maps)
        found = routes.match("GET", "api.example.com", "v1/users", named=True)
        assert (found and found.map_name) == outward
        assert routes.match("GET", "api.example.com", "v1/users") is not None
    assert Routes((named,)).match("GET", "evil.test", "v1/users", named=True) is None


@pytest.mark.parametrize("raw", [tunnel(), asked(path="/v1/orders")])
def test_what_no_route_fits_is_denied_where_a_map_says_so(raw: bytes) -> None:
    """A tunnel fits no route: nobody sees what goes through it."""
    strict = route_map("crm", "GET /v1/users users:list", hosts=["api.*"], unmapped="deny")
    policies = Snapshot(
        [compile_policy(policy("p", [("allow", "*")]))],
        [strict],
    )
    recorder = MemoryRecorder()
    gate = builders.gate(policies, recorder)
    gate._tokens = TokenVerifier(SECRET, resident=RESIDENT)
    gate.check(raw)
    gate.check(asked())
    codes = [(row.code, row.action) for row in recorder.rows]
    assert codes[0][0] == "intent_unmapped"
    assert codes[1] == ("rule_allowed", "users:list")


@pytest.mark.parametrize(
    "raw",
    [tunnel("api.example.com:8443"), tunnel(), asked("PUT", "/v1/a%20b?x=1", via="capture")],
    ids=["port", "tunnel", "request"],
)
def test_a_recorded_one_is_judged_again_as_it_was(raw: bytes) -> None:
    """`authz policy diff --replay`: a row becomes the call that it is of."""
    call = read(raw)
    _, recorder = answered(raw)
    [row] = recorder.rows
    again = asked_of(
        Recorded(
            source=row.source, agent_id=row.agent_id or "", agent_name="", trust_tier="verified",
            org_id="", action=row.action, resource=row.resource or "", method=row.method or "",
            path=row.path or "", metadata=json.loads(row.metadata or "{}"), enforced="allow",
            decision="allow", times=1,
        )
    ).call  # fmt: skip
    same = ("source", "action", "resource", "method", "path", "host", "upstream_path", "defect")
    assert [getattr(again, name) for name in same] == [getattr(call, name) for name in same]
