"""Bad input through Envoy: the right status, a sentence, nothing leaked, nothing half done."""

import concurrent.futures
import json
import socket
from typing import Any, Final

import httpx
import pytest

from tests.conformance.rows import covers
from tests.conformance.wire import (
    ADMIN,
    PREFIXES,
    Json,
    admin,
    agent,
    agent_token,
    check,
    connection,
    counting,
    fresh,
    json_object,
    keeps_quiet,
    raw,
    refusal,
    request,
)
from tests.e2e.sidecar import Sidecar

#: Endpoints that take a body, and who sends it.
BODIES: Final = (
    ("POST", "/admin/agents", "admin"),
    ("PATCH", "/admin/agents/AGENT", "admin"),
    ("PUT", "/admin/agents/AGENT", "admin"),
    ("POST", "/admin/agents/AGENT/token", "admin"),
    ("DELETE", "/admin/agents/AGENT", "admin"),
    ("POST", "/admin/pending/pdact_x/approve", "admin"),
    ("POST", "/admin/pending/pdact_x/reject", "admin"),
    ("PUT", "/admin/mode", "admin"),
    ("PUT", "/admin/policies/nothing", "admin"),
    ("POST", "/admin/policies/validate", "admin"),
    ("POST", "/admin/policies/test", "admin"),
    ("POST", "/admin/policies/rollback", "admin"),
    ("POST", "/admin/policies/pin", "admin"),
    ("POST", "/admin/relationships", "admin"),
    ("POST", "/relationships", "agent"),
    ("POST", "/api/v1/governance/batch", "agent"),
    ("POST", "/api/v1/action-tokens", "agent"),
    ("POST", "/api/v1/evaluate", "agent"),
    ("POST", "/api/v1/audit", "agent"),
    ("POST", "/api/v1/audit/batch", "agent"),
    ("POST", "/proxy/check", "agent"),
    ("POST", "/proxy/audit", "agent"),
    ("POST", "/proxy/governance/check", "agent"),
    ("POST", "/proxy/governance/record", "agent"),
)

#: What is no body of any of them.
GARBAGE: Final = (
    b"[]", b"7", b'"x"', b"true", b"{", b"{}}", b'{"a": NaN}', b'{"a": 1e999}', b"\xff\xfe{}",
    b'{"name": "\\ud800"}', b'{"action": 7}', b'{"name": [], "action": {}}',
    b'{"name": "a", "name": "b"}', b'{"name": 1%s}' % (b"0" * 400), b'{"a":' * 5000,
    b'{"mode": 1, "version": 1, "approver": 1, "expiresIn": 1e400, "reason": 1, "scope": 1}',
    b'{"surprise": "x\\" OR 1=1 --", "reason": 7}', b"name: x\nrules: []\n",
)  # fmt: skip

#: What somebody who can break out of a query would send.
INJECTIONS: Final = (
    "' OR '1'='1", "x'; DROP TABLE audit; --", '" OR ""="', "1) OR 1=1 --", "%' OR '%'='", "\\",
    "x' UNION ALL VALUES(1,2,3) --", "${jndi:ldap://x}", "{{7*7}}", "a\tb", "*", "%", "_",
)  # fmt: skip

#: Lists and queries with everything that they can be asked.
QUERIES: Final = (
    ("/admin/agents", ("trust", "status", "after", "limit")),
    ("/admin/pending", ("state", "agentId", "after", "limit")),
    ("/admin/wallets", ("agentId", "wallet", "after", "limit")),
    ("/admin/fuses", ("state", "after", "limit")),
    ("/admin/relationships", ("agentId", "status", "after", "limit")),
    ("/admin/policies", ("after", "limit")),
    ("/admin/policies/versions", ("at", "limit")),
    (
        "/admin/audit",
        ("limit", "decision", "agentId", "action", "from", "to", "after", "order", "policy",
         "rule", "resource", "method", "path", "traceId", "mode", "source", "code", "stage",
         "trustTier", "orgId", "enforced"),
    ),
    ("/admin/audit/stats", ("period", "from", "to")),
    ("/admin/audit/export", ("format", "agentId", "action", "decision", "from", "to")),
    ("/admin/analytics/overview", ("period",)),
    ("/admin/analytics/timeseries", ("period", "bucket")),
    ("/admin/analytics/agents", ("period", "sort", "limit")),
)  # fmt: skip

LISTS: Final = (
    "/admin/agents", "/admin/pending", "/admin/wallets", "/admin/fuses", "/admin/relationships",
    "/admin/policies", "/admin/policies/versions", "/admin/audit", "/admin/analytics/agents",
)  # fmt: skip

#: Ways in which somebody might write /admin.
TRICKS: Final = (
    "/admin/../admin", "/admin/../admin/agents", "//admin", "//admin/agents", "/admin%2fagents",
    "/admin/agents/..%2f..", "/ADMIN", "/ADMIN/agents", "/Admin/agents", "/admin/", "/admin;x",
    "/admin;x/agents", "/admin/agents;x", "/proxy/../admin/agents", "/proxy/%2e%2e/admin/agents",
    "/proxy/..;/admin/agents", "/proxy/x/../../admin/agents", "/admin/./agents", "/admin//agents",
    "/admin\\agents", "/%61dmin/agents", "/admin/agents/", "/admin/agents?x=/proxy/check",
    "/admin/agents%00", "/admin/agents%0d%0aX-Admin-Token:%20x", "/api/v1/../../admin/agents",
    "/api/v1/admin/../admin/agents", "/api/v1//admin/agents", "/proxy/check/../../admin/agents",
    "/health/../admin/agents", "/.//admin/agents", "http://other/admin/agents", "/admin/agents#x",
    "/proxy/admin/../../admin/agents", "/api/v1%2fadmin/agents", "/admin.json",
    "/admin/agents.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def registered(enforcing: Sidecar) -> str:
    """An agent to whom bad things are tried."""
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": fresh("target")})
    return str(made["id"])


def _who(role: str) -> dict[str, str]:
    return ADMIN if role == "admin" else agent()


@pytest.mark.parametrize(("method", "path", "role"), BODIES)
def test_a_body_that_is_none_is_refused_and_nothing_done(
    enforcing: Sidecar, registered: str, method: str, path: str, role: str
) -> None:
    url = path.replace("AGENT", registered)
    before = admin(enforcing, "GET", f"/agents/{registered}")
    since = counting(enforcing)
    headers = {**_who(role), "Content-Type": "application/json"}
    for body in GARBAGE:
        answer = enforcing.client.request(method, url, headers=headers, content=body)
        refusal(answer, (400, 404, 409, 413, 422))
    rows = [row for row in since.rows_since(control=True) if row["decision"] == "allow"]
    assert rows == []
    assert admin(enforcing, "GET", f"/agents/{registered}") == before
    assert since.forwarded() == 0


@pytest.mark.parametrize(("method", "path", "role"), BODIES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_a_content_type_that_is_none_is_refused(
    enforcing: Sidecar, registered: str, method: str, path: str, role: str, kind: str
) -> None:
    since = counting(enforcing)
    headers = {**_who(role), "Content-Type": kind}
    url = path.replace("AGENT", registered)
    answer = enforcing.client.request(method, url, headers=headers, content=b'{"action": "read:x"}')
    refusal(answer, (404, 409, 415))
    assert since.rows_since(control=True) == []


@pytest.mark.parametrize(("method", "path", "role"), BODIES)
def test_a_body_that_is_too_large_is_413(
    enforcing: Sidecar, registered: str, method: str, path: str, role: str
) -> None:
    body = json.dumps({"name": "x" * 2_000_000}).encode()
    headers = {**_who(role), "Content-Type": "application/json"}
    url = path.replace("AGENT", registered)
    answer = enforcing.client.request(method, url, headers=headers, content=body)
    refusal(answer, 413)
    assert enforcing.get("/health").status_code == 200


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "limit", ["1000000", "0", "-1", "9" * 40, "1e3", "0x10", "1.5", "ten", "", " ", "1;2", "٣"]
)
def test_a_limit_that_is_none_is_400(enforcing: Sidecar, path: str, limit: str) -> None:
    answer = enforcing.get(path, headers=ADMIN, params={"limit": limit})
    assert "limit" in refusal(answer, 400)["message"]


@pytest.mark.parametrize(("path", "names"), QUERIES)
def test_a_query_cannot_be_broken_out_of(
    enforcing: Sidecar, path: str, names: tuple[str, ...]
) -> None:
    check(enforcing, "read:x")
    rows = len(enforcing.rows())
    for name in names:
        for value in INJECTIONS:
            answer = enforcing.get(path, headers=ADMIN, params={name: value})
            if answer.status_code == 200:
                keeps_quiet(answer.text.replace("audit.db", ""))
                if path == "/admin/audit" and not set(value) & {"*", "%", "_"}:
                    assert answer.json()["entries"] == [], (name, value)
            else:
                refusal(answer, 400)
    assert len(enforcing.rows()) == rows


@pytest.mark.parametrize(("path", "names"), QUERIES)
def test_a_value_that_is_too_long_or_no_text_is_400(
    enforcing: Sidecar, path: str, names: tuple[str, ...]
) -> None:
    for name in names:
        answer = enforcing.get(path, headers=ADMIN, params={name: "x" * 9000})
        refusal(answer, (400, 414, 431))
        for odd in ("%00", "%ff%fe", "a%0d%0ab"):
            answer = enforcing.get(f"{path}?{name}={odd}", headers=ADMIN)
            if answer.status_code != 200:
                refusal(answer, 400)


def _headers_of_ours() -> tuple[bytes, ...]:
    names = ("action", "resource", "trace-id", "meta", "agent-id", "delegation", "pending-id",
             "action-token", "provenance", "cost", "upstream-authorization", "api-key")  # fmt: skip
    ours = tuple(b"x-meshguard-" + name.encode() for name in names)
    return (*ours, b"x-trace-id", b"x-admin-token", b"x-api-key", b"x-agent-name", b"traceparent")


@pytest.mark.parametrize("name", _headers_of_ours())
def test_a_header_carries_no_other_header(enforcing: Sidecar, name: bytes) -> None:
    since = counting(enforcing)
    auth = b"authorization: " + agent()["Authorization"].encode()
    injected = b"x-injected: yes"
    for value in (b"a\rb", b"a\nb", b"a\x00b", b"a\r\n folded", b"a\r" + injected):
        for path in (b"/proxy/x", b"/proxy/check", b"/admin/agents"):
            [answer] = raw(enforcing, request(path, [auth, name + b": " + value]))
            assert answer.status in (200, 400, 401, 403), (path, value)
            assert "x-injected" not in answer.headers
            said = answer.json()
            # What reached the upstream came under its own name, if at all.
            assert "x-injected" not in said.get("headers", {})
    # What says a header in other letters stays what it is.
    [answer] = raw(enforcing, request(b"/proxy/x", [auth, name + b": a%0d%0ax-injected:%20yes"]))
    assert "x-injected" not in answer.headers
    assert since.forwarded() <= 4


@pytest.mark.parametrize("name", _headers_of_ours())
@pytest.mark.parametrize("size", [60 * 1024, 200 * 1024])
def test_a_header_of_60_kib_is_refused_or_harmless(
    enforcing: Sidecar, name: bytes, size: int
) -> None:
    auth = b"authorization: " + agent()["Authorization"].encode()
    for path in (b"/proxy/x", b"/proxy/check", b"/admin/agents"):
        [answer] = raw(enforcing, request(path, [auth, name + b": " + b"a" * size]))
        assert answer.status in (400, 401, 403, 431)
        assert len(answer.body) < 20_000
        assert answer.json()["message"]
        keeps_quiet(answer.body.decode())
        assert all(len(value) < 1000 for value in answer.headers.values())
    # At most a few KiB of it are kept.
    assert all(len(str(value)) < 40_000 for row in enforcing.rows()[-1:] for value in row.values())


@pytest.mark.parametrize("path", TRICKS)
def test_no_spelling_of_admin_lets_an_agent_in(enforcing: Sidecar, path: str) -> None:
    since = counting(enforcing)
    token = agent_token(tier="privileged").encode()
    for header in (b"authorization: Bearer " + token, b"x-admin-token: " + token, b"x-none: 1"):
        for method in (b"GET", b"POST", b"DELETE"):
            [answer] = raw(enforcing, request(path.encode(), [header], method))
            assert answer.status in (400, 401, 403, 404, 405), (header, answer)
            body = answer.json()
            assert isinstance(body["message"], str)
            assert "agents" not in body
            keeps_quiet(answer.body.decode())
    assert since.forwarded() == 0
    assert since.rows_since(control=True) == [] or all(
        row["decision"] == "deny" for row in since.rows_since(control=True)
    )


@pytest.mark.parametrize("path", TRICKS)
def test_a_spelling_of_admin_is_the_usual_one_or_none(enforcing: Sidecar, path: str) -> None:
    header = b"x-admin-token: " + enforcing.env["ADMIN_TOKEN"].encode()
    [answer] = raw(enforcing, request(path.encode(), [header]))
    assert answer.status in (200, 400, 401, 404)
    if answer.status == 200:
        assert "agents" in answer.json()
    else:
        assert answer.json()["message"]


def _as_admin(token: str) -> list[dict[str, str]]:
    """A token in every place where a credential might be looked for."""
    names = ("X-Admin-Token", "X-MeshGuard-API-Key", "X-API-Key", "X-MeshGuard-Admin-Token",
             "Proxy-Authorization", "X-Auth-Token", "X-Access-Token",
             "X-MeshGuard-Upstream-Authorization")  # fmt: skip
    schemes = ("Bearer", "bearer", "Basic", "Token", "")
    return [
        *({name: token} for name in names),
        *({"Authorization": f"{scheme} {token}".strip()} for scheme in schemes),
        {"Cookie": f"token={token}; admin_token={token}"},
        {"X-Admin-Token": f"Bearer {token}"},
        {"X-Admin-Token": token, "Authorization": f"Bearer {token}"},
        {"X-Forwarded-User": "admin", "X-Remote-User": "admin", "Authorization": f"Bearer {token}"},
    ]


@covers("§16 5 agent at /admin")
@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_agents_token_is_an_admins_nowhere(enforcing: Sidecar, prefix: str) -> None:
    since = counting(enforcing)
    token = agent_token(tier="privileged")
    for headers in _as_admin(token):
        refusal(enforcing.get(f"{prefix}/agents", headers=headers), 401)
        made = enforcing.client.post(f"{prefix}/agents", headers=headers, json={"name": "mine"})
        refusal(made, 401)
    for query in ("token", "admin_token", "access_token", "api_key"):
        refusal(enforcing.get(f"{prefix}/agents?{query}={token}"), 401)
        refusal(enforcing.get(f"{prefix}/agents?{query}={enforcing.env['ADMIN_TOKEN']}"), 401)
    names = [found["name"] for found in admin(enforcing, "GET", "/agents")["agents"]]
    assert "mine" not in names
    assert [row for row in since.rows_since(control=True) if row["action"] == "agent:create"] == []


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "path",
    ["", "/", "/agents", "/agents/x", "/agents/x/token", "/policies", "/policies/x",
     "/policies/versions", "/policies/validate", "/policies/rollback", "/mode", "/audit",
     "/audit/stats", "/audit/export", "/audit/tail", "/analytics/overview", "/pending",
     "/pending/x/approve", "/wallets", "/wallets/a/b/reset", "/fuses", "/relationships",
     "/delegation/keys", "/nothing"],
)  # fmt: skip
def test_without_an_admin_token_there_is_nothing_to_administer(
    pinned: Sidecar, prefix: str, path: str
) -> None:
    since = counting(pinned)
    for headers in ({}, {"X-Admin-Token": ""}, {"X-Admin-Token": "x"}, {"Authorization": "Bearer"},
                    agent("the-one"), {"X-Admin-Token": "None"}):  # fmt: skip
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            answer = pinned.client.request(method, f"{prefix}{path}", headers=headers)
            refusal(answer, 404)
    assert since.rows_since(control=True) == []


def test_ten_who_revoke_one_agent_at_once_have_all_revoked_it(enforcing: Sidecar) -> None:
    made = admin(enforcing, "POST", "/agents", status=201, json={"name": "x", "tags": ["conform"]})
    since = counting(enforcing)

    def revoke(number: int) -> httpx.Response:
        with httpx.Client(base_url=enforcing.url) as client:
            url = f"/admin/agents/{made['id']}"
            reason = {"reason": f"by {number}"}
            return client.request("DELETE", url, headers=ADMIN, json=reason)

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(revoke, range(10)))
    assert {answer.status_code // 100 for answer in answers} == {2}
    # All say the same: when it was revoked, which was once.
    said = [json_object(answer) for answer in answers]
    assert len({body["revokedAt"] for body in said}) == 1
    [row] = [row for row in since.rows_since(control=True) if row["action"] == "agent:revoke"]
    assert row["resource"] == made["id"]
    who = {"Authorization": f"Bearer {made['token']}"}
    refusal(check(enforcing, "read:x", who), 401)


def _fill(sidecar: Sidecar, rows: int) -> None:
    """Rows of some size, so that an export does not fit into anybody's buffers."""
    actions: list[Json] = [
        {"action": "read:x", "resource": f"{number}-" + "r" * 2000} for number in range(100)
    ]
    for _ in range(rows // 100):
        answer = sidecar.client.post(
            "/api/v1/governance/batch", headers=agent("filler"), json={"actions": actions}
        )
        assert answer.status_code == 200


def test_an_export_whose_reader_stops_holds_nobody_up(enforcing: Sidecar) -> None:
    _fill(enforcing, 6000)
    header = b"x-admin-token: " + enforcing.env["ADMIN_TOKEN"].encode()
    for kind in (b"jsonl", b"csv", b"jsonl", b"parquet", b"jsonl"):
        with connection(enforcing) as connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connected.sendall(request(b"/admin/audit/export?format=" + kind, [header]))
            assert connected.recv(15).startswith(b"HTTP/1.1 200 OK")
            # It is open and nobody reads: decisions and questions go on.
            assert check(enforcing, "read:x").status_code == 200
            assert enforcing.get("/health").status_code == 200
    whole: Any = enforcing.get(
        "/admin/audit/export?format=jsonl&agentId=filler", headers=ADMIN, timeout=60
    )
    assert whole.status_code == 200
    assert len(whole.text.splitlines()) == 6000
