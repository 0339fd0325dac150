"""What docs/audit.md says of the chain, computed."""

import json
import re
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from authz.cli import app
from authz.core.audit import AuditRow
from authz.core.audit_chain import Link, anchor_message, canonical, head_message, row_hash
from authz.edges.http.ingest import LAST_HEADER, STATUSES
from authz.settings.described import described
from authz.stores.audit_schema import COLUMNS
from authz.stores.ingest.origins import ID_LENGTH
from authz.stores.ingest.tables import TABLES

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


def test_what_it_says_of_ingesting_is_so() -> None:
    [section] = re.findall(r"\n## Ingesting other.*?(?=\n## )", TEXT, re.DOTALL)
    named = set(re.findall(r"\b(?:AUDIT_[A-Z_]+)\b", section))
    assert named <= {row.name for row in described()}
    assert {row.name for row in described() if "INGEST" in row.name} <= named
    tables = {model._meta.table_name for model in TABLES}
    assert tables == set(re.findall(r"`(ingest_[a-z]+)`", section))
    statuses = {int(word) for cell in re.findall(r"^\| ([0-9, ]+) \|", section, re.MULTILINE)
                for word in cell.split(", ")}  # fmt: skip
    assert statuses == {400, 413, 415, *STATUSES.values()}
    assert LAST_HEADER in section.lower()
    assert f"{ID_LENGTH} digits" in section
    for options in re.findall(r"^    authz audit ([a-z]+) (.*)$", section, re.MULTILINE):
        said = CliRunner().invoke(app, ["audit", options[0], "--help"], env={"COLUMNS": "200"})
        for option in re.findall(r"--[a-z]+", options[1]):
            assert option in said.output, options
