"""The package is the published one, and nothing of it is left out."""

import base64
import hashlib
import importlib
import importlib.metadata
import inspect
import tomllib
from pathlib import Path

import meshguard

from tests.sdk.surface import SURFACE, driven, found, parameters

ROOT = Path(__file__).parents[2]


def test_the_list_is_what_the_package_has() -> None:
    assert {name: parameters(name) for name in found()} == SURFACE
    assert set(meshguard.__all__) <= set(SURFACE)


def test_everything_is_driven_in_every_mode() -> None:
    by_name: dict[str, list[str]] = {name: [] for name in SURFACE}
    for path in Path(__file__).parent.glob("test_*.py"):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        for called, test in inspect.getmembers(module, inspect.isfunction):
            # A test that has a gateway is run with one in each mode.
            if called.startswith("test_") and "gateway" in inspect.signature(test).parameters:
                for name in driven(test):
                    by_name[name].append(called)
    assert [name for name, tests in by_name.items() if not tests] == []


def test_the_package_is_the_one_that_is_required_and_nobody_has_changed_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = importlib.metadata.distribution("meshguard")
    assert f"meshguard=={package.version}" in project["project"]["optional-dependencies"]["dev"]
    hashed = [file for file in package.files or () if file.suffix == ".py"]
    assert len(hashed) == 4
    for file in hashed:
        assert file.hash is not None
        digest = hashlib.new(file.hash.mode, file.read_binary()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value


def test_a_demo_is_what_make_run_starts() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [recipe] = [rule for rule in makefile.split("\n\n") if rule.startswith("run:")]
    assert recipe.splitlines()[1:] == ["\t@$(BIN)/authz run --demo"]
