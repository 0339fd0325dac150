"""TLS on PORT through a real Envoy: handshakes, clients' certificates, and new certificates under a
sidecar that runs, in each way that people and Kubernetes put them there."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.exits import Exit
from tests.e2e import sidecar as starter
from tests.e2e.certificates import Authority, Issued
from tests.e2e.sidecar import PATIENCE_S, bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream

DENIED = {"X-MeshGuard-Action": "write:delete"}


@dataclass
class Secured:
    """A sidecar with TLS on its port."""

    process: subprocess.Popen[str]
    path: Path
    port: int
    env: dict[str, str]

    def client(self, authority: Authority, mine: Issued | None = None) -> httpx.Client:
        """Trusts the authority, and shows a certificate where it is given one."""
        context = ssl.create_default_context(cadata=authority.pem.decode())
        if mine is not None:
            context.load_cert_chain(mine.certificate, mine.key)
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=context)

    def shown(self) -> bytes:
        """The certificate that a new connection is shown; empty where it is shown none."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with _handshake(self.port, context) as connection:
                return connection.getpeercert(binary_form=True) or b""
        except OSError:
            return b""

    def log(self) -> str:
        return (self.path / "stderr").read_text()

    def service(self) -> httpx.Client:
        """Asks the service itself, by its own socket."""
        socket_file = str(self.path / "run" / "http.sock")
        transport = httpx.HTTPTransport(uds=socket_file)
        return httpx.Client(transport=transport, base_url="http://service")

    def complaint(self) -> str:
        with self.service() as asking:
            return str(asking.get("/health").json()["checks"].get("tls", ""))


def _handshake(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


@contextlib.contextmanager
def _secured(path: Path, upstream: Upstream, served: Issued, **env: str) -> Iterator[Secured]:
    port = free_port()
    full = environment(
        path,
        port,
        upstream.url,
        TLS_CERT_FILE=str(served.certificate),
        TLS_KEY_FILE=str(served.key),
        **env,
    )
    with starter.start(path, full, "run") as process:
        found = Secured(process, path, port, full)
        wait_until(lambda: "listening on" in found.log() or process.poll() is not None, "it")
        assert process.poll() is None, found.log()
        yield found
        assert "Traceback" not in found.log()


@pytest.fixture
def workspace() -> Iterator[Path]:
    with starter.directory() as path:
        yield path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("ours")


@pytest.mark.parametrize("admin", ["socket", "off"])
def test_the_port_speaks_tls_and_nothing_else(
    workspace: Path, upstream: Upstream, authority: Authority, admin: str
) -> None:
    served = authority.issue(workspace / "tls", "sidecar")
    with _secured(workspace, upstream, served, ENVOY_ADMIN=admin) as sidecar:
        assert (workspace / "run/envoy-admin.sock").exists() is (admin == "socket")
        with sidecar.client(authority) as client:
            assert client.get("/proxy/docs", headers=bearer()).status_code == 200
            assert client.get("/proxy/docs", headers=bearer() | DENIED).status_code == 403
            assert client.get("/health").json()["checks"].keys() == {"database", "policies"}

        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        with _handshake(sidecar.port, context) as connection:
            assert connection.selected_alpn_protocol() == "h2"
            assert connection.version() == "TLSv1.3"
            assert not (connection.session and connection.session.has_ticket)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{sidecar.port}/health")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"https://127.0.0.1:{sidecar.port}/health")
        _refuses_old_versions(sidecar.port)

        # What is asked beside it goes by the service's socket, and needs no certificate.
        status = subprocess.run(
            [sys.executable, "-m", "authz", "status"],
            env=sidecar.env, cwd=workspace, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (status.returncode, "healthy" in status.stdout) == (0, True)
        gateway = subprocess.run(
            [sys.executable, "-m", "authz", "--gateway", f"https://localhost:{sidecar.port}",
             "status"],
            env=sidecar.env | {"SSL_CERT_FILE": str(_trusted(workspace, authority))},
            cwd=workspace, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (gateway.returncode, "healthy" in gateway.stdout) == (0, True), gateway.stderr
        sidecar.process.terminate()
        assert sidecar.process.wait(PATIENCE_S) == 0
    for file in (workspace / "run").glob("*.yaml"):
        assert "PRIVATE" not in file.read_text()


def _refuses_old_versions(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    # Python warns of what this asks for, which is the point.
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
        _handshake(port, context)


def _trusted(folder: Path, authority: Authority) -> Path:
    file = folder / "trusted.pem"
    file.write_bytes(authority.pem)
    return file


@pytest.mark.parametrize("admin", ["socket", "off"])
def test_mutual_tls_lets_in_who_has_a_certificate_of_the_authority(
    workspace: Path, upstream: Upstream, authority: Authority, admin: str
) -> None:
    served = authority.issue(workspace / "tls", "sidecar")
    clients, others = Authority("clients"), Authority("others")
    mine = clients.issue(workspace / "mine", "agent")
    theirs = others.issue(workspace / "theirs", "agent")
    expired = clients.issue(workspace / "expired", "agent", age=timedelta(hours=3))
    ca = _trusted(workspace, clients)
    with _secured(
        workspace, upstream, served, TLS_CLIENT_CA_FILE=str(ca), ENVOY_ADMIN=admin
    ) as sidecar:
        with sidecar.client(authority, mine) as client:
            assert client.get("/proxy/docs", headers=bearer()).status_code == 200
            # A certificate opens the port; who asks is still the token's to say.
            assert client.get("/proxy/docs").json()["code"] == "token_missing"
        before = upstream.hits
        for stranger in (None, theirs, expired):
            with (
                sidecar.client(authority, stranger) as client,
                pytest.raises(httpx.TransportError),
            ):
                client.get("/proxy/docs", headers=bearer())
        assert upstream.hits == before
        # Nor has doctor a certificate, and it asks by the socket.
        checklist = {line["line"]: line["status"] for line in _doctor(sidecar)["lines"]}
        assert checklist["Configure health checks"] == "pass"

        # Whose issuer is not trusted any more is not let in again, by no session either.
        ca.write_bytes(others.pem)
        wait_until(lambda: _lets_in(sidecar, authority, theirs), "the other authority")
        assert not _lets_in(sidecar, authority, mine)


def _doctor(sidecar: Secured) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "authz", "doctor", "--json"],
        env=sidecar.env,
        cwd=sidecar.path,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _lets_in(sidecar: Secured, authority: Authority, mine: Issued) -> bool:
    with sidecar.client(authority, mine) as client:
        try:
            return client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False


# New certificates.


def _put_in_place(live: Path, new: Issued) -> None:
    (live / "tls.crt").write_bytes(new.certificate.read_bytes())
    (live / "tls.key").write_bytes(new.key.read_bytes())


def _put_by_rename(live: Path, new: Issued) -> None:
    for file in (new.certificate, new.key):
        draft = live / f"{file.name}.new"
        draft.write_bytes(file.read_bytes())
        draft.replace(live / file.name)


def _put_by_link(live: Path, new: Issued) -> None:
    """As the kubelet updates a mounted secret: the files are links below a link that is swapped."""
    version = live / f"..{new.certificate.parent.name}"
    version.mkdir()
    for file in (new.certificate, new.key):
        (version / file.name).write_bytes(file.read_bytes())
    (live / "..data_tmp").symlink_to(version.name)
    (live / "..data_tmp").replace(live / "..data")


def _first(live: Path, first: Issued, put: Callable[[Path, Issued], None]) -> Issued:
    """Where the sidecar looks for its certificate."""
    live.mkdir()
    put(live, first)
    if put is _put_by_link:
        for name in ("tls.crt", "tls.key"):
            (live / name).symlink_to(f"..data/{name}")
    return Issued(live / "tls.crt", live / "tls.key", first.der)


@pytest.mark.parametrize("put", [_put_in_place, _put_by_rename, _put_by_link])
def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_stay(
    workspace: Path,
    upstream: Upstream,
    authority: Authority,
    put: Callable[[Path, Issued], None],
) -> None:
    first, second, third = (
        authority.issue(workspace / name, "sidecar") for name in ("first", "second", "third")
    )
    # The third certificate with another's key.
    mixed = Issued(workspace / "mixed" / "tls.crt", workspace / "mixed" / "tls.key", b"")
    mixed.certificate.parent.mkdir()
    mixed.certificate.write_bytes(third.certificate.read_bytes())
    mixed.key.write_bytes(first.key.read_bytes())
    live = workspace / "live"
    served = _first(live, first, put)
    with _secured(workspace, upstream, served) as sidecar, sidecar.client(authority) as client:

        def asked() -> int:
            return client.get("/proxy/docs", headers=bearer()).status_code

        assert asked() == 200
        assert sidecar.shown() == first.der
        with _handshake(sidecar.port, _trusting(authority)) as connection:
            put(live, second)
            wait_until(lambda: sidecar.shown() == second.der, "the second certificate")
            # This connection began before, and goes on.
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
        said = "TLS_CERT_FILE: new connections get what is in the files now"
        wait_until(lambda: sidecar.log().count(said) == 1, "it to be logged")

        # One that cannot be used changes nothing but what is said of it.
        put(live, mixed)
        sentence = (
            f"TLS_KEY_FILE: {live / 'tls.key'}: not the key of the first certificate in"
            f" {live / 'tls.crt'}"
        )
        wait_until(lambda: sidecar.complaint() == sentence, "the complaint")
        assert sidecar.shown() == second.der
        assert asked() == 200
        stays = f"{sentence}; the listener keeps the certificate that it has"
        assert sidecar.log().count(stays) == 1

        put_again = third if put is not _put_by_link else authority.issue(workspace / "x", "third")
        put(live, put_again)
        wait_until(lambda: sidecar.shown() == put_again.der, "the third certificate")
        assert sidecar.complaint() == ""
        assert asked() == 200


def _trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


def test_an_envoy_that_starts_while_the_files_are_bad_serves_once_they_are_good(
    workspace: Path, upstream: Upstream, authority: Authority
) -> None:
    first = authority.issue(workspace / "first", "sidecar")
    live = workspace / "live"
    served = _first(live, first, _put_in_place)
    with _secured(workspace, upstream, served) as sidecar:
        (live / "tls.crt").write_bytes(b"nonsense")
        wait_until(lambda: "not PEM certificates" in sidecar.complaint(), "the complaint")
        [envoy] = [
            pid for pid, argv in starter.children(sidecar.process.pid) if "--config-path" in argv
        ]
        os.kill(envoy, 9)
        wait_until(lambda: "envoy is back" in sidecar.log(), "Envoy")
        # Nobody is answered in the clear meanwhile, nor with anything else.
        assert sidecar.shown() == b""
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{sidecar.port}/health")
        (live / "tls.crt").write_bytes(first.certificate.read_bytes())
        wait_until(lambda: sidecar.shown() == first.der, "the certificate")


# What is wrong at the start.


@pytest.mark.parametrize(
    ("spoilt", "how", "variable"),
    [
        ("tls.crt", "missing", "TLS_CERT_FILE"),
        ("tls.key", "missing", "TLS_KEY_FILE"),
        ("ca.pem", "missing", "TLS_CLIENT_CA_FILE"),
        ("tls.crt", "a directory", "TLS_CERT_FILE"),
        ("tls.crt", "nonsense", "TLS_CERT_FILE"),
        ("tls.key", "nonsense", "TLS_KEY_FILE"),
        ("tls.key", "another key", "TLS_KEY_FILE"),
        ("ca.pem", "nonsense", "TLS_CLIENT_CA_FILE"),
        ("tls.crt", "a pipe", "TLS_CERT_FILE"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_sentence_before_anything_starts(
    workspace: Path, authority: Authority, spoilt: str, how: str, variable: str
) -> None:
    folder = workspace / "tls"
    served = authority.issue(folder, "sidecar")
    (folder / "ca.pem").write_bytes(authority.pem)
    file = folder / spoilt
    file.unlink()
    if how == "a directory":
        file.mkdir()
    elif how == "a pipe":
        os.mkfifo(file)
    elif how == "another key":
        file.write_bytes(authority.issue(workspace / "other", "other").key.read_bytes())
    elif how == "nonsense":
        file.write_bytes(b"this is no certificate\n")
    env = environment(
        workspace,
        free_port(),
        "http://127.0.0.1:9",
        TLS_CERT_FILE=str(served.certificate),
        TLS_KEY_FILE=str(served.key),
        TLS_CLIENT_CA_FILE=str(folder / "ca.pem"),
    )
    with starter.start(workspace, env, "run") as process:
        assert process.wait(PATIENCE_S) == Exit.KEY_FILE
    [said] = (workspace / "stderr").read_text().splitlines()
    assert said.startswith(f"authz: {variable}: {file}: ")
    assert not (workspace / "run/envoy.yaml").exists()


def test_what_should_not_be_so_is_a_warning(
    workspace: Path, upstream: Upstream, authority: Authority
) -> None:
    served = authority.issue(workspace / "tls", "sidecar", age=timedelta(days=2))
    served.key.chmod(0o644)
    with _secured(workspace, upstream, served) as sidecar:
        assert sidecar.shown() == served.der
        lines = sidecar.log().splitlines()
    for start, end in (
        (f"TLS_CERT_FILE: the certificate in {served.certificate} has expired on ",
         "; peers refuse it until it is replaced"),
        (f"TLS_KEY_FILE: every user of this host can read {served.key}; ", "with `chmod o-r`"),
    ):  # fmt: skip
        [line] = [line for line in lines if start in line]
        assert line.endswith(end)
        assert "[warning]" in line
