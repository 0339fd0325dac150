"""What docs/alerts.md says of alerts, computed and read by the code."""

import json
import re
from pathlib import Path
from typing import Final

from authz.core.alert import payload, read_payload, signature
from authz.core.alert_words import DEFAULT_ON, DESTINATIONS, GROUPS, MEANINGS, TRIGGERS
from authz.core.policy_file import parse_file
from authz.edges.alerts.delivering import FIRST_S, LONGEST_S
from authz.edges.alerts.destinations import _FINAL
from authz.edges.alerts.outgoing import TOTAL_S
from authz.settings import described
from authz.stores import alert_outbox

TEXT: Final = (Path(__file__).parents[1] / "docs/alerts.md").read_text()
SECRET: Final = "a webhook secret of the tests"


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first column is called so."""
    found = re.search(rf"^\| {heading} \|[^\n]*\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", TEXT, re.MULTILINE)
    assert found is not None
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


def test_it_names_every_trigger_and_says_what_it_means() -> None:
    rows = {row[0].strip("`"): row[1] for row in table("Trigger")}
    assert list(rows) == [*TRIGGERS, *GROUPS]
    assert {name: rows[name] for name in TRIGGERS} == dict(MEANINGS)
    assert f"`{','.join(DEFAULT_ON)}` where it is unset" in TEXT
    assert len(GROUPS["incident"]) == 6


def test_it_names_every_destination() -> None:
    assert [row[0].strip("`") for row in table("Name")] == list(DESTINATIONS)


def test_every_variable_that_it_names_exists() -> None:
    known = {one.name for one in described()}
    named = set(re.findall(r"\bALERT_[A-Z_]+\b", TEXT))
    assert named <= known
    # What is not told of here is told of nowhere else.
    files = {name for name in known if name.endswith("_FILE")}
    ours = {name for name in known if name.startswith("ALERT_")} - files
    assert ours - named == {
        "ALERT_SMTP_PORT", "ALERT_SENDGRID_API_KEY", "ALERT_INSTANCE_NAME", "ALERT_ENVIRONMENT",
    }  # fmt: skip


def test_its_documents_are_read() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    parsed = parse_file(block.encode(), "alerts.yaml")
    assert parsed.problems == ()
    assert [each.document.kind for each in parsed.chain] == ["AlertRoute", "AlertRoute"]


def test_its_example_is_signed_so() -> None:
    [block] = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)
    body = json.dumps(json.loads(block), separators=(",", ":")).encode()
    assert payload(read_payload(body)) == body
    assert f"\n    {signature(SECRET, body)}\n" in TEXT


def test_its_figures_are_those_of_the_code() -> None:
    assert f"{alert_outbox.MAX_WAITING}\n  deliveries or {alert_outbox.MAX_BYTES >> 20} MiB" in TEXT
    assert (TOTAL_S, FIRST_S, LONGEST_S) == (10, 2, 300)
    *most, last = map(str, _FINAL)
    assert f"{', '.join(most)} and {last} end it" in TEXT
