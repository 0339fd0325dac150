"""docs/seed.md names tests that exist, and defaults that are the settings'."""

import ast
import functools
import re
from pathlib import Path
from typing import Final

import pytest

from authz.settings import described

TESTS: Final = Path(__file__).parent
PAGE: Final = (TESTS.parent / "docs" / "seed.md").read_text()
_NAMED: Final = re.compile(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`")
_ROW: Final = re.compile(r"^\| (.+?) \| (.+) \|$", re.MULTILINE)
_VARIABLE: Final = re.compile(r"^\| ([A-Z_]+) \| (\S*) \|", re.MULTILINE)


@functools.cache
def _tests_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "test"), sorted(set(_NAMED.findall(PAGE))))
def test_what_is_named_exists(file: str, test: str) -> None:
    assert test in _tests_of(file)


def test_every_line_is_shown_by_something() -> None:
    rows = [
        (said, shown)
        for said, shown in _ROW.findall(PAGE)
        if not said.startswith("---") and said not in ("The seed says", "Variable")
    ]
    assert len(rows) > 50
    unshown = [
        said
        for said, shown in rows
        if not _NAMED.search(shown) and "python -m bench" not in shown and "the same" not in shown
    ]
    assert unshown == []


def test_the_defaults_are_the_seeds() -> None:
    defaults = {variable.name: variable.default for variable in described()}
    told = dict(_VARIABLE.findall(PAGE))
    assert len(told) == 13
    assert told == {name: defaults[name] for name in told}
