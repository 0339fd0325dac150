"""action.yml does in a pull request what `authz policy` does at home, and obeys nobody in it.

Its scripts are run as a runner runs them: bash, the inputs in the environment, and what they print
read as workflow commands. Only the installation is a stand-in, which says what was asked of it and
leaves the `authz` of this checkout where the action expects its own.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from authz.cli import app

ROOT: Final = Path(__file__).parents[1]
ACTION: Final[dict[str, Any]] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: Final[list[dict[str, Any]]] = ACTION["runs"]["steps"]
SCRIPTS: Final = [step for step in STEPS if "run" in step]

#: Names that a shell, a workflow command or a list could take for something else.
HOSTILE: Final = [
    "$(touch pwned)",
    "`touch pwned`",
    "a b",
    "'",
    '"; touch pwned; "',
    "commas, colons: and 100% [of] {them}",
    "-rf",
    "--help",
    "::error file=x,line=1::not so",
    "##[add-mask]a",
    "é\u202e",
]

GOOD: Final = """\
name: good
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: deny, actions: ["read:secrets"]}
  - {effect: allow, actions: ["read:*"]}
defaultEffect: deny
"""
#: An error, a warning without and one with the name of a lint.
BAD: Final = """\
name: bad
version: 1.0
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: permit, actions: ["read:*"]}
defaultEffect: deny
"""
WARNED: Final = GOOD.replace('"read:secrets"', '"read:secrets", "read:secrets"')
SUITE: Final = """\
tests:
  - {name: reads, agent: a, action: "read:x", expect: allow}
  - {name: no secrets, agent: a, action: "read:secrets", expect: deny}
"""

#: `authz policy test --format github`; before there is one, the action cannot run suites.


# ---------------------------------------------------------------- what is written


def test_every_script_has_a_shell_and_no_expression_in_it() -> None:
    assert len(SCRIPTS) == 2
    for step in SCRIPTS:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], step["name"]
        assert step["run"].startswith("set -euo pipefail\n")


def test_every_input_is_explained_and_reaches_one_place() -> None:
    given = [
        value
        for step in STEPS
        for value in [*step.get("env", {}).values(), *step.get("with", {}).values()]
    ]
    assert sorted(given) == sorted(f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"])
    for name, about in ACTION["inputs"].items():
        assert about["description"].endswith("."), name
        assert isinstance(about["default"], str), name


def test_what_it_uses_of_others_is_pinned() -> None:
    for step in STEPS:
        assert "uses" not in step or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])


def test_its_default_paths_are_this_repositorys_own() -> None:
    assert (ROOT / ACTION["inputs"]["paths"]["default"]).is_dir()


# ---------------------------------------------------------------- a runner


class Annotation(NamedTuple):
    """A workflow command that annotates, as the runner understands it."""

    severity: str
    properties: dict[str, str]
    message: str


@dataclass
class Ran:
    """What came of the action."""

    code: int
    out: str
    summary: str

    @property
    def annotations(self) -> list[Annotation]:
        return [
            Annotation(name, properties, message)
            for name, properties, message in map(_command, _lines(self.out))
            if name in ("error", "warning", "notice")
        ]

    @property
    def other_commands(self) -> list[str]:
        names = {_command(line)[0] for line in _lines(self.out)}
        return sorted(names - {"", "error", "warning", "notice"})


def _lines(out: str) -> list[str]:
    # The runner reads lines as .NET does: a carriage return ends one too.
    return re.split(r"\r\n|\r|\n", out)


def _command(line: str) -> tuple[str, dict[str, str], str]:
    """A line's command, its properties and its message; an empty name where it has none."""
    match = re.match(r"::([\w-]+)(?: ([^:]*))?::(.*)", line.lstrip())
    if match is None:
        # The older form counts anywhere in a line.
        old = re.search(r"##\[([\w-]+)", line)
        return (old[1] if old else "", {}, "")
    pairs = [pair.split("=", 1) for pair in (match[2] or "").split(",") if pair]
    properties = {name: _unescaped(value, ":,") for name, value in pairs}
    return match[1], properties, _unescaped(match[3], "")


def _unescaped(text: str, more: str) -> str:
    for character in ["\r", "\n", *more, "%"]:
        text = text.replace(f"%{ord(character):02X}", character)
    return text


class Runner:
    """A checkout in a workspace, and the environment of a job."""

    def __init__(self, directory: Path) -> None:
        self.workspace = directory / "work space"
        self.workspace.mkdir()
        self.temp = directory / "temp"
        self.temp.mkdir()
        self.calls = directory / "calls"
        self._bin = directory / "bin"
        self._bin.mkdir()
        self._summary = directory / "summary"
        self._stand_ins()

    def _stand_ins(self) -> None:
        """A `python3` that makes a "virtual environment" of this checkout, and tells its calls."""
        authz = Path(sys.executable).with_name("authz")
        made = self._bin / "made"
        made.mkdir()
        tell = (
            f'#!/bin/bash\nprintf "%q " "${{0##*/}}" "$@" >> {self.calls}\necho >> {self.calls}\n'
        )
        _program(made / "python", tell)
        _program(made / "authz", f'#!/bin/bash\nPYTHONPATH={ROOT} exec {authz} "$@"\n')
        copy = f'mkdir -p "${{@: -1}}" && cp -r {made} "${{@: -1}}/bin"\n'
        real = f'[[ $2 != -c ]] || exec {sys.executable} "$@"\n'
        _program(self._bin / "python3", tell + real + copy)

    def policies(self, directory: str, **files: str) -> None:
        """Write `name.yaml` files into a directory of the workspace."""
        path = self.workspace / directory
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / f"{name}.yaml").write_text(text)

    def run(self, **inputs: str) -> Ran:
        """Run the action's scripts with these inputs, `-` in their names written as `_`."""
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert given.keys() <= ACTION["inputs"].keys()
        self._summary.write_text("")
        out = ""
        for step in SCRIPTS:
            done = self._step(step, given)
            out += done.stdout
            if done.returncode:
                return Ran(done.returncode, out, self._summary.read_text())
        return Ran(0, out, self._summary.read_text())

    def _step(
        self, step: dict[str, Any], given: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        values = {
            name: given.get(name, about["default"]) for name, about in ACTION["inputs"].items()
        }
        env = {
            name: values[expression.removeprefix("${{ inputs.").removesuffix(" }}")]
            for name, expression in step.get("env", {}).items()
        }
        script = self.temp / "script.sh"
        script.write_text(step["run"])
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.workspace,
            env={
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "RUNNER_TEMP": str(self.temp),
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_STEP_SUMMARY": str(self._summary),
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def _problems(runner: Runner, *paths: str) -> list[Annotation]:
    """The annotations that `authz policy validate` should make of these paths."""
    with contextlib.chdir(runner.workspace):
        done = CliRunner().invoke(app, ["policy", "validate", "--json", "--", *paths])
    return [
        Annotation(
            problem["severity"],
            {
                "file": problem["file"],
                "line": str(problem["line"]),
                "col": str(problem["column"]),
                "title": problem["lint"] or "policy",
            },
            problem["message"],
        )
        for problem in json.loads(done.stdout)["problems"]
    ]


# ---------------------------------------------------------------- installing


def test_it_installs_itself_from_hashed_requirements_and_imports_nothing_of_the_checkout(
    runner: Runner,
) -> None:
    runner.policies("policies", good=GOOD)
    assert runner.run().code == 0
    requirements = f"{ROOT}/requirements"
    pip = "python -I -m pip --disable-pip-version-check --quiet install"
    assert [line.strip() for line in runner.calls.read_text().splitlines()][1:] == [
        f"python3 -I -m venv --clear {runner.temp}/authz",
        f"{pip} --require-hashes -r {requirements}/build.txt -r {requirements}/runtime.txt",
        f"{pip} --no-deps --no-build-isolation {ROOT}",
    ]
    for name in ("build", "runtime"):
        assert "--hash=sha256:" in (ROOT / f"requirements/{name}.txt").read_text()


def test_an_old_python_is_a_sentence(runner: Runner) -> None:
    _program(runner._bin / "python3", "#!/bin/bash\nexit 1\n")
    ran = runner.run()
    assert ran.code == 2
    assert ran.annotations == [
        Annotation(
            "error", {"title": "authz"}, "Python 3.11 or newer is needed; set python-version"
        )
    ]


# ---------------------------------------------------------------- validating


def test_good_policies_pass_without_a_word(runner: Runner) -> None:
    runner.policies("policies", good=GOOD)
    ran = runner.run()
    assert (ran.code, ran.annotations, ran.other_commands) == (0, [], [])
    assert re.fullmatch(
        r"- Policies: 1 polic(y|ies) in 1 files?, 0 errors, 0 warnings\n", ran.summary
    )


def test_every_problem_is_put_on_its_line(runner: Runner) -> None:
    runner.policies("policies", bad=BAD, warned=WARNED, good=GOOD.replace("good", "other"))
    ran = runner.run()
    assert ran.code == 1
    assert ran.annotations == _problems(runner, "policies")
    assert {(a.severity, a.properties["title"]) for a in ran.annotations} == {
        ("error", "policy"), ("warning", "policy"), ("warning", "dead-pattern"),
    }  # fmt: skip
    assert "1 error" in ran.summary


@pytest.mark.parametrize(("strict", "code"), [("false", 0), ("true", 1)])
def test_warnings_fail_where_they_should(runner: Runner, strict: str, code: int) -> None:
    runner.policies("policies", warned=WARNED)
    ran = runner.run(strict=strict)
    assert (ran.code, [a.severity for a in ran.annotations]) == (code, ["warning"])


def test_several_paths_are_one_set(runner: Runner) -> None:
    runner.policies("one", good=GOOD)
    runner.policies("two", again=GOOD, other=GOOD.replace("good", "other"))
    ran = runner.run(paths="one\r\n\n  two\ntwo/other.yaml\n".replace("  ", ""))
    assert ran.code == 1
    assert ran.annotations == _problems(runner, "one", "two")
    assert "the policy name `good` is taken by one/good.yaml:1" in ran.out


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"paths": "nowhere"}, "nowhere: there is no such file or directory"),
        ({"paths": "no%where"}, "no%where: there is no such file or directory"),
        ({"paths": " \n".strip(" ")}, "paths: is empty"),
        ({"strict": "yes"}, "strict: must be true or false"),
        ({"tests": "none/*.yaml"}, "tests: nothing is called none/*.yaml"),
    ],
)
def test_what_cannot_be_run_is_an_annotation_too(
    runner: Runner, inputs: dict[str, str], said: str
) -> None:
    runner.policies("policies", good=GOOD)
    ran = runner.run(**inputs)
    assert ran.code == 2
    assert ran.annotations == [Annotation("error", {"title": "authz"}, said)]


# ---------------------------------------------------------------- testing


def test_suites_are_run_against_the_policies(runner: Runner) -> None:
    runner.policies("rules", good=GOOD)
    runner.policies("suites/deep", one=SUITE)
    runner.policies("suites", two=SUITE)
    ran = runner.run(paths="rules", tests="suites/**/*.yaml\n")
    assert (ran.code, ran.annotations) == (0, [])
    assert ran.summary.splitlines()[1:] == [
        "- Tests: Results: 4 passed, 0 failed; Coverage: 2 of 2 rules decided in some test"
    ]


def test_a_failing_test_is_put_on_its_line(runner: Runner) -> None:
    runner.policies("policies", good=GOOD)
    runner.policies("suites", one=SUITE.replace("expect: allow", "expect: deny"))
    ran = runner.run(tests="suites/one.yaml")
    assert ran.code == 1
    assert ran.annotations == [
        Annotation(
            "error",
            {"file": "suites/one.yaml", "line": "2", "col": "1", "title": "policy test"},
            "reads: expected deny, got allow: rule_allowed",
        )
    ]
    assert "1 passed, 1 failed" in ran.summary


def test_a_suite_that_cannot_be_read_is_put_on_its_line(runner: Runner) -> None:
    runner.policies("policies", good=GOOD)
    runner.policies("suites", one=SUITE.replace("expect", "expcet"))
    ran = runner.run(tests="suites/one.yaml")
    assert ran.code == 2
    assert {(a.properties["file"], a.properties["line"]) for a in ran.annotations} == {
        ("suites/one.yaml", "2"), ("suites/one.yaml", "3"),
    }  # fmt: skip
    assert "- Tests: could not be read\n" in ran.summary


def test_a_rule_that_no_test_reaches_is_a_warning(runner: Runner) -> None:
    runner.policies("policies", good=GOOD)
    runner.policies("suites", one=SUITE.partition("  - {name: no")[0])
    ran = runner.run(tests="suites/one.yaml")
    assert ran.code == 0
    [warning] = ran.annotations
    assert (warning.severity, warning.properties["file"], warning.properties["line"]) == (
        "warning", "policies/good.yaml", "5",
    )  # fmt: skip
    assert warning.message == "no test reaches good rule 1: deny read:secrets"


def test_both_are_run_before_it_fails(runner: Runner) -> None:
    runner.policies("policies", bad=BAD)
    runner.policies("fixtures", good=GOOD)
    failing = "policies: ../fixtures\n" + SUITE.replace("expect: deny", "expect: allow")
    runner.policies("suites", one=failing)
    ran = runner.run(tests="suites/*.yaml")
    assert ran.code == 1
    files = [a.properties["file"] for a in ran.annotations if a.severity == "error"]
    assert files == ["policies/bad.yaml", "suites/one.yaml"]
    assert len(ran.summary.splitlines()) == 2


def test_invalid_policies_fail_once_and_their_suites_say_why(runner: Runner) -> None:
    runner.policies("policies", bad=BAD)
    runner.policies("suites", one=SUITE)
    ran = runner.run(tests="suites/*.yaml")
    assert ran.code == 2
    own = [a.message for a in ran.annotations if a.properties["title"] == "authz"]
    assert own == ["the policies have errors; `authz policy validate` prints all problems"]


# ---------------------------------------------------------------- hostile names


def test_a_directory_may_be_called_anything(runner: Runner) -> None:
    for name in HOSTILE:
        runner.policies(name, bad=BAD)
    ran = runner.run(paths="\n".join(HOSTILE))
    assert ran.code == 1
    assert ran.annotations == _problems(runner, *HOSTILE)
    assert {a.properties["file"] for a in ran.annotations} == {f"{n}/bad.yaml" for n in HOSTILE}
    assert ran.other_commands == []
    assert not list(runner.workspace.rglob("pwned"))


def test_a_file_may_be_called_anything(runner: Runner) -> None:
    names = [*HOSTILE, "new\nline", "re\rturn"]
    runner.policies(".", **dict.fromkeys(names, BAD))
    ran = runner.run(paths=".")
    assert ran.code == 1
    assert ran.annotations == _problems(runner, ".")
    assert {a.properties["file"] for a in ran.annotations} == {f"{name}.yaml" for name in names}
    assert ran.other_commands == []
    assert not list(runner.workspace.rglob("pwned"))


def test_a_suite_may_be_called_anything(runner: Runner) -> None:
    names = [*HOSTILE, "*", "[a]"]
    runner.policies("policies", good=GOOD)
    failing = SUITE.replace("expect: allow", "expect: deny")
    runner.policies("suites", **dict.fromkeys(names, failing))
    ran = runner.run(tests="\n".join(f"suites/{name}.yaml" for name in names))
    assert ran.code == 1
    assert [a.properties["file"] for a in ran.annotations] == [f"suites/{n}.yaml" for n in names]
    assert ran.other_commands == []
    assert not list(runner.workspace.rglob("pwned"))


def test_a_suite_gives_the_runner_no_commands(runner: Runner) -> None:
    named = json.dumps("\n::add-mask::a\r::stop-commands::a ##[add-mask]a")
    reasoned = GOOD.replace("effect: deny, ", f"effect: deny, reason: {named}, ")
    runner.policies("policies", good=reasoned)
    tests = SUITE.replace("name: reads", f"name: {named}").replace("expect: deny", "expect: allow")
    runner.policies("suites", one=tests, two=f"policies: {named}\n{SUITE}")
    for suite in ("one", "two"):
        ran = runner.run(tests=f"suites/{suite}.yaml")
        assert ran.code > 0
        assert ran.annotations
        assert ran.other_commands == []


def test_what_a_policy_says_gives_the_runner_no_commands(runner: Runner) -> None:
    hostile = json.dumps("\n::add-mask::a\r::add-mask::a")
    runner.policies(
        "policies", bad=f"name: {hostile}\n{hostile}: 1\nrules: [{{effect: {hostile}}}]\n"
    )
    ran = runner.run()
    assert ran.code == 1
    assert ran.annotations == _problems(runner, "policies")
    assert ran.other_commands == []
