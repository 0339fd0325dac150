"""The cases of `tests/cases`: what agents ask, what they are told, and what the trail says of it.

Each is run as it stands, and again in audit mode, where every denial must be forwarded with the
same code in its row. Afterwards the trail verifies, and the database holds what the process does.
Those that need an Envoy are run in `e2e/test_envoy_cases.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from authz.core.errors import Code
from tests import case_files
from tests.case_files import DIRECTORY, STAGES, Case, name_of
from tests.case_run import Run

PATHS: Final = case_files.paths("gate")


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_what_the_case_says_is_what_happens(path: Path, tmp_path: Path) -> None:
    Run(path, tmp_path).run()


def _denials() -> Iterator[Path]:
    for path in PATHS:
        case = case_files.read(path)
        if case.denies and not case.not_in_audit_mode:
            yield path


@pytest.mark.parametrize("path", list(_denials()), ids=name_of)
def test_what_is_denied_is_forwarded_in_audit_mode_and_recorded_alike(
    path: Path, tmp_path: Path
) -> None:
    Run(path, tmp_path, "audit").run()


def _all() -> Iterator[tuple[Path, Case]]:
    for through in ("gate", "envoy"):
        for path in case_files.paths(through):
            yield path, case_files.read(path)


def test_every_file_is_a_case_of_a_stage_and_its_name_is_a_sentence() -> None:
    stray = [path for path in DIRECTORY.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert stray == []
    for path, _ in _all():
        assert path.parent.parent == DIRECTORY, path
        assert path.parent.name in STAGES, path
        assert path.stem.count("_") >= 2, path
        assert path.read_text().startswith("what: "), path
    assert {path.parent.name for path, _ in _all()} == set(STAGES)


def test_no_two_cases_say_that_they_are_about_the_same() -> None:
    said = [case.what for _, case in _all()]
    assert len(said) == len(set(said))


def test_every_code_is_expected_in_an_answer_and_in_a_row() -> None:
    found = {pair for _, case in _all() for pair in case.expected}
    #: No decision is the first three, of which edges/ has the last two; the others are told
    #: where no row can be.
    no_answer = {Code.CHANGED, Code.REPORTED, Code.ADMIN_REFUSED}
    no_row = {
        Code.REPORTED,
        Code.ADMIN_REFUSED,
        Code.AUDIT_UNAVAILABLE,
        Code.BYPASSED,
        Code.CIRCUIT_OPEN,
    }
    assert {code for code, where in found if where == "answer"} == set(Code) - no_answer
    assert {code for code, where in found if where == "row"} == set(Code) - no_row
