"""Runs a case and compares everything: answers, rows, the ledger and the trail.

- What a file leaves out is not compared, but for what every answer and every row have in common:
  they say the same code, stage, policy and rule, and the answer names its row.
- `mode` audit runs a case as if it said so: each call must be forwarded, each row be the same.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import case_files
from tests.case_files import DIRECTORY, Step, Then
from tests.case_world import Answered, World, world

#: A text with what exists only now.
Fill = Callable[[str], str]


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
        changes = step.what in case_files.OPERATIONS and not step.fails
        self._control(here, [step.row or {}] if changes else step.also, here.new_rows())

    def _control(
        self, here: World, expected: list[dict[str, Any]], rows: list[dict[str, Any]]
    ) -> None:
        """The rows about the sidecar itself."""
        _same("rows about the sidecar", len(rows), len(expected))
        for said, row in zip(expected, rows, strict=True):
            compare_row({"source": "control", "code": "changed", **said}, row, here.filled)

    def _asked(self, here: World, step: Step) -> None:
        answers = here.ask(step.asked)
        _same("answers", len(answers), len(step.asked))
        for number, (asked, answered) in enumerate(zip(step.asked, answers, strict=True), 1):
            with _at(number, len(answers)):
                self._answer(here, asked.then, answered)
        found = here.new_rows()
        rows = [row for row in found if row["source"] != "control"]
        self._control(here, step.also, [row for row in found if row["source"] == "control"])
        pairs = zip(step.asked, answers, strict=True)
        recorded = [(asked, answered) for asked, answered in pairs if asked.row is not None]
        _same("rows", len(rows), len(recorded))
        for number, ((asked, answered), row) in enumerate(zip(recorded, rows, strict=True), 1):
            with _at(number, len(rows)):
                compare_row(self._columns(asked.then, asked.row or {}), row, here.filled)
                _same("the row that the answer names", answered.decision_id, row["id"])

    def _answer(self, here: World, then: Then, answered: Answered) -> None:
        forwarded = bool(self._mode) and then.status >= 400
        compare_answer(then, answered, here.filled, forwarded=forwarded)

    def _columns(self, then: Then, row: Mapping[str, Any]) -> dict[str, Any]:
        said = columns(then, row)
        return said | {"mode": self._mode, "enforced": "allow"} if self._mode else said


def columns(then: Then, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the row of an answer says, also where the file leaves it out."""
    status = then.code.status
    decision = "allow" if status < 400 else "deny" if status < 500 else "error"
    enforced = "allow" if then.status < 400 else decision
    said: dict[str, Any] = {"code": str(then.code), "decision": decision, "enforced": enforced}
    for column in ("stage", "policy", "rule"):
        value = getattr(then, column)
        if value != "":
            said[column] = value
    if then.reason:
        said["reason"] = then.reason
    return said | dict(row)


def compare_answer(then: Then, answered: Answered, fill: Fill, *, forwarded: bool = False) -> None:
    """
    Args:
        forwarded: although it is a refusal that is expected.

    Raises:
        Differs: it is another answer.
    """
    _same("status", answered.status, 200 if forwarded else then.status)
    if answered.metadata and then.status < 500:
        _same("metadata code", answered.metadata["code"], str(then.code))
    if forwarded:
        if answered.metadata and then.rule:
            _same("would-deny", answered.headers["x-meshguard-would-deny"], then.rule)
        return
    if then.status >= 400:
        for name in ("code", "stage", "policy", "rule", "reason"):
            expected = getattr(then, name)
            if expected != "" and (name != "stage" or not answered.is_item):
                _same(name, answered.body.get(name), _filled(fill, expected))
    for key, expected in then.body.items():
        _same(f"body {key}", answered.body.get(key), _filled(fill, expected))
    for header, expected in then.headers.items():
        _same(f"header {header}", answered.headers.get(header.lower()), _filled(fill, expected))
    for header, expected in then.upstream.items():
        _same(f"upstream {header}", answered.upstream.get(header.lower()), expected)
    missing = {header.lower() for header in then.removed} - set(answered.removed)
    _same("not removed", missing, set())


def compare_row(expected: Mapping[str, Any], row: Mapping[str, Any], fill: Fill) -> None:
    """
    Raises:
        Differs: a column is another one.
    """
    for column, value in expected.items():
        if column == "metadata" and isinstance(value, dict):
            found = json.loads(row["metadata"] or "{}")
            for key, part in value.items():
                _same(f"row metadata {key}", found.get(key), _filled(fill, part))
        else:
            _same(f"row {column}", row[column], _filled(fill, value))


@contextlib.contextmanager
def _at(number: int, count: int) -> Iterator[None]:
    """Tells which of several calls it is."""
    try:
        yield
    except Differs as error:
        raise Differs(f"call {number}: {error}" if count > 1 else str(error)) from None


def _filled(fill: Fill, value: Any) -> Any:
    if isinstance(value, str):
        return fill(value)
    if isinstance(value, list):
        return [_filled(fill, part) for part in value]
    if isinstance(value, dict):
        return {key: _filled(fill, part) for key, part in value.items()}
    return value
