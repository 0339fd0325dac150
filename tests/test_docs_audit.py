"""What docs/audit.md says of the chain, computed."""

import json
import re
from pathlib import Path
from typing import Final

from authz.core.audit import AuditRow
from authz.core.audit_chain import Link, anchor_message, canonical, head_message, row_hash
from authz.stores.audit_schema import COLUMNS

TEXT: Final = (Path(__file__).parents[1] / "docs/audit.md").read_text()
_BLOCKS: Final = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)
_HASHES: Final = [
    bytes.fromhex(said) for said in re.findall(r"^    ([0-9a-f]{64})$", TEXT, re.MULTILINE)
]


def test_its_example_is_computed_so() -> None:
    previous, digest = _HASHES
    seq, *row = json.loads(_BLOCKS[0])
    assert canonical(seq, AuditRow(*row)).decode() == _BLOCKS[0]
    assert row_hash(previous, _BLOCKS[0].encode()) == digest
    assert f"one line of {len(_BLOCKS[0])} bytes" in TEXT


def test_its_signed_bytes_are_those() -> None:
    previous, digest = _HASHES
    head, anchor = _BLOCKS[1].splitlines()
    assert head_message(Link(1, digest), json.loads(head)[3], False).decode() == head
    assert anchor_message(Link(0, previous), json.loads(anchor)[3], "genesis").decode() == anchor


def test_it_has_every_column_and_their_order() -> None:
    named = {
        name
        for row in re.findall(r"^\| (`[^|]*) \|", TEXT, re.MULTILINE)
        for name in row.split("`")
    }
    assert set(COLUMNS) <= named
    assert f"`{', '.join(COLUMNS[:-2])}`" in TEXT
