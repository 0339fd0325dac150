"""The cases of `tests/cases`: what agents ask, what they are told, and what the trail says of it.

Each is run as it stands, and again in audit mode, where every denial must be forwarded with the
same code in its row. Afterwards the trail verifies, and the database holds what the process does.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from authz.core.errors import Code
from tests import case_files
from tests.case_files import DIRECTORY, STAGES, Case, Step, Then, name_of
from tests.case_world import Answered, World, world

PATHS: Final = case_files.paths("gate")
#: Said by the runner, since no file can: `core` reads columns that a case leaves out as "whatever".
_DECIDED: Final = {True: "allow", False: "deny"}


class Differs(Exception):
    """What was found is not what the case expects."""


def _same(where: str, found: object, expected: object) -> None:
    if found != expected:
        raise Differs(f"{where}: expected {expected!r}, found {found!r}")


class Run:
    """One run of a case."""

    def __init__(self, path: Path, tmp_path: Path, mode: str = "") -> None:
        """`mode`: instead of the case's own."""
        self.case = case_files.read(path)
        self._file = path.relative_to(DIRECTORY.parent.parent)
        self._tmp_path = tmp_path
        self._mode = mode

    def run(self) -> None:
        """Every step, and what must be true after the last."""
        with world(self._tmp_path, self.case, self._mode) as here:
            for number, step in enumerate(self.case.steps, 1):
                try:
                    self._step(here, step)
                except Exception as error:
                    told = f"{self._file}: step {number} ({step.what}): {error}"
                    raise AssertionError(told) from error
            here.unlock()
            assert here.stored() == here.remembered(), f"{self._file}: the ledger"
        report = here.verified()
        assert report.problems == [], f"{self._file}: the trail: {report.problems}"
        assert report.rows > 0 or not any(step.asked for step in self.case.steps)

    def _step(self, here: World, step: Step) -> None:
        if step.asked:
            self._asked(here, step)
        elif step.turn_away is not None:
            assert step.then is not None
            for answered in here.turned_away(step.turn_away):
                self._answer(here, step.then, answered)
        elif step.spent is not None:
            _same("spent", here.spent(step.spent.wallet, step.spent.agent), step.spent.spent)
        else:
            _same("fails", here.happen(step), here.filled(step.fails))
            self._change(here, step)

    def _change(self, here: World, step: Step) -> None:
        rows = [row for row in here.new_rows() if row["action"] != "overload"]
        expected = step.what in case_files.OPERATIONS and not step.fails
        _same("rows", len(rows), int(expected))
        for row in rows:
            self._row(here, {"source": "control", "code": "changed", **(step.row or {})}, row)

    def _asked(self, here: World, step: Step) -> None:
        answers = here.ask(step.asked)
        _same("answers", len(answers), len(step.asked))
        for number, (asked, answered) in enumerate(zip(step.asked, answers, strict=True), 1):
            with _at(number, len(answers)):
                self._answer(here, asked.then, answered)
        rows = here.new_rows()
        pairs = zip(step.asked, answers, strict=True)
        recorded = [(asked, answered) for asked, answered in pairs if asked.row is not None]
        _same("rows", len(rows), len(recorded))
        for number, ((asked, answered), row) in enumerate(zip(recorded, rows, strict=True), 1):
            with _at(number, len(rows)):
                self._row(here, self._columns(asked.then, asked.row or {}), row)
                _same("the row that the answer names", answered.decision_id, row["id"])

    def _columns(self, then: Then, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the row of an answer says, also where the file leaves it out."""
        passes = then.code.status < 400
        decision = "allow" if passes else "deny" if then.code.status < 500 else "error"
        enforced = "allow" if self._is_forwarded(then) else decision
        said: dict[str, Any] = {"code": str(then.code), "decision": decision, "enforced": enforced}
        for column in ("stage", "policy", "rule"):
            value = getattr(then, column)
            if value != "":
                said[column] = value
        if then.reason:
            said["reason"] = then.reason
        said |= row
        if self._mode:
            said |= {"mode": self._mode, "enforced": "allow"}
        return said

    def _is_forwarded(self, then: Then) -> bool:
        return bool(self._mode) or then.status < 400

    def _answer(self, here: World, then: Then, answered: Answered) -> None:
        if self._is_forwarded(then):
            _same("status", answered.status, 200)
        else:
            _same("status", answered.status, then.status)
            for name in ("code", "stage", "policy", "rule", "reason"):
                expected = getattr(then, name)
                if expected != "" and (name != "stage" or not answered.is_item):
                    _same(name, answered.body.get(name), _filled(here, expected))
        if answered.metadata and then.status < 500:
            _same("metadata code", answered.metadata["code"], str(then.code))
        if self._mode and then.status >= 400:
            if answered.metadata and then.rule:
                _same("would-deny", answered.headers["x-meshguard-would-deny"], then.rule)
            return
        for key, expected in then.body.items():
            _same(f"body {key}", answered.body.get(key), _filled(here, expected))
        for header, expected in then.headers.items():
            _same(f"header {header}", answered.headers.get(header.lower()), _filled(here, expected))
        for header, expected in then.upstream.items():
            _same(f"upstream {header}", answered.upstream.get(header.lower()), expected)
        missing = {header.lower() for header in then.removed} - set(answered.removed)
        _same("not removed", missing, set())

    def _row(self, here: World, expected: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        for column, value in expected.items():
            if column == "metadata" and isinstance(value, dict):
                found = json.loads(row["metadata"] or "{}")
                for key, part in value.items():
                    _same(f"row metadata {key}", found.get(key), _filled(here, part))
            else:
                _same(f"row {column}", row[column], _filled(here, value))


class _at:  # noqa: N801
    """Tells which of several it is."""

    def __init__(self, number: int, count: int) -> None:
        self._told = f"call {number}: " if count > 1 else ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Differs) and self._told:
            raise Differs(f"{self._told}{error}") from None


def _filled(here: World, value: Any) -> Any:
    if isinstance(value, str):
        return here.filled(value)
    if isinstance(value, list):
        return [_filled(here, part) for part in value]
    if isinstance(value, dict):
        return {key: _filled(here, part) for key, part in value.items()}
    return value


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
    #: No call is answered with the first; the others are told where no row can be.
    no_answer = {Code.CHANGED}
    no_row = {Code.AUDIT_UNAVAILABLE, Code.BYPASSED, Code.CIRCUIT_OPEN}
    assert {code for code, where in found if where == "answer"} == set(Code) - no_answer
    assert {code for code, where in found if where == "row"} == set(Code) - no_row
