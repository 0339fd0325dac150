"""docs/policies.md says what is so: every block of it is run, and what it shows is what comes.

- A policy block has no problems, and its answers are those of the suite beneath it, which reaches
  all of its rules; or the problems it has are shown beneath it.
- A console block's commands are run in a directory that holds every named example, an audit trail
  and the versions that the page tells of; `...` on a line of its own stands for any lines.
- A block of another kind, or one that nothing looks at, fails.
"""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from authz.cli import app, policy
from authz.core import lints
from authz.core.facts import FACTS
from authz.core.operators import OPERATORS
from authz.core.policy_doc import Severity
from authz.core.policy_file import parse_file
from authz.core.policy_schema import json_schema
from authz.core.policy_suite import coverage, read_suite, run_suite
from authz.core.snapshot import Snapshot
from authz.core.tiers import TIERS
from authz.core.timestamps import seconds_of
from authz.stores.audit_log import AuditLog
from authz.stores.policies import load_paths
from authz.stores.versions import Versions
from tests.builders import bearer, check_request, gate
from tests.e2e import sidecar

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs/policies.md"
TEXT: Final = PAGE.read_text()


class Block(NamedTuple):
    """A fenced block: where it begins, what its fence says, and what is in it."""

    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        """The name in its first line; empty where it has none."""
        named = re.match(r"# (\S+\.ya?ml)\n", self.text)
        return named[1] if named else ""

    @property
    def keys(self) -> set[str]:
        """The keys of its first YAML document."""
        first = next(yaml.compose_all(self.text))
        return {key.value for key, _ in first.value}

    def __str__(self) -> str:
        return f"line {self.line}"


def _blocks() -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        yield Block(TEXT.count("\n", 0, match.start()) + 1, match[1], match[2])


BLOCKS: Final = list(_blocks())
CONSOLES: Final = [block for block in BLOCKS if block.language == "console"]
YAMLS: Final = [block for block in BLOCKS if block.language == "yaml"]
SUITES: Final = [block for block in YAMLS if "tests" in block.keys]
WORKFLOWS: Final = [block for block in YAMLS if "jobs" in block.keys]
POLICIES: Final = [block for block in YAMLS if block not in SUITES and block not in WORKFLOWS]


def _after(block: Block) -> Block:
    return BLOCKS[BLOCKS.index(block) + 1]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert TEXT.count("```") == 2 * len(BLOCKS)
    run = [*CONSOLES, *SUITES, *WORKFLOWS, *POLICIES]
    assert sorted(run) == sorted(BLOCKS)
    assert min(map(len, (CONSOLES, SUITES, WORKFLOWS, POLICIES))) > 0
    for block in YAMLS:
        assert block.file, f"{block} has no file name in its first line"
    assert len({block.file for block in YAMLS}) == len(YAMLS)


@pytest.mark.parametrize("block", POLICIES, ids=str)
def test_a_policy_is_good_or_its_problems_stand_beneath_it(block: Block) -> None:
    parsed = parse_file(block.text.encode(), block.file)
    below = _after(block)
    if below in SUITES:
        assert yaml.safe_load(below.text)["policies"] == block.file
    else:
        assert block.file in _commands(below)[0][0]
    # The page tells that validating reminds of a dry run.
    problems = [p for p in parsed.problems if "the policy is a dry run" not in p.message]
    if problems:
        assert _commands(below)[0][0] == f"authz policy validate {block.file}"


@pytest.mark.parametrize("block", SUITES, ids=str)
def test_a_suite_passes_on_the_policy_above_it_and_reaches_all_of_it(block: Block) -> None:
    above = BLOCKS[BLOCKS.index(block) - 1]
    assert above in POLICIES
    parsed = parse_file(above.text.encode(), above.file)
    snapshot = Snapshot([placed.policy for placed in parsed.policies])
    read = read_suite(block.text.encode(), block.file)
    assert read.problems == ()
    results = run_suite(read, snapshot)
    assert [(result.test.name, result.failure) for result in results if result.failure] == []
    assert coverage(snapshot, results).missed == []


@pytest.mark.parametrize("block", POLICIES, ids=str)
def test_editors_say_of_a_policy_what_we_say(block: Block) -> None:
    is_good = not parse_file(block.text.encode(), block.file).is_bad
    schema = jsonschema.Draft202012Validator(json_schema())
    assert is_good is all(map(schema.is_valid, yaml.safe_load_all(block.text)))


@pytest.mark.parametrize("block", WORKFLOWS, ids=str)
def test_the_workflow_uses_inputs_that_the_action_has(block: Block) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    workflow = yaml.safe_load(block.text)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    [ours] = [step for step in steps if "authz" in step["uses"]]
    assert set(ours["with"]) <= set(action["inputs"])
    assert (ROOT / ours["with"]["paths"]).is_dir()
    assert list(ROOT.glob(ours["with"]["tests"]))


# ---------------------------------------------------------------- console blocks


def _commands(block: Block) -> list[tuple[str, str]]:
    """Its commands, each with what is shown beneath."""
    assert block.text.startswith("$ ")
    pieces = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (piece.partition("\n") for piece in pieces)]


def _shows(shown: str, printed: str) -> bool:
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else rf"{re.escape(line)}[ ]*\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, printed) is not None


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the page's reader sits in."""
    for block in YAMLS:
        path = tmp_path / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    monkeypatch.chdir(tmp_path)
    for name in ("POLICIES_DIR", "DB_PATH", "AUTHZ_RUN_DIR", "ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUDIT_DB_PATH", "audit.db")
    _record(tmp_path)
    return tmp_path


def _record(directory: Path) -> None:
    """An audit trail: `reader.yaml` was in force, some requests came, it was edited."""
    first, second = (load_paths([directory / f"{name}.yaml"]) for name in ("reader", "reader-next"))
    audit = AuditLog(directory / "audit.db", monotonic=time.monotonic)
    assert audit.open()
    moments = iter(["2026-05-04T09:00:00Z", "2026-05-04T09:30:00Z"])
    ids = iter(range(1000))
    versions = Versions(
        audit, directory / "audit.db", limit=10, mode=lambda: guard.mode,
        now=lambda: seconds_of(current), new_id=lambda: f"v{next(ids)}",
    )  # fmt: skip
    guard = gate(lambda: versions.current, audit, new_id=lambda: f"d{next(ids)}")  # type: ignore[arg-type]
    current = next(moments)
    versions.start(first.snapshot)
    reader = bearer(sub="reader-1", tags=["docs"])
    for path, times in (("intro", 3), ("guides/start", 2), ("drafts/1", 1)):
        for _ in range(times):
            guard.check(check_request("GET", f"/proxy/docs/{path}", {"authorization": reader}))
    current = next(moments)
    versions.reload(second.snapshot)
    audit.close()


@pytest.fixture
def service(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A running service of these versions, and an environment that leads to it."""
    database = workshop / "service.db"
    database.write_bytes((workshop / "audit.db").read_bytes())
    policies = workshop / "service"
    policies.mkdir()
    (policies / "reader.yaml").write_bytes((workshop / "reader-next.yaml").read_bytes())
    with sidecar.directory() as path:
        env = sidecar.environment(
            path, 1, "http://127.0.0.1:9", POLICIES_DIR=str(policies), AUDIT_DB_PATH=str(database)
        )
        with sidecar.start(path, env, "serve") as process:
            socket = path / "run" / "http.sock"
            sidecar.wait_until(lambda: socket.exists() or process.poll() is not None, "a socket")
            monkeypatch.setenv("AUTHZ_RUN_DIR", str(path / "run"))
            monkeypatch.setenv("ADMIN_TOKEN", sidecar.ADMIN_TOKEN)
            yield


@pytest.mark.parametrize("block", CONSOLES, ids=str)
def test_a_command_prints_what_is_shown(
    block: Block, workshop: Path, request: pytest.FixtureRequest
) -> None:
    if "rollback" in block.text:
        request.getfixturevalue("service")
    for command, shown in _commands(block):
        program, *arguments = shlex.split(command)
        assert program == "authz"
        assert set(shown.split("\n")) - {"...", ""}, f"{block}: nothing is shown of {command}"
        printed = CliRunner().invoke(app, arguments).output
        assert _shows(shown, printed), f"{PAGE.name}, {block}: {command}\n{printed}"


# ---------------------------------------------------------------- tables and lists


def _column(heading: str) -> list[str]:
    """What stands in code in the first column of the table with this heading."""
    table = TEXT[TEXT.index(f"| {heading} |") :].partition("\n\n")[0]
    return re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))


def test_every_fact_and_every_test_is_named() -> None:
    facts = _column("Fact")
    agent = [f"agent{name}" for name in facts if name.startswith(".")]
    named = {name for name in facts if not name.startswith(".")} | set(agent)
    assert named == {*FACTS, "context.KEY"}
    assert set(_column("Test")) == set(OPERATORS)


def test_every_scope_tier_and_severity_is_named() -> None:
    assert set(_column("In `appliesTo`")) == {"tags", "trustTiers", "agentIds", "orgIds"}
    assert ", ".join(f"`{tier}`" for tier in TIERS) in TEXT
    assert ", ".join(f"`{word}`" for word in get_args(Severity)) in TEXT


def test_every_lint_is_shown() -> None:
    names = [value for name, value in vars(lints).items() if name.isupper() and _is_name(value)]
    assert len(names) == 5
    for name in names:
        assert f"[{name}]" in TEXT
        assert f"# {name}" in TEXT or f", {name}" in TEXT


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and "-" in value


def test_every_command_is_named() -> None:
    [said] = re.findall(r"`authz policy` has (.*?), each with", TEXT, re.DOTALL)
    commands = [command.name for command in policy.app.registered_commands]
    assert re.findall(r"`(\w+)`", said) == commands
