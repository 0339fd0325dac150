"""The forward proxy with a real Envoy: who gets where, and what of a request arrives there.

The tests' upstreams are on the loopback interface, which is denied by default: most sidecars here
have another FORWARD_DENY_CIDRS.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from authz.envoy_config.limits import MAX_OUTWARD
from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.certificates import self_signed
from tests.e2e.sidecar import PATIENCE_S, Sidecar, children, free_port, token, wait_until
from tests.e2e.upstream import Upstream, echoed

POLICY: Final = """
name: outward
version: "1.0"
appliesTo: {agentIds: [pod-agent, reviewer-1]}
rules:
  - effect: deny
    actions: ["*/secret*"]
  - effect: allow
    actions: ["read:localhost:*/*", "read:127.0.0.1:*/*", "connect:localhost:*"]
  - effect: allow
    actions: ["connect:127.0.0.1:*"]
    conditions: {method: {equals: GET}}  # for what is plain, and for no tunnel
  - effect: allow
    actions: ["write:localhost:*/*"]
    conditions: {method: {equals: PUT}, path: {startsWith: /put/}, host: {startsWith: "localhost:"}}
defaultEffect: deny
"""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "outward.yaml").write_text(POLICY)
    return folder


@pytest.fixture(scope="module")
def start(upstream: Upstream, policies: Path) -> Callable[..., Any]:
    """A sidecar with a forward proxy that may connect to the loopback interface."""

    def starting(**env: str) -> Any:
        given: dict[str, Any] = {
            "POLICIES_DIR": str(policies), "FORWARD_PROXY_PORT": str(free_port()),
            "FORWARD_DENY_CIDRS": "169.254.0.0/16", "SIDECAR_AGENT_ID": "pod-agent",
        }  # fmt: skip
        return starter.running(upstream, **given | env)

    return starting


@pytest.fixture(scope="module")
def proxied(start: Callable[..., Any]) -> Iterator[Sidecar]:
    with start() as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    certificate, key = self_signed(tmp_path_factory.mktemp("certificates"))
    with upstreams.serving(certificate=certificate, key=key) as serving:
        yield serving


def _proxy(sidecar: Sidecar, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{sidecar.env['FORWARD_PROXY_PORT']}"


def _client(sidecar: Sidecar, user: str = "") -> httpx.Client:
    return httpx.Client(proxy=_proxy(sidecar, user), verify=False, timeout=PATIENCE_S)


def _raw(sidecar: Sidecar, text: str) -> str:
    """What is answered to these bytes, until the end or the first whole answer."""
    where = ("127.0.0.1", int(sidecar.env["FORWARD_PROXY_PORT"]))
    with socket.create_connection(where, PATIENCE_S) as connection:
        connection.sendall(text.encode("latin-1"))
        said = b""
        while b"\r\n\r\n" not in said:
            more = connection.recv(4096)
            if not more:
                break
            said += more
    return said.decode("latin-1")


def _named(url: str) -> str:
    """The URL by a name, of which there is one spelling."""
    return url.replace("127.0.0.1", "localhost")


class _Rows:
    """The rows of a test: those that were not there before."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._before = len(sidecar.rows())

    def one(self) -> dict[str, Any]:
        [row] = self._sidecar.rows()[self._before :]
        return row

    def none(self) -> bool:
        return len(self._sidecar.rows()) == self._before


def test_a_request_goes_where_it_says_and_loses_what_is_ours(
    proxied: Sidecar, upstream: Upstream
) -> None:
    rows = _Rows(proxied)
    with _client(proxied) as client:
        answer = client.get(
            f"{_named(upstream.url)}/v1/users?page=2",
            headers={
                "Authorization": "Bearer somebody-elses-key",
                "X-MeshGuard-Action": "admin:everything",
                "X-MeshGuard-Resource": "nothing",
                "X-MeshGuard-Agent-ID": "free text",
                "X-Original-URL": "/other",
                "X-Envoy-Retry-On": "5xx",
                "Proxy-Connection": "keep-alive",
                "X-Admin-Token": "t",
            },
        )
    assert answer.status_code == 200
    seen = echoed(answer.text)
    assert (seen["path"], seen["query"]) == ("/v1/users", "page=2")
    assert seen["headers"]["authorization"] == "Bearer somebody-elses-key"
    ours = ("x-meshguard", "x-envoy", "proxy-", "x-admin", "x-original", "x-forwarded")
    assert not [name for name in seen["headers"] if name.startswith(ours)]
    row = rows.one()
    host = _named(upstream.url).removeprefix("http://")
    assert (row["source"], row["agent_id"], row["trust_tier"]) == (
        "forward", "pod-agent", "unverified",
    )  # fmt: skip
    assert (row["action"], row["resource"]) == (f"read:{host}/v1/users", f"{host}/v1/users")
    assert (row["method"], row["path"], row["decision"]) == ("GET", "/v1/users", "allow")
    assert answer.headers["x-meshguard-decision"] == "allow"


def test_a_denied_request_reaches_nobody(proxied: Sidecar, upstream: Upstream) -> None:
    rows, before = _Rows(proxied), upstream.hits
    with _client(proxied) as client:
        answer = client.delete(f"{_named(upstream.url)}/v1/users")
    assert (answer.status_code, answer.json()["code"]) == (403, "default_denied")
    assert upstream.hits == before
    assert rows.one()["decision"] == "deny"


def test_conditions_see_method_path_and_host(proxied: Sidecar, upstream: Upstream) -> None:
    with _client(proxied) as client:
        assert client.put(f"{_named(upstream.url)}/put/a").status_code == 200
        assert client.put(f"{_named(upstream.url)}/other").status_code == 403
        assert client.post(f"{_named(upstream.url)}/put/a").status_code == 403


@pytest.mark.parametrize(
    "path", ["/a/../secret", "/%73ecret", "/a/./../secret/x", "/secret?x", "/./secret"]
)
def test_a_path_has_one_spelling(proxied: Sidecar, upstream: Upstream, path: str) -> None:
    before = upstream.hits
    host = _named(upstream.url)
    said = _raw(proxied, f"GET {host}{path} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith("HTTP/1.1 403")
    assert upstream.hits == before


def test_without_a_whole_url_the_host_header_counts(proxied: Sidecar, upstream: Upstream) -> None:
    host = _named(upstream.url).removeprefix("http://")
    rows = _Rows(proxied)
    assert _raw(proxied, f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").startswith("HTTP/1.1 200")
    assert rows.one()["action"] == f"read:{host}/x"


def test_the_urls_host_counts_and_not_the_header(proxied: Sidecar, upstream: Upstream) -> None:
    rows, before = _Rows(proxied), upstream.hits
    host = _named(upstream.url).removeprefix("http://")
    said = _raw(proxied, f"GET http://elsewhere.test/x HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert said.startswith("HTTP/1.1 403")
    assert rows.one()["action"] == "read:elsewhere.test/x"
    assert upstream.hits == before


def test_a_tunnel_to_an_allowed_host(proxied: Sidecar, secure: Upstream) -> None:
    rows = _Rows(proxied)
    with _client(proxied) as client:
        answer = client.delete(f"{_named(secure.url)}/secret")
    # What goes through a tunnel nobody sees.
    assert answer.status_code == 200
    host = _named(secure.url).removeprefix("https://")
    row = rows.one()
    assert (row["source"], row["action"], row["resource"]) == ("forward", f"connect:{host}", host)
    assert (row["method"], row["path"]) == ("CONNECT", None)


def test_a_tunnel_to_another_host_is_not_opened(proxied: Sidecar, secure: Upstream) -> None:
    rows, before = _Rows(proxied), secure.hits
    with _client(proxied) as client, pytest.raises(httpx.ProxyError, match="403"):
        client.get(secure.url)
    assert secure.hits == before
    assert rows.one()["decision"] == "deny"


def test_a_tunnel_carries_any_protocol_both_ways(proxied: Sidecar) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        where = ("127.0.0.1", int(proxied.env["FORWARD_PROXY_PORT"]))
        with socket.create_connection(where, PATIENCE_S) as agent:
            # With bytes that do not wait for the answer.
            agent.sendall(f"CONNECT localhost:{port} HTTP/1.1\r\n\r\nearly".encode())
            server, _ = listener.accept()
            with server:
                server.settimeout(PATIENCE_S)
                assert server.recv(100) == b"early"
                server.sendall(b"and back")
                said = b""
                while b"and back" not in said:
                    said += agent.recv(4096)
                assert said.startswith(b"HTTP/1.1 200")


def test_an_agent_has_no_more_tunnels_than_the_memory_is_for(start: Callable[..., Any]) -> None:
    """In a sidecar of its own: connections that other tests have left open count as well."""
    with (
        start() as proxied,
        socket.create_server(("127.0.0.1", 0), backlog=2 * MAX_OUTWARD) as listener,
        contextlib.ExitStack() as stack,
    ):
        where = ("127.0.0.1", int(proxied.env["FORWARD_PROXY_PORT"]))
        asked = f"CONNECT localhost:{listener.getsockname()[1]} HTTP/1.1\r\n\r\n".encode()

        def another() -> socket.socket:
            agent = stack.enter_context(socket.create_connection(where, PATIENCE_S))
            agent.sendall(asked)
            return agent

        agents = []
        for _ in range(MAX_OUTWARD):
            agents.append(another())
            assert agents[-1].recv(12) == b"HTTP/1.1 200"
            stack.enter_context(listener.accept()[0])
        rows = _Rows(proxied)
        waiting = another()
        wait_until(lambda: not rows.none(), "the decision")
        # It is allowed, and waits for one of the others to end.
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()
        agents[0].close()
        assert waiting.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("scheme", ["Basic", "Bearer", "basic"])
def test_a_token_says_who_asks_and_goes_nowhere(
    proxied: Sidecar, upstream: Upstream, scheme: str
) -> None:
    mine = token(agent_id="pod-agent", tier="trusted")
    sent = mine if scheme == "Bearer" else base64.b64encode(f"agent:{mine}".encode()).decode()
    rows = _Rows(proxied)
    host = _named(upstream.url)
    answer = _raw(
        proxied,
        f"GET {host}/x HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {scheme} {sent}\r\n"
        "Connection: close\r\n\r\n",
    )
    assert answer.startswith("HTTP/1.1 200")
    assert rows.one()["trust_tier"] == "trusted"


@pytest.mark.parametrize(
    ("credential", "code"),
    [
        ("Basic YWdlbnQ6bm90IGEgdG9rZW4=", "token_malformed"),
        ("Basic !!!", "token_missing"),
        ("Basic YWdlbnQ6", "token_missing"),
        ("Bearer ", "token_missing"),
        ("", "token_missing"),
        ("Digest x", "token_missing"),
        (f"Bearer {token(agent_id='somebody-else')}", "token_wrong_agent"),
    ],
)
def test_a_credential_that_was_sent_has_to_be_good(
    proxied: Sidecar, upstream: Upstream, credential: str, code: str
) -> None:
    rows, before = _Rows(proxied), upstream.hits
    said = _raw(
        proxied,
        f"GET {_named(upstream.url)}/x HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {credential}"
        "\r\n\r\n",
    )
    assert said.startswith("HTTP/1.1 407")
    assert '\r\nproxy-authenticate: Basic realm="authz"\r\n' in said
    assert rows.one()["code"] == code
    assert upstream.hits == before


def test_where_the_sidecar_is_for_nobody_a_token_is_needed(
    start: Callable[..., Any], upstream: Upstream
) -> None:
    url = f"{_named(upstream.url)}/x"
    with start(SIDECAR_AGENT_ID="") as sidecar:
        with _client(sidecar) as client:
            refused = client.get(url)
        assert (refused.status_code, refused.json()["code"]) == (407, "token_missing")
        with _client(sidecar, f"any:{token()}@") as client:
            assert client.get(url).status_code == 200
        assert [row["agent_id"] for row in sidecar.rows()] == [None, "reviewer-1"]


def test_a_token_of_ours_in_the_wrong_place_is_kept_from_the_host(
    proxied: Sidecar, upstream: Upstream
) -> None:
    url = f"{_named(upstream.url)}/x"
    mine = token(agent_id="pod-agent")
    basic = base64.b64encode(f"a:{mine}".encode()).decode()
    with _client(proxied) as client:
        for credential in (f"Bearer {mine}", f"Basic {basic}"):
            seen = echoed(client.get(url, headers={"Authorization": credential}).text)
            assert "authorization" not in seen["headers"]
        other = "Basic " + base64.b64encode(b"user:password").decode()
        seen = echoed(client.get(url, headers={"Authorization": other, "X-Api-Key": mine}).text)
        assert seen["headers"]["authorization"] == other
        assert "x-api-key" not in seen["headers"]


def test_the_upstreams_own_credential_is_for_the_upstream_alone(
    start: Callable[..., Any], upstream: Upstream
) -> None:
    with start(PROXY_AUTHORIZATION="Bearer sk-of-the-operator") as sidecar:
        with _client(sidecar) as client:
            seen = echoed(client.get(f"{_named(upstream.url)}/x").text)
        assert "authorization" not in seen["headers"]


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.1.", "[::ffff:127.0.0.1]",
        "local host", "user@localhost", "localhost%00.test", "b\xfccher.test", "localhost:0",
        "localhost:99999", "localhost:080", ".", "localhost..", "-a.test", "a" * 64 + ".test",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["GET /x", "CONNECT"])
def test_an_odd_host_is_refused_before_anything_is_looked_up(
    proxied: Sidecar, upstream: Upstream, host: str, form: str
) -> None:
    before = upstream.hits
    port = upstream.url.rpartition(":")[2]
    host = host if ":" in host.removeprefix("[::ffff:") else f"{host}:{port}"
    target = f"CONNECT {host}" if form == "CONNECT" else form
    said = _raw(proxied, f"{target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert said[:12] in ("HTTP/1.1 400", ""), said
    assert upstream.hits == before


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET https://localhost:PORT/x HTTP/1.1\r\nHost: x\r\n\r\n", (400, 403)),
        ("GET http://localhost:PORT/x HTTP/1.0\r\n\r\n", (426,)),
        (
            "GET http://localhost:PORT/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\n\r\n",
            (403,),
        ),
        # A tunnel by a header's name, under what a GET may: what follows would be judged by nobody.
        (
            "GET http://localhost:PORT/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            "Upgrade: CONNECT\r\n\r\n",
            (403,),
        ),
        ("CONNECT localhost HTTP/1.1\r\n\r\n", (400,)),
        ("GET http://localhost:PORT/a%2fb HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
        ("GET http://localhost:PORT/a HTTP/1.1\r\nHost: x\r\na_b: c\r\n\r\n", (400,)),
        (
            "POST http://localhost:PORT/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (400,),
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    ],
)
def test_what_is_not_carried_is_refused(
    proxied: Sidecar, upstream: Upstream, text: str, status: tuple[int, ...]
) -> None:
    before = upstream.hits
    said = _raw(proxied, text.replace("PORT", upstream.url.rpartition(":")[2]))
    assert int(said[9:12]) in status, said
    assert upstream.hits == before


@pytest.mark.parametrize("url", ["http://localhost:PORT/x", "http://127.0.0.1:PORT/x"])
@pytest.mark.parametrize("mode", ["enforce", "audit", "bypass"])
def test_the_loopback_interface_is_out_of_reach_by_default(
    start: Callable[..., Any], upstream: Upstream, mode: str, url: str
) -> None:
    """Whatever a policy says, and in audit mode: it is a bound, as the size of headers is."""
    with start(FORWARD_DENY_CIDRS="", MODE=mode) as sidecar:
        rows, before = _Rows(sidecar), upstream.hits
        with _client(sidecar) as client:
            answer = client.get(url.replace("PORT", upstream.url.rpartition(":")[2]))
        assert (answer.status_code, answer.json()["error"]) == (403, "destination_denied")
        assert upstream.hits == before
        assert rows.none() if mode == "bypass" else rows.one()["decision"] == "allow"


def test_in_audit_mode_everything_passes_and_is_on_record(
    start: Callable[..., Any], upstream: Upstream, secure: Upstream
) -> None:
    with start(MODE="audit", SIDECAR_AGENT_ID="") as sidecar:
        with _client(sidecar) as client:
            assert client.delete(f"{_named(upstream.url)}/x").status_code == 200
            assert client.get(secure.url).status_code == 200
        assert [row["decision"] for row in sidecar.rows()] == ["deny", "deny"]
        assert {row["enforced"] for row in sidecar.rows()} == {"allow"}


@pytest.mark.parametrize("mode", ["enforce", "audit", "bypass"])
def test_without_the_service_only_enforce_holds_on(
    start: Callable[..., Any], upstream: Upstream, secure: Upstream, mode: str
) -> None:
    with start(MODE=mode) as sidecar:
        # It stays away: the supervisor cannot start it again.
        os.kill(sidecar.process.pid, signal.SIGSTOP)
        try:
            service = next(pid for pid, argv in children(sidecar.process.pid) if "serve" in argv)
            os.kill(service, signal.SIGKILL)
            before = upstream.hits + secure.hits
            mine = token(agent_id="pod-agent")
            with _client(sidecar, f"a:{mine}@") as client:
                answer = client.get(
                    f"{upstream.url}/x", headers={"Authorization": f"Bearer {mine}"}
                )
                if mode == "enforce":
                    assert (answer.status_code, answer.json()["code"]) == (503, "circuit_open")
                    with pytest.raises(httpx.ProxyError, match="503"):
                        client.get(secure.url)
                    assert upstream.hits + secure.hits == before
                else:
                    assert not {"authorization", "proxy-authorization"} & {
                        *echoed(answer.text)["headers"]
                    }
                    assert client.get(secure.url).status_code == 200
        finally:
            os.kill(sidecar.process.pid, signal.SIGCONT)


def test_the_access_log_tells_of_requests_and_tunnels(
    start: Callable[..., Any], upstream: Upstream, secure: Upstream
) -> None:
    """Also without an admin endpoint, where the listeners come from a file of their own."""
    with start(ACCESS_LOG="json", ENVOY_ADMIN="off", ENVOY_WORKERS="2") as sidecar:
        with _client(sidecar) as client:
            assert client.get(f"{_named(upstream.url)}/x?key=secret").status_code == 200
            assert client.get(_named(secure.url)).status_code == 200
        # A host with a password before it is none, and not written down.
        said = _raw(sidecar, "GET /x HTTP/1.1\r\nHost: me:secret@localhost:1\r\n\r\n")
        assert said.startswith("HTTP/1.1 400")
        wait_until(lambda: sidecar.out().count('"decision_id"') >= 3, "the access log")
        lines = [json.loads(line) for line in sidecar.out().splitlines()]
        rows = {row["id"]: row for row in sidecar.rows()}
        told = sidecar.out() + sidecar.log() + str(rows)
    found = {line["decision_id"]: line for line in lines if "decision_id" in line}
    assert found.keys() == rows.keys()
    for id_, line in found.items():
        assert line["action"] == rows[id_]["action"]
    assert [line.get("host", "")[:10] for line in found.values()] == ["localhost:"] * 2 + [""]
    assert "secret" not in told


def test_a_change_of_mode_is_taken_over_in_place(
    start: Callable[..., Any], upstream: Upstream, tmp_path: Path
) -> None:
    file = tmp_path / "mode"
    file.write_text("enforce")
    with start(MODE_FILE=str(file)) as sidecar, _client(sidecar) as client:
        url = f"{_named(upstream.url)}/x"
        assert client.delete(url).status_code == 403
        file.write_text("audit")
        wait_until(lambda: client.delete(url).status_code == 200, "audit mode")


def test_a_revoked_agent_is_refused_at_once(start: Callable[..., Any], upstream: Upstream) -> None:
    url = f"{_named(upstream.url)}/x"
    with start() as sidecar:
        admin = {"X-Admin-Token": starter.ADMIN_TOKEN}
        with _client(sidecar) as client:
            assert client.get(url).status_code == 200
            made = sidecar.client.post(
                "/admin/agents", headers=admin,
                json={"id": "pod-agent", "name": "registered", "trustTier": "trusted"},
            )  # fmt: skip
            assert made.status_code in (200, 201), made.text
            assert client.get(url).status_code == 200
            assert sidecar.rows()[-1]["agent_name"] == "registered"
            gone = sidecar.client.delete("/admin/agents/pod-agent", headers=admin)
            assert gone.status_code in (200, 204), gone.text
            refused = client.get(url)
        assert (refused.status_code, refused.json()["code"]) == (407, "agent_revoked")


def test_the_usual_port_asks_for_a_token_as_before(proxied: Sidecar) -> None:
    """Being the pod's only agent is worth nothing there, and its host is PROXY_TARGET's."""
    assert proxied.get("/proxy/x").status_code == 401
    assert proxied.get("/proxy/x", headers={"Via": "forward"}).status_code == 401


def test_a_client_can_check_the_certificate_at_the_end_of_the_tunnel(
    proxied: Sidecar, secure: Upstream, tmp_path: Path
) -> None:
    """Nobody stands in between: a certificate that is not the host's is noticed."""
    context = ssl.create_default_context()
    with (
        httpx.Client(proxy=_proxy(proxied), verify=context, timeout=PATIENCE_S) as client,
        pytest.raises(httpx.ConnectError, match="self-signed"),
    ):
        client.get(_named(secure.url))
