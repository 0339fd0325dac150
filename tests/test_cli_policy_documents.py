"""`authz policy list`, `show`, `apply`, `delete` and `allowed`, of POLICIES_DIR.

What is put in place is there wholly or not at all, whatever stands in the way.
"""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from typer.testing import CliRunner

from authz.cli import app
from tests.builders import SECRET

ONE: Final = """\
# who may read
name: reader
version: "1"
appliesTo: {tags: [docs], trustTiers: [trusted]}
rules:
  - {effect: allow, actions: ["read:*"]}  # everything
defaultEffect: deny
"""
MANY: Final = """\
---
name: first
appliesTo: {agentIds: ["*"]}
rules: [{id: go, effect: allow, actions: ["go:*"]}]
---  # the second
name: second
appliesTo: {}
rules: [{effect: deny, actions: ["go:home"]}]
---
kind: PrivilegeFloors
name: floors
version: "3"
floors: [{actions: ["admin:*"], tier: privileged}]
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)


def authz(*arguments: object) -> Done:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def policy(*arguments: object) -> Done:
    return authz("policy", *arguments)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sidecar's own place, with `policies` in it."""
    for name in [*os.environ]:
        if name.startswith(("MESHGUARD", "AUTHZ")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("POLICIES_DIR", "policies")
    monkeypatch.setenv("AUDIT_DB_PATH", "audit.db")
    monkeypatch.setenv("JWT_SECRET", SECRET)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "one.yaml").write_text(ONE)
    (tmp_path / "policies" / "many.yaml").write_text(MANY)
    return tmp_path


def files(directory: Path = Path("policies")) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def new(name: str, actions: str = '"new:*"', **more: str) -> str:
    lines = "".join(f"{key}: {value}\n" for key, value in more.items())
    return (
        f'name: {name}\nversion: "9"\nappliesTo: {{agentIds: ["*"]}}\n'
        f"rules: [{{effect: allow, actions: [{actions}]}}]\ndefaultEffect: deny\n{lines}"
    )


# What there is.


def test_the_list(here: Path) -> None:
    (here / "policies" / "bad.yaml").write_text("name: [")
    done = policy("list")
    assert (done.code, done.err) == (0, "")
    assert [re.split(r"\s{2,}", line) for line in done.out.splitlines()] == [
        ["NAME", "VERSION", "RULES", "DEFAULT", "APPLIES", "FILE"],
        ["first", "-", "1", "deny", "everybody", "many.yaml"],
        ["reader", "1", "1", "deny", "tags: docs; tiers: trusted", "one.yaml"],
        ["second", "-", "1", "deny", "nobody", "many.yaml"],
        [""],
        ["KIND", "NAME", "VERSION", "FILE"],
        ["PrivilegeFloors", "floors", "3", "many.yaml"],
    ]
    body = policy("list", "--json").body
    assert [(one["id"], one["active"], one["rules"][0]["id"]) for one in body["policies"]] == [
        ("first", True, "go"), ("reader", True, "rules[0]"), ("second", False, "rules[0]"),
    ]  # fmt: skip
    assert [one["name"] for one in body["documents"]] == ["floors"]


def test_one_is_shown_as_its_file_has_it() -> None:
    assert policy("show", "reader") == (0, ONE, "")
    assert policy("show", "second").out == MANY[MANY.index("---  #") : MANY.rindex("---")]
    floors = policy("show", "floors", "--kind", "PrivilegeFloors")
    assert floors.out == MANY[MANY.rindex("---") :]
    assert policy("show", "first", "--json").body["rules"] == [
        {"id": "go", "effect": "allow", "actions": ["go:*"]}
    ]
    assert policy("show", "floors") == (1, "", "authz: there is no policy floors in policies\n")
    assert policy("show", "x", "--kind", "RiskWallet").err == (
        "authz: there is no RiskWallet x in policies\n"
    )


def test_what_somebody_wrote_does_not_reach_the_terminal(here: Path) -> None:
    (here / "policies" / "bad\x1b.yaml").write_text(new('"a\\u001b[2J"', description="x\u202e"))
    for command in (("list",), ("show", "a\x1b[2J"), ("show", "no\x1b[2J")):
        done = policy(*command)
        assert not {"\x1b", "\u202e"} & set(done.out + done.err)


@pytest.mark.parametrize(
    "command", [("list",), ("show", "x"), ("delete", "x", "--yes"), ("allowed", "x")]
)
def test_without_a_directory_there_is_a_sentence(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICIES_DIR", "nowhere")
    assert policy(*command) == (2, "", "authz: POLICIES_DIR: nowhere is not a directory\n")


# Putting in place.


def test_a_file_is_put_in_place(here: Path) -> None:
    (here / "new.yaml").write_text(new("My New/Policy"))
    before = files()
    assert policy("apply", "new.yaml", "--dry-run") == (
        0, "My New/Policy: would be created (my-new-policy.yaml)\n", "",
    )  # fmt: skip
    assert files() == before
    assert policy("apply", "new.yaml").out == "My New/Policy: created (my-new-policy.yaml)\n"
    assert files() == {**before, "my-new-policy.yaml": new("My New/Policy")}
    assert policy("apply", "new.yaml").out == "My New/Policy: unchanged (my-new-policy.yaml)\n"


def test_what_is_replaced_leaves_its_neighbours_alone(here: Path) -> None:
    (here / "new.yaml").write_text(new("second"))
    done = policy("apply", "new.yaml", "--json")
    assert done.body == {
        "dryRun": False,
        "documents": [
            {"kind": "Policy", "name": "second", "outcome": "replaced", "file": "many.yaml"}
        ],
    }
    start, end = MANY.index("---  #"), MANY.rindex("---")
    assert files()["many.yaml"] == f"{MANY[:start]}---\n{new('second')}{MANY[end:]}"


def test_a_directory_is_applied_as_one(here: Path) -> None:
    given = here / "given"
    given.mkdir()
    (given / "a.yaml").write_text(new("reader") + "---\n" + new("first"))
    (given / "b.yaml").write_text(new("third"))
    (given / "c.txt").write_text("nothing")
    done = policy("apply", "given")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "reader: replaced (one.yaml)", "first: replaced (many.yaml)", "third: created (third.yaml)",
    ]  # fmt: skip
    assert policy("apply", "given").out.count("unchanged") == 3
    assert policy("apply", "policies").out.count("unchanged") == 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.yaml", "name: x\n"),
        ("same.yaml", new("third")),
        ("empty.yaml", ""),
        ("suite.yaml", "tests: []\n"),
    ],
)
def test_one_error_and_nothing_is_applied(here: Path, name: str, text: str) -> None:
    given = here / "given"
    given.mkdir()
    (given / "a.yaml").write_text(new("third"))
    (given / name).write_text(text)
    before = files()
    done = policy("apply", "given")
    assert (done.code, done.out) == (2, "")
    assert f"given/{name}:" in done.err
    assert files() == before
    assert policy("apply", "given", "nowhere").code == 2


def test_an_edit_that_fails_takes_those_before_it_back(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "new.yaml").write_text(
        "---\n".join(new(name) for name in ("reader", "third", "first", "fourth"))
    )
    before, real = files(), os.fsync
    written: list[int] = []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    done = policy("apply", "new.yaml")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("not written: No space left on device\n")
    assert files() == before


def test_what_would_not_be_in_force_is_taken_back(here: Path) -> None:
    # A file with errors has it: what it says now is unknown, and its other documents too.
    (here / "policies" / "one.yaml").write_text(ONE + "---\nname: broken\n")
    (here / "policies" / "a.yaml").write_text("name: [")
    (here / "new.yaml").write_text(new("reader"))
    before = files()
    done = policy("apply", "new.yaml")
    assert (done.code, files().keys() - before.keys()) == (0, {"reader.yaml"})
    (here / "policies" / "0.yaml").write_text(new("reader", '"old:*"'))
    before = files()
    (here / "again.yaml").write_text(new("reader", '"other:*"'))
    assert policy("apply", "again.yaml").out == "reader: replaced (0.yaml)\n"


def test_links_are_not_written_through(here: Path) -> None:
    outside = here / "outside.yaml"
    outside.write_text(new("third"))
    (here / "policies" / "link.yaml").symlink_to(outside)
    (here / "new.yaml").write_text(new("third", '"other:*"'))
    done = policy("apply", "new.yaml")
    assert done.code == 1
    assert "link" in done.err
    assert outside.read_text() == new("third")
    assert policy("delete", "third").code == 1
    assert outside.exists()
    # To look at it is another thing.
    assert policy("show", "third").out == new("third")


# Removing.


def test_one_is_removed_and_its_file_with_the_last_one() -> None:
    assert policy("delete", "first") == (0, "first: deleted (many.yaml)\n", "")
    assert files()["many.yaml"] == MANY[MANY.index("---  #") :]
    floors = policy("delete", "floors", "--kind", "PrivilegeFloors", "--json")
    assert floors.body == {
        "kind": "PrivilegeFloors", "name": "floors", "outcome": "deleted", "file": "many.yaml",
    }  # fmt: skip
    policy("delete", "second")
    assert policy("delete", "reader").out == (
        "reader: deleted (one.yaml); no valid policy is left: every decision is a denial\n"
    )
    assert files() == {}
    assert policy("delete", "reader") == (1, "", "authz: there is no policy reader in policies\n")


def test_of_two_the_other_one_counts_then(here: Path) -> None:
    (here / "policies" / "two.yaml").write_text(new("reader"))
    done = policy("delete", "reader")
    assert done.out == (
        "reader: deleted (one.yaml); policies/two.yaml:1 has one of this name too, which counts"
        " now\n"
    )


# What an agent may do.


def test_what_a_registered_agent_may_do() -> None:
    policy("delete", "floors", "--kind", "PrivilegeFloors")
    created = authz("agent", "create", "Ann", "--id", "ann", "--tag", "docs", "--trust", "trusted")
    assert created.code == 0
    done = policy("allowed", "ann")
    assert (done.code, done.err) == (0, "")
    who, policies, *table = done.out.splitlines()
    assert (who, policies) == ("ann: tier trusted, tags docs", "policies: reader, first")
    assert [re.split(r"\s{2,}", line) for line in table] == [
        ["ACTIONS", "ANSWER", "POLICY", "RULE", "ONLY", "EXCEPT"],
        ["read:*", "allow", "reader", "rules[0]", "-", "-"],
        ["go:*", "allow", "first", "go", "-", "-"],
    ]
    lower = policy("allowed", "ann", "--tier", "verified", "--json").body
    assert (lower["trustTier"], lower["tags"], lower["policies"]) == (
        "verified",
        ["docs"],
        ["first"],
    )
    assert lower["permissions"] == [
        {"actions": "go:*", "decision": "allow", "code": "rule_allowed", "policy": "first",
         "rule": "go", "only": [], "except": []},
    ]  # fmt: skip
    assert authz("agent", "revoke", "ann", "--yes").code == 0
    assert policy("allowed", "ann") == (
        1, "", "authz: agent ann is revoked: every request of it is refused\n",
    )  # fmt: skip


def test_an_agent_that_is_not_registered_is_what_the_options_say() -> None:
    done = policy("allowed", "bob", "--all")
    assert done.code == 0
    assert done.err == (
        "authz: agent bob is not registered: taken for one of tier verified without tags; --tier"
        " and --tag say otherwise\n"
    )
    assert [line.split()[:2] for line in done.out.splitlines()[3:]] == [
        ["go:*", "allow"], ["admin:*", "deny"], ["*", "deny"],
    ]  # fmt: skip
    done = policy("allowed", "bob", "--tier", "trusted", "--tag", "docs")
    assert (done.code, done.err) == (0, "")
    assert "policies: reader, first\n" in done.out
    assert policy("allowed", "bob", "--tier", "saint").code == 2


def test_who_may_do_nothing(here: Path) -> None:
    for file in (here / "policies").iterdir():
        file.unlink()
    done = policy("allowed", "bob", "--tier", "basic")
    assert done.out == "bob: tier basic\npolicies: none is for it\nit may do nothing\n"
