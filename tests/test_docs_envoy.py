"""What docs/deploy.md says of Envoy: its variables, and the fields of the access log."""

import json
import re
from pathlib import Path

from authz.envoy_config.access_log import FIELDS, MAX_VALUE
from authz.settings import described

TEXT = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
SECTION = TEXT.partition("## Envoy in production\n")[2].partition("\n## ")[0]
#: Names in capitals that are no variables of ours.
OTHERS = {"DIR", "ECDSA", "PEM", "RSA", "HTTP", "TLS", "GET", "JSON"}


def test_every_variable_it_names_is_one() -> None:
    known = {row.name for row in described()}
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b(?!_?\*)", SECTION))
    assert {"TLS_CERT_FILE", "HTTP_TARGET", "ENVOY_ADMIN", "ACCESS_LOG"} <= named
    assert named <= known | OTHERS
    prefixes = set(re.findall(r"`([A-Z_]+_)\*`", SECTION))
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in known), prefix


def test_its_line_of_the_access_log_is_one() -> None:
    [sample] = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)
    line = json.loads(sample)
    assert line.keys() < FIELDS.keys()
    # What a line need not have, the text explains.
    for name in FIELDS.keys() - line.keys():
        assert f"`{name}`" in SECTION, name
    assert f"{MAX_VALUE:,} bytes" in SECTION
