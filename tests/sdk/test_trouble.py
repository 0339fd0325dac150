"""No answer, an odd one, and answers that are the upstream's: nothing of it is an allow of ours."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from meshguard import (
    AuthenticationError,
    MeshGuardClient,
    MeshGuardError,
    PolicyDeniedError,
    RateLimitError,
)
from meshguard.langchain import GovernedTool, governed_tool

from authz.core.mode import Mode
from authz.edges.echo_upstream import EchoUpstream
from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import Sidecar
from tests.sdk.gateway import TAGS
from tests.sdk.surface import drives

#: What the upstream answers, by path: the status, the type of its body, and the body.
ODD: Final[dict[str, tuple[int, str, bytes]]] = {
    "/401": (401, "application/json", b'{"message": "whose?"}'),
    "/403": (403, "application/json", b'{"message": "not here", "policy": "theirs"}'),
    "/429": (429, "application/json", b"{}"),
    "/500": (500, "text/plain", b"it broke"),
    "/302": (302, "application/json", b'{"moved": true}'),
    "/204": (204, "application/json", b""),
    "/list": (200, "application/json", b"[1, 2]"),
    "/page": (200, "text/html", b"<p>hello</p>"),
}


class OddUpstream(EchoUpstream):
    """Answers as real upstreams do."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.hits += 1
        status, kind, body = ODD[scope["path"]]
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        if status == 302:
            headers.append((b"location", b"http://elsewhere.invalid/"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def attempts(client: MeshGuardClient) -> dict[str, Callable[[], object]]:
    """Every call that an agent can make something depend on."""
    return {
        "check": lambda: client.check("read:docs"),
        "enforce": lambda: client.enforce("read:docs"),
        "govern": lambda: client.govern("read:docs").__enter__(),
        "get": lambda: client.get("docs", "read:docs"),
        "tool": lambda: GovernedTool(_Never(), "read:docs", client, _never).run(),
        "function": governed_tool("read:docs", client, _never)(_never),
    }


class _Never:
    """A tool that must not run."""

    def run(self) -> None:
        _never()


def _never(*_: object) -> None:
    pytest.fail("it was not allowed, nor was it denied")


@drives(
    "MeshGuardClient.check", "MeshGuardClient.enforce", "MeshGuardClient.govern",
    "MeshGuardClient.get", "GovernedTool.run", "governed_tool",
)  # fmt: skip
def test_a_gateway_that_is_not_there_allows_nothing() -> None:
    with MeshGuardClient(f"http://127.0.0.1:{starter.free_port()}", "token") as client:
        for attempt in attempts(client).values():
            with pytest.raises(httpx.ConnectError):
                attempt()


@drives("MeshGuardClient.check", "MeshGuardClient.list_agents", "MeshGuardClient.health")
def test_a_gateway_that_says_nothing_is_waited_for_as_long_as_was_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with MeshGuardClient(url, "token", "admin", timeout=0.05) as client:
            more = {"list": client.list_agents, "health": client.health}
            for attempt in (attempts(client) | more).values():
                with pytest.raises(httpx.ReadTimeout):
                    attempt()
            assert client.is_healthy() is False


@drives("MeshGuardClient.get", "MeshGuardError")
@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.AUDIT, Mode.BYPASS])
def test_a_service_that_hangs_is_an_error_and_no_denial(mode: Mode) -> None:
    secret = starter.JWT_SECRET
    with starter.demo(MODE=mode, JWT_SECRET=secret, DECISION_TIMEOUT_MS="100") as sidecar:
        service = sidecar.child("service")
        # Unlike a killed one it is not started again.
        os.kill(service, signal.SIGSTOP)
        with MeshGuardClient(sidecar.url, starter.token(), timeout=starter.PATIENCE_S) as client:
            if mode is Mode.ENFORCE:
                with pytest.raises(MeshGuardError, match=r"^Request failed: 503 ") as caught:
                    client.get("docs", "read:docs")
                assert type(caught.value) is MeshGuardError
            else:
                assert client.get("docs", "read:docs").json()["path"] == "/docs"
        os.kill(service, signal.SIGCONT)  # so that it can be stopped


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[Sidecar, str]]:
    """A demo with an upstream of its own, and an agent's token."""
    app = OddUpstream()
    with (
        upstreams.serving(app=app) as upstream,
        starter.demo(PROXY_TARGET=upstream.url, DECISION_TIMEOUT_MS="10000") as sidecar,
    ):
        sidecar.upstream = upstream
        file = sidecar.directory / "data" / "run" / "dev-secrets.json"
        admin_token = json.loads(file.read_text())["ADMIN_TOKEN"]
        with MeshGuardClient(sidecar.url, admin_token=admin_token) as admin:
            made = admin.create_agent("odd", "trusted", list(TAGS))
        yield sidecar, made["token"]


@drives("MeshGuardClient.get")
@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        # CONTRACT §16.3: of the upstream's refusals it makes its own.
        ("/401", AuthenticationError, "^Invalid or expired token$"),
        ("/403", PolicyDeniedError, "^Action 'unknown' denied by policy 'theirs': not here$"),
        ("/429", RateLimitError, "^Rate limit exceeded$"),
        ("/500", MeshGuardError, "^Request failed: 500 it broke$"),
        # CONTRACT §16.2: it reads whatever is no error as JSON.
        ("/page", json.JSONDecodeError, "Expecting value"),
    ],
)
def test_what_an_upstream_refuses_is_recorded_as_allowed(
    odd: tuple[Sidecar, str], path: str, error: type[Exception], said: str
) -> None:
    sidecar, token = odd
    before = sidecar.upstream.hits
    with MeshGuardClient(sidecar.url, token) as client:
        with pytest.raises(error, match=said) as caught:
            client.get(path, "read:docs")
        assert type(caught.value) is error
    assert sidecar.upstream.hits == before + 1
    [row] = [row for row in sidecar.rows() if row["trace_id"] == client.trace_id]
    assert (row["decision"], row["enforced"], row["path"]) == ("allow", "allow", f"/proxy{path}")


@drives("MeshGuardClient.get")
@pytest.mark.parametrize("path", ["/204", "/list", "/302"])
def test_other_answers_of_an_upstream_are_handed_on(odd: tuple[Sidecar, str], path: str) -> None:
    sidecar, token = odd
    status, _, body = ODD[path]
    with MeshGuardClient(sidecar.url, token) as client:
        answer = client.get(path, "read:docs")
        # CONTRACT §16.4: it follows no redirect.
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["x-meshguard-decision"] == "allow"
