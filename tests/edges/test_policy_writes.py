"""Policies put in place and removed over HTTP: done, recorded and in force, or as before."""

import asyncio
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.core.errors import AuditUnavailable
from authz.core.policy_file import MAX_FILE
from authz.edges import policy_changes
from authz.stores import policy_files
from authz.stores.audit_log import AuditLog
from authz.stores.policies import PolicyDirectory
from authz.stores.policy_files import PolicyFiles
from tests.edges.world import ADMIN, World

POLICY = """\
name: {name}
version: "{version}"
appliesTo: {{agentIds: ["*"]}}
rules: [{{effect: allow, actions: ["{action}"]}}]
defaultEffect: deny
"""
#: Three documents, with comments everywhere.
MANY = f"""\
# The first line is everybody's.
{POLICY.format(name="first", version="1", action="read:*")}# after the first
---  # the second
# above the second
{POLICY.format(name="second", version="1", action="write:*")}
---
kind: RiskWallet
name: first
version: "1"
capacity: 10
window: 1h
# the end
"""
YAML = {"Content-Type": "application/yaml"}


def text(name: str, version: str = "1", action: str = "read:*") -> str:
    return POLICY.format(name=name, version=version, action=action)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.policies.mkdir()
    (made.policies / "many.yaml").write_text(MANY)
    made.loaded = PolicyDirectory(made.policies).read()
    made.versions.start(made.loaded.snapshot)
    yield made
    made.close()


def put(
    world: World, name: str, body: str | bytes, query: str = "", **headers: str
) -> httpx.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return world.ask(
        "PUT",
        f"/admin/policies/{name}{query}",
        headers={**ADMIN, **YAML, **named},
        content=body,
    )


def delete(world: World, name: str, query: str = "", **headers: str) -> httpx.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return world.ask("DELETE", f"/admin/policies/{name}{query}", headers={**ADMIN, **named})


def files(world: World) -> dict[str, str]:
    """Everything that is below POLICIES_DIR, hidden files too."""
    root = world.policies
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def rows(world: World) -> list[tuple[str, str]]:
    return [(row["action"], row["resource"]) for row in world.rows() if "policy:" in row["action"]]


def in_force(world: World) -> dict[str, str]:
    return {policy.name: policy.version for policy in world.versions.current.policies}


# What is done.


def test_a_new_policy_gets_a_file_of_its_own_and_is_in_force(world: World) -> None:
    answer = put(world, "Third one", text("Third one"))
    assert answer.status_code == 201
    said = answer.json()
    assert (said["file"], said["inForce"], said["warnings"]) == ("third-one.yaml", True, [])
    assert (said["policy"]["id"], said["policy"]["active"]) == ("Third one", True)
    assert said["policyVersion"] == world.versions.current.version
    assert "note" not in said
    assert files(world) == {"many.yaml": MANY, "third-one.yaml": text("Third one")}
    assert in_force(world) == {"first": "1", "second": "1", "Third one": "1"}
    [row] = [row for row in world.rows() if row["action"] == "policy:put"]
    assert (row["resource"], row["reason"], row["code"]) == (
        "Policy Third one",
        "by admin",
        "changed",
    )
    assert row["metadata"] == {
        "after": {
            "file": "third-one.yaml",
            "version": "1",
            "sha256": hashlib.sha256(text("Third one").encode()).hexdigest(),
            "text": text("Third one"),
        }
    }


def test_a_document_is_replaced_and_its_neighbours_are_not(world: World) -> None:
    new = "# mine\n" + text("second", "2")
    answer = put(world, "second", new)
    assert (answer.status_code, answer.json()["file"]) == (200, "many.yaml")
    head, rest = MANY.split("---  # the second")
    assert files(world) == {"many.yaml": f"{head}---\n{new}---{rest.split('---')[1]}"}
    assert in_force(world) == {"first": "1", "second": "2"}
    [row] = [row for row in world.rows() if row["action"] == "policy:put"]
    assert (row["metadata"]["before"]["version"], row["metadata"]["after"]["version"]) == ("1", "2")
    assert "above the second" in row["metadata"]["before"]["text"]


def test_what_was_read_is_put_back_without_a_change(world: World) -> None:
    for name, query in (("first", ""), ("second", ""), ("first", "?kind=RiskWallet")):
        read = world.ask(
            "GET", f"/admin/policies/{name}{query}",
            headers={**ADMIN, "Accept": "application/yaml"},
        )  # fmt: skip
        assert read.headers["content-type"].startswith("application/yaml")
        answer = put(world, name, read.content, query)
        assert (answer.status_code, answer.json()["note"]) == (200, "it was so before")
    assert files(world) == {"many.yaml": MANY}
    assert rows(world) == []


def test_what_somebody_else_has_just_written_is_in_force_when_it_is_answered(world: World) -> None:
    (world.policies / "many.yaml").write_text(text("second", "2"))
    answer = put(world, "second", text("second", "2")).json()
    assert (answer["note"], answer["inForce"]) == ("it was so before", True)
    assert answer["policyVersion"] == world.versions.current.version
    assert in_force(world) == {"second": "2"}
    assert rows(world) == []


def test_names_are_of_a_kind(world: World) -> None:
    wallet = 'kind: RiskWallet\nname: first\nversion: "2"\ncapacity: 20\nwindow: 1h\n'
    answer = put(world, "first", wallet)
    assert (answer.status_code, answer.json()["policy"]["kind"]) == (200, "RiskWallet")
    assert in_force(world) == {"first": "1", "second": "1"}
    assert rows(world) == [("policy:put", "RiskWallet first")]
    assert put(world, "first", wallet, "?kind=RouteMap").status_code == 400
    assert delete(world, "first", "?kind=RiskWallet").json()["file"] == "many.yaml"
    assert not world.versions.current.chain
    assert in_force(world) == {"first": "1", "second": "1"}


def test_json_is_stored_as_yaml(world: World) -> None:
    said = {
        "name": "on",
        "version": "1.10",
        "appliesTo": {"tags": ["no", "é\u2603"]},
        "rules": [{"effect": "allow", "actions": ["*", "1e3"], "conditions": {"context.a": 1e3}}],
        "defaultEffect": "deny",
    }
    answer = put(world, "on", json.dumps(said), Content_Type="application/json")
    assert answer.status_code == 201
    shown = answer.json()["policy"]
    assert {key: shown[key] for key in ("name", "version", "appliesTo")} == {
        key: said[key] for key in ("name", "version", "appliesTo")
    }
    assert shown["rules"][0]["actions"] == ["*", "1e3"]
    assert files(world)["on.yaml"].startswith("name: 'on'\nversion: '1.10'\n")


def test_a_document_is_removed_and_then_its_file(world: World) -> None:
    answer = delete(world, "second")
    assert answer.json() == {
        "name": "second",
        "deleted": True,
        "file": "many.yaml",
        "inForce": True,
        "policyVersion": world.versions.current.version,
    }
    head, rest = MANY.split("---  # the second")
    assert files(world) == {"many.yaml": f"{head}---{rest.split('---')[1]}"}
    assert delete(world, "second").status_code == 404
    assert delete(world, "first", "?kind=RiskWallet").status_code == 200
    answer = delete(world, "first")
    assert answer.json()["note"] == "no valid policy is left: every decision is a denial"
    assert files(world) == {}
    assert in_force(world) == {}
    assert [action for action, _ in rows(world)] == ["policy:delete"] * 3
    last = world.rows()[-2]
    assert (last["action"], "after" in last["metadata"]) == ("policy:delete", False)
    # And the reload's own row, which says what is in force since.
    assert world.rows()[-1]["action"] == "policies:reload"


def test_another_file_that_has_the_name_counts_then(world: World) -> None:
    (world.policies / "zzz.yaml").write_text(text("second", "old"))
    world.loaded = PolicyDirectory(world.policies).read()
    answer = delete(world, "second")
    assert answer.json()["note"] == "zzz.yaml:1 has one of this name too, which counts now"
    assert in_force(world)["second"] == "old"


def test_a_pin_holds_and_is_said(world: World) -> None:
    version = world.versions.current.version
    world.admin("POST", "/policies/pin")
    said = put(world, "third", text("third")).json()
    assert (said["inForce"], said["policy"]["active"], said["policyVersion"]) == (
        False, False, version,
    )  # fmt: skip
    assert "is pinned" in said["note"]
    # It is there, and not in force.
    assert world.admin("GET", "/policies/third").json()["active"] is False
    world.admin("POST", "/policies/unpin")
    assert in_force(world)["third"] == "1"


# Conditions.


def test_whoever_has_seen_something_else_replaces_nothing(world: World) -> None:
    tags = [
        world.ask("GET", "/admin/policies/second", headers={**ADMIN, "Accept": accept}).headers[
            "etag"
        ]
        for accept in ("application/json", "text/yaml")
    ]
    assert tags[0] != tags[1]
    assert put(world, "second", text("second", "2"), If_Match=f'"x", {tags[0]}').status_code == 200
    for tag in tags:
        assert put(world, "second", text("second", "3"), If_Match=tag).status_code == 412
        assert delete(world, "second", If_Match=tag).status_code == 412
    assert put(world, "second", text("second", "3"), If_None_Match="*").status_code == 412
    assert put(world, "none", text("none"), If_Match="*").status_code == 412
    assert delete(world, "none", If_Match="*").status_code == 412
    assert in_force(world) == {"first": "1", "second": "2"}
    assert put(world, "none", text("none"), If_None_Match="*").status_code == 201
    assert put(world, "none", text("none", "2"), If_Match="*").status_code == 200
    assert [action for action, _ in rows(world)] == ["policy:put"] * 3


def test_a_condition_that_is_sent_twice_counts_twice(world: World) -> None:
    tag = world.admin("GET", "/policies/second").headers["etag"]
    for name, values, status in (
        ("If-None-Match", ('"x"', "*"), 412),
        ("If-None-Match", ('"x"', tag), 412),
        ("If-Match", ('"x"', '"y"'), 412),
        ("If-Match", ('"x"', tag), 200),
    ):
        headers = [*ADMIN.items(), *YAML.items(), *((name, value) for value in values)]
        answer = world.ask(
            "PUT", "/admin/policies/second", headers=headers, content=text("second", "2")
        )
        assert (name, values, answer.status_code) == (name, values, status)


# What is refused.


@pytest.mark.parametrize(
    ("name", "body", "media", "status", "message"),
    [
        ("x", "", "application/yaml", 400, "the body is missing"),
        ("x", text("x"), "text/plain", 415, "content-type: "),
        ("x", text("x"), "application/json", 400, "the body is not JSON"),
        ("x", '{"name": "x", "name": "x"}', "application/json", 400, "the body is not JSON"),
        ("x", '{"name": "\\ud800"}', "application/json", 400, "the body is not JSON"),
        ("x", "[" * 100_000, "application/json", 400, "the body is not JSON"),
        ("x", "[" * 100_000, "application/yaml", 422, "line 1: nested deeper"),
        ("x", "[]", "application/json", 422, "a policy is a mapping"),
        ("x", "name: x\nrules: []\n", "application/yaml", 422, "line 2: "),
        ("x", text("y"), "application/yaml", 400, "name: the document is called `y`"),
        ("x", text("X"), "application/yaml", 400, "name: "),
        ("x", text("x") + "---\n" + text("y"), "text/yaml", 400, "the body has 2 documents"),
        ("x", text("x") + "---\n" + text("x"), "text/yaml", 422, "line 7: the policy name"),
        ("x", "kind: Pod\nname: x\n", "application/yaml", 422, "line 1: unknown kind"),
        ("versions", text("versions"), "application/yaml", 405, "/admin/policies/versions does"),
        ("pin", text("pin"), "application/yaml", 405, "/admin/policies/pin does not take PUT"),
        ("bundle", text("bundle"), "application/yaml", 405, "/admin/policies/bundle does not"),
        ("bundle.sig", text("bundle.sig"), "application/yaml", 405, "/admin/policies/bundle.sig"),
        ("x", "#" * (256 * 1024 + 1), "application/yaml", 413, "the body is larger"),
    ],
)
def test_what_cannot_be_put_changes_nothing(
    world: World, name: str, body: str, media: str, status: int, message: str
) -> None:
    answer = put(world, name, body, Content_Type=media)
    assert (answer.status_code, answer.json()["message"][: len(message)]) == (status, message)
    assert len(answer.json()["message"]) < 300
    assert files(world) == {"many.yaml": MANY}
    assert rows(world) == []


@pytest.mark.parametrize("name", ["..", "../x", "%2e%2e%2fx", "a%00b", "%2Fetc%2Fpasswd"])
def test_no_name_is_a_path(world: World, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    request = httpx.Request("PUT", "http://a/admin/policies/x", headers={**ADMIN, **YAML})
    path = f"/admin/policies/{name}".encode()
    request.url = request.url.copy_with(raw_path=path)
    with httpx.Client(transport=_Into(world)) as client:
        answer = client.send(
            client.build_request("PUT", request.url, headers=request.headers, content=text("x"))
        )
    assert answer.status_code in (400, 404, 405)
    assert sorted(tmp_path.rglob("*")) == before


class _Into(httpx.BaseTransport):
    """Sends what a client has built to a world's application, as it is."""

    def __init__(self, world: World) -> None:
        self._world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._world.app)
            body = request.read()
            made = httpx.Request(request.method, request.url, headers=request.headers, content=body)
            answer = await transport.handle_async_request(made)
            return httpx.Response(answer.status_code, content=await answer.aread())

        return self._world._runner.run(send())


@pytest.mark.parametrize("name", ["a b", "ünicode", "x" * 256, "..x", "-", "a.yaml", "CON", "💥"])
def test_any_name_makes_a_plain_file(world: World, name: str) -> None:
    answer = put(world, name, json.dumps({
        "name": name, "version": "1", "appliesTo": {"tags": ["x"]}, "defaultEffect": "deny",
        "rules": [{"effect": "allow", "actions": ["a"]}],
    }), Content_Type="application/json")  # fmt: skip
    assert answer.status_code == 201
    file = answer.json()["file"]
    assert set(file) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert (len(file) < 80, file.startswith((".", "-"))) == (True, False)
    assert (world.policies / file).parent == world.policies
    assert name in in_force(world)


def test_two_names_that_are_alike_are_two_files(world: World) -> None:
    for name in ("a b", "a-b", "A_B"):
        put(world, name, text(name))
    assert sorted(files(world)) == ["a-b-2.yaml", "a-b-3.yaml", "a-b.yaml", "many.yaml"]


def test_a_file_that_would_be_too_large_stays(world: World) -> None:
    (world.policies / "many.yaml").write_text(MANY + "#" * (MAX_FILE - len(MANY) - 1))
    world.loaded = PolicyDirectory(world.policies).read()
    answer = put(world, "second", "# " + "x" * 1000 + "\n" + text("second", "2"))
    assert answer.status_code == 409
    assert "split it first" in answer.json()["message"]
    assert in_force(world)["second"] == "1"


# What is in the way.


def test_a_config_map_is_changed_elsewhere(world: World) -> None:
    data = world.policies / "..1"
    data.mkdir()
    (world.policies / "many.yaml").rename(data / "many.yaml")
    (world.policies / "..data").symlink_to("..1")
    (world.policies / "many.yaml").symlink_to("..data/many.yaml")
    world.loaded = PolicyDirectory(world.policies).read()
    for answer in (
        put(world, "second", text("second", "2")),
        put(world, "new", text("new")),
        delete(world, "second"),
    ):
        assert answer.status_code == 409
        assert "ConfigMap" in answer.json()["message"]
    assert (data / "many.yaml").read_text() == MANY
    assert rows(world) == []
    # It can be looked at all the same.
    shown = world.ask(
        "GET", "/admin/policies/first", headers={**ADMIN, "Accept": "application/yaml"}
    )
    assert shown.text.startswith("# The first line")


def test_no_link_leads_out_of_the_directory(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "linked.yaml").write_text(text("linked"))
    (world.policies / "team").symlink_to(outside)
    world.loaded = PolicyDirectory(world.policies).read()
    world.versions.reload(world.loaded.snapshot)
    assert in_force(world)["linked"] == "1"
    assert put(world, "linked", text("linked", "2")).status_code == 409
    assert delete(world, "linked").status_code == 409
    assert (outside / "linked.yaml").read_text() == text("linked")
    assert [path.name for path in outside.iterdir()] == ["linked.yaml"]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EROFS, 409), (errno.EACCES, 409), (errno.ENOSPC, 503), (errno.EDQUOT, 503),
        (errno.EIO, 503),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["second", "new"])
def test_a_directory_that_cannot_be_written_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, status: int, name: str
) -> None:
    before = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".new"):
            raise OSError(number, os.strerror(number))
        return before(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    answer = put(world, name, text(name, "2"))
    assert answer.status_code == status
    assert os.strerror(number) in answer.json()["message"]
    assert str(world.policies) not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
    assert files(world) == {"many.yaml": MANY}
    assert rows(world) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert put(world, "second", text("second", "2")).status_code == 503
    assert files(world) == {"many.yaml": MANY}


@pytest.mark.parametrize("ask", [
    lambda world: put(world, "second", text("second", "2")),
    lambda world: put(world, "new", text("new")),
    lambda world: delete(world, "second"),
])  # fmt: skip
def test_what_cannot_be_recorded_is_not_done(
    world: World, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    def refuse(*_: object) -> None:
        raise AuditUnavailable("the audit store does not take writes")

    monkeypatch.setattr(AuditLog, "begin", refuse)
    answer = ask(world)
    assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")
    assert files(world) == {"many.yaml": MANY}
    assert in_force(world) == {"first": "1", "second": "1"}


def test_a_file_that_somebody_else_changes_meanwhile_is_theirs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = PolicyFiles.commit

    def late(self: PolicyFiles, edit: policy_files.Edit) -> None:
        (world.policies / "many.yaml").write_text(MANY + "# theirs\n")
        commit(self, edit)

    monkeypatch.setattr(PolicyFiles, "commit", late)
    answer = put(world, "second", text("second", "2"))
    assert (answer.status_code, answer.json()["message"]) == (
        409, "many.yaml has changed just now; ask again",
    )  # fmt: skip
    assert files(world) == {"many.yaml": MANY + "# theirs\n"}
    # It was recorded before it was tried, so what became of it is recorded too.
    assert rows(world) == [("policy:put", "Policy second"), ("policy:undo", "Policy second")]


def test_what_would_not_be_in_force_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = PolicyFiles.commit
    theirs = text("new", "theirs")

    def late(self: PolicyFiles, edit: policy_files.Edit) -> None:
        commit(self, edit)
        if edit.after is not None:
            (world.policies / "a-first.yaml").write_text(theirs)

    monkeypatch.setattr(PolicyFiles, "commit", late)
    answer = put(world, "new", text("new"))
    assert answer.status_code == 409
    assert answer.json()["message"].endswith(": a-first.yaml:1 has its name too")
    assert str(world.policies) not in answer.text
    assert files(world) == {"many.yaml": MANY, "a-first.yaml": theirs}
    assert rows(world) == [("policy:put", "Policy new"), ("policy:undo", "Policy new")]
    assert in_force(world)["new"] == "theirs"


def test_a_file_that_is_bad_is_mended_by_hand(world: World) -> None:
    (world.policies / "many.yaml").write_text(MANY.replace("capacity: 10", "capacity: ten"))
    read = PolicyDirectory(world.policies)
    (world.policies / "many.yaml").write_text(MANY)
    read.read()
    (world.policies / "many.yaml").write_text("nothing: good\n")
    world.loaded = read.read()
    answer = put(world, "second", text("second", "2"))
    assert (answer.status_code, "mend or remove" in answer.json()["message"]) == (409, True)
    shown = world.admin("GET", "/policies/second").json()
    assert (shown["stale"], shown["file"]) == (True, "many.yaml")


def test_a_file_keeps_its_permissions(world: World) -> None:
    (world.policies / "many.yaml").chmod(0o600)
    put(world, "second", text("second", "2"))
    assert (world.policies / "many.yaml").stat().st_mode & 0o777 == 0o600


def test_a_long_text_is_cut_in_its_row(world: World) -> None:
    put(world, "new", text("new") + "#" * 20_000)
    [row] = [row for row in world.rows() if row["action"] == "policy:put"]
    shown = row["metadata"]["after"]["text"]
    assert shown.endswith("more bytes")
    assert len(shown) < policy_changes.MAX_RECORDED + 50


# At the same time.


def _all(world: World, requests: list[tuple[str, str, str]]) -> list[int]:
    """Send requests together; the statuses."""

    async def send() -> list[int]:
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            answers = await asyncio.gather(
                *(
                    client.request(
                        method, f"/admin/policies/{name}", headers={**ADMIN, **YAML}, content=body
                    )
                    for method, name, body in requests
                )
            )
        return [answer.status_code for answer in answers]

    return world._runner.run(send())


def test_changes_at_once_are_one_after_the_other(world: World) -> None:
    requests = [("PUT", f"p{n}", text(f"p{n}")) for n in range(8)]
    requests += [("PUT", "second", text("second", str(n))) for n in range(2, 6)]
    requests += [("DELETE", "first", "")]
    statuses = _all(world, requests)
    assert sorted(statuses) == [200] * 5 + [201] * 8
    assert {f"p{n}" for n in range(8)} <= in_force(world).keys()
    assert (in_force(world)["second"] != "1", "first" in in_force(world)) == (True, False)
    assert not [name for name in files(world) if name.startswith(".")]
    assert len(rows(world)) == 13


def test_whoever_waits_too_long_is_told_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_changes, "TURN_S", 0.01)
    prepare = PolicyFiles.prepare

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return prepare(*args)

    monkeypatch.setattr(PolicyFiles, "prepare", slow)
    statuses = _all(world, [("PUT", "a", text("a")), ("PUT", "b", text("b"))])
    assert sorted(statuses) == [201, 503]
    assert len(rows(world)) == 1


def test_two_who_have_seen_the_same_do_not_both_replace_it(world: World) -> None:
    tag = world.admin("GET", "/policies/second").headers["etag"]

    async def send() -> list[int]:
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            headers = {**ADMIN, **YAML, "If-Match": tag}
            answers = await asyncio.gather(
                *(
                    client.put(
                        "/admin/policies/second", headers=headers, content=text("second", str(n))
                    )
                    for n in range(2, 5)
                )
            )
        return sorted(answer.status_code for answer in answers)

    assert world._runner.run(send()) == [200, 412, 412]


def test_only_an_administrator_may(world: World) -> None:
    for method in ("PUT", "DELETE"):
        for headers in ({}, world.agent("ann"), {"X-Admin-Token": "x"}):
            for prefix in ("", "/api/v1"):
                answer = world.ask(
                    method, f"{prefix}/admin/policies/second", headers={**headers, **YAML},
                    content=text("second", "2"),
                )  # fmt: skip
                assert answer.status_code == 401
    assert files(world) == {"many.yaml": MANY}
