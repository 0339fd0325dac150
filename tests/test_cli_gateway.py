"""Commands on records say the same of a database and of the sidecar that has it open."""

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from typer.testing import CliRunner

from authz.cli import app
from tests.e2e.sidecar import free_port
from tests.serving import SECRET, TOKEN, Service, serving

POLICIES: Final = """\
name: everyone
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: allow, actions: ["read:*"]}
  - {effect: require_approval, actions: ["pay:*"]}
defaultEffect: deny
---
kind: RiskWallet
name: points
version: "1"
capacity: 10
window: 1h
costs: [{actions: ["read:dear"], cost: 4}]
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(everyone=POLICIES) as running:
        yield running


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MESHGUARD_GATEWAY_URL", "MESHGUARD_URL", "OUTPUT_FORMAT", "ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("AUDIT_DB_PATH", str(service.database))
    monkeypatch.setenv("POLICIES_DIR", str(service.policies))
    monkeypatch.setenv("AUTHZ_RUN_DIR", str(service.directory / "run"))


def authz(*arguments: str, given: str = "") -> Done:
    done = CliRunner().invoke(app, list(arguments), input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def both(service: Service, *arguments: str) -> Done:
    """What a command says here, and of the sidecar: the same."""
    here = authz(*arguments, "--local")
    there = authz(*arguments, "--gateway", service.url)
    assert here == there
    return here


def test_what_is_listed_and_shown_is_the_same(service: Service) -> None:
    made = authz("agent", "create", "Ann", "--id", "ann", "--tag", "x", "--json",
                 "--gateway", service.url)  # fmt: skip
    assert json.loads(made.out)["token"].count(".") == 2
    assert "apiKey" not in made.out
    assert authz("agent", "create", "Bob", "--id", "bob", "--trust", "trusted").code == 0
    assert service.check("ann", "read:dear") == 200
    assert service.check("ann", "pay:bill") == 403
    issued = authz("delegation", "issue", "bob", "ann", "--scope", "read:*", "--json")
    edge = json.loads(issued.out)["relationship"]
    assert service.check("ann", "read:a", delegation=edge["id"]) == 200
    [waiting] = json.loads(authz("pending", "list", "--json").out)["pending"]
    for command in (
        ("agent", "list"),
        ("agent", "list", "--trust", "trusted"),
        ("agent", "list", "--status", "revoked"),
        ("agent", "show", "ann"),
        ("pending", "list", "--agent", "ann"),
        ("pending", "show", waiting["pendingId"]),
        ("delegation", "list"),
        ("delegation", "list", "--agent", "nobody"),
        ("delegation", "show", edge["id"]),
        ("wallet", "list"),
        ("wallet", "list", "--agent", "ann"),
        ("fuse", "list"),
    ):
        assert both(service, *command).code == 0, command
        said = both(service, *command, "--json")
        assert json.loads(said.out), command


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("agent", "show", "nobody"), 1),
        (("agent", "revoke", "nobody"), 1),
        (("agent", "token", "nobody"), 1),
        (("agent", "create", "x", "--trust", "saint"), 2),
        (("agent", "list", "--trust", "saint"), 2),
        (("pending", "show", "pdact_0"), 1),
        (("pending", "approve", "pdact_0", "--by", "me"), 1),
        (("delegation", "show", "rel_0"), 1),
        (("delegation", "issue", "nobody", "ann", "--scope", "read:*"), 1),
        (("wallet", "reset", "nothing", "nobody"), 1),
        (("fuse", "reset", "rel_0"), 1),
    ],
)
def test_what_is_refused_is_refused_alike(
    service: Service, command: tuple[str, ...], code: int
) -> None:
    said = both(service, *command)
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("authz: ")


def test_what_is_changed_there_is_there_here(service: Service) -> None:
    made = json.loads(authz("agent", "create", "Eve", "--json", "--gateway", service.url).out)
    assert (
        authz("agent", "revoke", made["id"], "--reason", "gone", "--gateway", service.url).code == 0
    )
    shown = json.loads(authz("agent", "show", made["id"], "--json").out)
    assert shown["status"] == "revoked"
    assert both(service, "agent", "token", made["id"]).code == 1


def test_a_wrong_token_is_code_3_and_nobody_there_code_5(service: Service) -> None:
    wrong = authz("agent", "list", "--gateway", service.url, "--admin-token", "x" * 32)
    assert (wrong.code, wrong.out) == (3, "")
    assert "x" * 32 not in wrong.err
    nobody = authz("agent", "list", "--gateway", f"http://127.0.0.1:{free_port()}")
    assert nobody.code == 5
    assert "cannot be reached" in nobody.err


def test_the_token_can_come_from_a_file_or_stdin(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    for given in (f"@{file}", "-"):
        said = authz("fuse", "list", "--gateway", service.url, "--admin-token", given, given=TOKEN)
        assert said.code == 0, said.err


def test_the_config_file_says_where_and_is_for_its_owner_alone(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESHGUARD_ADMIN_TOKEN")
    assert authz("config", "set", "gateway-url", service.url).code == 0
    assert authz("config", "set", "admin-token", "-", given=f"{TOKEN}\n").code == 0
    file = tmp_path / ".meshguard" / "config"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    listed = authz("config", "list", "--json")
    assert json.loads(listed.out) == {"gateway-url": service.url, "admin-token": "********"}
    assert authz("config", "get", "admin-token").out == f"{TOKEN}\n"
    said = authz("agent", "list", "--json")
    assert json.loads(said.out)["agents"] is not None
    # Whoever has not named it is told.
    assert f"asking the sidecar at {service.url}" in said.err
    assert authz("--quiet", "agent", "list").err == ""
    assert authz("agent", "list", "--local").err == ""
    # Its token is for its gateway, and for no other.
    other = authz("agent", "list", "--gateway", "http://127.0.0.1:9")
    assert other.code == 3
    assert authz("config", "unset", "admin-token").code == 0
    assert authz("config", "get", "admin-token").code == 1
    assert authz("config", "path").out.strip() == str(file)
    file.chmod(0o666)
    unsafe = authz("agent", "list")
    assert unsafe.code == 2
    assert "others can change it" in unsafe.err


@pytest.mark.parametrize(
    ("key", "value"),
    [("output-format", "yaml"), ("gateway-url", 'x"y'), ("color", "red"), ("admin-token", "")],
)
def test_a_value_that_is_none_is_not_kept(key: str, value: str, tmp_path: Path) -> None:
    assert authz("config", "set", key, value).code == 2
    assert not (tmp_path / ".meshguard").exists()


def test_status_says_how_a_sidecar_is_and_needs_no_token(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESHGUARD_ADMIN_TOKEN")
    for place in ((), ("--gateway", service.url)):
        said = authz("status", *place, "--json")
        assert said.code == 0, said.err
        shown = json.loads(said.out)
        assert (shown["status"], shown["ready"], shown["mode"]) == ("healthy", True, "enforce")
        assert shown["checks"]["database"] == "ok"
    assert "check database" in authz("status").out
    assert authz("status", "--gateway", f"http://127.0.0.1:{free_port()}").code == 5


def test_what_is_no_sidecar_is_said_to_be_none() -> None:
    with answering(
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    ) as url:
        for command in (("agent", "list"), ("status",)):
            said = authz(*command, "--gateway", url)
            assert (said.code, said.out) == (5, "")
            assert "is no sidecar" in said.err
    redirect = b"HTTP/1.1 302 Found\r\nlocation: http://evil\r\ncontent-length: 0\r\n\r\n"
    with answering(redirect) as url:
        assert authz("agent", "list", "--gateway", url).code == 5


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Whoever asks there gets these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        # `accept` does not notice that its socket is closed.
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
