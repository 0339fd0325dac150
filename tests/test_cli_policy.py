"""`authz policy`: every command and option, what is printed, and the exit code of each way to end.

Exit codes are CONTRACT §14's: 0 yes, 1 no, 2 what is given cannot be used, 3 refused, 5 nobody
there.
Whatever somebody else chose, a file's name or an agent's id, is shown and never obeyed. Records are
made by a real gate and a real audit log, so that a replay has to know what the gate knew.
"""

import contextlib
import gc
import itertools
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from authz.cli import app
from authz.cli.policy.records import asked_of
from authz.cli.policy.versions import named
from authz.core import call as calls
from authz.core import policy_diff
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.pattern import fold
from authz.core.policy_file import parse_file
from authz.core.snapshot import Snapshot
from authz.core.sources import Source
from authz.core.stages import CHAIN
from authz.core.suggest import Seen, is_sayable, suggest
from authz.core.timestamps import seconds_of
from authz.core.verdict import Decision, judge
from authz.stores.audit_log import AuditLog, AuditReader
from authz.stores.policies import load_paths
from authz.stores.versions import Versions
from tests import builders
from tests.builders import bearer, check_request, gate
from tests.e2e import sidecar, upstream

ROOT: Final = Path(__file__).parents[1]
SAMPLES: Final = ROOT / "policies"

READER: Final = """\
name: reader
version: "1"
appliesTo: {tags: [docs]}
rules:
  - {id: no-drafts, effect: deny, actions: ["*:drafts/*"], reason: drafts are private}
  - {effect: allow, actions: ["read:*", "list"]}
defaultEffect: deny
"""
#: A rule for each fact that a call can have.
FACTS: Final = """\
name: facts
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {id: pay, effect: allow, actions: ["pay"], conditions: {context.amount: {lte: 100}}}
  - {id: tagged, effect: allow, actions: ["tagged"], conditions: {agent.tags: {contains: ops}}}
  - {id: tier, effect: allow, actions: ["tier"], conditions: {agent.trustTier: {gte: trusted}}}
  - {id: org, effect: allow, actions: ["org"], conditions: {agent.orgId: acme}}
  - {id: name, effect: allow, actions: ["name"], conditions: {agent.name: Ann}}
  - {id: resource, effect: allow, actions: ["resource"], conditions: {resource: docs/1}}
  - {id: post, effect: allow, actions: ["post"], conditions: {method: POST}}
  - {id: host, effect: allow, actions: ["host"], conditions: {host: upstream.example}}
  - {id: path, effect: allow, actions: ["path"], conditions: {path: {endsWith: /ok}}}
  - {id: asked, effect: allow, actions: ["asked"], conditions: {method: {exists: false}}}
  - {id: plain, effect: allow, actions: ["plain"], conditions: {context.x: {exists: false}}}
  - {id: read, effect: allow, actions: ["read:*"]}
  - {id: human, effect: require_approval, actions: ["ask"]}
defaultEffect: deny
"""


class Done(NamedTuple):
    """A command that has ended by itself."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, and an environment that names no other."""
    monkeypatch.chdir(tmp_path)
    for name in ("POLICIES_DIR", "AUDIT_DB_PATH", "DB_PATH", "AUTHZ_RUN_DIR", "ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def authz(*arguments: str | Path, **env: str) -> Done:
    """Run `authz policy ARGUMENTS` here."""
    done = CliRunner().invoke(app, ["policy", *map(str, arguments)], env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---------------------------------------------------------------- validate


def test_valid_policies_are_counted() -> None:
    write("policies/a.yaml", READER)
    write("policies/deep/b.yml", READER.replace("reader", "other"))
    write("policies/.hidden/c.yaml", "nonsense: [")
    assert authz("validate") == (0, "2 policies in 2 files, 0 errors, 0 warnings\n", "")
    assert authz("validate", "policies") == authz("validate")
    assert authz("validate", POLICIES_DIR="policies/deep").code == 0


def test_a_warning_fails_only_where_it_should() -> None:
    write("a.yaml", READER.replace('version: "1"\n', ""))
    said = "a.yaml:1:1: warning: the policy has no version\n"
    for arguments, code in (("a.yaml",), 0), (("a.yaml", "--strict"), 1):
        done = authz("validate", *arguments)
        assert (done.code, done.out.partition("\n")[0] + "\n", done.err) == (code, said, "")


def test_an_error_fails_and_the_other_files_count() -> None:
    write("a.yaml", READER.replace("effect: allow", "effect: permit"))
    write("b.yaml", READER)
    done = authz("validate", "a.yaml", "b.yaml")
    assert done.code == 1
    assert done.out.splitlines()[0] == (
        "a.yaml:6:14: error: unknown effect `permit` (one of 'allow', 'deny' or 'require_approval')"
    )
    assert "1 error" in done.out.splitlines()[-1]


def test_files_that_take_each_others_names_are_one_set() -> None:
    write("one/a.yaml", READER)
    write("two.yaml", READER)
    done = authz("validate", "one", "two.yaml", "one/a.yaml")
    assert done.code == 1
    assert done.out.splitlines()[0] == (
        "two.yaml:1:1: error: the policy name `reader` is taken by one/a.yaml:1;"
        " this one is not loaded [duplicate-name]"
    )


def test_no_policy_at_all_is_not_valid() -> None:
    Path("policies").mkdir()
    done = authz("validate")
    assert (done.code, done.err) == (1, "")
    assert done.out.endswith("no policy applies to anybody: every decision would be a denial\n")
    write("policies/nobody.yaml", READER.replace("appliesTo: {tags: [docs]}\n", ""))
    assert authz("validate").code == 1


WALLET: Final = "kind: RiskWallet\nname: daily\ncapacity: 10\nwindow: 24h\n"


def test_documents_of_other_kinds_are_counted_apart() -> None:
    write("policies/wallet.yaml", WALLET)
    assert authz("validate") == (
        0,
        "0 policies, 1 other documents in 1 files, 0 errors, 0 warnings\n",
        "",
    )
    write("policies/a.yaml", READER)
    done = authz("validate")
    assert done.out == "1 policies, 1 other documents in 2 files, 0 errors, 0 warnings\n"
    body = authz("validate", "--json").body
    assert (body["policies"], body["otherDocuments"]) == (1, 1)
    write("policies/wallet.yaml", WALLET.replace("24h", "24"))
    done = authz("validate")
    assert done.code == 1
    assert done.out.startswith("policies/wallet.yaml:4:9: error: a duration is a whole number")


def test_what_is_not_there_is_named() -> None:
    write("a.yaml", READER)
    assert authz("validate", "none", "a.yaml", "no ne.yaml") == (
        2,
        "",
        "authz: none: there is no such file or directory\n"
        "authz: no ne.yaml: there is no such file or directory\n",
    )
    assert authz("validate") == (2, "", "authz: policies: there is no such file or directory\n")


def test_what_cannot_be_read_is_an_error_in_its_place() -> None:
    Path("link.yaml").symlink_to("nowhere.yaml")
    os.mkfifo("pipe.yaml")
    done = authz("validate", "link.yaml", "pipe.yaml")
    assert done.code == 1
    assert done.out.splitlines()[:2] == [
        "link.yaml:1:1: error: cannot be read: No such file or directory",
        "pipe.yaml:1:1: error: cannot be read: not a regular file",
    ]


@pytest.mark.parametrize("option", [("--json",), ("--format", "json")])
def test_validation_as_json(option: tuple[str, ...]) -> None:
    write("a.yaml", READER.replace('"list"]', '"list", "read:x"]'))
    done = authz("validate", "a.yaml", *option)
    assert done.code == 0
    assert done.body == {
        "valid": True,
        "policies": 1,
        "otherDocuments": 0,
        "files": 1,
        "version": load_paths([Path("a.yaml")]).snapshot.version,
        "errors": 0,
        "warnings": 1,
        "problems": [
            {
                "file": "a.yaml",
                "line": 6,
                "column": 49,
                "severity": "warning",
                "message": "the pattern `read:x` never decides: `read:*` in the same rule matches"
                " everything that it does",
                "lint": "dead-pattern",
            }
        ],
    }
    assert authz("validate", "a.yaml", "--strict", *option).body["valid"] is False


def test_problems_as_annotations() -> None:
    name = "100%,a:b\r\n.yaml"
    write(name, READER.replace('"list"]', '"list", "read:x"]').replace("defaultEffect: deny\n", ""))
    done = authz("validate", name, "--format", "github")
    assert done.code == 0
    assert done.out.split("\n")[:2] == [
        "::warning file=100%25%2Ca%3Ab%0D%0A.yaml,line=1,col=1,title=policy::"
        "no defaultEffect; `deny` is used",
        "::warning file=100%25%2Ca%3Ab%0D%0A.yaml,line=6,col=49,title=dead-pattern::"
        "the pattern `read:x` never decides: `read:*` in the same rule matches everything that it"
        " does",
    ]


def test_an_unknown_format_is_an_argument() -> None:
    assert authz("validate", "--format", "xml").code == 2


def test_a_files_name_stays_on_its_line() -> None:
    write("a\n::error::b\x1b[31m.yaml", "nonsense")
    done = authz("validate", ".")
    assert done.out.splitlines()[0].startswith(r"a\n::error::b\x1b[31m.yaml:1:1: error: ")


@pytest.mark.parametrize("command", [("validate",), ("test", "a", "read:x"), ("versions",)])
def test_a_deep_directory_is_like_any_other(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = Path("d" * 100)
    write(str(deep / "policies/a.yaml"), READER)
    monkeypatch.chdir(deep)
    done = authz(*command)
    assert "AUTHZ_RUN_DIR" not in done.err
    assert done.code < 2


# ---------------------------------------------------------------- schema


def test_the_schema_is_one_and_fits_the_samples() -> None:
    done = authz("schema")
    assert (done.code, done.err) == (0, "")
    jsonschema.Draft202012Validator.check_schema(done.body)
    assert done.body["$schema"].endswith("/2020-12/schema")


# ---------------------------------------------------------------- test: one call


def test_one_call_by_options_is_four_facts() -> None:
    write("p.yaml", READER)
    asked = ("test", "--policy", "p.yaml", "--agent", "a", "--tag", "docs")
    assert authz(*asked, "--action", "read:drafts/1") == (
        1,
        "Decision: DENY\nPolicy: reader\nRule: no-drafts\nReason: drafts are private\n",
        "",
    )
    assert authz(*asked, "--action", "READ:x") == (
        0,
        "Decision: ALLOW\nPolicy: reader\nRule: rules[1]\nReason: rule_allowed\n",
        "",
    )
    assert authz("test", "--policy", "p.yaml", "--agent", "a", "--action", "list") == (
        1,
        "Decision: DENY\nPolicy: default\nRule: default-deny\n"
        "Reason: no policy applies to agent a\n",
        "",
    )


def test_one_call_by_position_is_one_line() -> None:
    write("p.yaml", READER)
    asked = ("test", "--policies", "p.yaml", "--tag", "docs", "a")
    assert authz(*asked, "read:drafts/1") == (1, "DENY (rule: no-drafts, policy: reader)\n", "")
    assert authz(*asked, "list") == (0, "ALLOW (rule: rules[1], policy: reader)\n", "")


def test_a_call_can_be_asked_of_several_policies_and_of_the_default_ones() -> None:
    write("policies/p.yaml", READER)
    write("other.yaml", READER.replace("reader", "other").replace("docs", "more"))
    asked = ("--tag", "more", "a", "list")
    assert authz("test", *asked).code == 1
    assert authz("test", "--policy", "policies", "--policy", "other.yaml", *asked).code == 0
    assert authz("test", *asked, POLICIES_DIR="other.yaml").code == 0


TRACE: Final = """\

reader (p.yaml:1): deny by rule 1
  Rule 1: deny *:drafts/* → MATCH
  Rule 2: allow read:*, list → NOT REACHED (rule 1 decided before it)
  defaultEffect: deny

Do not apply to this agent:
  facts (q.yaml:1): appliesTo.orgIds
"""


def test_verbose_adds_every_rule() -> None:
    write("p.yaml", READER)
    write("q.yaml", FACTS.replace('{agentIds: ["*"]}', "{orgIds: [acme]}"))
    asked = ("--policy", "p.yaml", "--policy", "q.yaml", "--tag", "docs")
    assert authz("test", *asked, "--verbose", "a", "read:drafts/1") == (
        1,
        "DENY (rule: no-drafts, policy: reader)\n" + TRACE,
        "",
    )
    assert authz("explain", *asked, "--agent", "a", "--action", "read:drafts/1") == (
        0,
        "Decision: DENY\nPolicy: reader\nRule: no-drafts\nReason: drafts are private\n" + TRACE,
        "",
    )


@pytest.mark.parametrize(
    ("action", "no", "yes"),
    [
        ("pay", ("--context", '{"amount": 101}'), ("--context", '{"amount": 100}')),
        ("tagged", ("--tag", "op"), ("--tag", "x", "--tag", "ops")),
        ("tier", (), ("--tier", "elevated")),
        ("org", ("--org", "emca"), ("--org", "acme")),
        ("resource", ("--resource", "doc"), ("--resource", "docs/1")),
        ("post", ("--method", "GET"), ("--method", "POST")),
        ("path", ("--path", "/ko"), ("--path", "/a/%6Fk")),
        ("asked", ("--path", "/x"), ()),
    ],
)  # fmt: skip
def test_every_fact_has_its_option(action: str, no: tuple[str, ...], yes: tuple[str, ...]) -> None:
    write("p.yaml", FACTS)
    for command, code in (("test", 1), ("explain", 0)):
        given = (command, "--policy", "p.yaml", "--agent", "a", "--action", action)
        denied, allowed = authz(*given, *no), authz(*given, *yes)
        assert denied.out.startswith("Decision: DENY\nPolicy: facts\nRule: default-deny\n")
        assert allowed.out.startswith(f"Decision: ALLOW\nPolicy: facts\nRule: {action}\n")
        assert (denied.code, allowed.code) == (code, 0)


def test_what_needs_approval_or_a_tier_is_denied() -> None:
    write("p.yaml", FACTS.replace("id: read,", "id: read, requiredTrustTier: trusted,"))
    assert authz("test", "--policy", "p.yaml", "a", "ask") == (
        1, "REQUIRE_APPROVAL (rule: human, policy: facts)\n", "",
    )  # fmt: skip
    done = authz("test", "--policy", "p.yaml", "--agent", "a", "--action", "read:x")
    assert (done.code, done.out.splitlines()[2:]) == (
        1,
        [
            "Rule: privilege:insufficient-trust-tier",
            "Reason: policy facts allows read:* only from tier trusted on",
        ],
    )


DRY: Final = """\
name: dry
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {id: freeze, effect: deny, actions: ["write:*"], enforcement: dry_run}
  - {id: write, effect: allow, actions: ["write:x"]}
  - {id: open, effect: allow, actions: ["admin:*"], enforcement: dry_run}
defaultEffect: deny
"""


def test_a_dry_run_denies_nothing_and_says_so() -> None:
    write("p.yaml", DRY)
    asked = ("test", "--policy", "p.yaml")
    assert authz(*asked, "a", "write:x") == (0, "WOULD_DENY (rule: freeze, policy: dry)\n", "")
    done = authz(*asked, "--agent", "a", "--action", "write:x", "--verbose")
    assert (done.code, done.out.splitlines()[0]) == (0, "Decision: ALLOW (dry run: would be DENY)")
    assert "  Rule 1: deny write:* (dry run) → MATCH" in done.out.splitlines()
    assert authz(*asked, "a", "write:y").code == 1
    assert authz(*asked, "a", "admin:x").code == 1


def test_a_trace_says_what_a_dry_run_does_not_enforce() -> None:
    write("p.yaml", DRY)
    out = authz("explain", "--policy", "p.yaml", "--agent", "a", "--action", "admin:x").out
    assert "dry (p.yaml:1): allow by rule 3 (a dry run; enforced: deny by defaultEffect)" in out


def test_one_call_as_json() -> None:
    write("p.yaml", READER)
    write("q.yaml", FACTS.replace('{agentIds: ["*"]}', "{trustTiers: [privileged]}"))
    asked = ("--policy", "p.yaml", "--policy", "q.yaml", "--tag", "docs", "--json")
    done = authz("test", *asked, "--verbose", "a", "read:drafts/1")
    assert (done.code, done.err) == (1, "")
    assert done.body == {
        "decision": "deny",
        "code": "rule_denied",
        "stage": "policy",
        "policy": "reader",
        "rule": "no-drafts",
        "ruleIndex": 0,
        "reason": "drafts are private",
        "applicable": [
            {
                "policy": "reader",
                "source": "p.yaml:1",
                "says": "deny by rule 1",
                "rules": [
                    {"number": 1, "effect": "deny", "actions": ["*:drafts/*"], "outcome": "match"},
                    {
                        "number": 2,
                        "effect": "allow",
                        "actions": ["read:*", "list"],
                        "outcome": "late",
                        "why": "rule 1 decided before it",
                    },
                ],
                "defaultEffect": "deny",
            }
        ],
        "others": [{"policy": "facts", "because": "appliesTo.trustTiers"}],
    }
    explained = authz("explain", *asked, "--agent", "a", "--action", "read:drafts/1")
    assert (explained.code, explained.out) == (0, done.out)
    missing = authz("test", "--policy", "p.yaml", "a", "list", "--json").body
    assert None not in missing.values()
    assert missing["applicable"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give an agent and an action, or --file SUITE"),
        (("a",), "give an agent and an action, or --file SUITE"),
        (("--agent", "a"), "give an agent and an action, or --file SUITE"),
        (("--action", "x"), "give an agent and an action, or --file SUITE"),
        (("a", "x", "--file", "s.yaml"), "give --file or a call, not both"),
        (("--agent", "a", "--file", "s.yaml"), "give --file or a call, not both"),
        (("a", " "), "the action is empty"),
        (("a", "read:é"), "X-MeshGuard-Action: only printable ASCII characters are allowed"),
        (("a", "x" * 8193), "X-MeshGuard-Action: longer than 8192 characters"),
        (("a", "x", "--resource", "a\nb"),
         "resource: unprintable characters, or longer than 8192 characters"),
        (("a", "x", "--path", "/a/../b"), "path: contains a . or .. segment"),
        (("a", "x", "--path", "/a//b"), "path: contains an empty segment (//)"),
        (("a", "x", "--path", "/a%2Fb"), "path: contains an encoded slash"),
        (("a", "x", "--method", "X" * 33), "method: longer than 32 characters"),
        (("a", "x", "--tier", "emperor"),
         "--tier: unknown trust tier (one of unverified, basic, verified, trusted, privileged)"),
        (("a", "x", "--policy", "none.yaml"), "none.yaml: there is no such file or directory"),
    ],
)  # fmt: skip
def test_a_call_that_nobody_can_make_is_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    write("policies/p.yaml", READER)
    assert authz("test", *arguments) == (2, "", f"authz: {said}\n")


@pytest.mark.parametrize(
    "context",
    [
        "{",
        "[1]",
        "null",
        pytest.param('{"amount": NaN}'),
        pytest.param('{"amount": 1e999}'),
        pytest.param('{"amount": 500, "amount": 5}'),
        pytest.param('{"a":' * 5000 + "1" + "}" * 5000),
        pytest.param(json.dumps({"a": "x" * 8192})),
        pytest.param(json.dumps({"a": [[]] * 300})),
    ],
    ids=lambda context: context[:24],
)
@pytest.mark.parametrize("command", ["test", "explain"])
def test_a_context_that_tells_nothing_is_refused(command: str, context: str) -> None:
    write("policies/p.yaml", FACTS)
    done = authz(command, "--agent", "a", "--action", "pay", "--context", context)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("authz: --context: ")
    assert done.err.count("\n") == 1


def test_a_context_as_large_as_the_gate_reads_it_counts() -> None:
    write("policies/p.yaml", FACTS)
    padding = "x" * (8192 - len('{"amount":5,"a":""}') - 10)
    context = f'{{"amount":5,"a":"{padding}"}}'
    assert authz("test", "a", "pay", "--context", context).code == 0


def test_a_call_is_not_asked_twice() -> None:
    write("policies/p.yaml", READER)
    assert authz("test", "a", "read:x", "--agent", "b").code == 2
    assert authz("test", "a", "read:x", "--action", "read:y").code == 2


@pytest.mark.parametrize("command", [("test", "a", "x"), ("explain", "--agent=a", "--action=x")])
def test_bad_policies_have_no_answer(command: tuple[str, ...]) -> None:
    write("policies/a.yaml", READER)
    write("policies/b.yaml", READER.replace("reader", "b").replace("effect: allow", "effect: no"))
    done = authz(*command)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0].startswith("policies/b.yaml:6:14: error: ")
    assert done.err.splitlines()[-1] == (
        "authz: the policies have errors; `authz policy validate` prints all problems"
    )


def test_what_a_policy_and_a_suite_say_stays_on_its_line() -> None:
    hostile, shown = json.dumps("a\n::error::b\x1b[31m"), r"a\n::error::b\x1b[31m"
    write("p.yaml", READER.replace("reason: drafts are private", f"reason: {hostile}"))
    asked = ("--policy", "p.yaml", "--tag", "docs", "--agent", "a", "--action", "x:drafts/")
    assert authz("test", *asked).out.splitlines()[3:] == [f"Reason: {shown}"]
    write("s.yaml", f"tests: [{{name: {hostile}, agent: a, action: x, expect: deny}}]")
    out = authz("test", "--policy", "p.yaml", "--file", "s.yaml").out
    assert out.splitlines()[0] == f"✓ {shown} PASS (denied)"


# ---------------------------------------------------------------- test: suites


SUITE: Final = """\
policies: ../p.yaml
agents:
  reader: {tags: [docs]}
tests:
  - {name: reads, agent: reader, action: "read:x", expect: allow}
  - name: writes
    agent: reader
    action: write:x
    expect: allow
  - {name: no drafts, agent: reader, action: "read:drafts/x", expect: denied, rule: no-drafts}
"""


def test_a_suite_prints_each_test_and_what_none_reached() -> None:
    write("p.yaml", READER.replace('"list"]}', '"list"]}\n  - {effect: allow, actions: ["x"]}'))
    write("tests/s.yaml", SUITE)
    assert authz("test", "--file", "tests/s.yaml") == (
        1,
        "✓ reads PASS (allowed)\n"
        "✗ writes FAIL (expected allow, got deny) tests/s.yaml:6\n"
        "    no rule of policy reader allows write:x\n"
        "✓ no drafts PASS (denied)\n"
        "Results: 2 passed, 1 failed\n"
        "Coverage: 2 of 3 rules decided in some test\n"
        "  not reached: tests/../p.yaml:7: reader rule 3: allow x\n",
        "",
    )


def test_a_suite_that_passes_is_0_unless_every_rule_must_be_reached() -> None:
    write("p.yaml", READER)
    write("tests/s.yaml", SUITE.replace("action: write:x", "action: list"))
    write("tests/part.yaml", SUITE.partition("  - name: writes")[0])
    assert authz("test", "--file", "tests/s.yaml", "--full-coverage").code == 0
    assert authz("test", "--file", "tests/part.yaml").code == 0
    done = authz("test", "--file", "tests/part.yaml", "--full-coverage")
    assert done.code == 1
    assert done.out.splitlines()[-2:] == [
        "Coverage: 1 of 2 rules decided in some test",
        "  not reached: tests/../p.yaml:5: reader rule 1: deny *:drafts/*",
    ]
    both = authz("test", "--file", "tests/part.yaml", "--file", "tests/s.yaml", "--full-coverage")
    assert (both.code, both.out.splitlines()[-2:]) == (
        0,
        ["Results: 4 passed, 0 failed", "Coverage: 2 of 2 rules decided in some test"],
    )


def test_suites_of_different_policies_are_covered_apart() -> None:
    write("p.yaml", READER)
    write("q.yaml", READER)
    write("tests/p.yaml", SUITE.replace("action: write:x", "action: list"))
    write("tests/q.yaml", SUITE.partition("  - name: writes")[0].replace("../p.yaml", "../q.yaml"))
    done = authz("test", "--file", "tests/p.yaml", "--file", "tests/q.yaml")
    assert (done.code, done.out.splitlines()[4:]) == (
        0,
        [
            "Results: 4 passed, 0 failed",
            "Coverage: 3 of 4 rules decided in some test",
            "  not reached: tests/../q.yaml:5: reader rule 1: deny *:drafts/*",
        ],
    )


def test_the_command_line_says_which_policies_before_the_suite_does() -> None:
    write("p.yaml", READER)
    write("none.yaml", READER.replace("docs", "other"))
    write("tests/s.yaml", SUITE.replace("action: write:x", "action: list"))
    assert authz("test", "--file", "tests/s.yaml").code == 0
    assert authz("test", "--file", "tests/s.yaml", "--policy", "none.yaml").code == 1
    write("tests/s.yaml", SUITE.replace("action: write:x", "action: list").partition("\n")[2])
    assert authz("test", "--file", "tests/s.yaml").code == 2
    assert authz("test", "--file", "tests/s.yaml", POLICIES_DIR="p.yaml").code == 0


def test_a_suite_as_json() -> None:
    write("p.yaml", READER.replace('"list"]}', '"list"]}\n  - {effect: allow, actions: ["x"]}'))
    write("tests/s.yaml", SUITE)
    done = authz("test", "--file", "tests/s.yaml", "--json")
    assert (done.code, done.err) == (1, "")
    assert done.body == {
        "summary": {"total": 3, "passed": 2, "failed": 1},
        "results": [
            {
                "name": "reads", "file": "tests/s.yaml", "line": 5, "passed": True,
                "decision": "allow", "expected": "allow", "policy": "reader", "rule": "rules[1]",
            },
            {
                "name": "writes", "file": "tests/s.yaml", "line": 6, "passed": False,
                "decision": "deny", "expected": "allow", "policy": "reader",
                "rule": "default-deny", "reason": "no rule of policy reader allows write:x",
                "failure": "expected allow, got deny",
            },
            {
                "name": "no drafts", "file": "tests/s.yaml", "line": 10, "passed": True,
                "decision": "deny", "expected": "deny", "policy": "reader", "rule": "no-drafts",
                "reason": "drafts are private",
            },
        ],
        "coverage": {
            "rules": 3, "reached": 2,
            "missed": ["tests/../p.yaml:7: reader rule 3: allow x"],
        },
    }  # fmt: skip


def test_verbose_shows_the_rules_of_each_test() -> None:
    write("p.yaml", READER)
    write("tests/s.yaml", SUITE.partition("  - name: writes")[0])
    assert authz("test", "--file", "tests/s.yaml", "--verbose").out.splitlines()[:5] == [
        "✓ reads PASS (allowed)",
        "    rule_allowed",
        "    reader: allow by rule 2",
        "      Rule 1: deny *:drafts/* → SKIP (action mismatch)",
        "      Rule 2: allow read:*, list → MATCH",
    ]


@pytest.mark.parametrize(
    ("policy", "test", "failure"),
    [
        (FACTS, "action: ask, expect: require_approval", ""),
        (FACTS, "action: ask, expect: approval_required", ""),
        (FACTS, "action: ask, expect: deny", "expected deny, got require_approval"),
        (FACTS, "action: ask, expect: allow", "expected allow, got require_approval"),
        (DRY, "action: 'write:x', expect: would_deny", ""),
        (DRY, "action: 'write:x', expect: Allowed", ""),
        (DRY, "action: 'write:x', expect: deny", "expected deny, got would_deny"),
        (DRY, "action: 'admin:x', expect: would_deny", "expected would_deny, got deny"),
        (FACTS, "action: 'read:x', expect: allow, policy: facts, rule: read", ""),
        (FACTS, "action: 'read:x', expect: allow, rule: 'rules[11]'", ""),
        (FACTS, "action: 'read:x', expect: allow, rule: 'rules[0]'",
         "expected rule rules[0], got read"),
        (FACTS, "action: 'read:x', expect: allow, policy: other",
         "expected policy other, got facts"),
        (FACTS, "action: nothing, expect: deny, rule: default-deny", ""),
        (FACTS, "action: pay, expect: allow, context: {amount: 100}", ""),
        (FACTS, "action: pay, expect: allow", "expected allow, got deny"),
        (FACTS, "action: host, expect: allow, method: GET, host: upstream.example", ""),
        (FACTS, "action: path, expect: allow, path: /x/ok", ""),
        (FACTS, "action: post, expect: allow, method: POST", ""),
        (FACTS, "action: resource, expect: allow, resource: docs/1", ""),
    ],
)  # fmt: skip
def test_an_answer_is_compared_in_full(policy: str, test: str, failure: str) -> None:
    write("p.yaml", policy)
    write("s.yaml", f"tests: [{{name: t, agent: a, {test}}}]")
    done = authz("test", "--policy", "p.yaml", "--file", "s.yaml", "--json")
    [result] = done.body["results"]
    assert (result.get("failure", ""), done.code) == (failure, 1 if failure else 0)


@pytest.mark.parametrize(
    ("agent", "action"),
    [
        ("described", "tagged"),
        ("{id: x, tags: [ops]}", "tagged"),
        ("{id: x, tier: trusted}", "tier"),
        ("{id: x, trustTier: Elevated}", "tier"),
        ("{id: x, org: acme}", "org"),
        ("{id: x, orgId: acme}", "org"),
        ("{id: x, name: Ann}", "name"),
        ("Ann", "name"),
        pytest.param("{tier: trusted}", "tier"),
        pytest.param("{tags: [ops]}", "tagged"),
    ],
)
def test_an_agent_may_be_described_where_it_is_used_or_above(agent: str, action: str) -> None:
    write("p.yaml", FACTS)
    head = "agents: {described: {tags: [ops]}}\n"
    write("s.yaml", f"{head}tests: [{{name: t, agent: {agent}, action: {action}, expect: allow}}]")
    assert authz("test", "--policy", "p.yaml", "--file", "s.yaml").code == 0


def test_an_agents_name_in_a_suite_is_its_id() -> None:
    write("p.yaml", READER.replace("tags: [docs]", "agentIds: [known, told]"))
    write("s.yaml", "agents: {known: {}, other: {id: told}}\ntests:\n" + "".join(
        f"  - {{name: {name}, agent: {name}, action: list, expect: {expect}}}\n"
        for name, expect in (("known", "allow"), ("other", "allow"), ("stranger", "deny"))
    ))  # fmt: skip
    assert authz("test", "--policy", "p.yaml", "--file", "s.yaml").code == 0


def _test(text: str) -> str:
    return f"tests:\n  - {{{text}}}\n"


#: A suite, the places of its mistakes, and words that its sentences have.
MISTAKES: Final = [
    ("", ["1:1"], "one document"),
    ("- a\n", ["1:1"], "`suite`"),
    ("tests: [{\n", ["2:1"], "not YAML"),
    (_test("name: a, agent: a, action: x, expect: deny") + "---\ntests: []\n",
     ["1:1"], "one document"),
    ("agents: {}\n", ["1:1"], "`tests` is missing"),
    ("tests: []\n", ["1:8"], "`tests`"),
    ("tests: x\n", ["1:8"], "`tests`"),
    ("tests:\n  - x\n", ["2:5"], ""),
    (_test("agent: a, action: x, expect: deny"), ["2:5"], "`name` is missing"),
    (_test("name: a, action: x, expect: deny"), ["2:5"], "`agent` is missing"),
    (_test("name: a, agent: a, expect: deny"), ["2:5"], "`action` is missing"),
    (_test("name: a, agent: a, action: x"), ["2:5"], "`expect` is missing"),
    (_test("agent: a, action: x"), ["2:5", "2:5"], "is missing"),
    (_test('name: "", agent: a, action: x, expect: deny'), ["2:12"], "`name`"),
    (_test('name: a, agent: a, action: "", expect: deny'), ["2:33"], "`action`"),
    (_test("name: a, agent: a, action: 5, expect: deny"), ["2:33"], "`action` must be text"),
    (_test("name: a, agent: a, action: x, expect: maybe"), ["2:44"], "unknown expect `maybe`"),
    (_test("name: a, agent: a, action: x, expect: no"), ["2:44"], "unknown expect `no`"),
    (_test("name: a, agent: a, action: x, expect: deny, rule: 1"), ["2:56"], "`rule` must be text"),
    (_test("name: a, agent: a, action: x, expect: deny, context: [1]"), ["2:59"], "`context`"),
    ("agents: [a]\n" + _test("name: a, agent: a, action: x, expect: deny"), ["1:9"], "`agents`"),
    ("agents: {a: 1}\n" + _test("name: a, agent: a, action: x, expect: deny"), ["1:13"], "`a`"),
    ("agents: {a: {tier: king}}\n" + _test("name: a, agent: a, action: x, expect: deny"),
     ["1:20"], "unknown trust tier"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "places", "words"), MISTAKES, ids=[f"{n}" for n in range(len(MISTAKES))]
)
def test_every_mistake_in_a_suite_has_its_place(text: str, places: list[str], words: str) -> None:
    write("p.yaml", READER)
    write("s.yaml", text)
    done = authz("test", "--policy", "p.yaml", "--file", "s.yaml")
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert [line.split(": error: ")[0] for line in lines] == [f"s.yaml:{p}" for p in places]
    assert all(words in line for line in lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tests: []\n", "1:8: error: `tests` must not be empty"),
        ("name: n\nrules: []\n", "1:1: error: this is a policy, not a suite of tests; check it with"
         " `authz policy validate`"),
        ("tests: x\n", "1:8: error: `tests` must be a list"),
        ("- a\n", "1:1: error: `suite` must be a mapping"),
        (_test('name: "", agent: a, action: x, expect: deny'),
         "2:12: error: `name` must not be empty"),
        (_test("name: a, agent: a, action: x, expect: deny, ruel: x"),
         "2:50: error: unknown key `ruel`, did you mean `rule`?"),
        ("test: []\n" + _test("name: a, agent: a, action: x, expect: deny"),
         "1:1: error: unknown key `test`, did you mean `tests`?"),
        (_test("name: a, agent: {idd: a}, action: x, expect: deny"),
         "2:23: error: unknown key `idd`, did you mean `id`?"),
        (_test("name: a, agent: {tags: a}, action: x, expect: deny"),
         "2:29: error: `tags` must be a list"),
        (_test("name: a, agent: 7, action: x, expect: deny"), "2:22: error: `agent` must be text"),
        (_test("name: a, agent: [], action: x, expect: deny"),
         "2:22: error: `agent` must be a mapping"),
        (_test("name: a, agent: a, action: x, expect: deny, path: /../x"),
         "2:5: error: test `a`: path: contains a . or .. segment"),
        (_test('name: a, agent: a, action: " ", expect: deny'),
         "2:5: error: test `a`: the action is empty"),
        ("agents: {reviewer: {}}\n" + _test("name: a, agent: reviwer, action: x, expect: deny"),
         "3:22: error: `reviwer` is not among the agents, did you mean `reviewer`?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_suite_is_one_sentence(text: str, problem: str) -> None:
    write("p.yaml", READER)
    write("s.yaml", text)
    done = authz("test", "--policy", "p.yaml", "--file", "s.yaml")
    assert done == (2, "", f"s.yaml:{problem}\n")


@pytest.mark.parametrize("context", ["{a: .nan}", "{a: .inf}", f"{{a: {'x' * 8192}}}"])
def test_a_context_of_a_suite_that_tells_nothing_is_refused(context: str) -> None:
    write("p.yaml", FACTS)
    write("s.yaml", _test(f"name: t, agent: a, action: pay, expect: deny, context: {context}"))
    done = authz("test", "--policy", "p.yaml", "--file", "s.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("s.yaml:2:5: error: test `t`: context: ")


def test_a_suite_that_cannot_be_read_is_a_sentence() -> None:
    write("big.yaml", "#" * (1 << 20) + "\n")
    for name, said in (
        ("none.yaml", "authz: none.yaml: cannot be read: No such file or directory\n"),
        (".", "authz: .: cannot be read: Is a directory\n"),
        ("big.yaml", "big.yaml:1:1: error: the file is larger than 1048576 bytes\n"),
    ):
        assert authz("test", "--file", name) == (2, "", said)


def test_a_suite_of_policies_that_are_bad_or_missing_is_not_run() -> None:
    write("tests/s.yaml", SUITE)
    assert authz("test", "--file", "tests/s.yaml") == (
        2, "", "authz: tests/../p.yaml: there is no such file or directory\n",
    )  # fmt: skip
    write("p.yaml", "name: p\n")
    done = authz("test", "--file", "tests/s.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("tests/../p.yaml:1:1: error: ")


def test_results_as_annotations() -> None:
    write("p.yaml", READER.replace('"list"]}', '"list"]}\n  - {effect: allow, actions: ["x"]}'))
    write("tests/s.yaml", SUITE.replace("name: writes", 'name: "wri\\n100%tes"'))
    done = authz("test", "--file", "tests/s.yaml", "--format", "github")
    assert done == (
        1,
        "::error file=tests/s.yaml,line=6,col=1,title=policy test::wri%0A100%25tes: expected allow,"
        " got deny: no rule of policy reader allows write:x\n"
        "Results: 2 passed, 1 failed\n"
        "Coverage: 2 of 3 rules decided in some test\n"
        "::warning file=p.yaml,line=7,col=1,title=policy test::"
        "no test reaches reader rule 3: allow x\n",
        "",
    )
    full = authz("test", "--file", "tests/s.yaml", "--format", "github", "--full-coverage")
    assert "::error file=p.yaml,line=7,col=1," in full.out
    write("tests/s.yaml", "tests: []\n")
    assert authz("test", "--file", "tests/s.yaml", "--format", "github") == (
        2,
        "::error file=tests/s.yaml,line=1,col=8,title=policy test::`tests` must not be empty\n",
        "",
    )


def test_the_samples_keep_what_their_suite_promises() -> None:
    suite = ROOT / "policy-tests/samples.yaml"
    done = authz("test", "--file", suite, "--full-coverage")
    assert (done.code, done.err) == (0, "")
    assert authz("validate", SAMPLES, "--strict").code == 0
    assert not suite.is_relative_to(SAMPLES)


# ---------------------------------------------------------------- explain


def test_explain_says_why_each_rule_did_or_did_not() -> None:
    write("p.yaml", """\
name: pay
version: "1"
appliesTo: {agentIds: ["*"]}
humanInTheLoop: {requireApproval: ["*:large"]}
rules:
  - {effect: deny, actions: ["pay:*"], conditions: {context.country: [XX]}}
  - {effect: allow, actions: ["pay:*"], conditions: {context.amount: {lte: 10}, context.ok: true}}
  - {effect: allow, actions: ["pay:*"], requiredTrustTier: trusted}
defaultEffect: deny
""")  # fmt: skip
    asked = ("explain", "--policy", "p.yaml", "--agent", "a", "--action")
    assert authz(*asked, "pay:x", "--context", '{"amount": 5}') == (
        0,
        "Decision: DENY\n"
        "Policy: pay\n"
        "Rule: rules[0]\n"
        "Reason: policy pay denies pay:*; `context.country` cannot be told, and that does not"
        " help\n"
        "\n"
        "pay (p.yaml:1): deny by rule 1\n"
        '  Rule 1: deny pay:* → MATCH (cannot be told: context.country in ["XX"])\n'
        "  Rule 2: allow pay:* → SKIP (cannot be told: context.ok equals true)\n"
        "  Rule 3: allow pay:* → NOT REACHED (rule 1 decided before it)\n"
        "  defaultEffect: deny\n",
        "",
    )
    done = authz(*asked, "pay:x", "--context", '{"country": "NL", "amount": 50, "ok": true}')
    assert done.out.splitlines()[4:10] == [
        "Stage: privilege",
        "",
        "pay (p.yaml:1): allow by rule 3, but from tier trusted on",
        '  Rule 1: deny pay:* → SKIP (conditions do not hold: context.country in ["XX"])',
        "  Rule 2: allow pay:* → SKIP (conditions do not hold: context.amount lte 10)",
        "  Rule 3: allow pay:* → MATCH",
    ]
    done = authz(*asked, "pay:large", "--context", '{"country": "NL", "amount": 5, "ok": true}')
    assert done.out.splitlines()[0] == "Decision: REQUIRE APPROVAL"
    assert done.out.splitlines()[5] == (
        "pay (p.yaml:1): allow by rule 2; what is allowed needs a person (humanInTheLoop: *:large)"
    )
    assert "  Rule 2: allow pay:* → MATCH (its conditions hold)" in done.out.splitlines()


def test_explain_shows_rules_as_they_are_written_and_weighs_them_as_they_are_meant() -> None:
    swapped = READER.replace("effect: deny, a", "effect: allow, a").replace(
        "{effect: allow", "{effect: deny"
    )
    write("p.yaml", swapped.replace("rules:", "ruleOrder: deny-overrides\nrules:"))
    asked = ("explain", "--policy", "p.yaml", "--tag", "docs", "--agent", "a")
    assert authz(*asked, "--action", "read:drafts/x").out.splitlines()[5:8] == [
        "reader (p.yaml:1): deny by rule 2",
        "  Rule 1: allow *:drafts/* → NOT REACHED (rule 2 decided before it)",
        "  Rule 2: deny read:*, list → MATCH",
    ]


def test_explain_says_which_part_of_applies_to_an_agent_is_not_in() -> None:
    scopes = {
        "agentIds": "[b]", "tags": "[x]", "trustTiers": "[trusted]", "orgIds": "[acme]",
    }  # fmt: skip
    for name, value in scopes.items():
        write(f"policies/{name}.yaml", READER.replace("reader", name).replace(
            "{tags: [docs]}", f"{{{name}: {value}}}"))  # fmt: skip
    write("policies/nobody.yaml", READER.replace("reader", "nobody").replace("[docs]", "[]"))
    done = authz("explain", "--agent", "a", "--action", "read:x")
    assert done.code == 0
    assert done.out.partition("Do not apply to this agent:\n")[2].splitlines() == [
        "  agentIds (policies/agentIds.yaml:1): appliesTo.agentIds",
        "  nobody (policies/nobody.yaml:1): appliesTo is nobody",
        "  orgIds (policies/orgIds.yaml:1): appliesTo.orgIds",
        "  tags (policies/tags.yaml:1): appliesTo.tags",
        "  trustTiers (policies/trustTiers.yaml:1): appliesTo.trustTiers",
    ]


def test_explain_names_the_stage_where_it_is_not_the_policies_that_decide() -> None:
    write("p.yaml", READER.replace('"list"', '"list", "admin:*"'))
    asked = ("explain", "--policy", "p.yaml", "--tag", "docs", "--agent", "a", "--action")
    done = authz(*asked, "admin:x")
    assert done.out.splitlines()[:6] == [
        "Decision: DENY",
        "Policy: default",
        "Rule: privilege:floor",
        "Reason: admin:x needs tier privileged, and the caller counts as verified",
        "Stage: privilege",
        "",
    ]
    assert "reader (p.yaml:1): allow by rule 2" in done.out.splitlines()
    assert authz(*asked, "admin:x", "--json").body["stage"] == "privilege"
    assert "Stage" not in authz(*asked, "read:x").out


def test_explain_weighs_rules_by_the_resource_that_a_route_names() -> None:
    write("p.yaml", FACTS + """\
---
kind: RouteMap
name: routes
routes:
  - {method: GET, path: "/docs/{id}", action: "read:docs", resource: "docs/{id}"}
""")  # fmt: skip
    asked = ("explain", "--policy", "p.yaml", "--agent", "a", "--action", "resource")
    done = authz(*asked, "--path", "/docs/1", "--method", "GET")
    assert "  Rule 6: allow resource → MATCH (its conditions hold)" in done.out.splitlines()
    assert "  Rule 6: allow resource → SKIP" in authz(*asked, "--path", "/docs/2").out


@pytest.mark.parametrize("arguments", [(), ("--agent", "a"), ("--action", "x")])
def test_explain_needs_a_call(arguments: tuple[str, ...]) -> None:
    assert authz("explain", *arguments).code == 2


# ---------------------------------------------------------------- records


class Asks(NamedTuple):
    """A request as an agent makes it."""

    action: str = ""
    source: Source = "proxy"
    method: str = "GET"
    path: str = "/x"
    resource: str = ""
    meta: str = ""
    #: Claims of the token.
    claims: Mapping[str, object] = MappingProxyType({})
    times: int = 1


def record(database: str, policies: str, asked: Iterable[Asks], mode: Mode = Mode.ENFORCE) -> Path:
    """An audit trail of these requests, decided and written as a sidecar does."""
    path = Path(database)
    audit = AuditLog(path, monotonic=time.monotonic)
    assert audit.open()
    ids = itertools.count()
    snapshot = read(policies)
    guard = gate(snapshot, audit, mode=mode, new_id=lambda: f"id-{next(ids)}")  # type: ignore[arg-type]
    for ask in asked:
        headers = {
            "authorization": bearer(**ask.claims),
            "x-meshguard-action": ask.action,
            "x-meshguard-resource": ask.resource,
            "x-meshguard-meta": ask.meta,
        }
        headers = {name: value for name, value in headers.items() if value}
        for _ in range(ask.times):
            if ask.source == "proxy":
                guard.check(check_request(ask.method, f"/proxy{ask.path}", headers))
            else:
                guard.batch([calls.from_http(ask.source, "GET", "/ours", "h", headers.get)])
    audit.close()
    return path


def read(text: str) -> Snapshot:
    parsed = parse_file(text.encode(), "policies.yaml")
    assert not parsed.is_bad, parsed.problems
    return Snapshot([placed.policy for placed in parsed.policies])


#: Calls whose answers depend on everything that a row keeps of them.
CALLS: Final = [
    Asks("pay", meta='{"amount": 5}', times=3),
    Asks("pay", meta='{"amount": 500}'),
    Asks("pay", meta='{"amount": "5"}'),
    Asks("pay", meta='{"amount": 5, "note": "\\u00e9 \\"x\\""}', source="check"),
    Asks("pay", source="batch", meta='{"amount": 99.5}'),
    Asks("pay"),
    Asks("tagged", claims={"tags": ["b", "ops"]}),
    Asks("tagged", claims={"tags": ["b"]}),
    Asks("tier", claims={"tier": "Elevated"}),
    Asks("tier", claims={"tier": "basic"}),
    Asks("org", claims={"orgId": "acme"}),
    Asks("org", claims={"orgId": "other"}),
    Asks("name", claims={"name": "Ann"}),
    Asks("resource", resource="docs/./1"),
    Asks("resource", resource="docs/é"),
    Asks("resource", resource="docs/../x"),
    Asks("post", method="POST"),
    Asks("post", method="PUT"),
    Asks("post", method="POST", source="check"),
    Asks("host"),
    Asks("host", source="check"),
    Asks("path", path="/a/%6Fk"),
    Asks("path", path="/a/ko"),
    Asks("asked", source="check"),
    Asks("asked"),
    Asks("plain"),
    Asks("plain", meta='{"x": 1}'),
    Asks("ask"),
    Asks(path="/docs/%C3%A9t%C3%A9"),
    Asks(path="/docs/a*b"),
    Asks(path="/docs/last%20"),
    Asks("read:*", claims={"sub": "*"}),
    Asks("read:x", claims={"sub": "o\"b'rien: #{}é\\"}),
]


def replayed(database: Path, snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """Each recorded call with its recorded answer and the one that a replay comes to."""
    found = []
    for row in AuditReader(database).asked():
        call = asked_of(row)
        verdict = judge(builders.case(call.call, call.identity, snapshot), CHAIN)
        found.append((row.action, row.decision, str(verdict.decision)))
    return found


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.AUDIT])
def test_a_replay_by_the_same_policies_comes_to_the_answers_on_record(mode: Mode) -> None:
    database = record("audit.db", FACTS, CALLS, mode)
    found = replayed(database, read(FACTS))
    assert len(found) >= len(CALLS) - 1
    assert {decision for _, decision, _ in found} == {"allow", "deny"}
    assert [call for call in found if call[1] != call[2]] == []


@pytest.mark.parametrize(
    "ask",
    [
        Asks("pay", meta='{"amount":5,"list":[' + "1," * 4000 + "1]}"),
        Asks("pay", source="batch", meta='{"amount":5,"note":"' + "é" * 2000 + '"}'),
        Asks("plain", meta="{}"),
        pytest.param(Asks("plain", meta='{"y": 1, "y": 2}')),
    ],
    ids=["many parts", "another script", "empty", "a key twice"],
)
def test_a_replay_knows_every_context_that_the_gate_knew(ask: Asks) -> None:
    database = record("audit.db", FACTS, [ask])
    [(_, decision, again)] = replayed(database, read(FACTS))
    assert again == decision


# ---------------------------------------------------------------- diff


NEXT: Final = READER.replace('"read:*", "list"', '"read:public/*", "list"')


def test_the_same_policies_do_not_differ() -> None:
    write("old/a.yaml", READER)
    write("new/b.yaml", "# moved\n" + READER.replace("{tags: [docs]}", "\n  tags: [docs]"))
    assert authz("diff", "old", "new") == (0, "the policies are the same\n", "")
    assert authz("diff", "old/a.yaml", "new", "--json") == (0, '{\n  "policies": []\n}\n', "")


def test_what_differs_is_shown() -> None:
    write("old/a.yaml", READER)
    write("old/gone.yaml", READER.replace("reader", "gone"))
    write("new/a.yaml", NEXT)
    write("new/more.yaml", READER.replace("reader", "more"))
    assert authz("diff", "old", "new") == (
        1,
        "removed: gone\n"
        "added: more\n"
        "changed: reader\n"
        "     - actions:\n"
        "    -  - read:*\n"
        "    +  - read:public/*\n"
        "       - list\n",
        "",
    )
    done = authz("diff", "old", "new", "--json")
    assert (done.code, done.body) == (
        1,
        {
            "policies": [
                {"name": "gone", "change": "removed"},
                {"name": "more", "change": "added"},
                {
                    "name": "reader",
                    "change": "changed",
                    "lines": [
                        " - actions:", "-  - read:*", "+  - read:public/*", "   - list",
                    ],
                },
            ]
        },
    )  # fmt: skip


def test_what_differs_in_documents_of_other_kinds_is_shown_with_their_kind() -> None:
    write("old/a.yaml", f"{READER}---\n{WALLET}")
    write("new/a.yaml", f"{READER}---\n{WALLET.replace('10', '20')}")
    assert authz("diff", "old", "new").out == (
        "changed: RiskWallet daily\n    -capacity: 10\n    +capacity: 20\n     kind: RiskWallet\n"
    )
    write("new/a.yaml", READER)
    assert authz("diff", "old", "new").out == "removed: RiskWallet daily\n"


DOCS: Final = {"tags": ["docs"]}


def test_a_replay_says_whose_answers_change() -> None:
    write("old.yaml", READER)
    write("new.yaml", NEXT + "humanInTheLoop: {requireApproval: [list]}\n")
    record("audit.db", READER, [
        Asks(path="/docs/%C3%A9", claims=DOCS, times=3),
        Asks(path="/public/x", claims=DOCS, times=5),
        Asks("list", claims=DOCS),
        Asks("read:drafts/x", claims=DOCS, resource="r"),
        Asks("list"),
    ])  # fmt: skip
    asked = ("diff", "old.yaml", "new.yaml", "--replay", "audit.db")
    done = authz(*asked)
    assert (done.code, done.err) == (1, "")
    assert re.sub(r" +", " ", done.out).partition("\n\n")[2] == (
        "11 recorded requests (5 different calls): 4 would get another answer\n"
        " allow → deny: 3\n"
        " allow → require_approval: 1\n"
        "\n"
        "COUNT AGENT ACTION CHANGE OLD NEW\n"
        "3 agent-1 read:docs/é allow → deny reader: rules[1] reader: default-deny\n"
        "1 agent-1 list allow → require_approval reader: rules[1] reader: humanInTheLoop\n"
    )
    assert authz(*asked, "--json").body["replay"] == {
        "requests": 11,
        "calls": 5,
        "changes": {"allow → deny": 3, "allow → require_approval": 1},
        "changed": [
            {
                "count": 3, "agentId": "agent-1", "action": "read:docs/é", "resource": "docs/é",
                "old": "allow", "new": "deny",
                "oldDecider": "reader: rules[1]", "newDecider": "reader: default-deny",
            },
            {
                "count": 1, "agentId": "agent-1", "action": "list", "resource": "x",
                "old": "allow", "new": "require_approval",
                "oldDecider": "reader: rules[1]", "newDecider": "reader: humanInTheLoop",
            },
        ],
    }  # fmt: skip


def test_policies_that_differ_and_answer_alike_are_0_with_a_replay() -> None:
    write("old.yaml", READER)
    write("new.yaml", READER + "description: the same, but told\n")
    record("audit.db", READER, [Asks("list", claims=DOCS)])
    done = authz("diff", "old.yaml", "new.yaml", "--replay", "audit.db")
    assert done.code == 0
    assert done.out.splitlines()[-1] == (
        "1 recorded requests (1 different calls): 0 would get another answer"
    )
    assert authz("diff", "old.yaml", "new.yaml").code == 1


def test_a_replay_counts_more_changes_than_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_diff, "MAX_SHOWN", 10)
    write("old.yaml", READER)
    write("new.yaml", NEXT)
    asked = [Asks(path=f"/{number}", claims=DOCS) for number in range(50)]
    record("audit.db", READER, [*asked, Asks(path="/often", claims=DOCS, times=2)])
    found = authz("diff", "old.yaml", "new.yaml", "--replay", "audit.db", "--json").body["replay"]
    assert found["changes"] == {"allow → deny": 52}
    assert len(found["changed"]) == 10
    assert (found["changed"][0]["count"], found["changed"][0]["action"]) == (2, "read:often")


def test_what_is_no_request_of_an_agent_is_not_replayed(trail: tuple[str, str]) -> None:
    write("p.yaml", READER)
    record("audit.db", READER, [Asks("list", claims=DOCS), Asks(path="/a//b", claims=DOCS)])
    record("audit.db", READER, [Asks("list", claims={"sub": ""})], Mode.AUDIT)
    done = authz("diff", "p.yaml", "p.yaml", "--replay", "audit.db")
    assert "1 recorded requests (1 different calls): 0 would" in done.out
    assert (
        len(authz("versions", "--database", "audit.db", "--json").body["versions"])
        == len(trail) + 1
    )


def _no_database(name: str) -> str:
    if name == "text.db":
        write(name, "no database" * 1000)
    elif name == "other.db":
        with contextlib.closing(sqlite3.connect(name)) as other:
            other.execute("CREATE TABLE audit (x)")
    elif name == "empty.db":
        write(name, "")
    return name


NO_DATABASE: Final = [
    ("none.db", "there is no such audit database"),
    (".", "there is no such audit database"),
    ("text.db", "not an audit database: file is not a database"),
    ("empty.db", "not an audit database: no such table: audit"),
    ("other.db", "not an audit database: no such column: "),
]


@pytest.mark.parametrize(("name", "said"), NO_DATABASE)
def test_a_database_that_is_none_is_a_sentence(name: str, said: str) -> None:
    write("p.yaml", READER)
    database = _no_database(name)
    for command in (("diff", "p.yaml", "p.yaml", "--replay"), ("suggest", "--from")):
        done = authz(*command, database)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"authz: {name}: {said}")
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("p.yaml",), ("p.yaml", "none.yaml"), ("bad.yaml", "p.yaml")]
)
def test_a_diff_of_what_cannot_be_used_is_2(arguments: tuple[str, ...]) -> None:
    write("p.yaml", READER)
    write("bad.yaml", "name: x\n")
    assert authz("diff", *arguments).code == 2


# ---------------------------------------------------------------- suggest


def test_a_suggestion_allows_what_went_through() -> None:
    record("audit.db", READER, [
        Asks("list", claims=DOCS, times=2),
        Asks("LIST", claims=DOCS),
        Asks(path="/docs/%C3%A9", claims=DOCS),
        Asks(path="/drafts/x", claims=DOCS),
        Asks("write:x", claims=DOCS),
        Asks("list", claims={"sub": "b", "tags": ["docs"]}),
    ])  # fmt: skip
    assert authz("suggest", "--from", "audit.db") == (
        0,
        'name: "suggested-agent-1"\n'
        'version: "1"\n'
        "description: what 4 recorded requests used\n"
        "appliesTo:\n"
        '  agentIds: ["agent-1"]\n'
        "rules:\n"
        "  - effect: allow\n"
        "    actions:\n"
        '      - "list"  # 3\n'
        "  - effect: allow\n"
        "    actions:\n"
        '      - "read:docs/é"  # 1\n'
        "defaultEffect: deny\n"
        "---\n"
        'name: "suggested-b"\n'
        'version: "1"\n'
        "description: what 1 recorded requests used\n"
        "appliesTo:\n"
        '  agentIds: ["b"]\n'
        "rules:\n"
        "  - effect: allow\n"
        "    actions:\n"
        '      - "list"  # 1\n'
        "defaultEffect: deny\n",
        "",
    )
    only = authz("suggest", "--from", "audit.db", "--agent", "b")
    assert (only.code, only.out.count("name: ")) == (0, 1)
    assert authz("suggest", "--from", "audit.db", "--agent", "c") == (
        1, "", "authz: audit.db: no request of agent c went through\n",
    )  # fmt: skip


def test_what_policies_objected_to_stands_apart() -> None:
    record("audit.db", DRY, [Asks("write:x"), Asks("read:x")])
    record("audit.db", READER, [Asks("write:y"), Asks("list", claims=DOCS)], Mode.AUDIT)
    out = authz("suggest", "--from", "audit.db").out
    assert [line.strip() for line in out.splitlines()[6:-1]] == [
        "- effect: allow",
        "actions:",
        '- "list"  # 1',
        "# Policies in force at the time objected to these: look twice.",
        "- effect: allow",
        "actions:",
        '- "write:x"  # 1',
        '- "write:y"  # 1',
    ]


def test_nothing_that_went_through_is_nothing_to_suggest() -> None:
    record("audit.db", READER, [Asks("list")])
    assert authz("suggest", "--from", "audit.db") == (
        1, "", "authz: audit.db: no request went through\n",
    )  # fmt: skip


def test_what_would_allow_more_than_it_says_is_left_out_and_named() -> None:
    everything = READER.replace("{tags: [docs]}", '{agentIds: ["*"]}').replace('"read:*"', '"*"')
    record("audit.db", everything, [
        Asks("list"), Asks("read:a*b"), Asks("*"), Asks(path="/last%20"),
        Asks("list", claims={"sub": "*"}),
    ])  # fmt: skip
    done = authz("suggest", "--from", "audit.db")
    assert (done.code, done.err) == (0, "")
    assert sorted(done.out.splitlines()[:4]) == [
        "# not suggested: *: list (1 times): the agent id `*` would stand for everybody",
        "# not suggested: agent-1: * (1 times): a `*` in it would allow other actions too",
        "# not suggested: agent-1: read:a*b (1 times): a `*` in it would allow other actions too",
        "# not suggested: agent-1: read:last  (1 times): it cannot be written as a pattern",
    ]
    assert len(read(done.out).policies) == 1


def test_a_trail_of_which_nothing_can_be_said_is_a_sentence() -> None:
    everything = READER.replace("{tags: [docs]}", '{agentIds: ["*"]}').replace('"read:*"', '"*"')
    record("audit.db", everything, [Asks("read:a*b")])
    done = authz("suggest", "--from", "audit.db")
    assert done.out.startswith("# not suggested: agent-1: read:a*b (1 times): ")
    assert (done.code, done.err) == (
        1, "authz: audit.db: nothing that went through can be suggested\n",
    )  # fmt: skip


def test_collapsed_siblings_are_one_pattern() -> None:
    asked = [Asks(path=f"/docs/{name}", claims=DOCS) for name in "abc"]
    asked += [Asks(path=path, claims=DOCS) for path in ("/docs", "/img/a", "/img/b")]
    record("audit.db", READER, asked)
    patterns = _patterns(authz("suggest", "--from", "audit.db", "--collapse", "3").out)
    assert patterns == ["read:docs/*", "read:docs", "read:img/a", "read:img/b"]
    patterns = _patterns(authz("suggest", "--from", "audit.db", "--collapse", "2").out)
    assert patterns == ["read:docs/*", "read:img/*", "read:docs"]
    assert len(_patterns(authz("suggest", "--from", "audit.db").out)) == 6
    assert authz("suggest", "--from", "audit.db", "--collapse", "-1").code == 2


def _patterns(text: str) -> list[str]:
    return [p for policy in read(text).policies for rule in policy.rules for p in rule.patterns]


def test_suggest_needs_a_database() -> None:
    assert authz("suggest").code == 2


def test_an_action_longer_than_a_pattern_is_left_out() -> None:
    record(
        "audit.db", READER, [Asks("list", claims=DOCS), Asks(path="/" + "x" * 2000, claims=DOCS)]
    )
    done = authz("suggest", "--from", "audit.db")
    assert done.code == 0
    assert done.out.startswith("# not suggested: agent-1: read:xxx")
    assert _patterns(done.out) == ["list"]


def test_long_agent_ids_keep_apart() -> None:
    ids = ["a" * 250 + end for end in "12"]
    asked = [Asks("list", claims={"sub": sub, "tags": ["docs"]}) for sub in ids]
    record("audit.db", READER, asked)
    done = authz("suggest", "--from", "audit.db")
    assert done.code == 0
    assert len({policy.name for policy in read(done.out).policies}) == 2


def test_a_long_trail_is_suggested_in_time() -> None:
    asked = [Asks(path=f"/{number}", claims=DOCS) for number in range(2500)]
    record("audit.db", READER, asked)
    started = time.process_time()
    assert authz("suggest", "--from", "audit.db").code == 0
    assert time.process_time() - started < 1.5


#: As a token may name an agent, and as a call may come by an action.
AGENTS: Final = st.one_of(
    st.sampled_from(["a", "A", "*", "o\"b'rien", "x: #y", "-", "no", "0x1", "é", "{}", "\\"]),
    st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")), min_size=1, max_size=40),
)
ACTIONS: Final = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["read", "Read", "write"]), st.sampled_from(
        ["x", "X", "docs/a", "docs/b", "docs/*", "docs", "", "a b", "é/İ", " ", "x ", "#", "\\"],
    )),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
)  # fmt: skip


def _is_allowed(snapshot: Snapshot, agent: str, action: str) -> bool:
    call = calls.from_http("check", "GET", "/ours", "", lambda _, default: default)
    who = Identity(agent, "", "verified", 2, frozenset(), "", 2)
    case = builders.case(call._replace(action=action), who, snapshot)
    return judge(case, CHAIN).decision is Decision.ALLOW


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(AGENTS, ACTIONS, st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(AGENTS, ACTIONS), max_size=12),
)
def test_a_suggestion_allows_what_was_seen_and_nothing_else(
    seen: list[tuple[str, str, bool]], others: list[tuple[str, str]]
) -> None:
    found = suggest(
        Seen(Identity(agent, "", "verified", 2, frozenset(), "", 2), action, 1, objected)
        for agent, action, objected in seen
    )
    sayable = {(agent, fold(action)) for agent, action, _ in seen if is_sayable(agent, action)}
    assert len(found.left_out) == sum(not is_sayable(agent, action) for agent, action, _ in seen)
    assert not any("*" in action or agent == "*" for agent, action in sayable)
    parsed = parse_file(found.text.encode(), "suggestion")
    if not sayable:
        return
    assert [problem for problem in parsed.problems if not problem.lint] == []
    snapshot = Snapshot([placed.policy for placed in parsed.policies])
    agents = {agent for agent, _, _ in seen} | {"somebody"}
    asked = {(agent, action) for _, action, _ in seen for agent in agents} | set(others)
    for agent, action in asked:
        allowed = _is_allowed(snapshot, agent, action)
        assert allowed is ((agent, fold(action)) in sayable), (agent, action)


# ---------------------------------------------------------------- versions


@pytest.fixture
def trail(desk: Path) -> tuple[str, str]:
    """audit.db in which one version replaced another; the names of both."""
    first, second = read(READER), read(NEXT)
    database = desk / "audit.db"
    ids = itertools.count()
    moment = "2026-05-04T09:00:00Z"
    with contextlib.closing(AuditLog(database, monotonic=time.monotonic)) as audit:
        assert audit.open()
        versions = Versions(
            audit, database, limit=10, mode=lambda: Mode.ENFORCE,
            now=lambda: seconds_of(moment), new_id=lambda: f"v{next(ids)}",
        )  # fmt: skip
        versions.start(first)
        moment = "2026-05-04T09:30:00Z"
        versions.reload(second)
        moment = "2026-05-04T10:00:00Z"
        versions.rollback(first.version)
    return first.version, second.version


@pytest.mark.parametrize(
    ("policies", "others", "said"),
    [
        (0, 0, "none"),
        (2, 1, "p0 1, p1 1, RiskWallet w0"),
        (5, 3, "p0 1, p1 1, p2 1, p3 1, p4 1 and 3 more (5 policies and 3 other documents)"),
        (6, 0, "p0 1, p1 1, p2 1, p3 1, p4 1 and 1 more (6 policies)"),
        (1, 5, "p0 1, RiskWallet w0, RiskWallet w1, RiskWallet w2, RiskWallet w3 and 1 more"
         " (1 policy and 5 other documents)"),
    ],
)  # fmt: skip
def test_the_documents_of_a_version_are_named_and_counted(
    policies: int, others: int, said: str
) -> None:
    documents = [{"name": f"p{n}", "version": "1"} for n in range(policies)]
    documents += [{"kind": "RiskWallet", "name": f"w{n}"} for n in range(others)]
    assert named(documents) == said


def test_versions_are_listed_newest_first(trail: tuple[str, str]) -> None:
    first, second = trail
    done = authz("versions", "--database", "audit.db")
    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [
        ["VERSION", "FROM", "UNTIL", "WHY", "POLICIES"],
        [first, "2026-05-04T10:00:00.000000Z", "now", "rollback,", "pinned", "reader", "1"],
        [
            second,
            "2026-05-04T09:30:00.000000Z",
            "2026-05-04T10:00:00.000000Z",
            "reload",
            "reader",
            "1",
        ],
        [
            first,
            "2026-05-04T09:00:00.000000Z",
            "2026-05-04T09:30:00.000000Z",
            "start",
            "reader",
            "1",
        ],
    ]
    assert authz("versions", AUDIT_DB_PATH="audit.db") == done
    assert authz("versions", DB_PATH="audit.db") == done
    for option in ("-n", "--count"):
        assert authz("versions", "--database", "audit.db", option, "1").out.count("\n") == 2
    assert authz("versions", "--database", "audit.db", "-n", "0").code == 2


@pytest.mark.parametrize(
    ("at", "place"),
    [
        ("2026-05-04T09:00:00Z", 0),
        ("2026-05-04T09:29:59.999999Z", 0),
        ("2026-05-04T09:30", 1),
        ("2026-05-04T11:45:00+02:00", 1),
        (" 2026-05-05 ", 0),
    ],
)
def test_what_was_in_force_at_a_time(trail: tuple[str, str], at: str, place: int) -> None:
    done = authz("versions", "--database", "audit.db", "--at", at)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [trail[place]]
    [entry] = authz("versions", "--database", "audit.db", "--at", at, "--json").body["versions"]
    assert entry["version"] == trail[place]


def test_a_version_names_its_documents_of_other_kinds_with_their_kind(desk: Path) -> None:
    parsed = parse_file(f"{WALLET}version: '2'\n---\n{READER}".encode(), "a.yaml")
    everything = Snapshot(
        [placed.policy for placed in parsed.policies],
        [placed.document for placed in parsed.chain],
    )
    with contextlib.closing(AuditLog(desk / "audit.db", monotonic=time.monotonic)) as audit:
        assert audit.open()
        Versions(
            audit, desk / "audit.db", limit=10, mode=lambda: Mode.ENFORCE,
            now=lambda: seconds_of("2026-05-04T09:00:00Z"), new_id=lambda: "v",
        ).start(everything)  # fmt: skip
    [line] = authz("versions", "--database", "audit.db").out.splitlines()[1:]
    assert line.endswith("  reader 1, RiskWallet daily 2")


def test_versions_as_json(trail: tuple[str, str]) -> None:
    body = authz("versions", "--database", "audit.db", "--json").body
    assert [entry["version"] for entry in body["versions"]] == [trail[0], trail[1], trail[0]]
    assert body["versions"][0] == {
        "version": trail[0],
        "sha256": read(READER).sha256,
        "activatedAt": "2026-05-04T10:00:00.000000Z",
        "why": "rollback",
        "pinned": True,
        "kept": True,
        "policies": [{"name": "reader", "version": "1"}],
    }
    assert body["versions"][1]["deactivatedAt"] == "2026-05-04T10:00:00.000000Z"


@pytest.mark.parametrize(
    ("at", "code", "said"),
    [
        ("yesterday", 2, "--at: not a time; write 2026-01-31T12:00:00Z"),
        ("2026-13-01", 2, "--at: not a time; write 2026-01-31T12:00:00Z"),
        ("9999-12-31T23:59:59-23:59", 2, "--at: year 10000 is out of range"),
        ("2026-05-04T08:59", 1, "no policies were in force at 2026-05-04T08:59"),
    ],
)
def test_a_time_without_an_answer(trail: tuple[str, str], at: str, code: int, said: str) -> None:
    assert authz("versions", "--database", "audit.db", "--at", at) == (code, "", f"authz: {said}\n")


def test_a_time_without_an_answer_is_1_as_json_too(trail: tuple[str, str]) -> None:
    assert authz("versions", "--database", "audit.db", "--at", "2020-01-01", "--json").code == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.db", "none.db: there is no audit database yet"),
        (".", ".: there is no audit database yet"),
        ("text.db", "text.db: not an audit database: file is not a database"),
        ("empty.db", "no policies were in force yet"),
        ("other.db", "no policies were in force yet"),
    ],
)
def test_versions_of_no_database(name: str, said: str) -> None:
    assert authz("versions", "--database", _no_database(name)) == (1, "", f"authz: {said}\n")


# ---------------------------------------------------------------- rollback and release


TOKEN: Final = {"ADMIN_TOKEN": sidecar.ADMIN_TOKEN}


@pytest.mark.parametrize("command", [("rollback", "0123456789abcdef"), ("release",)])
def test_without_a_token_nothing_is_asked(command: tuple[str, ...]) -> None:
    assert authz(*command) == (
        3, "", "authz: no admin token: give --admin-token, or set MESHGUARD_ADMIN_TOKEN or"
        " ADMIN_TOKEN\n",
    )  # fmt: skip
    assert authz(*command, ADMIN_TOKEN="short").code == 2
    write("data/run/dev-secrets.json", "{}")
    assert authz(*command).err.endswith(
        "ADMIN_TOKEN; the one that was made up for the sidecar here is in"
        " data/run/dev-secrets.json\n"
    )
    far = authz("versions", "--gateway", "https://sidecar.example")
    assert far.err.endswith("or ADMIN_TOKEN\n")


def test_of_an_agent_without_more_than_its_id_it_says_what_it_is_taken_for() -> None:
    write("policies/p.yaml", READER)
    guessed = (
        "authz: agent a is not registered: taken for one of tier verified without tags;"
        " --tier and --tag say otherwise\n"
    )
    for command in (("test", "a", "read:x"), ("explain", "--agent", "a", "--action", "read:x")):
        assert authz(*command).err == guessed
        assert authz(*command, "--tag", "docs").err == ""
        assert authz(*command, "--policy", "policies").err == ""


# httpcore leaves the socket open that it could not connect; it is collected here, and not in the
# middle of whatever test comes next.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("command", [("rollback", "0123456789abcdef"), ("release",)])
def test_a_sidecar_that_is_not_there_is_5(command: tuple[str, ...]) -> None:
    run = Path("run")
    run.mkdir()
    done = authz(*command, **TOKEN, AUTHZ_RUN_DIR="run")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("authz: run/http.sock: the sidecar cannot be reached: ")
    gateway = f"http://127.0.0.1:{sidecar.free_port()}"
    done = authz(*command, "--gateway", gateway, **TOKEN)
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith(f"authz: {gateway}: the sidecar cannot be reached: ")
    assert sidecar.ADMIN_TOKEN not in done.err
    for gateway in ("nonsense", "http://[", "ftp://a"):
        assert authz(*command, "--gateway", gateway, **TOKEN) == (
            2, "", "authz: --gateway: not a URL; write http://host:port or https://host\n",
        )  # fmt: skip
    gc.collect()


@pytest.mark.parametrize("command", [("rollback", "0123456789abcdef"), ("release",)])
def test_what_answers_and_is_no_sidecar_is_5(command: tuple[str, ...]) -> None:
    with upstream.serving() as echo:
        done = authz(*command, "--gateway", echo.url, **TOKEN)
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith(f"authz: {echo.url}: ")


def test_rollback_needs_a_version() -> None:
    assert authz("rollback", **TOKEN).code == 2


@pytest.fixture
def running() -> Iterator[sidecar.Sidecar]:
    """A sidecar whose policies changed once; the first version is `a`, the second `b`."""
    with sidecar.directory() as policies, upstream.serving() as behind:
        (policies / "p.yaml").write_text(READER)
        with sidecar.running(behind, POLICIES_DIR=str(policies)) as found:
            (policies / "p.yaml").write_text(NEXT)
            database = found.directory / "audit.db"
            sidecar.wait_until(
                lambda: len(authz("versions", "--database", database).out.splitlines()) == 3,
                "the second version",
            )
            yield found


def test_the_way_back_through_the_socket_and_through_the_port(running: sidecar.Sidecar) -> None:
    first, second = read(READER).version, read(NEXT).version
    database = running.directory / "audit.db"
    here = {**TOKEN, "AUTHZ_RUN_DIR": str(running.run_dir)}

    assert authz("rollback", first, **here) == (
        0, f"version {first} is in force, until `authz policy release`\n", "",
    )  # fmt: skip
    assert authz("release", "--json", **here).body == {"version": second, "pinned": False}

    there = ("--gateway", running.url)
    assert authz("rollback", first, *there, "--json", **TOKEN).body == {
        "version": first, "pinned": True,
    }  # fmt: skip
    assert authz("release", *there, **TOKEN) == (
        0, f"version {second} of the files is in force\n", "",
    )  # fmt: skip

    assert authz("release", **here) == (1, "", "authz: nothing is pinned\n")
    unknown = authz("rollback", "0" * 16, **here)
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == (f"authz: no such version is kept; kept are {second}, {first}\n")
    for where in ((), there):
        refused = authz("release", *where, **{**here, "ADMIN_TOKEN": "another token than that"})
        assert refused == (3, "", "authz: the admin token is wrong\n")

    whys = [row.split()[3] for row in authz("versions", "--database", database).out.splitlines()]
    assert whys == ["WHY", "release", "rollback,", "release", "rollback,", "reload", "start"]


def test_a_sidecar_without_an_admin_token_has_no_admin_api() -> None:
    with sidecar.directory() as path:
        (path / "policies").mkdir()
        env = sidecar.environment(
            path, 1, "http://127.0.0.1:9", ADMIN_TOKEN="", POLICIES_DIR=str(path / "policies")
        )
        socket = path / "run/http.sock"
        with sidecar.start(path, env, "serve") as process:
            sidecar.wait_until(lambda: socket.exists() or process.poll() is not None, "its socket")
            done = authz("release", **TOKEN, AUTHZ_RUN_DIR=str(path / "run"))
    assert done == (
        1, "", "authz: its admin API is off: it was started without ADMIN_TOKEN\n",
    )  # fmt: skip


# ---------------------------------------------------------------- everything


def test_every_command_has_help_and_no_command_is_2() -> None:
    for command in ("validate", "schema", "test", "explain", "diff", "suggest", "versions",
                    "rollback", "release"):  # fmt: skip
        assert authz(command, "--help").code == 0
        assert authz(command, "--nonsense").code == 2
    assert authz().code == 2
    assert authz("nonsense").code == 2
