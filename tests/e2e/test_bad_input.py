"""Hostile and clumsy requests: the right status, nothing crashes, nothing slips past."""

import contextlib
import socket
import subprocess
import sys

import jwt
import pytest

from tests.e2e.sidecar import Sidecar, bearer, token
from tests.e2e.upstream import echoed


def _raw(sidecar: Sidecar, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the status and body of the answer."""
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < _length(answer):
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def _length(answer: bytes) -> int:
    for line in answer.split(b"\r\n\r\n", 1)[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _request(path: bytes, headers: list[bytes], method: bytes = b"GET") -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"host: sidecar", *headers, b"", b""]
    return b"\r\n".join(lines)


def _auth() -> bytes:
    return b"authorization: Bearer " + token().encode()


@pytest.mark.parametrize(
    "path",
    [
        b"/proxy/a%2fb",
        b"/proxy/a%2Fb",
        b"/proxy/a%5cb",
        b"/proxy/..%2fadmin",
        b"/proxy/a%00b",
        b"/proxy/a\x00b",
        b"/proxy/a%0ab",
        b"/proxy/a/%2e%2e;x=1/b",
        b"/proxy/a#b",
        b"/proxy/100%",
        b"/proxy/%zz",
    ],
)
def test_an_ambiguous_path_is_400_and_goes_nowhere(enforcing: Sidecar, path: bytes) -> None:
    before = enforcing.upstream.hits
    status, body = _raw(enforcing, _request(path, [_auth()]))
    assert status == 400
    assert body.startswith(b"{"), body
    assert enforcing.upstream.hits == before


@pytest.mark.parametrize(
    ("path", "status", "upstream_path"),
    [
        (b"/proxy/a/../b", 200, "/b"),
        (b"/proxy/a//b", 200, "/a/b"),
        (b"/proxy/./a", 200, "/a"),
        (b"/proxy/%61%2e%62", 200, "/a.b"),
        (b"/proxy/%2e%2e/proxy/c", 200, "/c"),
        (b"//proxy//c", 200, "/c"),
        (b"/proxy/a/..;/b", 200, "/b"),
        (b"/proxy/a\\b", 200, "/a/b"),
        (b"http://elsewhere/proxy/a", 200, "/a"),
        (b"/proxy/a%252fb", 200, "/a%252fb"),
        (b"/proxy/../admin", 404, None),
        (b"/proxy/%2e%2e/health", 200, None),
        (b"/proxy", 404, None),
        (b"/PROXY/a", 404, None),
        (b"/proxy/check/", 404, None),
        (b"/proxy/check/x", 404, None),
        (b"/proxy/%63heck/x", 404, None),
        (b"/proxy/audit/x", 404, None),
        (b"/proxy/governance/x", 404, None),
    ],
)
def test_policy_and_upstream_see_the_same_path(
    enforcing: Sidecar, path: bytes, status: int, upstream_path: str | None
) -> None:
    before = enforcing.upstream.hits
    answered, body = _raw(enforcing, _request(path, [_auth()]))
    assert answered == status
    assert body.startswith(b"{")
    assert enforcing.upstream.hits == before + (upstream_path is not None)
    if upstream_path is not None:
        assert f'"path": "{upstream_path}"'.encode() in body
        judged = enforcing.rows()[-1]["action"].removeprefix("read:")
        assert judged == upstream_path.lstrip("/").replace("%25", "%")


def test_a_raw_byte_in_the_path_is_judged_as_forwarded_or_refused(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits
    status, body = _raw(enforcing, _request(b"/proxy/caf\xe9", [_auth()]))
    assert body.startswith(b"{")
    if status == 200:
        assert enforcing.rows()[-1]["action"] == "read:caf\\xe9"
    else:
        assert status == 400
        assert enforcing.upstream.hits == before


def test_a_token_of_100_kb_is_refused_by_envoy(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits, len(enforcing.rows())
    status, body = _raw(enforcing, _request(b"/proxy/a", [b"authorization: " + b"a" * 100_000]))
    assert status == 431
    assert body.startswith(b"{")
    assert (enforcing.upstream.hits, len(enforcing.rows())) == before


def test_two_hundred_headers_are_refused_by_envoy(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits
    headers = [b"x-h%d: 1" % number for number in range(200)]
    assert _raw(enforcing, _request(b"/proxy/a", [_auth(), *headers]))[0] == 431
    assert enforcing.upstream.hits == before


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"x_meshguard_action: read:a", 400),
        (b"x-meshguard-action: read:\xc3\xa9", 400),
        (b"x-meshguard-action: read:\x01", 400),
        (b"x-meshguard-resource: caf\xe9", 200),
        (b"x-meshguard-agent-id: caf\xe9\xff", 200),
        (b"x-meshguard-trace-id: caf\xe9", 200),
        (b"x-meshguard-meta: \xff\xfe", 200),
        (b"authorization: Bearer caf\xe9", 401),
    ],
)
def test_odd_header_bytes_never_break_anything(
    enforcing: Sidecar, header: bytes, status: int
) -> None:
    headers = [header] if header.startswith(b"authorization") else [_auth(), header]
    assert _raw(enforcing, _request(b"/proxy/a", headers))[0] == status
    assert enforcing.get("/proxy/docs", headers=bearer()).status_code == 200


def test_a_repeated_action_is_none(enforcing: Sidecar) -> None:
    """As one string it would be allowed by a pattern that either of the two is meant to fail."""
    before = enforcing.upstream.hits
    headers = [_auth(), b"x-meshguard-action: read:a", b"X-MeshGuard-Action: write:delete"]
    status, body = _raw(enforcing, _request(b"/proxy/a", headers))
    assert (status, b"it has a comma, or was sent twice" in body) == (400, True)
    assert enforcing.rows()[-1]["action"] == "read:a,write:delete"
    assert enforcing.upstream.hits == before


def test_a_repeated_authorization_is_not_a_token(enforcing: Sidecar) -> None:
    status, body = _raw(enforcing, _request(b"/proxy/a", [_auth(), b"authorization: Bearer x"]))
    assert status == 401
    assert b"token_malformed" in body


def test_smuggling_with_two_lengths_is_refused(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits
    headers = [_auth(), b"content-length: 5", b"transfer-encoding: chunked"]
    request = _request(b"/proxy/a", headers, b"POST") + b"0\r\n\r\nGET /proxy/b HTTP/1.1\r\n\r\n"
    assert _raw(enforcing, request)[0] == 400
    assert enforcing.upstream.hits == before


def test_an_over_long_action_is_400(enforcing: Sidecar) -> None:
    before = enforcing.upstream.hits
    headers = bearer() | {"X-MeshGuard-Action": "read:" + "a" * 9000}
    answer = enforcing.get("/proxy/docs", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"] == "X-MeshGuard-Action: longer than 8192 characters"
    assert enforcing.upstream.hits == before


@pytest.mark.parametrize("host", [b"[", b"a:b:c", b"a@b", b"a:99999", b""])
def test_an_odd_host_neither_lies_in_the_row_nor_shows_our_paths(
    enforcing: Sidecar, host: bytes
) -> None:
    head = b"GET /%s HTTP/1.1\r\nhost: " + host + b"\r\nx-meshguard-action: read:x\r\n"
    status, body = _raw(enforcing, head % b"nothing" + b"\r\n")
    assert b"http.sock" not in body
    if status == 404:  # Envoy let it through
        _raw(enforcing, head % b"proxy/check" + _auth() + b"\r\n\r\n")
        assert enforcing.rows()[-1]["path"] == "/proxy/check"


def test_what_would_override_the_judged_request_stays_behind(enforcing: Sidecar) -> None:
    overrides = {
        "X-HTTP-Method-Override": "DELETE",
        "X-Original-URL": "/admin",
        "X-Rewrite-URL": "/admin",
        "X-Forwarded-Host": "elsewhere",
        "X-Forwarded-For": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "Proxy-Authorization": bearer()["Authorization"],
    }
    received = echoed(enforcing.get("/proxy/docs", headers=bearer() | overrides).text)["headers"]
    assert not {name.lower() for name in overrides} & set(received)


def test_a_forged_token_in_a_batch_is_refused_once(enforcing: Sidecar) -> None:
    before = len(enforcing.rows())
    forged = jwt.encode(
        {"iss": "meshguard", "x": [[1]] * 1400}, "another secret of more than 32 bytes"
    )
    answer = enforcing.client.post(
        "/api/v1/governance/batch",
        headers={"Authorization": f"Bearer {forged}"},
        json={"actions": [{"action": "read:x"}] * 100},
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "token_bad_signature")
    [row] = enforcing.rows()[before:]
    assert (row["source"], row["action"]) == ("batch", "batch")


def test_a_caller_without_identity_does_not_fill_the_disk(enforcing: Sidecar) -> None:
    long = "a" * 8000
    enforcing.get(f"/proxy/{long}", headers={"X-MeshGuard-Resource": long})
    row = enforcing.rows()[-1]
    for column in ("action", "resource", "path"):
        assert row[column].endswith("more characters")
        assert len(row[column]) < 600


def test_half_sent_bodies_do_not_take_the_probes_down(enforcing: Sidecar) -> None:
    request = _request(b"/api/v1/governance/batch", [b"content-length: 100"], b"POST") + b"{"
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            connection = socket.create_connection(("127.0.0.1", enforcing.port), timeout=10)
            stack.enter_context(connection)
            connection.sendall(request)
        assert enforcing.get("/health").status_code == 200
        assert enforcing.get("/proxy/docs", headers=bearer()).status_code == 200


def test_what_callers_chose_is_shown_escaped(enforcing: Sidecar) -> None:
    for action in ("[/y]", "read:[conceal]hidden[/conceal]"):
        enforcing.get("/proxy/docs", headers=bearer() | {"X-MeshGuard-Action": action})
    _raw(enforcing, _request(b"/proxy/%C2%9b2Jx%E2%80%AEabc", [_auth()]))
    shown = subprocess.run(
        [sys.executable, "-m", "authz", "audit", "tail", "--database", str(enforcing.database)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "[/y]" in shown
    assert "[conceal]hidden[/conceal]" in shown
    assert shown.replace("\n", "").isprintable()
