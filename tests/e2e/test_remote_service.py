"""An Envoy on one host and the service on another, each known to the other by its certificate.

Both are on this machine, in directories of their own and with nothing but TCP between them.
"""

import contextlib
import os
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from authz.exits import Exit
from authz.supervisor import envoy_binary
from tests.e2e import sidecar as starter
from tests.e2e.bare_envoy import connects, process
from tests.e2e.certificates import Authority, Issued
from tests.e2e.sidecar import PATIENCE_S, bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream

DENIED = {"X-MeshGuard-Action": "write:delete"}
#: What Envoy may reach that is on this host, and what it may not.
CLEARTEXT = "is another host, and cleartext is for this one alone; set EXT_AUTHZ_TARGET_CA_FILE"


@pytest.fixture
def workspace() -> Iterator[Path]:
    with starter.directory() as path:
        yield path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("services")


@dataclass
class Ports:
    """Where the service listens."""

    ext_authz: int
    http: int


@contextlib.contextmanager
def _service(path: Path, **env: str) -> Iterator[Ports]:
    """`authz serve` on two addresses of this host."""
    ports = Ports(free_port(), free_port())
    full = environment(
        path,
        3100,
        "",
        EXT_AUTHZ_ADDRESS=f"0.0.0.0:{ports.ext_authz}",
        HTTP_ADDRESS=f"0.0.0.0:{ports.http}",
        EXT_AUTHZ_TRANSPORT="grpc",
        **env,
    )
    path.mkdir(exist_ok=True)
    with starter.start(path, full, "serve") as running:
        wait_until(
            lambda: (path / "run/http.sock").exists() or running.poll() is not None, "the service"
        )
        assert running.poll() is None, (path / "stderr").read_text()
        yield ports
        running.terminate()
        assert running.wait(PATIENCE_S) == 0
    assert "Traceback" not in (path / "stderr").read_text()


@contextlib.contextmanager
def _envoy(
    path: Path, target: str, ports: Ports, verify: ssl.SSLContext | None = None, /, **env: str
) -> Iterator[httpx.Client]:
    """An Envoy with what `authz envoy config` writes, and with nothing of the service's."""
    path.mkdir(exist_ok=True)
    port = free_port()
    full = {
        "PATH": os.environ["PATH"],
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PROXY_TARGET": target,
        "AUTHZ_RUN_DIR": str(path / "run"),
        "DECISION_TIMEOUT_MS": "10000",
        "EXT_AUTHZ_TARGET": f"localhost:{ports.ext_authz}",
        "HTTP_TARGET": f"localhost:{ports.http}",
        **env,
    }
    with starter.start(path, full, "envoy", "config", "--out", str(path / "run")) as writing:
        assert writing.wait(PATIENCE_S) == 0, (path / "stderr").read_text()
    scheme = "http" if verify is None else "https"
    with (
        process(path, path / "run/envoy.yaml"),
        httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{port}", timeout=PATIENCE_S, verify=verify or True
        ) as client,
    ):
        wait_until(lambda: connects(client), "Envoy to listen")
        yield client


def _shows(prefix: str, issued: Issued) -> dict[str, str]:
    return {f"{prefix}_CERT_FILE": str(issued.certificate), f"{prefix}_KEY_FILE": str(issued.key)}


def _file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_everything_works_over_mutual_tls(
    workspace: Path, upstream: Upstream, authority: Authority
) -> None:
    sidecars = Authority("sidecars")
    service_ca = _file(workspace / "service-ca.pem", authority.pem)
    sidecar_ca = _file(workspace / "sidecar-ca.pem", sidecars.pem)
    here, there = workspace / "envoy", workspace / "service"
    mine = sidecars.issue(workspace / "mine", "sidecar")
    with (
        _service(
            there,
            **_shows("EXT_AUTHZ_TLS", authority.issue(workspace / "theirs", "service")),
            EXT_AUTHZ_TLS_CLIENT_CA_FILE=sidecar_ca,
        ) as ports,
        _envoy(
            here,
            upstream.url,
            ports,
            EXT_AUTHZ_TARGET_CA_FILE=service_ca,
            **_shows("EXT_AUTHZ_TARGET", mine),
        ) as client,
    ):
        before = upstream.hits
        allowed = client.get("/proxy/docs", headers=bearer())
        assert (allowed.status_code, allowed.headers["x-meshguard-decision"]) == (200, "allow")
        denied = client.get("/proxy/docs", headers=bearer() | DENIED)
        assert (denied.status_code, denied.json()["code"]) == (403, "rule_denied")
        assert client.get("/proxy/docs").json()["code"] == "token_missing"
        assert upstream.hits == before + 1
        checked = client.get("/proxy/check", headers=bearer() | DENIED)
        assert (checked.status_code, checked.json()["code"]) == (403, "rule_denied")
        admin = {"X-Admin-Token": starter.ADMIN_TOKEN}
        assert client.get("/admin/mode", headers=admin).status_code == 200
        assert client.get("/health").json()["status"] == "healthy"

        # Nobody else gets as far as a question, by either port.
        _only_with_a_certificate(ports, authority, mine)
        said = (there / "stderr").read_text()
        assert "may ask for decisions" not in said
        # Envoy has files of its own alone: a key is never among them.
        written = {file.name for file in (here / "run").iterdir()}
        assert {"envoy.yaml", "ext_authz.yaml", "target_ca.yaml", "target_certificate.yaml"} <= (
            written
        )
        for file in (here / "run").glob("*.yaml"):
            assert "PRIVATE" not in file.read_text()

        # The mode is the service's to change, for what it decides.
        changed = client.put("/admin/mode", headers=admin, json={"mode": "audit"})
        assert changed.status_code == 200
        assert client.get("/proxy/docs", headers=bearer() | DENIED).status_code == 200


def _only_with_a_certificate(ports: Ports, authority: Authority, mine: Issued) -> None:
    def health(port: int, shown: Issued | None) -> int:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        return httpx.get(f"https://localhost:{port}/health", verify=context).status_code

    assert health(ports.http, mine) == 200
    for port in (ports.http, ports.ext_authz):
        with pytest.raises(httpx.TransportError):
            health(port, None)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/health")


def test_an_envoy_alone_takes_over_what_is_renamed_into_place(
    workspace: Path, upstream: Upstream, authority: Authority
) -> None:
    """No service is beside it that could look at the files."""
    first, second = (authority.issue(workspace / name, "door") for name in ("first", "second"))
    live = workspace / "live"
    live.mkdir()
    ca = workspace / "ca.pem"
    ca.write_bytes(Authority("another").pem)

    def put(file: Path, content: bytes) -> None:
        draft = file.with_name("draft")
        draft.write_bytes(content)
        draft.replace(file)

    def show(issued: Issued) -> None:
        put(live / "tls.key", issued.key.read_bytes())
        put(live / "tls.crt", issued.certificate.read_bytes())

    show(first)
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    env = {
        "TLS_CERT_FILE": str(live / "tls.crt"),
        "TLS_KEY_FILE": str(live / "tls.key"),
        "EXT_AUTHZ_TARGET_CA_FILE": str(ca),
    }
    served = _shows("EXT_AUTHZ_TLS", authority.issue(workspace / "theirs", "service"))
    with (
        _service(workspace / "service", **served) as ports,
        _envoy(workspace / "envoy", upstream.url, ports, trusting, **env) as client,
    ):

        def shown() -> bytes:
            with contextlib.suppress(OSError):
                return ssl.PEM_cert_to_DER_cert(
                    ssl.get_server_certificate(("127.0.0.1", int(str(client.base_url.port))))
                )
            return b""

        assert shown() == first.der
        assert client.get("/proxy/docs", headers=bearer()).status_code == 503
        put(ca, authority.pem)
        wait_until(
            lambda: client.get("/proxy/docs", headers=bearer()).status_code == 200, "the issuer"
        )
        show(second)
        wait_until(lambda: shown() == second.der, "the second certificate")


@pytest.mark.parametrize("mode", ["enforce", "audit"])
@pytest.mark.parametrize("wrong", ["authority", "name", "no certificate", "gone"])
def test_a_service_that_cannot_be_trusted_decides_nothing(
    workspace: Path, upstream: Upstream, authority: Authority, wrong: str, mode: str
) -> None:
    trusted = Authority("another") if wrong == "authority" else authority
    env = _shows("EXT_AUTHZ_TLS", authority.issue(workspace / "theirs", "service"))
    if wrong == "no certificate":
        env["EXT_AUTHZ_TLS_CLIENT_CA_FILE"] = _file(workspace / "clients.pem", authority.pem)
    more = {"EXT_AUTHZ_TARGET_CA_FILE": _file(workspace / "ca.pem", trusted.pem), "MODE": mode}
    with _service(workspace / "service", **env) as ports:
        if wrong == "name":
            # The certificate is for localhost and 127.0.0.1.
            more |= {
                "EXT_AUTHZ_TARGET": f"127.0.0.2:{ports.ext_authz}",
                "HTTP_TARGET": f"127.0.0.2:{ports.http}",
            }
        asked = Ports(free_port(), free_port()) if wrong == "gone" else ports
        with _envoy(workspace / "envoy", upstream.url, asked, **more) as client:
            before = upstream.hits
            answer = client.get("/proxy/docs", headers=bearer())
            own = client.get("/proxy/check", headers=bearer() | DENIED)
            hits = upstream.hits - before
    if mode == "enforce":
        assert (answer.status_code, answer.json()["code"], hits) == (503, "circuit_open", 0)
        assert answer.headers["retry-after"] == "1"
    else:
        assert (answer.status_code, hits) == (200, 1)
    assert (own.status_code, own.json()["code"]) == (503, "circuit_open")


def test_in_the_clear_it_works_on_this_host_and_nowhere_else(
    workspace: Path, upstream: Upstream
) -> None:
    ports = Ports(free_port(), free_port())
    env = environment(
        workspace,
        3100,
        "",
        EXT_AUTHZ_ADDRESS=f"127.0.0.1:{ports.ext_authz}",
        HTTP_ADDRESS=f"127.0.0.1:{ports.http}",
    )
    with starter.start(workspace, env, "serve"):
        wait_until((workspace / "run/http.sock").exists, "the service")
        with _envoy(workspace / "envoy", upstream.url, ports) as client:
            assert client.get("/proxy/docs", headers=bearer()).status_code == 200
            assert client.get("/health").status_code == 200


def test_a_service_without_clients_certificates_warns(
    workspace: Path, authority: Authority
) -> None:
    env = _shows("EXT_AUTHZ_TLS", authority.issue(workspace / "theirs", "service"))
    with _service(workspace, **env):
        lines = (workspace / "stderr").read_text().splitlines()
    warned = [line for line in lines if "may ask for decisions and fill the audit trail" in line]
    assert ["EXT_AUTHZ_ADDRESS: " in line for line in warned] == [True, False]
    assert ["HTTP_ADDRESS: " in line for line in warned] == [False, True]


def _said(path: Path, env: dict[str, str], *command: str) -> tuple[int, list[str]]:
    with starter.start(path, env, *command) as running:
        code = running.wait(PATIENCE_S)
    return code, (path / "stderr").read_text().splitlines()


@pytest.mark.parametrize("host", ["authz.example", "192.0.2.1", "[2001:db8::1]"])
def test_a_target_elsewhere_needs_to_be_known(workspace: Path, host: str) -> None:
    env = environment(
        workspace, 3100, "http://127.0.0.1:9", JWT_SECRET="",
        EXT_AUTHZ_TARGET=f"{host}:9191", HTTP_TARGET=f"{host}:9192",
    )  # fmt: skip
    bare = host.strip("[]")
    assert _said(workspace, env, "envoy", "config") == (
        2,
        [
            f"authz: EXT_AUTHZ_TARGET: {bare} {CLEARTEXT}",
            f"authz: HTTP_TARGET: {bare} {CLEARTEXT}",
        ],
    )


@pytest.mark.parametrize(
    ("variable", "value", "command"),
    [
        ("HTTP_ADDRESS", "127.0.0.1:9192", "serve"),
        ("EXT_AUTHZ_TARGET", "127.0.0.1:9191", "envoy config"),
    ],
)
def test_run_connects_its_two_processes_itself(
    workspace: Path, variable: str, value: str, command: str
) -> None:
    env = environment(workspace, free_port(), "http://127.0.0.1:9", **{variable: value})
    if command != "serve":
        env["HTTP_TARGET"] = "127.0.0.1:9192"
    code, said = _said(workspace, env, "run")
    assert code == Exit.SETTINGS
    assert said == [
        f"authz: {variable}: is for `authz {command}` with an Envoy of your own; `authz run`"
        " connects its two processes by a unix socket"
    ]


def test_an_address_that_is_taken_is_one_sentence(workspace: Path) -> None:
    port = free_port()
    env = environment(
        workspace, 3100, "", EXT_AUTHZ_ADDRESS=f"127.0.0.1:{port}", HTTP_ADDRESS=f"127.0.0.1:{port}"
    )
    code, said = _said(workspace, env, "serve")
    assert code == Exit.ADDRESS
    assert said[-1] == (
        f"authz: HTTP_ADDRESS: 127.0.0.1:{port} cannot be listened on (Address already in use);"
        " stop what uses it or choose another"
    )


def test_the_files_of_a_target_are_looked_at(workspace: Path, authority: Authority) -> None:
    """By who writes their names down; Envoy comes later, perhaps when they are there."""
    env = environment(
        workspace, 3100, "http://127.0.0.1:9", JWT_SECRET="",
        EXT_AUTHZ_TARGET="authz.example:9191", HTTP_TARGET="authz.example:9192",
        EXT_AUTHZ_TARGET_CA_FILE=str(workspace / "ca.pem"),
    )  # fmt: skip
    sentence = f"EXT_AUTHZ_TARGET_CA_FILE: {workspace / 'ca.pem'}: No such file or directory"
    assert _said(workspace, env, "envoy", "config", "--out", str(workspace / "etc")) == (
        0,
        [f"authz: {sentence}; Envoy will need it"],
    )
    (workspace / "ca.pem").write_bytes(authority.pem)
    assert _said(workspace, env, "envoy", "config", "--out", str(workspace / "etc")) == (0, [])
    checked = subprocess.run(
        [envoy_binary(None), "--mode", "validate", "-l", "warning",
         "-c", str(workspace / "etc/envoy.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr.strip()) == (0, "")
