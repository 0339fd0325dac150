"""Tests in real containers. Where there are none, one test says so, and no other is collected.

REQUIRE_DOCKER=1 makes of that one skip a failure: CI sets it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.containers import engine

#: A build from nothing may happen in whichever test is the first; it has its own limit.
TIMEOUT_S: Final = engine.BUILD_S + 25

_HERE: Final = Path(__file__).parent
#: All but the one that says so.
_OTHERS: Final = [path.name for path in _HERE.glob("test_*.py") if path.name != "test_engine.py"]

collect_ignore = _OTHERS if engine.missing() else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def _clean() -> Iterator[None]:
    yield
    if not engine.missing():
        engine.remove_leftovers()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the image of these sources."""
    # The parent is what the workers of one session have in common.
    return engine.sidecar_image(tmp_path_factory.getbasetemp().parent / "image.lock")
