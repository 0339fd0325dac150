"""No row of the contract is without a test."""

import importlib
from pathlib import Path

from tests.conformance import rows


def test_every_row_is_covered() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")
    assert [row for row in rows.ALL if row not in rows.COVERED] == []
