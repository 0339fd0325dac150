"""docs/api.md names every operation of the reference, and no other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from authz.edges.http.reference import OPENAPI

TEXT: Final = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
DOCUMENT: Final = json.loads(OPENAPI.read_text())
#: Described by one row, as what agents have.
ALIKE: Final = "/admin/relationships"


def there_are() -> set[str]:
    """Operations without the names of their parameters: `GET /admin/agents/{}`."""
    return {
        f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}"
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if not path.startswith(ALIKE)
    }


def told() -> Iterator[str]:
    """Those in the first cells of tables, and in the sentence about probes.

    `GET`, `PUT /a` are two methods of one path; a path alone has the method before it, and one that
    is no whole path is a neighbour of it.
    """
    roots = {path.split("/")[1] for path in DOCUMENT["paths"]}
    cells = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    for cell in [*cells, TEXT.partition("## For everybody")[2]]:
        methods, before, is_used = [""], "", False
        for said in re.findall(r"`([^`]+)`", cell):
            found = re.fullmatch(r"(?:([A-Z]+)\b ?)?(/.*)?", said)
            if found is None or said == ALIKE:
                continue
            method, path = found.groups()
            if method:
                methods = [method] if is_used else [*methods, method]
                is_used = False
            if path:
                known = path.split("/")[1] in roots
                before = path if known else before.rpartition("/")[0] + path
                is_used = True
                for one in filter(None, methods):
                    yield f"{one} {re.sub(r'{[^}]*}', '{}', before)}"


def test_every_operation_is_told_of_and_no_other() -> None:
    assert set(told()) == there_are()
    assert f"`{ALIKE}` | as `/relationships`" in TEXT
