"""docs/capture.md: its policy is one, and decides what the table beneath says."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from authz.core.identity import Identity, TokenVerifier
from authz.core.policy_file import parse_file
from authz.core.snapshot import Snapshot
from authz.settings import described
from tests import builders
from tests.builders import SECRET, MemoryRecorder
from tests.core.test_core_outward import asked, tunnel

TEXT: Final = (Path(__file__).parents[1] / "docs/capture.md").read_text()
TABLE: Final = re.findall(r"^([A-Z]+) (\S+) +(allow|deny) +(\S+)$", TEXT, re.MULTILINE)


def test_there_is_a_table() -> None:
    assert len(TABLE) == 11


@pytest.mark.parametrize(("method", "target", "decision", "action"), TABLE)
@pytest.mark.parametrize("via", ["forward", "capture"])
def test_the_policy_decides_as_it_says(
    method: str, target: str, decision: str, action: str, via: str
) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    parsed = parse_file(text.encode(), "outward.yaml")
    assert parsed.problems == ()
    recorder = MemoryRecorder()
    policies = Snapshot([placed.policy for placed in parsed.policies])
    gate = builders.gate(policies, recorder)
    resident = Identity("pod-agent", "", "verified", 2, frozenset(), "", 2)
    gate._tokens = TokenVerifier(SECRET, resident=resident)
    if method == "CONNECT":
        gate.check(tunnel(target, via=via))
    else:
        url = urlsplit(target)
        path = f"{url.path}?{url.query}" if url.query else url.path
        gate.check(asked(method, path, url.netloc, via=via))
    [row] = recorder.rows
    assert (row.decision, row.action) == (decision, action)


def test_each_variable_that_it_names_is_one() -> None:
    ours = {variable.name for variable in described()}
    named = set(re.findall(r"`((?:SIDECAR|FORWARD|CAPTURE|PROXY)_[A-Z_]+)`", TEXT))
    assert {"FORWARD_PROXY_PORT", "CAPTURE_PORT", "FORWARD_DENY_CIDRS"} <= named <= ours
