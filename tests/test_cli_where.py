"""Which sidecar a command asks, with which token, what it makes of answers; and completion."""

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from authz.cli import app, remote
from authz.cli.completion import agents_like
from authz.cli.destination import FORMAT_VARIABLE
from authz.cli.options import LocalCommand, RemoteCommand
from authz.settings import Settings

ROOT: Final = Path(__file__).parents[1]
OPTION: Final = "the token of the option"
CLIENTS: Final = "the token of the client's variable"
FILES: Final = "the token of the config file"
SIDECARS: Final = "the token of the sidecar's variable"


class Listener:
    """A sidecar of a kind: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.answers: list[dict[str, Any] | bytes] = []
        self.status = 200
        this = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                this.asked.append((self.command, self.path, self.headers.get("authorization")))
                answer = this.answers.pop(0) if this.answers else {"agents": []}
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(this.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def token(self) -> str | None:
        """What the last one who asked has sent."""
        return self.asked[-1][2]


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(10)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*os.environ]:
        if name.startswith(("MESHGUARD", "AUTHZ")) or name in ("ADMIN_TOKEN", "DB_PATH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AUDIT_DB_PATH", str(tmp_path / "audit.db"))
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def authz(*arguments: str, given: str = "", **env: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), input=given, env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def configured(home: Path, text: str) -> Path:
    file = home / ".meshguard" / "config"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


# Where, and with what.


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["--admin-token", "--api-key"])
def test_options_stand_before_the_command_or_after_it(
    listener: Listener, name: str, *, before: bool
) -> None:
    where, command = ("--gateway", listener.url, name, OPTION), ("agent", "list")
    code, _, err = authz(*((*where, *command) if before else (*command, *where)))
    assert (code, err, listener.token) == (0, "", f"Bearer {OPTION}")


def test_what_stands_after_the_command_counts_more(listener: Listener) -> None:
    done = authz("--gateway", "http://127.0.0.1:9", "--admin-token", SIDECARS, "agent", "list",
                 "--gateway", listener.url, "--admin-token", OPTION)  # fmt: skip
    assert (done[0], listener.token) == (0, f"Bearer {OPTION}")


def test_an_option_counts_before_the_environment_and_that_before_the_file(
    home: Path, listener: Listener
) -> None:
    configured(home, f'MESHGUARD_URL="{listener.url}"\nMESHGUARD_ADMIN_TOKEN="{FILES}"\n')
    told = f"authz: asking the sidecar at {listener.url}, which "
    env: dict[str, str] = {"ADMIN_TOKEN": SIDECARS}
    code, _, err = authz("agent", "list", **env)
    assert (code, listener.token) == (0, f"Bearer {FILES}")
    assert err.startswith(f"{told}{home}/.meshguard/config names; ")
    env["MESHGUARD_URL"] = listener.url
    assert authz("agent", "list", **env)[2].startswith(f"{told}MESHGUARD_URL names; ")
    env["MESHGUARD_GATEWAY_URL"], env["MESHGUARD_URL"] = listener.url, "http://127.0.0.1:9"
    env["MESHGUARD_ADMIN_TOKEN"] = CLIENTS
    assert authz("agent", "list", **env)[2].startswith(f"{told}MESHGUARD_GATEWAY_URL names; ")
    assert listener.token == f"Bearer {CLIENTS}"
    authz("agent", "list", "--admin-token", OPTION, **env)
    assert listener.token == f"Bearer {OPTION}"


def test_an_api_key_in_the_file_is_a_token_where_there_is_no_other(
    home: Path, listener: Listener
) -> None:
    configured(home, f'MESHGUARD_URL="{listener.url}"\nMESHGUARD_API_KEY="{FILES}"\n')
    assert authz("agent", "list")[0] == 0
    assert listener.token == f"Bearer {FILES}"


@pytest.mark.parametrize("named", ['MESHGUARD_URL="http://a.example"\n', ""])
def test_the_files_token_does_not_go_to_another_gateway(
    home: Path, listener: Listener, named: str
) -> None:
    """Nor to any where the file names none."""
    configured(home, f'{named}MESHGUARD_ADMIN_TOKEN="{FILES}"\n')
    where = ("agent", "list", "--gateway", listener.url)
    assert authz(*where)[0] == 3
    assert listener.asked == []
    assert authz(*where, ADMIN_TOKEN=SIDECARS)[0] == 0
    assert listener.token == f"Bearer {SIDECARS}"


@pytest.mark.parametrize("redirect", [301, 302, 307, 308])
def test_a_token_follows_no_redirect(listener: Listener, redirect: int) -> None:
    listener.status = redirect
    code, out, err = authz("agent", "list", "--gateway", listener.url, "--admin-token", OPTION)
    assert (code, out, len(listener.asked)) == (5, "", 1)
    assert "it sends us to nowhere" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--gateway", "ftp://a"), 2, "--gateway: not a URL; write http://host:port or"
         " https://host"),
        (("--gateway", "http://a b"), 2, "--gateway: not a URL; write http://host:port or"
         " https://host"),
        (("--gateway", "http://me:pw@a"), 2, "--gateway: must not have a user or password in it"),
        (("--gateway", "http://a/?x"), 2, "--gateway: must not have a query or fragment"),
        (("--gateway", "http://a", "--local"), 2, "give --gateway or --local, not both"),
        (("--gateway", "http://a", "--database", "x.db"), 2,
         "give --gateway or --database, not both"),
        (("--admin-token", OPTION), 2, "--admin-token: is for a sidecar; name it with --gateway"),
        (("--gateway", "http://127.0.0.1:9"), 3, "no admin token: give --admin-token, or set"
         " MESHGUARD_ADMIN_TOKEN or ADMIN_TOKEN"),
        (("--gateway", "http://127.0.0.1:9", "--admin-token", "short"), 2,
         "--admin-token: shorter than 16 characters, which no admin token is"),
        (("--gateway", "http://127.0.0.1:9", "--admin-token", "@nowhere"), 2,
         "--admin-token: nowhere cannot be read: No such file or directory"),
        (("--gateway", "http://127.0.0.1:9", "--admin-token", f"{OPTION}\r\nhost: b"), 2,
         "--admin-token: has characters that no HTTP header can have"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_asked_is_a_sentence(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert authz("agent", "list", *arguments) == (code, "", f"authz: {said}\n")


# httpcore leaves the socket open that it could not connect; it is collected here, and not in the
# middle of whatever test comes next.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whoever_sends_a_token_in_the_clear_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_S", 0.01)
    env = {"MESHGUARD_ADMIN_TOKEN": OPTION}
    # 192.0.2.0/24 is for documentation: where the note stands nobody need answer.
    for url, is_told in (("http://192.0.2.1", True), ("http://[::1]:9", False)):
        code, _, err = authz("agent", "list", "--gateway", url, **env)
        assert code == 5
        assert ("is not encrypted" in err) is is_told
        assert OPTION not in err
    gc.collect()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MESHGUARD_URL\n=x\n", ":2: not a line like KEY="),
        ('OUTPUT_FORMAT="yaml"\n', ":1: OUTPUT_FORMAT must be table or json"),
        (f'MESHGUARD_URL="{"x" * 5000}"\n', ":1: MESHGUARD_URL must be printable ASCII"),
        ("x" * 70_000, ": larger than 65536 bytes"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_a_sentence(home: Path, text: str, said: str) -> None:
    file = configured(home, text)
    code, out, err = authz("agent", "list")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"authz: {file}{said}")


def test_nothing_in_the_file_is_filled_in(home: Path, listener: Listener) -> None:
    configured(
        home, f'MESHGUARD_URL={listener.url}\nMESHGUARD_ADMIN_TOKEN="${{JWT_SECRET}}-more"\n'
    )
    assert authz("agent", "list")[0] == 0
    assert listener.token == "Bearer ${JWT_SECRET}-more"


def test_whoever_lets_others_read_the_secrets_is_told(home: Path) -> None:
    file = configured(home, f'MESHGUARD_ADMIN_TOKEN="{FILES}"\n')
    file.chmod(0o644)
    assert authz("config", "list") == (
        0, "KEY          VALUE\nadmin-token  ********\n",
        f"authz: {file}: others can read the secrets in it; chmod 600 it\n",
    )  # fmt: skip
    assert authz("--quiet", "config", "list")[2] == ""
    # Written anew it is for its owner alone.
    assert authz("config", "set", "output-format", "table")[0] == 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_not_ours_in_the_file_stays(home: Path) -> None:
    file = configured(home, "# mine\nOTHER=1\nMESHGUARD_URL=http://a\nexport LAST=2")
    assert authz("config", "set", "gateway-url", "https://b.example")[0] == 0
    text = '# mine\nOTHER=1\nexport LAST=2\nMESHGUARD_URL="https://b.example"\n'
    assert file.read_text() == text
    assert authz("config", "unset", "gateway-url")[0] == 0
    assert file.read_text() == "# mine\nOTHER=1\nexport LAST=2\n"


# What a sidecar says.


def test_a_list_goes_on_over_pages(listener: Listener) -> None:
    listener.answers = [{"agents": [{"id": "a"}], "next": "a"}, {"agents": [{"id": "b"}]}]
    code, out, _ = authz("agent", "list", "--json", "--gateway", listener.url,
                         MESHGUARD_ADMIN_TOKEN=OPTION)  # fmt: skip
    assert code == 0
    assert {agent["id"] for agent in json.loads(out)["agents"]} == {"a", "b"}
    assert [path for _, path, _ in listener.asked] == [
        "/admin/agents?limit=1000", "/admin/agents?limit=1000&after=a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([b"<html>"], "HTTP 200 with no content type, and no JSON object"),
        ([b"[]"], "HTTP 200 with no content type, and no JSON object"),
        ([b"[" * 100_000], "HTTP 200 with no content type, and no JSON object"),
        ([{}], "its answer has no list of agents"),
        ([{"agents": [1]}], "its answer has no list of agents"),
        ([{"agents": [{}], "next": "a"}] * 2, "its list has no end"),
        ([{"agents": [], "next": "a"}], "its list has no end"),
        ([{"agents": [{}], "next": 7}], "its list has no end"),
        ([b" " * 3_000_000], "its answer is larger than 1 MiB"),
    ],
)
def test_what_is_no_sidecars_answer_is_code_5(
    listener: Listener,
    answers: list[dict[str, Any] | bytes],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "MAX_ANSWER", 1 << 20)
    listener.answers = list(answers)
    done = authz("agent", "list", "--gateway", listener.url, MESHGUARD_ADMIN_TOKEN=OPTION)
    assert done == (
        5, "", f"authz: {listener.url}: what answers there is no sidecar: {said}\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {}, 2), (401, {}, 3), (403, {}, 4), (404, {}, 1), (409, {}, 1), (422, {}, 2),
        (409, {"code": "delegation_revoked"}, 4), (429, {}, 1), (500, {}, 1),
        (503, {"code": "audit_unavailable"}, 1), (503, {"code": "circuit_open"}, 5),
    ],
)  # fmt: skip
def test_a_refusal_is_its_sentence_and_an_exit_code(
    listener: Listener, status: int, body: dict[str, str], code: int
) -> None:
    listener.status = status
    listener.answers = [{"error": "e", "message": "trustTier: no\x1b[2J", **body}]
    done = authz("agent", "list", "--gateway", listener.url, MESHGUARD_ADMIN_TOKEN=OPTION)
    assert done == (code, "", "authz: --trust: no\\x1b[2J\n")


def test_entries_that_lack_everything_are_shown_as_dashes(listener: Listener) -> None:
    listener.answers = [{"fuses": [{}, {"openUntil": "soon", "state": 7}]}]
    code, out, _ = authz("fuse", "list", "--gateway", listener.url, MESHGUARD_ADMIN_TOKEN=OPTION)
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["-", "7", *"----"], list("------"),
    ]  # fmt: skip


def test_a_name_that_cannot_stand_in_a_path_is_not_asked_for(listener: Listener) -> None:
    for name in ("a/b", "..", "a\\b"):
        code, _, err = authz("agent", "show", name, "--gateway", listener.url,
                             MESHGUARD_ADMIN_TOKEN=OPTION)  # fmt: skip
        assert (code, listener.asked) == (2, [])
        assert "cannot stand in a path" in err
    listener.answers = [{"id": "x"}]
    assert authz("agent", "show", "a?b#c d%2F", "--gateway", listener.url,
                 MESHGUARD_ADMIN_TOKEN=OPTION)[0] == 0  # fmt: skip
    assert listener.asked[0][1] == "/admin/agents/a%3Fb%23c%20d%252F"


def test_verbose_says_what_was_asked_and_not_with_what(listener: Listener) -> None:
    code, _, err = authz("--verbose", "agent", "list", "--gateway", listener.url,
                         MESHGUARD_ADMIN_TOKEN=OPTION)  # fmt: skip
    assert code == 0
    assert err.startswith("authz: GET /admin/agents?limit=1000 → 200 in ")
    assert OPTION not in err


def test_the_mode_is_asked_for_and_set(listener: Listener) -> None:
    listener.answers = [{"mode": "audit", "source": "api"}]
    where = ("--gateway", listener.url)
    env = {"MESHGUARD_ADMIN_TOKEN": OPTION}
    assert authz("mode", "show", *where, **env)[:2] == (0, "mode    audit\nsource  api\n")
    assert authz("mode", "set", "loud", *where, **env)[0] == 2


def test_a_sidecar_that_is_not_well_is_code_1(listener: Listener) -> None:
    listener.status = 503
    checks = {"database": "failing: disk I/O error"}
    listener.answers = [
        {"status": "unhealthy", "mode": "enforce", "checks": checks},
        {"status": "not_ready", "checks": checks},
    ]
    code, out, _ = authz("status", "--gateway", listener.url)
    assert code == 1
    assert "check database  failing: disk I/O error" in out
    assert {token for _, _, token in listener.asked} == {None}
    listener.answers = [{"error": "e", "code": "circuit_open", "message": "nobody is behind"}]
    assert authz("status", "--gateway", listener.url) == (
        5, "", f"authz: {listener.url}: nobody is behind\n",
    )  # fmt: skip


# Every command.


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    for name, one in command.commands.items():
        yield from leaves(one, (*path, name))


LEAVES: Final = dict(leaves(get_command(app)))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_a_command_takes_a_gateway_or_refuses_it(path: tuple[str, ...]) -> None:
    assert isinstance(LEAVES[path], LocalCommand | RemoteCommand)
    if isinstance(LEAVES[path], RemoteCommand):
        return
    required = [param for param in LEAVES[path].params if param.required]
    values = [
        text
        for param in required
        for text in ([param.opts[0], "1"] if param.opts[0].startswith("-") else ["1"])
    ]
    assert authz("--gateway", "http://a", *path, *values) == (
        2, "", f"authz: --gateway: `authz {' '.join(path)}` is about what is here, and asks no"
        " sidecar\n",
    )  # fmt: skip


def test_a_token_for_what_asks_no_sidecar_is_refused_by_its_own_name() -> None:
    assert authz("--admin-token", "/nowhere", "policy", "schema") == (
        2, "", "authz: --admin-token: `authz policy schema` is about what is here, and asks no"
        " sidecar\n",
    )  # fmt: skip


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_json_before_a_command_is_json_after_it(path: tuple[str, ...]) -> None:
    for param in LEAVES[path].params:
        if "--json" in param.opts:
            assert param.callback is not None, path


def test_json_may_be_asked_for_once_and_for_all(home: Path) -> None:
    mint = ("token", "mint", "--agent", "a")
    for before, env in (
        (["--json"], {}),
        ([], {FORMAT_VARIABLE: "json"}),
    ):
        assert set(json.loads(authz(*before, *mint, **env)[1])) == {"token", "expiresAt"}
        assert isinstance(json.loads(authz(*before, "settings", **env)[1]), list)
    configured(home, "OUTPUT_FORMAT=json\n")
    assert authz(*mint)[1].startswith("{")
    assert not authz(*mint, **{FORMAT_VARIABLE: "table"})[1].startswith("{")
    assert authz(*mint, **{FORMAT_VARIABLE: "xml"}) == (
        2, "", f"authz: {FORMAT_VARIABLE}: must be table or json\n",
    )  # fmt: skip


# Completion.


def test_ids_of_agents_here_are_offered_and_nothing_else(home: Path) -> None:
    assert agents_like("") == []
    for name in ("ann", "ann-2", "bob", "$(reboot)", "a b"):
        assert authz("agent", "create", "x", "--id", name)[0] == 0
    assert agents_like("") == ["ann", "ann-2", "bob"]
    assert agents_like("ann") == ["ann", "ann-2"]
    assert agents_like("' OR 1=1 --") == []
    (home / "audit.db").write_text("no database" * 1000)
    assert agents_like("") == []


def test_completion_looks_where_commands_look(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIT_DB_PATH")
    default = Settings.model_fields["audit_db_path"].default
    assert authz("agent", "create", "x", "--id", "ann", AUDIT_DB_PATH=str(home / default))[0] == 0
    assert agents_like("") == ["ann"]


def _process(code: str, **env: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    ).stdout  # fmt: skip


def test_a_shell_is_offered_commands_and_words() -> None:
    run = "import sys; sys.argv = ['authz']; from authz.cli import main; main()"
    env = {"_AUTHZ_COMPLETE": "complete_bash"}
    offered = _process(run, COMP_WORDS="authz agent list --status ", COMP_CWORD="4", **env)
    assert offered.split() == ["active", "revoked"]
    offered = _process(run, COMP_WORDS="authz mode set ", COMP_CWORD="3", **env)
    assert offered.split() == ["enforce", "audit", "bypass"]
    shown = _process(
        "import sys; sys.argv = ['authz', '--show-completion', 'bash']\n"
        "from authz.cli import main; main()",
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    assert "complete -o default -F _authz_completion authz" in shown


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    loaded = _process("import sys, authz.cli; print(*sys.modules)").split()
    heavy = {"cryptography", "fastapi", "grpc", "httpx", "jwt", "peewee", "pydantic_settings",
             "rich.table", "uvicorn", "yaml", "authz.core.explain", "authz.settings"}  # fmt: skip
    assert not heavy & set(loaded)
