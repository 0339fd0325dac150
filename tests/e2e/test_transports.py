"""Both transports behind a real Envoy, and `authz serve` on an address: equal decisions, more calls
than it takes, callers that gave up, stopping under load, TLS, and what it says when it cannot."""

import asyncio
import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from authz.core.wire_pb2 import CheckRequest, CheckResponse
from authz.edges.h2c.server import MAX_IN_FLIGHT, SERVICE
from authz.exits import Exit
from tests.e2e import certificates
from tests.e2e import sidecar as starter
from tests.e2e.load import Client, Reply, ask_together
from tests.e2e.sidecar import (
    PATIENCE_S,
    Sidecar,
    bearer,
    environment,
    free_port,
    token,
    wait_until,
)
from tests.e2e.upstream import Upstream

TRANSPORTS = ("h2c", "grpc")
#: Requests at once: more than may wait, fewer than Envoy asks at once.
MANY = 900

DENIED = {"X-MeshGuard-Action": "write:delete"}
QUESTIONS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/proxy/docs?q=1", bearer()),
    ("GET", "/proxy/docs", bearer() | DENIED),
    ("DELETE", "/proxy/docs", bearer()),
    ("GET", "/proxy/docs", {}),
    ("GET", "/proxy/docs", {"Authorization": "Bearer nonsense"}),
    ("GET", "/proxy/a;b/c", bearer()),
    ("GET", "/proxy/docs", bearer() | {"X-MeshGuard-Trace-ID": "t-1", "X-MeshGuard-Meta": "{}"}),
    ("POST", "/proxy/caf%C3%A9", bearer(tier="privileged") | {"X-Large": "v" * 20_000}),
]
#: Columns that differ from one run to the next.
PASSING = {
    "id", "seq", "timestamp", "trace_id", "latency_us", "prev_hash", "hash", "sealed", "metadata",
}  # fmt: skip


def _answers(sidecar: Sidecar) -> list[tuple[int, str, str]]:
    found = []
    for method, path, headers in QUESTIONS:
        answer = sidecar.client.request(method, path, headers=headers)
        said = answer.json()
        found.append(
            (answer.status_code, str(said.get("code")), str(answer.headers.get("x-meshguard-rule")))
        )
    return found


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_both_transports_decide_and_record_alike(upstream: Upstream, mode: str) -> None:
    seen = []
    for transport in TRANSPORTS:
        with starter.running(upstream, MODE=mode, EXT_AUTHZ_TRANSPORT=transport) as sidecar:
            assert sidecar.get("/health").json()["transport"]["name"] == transport
            answers = _answers(sidecar)
            rows = [
                {name: value for name, value in row.items() if name not in PASSING}
                for row in sidecar.rows()
            ]
            seen.append((answers, rows))
    assert seen[0] == seen[1]
    [(answers, rows), _] = seen
    assert len(rows) == len(QUESTIONS)
    statuses = {status for status, _, _ in answers}
    assert statuses == ({200} if mode == "audit" else {200, 400, 401, 403})
    assert {row["decision"] for row in rows} == {"allow", "deny"}


# More than it takes, and callers that gave up.


@contextlib.contextmanager
def _stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _envoy(sidecar: Sidecar, stat: str) -> int:
    """A number that Envoy counts."""
    transport = httpx.HTTPTransport(uds=str(sidecar.run_dir / "envoy-admin.sock"))
    with httpx.Client(transport=transport) as admin:
        answer = admin.get(f"http://envoy/stats?format=json&filter=^{stat}$").json()
    return sum(int(entry["value"]) for entry in answer["stats"] if "name" in entry)


async def _until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def _overload(sidecar: Sidecar) -> list[Reply]:
    """Have Envoy ask for many at once: while the service stands still they gather."""
    headers = bearer()

    async def ask() -> list[Reply | None]:
        with _stopped(sidecar.child("service")):
            asking = asyncio.create_task(ask_together(sidecar.port, "/proxy/docs", headers, MANY))
            active = r"cluster\.ext_authz\.upstream_rq_active"
            await _until(lambda: _envoy(sidecar, active) >= MANY, "Envoy to ask")
        return await asking

    replies = asyncio.run(ask())
    assert all(replies)
    return [reply for reply in replies if reply is not None]


def _transport(sidecar: Sidecar) -> dict[str, Any]:
    said: dict[str, Any] = sidecar.get("/health").json()["transport"]
    return said


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_what_is_more_than_may_wait_is_turned_away_at_once(upstream: Upstream, mode: str) -> None:
    with starter.running(upstream, MODE=mode) as sidecar:
        replies: list[Reply] = []
        # How much is read in one turn of its loop is the kernel's to say: so until it was too much.
        while not _transport(sidecar)["overloaded"]:
            assert len(replies) < 20 * MANY, "it is never too much"
            replies += _overload(sidecar)
        away = _transport(sidecar)["overloaded"]
        judged = sidecar.rows()
        assert len(replies) == len(judged) + away
        assert len(judged) >= MAX_IN_FLIGHT
        kinds = Counter((reply.status, reply.code) for reply in replies)
        if mode == "enforce":
            assert kinds == {(200, ""): len(judged), (503, "overloaded"): away}
            [reply, *_] = [reply for reply in replies if reply.status == 503]
            assert reply.headers["retry-after"] == "1"
            assert reply.headers["x-meshguard-decision"] == "error"
        else:
            assert kinds == {(200, ""): len(replies)}
        control = [row for row in sidecar.rows(control=True) if row["code"] == "overloaded"]
        assert sum(int(row["resource"].split()[0]) for row in control) == away
        assert {(row["decision"], row["mode"]) for row in control} == {("error", mode)}
        health = sidecar.get("/health").json()
        assert health["unrecorded"] == away
        # And it was nothing lasting.
        assert sidecar.get("/proxy/docs", headers=bearer()).status_code == 200


def test_nothing_is_decided_for_callers_that_gave_up(upstream: Upstream) -> None:
    """What holds: a request that Envoy answered itself is decided only if it was read before Envoy
    gave up. Here none was, because the service stood still from before they came."""
    # With their resets they come in one read, and that is looked at before any is decided.
    count = 12
    with starter.running(upstream, DECISION_TIMEOUT_MS="100") as sidecar:

        async def ask() -> list[Reply | None]:
            with _stopped(sidecar.child("service")):
                replies = await ask_together(sidecar.port, "/proxy/docs", bearer(), count)
                # Envoy resets in the turn of its loop in which it answers; this is a later one.
                [later] = await ask_together(sidecar.port, "/proxy/a%2fb", {}, 1)
                assert later is not None
                assert later.status == 400
            return replies

        replies = asyncio.run(ask())
        assert Counter(reply and (reply.status, reply.code) for reply in replies) == {
            (503, "circuit_open"): count
        }
        wait_until(lambda: _transport(sidecar)["abandoned"] == count, "them to be given up")
        assert sidecar.rows() == []
        # It may take several tries within 100 ms on a busy machine.
        wait_until(
            lambda: sidecar.get("/proxy/docs", headers=bearer()).status_code == 200, "a decision"
        )


# Stopping under load.


async def _hammer(
    sidecar: Sidecar, clients: int, then: Callable[[list[Reply]], Awaitable[None]]
) -> list[Reply]:
    """Ask from several connections until they are closed; `then` is done once they are at it."""
    replies: list[Reply] = []
    headers = [bearer(), bearer() | DENIED]
    opened = [Client(sidecar.port) for _ in range(clients)]

    async def ask(client: Client, number: int) -> None:
        turn = 0
        while True:
            turn += 1
            given = headers[turn % 2] | {"X-MeshGuard-Trace-ID": f"c{number}-{turn}"}
            reply = await client.ask("/proxy/docs", given)
            if reply is None:
                return
            replies.append(reply)
            if reply.headers.get("connection") == "close":
                return

    asking = [asyncio.create_task(ask(client, at)) for at, client in enumerate(opened)]
    try:
        await then(replies)
        await asyncio.gather(*asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*(client.close() for client in opened))
    return replies


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_stopping_under_load_breaks_no_answer(upstream: Upstream, transport: str) -> None:
    with starter.running(upstream, EXT_AUTHZ_TRANSPORT=transport) as sidecar:

        async def stop(replies: list[Reply]) -> None:
            await _until(lambda: len(replies) > 200, "answers")
            sidecar.process.send_signal(signal.SIGTERM)

        replies = asyncio.run(_hammer(sidecar, 16, stop))
        assert sidecar.process.wait(PATIENCE_S) == 0
        rows = {row["trace_id"]: row["decision"] for row in sidecar.rows()}
        for reply in replies:
            decision = reply.headers.get("x-meshguard-decision")
            if decision is None:
                # Envoy's own, from when its listener was closed and the service was going.
                assert reply.status == 503, reply
                assert reply.code == "circuit_open"
                continue
            assert (decision, reply.status) in {("allow", 200), ("deny", 403)}, reply
            assert rows[reply.headers["x-meshguard-trace-id"]] == decision
        answered = Counter(reply.headers.get("x-meshguard-decision") for reply in replies)
        assert answered["allow"] > 50
        assert answered["deny"] > 50
        assert "Traceback" not in sidecar.log()


# `authz serve` on an address.


@pytest.fixture
def workspace() -> Iterator[Path]:
    with starter.directory() as path:
        yield path


def _fails(path: Path, env: dict[str, str], command: str = "serve") -> tuple[int, str]:
    with starter.start(path, env, command) as process:
        code = process.wait(PATIENCE_S)
    return code, (path / "stderr").read_text()


def _env(path: Path, **env: str) -> dict[str, str]:
    return environment(path, 3100, "http://127.0.0.1:9", **env)


@contextlib.contextmanager
def _serving(path: Path, env: dict[str, str]) -> Iterator[None]:
    with starter.start(path, env, "serve") as process:
        wait_until(
            lambda: (path / "run" / "http.sock").exists() or process.poll() is not None, "it"
        )
        assert process.poll() is None, (path / "stderr").read_text()
        yield
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in (path / "stderr").read_text()


def _request(bearer_token: str) -> bytes:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", "/proxy/docs"
    http.headers["authorization"] = f"Bearer {bearer_token}"
    return request.SerializeToString()


def _ask(channel: grpc.Channel, raw: bytes) -> str:
    check: Any = channel.unary_unary(f"/{SERVICE}/Check")
    with channel:
        answer = check(raw, timeout=PATIENCE_S, wait_for_ready=True)
    return str(CheckResponse.FromString(answer).WhichOneof("http_response"))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_of_this_host_is_served(workspace: Path, transport: str, host: str) -> None:
    address = f"{host}:{free_port()}"
    env = _env(workspace, EXT_AUTHZ_ADDRESS=address, EXT_AUTHZ_TRANSPORT=transport)
    with _serving(workspace, env):
        assert _ask(grpc.insecure_channel(address), _request(token())) == "ok_response"
        assert _ask(grpc.insecure_channel(address), _request("x")) == "denied_response"
        assert not (workspace / "run" / "ext_authz.sock").exists()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_cleartext_for_other_hosts_is_refused(workspace: Path, transport: str, host: str) -> None:
    address = f"{host}:9191"
    env = _env(workspace, EXT_AUTHZ_ADDRESS=address, EXT_AUTHZ_TRANSPORT=transport)
    assert _fails(workspace, env) == (
        2,
        f"authz: EXT_AUTHZ_ADDRESS: {host.strip('[]')} can be reached from other hosts, and"
        " cleartext is for this one alone; set EXT_AUTHZ_TRANSPORT=grpc, EXT_AUTHZ_TLS_CERT_FILE"
        " and EXT_AUTHZ_TLS_KEY_FILE, or use 127.0.0.1\n",
    )


def _tls_env(path: Path, address: str, **env: str) -> tuple[dict[str, str], bytes, bytes]:
    """An environment with a certificate, that certificate, and its key."""
    folder = path / "tls"
    folder.mkdir(exist_ok=True)
    certificate, key = certificates.self_signed(folder)
    full = _env(
        path,
        EXT_AUTHZ_ADDRESS=address,
        EXT_AUTHZ_TRANSPORT="grpc",
        EXT_AUTHZ_TLS_CERT_FILE=str(certificate),
        EXT_AUTHZ_TLS_KEY_FILE=str(key),
        **env,
    )
    return full, certificate.read_bytes(), key.read_bytes()


def test_tls_on_every_address(workspace: Path) -> None:
    port = free_port()
    env, certificate, _ = _tls_env(workspace, f"0.0.0.0:{port}")
    with _serving(workspace, env):
        trusting = grpc.ssl_channel_credentials(certificate)
        channel = grpc.secure_channel(f"localhost:{port}", trusting)
        assert _ask(channel, _request(token())) == "ok_response"
        _is_refused(grpc.insecure_channel(f"127.0.0.1:{port}"))
        # Who does not know the certificate does not trust it.
        _is_refused(grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials()))


def _is_refused(channel: grpc.Channel) -> None:
    check: Any = channel.unary_unary(f"/{SERVICE}/Check")
    with channel, pytest.raises(grpc.RpcError) as raised:
        check(_request(token()), timeout=PATIENCE_S)
    refusal: Any = raised.value
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_refuses_a_peer_without_a_certificate_and_one_with_anothers(
    workspace: Path,
) -> None:
    port = free_port()
    peers = workspace / "peers"
    peers.mkdir()
    peer_certificate, peer_key = certificates.self_signed(peers)
    env, certificate, key = _tls_env(
        workspace, f"0.0.0.0:{port}", EXT_AUTHZ_TLS_CLIENT_CA_FILE=str(peer_certificate)
    )

    def channel(*mine: bytes) -> grpc.Channel:
        chain, private = mine or (None, None)
        credentials = grpc.ssl_channel_credentials(certificate, private, chain)
        return grpc.secure_channel(f"localhost:{port}", credentials)

    with _serving(workspace, env):
        mine = channel(peer_certificate.read_bytes(), peer_key.read_bytes())
        assert _ask(mine, _request(token())) == "ok_response"
        _is_refused(channel())
        _is_refused(channel(certificate, key))
        mine = channel(peer_certificate.read_bytes(), peer_key.read_bytes())
        assert _ask(mine, _request(token())) == "ok_response"


def test_run_does_not_serve_an_address(workspace: Path) -> None:
    env = _env(workspace, EXT_AUTHZ_ADDRESS="127.0.0.1:9191")
    assert _fails(workspace, env, "run") == (
        Exit.SETTINGS,
        "authz: EXT_AUTHZ_ADDRESS: is for `authz serve` with an Envoy of your own; `authz run`"
        " connects its two processes by a unix socket\n",
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_address_that_is_taken_is_one_sentence(workspace: Path, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = _env(workspace, EXT_AUTHZ_ADDRESS=address, EXT_AUTHZ_TRANSPORT=transport)
        code, said = _fails(workspace, env)
    assert code == Exit.ADDRESS
    assert f"EXT_AUTHZ_ADDRESS: {address} cannot be listened on" in said.splitlines()[-1]
    assert "Address already in use" in said.splitlines()[-1]
    assert "Traceback" not in said


_NOT_PEM = b"this is no certificate\n"


@pytest.mark.parametrize(
    ("spoilt", "how", "variable"),
    [
        ("cert.pem", "missing", "EXT_AUTHZ_TLS_CERT_FILE"),
        ("key.pem", "missing", "EXT_AUTHZ_TLS_KEY_FILE"),
        ("ca.pem", "missing", "EXT_AUTHZ_TLS_CLIENT_CA_FILE"),
        ("cert.pem", "a directory", "EXT_AUTHZ_TLS_CERT_FILE"),
        ("cert.pem", "nonsense", "EXT_AUTHZ_TLS_CERT_FILE"),
        ("key.pem", "nonsense", "EXT_AUTHZ_TLS_KEY_FILE"),
        ("key.pem", "another key", "EXT_AUTHZ_TLS_KEY_FILE"),
        ("ca.pem", "nonsense", "EXT_AUTHZ_TLS_CLIENT_CA_FILE"),
        ("cert.pem", "empty", "EXT_AUTHZ_TLS_CERT_FILE"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_sentence(
    workspace: Path, spoilt: str, how: str, variable: str
) -> None:
    folder = workspace / "tls"
    env, certificate, _ = _tls_env(
        workspace,
        f"127.0.0.1:{free_port()}",
        EXT_AUTHZ_TLS_CLIENT_CA_FILE=str(folder / "ca.pem"),
    )
    (folder / "ca.pem").write_bytes(certificate)
    file = folder / spoilt
    file.unlink()
    if how == "a directory":
        file.mkdir()
    elif how == "another key":
        other = workspace / "other"
        other.mkdir()
        file.write_bytes(certificates.self_signed(other)[1].read_bytes())
    elif how != "missing":
        file.write_bytes(_NOT_PEM if how == "nonsense" else b"")
    code, said = _fails(workspace, env)
    assert code == Exit.KEY_FILE
    assert "Traceback" not in said
    ours = [line for line in said.splitlines() if "EXT_AUTHZ_TLS" in line]
    assert len(ours) == 1
    assert ours[0].startswith(f"authz: {variable}: ")
    assert "PRIVATE" not in said


def test_a_taken_socket_path_is_no_obstacle(workspace: Path) -> None:
    """What a dead predecessor left there is replaced."""
    (workspace / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(workspace / "run" / "ext_authz.sock"))
    with _serving(workspace, _env(workspace)):
        where = f"unix:{workspace / 'run' / 'ext_authz.sock'}"
        assert _ask(grpc.insecure_channel(where), _request(token())) == "ok_response"
