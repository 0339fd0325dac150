"""`authz policy --gateway`: what a sidecar elsewhere is asked, and what is made of its answers.

The gateway is a small one of our own, so that it can also answer what no sidecar does.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from authz.cli import app
from authz.core.policy_entry import document_entry
from authz.core.policy_file import parse_file
from tests.test_cli_policy_documents import MANY, ONE, Done, new

TOKEN: Final = "an admin token of the tests"


class Request(NamedTuple):
    """What the gateway was asked."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    kind: str


class Gateway:
    """Documents by their names, as a sidecar answers for them."""

    def __init__(self) -> None:
        self.url = ""
        self.texts: dict[tuple[str, str], str] = {}
        self.asked: list[Request] = []
        #: What is answered instead, by method and the end of the path.
        self.instead: dict[tuple[str, str], tuple[int, Any]] = {}
        self.agents: dict[str, dict[str, Any]] = {}

    def have(self, text: str) -> None:
        for document in yaml.safe_load_all(text):
            key = document.get("kind", "Policy"), document["name"]
            self.texts[key] = yaml.safe_dump(document, sort_keys=False)

    def answer(self, request: Request) -> tuple[int, Any]:
        for (method, end), answer in self.instead.items():
            if request.method == method and request.path.endswith(end):
                return answer
        parts = request.path.split("/")[2:]
        if parts[0] == "agents":
            found = self.agents.get(parts[1])
            return (200, found) if found else (404, refusal("there is no such agent"))
        if parts == ["policies"]:
            return 200, self.listed(request)
        if request.method == "POST" and parts[1] == "validate":
            return self.validated(request.body)
        return self.one(request, (request.query.get("kind", "Policy"), parts[1]))

    def listed(self, request: Request) -> Any:
        policies = [self.entry(key) for key in sorted(self.texts) if key[0] == "Policy"]
        others = [self.entry(key) for key in sorted(self.texts) if key[0] != "Policy"]
        place = int(request.query.get("after", 0))
        page: dict[str, Any] = {"policies": policies[place : place + 2]}
        if not place:
            page["documents"] = others
        if place + 2 < len(policies):
            page["next"] = str(place + 2)
        return page

    def one(self, request: Request, key: tuple[str, str]) -> tuple[int, Any]:
        there = key in self.texts
        if request.method == "PUT":
            self.texts[key] = request.body.decode()
            return 200 if there else 201, {"policy": self.entry(key), "file": "x.yaml", "note": "n"}
        if not there:
            return 404, refusal(f"there is no policy {key[1]}")
        if request.method == "DELETE":
            del self.texts[key]
            return 200, {"file": "x.yaml"}
        if request.kind == "application/yaml":
            return 200, self.texts[key]
        return 200, self.entry(key)

    def entry(self, key: tuple[str, str]) -> dict[str, Any]:
        parsed = parse_file(self.texts[key].encode(), "x")
        said = [placed.policy.said for placed in parsed.policies]
        said += [placed.document.said for placed in parsed.chain]
        return {**document_entry(json.loads(said[0]), active=True), "file": "x.yaml"}

    def validated(self, body: bytes) -> tuple[int, Any]:
        problems = parse_file(body, "x").problems
        told: dict[str, list[Any]] = {"errors": [], "warnings": []}
        for one in problems:
            place = {
                "line": one.line,
                "column": one.column,
                "message": one.message,
                "lint": one.lint,
            }
            told[f"{one.severity}s"].append(place)
        status = 422 if told["errors"] else 200
        return status, {**told, **(refusal("it is not valid") if told["errors"] else {})}


def refusal(message: str, **more: Any) -> dict[str, Any]:
    return {"error": "refused", "message": message, **more}


class Handler(BaseHTTPRequestHandler):
    """The gateway's HTTP."""

    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        kind = self.headers.get("content-type", "") or str(self.headers.get("accept", ""))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = Request(
            self.command, unquote(parts.path), query, self.rfile.read(length), kind
        )  # fmt: skip
        self.gateway.asked.append(asked)
        assert self.headers["authorization"] == f"Bearer {TOKEN}"
        status, said = self.gateway.answer(asked)
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        is_text = isinstance(said, str)
        self.send_header("content-type", "application/yaml" if is_text else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - BaseHTTPRequestHandler's names

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("POLICIES_DIR", "none")
    for name in ("MESHGUARD_GATEWAY_URL", "MESHGUARD_URL", "MESHGUARD_OUTPUT_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    made = Gateway()
    handler = type("Bound", (Handler,), {"gateway": made})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        made.have(ONE)
        made.have(MANY)
        with contextlib.ExitStack() as stack:
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            yield made


@pytest.fixture
def policy(gateway: Gateway) -> Callable[..., Done]:
    def run(*arguments: object) -> Done:
        given = ["policy", *map(str, arguments), "--gateway", gateway.url]
        done = CliRunner().invoke(app, given)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert TOKEN not in done.stdout + done.stderr
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


Run = Callable[..., Done]


def test_the_list_is_gone_through_page_by_page(policy: Run, gateway: Gateway) -> None:
    done = policy("list")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["NAME", "VERSION"], ["first", "-"], ["reader", "1"], ["second", "-"], [],
        ["KIND", "NAME"], ["PrivilegeFloors", "floors"],
    ]  # fmt: skip
    assert [request.query for request in gateway.asked] == [{}, {"after": "2"}]
    assert len(policy("list", "--json").body["documents"]) == 1


def test_one_is_shown(policy: Run, gateway: Gateway) -> None:
    assert policy("show", "reader").out == gateway.texts["Policy", "reader"]
    assert policy("show", "floors", "--kind", "PrivilegeFloors").out.startswith("kind: Priv")
    assert policy("show", "reader", "--json").body["id"] == "reader"
    assert policy("show", "nobody") == (1, "", "authz: there is no policy nobody\n")
    assert policy("show", "../agents").code == 2
    gateway.instead["GET", "/reader"] = 200, {"name": "reader"}
    assert "it does not show documents as YAML" in policy("show", "reader").err


def test_documents_are_put_in_place(policy: Run, gateway: Gateway, tmp_path: Path) -> None:
    floors = "kind: PrivilegeFloors\nname: floors\nfloors: [{actions: [x], tier: basic}]\n"
    given = "---\n".join((new("reader"), new("third"), floors))
    (tmp_path / "new.yaml").write_text(given)
    before = dict(gateway.texts)
    assert policy("apply", "new.yaml", "--dry-run").out.splitlines() == [
        "reader: would be replaced", "third: would be created",
        "PrivilegeFloors floors: would be replaced",
    ]  # fmt: skip
    assert gateway.texts == before
    assert policy("apply", "new.yaml").out.splitlines() == [
        "reader: replaced (x.yaml); n", "third: created (x.yaml); n",
        "PrivilegeFloors floors: replaced (x.yaml); n",
    ]  # fmt: skip
    assert policy("apply", "new.yaml").out.count("unchanged") == 3
    puts = [request for request in gateway.asked if request.method == "PUT"]
    assert {request.kind for request in puts} == {"application/yaml"}
    assert [request.query for request in puts] == [{}, {}, {"kind": "PrivilegeFloors"}]


def test_what_the_gateway_finds_wrong_stops_all_of_it(
    policy: Run, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "new.yaml").write_text(f"{new('third')}---\n{new('fourth')}")
    errors = [{"line": 2, "column": 3, "message": "not \x1b here"}, "and this"]
    gateway.instead["POST", "/validate"] = 422, refusal("no", errors=errors, warnings=[])
    done = policy("apply", "new.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "authz: new.yaml:2:3: error: not \\x1b here", "authz: new.yaml:1:1: error: and this",
    ]  # fmt: skip
    assert not [request for request in gateway.asked if request.method == "PUT"]


def test_what_cannot_be_put_in_place_is_said_with_what_was(
    policy: Run, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "new.yaml").write_text(f"{new('third')}---\n{new('fourth')}---\n{new('fifth')}")
    gateway.instead["PUT", "/fourth"] = 409, refusal("POLICIES_DIR cannot be written")
    done = policy("apply", "new.yaml")
    assert (done.code, done.out) == (1, "third: created (x.yaml); n\n")
    assert done.err.splitlines() == [
        "authz: 1 of 3 documents were looked at before, and are as was said",
        "authz: new.yaml:6: POLICIES_DIR cannot be written",
    ]
    assert ("Policy", "fifth") not in gateway.texts


def test_a_document_is_removed(policy: Run, gateway: Gateway) -> None:
    assert policy("delete", "reader").out == "reader: deleted (x.yaml)\n"
    assert ("Policy", "reader") not in gateway.texts
    assert policy("delete", "reader") == (1, "", "authz: there is no policy reader\n")


def test_what_an_agent_there_may_do(policy: Run, gateway: Gateway) -> None:
    gateway.agents["ann"] = {
        "id": "ann", "name": "Ann", "trustTier": "trusted", "tags": ["docs"], "status": "active",
    }  # fmt: skip
    done = policy("allowed", "ann")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("ann: tier trusted, tags docs\npolicies: reader, first\n")
    assert "agent bob is not registered" in policy("allowed", "bob").err
    gateway.agents["ann"]["status"] = "revoked"
    assert policy("allowed", "ann").code == 1
    gateway.agents["ann"] = {"id": "ann", "trustTier": 7}
    assert policy("allowed", "ann").code == 5
    gateway.instead["GET", "/policies"] = 200, {"policies": [{"name": "x"}]}
    assert "its policies cannot be read" in policy("allowed", "bob").err


def test_a_file_is_looked_at_document_by_document(
    policy: Run, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(f"# one\n{ONE}---\n{MANY}")
    done = policy("validate", "a.yaml")
    assert done.code == 0
    # As it is said of the whole file here.
    assert done.out == CliRunner().invoke(app, ["policy", "validate", "a.yaml"]).stdout
    assert done.out.count("a.yaml:") == 5
    assert [request.path for request in gateway.asked] == ["/admin/policies/validate"] * 4
    (tmp_path / "b.yaml").write_text("name: x\nrules: [\n")
    done = policy("validate", "b.yaml", "--json")
    assert done.code == 1
    assert done.body["problems"][0]["file"] == "b.yaml"
    assert policy("validate").code == 2
    gateway.instead["POST", "/validate"] = 200, {"valid": True}
    assert policy("validate", "a.yaml").code == 5


def test_a_call_is_judged_there(policy: Run, gateway: Gateway, tmp_path: Path) -> None:
    said = {
        "decision": "deny", "policy": "p", "rule": "r", "reason": "be\x1bcause",
        "applicable": [
            {"policy": "p", "says": "deny by rule 1", "defaultEffect": "deny", "rules": [
                {"number": 1, "effect": "deny", "actions": ["a:*"], "outcome": "match"},
                {"number": 2, "effect": "allow", "actions": ["b"], "outcome": "skip", "why": "no"},
                7,
            ]},
            "x",
        ],
    }  # fmt: skip
    gateway.instead["POST", "/test"] = 200, said
    assert policy("test", "ann", "a:b") == (1, "DENY (rule: r, policy: p)\n", "")
    done = policy("test", "--agent", "ann", "--action", "a:b", "--context", '{"x": 1}', "--verbose")
    assert (done.code, done.out.splitlines()) == (1, [
        "Decision: DENY", "Policy: p", "Rule: r", "Reason: be\\x1bcause", "p: deny by rule 1",
        "  Rule 1: deny a:* → MATCH", "  Rule 2: allow b → SKIP (no)", "  defaultEffect: deny",
    ])  # fmt: skip
    assert [json.loads(request.body) for request in gateway.asked] == [
        {"agentId": "ann", "action": "a:b"},
        {"agentId": "ann", "action": "a:b", "context": {"x": 1}, "verbose": True},
    ]
    gateway.instead["POST", "/test"] = 200, {"decision": "would_deny"}
    (tmp_path / "p.yaml").write_text(ONE)
    done = policy("test", "--agent", "a", "--action", "b", "--policy", "p.yaml", "--tier", "basic")
    assert (done.code, done.out.splitlines()[0]) == (0, "Decision: ALLOW (dry run: would be DENY)")
    sent = json.loads(gateway.asked[-1].body)
    assert (sent["policy"], sent["trustTier"]) == (ONE, "basic")
    assert policy("test", "a", "b", "--context", "[]").code == 2
    assert policy("test", "--file", "p.yaml").code == 2
    gateway.instead["POST", "/test"] = 200, {}
    assert policy("test", "a", "b").code == 5


def test_files_are_looked_at_here_unless_the_command_line_says_otherwise(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHGUARD_GATEWAY_URL", gateway.url)
    (tmp_path / "p.yaml").write_text(ONE)
    assert CliRunner().invoke(app, ["policy", "validate", "p.yaml"]).exit_code == 0
    given = ["policy", "test", "a", "read:x", "--policy", "p.yaml"]
    assert CliRunner().invoke(app, given).exit_code == 1
    assert not gateway.asked
    assert CliRunner().invoke(app, ["policy", "list"]).exit_code == 0
    assert gateway.asked


def test_versions_of_a_gateway(policy: Run, gateway: Gateway) -> None:
    entries = [
        {"version": "b", "activatedAt": "T2", "why": "reload", "pinned": True,
         "policies": [{"name": "p", "version": "1"}]},
        {"version": "a", "activatedAt": "T1", "deactivatedAt": "T2", "policies": "x"},
    ]  # fmt: skip
    gateway.instead["GET", "/versions"] = 200, {"versions": entries}
    assert [line.split() for line in policy("versions", "--at", "2026-05-04").out.splitlines()] == [
        ["VERSION", "FROM", "UNTIL", "WHY", "POLICIES"],
        ["b", "T2", "now", "reload,", "pinned", "p", "1"],
        ["a", "T1", "T2", "-", "-"],
    ]
    assert gateway.asked[0].query == {"at": "2026-05-04T00:00:00.000000Z", "limit": "20"}
    gateway.instead["GET", "/versions"] = 200, {"versions": []}
    assert policy("versions") == (1, "", "authz: no policies were in force yet\n")
    for command, path, said in (
        (("pin",), "/pin", "version v is in force, until `authz policy unpin`\n"),
        (("pin", "v"), "/pin", "version v is in force, until `authz policy unpin`\n"),
        (("unpin",), "/release", "version v of the files is in force\n"),
        (("release",), "/release", "version v of the files is in force\n"),
    ):
        gateway.instead["POST", path] = 200, {"version": "v", "pinned": False}
        assert policy(*command) == (0, said, "")
    assert [r.body for r in gateway.asked if r.path.endswith("/pin")] == [b"", b'{"version":"v"}']


@pytest.mark.parametrize(
    "said", [{}, {"policies": 7}, {"policies": ["x"]}, {"policies": [], "next": 7}]
)
def test_a_list_that_is_none(policy: Run, gateway: Gateway, said: Any) -> None:
    gateway.instead["GET", "/policies"] = 200, said
    done = policy("list")
    assert (done.code, done.out) == (5, "")
    assert "what answers there is no sidecar: " in done.err


def test_the_version_that_a_gateway_names_does_not_reach_the_terminal(
    policy: Run, gateway: Gateway
) -> None:
    named = {"version": "a\x1b]0;b\x07\u202e\n", "pinned": True}
    for command in (("rollback", "a"), ("pin",), ("unpin",), ("release",)):
        gateway.instead["POST", command[0].replace("unpin", "release")] = (200, named)
        done = policy(*command)
        assert done.code == 0
        assert done.out.startswith(r"version a\x1b]0;b\x07\u202e\n ")
        assert policy(*command, "--json").body == named
