"""Commands on records say the same of a database and of the sidecar that has it open."""

import contextlib
import json
import re
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
    for name in (
        "MESHGUARD_GATEWAY_URL",
        "MESHGUARD_URL",
        "MESHGUARD_OUTPUT_FORMAT",
        "ADMIN_TOKEN",
    ):
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


def masked(done: Done) -> Done:
    """Without what is another one each time: ids, times, tokens and keys."""
    text = re.sub(r"(?:agent|pdact|rcpt|rel)_[0-9a-f]+", "…", done.out)
    text = re.sub(r"[\w-]+\.[\w-]+\.[\w-]+|sig_[\w-]+|\d{4}-\d\d-\d\dT[\d:.]+Z", "…", text)
    return done._replace(out=text)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_what_is_changed_says_the_same_here_and_there(
    service: Service, more: tuple[str, ...]
) -> None:
    here, there = ("--local",), ("--gateway", service.url)
    said: dict[tuple[str, ...], list[Done]] = {}
    for where in (here, there):

        def change(*command: str, where: tuple[str, ...] = where) -> Done:
            done = authz(*command, *more, *where)
            assert (done.code, done.err) == (0, ""), done.err
            said.setdefault(command[:2], []).append(masked(done))
            return done

        created = change("agent", "create", "Worker", "--tag", "x", "--ttl", "1h")
        agent = json.loads(created.out)["id"] if more else created.out.split()[0]
        change("agent", "update", agent, "--trust", "trusted", "--description", "works")
        change("agent", "token", agent, "--ttl", "15m")
        issued = change("delegation", "issue", agent, agent_of(service), "--scope", "read:*",
                        "--ttl", "2h", "--depth", "1")  # fmt: skip
        edge = json.loads(issued.out)["relationship"]["id"] if more else issued.out.strip()
        change("delegation", "chain", edge)
        for _ in range(5):
            assert service.check(agent_of(service), "write:a", delegation=edge) == 403
        change("fuse", "reset", edge)
        change("delegation", "revoke", edge, "--reason", "done")
        assert service.check(agent, "read:dear") == 200
        change("wallet", "reset", "points", agent)
        for answer in (("approve",), ("reject", "--reason", "no")):
            assert service.check(agent, f"pay:{answer[0]}") == 403
            waiting = json.loads(authz("pending", "list", "--agent", agent, "--json").out)
            [one] = [e for e in waiting["pending"] if e["action"] == f"pay:{answer[0]}"]
            change("pending", answer[0], one["pendingId"], *answer[1:], "--by", "me")
        change("agent", "revoke", agent, "--reason", "done")
        change("delegation", "key")
    assert len(said) == 12
    for command, (one, other) in said.items():
        assert one == other, command


def agent_of(service: Service) -> str:
    """An agent that is there in every test that needs another one."""
    if authz("agent", "show", "helper").code:
        assert authz("agent", "create", "Helper", "--id", "helper").code == 0
    return "helper"


def test_a_chain_can_be_had_in_place_of_an_id(service: Service) -> None:
    assert authz("agent", "create", "Root", "--id", "root").code == 0
    issued = authz("delegation", "issue", "root", agent_of(service), "--scope", "read:*", "--chain",
                   "--gateway", service.url)  # fmt: skip
    assert (issued.code, issued.out.count(".")) == (0, 2)
    assert service.check("helper", "read:a", delegation=issued.out.strip()) == 200
    unknown = authz("delegation", "issue", "root", "nobody", "--scope", "read:*",
                    "--gateway", service.url)  # fmt: skip
    assert unknown.err.startswith("authz: agent nobody is not registered here")


def test_the_mode_is_changed_and_what_it_lasts_is_a_note(service: Service) -> None:
    for mode in ("audit", "enforce"):
        done = authz("mode", "set", mode)
        assert (done.code, done.out.splitlines()[0]) == (0, f"mode    {mode}")
        assert done.err == "authz: it lasts until a restart\n"
        shown = json.loads(authz("mode", "show", "--json", "--gateway", service.url).out)
        assert shown["mode"] == mode


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
