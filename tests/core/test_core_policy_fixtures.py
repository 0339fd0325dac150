"""One file for each way to go wrong, with everything that is said about it, word for word.

`tests/policies/*.yaml` hold one mistake each (or none), and the `*.txt` beside them the problems as
they are printed, one a line. A sentence that changes changes here.
"""

from pathlib import Path
from typing import Final

import pytest

from authz.core import conditions, lints
from authz.core.chain_compiled import read_chain
from authz.core.chain_doc import CHAIN_KINDS
from authz.core.compiled import compile_policy
from authz.core.policy_file import MAX_FILE, MAX_PROBLEMS, Parsed, parse_file

DIRECTORY: Final = Path(__file__).parents[1] / "policies"
FIXTURES: Final = sorted(DIRECTORY.glob("*.yaml"))

GOOD: Final = """\
name: n
version: "1"
appliesTo: {tags: [a]}
rules:
  - effect: allow
    actions: ["read:*"]
defaultEffect: deny
"""


def parsed(fixture: Path) -> Parsed:
    return parse_file(fixture.read_bytes(), fixture.name)


def expected(fixture: Path) -> str:
    return fixture.with_suffix(".txt").read_text()


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_a_file_has_the_problems_that_stand_beside_it(fixture: Path) -> None:
    assert "".join(f"{problem}\n" for problem in parsed(fixture).problems) == expected(fixture)


def test_no_fixture_lacks_its_text_and_no_text_its_fixture() -> None:
    texts = {path.stem for path in DIRECTORY.glob("*.txt")}
    assert texts == {path.stem for path in FIXTURES}
    assert len(list(DIRECTORY.iterdir())) == 2 * len(FIXTURES)


def test_a_file_counts_unless_one_of_its_problems_is_an_error() -> None:
    for fixture in FIXTURES:
        result = parsed(fixture)
        assert result.has_documents is (": error: " not in expected(fixture)), fixture
        assert result.is_bad is (not result.has_documents), fixture


def test_a_problem_points_into_the_file_and_stays_on_one_line() -> None:
    for fixture in FIXTURES:
        lines = fixture.read_bytes().decode("utf-8-sig", "replace").splitlines()
        for problem in parsed(fixture).problems:
            assert 1 <= problem.line <= len(lines), problem
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
            assert str(problem).isascii(), problem
            assert str(problem).isprintable(), problem


def test_what_is_kept_of_a_policy_is_what_its_file_says() -> None:
    for fixture in FIXTURES:
        for placed in parsed(fixture).policies:
            policy = placed.policy
            again = compile_policy(policy.document)
            assert (again.said, again.digest) == (policy.said, policy.digest), fixture
            assert [rule._replace(condition=None) for rule in again.rules] == [
                rule._replace(condition=None) for rule in policy.rules
            ], fixture
            assert again._replace(rules=()) == policy._replace(rules=()), fixture


def test_what_is_kept_of_another_document_is_what_its_file_says() -> None:
    found = [each.document for fixture in FIXTURES for each in parsed(fixture).chain]
    assert {document.kind for document in found} == set(CHAIN_KINDS)
    for document in found:
        assert read_chain(document.said) == document


def test_every_condition_of_other_dialects_has_its_place_here() -> None:
    text = (DIRECTORY / "condition-said-here.yaml").read_text()
    said = expected(DIRECTORY / "condition-said-here.yaml")
    for kind, here in conditions._SAID_HERE.items():
        assert f"      {kind}: " in text
        assert f"unknown condition `{kind}`" in said
        assert here in said


@pytest.mark.parametrize(
    "lint",
    [lints.SHADOWED_RULE, lints.DEAD_PATTERN, lints.DUPLICATE_NAME, lints.UNREACHABLE_POLICY],
)
def test_every_lint_of_one_file_has_its_place_here(lint: str) -> None:
    assert any(f" [{lint}]\n" in expected(fixture) for fixture in FIXTURES)


@pytest.mark.parametrize("size", [MAX_FILE + 1, 10_000_000])
def test_a_file_that_is_too_large_is_not_read(size: int) -> None:
    data = (GOOD + "x" * size).encode()[:size]
    assert [*map(str, parse_file(data, "x.yaml").problems)] == [
        "x.yaml:1:1: error: the file is larger than 1048576 bytes"
    ]


def test_a_file_of_exactly_the_largest_size_is_read() -> None:
    data = GOOD.encode().ljust(MAX_FILE, b"#")
    assert [placed.policy.name for placed in parse_file(data, "x.yaml").policies] == ["n"]


def test_a_file_tells_a_hundred_problems_and_how_many_more() -> None:
    result = parse_file(
        (GOOD + "".join(f"zzz{number:04}: 1\n" for number in range(1000))).encode(), "x.yaml"
    )
    assert len(result.policies) == 1
    assert [*map(str, result.problems)] == [
        *(
            f"x.yaml:{8 + number}:1: warning: unknown key `zzz{number:04}`; ignored"
            for number in range(MAX_PROBLEMS)
        ),
        "x.yaml:107:1: warning: and 900 more problems in this file",
    ]


def test_a_file_with_exactly_a_hundred_problems_tells_them_all() -> None:
    text = GOOD + "".join(f"zzz{number:04}: 1\n" for number in range(MAX_PROBLEMS))
    problems = parse_file(text.encode(), "x.yaml").problems
    assert len(problems) == MAX_PROBLEMS
    assert "more problems" not in str(problems[-1])


def test_of_too_many_problems_the_errors_are_told() -> None:
    text = GOOD + "".join(f"zzz{number:04}: 1\n" for number in range(1000)) + "when: x\n"
    result = parse_file(text.encode(), "x.yaml")
    assert result.policies == ()
    assert len(result.problems) == MAX_PROBLEMS + 1
    [error] = [problem for problem in result.problems if problem.severity == "error"]
    assert (error.line, error.column) == (1008, 1)
    assert result.problems.index(error) >= MAX_PROBLEMS - 1


def test_five_thousand_rules_are_read() -> None:
    rules = "".join(f"  - {{effect: deny, actions: [a{n}]}}\n" for n in range(5_000))
    text = GOOD.partition("  - effect")[0] + rules + "defaultEffect: deny\n"
    result = parse_file(text.encode(), "x.yaml")
    assert result.problems == ()
    assert len(result.policies[0].policy.rules) == 5_000
